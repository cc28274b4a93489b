"""Zero-shot classification of several data sets by one run, as papers report it: a row for each, and the mean."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterpoint.experiments.run import Run, read_yaml
from counterpoint.files import write_json

_OF_A_SET = (
    "data",
    "labels",
    "image",
    "audio",
    "signal",
    "features",
    "modalities",
    "classes",
    "prompts",
    "root",
    "limit",
)
SCORES = ("accuracy", "per_class", "top5")


@dataclass(frozen=True)
class ZeroShotTable:
    """What a run knows of several data sets by the names of their classes.

    Attributes:
        rows: a dict for each set: ``set``, its name; ``items`` and ``classes``, how many; ``chance``, one over the
            number of classes; ``accuracy`` with ``low`` and ``high`` of its 95 % interval over items; ``per_class``,
            the mean of the classes' accuracies; ``top5``, ``None`` for five classes or fewer.
        mean: of ``accuracy``, ``per_class`` and ``chance`` over the sets, each counting alike.
        path: of the JSON file that holds both.
    """

    rows: list[dict[str, Any]]
    mean: dict[str, float]
    path: Path


def zero_shot(
    run: str,
    sets: Any,
    out: str | None = None,
    *,
    prompts: list[str] | None = None,
    limit: int | None = None,
    batch_size: int = 512,
    device: str = "auto",
    download: bool = False,
    max_corrupt: float = 0.01,
) -> ZeroShotTable:
    """Classify data sets by the names of their classes alone, with a run that was trained on pairs.

    An item has the class whose sentences, the mean of their vectors, lie nearest. Of a set that comes with a test part
    that part is measured, of others all items: sets that the run was trained on do not belong here.

    Args:
        run: folder of a finished run with a tower of texts.
        sets: by name, what ``fit`` takes for data; or a mapping with ``data`` and, as needed, ``labels``, ``image``,
            ``audio``, ``signal``, ``features``, ``modalities``, ``root``, ``limit`` as for fit, ``prompts`` of its own,
            and ``classes``: names for its classes in their order, or instead of some of them: {"n02084071": "dog"}. On
            the command line also a YAML file of these.
        out: JSON file to write; default zero_shot.json in the folder of the run.
        prompts: sentences that name a class, with {} for its name, for sets without their own; default those of the
            run, or the name alone.
        limit: of each set use at most so many items, drawn evenly.
        batch_size: items that go through the encoder at a time.
        device: auto (a GPU where there is one), cpu, cuda, ...: torch's.
        download: allow fetching data from the hub.
        max_corrupt: share of unreadable images that is tolerated.

    Returns:
        a :class:`ZeroShotTable`.

    Raises:
        FileNotFoundError: no finished run there, or no such data.
        ValueError: no set, a set without labels or of another kind than the towers take, class names that do not match,
            a prompt without {}, or a run that was trained without contrast.

    Reference: Radford et al., ICML 2021, section 3.1; CLIP-rocket's tables are such means, over 13 sets.
    """
    from counterpoint.search.embedding import device_of

    asked = read_yaml(Path(sets)) if isinstance(sets, str | os.PathLike) else sets
    if not isinstance(asked, Mapping) or not asked:
        raise ValueError("sets: expected at least one data set by name, {'pets': 'pets/'}, or a YAML file of them")
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    specs = {str(name): _spec(str(name), value) for name, value in asked.items()}
    opened = Run(run)
    method: Any = opened.model().to(device_of(device))
    towers = getattr(getattr(method, "encoder", None), "towers", {})
    text = next((name for name, tower in towers.items() if tower.kind == "text"), None)
    if text is None or not getattr(method, "contrasts", True):
        raise ValueError(f"run: {run} was not trained to bring texts near to anything else")
    common = {"download": download, "max_corrupt": max_corrupt, "limit": limit, "image_size": None}
    chosen = prompts or opened.config.get("prompts")
    rows = [
        _row(method, text, name, spec, common, spec.get("prompts", chosen), batch_size) for name, spec in specs.items()
    ]
    mean = {name: sum(row[name] for row in rows) / len(rows) for name in ("accuracy", "per_class", "chance")}
    path = Path(out) if out else opened.folder / "zero_shot.json"
    write_json(path, {"run": os.fspath(run), "sets": rows, "mean": mean})
    return ZeroShotTable(rows, mean, path)


def _spec(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {"data": value}
    unknown = [key for key in value if key not in _OF_A_SET]
    if unknown or "data" not in value:
        what = f"got {unknown[0]!r}" if unknown else "and data is missing"
        raise ValueError(f"sets: {name!r} takes {', '.join(_OF_A_SET)}, {what}")
    return dict(value)


def _row(
    method: Any,
    text: str,
    name: str,
    spec: Mapping[str, Any],
    common: Mapping[str, Any],
    prompts: Sequence[str] | None,
    batch_size: int,
) -> dict[str, Any]:
    """What the table says of a set."""
    import numpy as np

    from counterpoint.evaluation import share_interval, zero_shot_scores
    from counterpoint.experiments.preparing import load_for_towers
    from counterpoint.experiments.towers import sentence_vectors

    how = {key: value for key, value in spec.items() if key not in ("data", "classes", "prompts")}
    dataset: Any = load_for_towers(method.encoder, spec["data"], {**common, **how}, whole=False)
    if dataset.labels is None or not dataset.classes:
        raise ValueError(f"sets: {name!r} has no labels; name their column with labels")
    seen = next((key for key in dataset.kinds if key in method.encoder.towers and key != text), None)
    if seen is None:
        raise ValueError(f"sets: {name!r} holds {', '.join(dataset.kinds)}, and the run has {', '.join(method.names)}")
    classes = _names(name, list(map(str, dataset.classes)), spec.get("classes"))
    judged = dataset.present(seen) & (dataset.labels >= 0)
    if dataset.given is not None and (dataset.given == "test").any():
        judged &= dataset.given == "test"
    found = zero_shot_scores(
        _vectors(method, dataset, seen, np.flatnonzero(judged), batch_size),
        dataset.labels[judged],
        sentence_vectors(method, text, classes, prompts),
    )
    low, high = share_interval(found.right)
    scores = {key: found.scores.get(key) for key in SCORES}
    about = {"set": name, "items": int(judged.sum()), "classes": len(classes), "chance": 1 / len(classes)}
    return {**about, **scores, "low": low, "high": high}


def _vectors(method: Any, dataset: Any, seen: str, indices: Any, batch_size: int) -> Any:
    import numpy as np
    import torch

    if not len(indices):
        raise ValueError(f"sets: no item of {dataset.name!r} has both {seen} and a label")
    parts = []
    with torch.inference_mode():
        for start in range(0, len(indices), batch_size):
            values = dataset[indices[start : start + batch_size]][seen].to(method.device)
            parts.append(method.embed({seen: values})[seen].float().cpu().numpy())
    return np.concatenate(parts)


def _names(name: str, own: list[str], wanted: Any) -> list[str]:
    """The names of the classes of a set, by which sentences call them."""
    if wanted is None:
        return own
    if isinstance(wanted, Mapping):
        unknown = [key for key in map(str, wanted) if key not in own]
        if unknown:
            raise ValueError(f"sets: {name!r} has no class {unknown[0]!r}; it has {', '.join(own[:8])}")
        told = {str(key): str(value) for key, value in wanted.items()}
        return [told.get(each, each) for each in own]
    if isinstance(wanted, str) or len(wanted) != len(own):
        raise ValueError(
            f"sets: {name!r} has the {len(own)} classes {', '.join(own[:8])}; classes names others or more"
        )
    return list(map(str, wanted))
