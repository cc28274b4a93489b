"""AdaInf: generated images help if real ones keep their weight and views are weak (Wang, Zhang & Wang, ICLR 2024).

*interaction* is the paper's centre: inflation and augmentation are complementary. Weak views (the paper's ``adainf``)
against standard ones (its ``symmetric``) are worth so much to accuracy; the method is what they are worth with
generated images, the baseline what they are worth without. A positive difference says that the more data, the weaker
the views should be; whether weak views are better in either case is not asked.

*replication*: with a poor generator, one Gaussian for all digits, real images ten times an epoch against once.

*adainf* and *cifar10*: weak views and real images ten times (AdaInf) against standard views and once (vanilla
inflation), the same generated images in both.

*plain*: AdaInf against no generated images and standard views. It fails where AdaInf loses more than a point of
accuracy.

All arms train SimCLR with the paper's head and temperature for the same number of steps, whatever the length of an
epoch. The generator is a mixture of Gaussians in the space of the principal components, fitted to the training part
alone: the paper's diffusion models are far better, but take hours. There are 20 generated images for a real one, as in
the paper. Few images are real: 269 digits, 500 of CIFAR-10. On digits of 8 pixels crops and flips are out of the
question; there the standard views are turns, shifts and noise, and the weak ones half of these, which is ours. Digits
are scored by the neighbours of their projections among the training images, since features of digits are good before
any training, and CIFAR-10 by a linear probe on features, as in the paper. All of this was written down before anything
was run, and nothing was tuned.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from counterpoint.evaluation import Evaluation
from counterpoint.experiments.claims import Claim, Setting
from counterpoint.experiments.fit import fit

GOOD, POOR = "gmm", {"gmm": {"components": 1}}
WEAK, STANDARD = "adainf", "simclr_strong"
# 15 % of 1,797 digits to train on: 269
DIGITS: dict[str, Any] = {
    "method": "adainf",
    "steps": 200,
    "batch_size": 128,
    "val": 0.1,
    "test": 0.75,
    "layer": "projection",
}


def gain(seed: int, folder: Path, generated: str | None) -> Evaluation:
    """What weak views are worth: accuracy with them minus accuracy with standard ones."""
    found = {}
    for views in (WEAK, STANDARD):
        run = fit(
            "digits", **DIGITS, views=views, generated=generated, seed=seed, out=os.fspath(folder / views),
            metrics=["knn"], report=False, monitor=0, resume=True, progress=False,
        )  # fmt: skip
        found[views] = run.evaluation
    items = found[WEAK].items["knn"] - found[STANDARD].items["knn"]
    scores = {name: one.scores["knn"] for name, one in found.items()}
    return Evaluation({"gain": scores[WEAK] - scores[STANDARD], **scores}, {"gain": items})


def gain_with_generated(seed: int, folder: Path) -> Evaluation:
    """With 20 generated images for each real one, the real ones ten times an epoch."""
    return gain(seed, folder, GOOD)


def gain_without(seed: int, folder: Path) -> Evaluation:
    """On the real images alone."""
    return gain(seed, folder, None)


ADAINF = {"views": WEAK, "generated": GOOD, "real_repeats": 10}
VANILLA = {"views": STANDARD, "generated": GOOD, "real_repeats": 1}
PLAIN = {"views": STANDARD, "generated": None}
NOTES = "Equal steps, weights at the start and splits; 269 real digits; the generator saw no others. Nothing was tuned"
digits = partial(Setting, data="digits", metric="knn")

CLAIM = Claim(
    paper=64,
    name="adainf",
    title="the more data are generated, the weaker views should be",
    statement=(
        "Weak augmentation gains more with generated data than without; with a poor generator real images should be "
        "repeated; and both together, AdaInf, are better than plain inflation and no worse than no inflation."
    ),
    source="Wang et al. 2024, sections 3 and 4; table of the official code",
    settings=[
        digits(
            name="interaction",
            metric="gain",
            arms={"method": gain_with_generated, "baseline": gain_without},
            notes=f"Accuracy with weak views minus accuracy with standard ones, with and without inflation. {NOTES}",
        ),
        digits(
            name="replication",
            arms={"method": {"real_repeats": 10}, "baseline": {"real_repeats": 1}},
            shared={**DIGITS, "views": STANDARD, "generated": POOR},
            differs=("real_repeats",),
            notes=f"The generator is one Gaussian in the space of the principal components. {NOTES}",
        ),
        digits(
            name="adainf",
            arms={"method": ADAINF, "baseline": VANILLA},
            shared=DIGITS,
            differs=("views", "real_repeats"),
            notes=NOTES,
        ),
        digits(
            name="plain",
            arms={"method": ADAINF, "baseline": PLAIN},
            shared=DIGITS,
            differs=("views", "generated", "real_repeats"),
            at_least=-0.01,
            notes=f"No worse by more than a point. {NOTES}",
        ),
        Setting(
            name="cifar10",
            data="cifar10",
            metric="probe",
            arms={"method": ADAINF, "baseline": VANILLA},
            # of 6,000 images 1,000 are the test part's, which is given, and nine in ten of the rest are put aside
            shared={"method": "adainf", "steps": 120, "batch_size": 128, "limit": 6000, "val": 0.9, "test": 0.05},
            differs=("views", "real_repeats"),
            seeds=(0, 1, 2),
            needs="It is looked for in $COUNTERPOINT_DATA/cifar10 and ./data/cifar10, or where --root says.",
            notes=(
                "500 real images, equal steps. 64 principal components leave generated photographs without detail. "
                "Nothing was tuned"
            ),
        ),
    ],
)
