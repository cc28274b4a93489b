"""Temperature: uniformity against tolerance, and explicit hard negatives as a way out (Wang & Liu, CVPR 2021).

The paper's statements on scikit-learn's digits, all on the projection ``z``, on which the loss acts. Temperatures are
.3, .5 and 1.0: below .3 so small a task is not trained long enough for the loss to spread the items, and the order
turns round. Uniformity is ``log E exp(-2 d^2)``, lower is more even. Tolerance is the mean cosine within classes; the
paper's mean over all pairs is the same times a constant, since all runs have the same test items.

Accuracy is measured twice: by a linear probe with all labels, as the paper does, which on digits stands near .97 for
every loss and so tells little apart, and by one with 5 labels a class, which has room.

No arm was tuned. Gradients of the softmax loss scale with one over the temperature; the optimiser, AdamW, takes steps
whose size does not depend on the scale of the gradient, so that no temperature gets larger steps than another.
"""

from __future__ import annotations

from typing import Any

from counterpoint.experiments.claims import Claim, Setting

SHARED = {
    "encoder": "mlp",
    "encoder_options": {"widths": [256, 128]},
    "layer": "projection",
    "epochs": 30,
    "batch_size": 128,  # the paper's
}


def softmax(temperature: float) -> dict[str, Any]:
    """The ordinary contrastive loss."""
    return {"method": "simclr", "options": {"temperature": temperature}}


def temperatures(metric: str, method: float, baseline: float) -> Setting:
    """SimCLR at two temperatures, of which the first should have more of ``metric``."""
    return Setting(
        name=f"{metric}-{method}-{baseline}".replace(".", ""),
        data="digits",
        metric=metric,
        arms={"method": softmax(method), "baseline": softmax(baseline)},
        shared=SHARED,
        differs=("options",),
        higher_is_better=metric == "tolerance",
        notes=f"SimCLR at temperature {method} against {baseline}. Scored on the projection of the test items",
    )


def accuracies(name: str, method: dict[str, Any], baseline: dict[str, Any], notes: str) -> list[Setting]:
    """Two losses, of which the first should be classified better, with all labels and with few."""
    return [
        Setting(
            name=name + few,
            data="digits",
            metric=metric,
            arms={"method": method, "baseline": baseline},
            shared=SHARED,
            differs=("method", "options"),
            notes=f"{notes}. Scored on the projection",
        )
        for few, metric in (("", "probe"), ("-few-labels", "probe_5"))
    ]


CLAIM = Claim(
    paper=18,
    name="temperature",
    title="temperature trades uniformity against tolerance; hard negatives make high temperatures work",
    statement=(
        "The lower the temperature, the more evenly the embeddings cover the sphere and the less similar the items of "
        "a class stay. Without any preference for hard negatives (the simple loss) the embedding is worse; with the "
        "hardest negatives chosen explicitly, the one of a high temperature is better."
    ),
    source="Wang & Liu 2021: uniformity and tolerance by temperature, and the accuracies of the four losses",
    settings=[
        temperatures("uniformity", 0.3, 0.5),
        temperatures("uniformity", 0.5, 1.0),
        temperatures("tolerance", 0.5, 0.3),
        temperatures("tolerance", 1.0, 0.5),
        *accuracies(
            "simple",
            softmax(0.3),
            {"method": "simple_contrastive"},
            "The softmax loss at the paper's best temperature, .3, against the simple loss, whose negatives weigh one "
            "over their number: the limit of the softmax",
        ),
        *accuracies(
            "hard",
            {"method": "hard_contrastive", "options": {"temperature": 1.0, "fraction": 0.0819}},
            softmax(1.0),
            "Both at temperature 1. The hard loss keeps .0819 of an anchor's negatives, the paper's share for CIFAR: "
            "21 of 254",
        ),
    ],
)
