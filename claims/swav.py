"""SwAV: balanced codes prevent collapse, and small crops help (Caron et al., NeurIPS 2020).

Two statements of the paper, each on two kinds of data.

*Balance* (section 3.1). Codes made by three iterations of Sinkhorn against codes by a plain softmax, which is no
iteration; the rest is the same. Asked is which prototype each test image is nearest to: how many of the prototypes are
in use, and how much they tell of the labels. Accuracies are not asked: a linear classifier reads digits from features
that no clustering has formed. Most prototypes should be in use with Sinkhorn and one without, so the effect has to be
above half of them.

*Multi-crop* (section 3.3 and figure 3). Two global crops and four local ones, a quarter of the pixels each, against the
two global ones. At equal epochs the method's encoder sees one and a half times the pixels, which is what the paper
compares; so there is a second setting in which the baseline has one and a half times the epochs. Scored are the
projections, by their nearest neighbours. CIFAR-10 has the paper's crops in proportion: 32 and 16 pixels. On digits of
8 pixels a crop of 5 % would be two pixels; there a local crop is about 4 x 4 pixels at its own resolution, and colours
and flips are left out. The figures for digits are ours, and were chosen before anything was run.

Both arms start from the same weights and share optimiser, learning rate and batches; neither is tuned.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from counterpoint.evaluation import Evaluation
from counterpoint.experiments.claims import Claim, Setting
from counterpoint.files import atomic
from counterpoint.methods.vision.swav import SwAV

if TYPE_CHECKING:
    from counterpoint.experiments import Run


class KeepsPrototypes(SwAV):
    """SwAV that leaves its prototypes in the run's folder."""

    def on_train_end(self) -> None:
        from safetensors.torch import save

        with atomic(Path(self.trainer.default_root_dir) / "prototypes.safetensors") as file:
            file.write(save({"weight": self.prototypes.weight.detach().cpu().contiguous()}))


def clusters(run: Run) -> Evaluation:
    """The test images by their nearest prototype: share of the prototypes in use, mutual information with labels."""
    from safetensors.torch import load_file
    from sklearn.metrics import normalized_mutual_info_score

    prototypes = load_file(run.folder / "prototypes.safetensors")["weight"]
    kept = run.embeddings
    z = torch.nn.functional.normalize(torch.from_numpy(kept["projections"]), dim=1)
    nearest = (z @ prototypes.T).argmax(1).numpy()
    nmi = float(normalized_mutual_info_score(kept["labels"], nearest))
    return Evaluation({"used": len(set(nearest.tolist())) / len(prototypes), "prototype_nmi": nmi})


BALANCE = {
    "arms": {"method": {"options": {"prototypes": 30}}, "baseline": {"options": {"prototypes": 30, "iterations": 0}}},
    "differs": ("options",),
}
BALANCED = {"method": KeepsPrototypes, "score": clusters, "evaluate": True, "epochs": 10, "batch_size": 64}
BALANCE_NOTES = (
    "The arms differ in the number of Sinkhorn iterations, 3 and 0. There are 30 prototypes; a test image belongs to "
    "the one that its projection is nearest to. Nothing was tuned"
)

WARP = {"Affine": {"degrees": 15.0, "translate": [0.1, 0.1], "scale": [0.9, 1.3], "shear": 10.0}}
NOISE = {"GaussianNoise": {"std": 0.05}}
LOCAL = {"RandomResizedCrop": {"size": 4, "scale": [0.2, 0.4], "ratio": [0.75, 1.3333]}}
CROPS = {
    "digits": ([[WARP, NOISE]] * 2 + [[LOCAL, NOISE]] * 4, [[WARP, NOISE]] * 2),
    "cifar10": ({"swav": {"local": 4}}, {"swav": {"local": 0}}),
}
EPOCHS = {"digits": (20, 30), "cifar10": (6, 9)}  # multi-crop has the first, and two crops in the same time the second
NEEDS = "It is looked for in $COUNTERPOINT_DATA/cifar10 and ./data/cifar10, or where --root says."


def multicrop(data: str, equal: str) -> Setting:
    """Two global and four local crops against two global ones, at equal ``epochs`` or at about equal ``compute``."""
    six, two = CROPS[data]
    short, long = EPOCHS[data]
    small = data == "digits"
    return Setting(
        name=f"multicrop-{data}-equal-{equal}",
        data=data,
        metric="knn",
        arms={
            "method": {"views": six, "epochs": short},
            "baseline": {"views": two, "epochs": short if equal == "epochs" else long},
        },
        shared={"method": "swav", "batch_size": 128, "layer": "projection", **({} if small else {"limit": 6000})},
        differs=("views",) if equal == "epochs" else ("views", "epochs"),
        needs="" if small else NEEDS,
        notes=(
            "Multi-crop's encoder sees 1.5 times the pixels of the baseline's in an epoch"
            + (", and epochs are equal. " if equal == "epochs" else "; the baseline has 1.5 times the epochs. ")
            + "Nearest neighbours of the projections; nothing was tuned"
        ),
    )


CLAIM = Claim(
    paper=62,
    name="swav",
    title="balanced codes prevent collapse, and small crops help",
    statement=(
        "With Sinkhorn most prototypes are used and tell of the labels, where plain softmax codes end in one; and "
        "adding small crops to two large ones gives better embeddings."
    ),
    source="Caron et al. 2020, sections 3.1 and 3.3, figure 3",
    settings=[
        Setting(
            name="balance-digits-mlp",
            data="digits",
            metric="used",
            shared={**BALANCED, "encoder": "mlp"},
            at_least=0.5,
            notes=BALANCE_NOTES,
            **BALANCE,
        ),
        Setting(
            name="balance-digits-convnet",
            data="digits",
            metric="prototype_nmi",
            shared={**BALANCED, "encoder": "convnet"},
            notes=BALANCE_NOTES,
            **BALANCE,
        ),
        *(multicrop(data, equal) for data in CROPS for equal in ("epochs", "compute")),
    ],
)
