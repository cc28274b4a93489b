"""One question: what is most like this?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from counterpoint.search.answers import Hit, Query
from counterpoint.search.embedding import dataset_for, describe, item_of, tower_of, weights_digest, write_embeddings
from counterpoint.search.index import Index, build_index
from counterpoint.search.page import picture_file, picture_of, write_page
from counterpoint.search.store import Store

if TYPE_CHECKING:
    from counterpoint.data import Dataset
    from counterpoint.encoders import Encoder

_READING = (
    *("labels", "image", "text", "audio", "signal", "features", "modalities"),
    *("root", "download", "limit", "max_corrupt"),
)


def search(
    run: str,
    query: Any,
    *,
    data: Any = None,
    index: Any = None,
    k: int = 10,
    kind: str = "exact",
    out: str | None = None,
    labels: str | None = None,
    image: str | None = None,
    text: str | None = None,
    audio: str | None = None,
    signal: str | None = None,
    features: list[str] | None = None,
    modalities: dict[str, Any] | None = None,
    modality: str | None = None,
    root: str | None = None,
    download: bool = False,
    limit: int | None = None,
    max_corrupt: float = 0.01,
    batch_size: int = 512,
    progress: bool = True,
) -> list[Hit]:
    """Find the items that are most like a query, by the cosine similarity of a trained encoder's features.

    The data are embedded once, into ``search/`` in the run's folder, and again when they or the encoder have changed.

    Args:
        run: folder of a run, or of an encoder.
        query: an image file; a .npy file with one item, or with one embedding; the id of an item, or its number; with a
            run of several modalities, a text. An item of the data is left out of its own answers.
        data: where to look, as ``fit`` takes it; default the data of the run.
        index: look here instead: a Parquet file of embeddings, or the folder of a saved index.
        k: how many answers.
        kind: exact, ivf or hnsw.
        out: write a page with the answers, and for images their thumbnails, to this .html file.
        labels: column, key or file of the labels where the data do not say.
        image: column of images in a table.
        text, audio, signal: columns of a table, for a run of several modalities.
        features: columns of numbers in a table.
        modalities: more columns, as for fit.
        modality: which of several modalities to look in; default the first that is no text. What is asked may be of
            another one.
        root: where a data set named by a word lies on this machine.
        download: allow fetching the data from the hub.
        limit: use at most so many items, drawn evenly.
        max_corrupt: share of unreadable images that is tolerated.
        batch_size: items that go through the encoder at a time.
        progress: show a progress bar while embedding.

    Returns:
        at most ``k`` hits, the best first.

    Raises:
        FileNotFoundError: no such run, data or query.
        ValueError: a query that cannot be read or does not fit the encoder; embeddings made by another encoder; an
            argument that cannot be used.
    """
    from counterpoint.encoders import load

    if out is not None and Path(out).suffix not in (".html", ".htm"):
        raise ValueError(f"out: expected a file ending in .html, got {os.fspath(out)!r}")
    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}.")
    if data is not None and index is not None:
        raise ValueError("data, index: give one of them, the data to look in or what was made of them.")
    whole, dataset = load(run), None
    encoder = tower_of(whole, modality, _other_than_text(whole))
    if index is None:
        given = locals()
        source, options = _source(Path(run), data, {name: given[name] for name in _READING})
        dataset = dataset_for(encoder, source, **options)
        found = _kept(Path(run), encoder, source, dataset, kind, batch_size, progress)
    else:
        found = _opened(index, encoder, kind)
    asked = _read(query, encoder, dataset, found.store, whole)
    hits = _answer(found, asked, k)
    if out is not None:
        write_page(out, asked, hits, dataset, str(run))
    return hits


def _other_than_text(encoder: Any) -> str | None:
    """The first modality of several that is no text."""
    towers = getattr(encoder, "towers", {})
    return next((name for name, tower in towers.items() if tower.kind != "text"), None)


def _asking(whole: Any, kind: str, encoder: Any) -> Any:
    """The encoder for a query of a kind: of several modalities the first of that kind, else the only one."""
    towers = getattr(whole, "towers", {})
    name = next((name for name, tower in towers.items() if tower.kind == kind), None)
    return encoder if name is None else tower_of(whole, name)


def _source(run: Path, data: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The data to look in and how to read them: as given, or as the run was trained on."""
    if data is not None:
        return data, options
    config = run / "config.yaml"
    if not config.exists():
        raise ValueError(f"data: {run} is an encoder without a run around it; say with data where to look.")
    import yaml

    told = yaml.safe_load(config.read_text("utf-8")) or {}
    defaults = {"download": False, "max_corrupt": 0.01}
    chosen = {name: told.get(name) if value == defaults.get(name) else value for name, value in options.items()}
    source = told.get("data")
    if not isinstance(source, str) or source.startswith("<"):
        raise ValueError(f"data: the run in {run} was trained on arrays from Python; give them with data.")
    return source, {name: defaults.get(name) if value is None else value for name, value in chosen.items()}


def _kept(
    run: Path, encoder: Encoder, source: Any, dataset: Dataset, kind: str, batch_size: int, progress: bool
) -> Index:
    """The index over a data set, from what earlier searches left beside the run where that still holds."""
    folder = run / "search"
    part = f"-{encoder.name}" if hasattr(encoder, "name") else ""
    path = folder / f"{dataset.name.replace(os.sep, '-').lstrip('.') or 'data'}{part}.parquet"
    about = describe(encoder, source, dataset)
    store = _still(path, about["made_from"])
    if store is None:
        write_embeddings(path, dataset, encoder, about, batch_size=batch_size, progress=progress)
        store = Store(path)
    if kind == "exact":
        return build_index(store)  # reading it from a file of its own would take as long
    place = folder / f"{path.stem}.{kind}"
    try:
        return Index.load(place, path)
    except (FileNotFoundError, ValueError):
        index = build_index(store, kind)
        index.save(place)
        return index


def _still(path: Path, made_from: str) -> Store | None:
    """The stored embeddings, unless they are missing, damaged, or of other data or another encoder."""
    try:
        store = Store(path)
    except (FileNotFoundError, ValueError):
        return None
    return store if store.made_from == made_from else None


def _opened(index: Any, encoder: Encoder, kind: str) -> Index:
    """An index that the user names, if this encoder's features can be looked up in it."""
    if isinstance(index, Index):
        opened = index
    else:
        opened = Index.load(index) if Path(index).is_dir() else build_index(index, kind)
    weights = opened.store.about.get("weights")
    if opened.store.dimension != encoder.features or weights not in (None, weights_digest(encoder)):
        raise ValueError(f"index: {opened.store.path} holds the embeddings of another encoder than that of run.")
    return opened


def _answer(index: Index, asked: Query, k: int) -> list[Hit]:
    scores, rows = index.search(asked.vector, k if asked.row is None else k + 1)
    found = [(float(s), int(r)) for s, r in zip(scores[0], rows[0], strict=True) if r >= 0 and r != asked.row][:k]
    items = index.items([row for _, row in found])
    return [
        Hit(rank, score, item.row, item.id, item.path, item.label)
        for rank, ((score, _), item) in enumerate(zip(found, items, strict=True), start=1)
    ]


def _read(query: Any, encoder: Encoder, dataset: Dataset | None, store: Store, whole: Any) -> Query:
    """What the user asks for: a file, an item by id or number, an array, or a text."""
    if isinstance(query, np.ndarray | torch.Tensor):
        return _of_array(np.asarray(query), "array", encoder)
    if isinstance(query, str | os.PathLike):
        path = Path(query).expanduser()
        if path.is_file():
            if path.suffix == ".npy":
                return _of_npy(path, encoder)
            return _of_image(path, _asking(whole, "image", encoder))
    speaker = _asking(whole, "text", encoder)
    try:
        row = _row(query, store)
    except FileNotFoundError:
        if speaker.modality != "text":
            raise
        return Query(speaker.embed([os.fspath(query)])[0].cpu().numpy(), os.fspath(query))
    item = store.items([row])[0] if dataset is None else item_of(dataset, row)
    picture = picture_of(item, dataset)
    return Query(store.vectors([row])[0], item.id, row, item.label, picture)


def _row(query: Any, store: Store) -> int:
    """The row of an item named by its id or, where no id is that, by its number."""
    if isinstance(query, str | os.PathLike):
        row = store.find(os.fspath(query))
        if row is not None:
            return row
    try:
        number = int(query)
    except (TypeError, ValueError):
        first = store.items([0])[0].id
        raise FileNotFoundError(
            f"query: there is no file {os.fspath(query)!r} and no item of that id; ids look like {first!r}."
        ) from None
    if not 0 <= number < len(store):
        raise ValueError(f"query: there is no item {number}; items are numbered from 0 to {len(store) - 1}.")
    return number


def _of_image(path: Path, encoder: Encoder) -> Query:
    from counterpoint.data.images import decode

    if encoder.modality != "image":
        raise ValueError(f"query: {path} is no .npy file, and the encoder takes vectors of {encoder.shape[0]} numbers.")
    try:
        pixels = decode(str(path), encoder.shape[1:], encoder.shape[0])
    except Exception as error:  # a broken file makes Pillow raise nearly anything
        raise ValueError(f"query: {path} cannot be read as an image: {error}") from error
    return Query(_embedded(encoder, torch.from_numpy(np.array(pixels))), path.name, picture=picture_file(str(path)))


def _of_npy(path: Path, encoder: Encoder) -> Query:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"query: {path} cannot be read as an array of numbers: {error}") from error
    return _of_array(array, path.name, encoder)


def _of_array(array: np.ndarray, name: str, encoder: Encoder) -> Query:
    """An item (or a batch of one) in the encoder's own shape, or an embedding (D,); the first where both fit."""
    if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
        raise ValueError(f"query: expected finite numbers, got {array.dtype} in {name}.")
    array = array[0] if array.ndim > 1 and len(array) == 1 and array.shape != encoder.shape else array
    array = array[None] if array.shape == encoder.shape[1:] and encoder.shape[0] == 1 else array
    if array.shape == encoder.shape:
        item = torch.from_numpy(np.array(array if array.dtype == np.uint8 else array.astype(np.float32)))
        return Query(_embedded(encoder, item), name)
    if array.shape == (encoder.features,):
        return Query(array.astype(np.float32), name)
    raise ValueError(
        f"query: {name} has shape {array.shape}; expected {encoder.shape}, an item of the data, or "
        f"({encoder.features},), an embedding."
    )


def _embedded(encoder: Encoder, item: torch.Tensor) -> np.ndarray:
    """The embedding (D,) of one item."""
    vector: np.ndarray = encoder.embed(item[None])[0].numpy()
    return vector
