"""What the three forms of Hallucinator share: the generator, the doubled batch, and how alike its pairs were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from counterpoint.findings import Curves, Finding
from counterpoint.methods.base import Method
from counterpoint.objectives.inputs import normalize
from counterpoint.views import FeatureHallucinator

PARTS = 50  # of the training, for the figure


class Hallucinating(Method):
    """A method each of whose anchors gets a second one, made by a network that is trained with it.

    How alike anchors and positives are is logged as ``real_similarity`` and ``hallucinated_similarity`` (mean cosine)
    and drawn over the training on the page of the run.
    """

    similarities: Tensor

    def make_generator(
        self, dim: int, hidden: int | None, depth: int, ratio: tuple[float, float], hallucinate: bool, unit: bool
    ) -> None:
        """Build the generator, after everything else, so that the rest starts as it would without one."""
        self.generator = FeatureHallucinator(dim, hidden, depth, ratio) if hallucinate else None
        self.normalize_first = unit
        self.register_buffer("similarities", torch.zeros(3, PARTS))  # sums of both, and their number

    def doubled(self, x: Tensor, k: Tensor, target: Tensor | None = None) -> Tensor:
        """``[x; x_hal]`` (2B, D), or without a generator ``[x; x]``.

        Args:
            x: anchors (B, D).
            k: what they are pushed away from.
            target: their positives, where these are not ``k``; only looked at.
        """
        x, k = x.float(), k.float()
        if self.normalize_first:
            x, k = normalize(x), normalize(k)
        both = torch.cat([x, x]) if self.generator is None else self.generator(x, k)
        if self.training:
            self._look(both.detach(), (k if target is None else target).detach())
        return both

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        before = self.similarities.sum(1)
        loss = super().training_step(batch, batch_idx)
        real, hallucinated, number = self.similarities.sum(1) - before
        told = {"real_similarity": real / number, "hallucinated_similarity": hallucinated / number}
        self.log_dict(told, on_step=False, on_epoch=True)
        return loss

    def findings(self, dataset: Any, indices: Any) -> Sequence[Finding]:
        """How alike anchors and their positives were, in the course of the training."""
        number = self.similarities[2]
        seen = (number > 0).cpu()
        if self.generator is None or not bool(seen.any()):
            return ()
        real, hallucinated = (self.similarities[:2] / number).cpu()[:, seen].numpy()
        share = (torch.arange(PARTS)[seen] + 0.5) / PARTS
        return [
            Curves(
                "Real and hallucinated pairs",
                "Mean cosine of an anchor and its positive in training. A hallucinated anchor that is less like the "
                "positive than the real one makes a harder pair; one that is just as like it is a copy.",
                share.numpy(),
                {"real": real, "hallucinated": hallucinated},
                x_label="share of the training",
                y_label="cosine",
            )
        ]

    @torch.no_grad()
    def _look(self, both: Tensor, target: Tensor) -> None:
        target = normalize(target.float())
        part = min(PARTS - 1, int(self.progress * PARTS))
        for row, anchors in enumerate(normalize(both).chunk(2)):
            self.similarities[row, part] += (anchors * target).sum(1).mean()
        self.similarities[2, part] += 1
