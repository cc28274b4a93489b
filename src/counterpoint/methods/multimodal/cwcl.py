"""CWCL: Cross-Modal Transfer with Continuously Weighted Contrastive Loss (Srinivasa et al., NeurIPS 2023)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from counterpoint.encoders import MultimodalEncoder
from counterpoint.methods.base import Recipe
from counterpoint.methods.multimodal._locked import Locked, Meeting
from counterpoint.objectives import CWCLLoss

SOURCES = ("features", "embedding")


class CWCL(Locked):
    """A locked tower grades, by what it finds alike, which items are positives of each other for the tower in training.

    Args:
        encoder, views, recipe, dim, head, locked, learn_temperature: see
            :class:`~counterpoint.methods.multimodal._locked.Locked`.
        temperature: where the learned one starts: 0.07, CLIP's; the authors' could not be read.
        reverse: ``"infonce"``, the paper's, or ``"weighted"``: graded in both directions; see
            :class:`~counterpoint.objectives.CWCLLoss`.
        weights: from what the weights are made: the ``"features"`` of the locked encoder, which never change, or the
            ``"embedding"`` behind its head. Without a head they are one and the same.

    Reference: arXiv 2309.14580; its equations were reconstructed from a later paper that adopts them.

    Relations: with InfoNCE in both directions it is ``lit``.
    """

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any = None,
        recipe: Recipe | None = None,
        dim: int | None = None,
        head: str = "linear",
        locked: str = "",
        temperature: float = 0.07,
        learn_temperature: bool = True,
        reverse: str = "infonce",
        weights: str = "features",
    ) -> None:
        super().__init__(encoder, views, recipe, dim, head, locked, temperature, learn_temperature)
        if weights not in SOURCES:
            raise ValueError(f"weights: expected 'features' or 'embedding', got {weights!r}")
        self.weights = weights
        self.objective = CWCLLoss(temperature, reverse)

    def meet(self, pairs: Meeting) -> Tensor:
        source = pairs.features if self.weights == "features" else pairs.locked
        return self.objective(pairs.locked, pairs.trained, source, self.scale())
