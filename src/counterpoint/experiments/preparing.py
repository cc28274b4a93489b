"""From the arguments of a fit to what it trains on and with: data, splits, encoder, the method's parameters."""

from __future__ import annotations

import copy
import inspect
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterpoint.experiments.run import Run, read_json
from counterpoint.methods import get

if TYPE_CHECKING:
    import numpy as np

    from counterpoint.data import Dataset, Splits
    from counterpoint.encoders import Encoder
    from counterpoint.methods import Method

_READING = (
    *("labels", "target", "image", "text", "audio", "signal", "features", "modalities", "image_size"),
    *("root", "download", "limit", "max_corrupt"),
)
_STATISTICS_ITEMS = 10_000  # enough for a mean and a standard deviation to three digits


def load_data(data: Any, a: dict[str, Any]) -> tuple[Dataset, Splits, Dataset, np.ndarray]:
    """Data set, splits, the data set as the method sees it, and the positions to train on.

    With ``labels_per_class``, the other training labels are hidden from the method (-1), not from the evaluation.
    Training positions leave out items without a label, or without a target, for a method that can do nothing with them.
    """
    import numpy as np

    from counterpoint.data import Splits, load, split

    how = {name: a[name] for name in _READING if name in a}  # older runs know no target
    start = trained_folder(a.get("encoder", "auto"))
    dataset = load(data, **how) if start is None else _load_for(start, data, how)
    given = a.get("splits")
    if given is None:
        splits = split(dataset, seed=a["split_seed"], val=a["val"], test=a["test"])
    else:
        splits = given if isinstance(given, Splits) else Splits.load(given)
    kind, train = get(a["method"]), splits.train
    _check_modalities(kind, dataset, a)
    if kind.needs_labels and dataset.labels is None:
        raise ValueError(f"method: {a['method']!r} needs labels, and {dataset.name!r} has none; name them with labels")
    if kind.needs_target and dataset.targets is None:
        raise ValueError(
            f"method: {a['method']!r} needs a target, and {dataset.name!r} has none; name its column with target, or "
            "give target=label to take its labels as numbers"
        )
    if kind.needs_target and a.get("generated") is not None:
        raise ValueError(f"generated: generated items have no target, which {a['method']!r} needs")
    shown = dataset if a["labels_per_class"] is None else _hide_labels(dataset, splits, a)
    if kind.labelled_only and shown.labels is not None:
        train = train[shown.labels[train] >= 0]
    if kind.needs_target and dataset.targets is not None:
        train = train[~np.isnan(dataset.targets[train])]
    if getattr(kind, "paired", False):
        _check_pairs(dataset, train)
    return dataset, splits, shown, np.asarray(train)


def _check_modalities(kind: Any, dataset: Dataset, a: dict[str, Any]) -> None:
    """Whether the method takes as many modalities as the data have."""
    several = dataset.modality == "multimodal"
    takes = getattr(kind, "multimodal", False)
    if several and not takes:
        kinds = ", ".join(dataset.kinds)  # type: ignore[attr-defined]
        raise ValueError(f"method: {a['method']!r} takes one modality, and the data have {kinds}; try clip")
    if takes and not several and kind.least_modalities == 1:
        kind_of, column = dataset.modality, a.get("image") or a.get("features") or "COLUMN"
        asked = json.dumps({kind_of: f"{kind_of}:{column}"})
        raise ValueError(f"method: {a['method']!r} reads data by the names of modalities; give modalities={asked}")
    if takes and not several:
        raise ValueError(
            f"method: {a['method']!r} takes several modalities, and {dataset.name!r} has one; name its columns with "
            "image, text, audio, signal or modalities"
        )
    for name in ("encoders", "prompts"):
        if a.get(name) and not several:
            raise ValueError(f"{name}: the data have one modality; use encoder and encoder_options")
    if several and (a.get("encoder_options") or a.get("freeze") or a.get("generated") is not None):
        raise ValueError("encoder_options, freeze, generated: not for several modalities; see encoders")
    if several and a.get("encoder", "auto") != "auto" and trained_folder(a["encoder"]) is None:
        raise ValueError(f"encoder: {a['encoder']!r} is one encoder; name that of each modality in encoders")


def _check_pairs(dataset: Dataset, train: Any) -> None:
    """Whether there are items to train on that have two modalities or more."""
    import numpy as np

    keys = list(dataset.kinds)  # type: ignore[attr-defined]
    several = np.sum([dataset.present(key)[train] for key in keys], axis=0) > 1  # type: ignore[attr-defined]
    if len(keys) > 1 and several.sum() < 2:
        raise ValueError(
            f"modalities: {several.sum()} of the {len(train)} training items of {dataset.name!r} have more than one of "
            f"{', '.join(keys)}; what belongs together has to stand in one row"
        )


def views_for(dataset: Dataset, asked: Any) -> Any:
    """The views that the argument ``views`` means for the data."""
    from counterpoint.views import resolve, resolve_each

    if dataset.modality == "multimodal":
        return resolve_each(asked, dataset.kinds, dataset.shapes)  # type: ignore[attr-defined]
    return resolve(asked, modality=dataset.modality, shape=dataset.shape)


def trained_folder(encoder: Any) -> Path | None:
    """The folder of a trained encoder that the argument ``encoder`` of :func:`fit` names; ``None`` where it is a name.

    Raises:
        FileNotFoundError: a path where there is no encoder.
        ValueError: the folder of a run that is not finished.
    """
    if not isinstance(encoder, str | os.PathLike):
        raise ValueError(f"encoder: expected a name or the folder of a trained encoder, got {encoder!r}")
    folder, is_path = Path(encoder), os.sep in os.fspath(encoder)
    if not is_path and not any((folder / name).exists() for name in ("config.json", "config.yaml")):
        return None
    if (folder / "config.yaml").exists() and (state := Run(folder).state) != "finished":
        raise ValueError(
            f"encoder: the run in {folder} is {state}, not finished; go on with it with resume, or give "
            f"{folder / 'encoder'} to start from what there is"
        )
    if not any((folder / name).exists() for name in ("config.json", "encoder/config.json")):
        raise FileNotFoundError(f"encoder: no trained encoder in {folder}: expected the folder of a run or an encoder")
    return folder


def _load_for(start: Path, data: Any, how: dict[str, Any]) -> Dataset:
    """The data in the shape that a trained encoder takes."""
    from counterpoint.encoders import load
    from counterpoint.search.embedding import dataset_for

    encoder = load(start)
    if encoder.modality == "multimodal":
        return load_for_towers(encoder, data, how)
    if how["image_size"] is not None and (how["image_size"],) * 2 != encoder.shape[1:]:
        raise ValueError(f"image_size: the encoder takes {encoder.shape[1:]} and not {how['image_size']}; leave it out")
    return dataset_for(encoder, data, **how)


def load_for_towers(encoder: Any, data: Any, how: dict[str, Any], whole: bool = True) -> Dataset:
    """The data in the shapes that trained towers take; of all of them, or of some that the data have.

    Raises:
        ValueError: data that they do not take.
    """
    from counterpoint.data import Dataset, MultimodalDataset, load
    from counterpoint.data.multimodal import part_of
    from counterpoint.experiments.towers import check_towers

    sizes = {tuple(tower.encoder.shape) for tower in encoder.towers.values() if tower.kind == "image"}
    if len(sizes) == 1 and not isinstance(data, Dataset):
        ((channels, *height_width),) = sizes
        how = {**how, "image_size": tuple(height_width), "channels": channels}
    dataset = load(data, **how)
    if dataset.modality != "multimodal" and not whole:
        name = encoder.named(dataset.modality)
        dataset = MultimodalDataset(
            dataset.name, {name: part_of(name, dataset)}, ids=dataset.ids, labels=dataset.labels,
            classes=dataset.classes, given=dataset.given,
        )  # fmt: skip
    if dataset.modality != "multimodal":
        raise ValueError(f"encoder: it takes {', '.join(encoder.towers)}, and {dataset.name!r} has one modality")
    check_towers(encoder, dataset, whole)
    return dataset


def _hide_labels(dataset: Dataset, splits: Splits, a: dict[str, Any]) -> Dataset:
    import numpy as np

    from counterpoint.data import few

    if dataset.labels is None:
        raise ValueError("labels_per_class: the data have no labels")
    kept = splits.train[few(dataset.labels[splits.train], a["labels_per_class"], seed=a["seed"])]
    shown = copy.copy(dataset)
    shown.labels = np.full_like(dataset.labels, -1)
    shown.labels[kept] = dataset.labels[kept]
    return shown


def make_encoder(dataset: Dataset, train: np.ndarray, a: dict[str, Any]) -> Encoder:
    """The encoder that the arguments of :func:`fit` name.

    A new one standardises by the training data; a trained one goes on as it is, with the statistics it has.
    """
    import numpy as np
    import torch

    from counterpoint.encoders import build, load

    if dataset.modality == "multimodal":
        return _make_towers(dataset, train, a)
    name, options, start = a["encoder"], a["encoder_options"] or {}, trained_folder(a["encoder"])
    if start is not None:
        trained = load(start)
        if options not in ({}, {"pretrained": True}, {"pretrained": False}):
            raise ValueError(f"encoder_options: {start} has its own; only pretrained=false is possible, got {options}")
        if options.get("pretrained", True):
            return trained.train()
        name, options = trained.config["name"], trained.config["arguments"]
    some = np.sort(np.random.default_rng(0).permutation(train)[:_STATISTICS_ITEMS])
    x = dataset[some][dataset.modality]
    x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    std, mean = torch.std_mean(x, dim=(0, 2, 3) if dataset.modality == "image" else 0)
    if name == "auto":
        name = "convnet" if dataset.modality == "image" else "mlp"
    return build(name, dataset.shape, mean=mean, std=torch.nan_to_num(std, nan=1.0), **options)


def _make_towers(dataset: Any, train: np.ndarray, a: dict[str, Any]) -> Any:
    """Towers of several modalities: new ones, or those of a trained run."""
    from counterpoint.encoders import load
    from counterpoint.experiments.towers import make_towers

    start = trained_folder(a["encoder"])
    if start is None:
        return make_towers(dataset, train, a.get("encoders"))
    if a.get("encoders"):
        raise ValueError(f"encoders: {start} has its own towers; give encoder or encoders")
    return load(start).train()


def method_options(
    method: Any, options: dict[str, Any] | None, items: int, dataset: Dataset, train: np.ndarray | None = None
) -> tuple[Any, dict[str, Any]]:
    """The class of a method and its parameters: what depends on the data, then what the user says.

    Raises:
        ValueError: an option that the method does not have, with those it has.
    """
    kind = get(method)
    known = list(inspect.signature(kind).parameters)[3:]
    for name in options or {}:
        if name not in known:
            raise ValueError(f"options: {method} has no parameter {name!r}; it has {', '.join(known) or 'none'}")
    chosen = kind.defaults_for(items)
    if "classes" in known and dataset.classes is not None:
        chosen["classes"] = len(dataset.classes)
    if "items" in known:
        chosen["items"] = len(dataset)  # generated ones too: state per item is found by its index in the data set
    if kind.needs_target and train is not None and dataset.targets is not None:
        seen = dataset.targets[train]
        moments = {"center": float(seen.mean()), "scale": float(seen.std()) or 1.0}
        chosen |= {name: value for name, value in moments.items() if name in known}
    if train is not None:
        chosen |= kind.options_from(dataset, train, options or {})
    return kind, {**chosen, **(options or {})}


def take_head(method: Method, start: Path | None) -> None:
    """Give a method the head of the run that its encoder is of, if that is of a method that it ``continues``.

    Raises:
        ValueError: the head is of another size, or cannot be read.
    """
    if start is None or not (start / "head" / "config.json").exists():
        return
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if read_json(start / "head" / "config.json").get("method") in method.continues:
        try:
            method.projector.load_state_dict(load_file(start / "head" / "model.safetensors"))
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(f"encoder: the head of the run in {start} does not fit here: {error}") from error


def batch_size(wanted: int | None, items: int) -> int:
    """256 or all the items where nothing is asked for; what is asked for where the data suffice."""
    if wanted is None:
        return min(256, items)
    if wanted > items:
        raise ValueError(f"batch_size: {wanted} is larger than the {items} training items; take at most {items}")
    if wanted < 2:
        raise ValueError(f"batch_size: {wanted} leaves nothing to contrast with; take at least 2")
    return wanted
