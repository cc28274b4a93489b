"""CLIP: Learning Transferable Visual Models From Natural Language Supervision (Radford et al., ICML 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from counterpoint.encoders import MultimodalEncoder
from counterpoint.methods.base import Recipe
from counterpoint.methods.multimodal._multimodal import LogitScale, Multimodal
from counterpoint.objectives import GroupInfoNCE


class CLIP(Multimodal):
    """A tower per modality; each finds its partner of the other among the batch, in both directions.

    With more than two modalities it is the sum over all pairs of them (what Symile calls pairwise CLIP), each over the
    items that have both.

    Args:
        encoder, views, recipe, dim, head, freeze: see :class:`~counterpoint.methods.multimodal._multimodal.Multimodal`.
        temperature: where the learned one starts, 0.07 (section 2.4).
        learn_temperature: ``False`` keeps it.

    Reference: arXiv 2103.00020.
    """

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any = None,
        recipe: Recipe | None = None,
        dim: int = 128,
        head: str = "linear",
        freeze: Sequence[str] = (),
        temperature: float = 0.07,
        learn_temperature: bool = True,
    ) -> None:
        super().__init__(encoder, views, recipe, dim, head, freeze)
        self.objective = GroupInfoNCE(temperature)
        self.scale = LogitScale(1 / temperature, learn=learn_temperature)

    def loss(self, views: Sequence[Any], batch: dict[str, Any]) -> Tensor:
        z = self.embed_present(views[0], batch)
        terms = {f"{a}_{b}": self.objective(x, y, scale=self.scale()) for a, b, x, y in self.pairs(z, batch)}
        return self.total(**terms) if terms else self.nothing(z)

    def after_step(self) -> None:
        self.scale.clamp()
