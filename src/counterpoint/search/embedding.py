"""Data to embeddings, in constant memory, on this machine or on a Ray cluster."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from counterpoint.search.store import GROUP_ROWS, Item, write

if TYPE_CHECKING:
    from counterpoint.data import Dataset
    from counterpoint.encoders import Encoder

_SAMPLE = 1000  # items whose content is part of the fingerprint where no file's time tells of a change
WHERE = ("local", "ray")


def embed(
    data: Any,
    run: str,
    out: str = "embeddings.parquet",
    *,
    batch_size: int = 512,
    normalize: bool = False,
    on: str = "local",
    workers: int | None = None,
    device: str = "auto",
    labels: str | None = None,
    image: str | None = None,
    text: str | None = None,
    audio: str | None = None,
    signal: str | None = None,
    features: list[str] | None = None,
    modalities: dict[str, Any] | None = None,
    modality: str | None = None,
    image_size: int | None = None,
    root: str | None = None,
    download: bool = False,
    limit: int | None = None,
    max_corrupt: float = 0.01,
    progress: bool = True,
    overwrite: bool = False,
) -> Path:
    """Turn data into vectors with a trained encoder, and write them as Parquet: id, path, label, vector.

    Images are brought to the size and the channels that the encoder was trained on.

    Args:
        data: what ``fit`` takes: a built-in name, a folder of images, a table, arrays, a Hugging Face data set.
        run: folder of a run, or of an encoder.
        out: Parquet file to write.
        batch_size: items that go through the encoder at a time.
        normalize: scale vectors to length 1. The index does so itself; a linear probe prefers them as they are.
        on: local, or ray: spread the work over a Ray cluster (its own, ``RAY_ADDRESS``, or one on this machine).
        workers: processes on the cluster; default one per processor, or per GPU where it has some.
        device: auto (a GPU where there is one), cpu, cuda, ...: torch's.
        labels: column, key or file of the labels where the data do not say.
        image: column of images in a table.
        text, audio, signal: columns of a table, for an encoder of several modalities.
        features: columns of numbers in a table.
        modalities: more columns, as for fit.
        modality: which of several modalities to embed, by its name; default the first that the data have. Items that
            lack it are left out.
        image_size: side of the images in pixels, where it should not be the encoder's own.
        root: where a data set named by a word lies on this machine.
        download: allow fetching the data from the hub.
        limit: use at most so many items, drawn evenly.
        max_corrupt: share of unreadable images that is tolerated.
        progress: show a progress bar.
        overwrite: replace ``out``.

    Returns:
        ``out``. It appears when it is whole; a killed run leaves nothing under its name.

    Raises:
        FileExistsError: ``out`` exists and ``overwrite`` is False.
        FileNotFoundError: no such data, or no encoder in ``run``.
        ValueError: an argument that cannot be used, or data that the encoder does not take.
        FolderInUse: another process is writing ``out``.
        ImportError: on="ray" without Ray.
    """
    target = Path(out)
    if target.suffix != ".parquet":
        raise ValueError(f"out: expected a file ending in .parquet, got {os.fspath(out)!r}")
    if target.exists() and not overwrite:
        raise FileExistsError(f"out: {target} exists already; replace it with overwrite, or name another")
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    if on not in WHERE:
        raise ValueError(f"on: expected one of {', '.join(WHERE)}, got {on!r}")
    if workers is not None and (workers < 1 or on == "local"):
        raise ValueError(f"workers: expected at least 1, and on='ray'; got {workers} with on={on!r}")
    from counterpoint.encoders import load as load_encoder

    options: dict[str, Any] = {
        "labels": labels, "image": image, "features": features, "image_size": image_size, "root": root,
        "download": download, "limit": limit, "max_corrupt": max_corrupt,
        "text": text, "audio": audio, "signal": signal, "modalities": modalities,
    }  # fmt: skip
    encoder = tower_of(load_encoder(run), modality)
    dataset = dataset_for(encoder, data, **options)
    about = describe(encoder, data, dataset)
    write_embeddings(
        target, dataset, encoder, about, batch_size=batch_size, normalize=normalize, on=on, workers=workers,
        device=device, progress=progress,
    )  # fmt: skip
    return target


def write_embeddings(
    target: Path,
    dataset: Dataset,
    encoder: Encoder,
    about: dict[str, Any],
    *,
    batch_size: int = 512,
    normalize: bool = False,
    on: str = "local",
    workers: int | None = None,
    device: str = "auto",
    progress: bool = True,
) -> None:
    """What :func:`embed` does once data and encoder are open; ``about`` is :func:`describe`'s."""
    group = -(-GROUP_ROWS // batch_size) * batch_size
    if on == "ray":
        from counterpoint.search.cluster import vectors_on_ray

        parts = vectors_on_ray(dataset, encoder, batch_size, group, workers, device)
    else:
        parts = vectors_here(dataset, encoder, batch_size, group, device)
    blocks = _blocks(dataset, parts, normalize)
    if progress:
        blocks = _shown(blocks, len(dataset), target.name)
    write(target, blocks, encoder.features, {**about, "normalized": normalize})


def tower_of(encoder: Any, modality: str | None, default: str | None = None) -> Any:
    """The encoder of one modality; of several, that of ``modality``, of ``default``, or of the first.

    Raises:
        ValueError: a modality that there is not, or one of an encoder that takes but one.
    """
    from counterpoint.encoders import MultimodalEncoder, TowerEncoder

    if isinstance(encoder, MultimodalEncoder):
        return TowerEncoder(encoder, modality or default or next(iter(encoder.towers)))
    if modality is not None:
        raise ValueError(f"modality: the encoder takes {encoder.modality}s alone; leave it out")
    return encoder


def items_of(dataset: Dataset, encoder: Any, rows: Any) -> Any:
    """Items of a data set as an encoder takes them, on its device."""
    batch = dataset[rows]
    x = batch[encoder.name if dataset.modality == "multimodal" else dataset.modality]
    return x.to(encoder.device) if isinstance(x, torch.Tensor) else x


def _of_several(encoder: Any, dataset: Any) -> Dataset:
    """The items that have the modality which the encoder takes; texts are their own names."""
    from counterpoint.data import Names
    from counterpoint.data.multimodal import as_taken

    if not hasattr(encoder, "name") or encoder.name not in dataset.kinds:
        named = getattr(encoder, "name", encoder.modality)
        raise ValueError(f"data: {dataset.name!r} holds {', '.join(dataset.kinds)}, and {named!r} is wanted")
    kind, shape = as_taken(dataset.kinds[encoder.name], dataset.shapes[encoder.name])
    if (kind, shape) != (encoder.modality, encoder.shape):
        raise ValueError(
            f"data: {encoder.name!r} holds {_called(kind, shape)}, and the encoder takes "
            f"{_called(encoder.modality, encoder.shape)}."
        )
    found = dataset.subset(dataset.present(encoder.name))
    if kind == "text":
        found.ids = Names.of(found.texts(encoder.name))
    return found  # type: ignore[no-any-return]


def dataset_for(encoder: Encoder, data: Any, *, image_size: int | None = None, **options: Any) -> Dataset:
    """Load data in the shape that an encoder takes.

    Raises:
        ValueError: images for an encoder of vectors or the reverse, another number of channels or of features, or an
            image size that the encoder cannot work at.
    """
    from counterpoint.data import load

    height_width = tuple(encoder.shape[1:]) if image_size is None else (image_size, image_size)
    shape = (encoder.shape[0], *height_width) if encoder.modality == "image" else encoder.shape
    if encoder.modality == "image":
        options |= {"image_size": height_width, "channels": encoder.shape[0]}
    dataset = load(data, **options)
    if dataset.modality == "multimodal":
        return _of_several(encoder, dataset)
    if dataset.modality != encoder.modality or dataset.shape != shape:
        raise ValueError(
            f"data: {dataset.name!r} holds {_called(dataset.modality, dataset.shape)}, and the encoder takes "
            f"{_called(encoder.modality, shape)}."
        )
    if shape != encoder.shape:
        try:
            encoder.embed(torch.zeros(1, *shape))
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"image_size: the encoder was trained at {encoder.shape[1]} x {encoder.shape[2]} pixels and does not "
                f"take {image_size}: {str(error).splitlines()[0]}"
            ) from error
    return dataset


def _called(modality: str, shape: tuple[int, ...]) -> str:
    return f"{modality}s of {' x '.join(map(str, shape))}"


def vectors_here(
    dataset: Dataset, encoder: Encoder, batch_size: int, group: int, device: str = "auto"
) -> Iterator[np.ndarray]:
    """Features of all items in order, in float32 blocks of ``group`` rows."""
    encoder = encoder.to(device_of(device)).eval()
    for start in range(0, len(dataset), group):
        yield vectors_of(dataset, encoder, batch_size, start, min(start + group, len(dataset)))


def vectors_of(dataset: Dataset, encoder: Encoder, batch_size: int, start: int, stop: int) -> np.ndarray:
    """Features (stop - start, D) float32 of the items from ``start`` to ``stop``.

    Raises:
        ValueError: the encoder gives NaN or Inf.
    """
    parts = []
    for at in range(start, stop, batch_size):
        x = items_of(dataset, encoder, slice(at, min(at + batch_size, stop)))
        parts.append(encoder.embed(x, batch_size).cpu().numpy())
    vectors = np.concatenate(parts)
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        item = start + int(np.flatnonzero(bad)[0])
        raise ValueError(f"run: the encoder gives NaN or Inf, first for item {dataset.ids[item]!r}. Was it trained?")
    return vectors


def device_of(name: str) -> torch.device:
    """The device of that name; auto is a GPU where there is one.

    Raises:
        ValueError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: {name!r} is not there: {str(error).splitlines()[0]}") from error


def _blocks(dataset: Dataset, parts: Iterator[np.ndarray], normalize: bool) -> Iterator[tuple[list[Item], np.ndarray]]:
    start = 0
    for vectors in parts:
        items = [item_of(dataset, i) for i in range(start, start + len(vectors))]
        yield items, unit(vectors) if normalize else vectors
        start += len(vectors)


def item_of(dataset: Dataset, i: int) -> Item:
    """Id, path and name of the class of item ``i``; a file name that is not UTF-8 has its odd bytes escaped."""
    label = -1 if dataset.labels is None else int(dataset.labels[i])
    path = dataset.path(i)
    name = None if label < 0 else (str(label) if dataset.classes is None else dataset.classes[label])
    return Item(i, _text(dataset.ids[i]), None if path is None else _text(path), name)


def _text(name: str | Path) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; a row of zeros, which has no direction, stays and has similarity 0 to everything."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def describe(encoder: Encoder, data: Any, dataset: Dataset) -> dict[str, Any]:
    """What to record of the embeddings: the encoder, the data, and digests that change when these do."""
    weights, content = weights_digest(encoder), data_digest(data, dataset, encoder)
    return {
        "format": 1,
        "encoder": encoder.config,
        "weights": weights,
        "data": dataset.name,
        "shape": list(dataset.shape),
        "rows": len(dataset),
        "skipped": len(dataset.skipped),
        "dimension": encoder.features,
        "made_from": f"{weights}-{content}",
    }


def weights_digest(encoder: Encoder) -> str:
    """A digest of an encoder's weights and statistics."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def data_digest(data: Any, dataset: Dataset, encoder: Any) -> str:
    """A digest of what was embedded: shape, names, labels, and size and time of the files.

    Where ``data`` is no path, the content of a thousand items spread evenly stands for that of all.
    """
    digest = hashlib.blake2b(repr((dataset.shape, len(dataset))).encode(), digest_size=16)
    for name in dataset.ids:
        digest.update(os.fsencode(name) + b"\0")
    if dataset.labels is not None:
        digest.update(np.ascontiguousarray(dataset.labels).data)
        digest.update(repr(dataset.classes).encode())
    path = Path(data).expanduser() if isinstance(data, str | os.PathLike) else None
    if path is not None and path.exists():
        for file in [path, *sorted(path.rglob("*"))] if path.is_dir() else [path]:
            if file.is_file():
                status = file.stat()
                digest.update(os.fsencode(file) + f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    else:
        some = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), _SAMPLE)).astype(np.int64))
        x = items_of(dataset, encoder, some)
        digest.update(x.cpu().contiguous().numpy().data if isinstance(x, torch.Tensor) else repr(x).encode())
    return digest.hexdigest()


def _shown(
    blocks: Iterator[tuple[list[Item], np.ndarray]], total: int, title: str
) -> Iterator[tuple[list[Item], np.ndarray]]:
    """The same blocks, with a progress bar on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        for items, vectors in blocks:
            yield items, vectors
            bar.advance(task, len(items))
