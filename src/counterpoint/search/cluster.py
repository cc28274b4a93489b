"""The same embeddings from many machines: slices of rows over a Ray cluster, put together in order.

Every worker holds the encoder and opens the data; the driver asks each for one slice at a time, takes the answers in
the order of the rows, and so never holds more slices than there are workers. Data on disk (for images, the cache of
decoded ones: ``$XDG_CACHE_HOME``) must lie under the same path on every machine; the result is written by the driver.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from counterpoint.data import Dataset
    from counterpoint.encoders import Encoder


class _Worker:
    """Lives in a process of the cluster and embeds slices."""

    def __init__(self, dataset: Dataset, encoder: Encoder, batch_size: int, device: str) -> None:
        from counterpoint.search.embedding import device_of

        self.dataset, self.encoder, self.batch_size = dataset, encoder.to(device_of(device)).eval(), batch_size

    def embed(self, start: int, stop: int) -> np.ndarray:
        from counterpoint.search.embedding import vectors_of

        return vectors_of(self.dataset, self.encoder, self.batch_size, start, stop)


def vectors_on_ray(
    dataset: Dataset, encoder: Encoder, batch_size: int, group: int, workers: int | None, device: str
) -> Iterator[np.ndarray]:
    """What :func:`~counterpoint.search.embedding.vectors_here` gives, computed by a Ray cluster.

    The batches are the same, so the vectors are too, up to the rounding of another processor or number of threads.

    Raises:
        ImportError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("on: 'ray' needs Ray: pip install 'counterpoint[ray]'") from error
    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    try:
        yield from _in_order(ray, dataset, encoder, batch_size, group, workers, device)
    finally:
        if ours:
            ray.shutdown()


def _in_order(
    ray: Any, dataset: Dataset, encoder: Encoder, batch_size: int, group: int, workers: int | None, device: str
) -> Iterator[np.ndarray]:
    from ray.util import ActorPool

    slices = [(start, min(start + group, len(dataset))) for start in range(0, len(dataset), group)]
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0)) if device != "cpu" else 0
    count = min(len(slices), workers or gpus or int(resources.get("CPU", 1)))
    held = ray.put(dataset), ray.put(encoder.cpu())
    kind = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0)(_Worker)
    actors = [kind.remote(*held, batch_size, device) for _ in range(count)]
    try:
        # map hands an actor its next slice when the one before has been taken: as many slices at a time as actors
        yield from ActorPool(actors).map(lambda actor, part: actor.embed.remote(*part), slices)
    except ray.exceptions.RayTaskError as error:
        raise error.as_instanceof_cause() from None
    finally:
        for actor in actors:
            ray.kill(actor)
