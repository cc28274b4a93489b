"""The test of pairs with a run: does each of two statements pick its own of two images that differ in a detail?"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterpoint.files import write_json

if TYPE_CHECKING:
    import numpy as np

    from counterpoint.evaluation import PairAccuracy

_BATCH = 512
_SHOWN = 24  # pairs on the page


@dataclass(frozen=True)
class Pairs:
    """What a test of pairs found.

    Attributes:
        accuracy: scores, margins and categories.
        names: of the pairs, in the order of the margins.
        notes: what was left out.
        page: where ``pairs.html`` was written; ``None`` where it was not asked for.
    """

    accuracy: PairAccuracy
    names: list[str]
    notes: list[str]
    page: Path | None = None


def pairs(
    data: Any,
    run: str,
    out: str | None = None,
    *,
    pair: str = "pair",
    category: str | None = None,
    image: str | None = None,
    text: str | None = None,
    root: str | None = None,
    max_corrupt: float = 0.01,
    device: str = "auto",
    report: bool = True,
    overwrite: bool = False,
) -> Pairs:
    """Test a run on pairs of images that differ in a detail, as the MMVP-VLM benchmark does.

    A table with a row for each image: the image, a statement that is true of it and not of its partner, and the name of
    the pair, which two rows share. A pair counts where both statements are nearer to their own image than to the other;
    guessing gets one of four. Written as pairs.json and, for looking, pairs.html.

    Args:
        data: the table.
        run: folder of a run with a tower of images and one of texts, or of such an encoder.
        out: folder to write into; by default that of the run.
        pair: column with the name of the pair.
        category: column with what the images of a pair differ in, to score each by itself.
        image: column of the images; by default that of the run.
        text: column of the statements; by default that of the run.
        root: where a data set named by a word lies on this machine.
        max_corrupt: share of unreadable images that is tolerated; their pairs are left out.
        device: auto (a GPU where there is one), cpu, cuda, ...: torch's.
        report: write the page.
        overwrite: replace what an earlier test left in ``out``.

    Returns:
        a :class:`Pairs`.

    Raises:
        FileExistsError: ``out`` holds a test already and ``overwrite`` is False.
        FileNotFoundError: no such data, or no encoder in ``run``.
        ValueError: no tower of images or of texts, a column that there is not, no two rows that share a name, or a name
            that more than two rows have.

    Reference: MMVP (arXiv 2401.06209); MCL (arXiv 2402.11816).
    """
    import numpy as np

    from counterpoint.encoders import MultimodalEncoder, load
    from counterpoint.evaluation import pair_accuracy
    from counterpoint.experiments.preparing import load_for_towers
    from counterpoint.experiments.run import Run
    from counterpoint.search.embedding import device_of

    encoder = load(run)
    if not isinstance(encoder, MultimodalEncoder):
        raise ValueError(f"run: {run} has an encoder of one modality; the test needs images and texts")
    names = encoder.named("image"), encoder.named("text")
    folder = Path(run if out is None else out)
    written = [folder / "pairs.json", *([folder / "pairs.html"] if report else [])]
    if not overwrite and any(path.exists() for path in written):
        raise FileExistsError(
            f"out: {folder} holds a test of pairs already; replace it with overwrite, or name another"
        )
    opened = Run(run) if (Path(run) / "config.yaml").exists() else None
    how: dict[str, Any] = {"root": root, "max_corrupt": max_corrupt, "image_size": None, "modalities": None}
    columns = {"image": image, "text": text}
    if opened is not None and not any(columns.values()):
        columns = {name: opened.config.get(name) for name in ("image", "text")}
        how["modalities"] = opened.config.get("modalities")
    read = [
        load_for_towers(encoder.to(device_of(device)), data, {**how, **columns, "labels": labels}, whole=False)
        for labels in (pair, *([] if category is None else [category]))
    ]
    places, notes = _places(read[0], names)
    images, statements = _vectors(encoder, read[0], places, names)
    kinds = None
    if category is not None:
        told: Any = read[1]
        kinds = [told.classes[label] if label >= 0 else "" for label in told.labels[places[:, 0]]]
    found = pair_accuracy(images, statements, kinds)
    classes: Any = read[0].classes
    titles = [str(classes[label]) for label in read[0].labels[places[:, 0]]]  # type: ignore[index]
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"pair": title, "right": bool(right), "margins": margins.tolist()}
        | ({} if kinds is None else {"category": kinds[at]})
        for at, (title, right, margins) in enumerate(zip(titles, found.right, found.margins, strict=True))
    ]
    about = {"run": Path(run).name, "data": read[0].name, "scores": found.scores, "interval": [found.low, found.high]}
    value = {**about, "notes": notes}
    write_json(written[0], {**value, "pairs": rows})
    if report:
        from counterpoint.web import write
        from counterpoint.web.pairs import pairs_page

        shown = _examples(found)
        pictures = np.stack([read[0][places[shown, k]][names[0]].permute(0, 2, 3, 1).numpy() for k in (0, 1)], 1)
        texts = [read[0].subset(places[shown, k]).texts(names[1]) for k in (0, 1)]  # type: ignore[attr-defined]
        told = {"out": out, "pair": pair, "category": category, "image": image, "text": text, "root": root}
        asked = [f"--{name} {shlex.quote(value)}" for name, value in told.items() if value is not None]
        command = " ".join(["counterpoint pairs", shlex.quote(str(data)), shlex.quote(str(run)), *asked])
        page = pairs_page(value, rows, shown.tolist(), pictures, list(zip(*texts, strict=True)), command)
        write(written[1], page)
    return Pairs(found, titles, notes, written[1] if report else None)


def _places(dataset: Any, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Positions (P, 2) of the rows of each pair, in order, and what was left out."""
    import numpy as np

    if dataset.labels is None:
        raise ValueError("pair: name the column that two rows of a pair share")
    there = np.logical_and.reduce([dataset.present(name) for name in names]) & (dataset.labels >= 0)
    counts = np.bincount(dataset.labels[dataset.labels >= 0], minlength=len(dataset.classes))
    if counts.max(initial=0) > 2:
        name = dataset.classes[int(counts.argmax())]
        raise ValueError(f"pair: expected two rows of each name, got {counts.max()} of {name!r}")
    whole = np.bincount(dataset.labels[there], minlength=len(dataset.classes)) == 2
    rows = np.flatnonzero(there & whole[dataset.labels])
    if not len(rows):
        raise ValueError("pair: no two rows share a name and have both image and text")
    left = int((~whole).sum())
    order = rows[np.argsort(dataset.labels[rows], kind="stable")]
    notes = [f"{left} of {len(whole)} pairs are left out: an image or a text of theirs is missing."] if left else []
    return order.reshape(-1, 2), notes


def _vectors(encoder: Any, dataset: Any, places: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(P, 2, D) each, of the images and of the texts."""
    import numpy as np

    from counterpoint.encoders import TowerEncoder
    from counterpoint.search.embedding import items_of

    found = []
    for name in names:
        tower = TowerEncoder(encoder, name)
        flat = places.reshape(-1)
        parts = [tower.embed(items_of(dataset, tower, flat[at : at + _BATCH])) for at in range(0, len(flat), _BATCH)]
        found.append(np.concatenate([part.cpu().numpy() for part in parts]).reshape(*places.shape, -1))
    return found[0], found[1]


def _examples(found: PairAccuracy) -> np.ndarray:
    """The pairs that failed most clearly, and as many that did not, of up to :data:`_SHOWN`."""
    import numpy as np

    order = np.argsort(found.margins.min(1), kind="stable")
    some = order if len(order) <= _SHOWN else np.concatenate([order[: _SHOWN // 2], order[-_SHOWN // 2 :]])
    return some
