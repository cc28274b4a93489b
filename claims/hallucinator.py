"""Hallucinator: invented positives make harder pairs and better embeddings (Wu, Hobbs, Hovakimyan, ICCV 2023).

*Views* (``overlap-crops``). The paper's first crop keeps away from the middle of its box, so that two views share less:
the mean intersection over union of 10,000 pairs of crops, its pair against two random crops of the same sizes.
Pure geometry, nothing is trained.

*Pairs* (``harder-...``). In training, hallucinated anchors should be less like their positives than the real anchors of
the same steps; otherwise the generator only copies. Both arms are the same run, and each takes one of its two means.

*Embeddings*. With the paper's views on both sides, each framework with hallucinated anchors against the same with every
anchor doubled as it is. For MoCo and SimSiam that control has MoCo's and SimSiam's own loss, to the last bit but
rounding, so it is those baselines too; SimCLR's has every negative twice. The paper reports gains of 0.3 to 3 points in
linear probes after 500 epochs of CIFAR; so little, after so short a training, may well drown in the noise. Digits are
scored by a probe from five labels a class, since one from all is saturated there. Linear probes elsewhere.

Encoder, first weights, order, views, optimiser and steps are the same in both arms. Nothing was tuned: temperatures and
queues are MoCo v2's and SimCLR's, the generator is the official code's.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from counterpoint.evaluation import Evaluation
from counterpoint.experiments.claims import Claim, Setting
from counterpoint.views import CenterSuppressedCrop, RandomResizedCrop
from counterpoint.views.transform import Dice

if TYPE_CHECKING:
    from counterpoint.experiments import Run

DRAWS, SIDE = 10_000, 32
NEEDS = "It is looked for in $COUNTERPOINT_DATA/cifar10 and ./data/cifar10, or where --root says."


def overlap(first: RandomResizedCrop, seed: int) -> dict[str, float]:
    """Mean intersection over union of a crop by ``first`` and a random one, in images of 32 pixels."""
    dice = Dice(torch.zeros(DRAWS, 1), torch.Generator().manual_seed(seed))
    a, b = (crop.boxes(SIDE, SIDE, dice)[:4] for crop in (first, RandomResizedCrop(scale=(0.2, 1.0))))
    sides = [(torch.minimum(a[i] + a[i + 2], b[i] + b[i + 2]) - torch.maximum(a[i], b[i])).clamp(min=0) for i in (0, 1)]
    shared = sides[0] * sides[1]
    return {"overlap": float((shared / (a[2] * a[3] + b[2] * b[3] - shared)).mean())}


def overlap_suppressed(seed: int, folder: Path) -> dict[str, float]:
    """The paper's pair of crops."""
    return overlap(CenterSuppressedCrop(scale=(0.2, 1.0)), seed)


def overlap_random(seed: int, folder: Path) -> dict[str, float]:
    """Two random crops."""
    return overlap(RandomResizedCrop(scale=(0.2, 1.0)), seed)


def similarity(run: Run, of: str) -> Evaluation:
    """Mean cosine of an anchor and its positive over the training."""
    (curves,) = run.findings
    return Evaluation({"similarity": float(curves.series[of].mean())})


def hallucinated(run: Run) -> Evaluation:
    """Of hallucinated anchors."""
    return similarity(run, "hallucinated")


def real(run: Run) -> Evaluation:
    """Of the views' own."""
    return similarity(run, "real")


CONTROL: dict[str, Any] = {
    "arms": {"method": {"options": {}}, "baseline": {"options": {"hallucinate": False}}},
    "differs": ("options",),
}
DIGITS = {"views": "hallucinator", "encoder": "convnet", "epochs": 20, "batch_size": 128}
CIFAR = {**DIGITS, "epochs": 6, "limit": 6000}
NOTE = "The baseline doubles each anchor as it is"

harder = partial(
    Setting,
    data="digits",
    metric="similarity",
    arms={"method": {"score": hallucinated}, "baseline": {"score": real}},
    differs=("score",),
    higher_is_better=False,
    seeds=(0, 1, 2),
    notes="One run, two means over its training: hallucinated against real anchors",
)

CLAIM = Claim(
    paper=35,
    name="hallucinator",
    title="invented positives make harder pairs and better embeddings",
    statement=(
        "Crops away from the centre share less than random ones; anchors that a small network invents are less like "
        "their positives than real ones; and with them MoCo, SimCLR and SimSiam learn better embeddings."
    ),
    source="Wu, Hobbs, Hovakimyan 2023, abstract: linear probes on CIFAR, Tiny-ImageNet, STL-10 and ImageNet",
    settings=[
        Setting(
            name="overlap-crops",
            data="digits",
            metric="overlap",
            arms={"method": overlap_suppressed, "baseline": overlap_random},
            higher_is_better=False,
            notes="Geometry of crops with 20 to 100 % of 32 x 32 pixels; no data are used and nothing is trained",
        ),
        *(
            harder(name=f"harder-{base}-digits", shared={**DIGITS, "method": f"hallucinator_{base}"})
            for base in ("moco", "simclr", "simsiam")
        ),
        *(
            Setting(
                name=f"{base}-digits",
                data="digits",
                metric="probe_5",
                shared={**DIGITS, "method": f"hallucinator_{base}"},
                notes=NOTE,
                **CONTROL,
            )
            for base in ("moco", "simclr", "simsiam")
        ),
        *(
            Setting(
                name=f"{base}-cifar10",
                data="cifar10",
                metric="probe",
                shared={**CIFAR, "method": f"hallucinator_{base}"},
                seeds=(0, 1, 2),
                needs=NEEDS,
                notes=NOTE,
                **CONTROL,
            )
            for base in ("moco", "simsiam")
        ),
    ],
)
