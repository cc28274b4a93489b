"""Core-tuning beats fine-tuning with cross entropy, and makes classes compact (Zhang et al., NeurIPS 2021).

What is compared. For each seed one ConvNet is pre-trained with SimCLR on all training images without labels; both arms
go on from those very weights with the labels of the same 10 images of each class, the same optimiser, learning rate,
number of steps, augmentations and first weights of the classifier. Scored is the classifier itself on the test images.
The paper has a ResNet-50 pre-trained on ImageNet; this is its protocol at a small scale.

* *ce*: Core-tuning against cross entropy, test accuracy (the paper's main table).
* *supcon*: Core-tuning against cross entropy with plain SupCon at the same weight (its ablation).
* *scatter*: the same two runs as *ce*, variance of the test features within classes over that between them; low is
  what the paper says its contrast is for.

No arm was tuned: eta, alpha, the least share of a negative, temperature and the size of the head are the official
code's, everything else is the default of ``fit`` or ``finetune``. The default learning rates of ``finetune`` (1e-2, and
1e-3 for the encoder) are one pair for all four of its methods, looked at together on validation digits of seed 0.

An encoder is pre-trained once for all arms of its seed, and a run that two settings ask for is trained once, as long as
one process does it all.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import counterpoint as cp
from counterpoint.evaluation import Embeddings, Evaluation, classification
from counterpoint.experiments.claims import Claim, DataMissing, Setting
from counterpoint.experiments.measuring import embed_items
from counterpoint.experiments.preparing import load_data

LABELS_PER_CLASS = 10
QUIET = {"progress": False, "report": False, "monitor": 0, "evaluate": False, "overwrite": True}
# of SimCLR on all training images
PRETRAINING: dict[str, dict[str, Any]] = {
    "digits": {"epochs": 15, "batch_size": 256},
    "cifar10": {"epochs": 6, "batch_size": 128, "limit": 4000},
}
STEPS = {"digits": 60, "cifar10": 60}  # of fine-tuning, all 100 labelled images in each
NEEDS = "It is looked for in $COUNTERPOINT_DATA/cifar10 and ./data/cifar10, or where --root says."


@cache
def pretrain(data: str, seed: int, base: Path, root: str | None) -> Path:
    """The folder of SimCLR's run."""
    try:
        run = cp.fit(
            data, out=str(base / f"simclr-{data}-seed{seed}"), seed=seed, root=root, **PRETRAINING[data], **QUIET
        )
    except (FileNotFoundError, ImportError) as error:
        raise DataMissing(str(error)) from error
    return run.folder


def tune(data: str, method: str, seed: int, folder: Path, root: str | None = None) -> Evaluation:
    """An arm: fine-tune with ``method`` and score the classifier on the test images."""
    return _tune(data, method, seed, folder.parents[1] / f"process-{os.getpid()}", root)


@cache
def _tune(data: str, method: str, seed: int, base: Path, root: str | None) -> Evaluation:
    start = pretrain(data, seed, base, root)
    run = cp.finetune(
        str(start), method=method, labels_per_class=LABELS_PER_CLASS, epochs=STEPS[data], seed=seed, root=root,
        out=str(base / f"{method}-{data}-seed{seed}"), **QUIET,
    )  # fmt: skip
    dataset, splits, shown, train = load_data(data, run.config)
    assert dataset.labels is not None
    assert shown.labels is not None
    features, _ = embed_items(run.model(), dataset, splits.test)
    classifier = run.classifier()
    predictions = classifier.linear(features).argmax(1).numpy()
    test = Embeddings(features.numpy(), dataset.labels[splits.test])
    return classification(predictions, test, len(classifier.classes), shown.labels[train])


def core_tuning_on_digits(seed: int, folder: Path) -> Evaluation:
    """The method."""
    return tune("digits", "core_tuning", seed, folder)


def ce_on_digits(seed: int, folder: Path) -> Evaluation:
    """The baseline: cross entropy alone."""
    return tune("digits", "finetune_ce", seed, folder)


def supcon_on_digits(seed: int, folder: Path) -> Evaluation:
    """The other baseline: cross entropy and a tenth of SupCon."""
    return tune("digits", "finetune_supcon", seed, folder)


def core_tuning_on_cifar10(seed: int, folder: Path, root: str | None = None) -> Evaluation:
    """The method."""
    return tune("cifar10", "core_tuning", seed, folder, root)


def ce_on_cifar10(seed: int, folder: Path, root: str | None = None) -> Evaluation:
    """The baseline: cross entropy alone."""
    return tune("cifar10", "finetune_ce", seed, folder, root)


def supcon_on_cifar10(seed: int, folder: Path, root: str | None = None) -> Evaluation:
    """The other baseline: cross entropy and a tenth of SupCon."""
    return tune("cifar10", "finetune_supcon", seed, folder, root)


ARMS = {
    "digits": (core_tuning_on_digits, ce_on_digits, supcon_on_digits),
    "cifar10": (core_tuning_on_cifar10, ce_on_cifar10, supcon_on_cifar10),
}


def setting(name: str, data: str, metric: str, baseline: int, notes: str) -> Setting:
    """One comparison on one kind of data."""
    return Setting(
        name=f"{name}-{data}",
        data=data,
        metric=metric,
        arms={"method": ARMS[data][0], "baseline": ARMS[data][baseline]},
        higher_is_better=metric == "accuracy",
        needs="" if data == "digits" else NEEDS,
        notes=f"{notes} Both arms go on from the same pre-trained encoder of the seed, {STEPS[data]} steps on 10 "
        "labels a class. Nothing was tuned",
    )


CLAIM = Claim(
    paper=57,
    name="core-tuning",
    title="hard pairs and a focal contrast make fine-tuning better than cross entropy",
    statement=(
        "Fine-tuning a contrastively pre-trained encoder with Core-tuning gives a more accurate classifier than with "
        "cross entropy, also with SupCon beside it, and more compact classes."
    ),
    source="Zhang et al. 2021: the main table of fine-tuning, the ablation, and the figures of intra-class scatter",
    settings=[
        made
        for data in ARMS
        for made in (
            setting("ce", data, "accuracy", 1, "Core-tuning against cross entropy."),
            setting("supcon", data, "accuracy", 2, "Core-tuning against cross entropy and 0.1 SupCon."),
            setting("scatter", data, "scatter", 1, "Variance within classes over that between them."),
        )
    ],
)
