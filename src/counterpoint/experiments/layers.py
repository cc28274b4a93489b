"""Probe every layer of a finished run, before and after its projection head."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterpoint.experiments.run import Run
from counterpoint.files import write_json

if TYPE_CHECKING:
    import numpy as np

_SCORES = ("probe", "knn", "effective_rank")


@dataclass(frozen=True)
class Layers:
    """What the layers of a run are worth.

    Attributes:
        value: the content of ``layers.json``.
        page: where ``layers.html`` was written; ``None`` where it was not asked for.
    """

    value: dict[str, Any]
    page: Path | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A dict for each layer, in order: ``name``, ``part`` (backbone, features, head or projection),
        ``dimensions``; ``probe``, ``knn``, ``effective_rank`` on the test part; ``inequality`` and the ``weights`` of
        the classes; ``spectrum``. With labels missing, what needs them is ``None``.
        """
        return list(self.value["layers"])

    def __getitem__(self, name: str) -> dict[str, Any]:
        return {row["name"]: row for row in self.rows}[name]


def layers(
    run: str,
    *,
    labels: str | None = None,
    root: str | None = None,
    limit: int = 10_000,
    report: bool = True,
) -> Layers:
    """Probe every layer of a finished run, before and after its projection head.

    For each stage of the backbone, the features, each layer of the head and the projection: accuracy of a linear probe
    and of nearest neighbours, effective rank, singular spectrum, and how unequally the layer weights the classes. It
    shows what the head costs and what it protects the features from. Written into the folder of the run as layers.json
    and, for reading, layers.html.

    Args:
        run: folder of a finished run.
        labels: column of other labels to probe by, such as finer ones; default those of the run.
        root: where the data lie on this machine, if not where they lay.
        limit: of each part of the data (train, val, test) use at most so many items, drawn at random.
        report: write the page.

    Returns:
        a :class:`Layers`.

    Raises:
        FileNotFoundError: no finished run there, or its data are gone; for data from Python see :func:`measure`.
        ValueError: a run of a method that is not the package's own, too few items, or limit below 2.
    """
    return measure(Run(run), labels=labels, root=root, limit=limit, report=report)


def measure(
    run: Run,
    *,
    data: Any = None,
    method: Any = None,
    labels: str | None = None,
    root: str | None = None,
    limit: int = 10_000,
    report: bool = True,
) -> Layers:
    """:func:`layers` of an opened run.

    Args:
        run: a finished run.
        data: what it was fitted on, where that came from Python.
        method: the class of its method, where that is not one of the package's own.
        labels, root, limit, report: as for :func:`layers`.
    """
    import numpy as np

    from counterpoint.evaluation import Embeddings
    from counterpoint.experiments.preparing import load_data

    if limit < 2:
        raise ValueError(f"limit: expected at least 2, got {limit}")
    model = run.model(method)
    if getattr(model, "multimodal", False):
        raise ValueError(f"run: layers are probed of encoders of one modality, and {run.folder} has a tower for each")
    config = {**run.config, "method": "untrained", "splits": run.folder / "splits.npz", "labels_per_class": None}
    config |= {name: value for name, value in (("labels", labels), ("root", root)) if value is not None}
    dataset, splits, _, _ = load_data(config["data"] if data is None else data, config)
    draw = np.random.default_rng(0)
    parts: dict[str, dict[str, Embeddings]] = {}
    for part in ("train", "val", "test"):
        indices = getattr(splits, part)
        indices = np.sort(draw.permutation(indices)[:limit])
        known = None if dataset.labels is None else dataset.labels[indices]
        if len(indices) > 1:
            found = representations(model, dataset, indices)
            parts[part] = {name: Embeddings(x, known) for name, x in found.items()}
    if not {"train", "test"} <= set(parts):
        raise ValueError(f"run: {run.folder} has fewer than 2 items to train or to test on")
    value = {
        "run": run.folder.name,
        "method": run.config["method"],
        "data": dataset.name,
        "items": {part: len(next(iter(found.values()))) for part, found in parts.items()},
        "classes": dataset.classes,
        **_compared(parts, run.config["seed"]),
    }
    write_json(run.folder / "layers.json", value)
    page = run.folder / "layers.html" if report else None
    if page is not None:
        from counterpoint.web import write
        from counterpoint.web.layers import layers_page

        write(page, layers_page(value, run.config, run.environment, f"counterpoint layers {run.folder}"))
    return Layers(value, page)


def representations(model: Any, dataset: Any, indices: Any, batch: int = 512) -> dict[str, np.ndarray]:
    """Each layer's vectors (N, D) of items as they are, in evaluation mode, in the order in which they pass the layers.

    A last stage that is the features, and a last layer of the head that is the projection, appear as these; a model
    without a head has no projection.

    Args:
        model: a method, as :meth:`Run.model` gives it.
        dataset: what it embeds.
        indices: (N,) items.
        batch: items at a time.
    """
    import numpy as np
    import torch

    from counterpoint.encoders.layers import head_layers, recorded, stages

    backbone, head = stages(model.encoder.backbone), head_layers(model.projector)
    blocks: list[dict[str, np.ndarray]] = []
    model.eval()
    with recorded(backbone | head) as seen, torch.inference_mode():
        for start in range(0, len(indices), batch):
            x = dataset[indices[start : start + batch]][dataset.modality].to(model.device)
            h = model.encoder(x.float() / 255 if x.dtype == torch.uint8 else x)
            z = model.projector(h)
            found = {name: seen[name] for name in backbone if name in seen} | {"features": h}
            found |= {name: seen[name] for name in head if name in seen} | {"projection": z}
            blocks.append({name: x.float().cpu().numpy() for name, x in found.items()})
    whole = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    for before, end in pairwise(list(whole)):
        same = whole[before].shape == whole[end].shape and np.allclose(whole[before], whole[end], rtol=1e-4, atol=1e-6)
        if same and end in ("features", "projection"):
            del whole[end if before == "features" else before]
    return whole


def _compared(parts: dict[str, dict[str, Any]], seed: int) -> dict[str, Any]:
    """The rows, the difference that the head makes, and the notes."""
    from counterpoint.evaluation import difference, evaluate

    names = [name for name in parts["test"] if all(name in found for found in parts.values())]
    at = names.index("features")
    rows, items, told = [], {}, {}
    for i, name in enumerate(names):
        sets = {part: found[name] for part, found in parts.items()}
        found = evaluate(sets["train"], sets.get("val"), sets["test"], seed=seed, metrics=_SCORES)
        part = "backbone" if i < at else name if name in ("features", "projection") else "head"
        rows.append(_row(name, part, sets["test"], found))
        items[name], told[name] = found.items, found.notes
    same = [note for note in told[names[0]] if all(note in notes for notes in told.values())]
    own = [f"{name}: {note}" for name, notes in told.items() for note in notes if note not in same]
    value: dict[str, Any] = {"layers": rows, "notes": same + own, "difference": {}}
    for score in ("probe", "knn"):
        if "projection" in items and score in items["features"]:
            gap = difference(items["features"][score][None], items["projection"][score][None])
            value["difference"][score] = {"mean": gap.mean, "low": gap.low, "high": gap.high, "p": gap.p}
    return value


def _row(name: str, part: str, test: Any, found: Any) -> dict[str, Any]:
    import torch

    from counterpoint.evaluation.feature_weights import class_weights, inequality

    row: dict[str, Any] = {"name": name, "part": part, "dimensions": test.vectors.shape[1]}
    row |= {score: found.scores.get(score) for score in _SCORES}
    row |= {"inequality": None, "weights": None, "weighted": None}
    if len(test.classes) > 1:
        weights = class_weights(torch.from_numpy(test.vectors), torch.from_numpy(test.labels))
        row |= {"inequality": inequality(weights), "weights": weights.tolist(), "weighted": test.classes.tolist()}
    return {**row, "spectrum": found.arrays["spectrum"].tolist()}
