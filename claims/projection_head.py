"""What a projection head is good for, and a fixed one that does its work (Xue et al., ICLR 2024).

Five statements of the paper on scikit-learn's digits, which are small enough for anyone's machine:

* a head helps: features trained through an MLP head are classified better than those of a model without one;
* a fixed head, coordinate i times 1.2 ** -i, helps too (the paper has 1.05 to 1.5; 1.2 was fixed beforehand);
* within one model, the features before the head are classified better than the projection after it;
* that advantage grows where the augmentation destroys what is asked for. Here digits are turned by quarter turns, the
  question is by how many, and the augmentation turns them anew with probability 3/4 or never. It stands for the paper's
  digit that is pasted on a CIFAR image and that the augmentation drops with probability 3/4;
* trained with coarse labels (odd or even), the features tell finer classes (which digit) better than the projection.

A linear probe on digits stands near .97 for everything, so that small effects are to be expected in the first two. No
arm was tuned. The paper's experiments on CIFAR-100, UrbanCars and shifted ImageNet are not repeated here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import counterpoint as cp
from counterpoint.evaluation import Embeddings, evaluate
from counterpoint.experiments.claims import Claim, Setting
from counterpoint.experiments.layers import representations
from counterpoint.experiments.preparing import load_data

SHARED: dict[str, Any] = {
    "encoder": "mlp",
    "encoder_options": {"widths": [256, 128]},
    "epochs": 20,
    "batch_size": 64,
}
QUIET: dict[str, Any] = {"evaluate": False, "report": False, "monitor": 0, "progress": False}


def turned() -> tuple[np.ndarray, np.ndarray]:
    """The digits, each turned by 0 to 3 quarter turns, and by how many."""
    digits = cp.data.load("digits")
    images = digits[np.arange(len(digits))]["image"].numpy()
    turns = np.random.default_rng(0).integers(0, 4, len(images))
    return np.stack([np.rot90(image, k, axes=(1, 2)) for image, k in zip(images, turns, strict=True)]), turns


def destroyed(seed: int, folder: Path) -> dict[str, float]:
    """The method: an augmentation that turns three digits of four by any angle."""
    return gap(0.75, seed, folder)


def spared(seed: int, folder: Path) -> dict[str, float]:
    """The baseline: an augmentation that leaves the turn alone."""
    return gap(0.0, seed, folder)


def gap(probability: float, seed: int, folder: Path) -> dict[str, float]:
    """How much better the turn is read off the features than off the projection; 20 epochs of SimCLR."""
    data = turned()
    gentle = {"Affine": {"translate": [0.1, 0.1], "scale": [0.9, 1.3]}}
    views = [gentle, {"Affine": {"degrees": [-180.0, 180.0], "p": probability}}, {"GaussianNoise": {"std": 0.05}}]
    run = cp.fit(data, out=str(folder / "run"), seed=seed, views=views, overwrite=True, **SHARED, **QUIET)
    before, after = (probe(run, data, layer) for layer in ("features", "projection"))
    return {"gap": before - after, "features": before, "projection": after}


def before_the_head(seed: int, folder: Path) -> dict[str, float]:
    """The method: digits told by the features."""
    return fine("features", seed, folder)


def after_the_head(seed: int, folder: Path) -> dict[str, float]:
    """The baseline: digits told by the projection of the same model, trained again with the same seed."""
    return fine("projection", seed, folder)


def fine(layer: str, seed: int, folder: Path) -> dict[str, float]:
    """How well a layer tells the ten digits; 20 epochs of SupCon with the labels odd and even."""
    digits = cp.data.load("digits")
    images = digits[np.arange(len(digits))]["image"].numpy()
    assert digits.labels is not None
    run = cp.fit(
        (images, digits.labels % 2), "supcon", out=str(folder / "run"), seed=seed, overwrite=True, **SHARED, **QUIET
    )
    return {"probe": probe(run, (images, digits.labels), layer)}


def probe(run: cp.Run, data: tuple[np.ndarray, np.ndarray], layer: str) -> float:
    """Accuracy of a linear probe on a layer of a run, on its own splits, for the labels in ``data``."""
    dataset, splits, _, _ = load_data(data, {**run.config, "splits": run.folder / "splits.npz"})
    assert dataset.labels is not None
    model, sets = run.model(), []
    for indices in (splits.train, splits.val, splits.test):
        sets.append(Embeddings(representations(model, dataset, indices)[layer], dataset.labels[indices]))
    return evaluate(*sets, metrics=["probe"]).scores["probe"]


def heads(name: str, head: str, notes: str) -> Setting:
    """A head against none, by a linear probe on the features."""
    return Setting(
        name=name,
        data="digits",
        metric="probe",
        arms={"method": {"options": {"head": head}}, "baseline": {"options": {"head": "none"}}},
        shared={"method": "simclr", **SHARED},
        differs=("options",),
        notes=f"{notes} Both are probed on the encoder's output. Nothing was tuned",
    )


CLAIM = Claim(
    paper=70,
    name="projection-head",
    title="features before the projection head serve better, and a fixed reweighting can replace the head",
    statement=(
        "A projection head makes the features before it better than training without a head, and better than the "
        "projection after it, most of all where augmentation or labels disregard what is asked for; fixed falling "
        "weights on the coordinates do the same without a trained head."
    ),
    source="Xue et al. 2024: sections 3 to 5, the experiments with and without projection head and with fixed weights",
    settings=[
        heads("mlp-head", "mlp", "SimCLR with an MLP head against SimCLR without any."),
        heads("reweighting", "reweighting:1.2", "SimCLR with fixed weights 1.2 ** -i against SimCLR without any head."),
        Setting(
            name="before-after",
            data="digits",
            metric="probe",
            arms={"method": {"layer": "features"}, "baseline": {"layer": "projection"}},
            shared={"method": "simclr", **SHARED},
            differs=("layer",),
            at_least=0.02,
            notes="The same model with an MLP head, probed before and after it; 2 points is the least that counts",
        ),
        Setting(
            name="destroyed-feature",
            data="digits",
            metric="gap",
            arms={"method": destroyed, "baseline": spared},
            notes=(
                "Digits turned by quarter turns; the gap is the accuracy of a linear probe for the turn on the "
                "features minus that on the projection. Both arms: SimCLR, 20 epochs, batch 64, same encoder and seed"
            ),
        ),
        Setting(
            name="coarse-to-fine",
            data="digits",
            metric="probe",
            arms={"method": before_the_head, "baseline": after_the_head},
            notes=(
                "SupCon trained with the labels odd and even, probed for the ten digits, before and after the head of "
                "the same model. Both arms: 20 epochs, batch 64, same encoder and seed"
            ),
        ),
    ],
)
