"""Symile: Contrasting with Symile (Saporta et al., NeurIPS 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from counterpoint.encoders import MissingModalityEmbedding, MultimodalEncoder
from counterpoint.methods.base import Recipe
from counterpoint.methods.multimodal._multimodal import LogitScale, Multimodal, View
from counterpoint.objectives import SymileLoss, mip_scores


class Symile(Multimodal):
    """All modalities of an item at once: each, as the anchor, tells its own tuple of the others from mixed ones.

    Where what two modalities share depends on a third, as a sum depends on both of its terms, pairs of modalities
    (``clip``) may have nothing to tell; their product has. With two modalities it is CLIP with one shuffle.

    Args:
        encoder, views, recipe, dim, head, freeze: see :class:`~counterpoint.methods.multimodal._multimodal.Multimodal`.
        negatives: ``"n"``, the other modalities of a batch shuffled, the official default, or ``"all"`` combinations of
            them, N^(M-1): see :class:`~counterpoint.objectives.SymileLoss`.
        temperature: where the learned one starts; 0.07, CLIP's. The official experiments choose it anew for each data
            set.
        learn_temperature: ``False`` keeps it.
        largest_scale: bound of ``1/temperature``; 1,000. The scores of unit vectors shrink with modalities and
            dimensions, so that CLIP's 100 may be too small; the official code has no bound.
        missing: ``"learn"``: where an item lacks a modality, a learned vector takes the place of its embedding, and the
            item stays (in the official code a placeholder and a flag enter the encoder, which come to the same vector
            for all items); ``"drop"`` leaves out items that lack any, which can be better where data are few.

    Reference: arXiv 2411.01053; official code: rajesh-lab/symile.
    """

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any = None,
        recipe: Recipe | None = None,
        dim: int = 128,
        head: str = "linear",
        freeze: Sequence[str] = (),
        negatives: str = "n",
        temperature: float = 0.07,
        learn_temperature: bool = True,
        largest_scale: float = 1000.0,
        missing: str = "learn",
    ) -> None:
        super().__init__(encoder, views, recipe, dim, head, freeze)
        if missing not in ("learn", "drop"):
            raise ValueError(f"missing: expected 'learn' or 'drop', got {missing!r}")
        self.objective = SymileLoss(negatives, temperature, reduction="none")
        self.missing = missing
        self.scale = LogitScale(1 / temperature, largest_scale, learn_temperature)
        self.placeholders = nn.ModuleDict({name: MissingModalityEmbedding(dim, "vector") for name in self.names})
        self.projector = nn.ModuleDict({"scale": self.scale, "placeholders": self.placeholders})  # kept with the run

    def loss(self, views: Sequence[View], batch: dict[str, Any]) -> Tensor:
        z = self.complete(views[0], batch)
        if self.missing == "drop":
            there = self.both(batch, *z)
            if there is not None:
                z = {name: part[there] for name, part in z.items()}
        if not self._enough(next(iter(z.values()))):
            return self.nothing(z)
        of_anchors = self.objective(z, scale=self.scale()).view(len(z), -1).mean(1)
        return self.total(**dict(zip(z, of_anchors / len(z), strict=True)))

    def complete(self, view: View, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """``{name: z (B, D)}`` of all modalities, raw; where one is missing, the vector that stands for that."""
        z, told = self.embed_present(view, batch), batch.get("present")
        return z if told is None else {name: self.placeholders[name](part, told[name]) for name, part in z.items()}

    def candidate_scores(self, candidates: Tensor, queries: Mapping[str, Tensor]) -> Tensor:
        """The multilinear inner products; times :meth:`scale` they are the logits of the loss."""
        return mip_scores(candidates, queries)

    def after_step(self) -> None:
        self.scale.clamp()
