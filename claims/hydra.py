"""Hydra / SimLAP: with gates, any two classes make a good positive pair (Wu et al., arXiv 2410.18200).

*Gates*. SimLAP on arbitrary pairs, behind gates and without them. Without, images of any two classes are pulled
together as they are, which should teach little; the card of the paper asks for two points more with gates. Scored by
linear probes from few labels, since one from all labels is saturated on digits.

*Collapse*. The paper says that arbitrary pairs leave more dimensions in use than pairs of one class, which is
supervised contrast (``pairs="identical"``): the effective rank of the test features.

*Transfer*. Trained on the digits 0 to 6 and probed, with five labels a class, on 7, 8 and 9, which neither arm has
seen: arbitrary pairs should be no worse than pairs of one class; a point less is taken to be none.

*Others*. Hydra, the form with a teacher and an instance loss, against SimCLR, which sees no labels, and against SupCon,
which sees the same labels. All three have their own defaults here; no arm was tuned.

Encoder, first weights, order, views, optimiser and steps are the same in both arms of a setting. The paper trains
ImageNet's 1,000 classes; a claim about 500,500 pairs of classes is tried here with 55.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from counterpoint.data import Splits, load, split
from counterpoint.evaluation import Embeddings, Evaluation, few_label_probe
from counterpoint.experiments.claims import Claim, Setting

if TYPE_CHECKING:
    from counterpoint.experiments import Run

SEEN = 7  # the first so many digits
NEEDS = "It is looked for in $COUNTERPOINT_DATA/cifar10 and ./data/cifar10, or where --root says."
DATA: dict[str, dict[str, Any]] = {
    "digits": {"encoder": "convnet", "epochs": 15, "batch_size": 128},
    "cifar10": {"encoder": "convnet", "epochs": 5, "batch_size": 128, "limit": 4000},
}
SEEDS = {"digits": (0, 1, 2, 3, 4), "cifar10": (0, 1, 2)}
PROBE = {"digits": "probe_5", "cifar10": "probe_10"}


class FirstDigits(Splits):
    """The usual split of digits with a training part of the first classes alone."""

    __eq__ = object.__eq__  # a dataclass of arrays cannot be compared
    __hash__ = object.__hash__

    def to_config(self) -> dict[str, Any]:
        return {"training part": f"digits 0 to {SEEN - 1}, {len(self.train)} images"}


def first_digits() -> FirstDigits:
    """Validation and test parts are left as they are."""
    dataset = load("digits")
    assert dataset.labels is not None
    whole = split(dataset)
    return FirstDigits(whole.train[dataset.labels[whole.train] < SEEN], whole.val, whole.test)


def unseen(run: Run) -> Evaluation:
    """Accuracy on the test images of the unseen digits, of probes with five labels from those outside the test part."""
    dataset = load("digits")
    labels = dataset.labels
    assert labels is not None
    test = split(dataset).test
    rest = np.setdiff1d(np.flatnonzero(labels >= SEEN), test)
    sets = []
    for indices in (rest, test[labels[test] >= SEEN]):
        with torch.inference_mode():
            features = run.encoder()(dataset[indices]["image"].float() / 255)
        sets.append(Embeddings(features.numpy(), labels[indices]))
    right = few_label_probe(*sets, shots=5, draws=20) == sets[1].labels
    return Evaluation({"unseen": float(right.mean())}, {"unseen": right.mean(0).astype(np.float32)})


def setting(name: str, data: str, metric: str, method: Any, baseline: Any, notes: str, **more: Any) -> Setting:
    """Two ways of training on the same data."""
    return Setting(
        name=f"{name}-{data}",
        data=data,
        metric=metric,
        arms={"method": method, "baseline": baseline},
        shared={**DATA[data], **more.pop("shared", {})},
        differs=("method", "options"),
        seeds=SEEDS[data],
        needs=NEEDS if data == "cifar10" else "",
        notes=notes,
        **more,
    )


ARBITRARY, OPEN, IDENTICAL = (
    {"method": "simlap", "options": options} for options in ({}, {"gate": "open"}, {"pairs": "identical"})
)

CLAIM = Claim(
    paper=4,
    name="hydra",
    title="behind gates, any two classes make a positive pair",
    statement=(
        "Training on pairs of arbitrary classes works if they are compared behind gates of their own, uses more "
        "dimensions than training on pairs of one class, transfers no worse, and beats ordinary contrastive training."
    ),
    source="Wu et al. 2024 and 2025, abstracts",
    settings=[
        *(
            setting(
                "gates", data, PROBE[data], ARBITRARY, OPEN,
                "SimLAP on arbitrary pairs behind gates against the same without; it holds from 2 points on",
                at_least=0.02,
            )
            for data in DATA
        ),
        *(
            setting(
                "rank", data, "effective_rank", ARBITRARY, IDENTICAL,
                "SimLAP on arbitrary pairs against pairs of one class, both behind gates",
            )
            for data in DATA
        ),
        setting(
            "transfer", "digits", "unseen", ARBITRARY, IDENTICAL,
            "Trained on 0 to 6, probed on 7 to 9 with five labels each, drawn twenty times; no worse than by a point",
            at_least=-0.01,
            shared={"splits": first_digits(), "score": unseen},
        ),
        setting(
            "simclr", "cifar10", PROBE["cifar10"], {"method": "hydra"}, {"method": "simclr"},
            "SimCLR sees no labels, which Hydra does",
        ),
        setting(
            "supcon", "cifar10", PROBE["cifar10"], {"method": "hydra"}, {"method": "supcon"},
            "Both see the labels of the training part",
        ),
    ],
)  # fmt: skip
