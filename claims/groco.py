"""GroCo sorts: better neighbours than NT-Xent, fewer pairs in the wrong order (Shvetsova et al. 2023).

What is compared. In the settings about neighbours the method is GroCo, and the baseline is the same method with NT-Xent
in the place of its loss: the same encoder, the same head of three layers ending in a batch norm without affine
parameters (the authors' code gives both losses that head), the same width, first weights, views, batches, epochs and
optimiser. Neither was tuned. NT-Xent has temperature 0.5, SimCLR's for small images, and on digits also 0.1, which the
authors' baseline has on ImageNet.

What is measured. Neighbours' votes, k = 20 and temperature 0.07, the paper's first measure: on digits on the projection
z, since the features of a small encoder are near their best untrained; on CIFAR-10 on the features, as in the paper.

*digits-order* and *digits-falls* are about what the loss is made for: the share of (positive, negative) pairs of an
anchor in which the negative is the nearer, over all negatives of the anchor's view. The first compares it on test
images after training with the same network before its first step. The second watches it on the training batches, epoch
by epoch: its *method* is the share of epochs in which it fell and its *baseline* the share in which it did not, of one
and the same training; at least three epochs of four must fall. *digits-norm* takes the last batch norm away, without
which the embeddings should draw together in a narrow cone: it measures how evenly they cover the sphere.

It would fail where NT-Xent finds as good neighbours, where the order is not improved or only by fits and starts, or
where the head does as well without its last batch norm.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from counterpoint.encoders import Encoder
from counterpoint.evaluation import Evaluation
from counterpoint.experiments.claims import Claim, Setting
from counterpoint.experiments.preparing import load_data
from counterpoint.files import write_json
from counterpoint.methods import Recipe
from counterpoint.methods.base import Views
from counterpoint.methods.vision.groco import GroCo
from counterpoint.objectives import NTXent
from counterpoint.objectives.inputs import normalize

if TYPE_CHECKING:
    from counterpoint.experiments import Run


class SameHead(GroCo):
    """NT-Xent in the place of GroCo's loss, and nothing else."""

    def __init__(
        self, encoder: Encoder, views: Views | None = None, recipe: Recipe | None = None, temperature: float = 0.5
    ) -> None:
        super().__init__(encoder, views, recipe)
        self.objective = NTXent(temperature)

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        return self.objective(*(self.project(view) for view in views))


class Start(GroCo):
    """The network before the first step."""

    learns = False


class Watched(GroCo):
    """GroCo that notes, for each epoch, the share of pairs of its batches in the wrong order."""

    def on_train_start(self) -> None:
        self.shares: list[list[float]] = []

    def on_train_epoch_start(self) -> None:
        self.shares.append([])

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        z = torch.stack([self.project(view) for view in views])
        self.shares[-1].append(float(disorder(*z.detach()).mean()))
        return self.objective(z)

    def on_train_end(self) -> None:
        write_json(f"{self.trainer.default_root_dir}/disorder.json", [float(np.mean(epoch)) for epoch in self.shares])


def disorder(z1: Tensor, z2: Tensor) -> Tensor:
    """For each item, the share of the negatives in its own view that are nearer than its other view (B,)."""
    z1, z2 = normalize(z1.float()), normalize(z2.float())
    attraction = (z1 * z2).sum(1, keepdim=True)
    wrong = [((z @ z.T).fill_diagonal_(-torch.inf) > attraction).sum(1) for z in (z1, z2)]
    return (wrong[0] + wrong[1]) / (2 * (len(z1) - 1))


def order(run: Run, kind: type[GroCo]) -> Evaluation:
    """Pairs in the wrong order among two views of the test images, which are the same for all runs."""
    from counterpoint.views import resolve

    dataset, splits, _, _ = load_data(run.config["data"], {**run.config, "method": kind})
    made = resolve(run.config["views"], modality=dataset.modality, shape=dataset.shape)
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        model = run.model(kind)
        share = disorder(*(model.project(view) for view in made(dataset[splits.test][dataset.modality])))
    return Evaluation({"disorder": float(share.double().mean())}, {"disorder": share.numpy()})


def order_after(run: Run) -> Evaluation:
    """After training."""
    return order(run, GroCo)


def order_before(run: Run) -> Evaluation:
    """Before it."""
    return order(run, Start)


def steps(run: Run) -> np.ndarray:
    """How the share of pairs in the wrong order changed from each epoch to the next."""
    return np.diff(json.loads((run.folder / "disorder.json").read_text(encoding="utf-8")))


def falls(run: Run) -> Evaluation:
    """Share of epochs in which it fell."""
    return Evaluation({"epochs": float((steps(run) < 0).mean())})


def rises(run: Run) -> Evaluation:
    """Share of epochs in which it did not."""
    return Evaluation({"epochs": float((steps(run) >= 0).mean())})


DIGITS: dict[str, Any] = {"encoder": "mlp", "epochs": 10, "batch_size": 64}
NOTES = "The same head, widths, first weights, epochs and steps in both arms. Nothing was tuned"
digits = partial(Setting, data="digits")


def against(temperature: float) -> dict[str, Any]:
    """GroCo, and NT-Xent of this temperature with GroCo's head."""
    return {"method": {"method": "groco"}, "baseline": {"method": SameHead, "options": {"temperature": temperature}}}


CLAIM = Claim(
    paper=48,
    name="groco",
    title="GroCo finds better neighbours than NT-Xent, by putting pairs in the right order",
    statement=(
        "Sorting positives above the hardest negatives gives better nearest neighbours than NT-Xent; the share of "
        "pairs in the wrong order falls while it trains; and the head needs its last batch norm."
    ),
    source="Shvetsova et al. 2023, tables of kNN accuracy on ImageNet; configurations of the official code",
    settings=[
        *(
            digits(
                name=name,
                metric="knn",
                arms=against(temperature),
                shared={**DIGITS, "layer": "projection"},
                differs=("method", "options"),
                notes=f"NT-Xent at temperature {temperature}; on the projection. {NOTES}",
            )
            for name, temperature in (("digits", 0.5), ("digits-sharp", 0.1))
        ),
        Setting(
            name="cifar10",
            data="cifar10",
            metric="knn",
            arms=against(0.5),
            # 6,000 of the 60,000 images leave some 4,200 to train on: 33 steps an epoch
            shared={"encoder": "convnet", "epochs": 10, "batch_size": 128, "limit": 6000},
            differs=("method", "options"),
            seeds=(0, 1, 2),
            needs="It is looked for in $COUNTERPOINT_DATA/cifar10 and ./data/cifar10, or where --root says.",
            notes=f"NT-Xent at temperature 0.5; on the features. {NOTES}",
        ),
        digits(
            name="digits-order",
            metric="disorder",
            arms={
                "method": {"method": "groco", "score": order_after},
                "baseline": {"method": Start, "score": order_before},
            },
            shared={**DIGITS, "evaluate": False},
            differs=("method", "score"),
            higher_is_better=False,
            notes="The baseline is the same network before its first step; the same views of the same test images",
        ),
        digits(
            name="digits-falls",
            metric="epochs",
            arms={"method": {"method": Watched, "score": falls}, "baseline": {"method": Watched, "score": rises}},
            shared={**DIGITS, "evaluate": False},
            differs=("score",),
            at_least=0.5,
            notes="Share of epochs with fewer pairs in the wrong order than the one before, minus that of the others",
        ),
        digits(
            name="digits-norm",
            metric="uniformity",
            arms={"method": {"method": "groco"}, "baseline": {"method": "groco", "options": {"last_norm": False}}},
            shared={**DIGITS, "layer": "projection"},
            differs=("options",),
            higher_is_better=False,
            notes="The baseline's head ends without batch norm, all else is equal; uniformity of the projection",
        ),
    ],
)
