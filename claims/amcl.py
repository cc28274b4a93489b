"""AMCL beats SimCLR when augmentations are many, and warms the pairs it is unsure of (Wang et al. 2024).

What is compared. The method is AMCL on SimCLR as the authors' code has it: three heads, beta 0.1, temperatures up to 2;
but from 0.05, not 1e-5, with which a step of training is a leap. The baseline is SimCLR with NT-Xent at 0.5, the value
of the authors' baseline. Encoder, first weights, batch size, steps, order of the data and views are equal, nothing was
tuned. The method has two projection heads and three small networks more, none of which is kept.

What is measured. Votes of the neighbours on the encoder's features: with crops alone (digits and CIFAR-10), and with
the paper's five types of augmentation, which need colours: crop, flip, colour jitter, greyscale, blur (CIFAR-10). The
paper finds a gain everywhere and the largest with all five, so that any of these settings can fail. *digits-gain* is
the second half of that by itself: its figure is the accuracy of AMCL minus that of SimCLR, the *method* being this gain
with the five types, of which greyscale does nothing to grey digits, and the *baseline* the gain with crops alone.

*temperatures* is about why: the temperature of a positive pair should rise with its dissimilarity. The figure is the
correlation of tau with 1 - cosine over test images, two views of each, averaged over the heads. In the baseline the
encoder is trained likewise while the temperature networks stay as they were drawn, and the sign of their correlations
is left out: a random function of two embeddings has one of some size, either way. So the claim needs one that is
positive, and larger.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from counterpoint.evaluation import Evaluation
from counterpoint.experiments.claims import Claim, Setting
from counterpoint.experiments.fit import fit
from counterpoint.experiments.preparing import load_data
from counterpoint.files import atomic
from counterpoint.methods.vision.amcl import AMCL
from counterpoint.objectives.inputs import normalize
from counterpoint.views import resolve

if TYPE_CHECKING:
    from counterpoint.experiments import Run

HEADS = "heads.safetensors"


class Kept(AMCL):
    """AMCL that keeps its heads and temperature networks, which a run leaves out."""

    def on_train_end(self) -> None:
        from safetensors.torch import save

        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        heads = {name: value for name, value in weights.items() if not name.startswith("encoder.")}
        with atomic(Path(self.trainer.default_root_dir) / HEADS) as file:
            file.write(save(heads))


class AsDrawn(Kept):
    """The same with temperature networks that stay as they were drawn."""

    def configure_optimizers(self) -> Any:
        self.objective.temperature.requires_grad_(False)
        return super().configure_optimizers()


def correlate(run: Run) -> Evaluation:
    """The method: correlation of the temperature of positive pairs with their dissimilarity, averaged over heads."""
    return scored(*positives(run))


def by_chance(run: Run) -> Evaluation:
    """The baseline: the size of that correlation, whatever its sign."""
    return scored(*positives(run), size=True)


def scored(tau: Tensor, far: Tensor, size: bool = False) -> Evaluation:
    """The figure, from temperatures and dissimilarities (C, N); a head that does not vary has a correlation of 0."""
    heads = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1].nan_to_num() for pair in zip(tau, far, strict=True)])
    found = heads.abs() if size else heads
    return Evaluation({"correlation": float(found.mean()), "tau": float(tau.mean()), "tau_std": float(tau.std())})


def positives(run: Run) -> tuple[Tensor, Tensor]:
    """Temperature and 1 - cosine (C, N) of two views of each test image, in each head."""
    from safetensors.torch import load_file

    dataset, splits, *_ = load_data(run.config["data"], run.config)
    method = AMCL(run.encoder())
    method.load_state_dict(load_file(run.folder / HEADS), strict=False)
    method.eval()
    make = resolve(run.config["views"], modality=dataset.modality, shape=dataset.shape)
    with torch.inference_mode():
        views = make(dataset[splits.test]["image"], generator=torch.Generator().manual_seed(0))
        z1, z2 = (normalize(method.projector.split(method.project(view)).float()) for view in views)
        return method.objective.temperature(z1, z2).double(), 1 - (z1 * z2).sum(2).double()


CROP: list[dict[str, Any]] = [{"RandomResizedCrop": {"scale": [0.08, 1.0]}}]
FIVE = [
    *CROP,
    {"HorizontalFlip": {"p": 0.5}},
    {"ColorJitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "p": 0.8}},
    {"Grayscale": {"p": 0.2}},
    {"GaussianBlur": {"p": 0.5}},
]
ARMS = {"method": {"method": "amcl"}, "baseline": {"method": "simclr"}}
# 6,000 images leave about 4,200 to train on; 100 steps of 256 are what three seeds can take in some minutes
CIFAR10: dict[str, Any] = {
    "data": "cifar10",
    "metric": "knn",
    "arms": ARMS,
    "seeds": (0, 1, 2),
    "needs": "It is looked for in $COUNTERPOINT_DATA/cifar10 and ./data/cifar10, or where --root says.",
}
SHORT: dict[str, Any] = {"encoder": "convnet", "steps": 100, "limit": 6000}
SMALL: dict[str, Any] = {"encoder": "convnet", "encoder_options": {"widths": [16, 32, 64]}, "epochs": 30}
NOTES = "Equal encoder, head, views and steps in both arms; the method's heads are three. Nothing was tuned"


def gain(seed: int, folder: Path, views: list[dict[str, Any]]) -> dict[str, float]:
    """Accuracy of AMCL minus that of SimCLR, each trained on digits with these augmentations."""
    found = {}
    for arm, named in ARMS.items():
        run = fit(
            "digits", **named, **SMALL, views=views, seed=seed, out=str(folder / arm), resume=True, report=False,
            monitor=0, progress=False,
        )  # fmt: skip
        found[arm] = run.scores["knn"]
    return {"gain": found["method"] - found["baseline"], **found}


def gain_with_five(seed: int, folder: Path) -> dict[str, float]:
    """The method: all types of augmentation."""
    return gain(seed, folder, FIVE)


def gain_with_one(seed: int, folder: Path) -> dict[str, float]:
    """What it is compared with: crops."""
    return gain(seed, folder, CROP)


CLAIM = Claim(
    paper=16,
    name="amcl",
    title="several heads with adaptive temperatures beat one, the more so the more augmentations there are",
    statement=(
        "AMCL improves SimCLR, most where many types of augmentation make some positives unlike each other, because "
        "its temperatures are larger for such pairs."
    ),
    source="Wang et al. 2024, abstract and experiments: one to five types of augmentation",
    settings=[
        Setting(
            name="digits-one-type",
            data="digits",
            metric="knn",
            arms=ARMS,
            shared={**SMALL, "views": CROP},
            notes=f"Crops alone. {NOTES}",
        ),
        Setting(
            name="digits-gain",
            data="digits",
            metric="gain",
            arms={"method": gain_with_five, "baseline": gain_with_one},
            notes="Accuracy of AMCL minus that of SimCLR; the method is this with all types, the baseline with crops",
        ),
        Setting(
            name="temperatures",
            data="digits",
            metric="correlation",
            arms={
                "method": {"method": Kept, "score": correlate},
                "baseline": {"method": AsDrawn, "score": by_chance},
            },
            shared={**SMALL, "evaluate": False},
            differs=("method", "score"),
            notes="The baseline's temperature networks are never trained, and its correlations count by size alone",
        ),
        Setting(name="cifar10-one-type", shared={**SHORT, "views": CROP}, notes=f"Crops alone. {NOTES}", **CIFAR10),
        Setting(name="cifar10-five-types", shared={**SHORT, "views": FIVE}, notes=f"All five. {NOTES}", **CIFAR10),
    ],
)
