"""What ``fit --generated`` does before it trains: open the generated items, or make them first."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from counterpoint.data import InflatedDataset, Splits, open_generated
from counterpoint.data.inflation import NOTE
from counterpoint.experiments.fit import rank
from counterpoint.experiments.run import read_json
from counterpoint.findings import Pictures
from counterpoint.generators import names
from counterpoint.methods import get

if TYPE_CHECKING:
    from counterpoint.data import Dataset

_SHOWN, _ACROSS = 20, 10
EACH = 20  # generated items for each real one: the paper's million for 50,000


def inflate(
    shown: Dataset,
    splits: Splits,
    train: np.ndarray,
    folder: Path,
    a: dict[str, Any],
    note: Callable[[str], None],
) -> tuple[Dataset, np.ndarray]:
    """The data that a fit trains on, real and generated, and the positions that an epoch draws.

    Args:
        shown: the real data as the method sees them.
        splits: of the real data.
        train: positions to train on.
        folder: of the run; what is made for it lies in ``generated/``.
        a: the arguments of fit.
        note: takes a sentence for the run's page.

    Raises:
        ValueError: generated items that do not fit the real ones, or parameters that the generator does not have.
    """
    kind = get(a["method"])
    if kind.labelled_only or not kind.learns:
        note("the generated items have no labels, and this method does not use them")
        return shown, train
    source = a["generated"]
    wanted = _wanted(source)
    if wanted is not None:
        source = _make(shown, splits, len(train), folder / "generated", *wanted, a)
    generated = open_generated(source, shown, max_corrupt=a["max_corrupt"])
    whole = InflatedDataset(shown, generated, a["real_repeats"], train)
    if isinstance(source, str | os.PathLike) and wanted is None:
        _warn_of_leaks(Path(source), shown, splits, note)
    return whole, whole.order


def summary(whole: InflatedDataset) -> dict[str, Any]:
    """What of the data is real, for the run's status."""
    counts = {"real": len(whole.train), "generated": whole.n_generated, "real_repeats": whole.real_repeats}
    return {**counts, "beta": whole.beta}


def pictures(whole: InflatedDataset) -> list[Pictures]:
    """A few generated images for the page of the run."""
    if whole.modality != "image":
        return []
    some = np.flatnonzero(whole.is_generated)[:_SHOWN]
    shown = np.stack([whole.thumbnail(i) for i in some])
    columns = min(_ACROSS, len(shown))
    text = (
        f"The first of {whole.n_generated:,} generated images, as they were read. An epoch draws each of them once and "
        f"each of {len(whole.train):,} real ones {whole.real_repeats} times: {whole.beta:.0%} of what is drawn is real."
    )
    rows = shown[: len(shown) // columns * columns].reshape(-1, columns, *shown.shape[1:])
    return [Pictures("Generated images", text, rows)]


def _wanted(source: Any) -> tuple[str, dict[str, Any]] | None:
    """The generator that is asked for by name, and its parameters; None where the items are there already."""
    if isinstance(source, str) and source in names() and not Path(source).exists():
        return source, {}
    if isinstance(source, Mapping):
        if len(source) != 1 or next(iter(source)) not in names():
            raise ValueError(f"generated: expected {{NAME: parameters}} with a name of {names()}, got {dict(source)}")
        [(name, parameters)] = source.items()
        return name, dict(parameters or {})
    return None


def _make(
    shown: Dataset, splits: Splits, items: int, folder: Path, name: str, options: dict[str, Any], a: dict[str, Any]
) -> Path:
    """Train a generator on the run's training part; of several processes of one training, the first does it."""
    if rank() != 0:
        while not (folder / NOTE).exists():
            time.sleep(0.1)
        return folder
    from counterpoint.experiments.generate import generate

    shared = {key: a[key] for key in ("seed", "precision", "accelerator", "threads", "checkpoint_seconds")}
    count = options.pop("count", EACH * items)
    generate(
        shown, name, count=count, options=options, out=os.fspath(folder), splits=splits,
        resume=folder.exists(), progress=bool(a["progress"]) and not callable(a["progress"]), **shared,
    )  # fmt: skip
    return folder


def _warn_of_leaks(folder: Path, shown: Dataset, splits: Splits, note: Callable[[str], None]) -> None:
    """Say so where the generator has seen what this run is measured on."""
    about = read_json(folder / NOTE)
    if not about or (about["data"], about["data_items"]) != (shown.name, len(shown)):
        return
    seen = Splits.load(folder / "splits.npz").train
    leaked = len(np.intersect1d(seen, np.concatenate([splits.val, splits.test])))
    if leaked:
        note(
            f"the generator was trained on {leaked:,} of the items that this run is measured on; "
            "generate with the same val, test and split_seed"
        )
