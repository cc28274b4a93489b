"""Cross entropy with a supervised contrastive loss beside it (Khosla et al. 2020; Gunel et al., ICLR 2021)."""

from __future__ import annotations

from torch import Tensor

from counterpoint.encoders import Encoder
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.finetuning._classifying import Classifying, contrast_head
from counterpoint.objectives import SupCon


class FinetuneSupCon(Classifying):
    """``CE + eta * SupCon`` on the views as they are: Core-tuning without hard pairs, focal weights and mixed labels.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        classes: C.
        eta: weight of the contrastive loss; 0.1, Core-tuning's, so that the two can be compared.
        temperature: 0.07, likewise.
        dim: D of the contrast head, 256, likewise.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        classes: int = 10,
        eta: float = 0.1,
        temperature: float = 0.07,
        dim: int = 256,
    ) -> None:
        super().__init__(encoder, views, recipe, classes)
        self.projector = contrast_head(encoder.features, dim)
        self.eta, self.contrast = eta, SupCon(temperature)

    def loss_of(self, features: Tensor, labels: Tensor) -> Tensor:
        classification = super().loss_of(features, labels)
        if len(labels.unique()) == len(labels):  # no label twice, no positive
            return classification
        contrast = self.contrast(self.projector(features), labels)
        return self.total(classification=classification, contrast=self.eta * contrast)
