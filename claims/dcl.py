"""DCL beats NT-Xent, and the smaller the batch the more (Yeh et al. 2022).

What is compared. The method is SimCLR with the decoupled loss, the baseline SimCLR with NT-Xent, everything else equal:
encoder, head, temperature 0.1 (DCL's default, not SimCLR's here), batch size, epochs and so steps, first weights, order
of the data and views. Nothing was tuned. With the number of epochs fixed, as in the paper, a small batch takes more
steps than a large one; that is the same for both losses.

What is measured. On digits, on the projection z, on which the losses act: neighbours' votes for 32 to 256 items a
batch, and for 8 and 16 how evenly the embeddings cover the sphere, which NT-Xent no longer sees to when its gradients
vanish. *digits-multiplier* looks at the cause: the mean factor that NT-Xent's gradients carry (1 for DCL) in the last
of three epochs, at 8 items a batch (the *method*) against 64 (the *baseline*). *digits-gain* is the claim about small
batches itself: its figure is the uniformity of DCL minus that of NT-Xent, the *method* being this gain at 8 items a
batch and the *baseline* the gain at 64; both come from the functions below, on equal terms that the claim cannot check
by itself. On CIFAR-10, a linear probe on the features, as in the paper.

It would fail where NT-Xent is as good as DCL on any of these data, or where its shortfall does not grow as the batch
shrinks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from counterpoint.evaluation import Evaluation
from counterpoint.experiments.claims import Claim, Setting
from counterpoint.experiments.fit import fit
from counterpoint.files import write_json
from counterpoint.methods.vision.simclr import SimCLR
from counterpoint.objectives.dcl import npc_multiplier

if TYPE_CHECKING:
    from counterpoint.experiments import Run

ARMS = {"method": {"method": "dcl"}, "baseline": {"method": "simclr"}}
SHARED: dict[str, Any] = {"options": {"temperature": 0.1}, "layer": "projection", "encoder": "mlp", "epochs": 10}
NOTES = "Equal temperature (0.1), head, epochs and steps in both arms; measured on the projection. Nothing was tuned"


class Watched(SimCLR):
    """SimCLR that keeps the mean multiplier of its last epoch."""

    def on_train_epoch_start(self) -> None:
        self.multipliers: list[float] = []

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        z1, z2 = self.embed_together(views)
        self.multipliers.append(float(torch.cat(npc_multiplier(z1, z2, self.objective.temperature)).mean()))
        return self.objective(z1, z2)

    def on_train_end(self) -> None:
        mean = sum(self.multipliers) / len(self.multipliers)
        write_json(Path(self.trainer.default_root_dir) / "multiplier.json", {"multiplier": mean})


def multiplier(run: Run) -> Evaluation:
    return Evaluation(json.loads((run.folder / "multiplier.json").read_text("utf-8")))


def gain(seed: int, folder: Path, batch_size: int) -> dict[str, float]:
    """Uniformity of DCL minus that of NT-Xent, each trained on digits with this batch size; negative is better."""
    found = {}
    for arm, named in ARMS.items():
        run = fit(
            "digits", **named, **SHARED, batch_size=batch_size, seed=seed, out=str(folder / arm), resume=True,
            report=False, monitor=0, progress=False,
        )  # fmt: skip
        found[arm] = run.scores["uniformity"]
    return {"gain": found["method"] - found["baseline"], **found}


def gain_at_8(seed: int, folder: Path) -> dict[str, float]:
    """The method: 8 items a batch."""
    return gain(seed, folder, 8)


def gain_at_64(seed: int, folder: Path) -> dict[str, float]:
    """What it is compared with: 64."""
    return gain(seed, folder, 64)


digits = partial(Setting, data="digits", arms=ARMS, notes=NOTES)

CLAIM = Claim(
    paper=12,
    name="dcl",
    title="DCL beats NT-Xent, the more so the smaller the batch",
    statement=(
        "Leaving the positive out of the denominator improves SimCLR at the same batch size, and improves it more at "
        "small batches, where NT-Xent's gradients vanish."
    ),
    source="Yeh et al. 2022, experiments: batches of 32 to 512 on CIFAR-10 and CIFAR-100, 256 and more on ImageNet",
    settings=[
        Setting(
            name="digits-multiplier",
            data="digits",
            metric="multiplier",
            arms={"method": {"batch_size": 8}, "baseline": {"batch_size": 64}},
            shared={**SHARED, "method": Watched, "epochs": 3, "score": multiplier},
            differs=("batch_size",),
            higher_is_better=False,
            notes="The factor that NT-Xent's gradients carry, at 8 items a batch against 64; it is 1 for DCL",
        ),
        Setting(
            name="digits-gain",
            data="digits",
            metric="gain",
            arms={"method": gain_at_8, "baseline": gain_at_64},
            higher_is_better=False,
            seeds=(0, 1, 2),  # each is four fits, two of them of 1,460 steps
            notes="Uniformity of DCL minus that of NT-Xent; the method is this at 8 items a batch, the baseline at 64",
        ),
        *(
            digits(
                name=f"digits-uniformity-{batch}",
                metric="uniformity",
                higher_is_better=False,
                shared={**SHARED, "batch_size": batch},
            )
            for batch in (8, 16)
        ),
        *(
            digits(name=f"digits-{batch}", metric="knn", shared={**SHARED, "epochs": 20, "batch_size": batch})
            for batch in (32, 64, 256)
        ),
        Setting(
            name="cifar10-32",
            data="cifar10",
            metric="probe",
            arms=ARMS,
            # 6,000 of the 60,000 images leave 3,900 to train on: 121 steps an epoch
            shared={
                "options": {"temperature": 0.1},
                "encoder": "convnet",
                "batch_size": 32,
                "epochs": 10,
                "limit": 6000,
            },
            seeds=(0, 1, 2),
            needs="It is looked for in $COUNTERPOINT_DATA/cifar10 and ./data/cifar10, or where --root says.",
            notes="Equal temperature (0.1), head, epochs and steps in both arms; linear probe on features. Not tuned",
        ),
    ],
)
