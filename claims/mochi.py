"""MoCHi: mixed hard negatives make the task harder, the embedding no worse and more even (Kalantidis et al. 2020).

Three statements, each on digits and on CIFAR-10, against MoCo v2 with the same queue, temperature, encoder, views,
steps and seeds; neither side is tuned, and MoCHi's counts are those that its defaults take from the queue.

*Proxy task.* The share of queries whose key scores higher than all negatives of their loss, averaged over the last
tenth of the training: for MoCHi the synthetic negatives count, for MoCo there are none. It should fall.

*Accuracy.* Nearest neighbours on the features no worse than MoCo's by half a point. The paper's own gains are about one
point on ImageNet-100 and none on ImageNet-1K, so that a gain is not asked for.

*Uniformity.* The logarithm of the mean Gaussian potential of test projections, on which the loss acts, lower
(better) than MoCo's: the paper's figure for the use of the embedding space.

Projections and features are scored in separate trainings with the same seeds. CIFAR-10 has three seeds, for time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from counterpoint.evaluation import Evaluation
from counterpoint.experiments.claims import Claim, Setting

if TYPE_CHECKING:
    from counterpoint.experiments import Run

NEEDS = "It is looked for in $COUNTERPOINT_DATA/cifar10 and ./data/cifar10, or where --root says."
BUDGETS: dict[str, dict[str, Any]] = {
    "digits": {"epochs": 20, "batch_size": 64},
    "cifar10": {"epochs": 6, "batch_size": 128, "limit": 6000},
}
QUEUE = {"digits": 512, "cifar10": 1024}
SEEDS = {"digits": (0, 1, 2, 3, 4), "cifar10": (0, 1, 2)}


def proxy(run: Run) -> Evaluation:
    """The share of positives that score highest, as the loss sees them, over the last tenth of the steps."""
    curves = run.score_curves
    first = curves.get("after/first", curves["before/first"])
    return Evaluation({"proxy": float(first[-max(1, len(first) // 10) :].mean())})


def settings(data: str) -> list[Setting]:
    """The three statements on one kind of data."""
    common: dict[str, Any] = {
        "data": data,
        "arms": {"method": {"method": "mochi"}, "baseline": {"method": "moco"}},
        "seeds": SEEDS[data],
        "needs": "" if data == "digits" else NEEDS,
    }
    budget = {**BUDGETS[data], "options": {"queue_size": QUEUE[data]}}
    told = f"A queue of {QUEUE[data]:,} on both sides. Nothing was tuned"
    return [
        Setting(
            name=f"proxy-{data}",
            metric="proxy",
            shared={**budget, "monitor": 1, "score": proxy},
            higher_is_better=False,
            notes=f"Up to 64 queries of every step, over the last tenth of the steps. {told}",
            **common,
        ),
        Setting(
            name=f"accuracy-{data}",
            metric="knn",
            shared=budget,
            at_least=-0.005,
            notes=f"Holds where MoCHi is no worse than MoCo by half a point. {told}",
            **common,
        ),
        Setting(
            name=f"uniformity-{data}",
            metric="uniformity",
            shared={**budget, "layer": "projection"},
            higher_is_better=False,
            notes=f"Of the projections of test images; lower is more even. {told}",
            **common,
        ),
    ]


CLAIM = Claim(
    paper=33,
    name="mochi",
    title="mixed hard negatives make the proxy task harder, not the embedding worse",
    statement=(
        "With synthetic hard negatives the right key is ranked first less often, nearest neighbours classify no worse, "
        "and embeddings are spread more evenly."
    ),
    source="Kalantidis et al. 2020: sections 3 and 4, the figures of the proxy task and of uniformity, ImageNet-100",
    settings=[*settings("digits"), *settings("cifar10")],
)
