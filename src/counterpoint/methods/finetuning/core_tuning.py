"""Core-tuning: Unleashing the Power of Contrastive Self-Supervised Visual Models via Contrast-Regularized Fine-Tuning
(Zhang et al., NeurIPS 2021)."""

from __future__ import annotations

from torch import Tensor

from counterpoint.encoders import Encoder
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.finetuning._classifying import Classifying, contrast_head
from counterpoint.mining import generate_hard_pairs
from counterpoint.objectives import CoreTuning as CoreTuningLoss


class CoreTuning(Classifying):
    """Fine-tuning on a batch and on hard pairs mixed from its features: soft cross entropy and a focal contrast.

    Each step triples the batch in feature space (:func:`~counterpoint.mining.generate_hard_pairs`), classifies all
    rows by their mixed labels, which smooths the decision boundary, and draws rows of one label together on a contrast
    head, the less probable pairs the more (:class:`~counterpoint.objectives.FocalSupCon`).

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        classes: C.
        eta: weight of the contrastive loss, 0.1 (the official README's for CIFAR-10).
        alpha: of the Beta distribution of the shares, 1 (README).
        neg_min_lambda: a semi-hard negative is at least so much of its negative; 0.8 (official code).
        temperature: 0.07 (official code).
        dim: D of the contrast head, 256 (official code).
        normalize_by: ``"positives"``, the paper's equation, or ``"all"``, the official code's.
        detach_weight: hold the focal weight constant; the official code does not.
        official_detach: the batch's own rows give the encoder no gradient, only the mixed ones do, as in the official
            code, where that looks like an oversight. They train classifier and contrast head either way.
        compat: ``"paper"``, or ``"official"`` for the released search for hard positives, which is broken, and its
            random partners: see :func:`~counterpoint.mining.generate_hard_pairs`.

    Pairs are sought in each process's own batch; the contrast is over all processes.

    Reference: arXiv 2102.06605; github.com/Vanint/Core-tuning. The paper trains a ResNet-50 with SGD at 0.01 on batches
    of 256; the optimiser here is everybody's default.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        classes: int = 10,
        eta: float = 0.1,
        alpha: float = 1.0,
        neg_min_lambda: float = 0.8,
        temperature: float = 0.07,
        dim: int = 256,
        normalize_by: str = "positives",
        detach_weight: bool = False,
        official_detach: bool = False,
        compat: str = "paper",
    ) -> None:
        super().__init__(encoder, views, recipe, classes)
        self.projector = contrast_head(encoder.features, dim)
        self.objective = CoreTuningLoss(eta, temperature, normalize_by, detach_weight)
        self.alpha, self.neg_min_lambda = alpha, neg_min_lambda
        self.official_detach, self.compat = official_detach, compat

    def loss_of(self, features: Tensor, labels: Tensor) -> Tensor:
        rows, targets = generate_hard_pairs(
            features, labels, self.classifier.out_features, alpha=self.alpha, neg_min_lambda=self.neg_min_lambda,
            compat=self.compat, detach_originals=self.official_detach,
        )  # fmt: skip
        return self.total(**self.objective.terms(self.classifier(rows), self.projector(rows), targets))
