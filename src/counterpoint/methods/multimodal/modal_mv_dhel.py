"""MV-DHEL of modalities: A Principled Framework for Multi-View Contrastive Learning (Koromilas et al. 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from counterpoint.encoders import MultimodalEncoder
from counterpoint.methods.base import Recipe
from counterpoint.methods.multimodal._multimodal import Multimodal, View
from counterpoint.objectives import MVDHEL


class ModalMVDHEL(Multimodal):
    """Each modality is a view, by a tower of its own: all meet in one term, and items are spread within each.

    The pull is on all pairs of modalities at once, most on the two that are closest already. As items are spread within
    a modality and not against the others, nothing pushes modalities apart. The authors train three in this way; what
    they did beyond that could not be read.

    Args:
        encoder, views, recipe, dim, head, freeze: see :class:`~counterpoint.methods.multimodal._multimodal.Multimodal`.
        temperature: 0.2, the default of the official loss.
        include_self: see :class:`~counterpoint.objectives.MVDHEL`.

    An item that lacks a modality is left out, since the paper defines none for incomplete ones.

    Reference: arXiv 2507.06979. Of one modality and its augmentations: ``mv_dhel``.
    """

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any = None,
        recipe: Recipe | None = None,
        dim: int = 128,
        head: str = "linear",
        freeze: Sequence[str] = (),
        temperature: float = 0.2,
        include_self: bool = False,
    ) -> None:
        super().__init__(encoder, views, recipe, dim, head, freeze)
        self.objective: nn.Module = MVDHEL(temperature, include_self)

    def loss(self, views: Sequence[View], batch: dict[str, Any]) -> Tensor:
        z, there = self.embed_present(views[0], batch), self.both(batch, *self.names)
        if there is not None:
            z = {name: part[there] for name, part in z.items()}
        first, second = (z[name] for name in self.names[:2])
        if not self._enough(first):
            return self.nothing(z)
        if self.watching:
            self.watch_batch(first, second)
        return self.objective(z)
