"""Temperatures of one's own follow frequency, and moving averages make small batches do (Qiu et al. 2023).

**Temperatures.** The training part of digits is thinned to a long tail, from 113 images of the most frequent digit down
to 6 of the rarest. After iSogCLR the temperatures of its images are correlated with the logarithm of their digit's
number of images. That alone would show little: a digit may have a large temperature because of what it looks like. So
the baseline is the same method on as many images with all digits equally frequent, correlated with the *same* numbers,
which there say which digit it is and nothing of its frequency. Since the arms hold different numbers of each digit,
every digit weighs the same in both correlations. Fixed temperatures, SogCLR's, have a correlation of 0 by definition.

**Accuracy on the long tail.** iSogCLR against NT-Xent on the thinned data, a linear probe on the projection; NT-Xent
has the temperature at which iSogCLR's begin. A difference of the size that the paper reports on large data is not
expected to be told apart here.

**Small batches.** SogCLR against NT-Xent at batches of 16, at one temperature.

Temperatures, step sizes and radius were fixed beforehand, from a sketch with other encoder and views, and not tuned.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from counterpoint.data import Splits, load, split
from counterpoint.evaluation import Evaluation
from counterpoint.experiments.claims import Claim, Setting
from counterpoint.files import atomic
from counterpoint.methods.vision.isogclr import ISogCLR

if TYPE_CHECKING:
    from counterpoint.experiments import Run

RAREST = 0.05  # of the most frequent digit's number
DIGITS = load("digits")
ORDER = np.random.default_rng(0).permutation(10)  # from the most frequent digit to the rarest


def _counts() -> np.ndarray:
    """Training images of each digit, falling exponentially from as many as all digits have."""
    assert DIGITS.labels is not None
    most = np.bincount(DIGITS.labels[split(DIGITS).train]).min()
    counts = np.empty(10, np.int64)
    counts[ORDER] = np.rint(most * RAREST ** (np.arange(10) / 9))
    return counts


COUNTS = _counts()


class Thinned(Splits):
    """The usual split of digits with so many training images of each digit."""

    __eq__ = object.__eq__  # a dataclass of arrays cannot be compared
    __hash__ = object.__hash__

    def to_config(self) -> dict[str, list[int]]:
        assert DIGITS.labels is not None
        return {"training images of each digit": np.bincount(DIGITS.labels[self.train]).tolist()}


def thinned(counts: np.ndarray) -> Thinned:
    """Keep the first of each digit, in an order drawn once."""
    whole = split(DIGITS)
    assert DIGITS.labels is not None
    drawn = np.random.default_rng(0).permutation(whole.train)
    kept = [drawn[DIGITS.labels[drawn] == digit][:count] for digit, count in enumerate(counts)]
    return Thinned(np.sort(np.concatenate(kept)), whole.val, whole.test)


LONG_TAIL, EVEN = thinned(COUNTS), thinned(np.full(10, np.ceil(COUNTS.mean()).astype(int)))


class Remembering(ISogCLR):
    """iSogCLR that keeps its temperatures, which a run leaves out."""

    def on_train_end(self) -> None:
        with atomic(Path(self.trainer.default_root_dir) / "temperatures.npz") as file:
            np.savez(file, tau=self.objective.state.tau.cpu().numpy())


def follow_frequency(run: Run) -> Evaluation:
    """Correlation of temperatures with the log of the digit's number of images in the long tail."""
    assert DIGITS.labels is not None
    train = Splits.load(run.folder / "splits.npz").train
    with np.load(run.folder / "temperatures.npz") as file:
        tau = file["tau"][train].astype(np.float64)
    digit = DIGITS.labels[train]
    weights = 1 / np.bincount(digit)[digit]
    covariance = np.cov(np.log(COUNTS)[digit], tau, aweights=weights)
    spread = np.sqrt(covariance[0, 0] * covariance[1, 1])
    scores = {
        "correlation": covariance[0, 1] / spread if spread > 0 else 0.0,
        "frequent": tau[np.isin(digit, ORDER[:3])].mean(),
        "rare": tau[np.isin(digit, ORDER[-3:])].mean(),
    }
    return Evaluation({name: float(value) for name, value in scores.items()})


TEMPERATURE = 0.3
INDIVIDUAL = {"temperature": TEMPERATURE, "rho": 0.5, "eta": 0.01, "beta": 0.5}
LONG: dict[str, Any] = {"encoder_options": {"widths": [16, 32, 64]}, "batch_size": 64, "epochs": 80}

CLAIM = Claim(
    paper=63,
    name="isogclr",
    title="temperatures of one's own follow frequency; moving averages make small batches do",
    statement=(
        "Learnt per item, temperatures are larger for frequent semantics than for rare ones; they help where data are "
        "imbalanced, and moving averages of the denominators make large batches unnecessary."
    ),
    source="Qiu et al. 2023, abstract and sections 5 and 6; Yuan et al. 2022 for small batches",
    settings=[
        Setting(
            name="temperatures",
            data="digits",
            metric="correlation",
            arms={"method": {"splits": LONG_TAIL}, "baseline": {"splits": EVEN}},
            shared={**LONG, "method": Remembering, "options": INDIVIDUAL, "score": follow_frequency},
            differs=("splits",),
            at_least=0.2,  # below, frequency would explain less than a twentieth of the differences
            notes=(
                "Both arms are iSogCLR on as many images; in the baseline's, all digits are equally frequent, and its "
                "temperatures are held against the frequencies of the method's, so that what a digit looks like "
                "cancels. Every digit weighs the same in a correlation"
            ),
        ),
        Setting(
            name="long-tail",
            data="digits",
            metric="probe",
            arms={
                "method": {"method": "isogclr", "options": INDIVIDUAL},
                "baseline": {"method": "simclr", "options": {"temperature": TEMPERATURE}},
            },
            shared={**LONG, "splits": LONG_TAIL, "layer": "projection"},
            differs=("method", "options"),
            notes=(
                "Trained, and its probe fitted, on the long tail; tested on digits as they are. The projection is "
                "scored, for on features all methods are alike. NT-Xent has the temperature at which iSogCLR's begin"
            ),
        ),
        Setting(
            name="batch-of-16",
            data="digits",
            metric="probe_10",
            arms={"method": {"method": "sogclr"}, "baseline": {"method": "simclr"}},
            shared={
                "encoder_options": {"widths": [16, 32, 64]},
                "options": {"temperature": 0.1},
                "batch_size": 16,
                "epochs": 15,
                "layer": "projection",
            },
            notes="Both at SogCLR's temperature, 0.1; the projection, with 10 labels a class, as all would saturate",
        ),
    ],
)
