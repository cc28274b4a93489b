"""Hallucinator (Wu, Hobbs, Hovakimyan, ICCV 2023) on MoCo: each query is doubled by one that a network invents."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from counterpoint.encoders import Encoder
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.vision._hallucinating import Hallucinating
from counterpoint.methods.vision.moco import MoCo


class HallucinatorMoCo(Hallucinating, MoCo):
    """MoCo of two queries for each key: the view's own, and one made from it, pushed away from the key.

    The paper's views are ``views="hallucinator"``.

    Args:
        encoder, views, recipe, temperature, momentum, queue_size, dim, head: as for
            :class:`~counterpoint.methods.vision.moco.MoCo`; version 1 is ``head="linear", temperature=0.07``.
        hidden, depth, ratio: of the generator, see :class:`~counterpoint.views.FeatureHallucinator`.
        hallucinate: ``False`` doubles the anchor itself, a control with the same arithmetic, whose loss is MoCo's.
        normalize_first: brings anchors and what they are pushed away from to length 1 before the generator sees them;
            the official code does not:
            its queries are raw, its keys of length 1.

    A key enters the queue once. In the official code, which hands it over twice, it takes two places, so that a queue
    of K holds K / 2 keys.

    Reference: arXiv 2307.12168.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        temperature: float = 0.2,
        momentum: float = 0.99,
        queue_size: int = 4096,
        dim: int = 128,
        head: str = "mlp",
        hidden: int | None = None,
        depth: int = 3,
        ratio: tuple[float, float] = (0.0, 0.1),
        hallucinate: bool = True,
        normalize_first: bool = False,
    ) -> None:
        super().__init__(encoder, views, recipe, temperature, momentum, queue_size, dim, head)
        self.make_generator(dim, hidden, depth, ratio, hallucinate, normalize_first)

    def contrast(self, queries: Tensor, keys: Tensor, batch: dict[str, Any]) -> Tensor:
        bank = self.queue()
        self.watch(queries, keys, bank)
        both = self.doubled(queries, keys)
        if self.generator is not None:
            self.watch(both[len(keys) :], keys, bank, stage="after")
        return self.objective(both, keys.repeat(2, 1), bank)
