"""Self-supervised pre-training beats training from scratch with 10 labels a class (Chen et al. 2020, table 7).

What is compared. Both arms know the labels of the same 10 training images of each class, drawn with the seed, and are
tested on the same images. The *method* first trains a ConvNet with SimCLR on all training images without labels; a
logistic regression is then fitted on the frozen features of the labelled images. The *baseline* trains the same ConvNet
and a linear classifier on it from the start with cross entropy on the labelled images. Both start from the same
weights and take the same number of steps with the same optimiser, learning rate and augmentations, neither tuned.

What is not equal, and why. A step of the method sees 256 images and a step of the baseline the 100 that have labels:
that there are no more is the claim. What the augmentations are to the two arms differs too: SimCLR's were chosen for
contrastive training, and are strong for a classifier.

Where a choice had to be made it favours the baseline. It may be read out in two ways, by the classifier it was trained
with or by the very logistic regression that the method uses, on its features; the better of the two *on the validation
images* counts, whose labels the method never sees. And the method is only read out, where the paper fine-tunes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from counterpoint.evaluation import Embeddings, Evaluation
from counterpoint.evaluation.probes import linear_probe
from counterpoint.experiments.claims import Claim, Setting
from counterpoint.experiments.preparing import load_data
from counterpoint.files import atomic
from counterpoint.methods.baselines.supervised import Supervised

if TYPE_CHECKING:
    from counterpoint.experiments import Run

LABELS_PER_CLASS = 10


class FromScratch(Supervised):
    """Supervised training that keeps its classifier, which a run leaves out."""

    def on_train_end(self) -> None:
        from safetensors.torch import save

        weights = {name: value.detach().cpu().contiguous() for name, value in self.classifier.state_dict().items()}
        with atomic(Path(self.trainer.default_root_dir) / "classifier.safetensors") as file:
            file.write(save(weights))


def read_out(run: Run) -> Evaluation:
    """The method: logistic regression on frozen features, with the few labels."""
    sets = embed(run)
    return scored(probed(sets, sets["test"]), sets["test"])


def classify(run: Run) -> Evaluation:
    """The baseline: its own classifier or logistic regression on its features, as suits the validation images."""
    from safetensors.torch import load_file

    weights = load_file(run.folder / "classifier.safetensors")

    def own(features: Tensor) -> np.ndarray:
        return torch.nn.functional.linear(features, weights["weight"], weights["bias"]).argmax(1).numpy()

    sets = embed(run)
    readings = {
        "own_classifier": {part: own(torch.from_numpy(sets[part].vectors)) for part in ("val", "test")},
        "logistic_regression": {part: probed(sets, sets[part]) for part in ("val", "test")},
    }
    best = max(readings, key=lambda name: float((readings[name]["val"] == sets["val"].labels).mean()))
    result = scored(readings[best]["test"], sets["test"])
    for name, predictions in readings.items():
        result.scores[name] = float((predictions["test"] == sets["test"].labels).mean())
    return result


def embed(run: Run) -> dict[str, Embeddings]:
    """Features of the parts; of the training labels only those that the run was shown."""
    dataset, splits, shown, _ = load_data(run.config["data"], run.config)
    assert dataset.labels is not None
    assert shown.labels is not None
    encoder, sets = run.encoder(), {}
    for part, labels in (("train", shown.labels), ("val", dataset.labels), ("test", dataset.labels)):
        indices = getattr(splits, part)
        blocks = [encoder.embed(dataset[some]["image"]) for some in np.array_split(indices, 1 + len(indices) // 2048)]
        sets[part] = Embeddings(torch.cat(blocks).numpy(), labels[indices])
    assert np.bincount(sets["train"].known_labels).max() <= LABELS_PER_CLASS
    return sets


def probed(sets: dict[str, Embeddings], part: Embeddings) -> np.ndarray:
    """Predictions by logistic regression, its regularisation fixed: ten labels a class leave none to choose it with."""
    return linear_probe(sets["train"], None, part).predictions


def scored(predictions: np.ndarray, test: Embeddings) -> Evaluation:
    """Accuracy, and whether each test image was right."""
    correct = (predictions == test.labels).astype(np.float32)
    return Evaluation({"accuracy": float(correct.mean(dtype=np.float64))}, {"accuracy": correct})


ARMS = {
    "method": {"method": "simclr", "batch_size": 256, "score": read_out},
    "baseline": {"method": FromScratch, "batch_size": 100, "score": classify},
}
DIFFERS = ("method", "batch_size", "score")
NOTES = (
    "Both arms know the same 10 labels a class, start from the same weights and take the same steps; a step of the "
    "baseline sees all 100 labelled images, one of the method 256. The baseline is read out in the way that is better "
    "on validation images; the method is read out by logistic regression, not fine-tuned. Nothing was tuned"
)

CLAIM = Claim(
    paper="B1",
    name="pretraining",
    title="self-supervised pre-training beats training from scratch with 10 labels a class",
    statement=(
        "With few labels, an encoder trained first without labels on all images classifies better than the same "
        "encoder trained on the labelled images alone."
    ),
    source="Chen et al. 2020, table 7: ImageNet with 1 % and 10 % of the labels",
    settings=[
        Setting(
            name="digits",
            data="digits",
            metric="accuracy",
            arms=ARMS,
            shared={"encoder": "convnet", "steps": 400, "labels_per_class": LABELS_PER_CLASS},
            differs=DIFFERS,
            seeds=(0, 1, 2, 3, 4),
            notes=NOTES,
        ),
        Setting(
            name="cifar10",
            data="cifar10",
            metric="accuracy",
            arms=ARMS,
            # 14,000 of the 60,000 images leave 9,900 to train on; 200 steps are what three seeds of a ConvNet can take
            # in ten minutes on two cores
            shared={"encoder": "convnet", "steps": 200, "labels_per_class": LABELS_PER_CLASS, "limit": 14_000},
            differs=DIFFERS,
            seeds=(0, 1, 2),
            needs="It is looked for in $COUNTERPOINT_DATA/cifar10 and ./data/cifar10, or where --root says.",
            notes=NOTES,
        ),
    ],
)
