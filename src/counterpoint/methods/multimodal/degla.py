"""DeGLA: Decoupled Global-Local Alignment for Improving Compositional Understanding (Hu et al., ACM MM 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.encoders import EMA, MultimodalEncoder
from counterpoint.methods.base import Recipe
from counterpoint.methods.multimodal.negclip import NegCLIP, Rewritten
from counterpoint.mining.captions import KINDS
from counterpoint.objectives import DeGLALoss


class DeGLA(NegCLIP):
    """NegCLIP with two local contrasts, held by a teacher to what the pre-trained model knew.

    Beside the base loss of :class:`~counterpoint.methods.multimodal.negclip.NegCLIP`: an image against its caption and
    the negatives of that caption alone (IGC), a caption against the teacher's vector of it and its negatives (TGC), and
    squared distances of all vectors to the teacher's. The teacher is a moving average of the student that begins as the
    pre-trained model; without a trained encoder to start from (``fit --encoder runs/clip``) it has nothing to teach.

    Args:
        encoder, views, recipe, dim, head, freeze, temperature, learn_temperature, negatives, count, kinds: see
            :class:`~counterpoint.methods.multimodal.negclip.NegCLIP`.
        w_igc, w_tgc: 0.1 each, the official script's.
        w_distill: 0.005, the official script's, times a sum over the batch.
        distill_batch: pairs in the batch to which ``w_distill`` belongs: 32, which the script gives each GPU; how many
            GPUs it does not say, and the sum runs over all of them. A sum over a batch of another size is brought to
            this one; ``None`` leaves it as it is, and then twice the batch is twice the weight. The larger, the more is
            kept of what the model knew, and the less is learned.
        decay: of the teacher, after each step: 0.9996, the official script's, for some 10,000 steps.
        tgc_scale: 10, the official code's.

    The teacher's dropout is off, as the official one's is; its batch norms, which CLIP has none of, see the statistics
    of the batch as the student's do, so that the two begin equal. Its weights belong to the checkpoint, not to what the
    run saves: what is used afterwards is the student.

    Logged at each step: ``base``, ``igc``, ``tgc``, ``distill``, and ``foil_accuracy``.

    Reference: arXiv 2504.16801; official code xiaoxing2001/DeGLA, whose negatives a language model wrote.
    """

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any = None,
        recipe: Recipe | None = None,
        dim: int | None = None,
        head: str | None = None,
        freeze: Sequence[str] = (),
        temperature: float | str = 0.07,
        learn_temperature: bool = True,
        negatives: str | None = None,
        count: int = 4,
        kinds: Sequence[str] = KINDS,
        w_igc: float = 0.1,
        w_tgc: float = 0.1,
        w_distill: float = 0.005,
        distill_batch: int | None = 32,
        decay: float = 0.9996,
        tgc_scale: float = 10.0,
    ) -> None:
        super().__init__(
            encoder, views, recipe, dim, head, freeze, temperature, learn_temperature, negatives, count, kinds
        )
        if not 0 <= decay <= 1:
            raise ValueError(f"decay: expected a number from 0 to 1, got {decay}")
        self.objective = DeGLALoss(w_igc, w_tgc, w_distill, tgc_scale, distill_batch)
        self.teacher, self.decay = EMA(encoder), decay

    def train(self, mode: bool = True) -> DeGLA:
        """As for any module, but of the teacher only batch norms leave evaluation mode, where the student's do."""
        super().train(mode)
        for own, module in zip(self.encoder.modules(), self.teacher.teacher.modules(), strict=True):
            module.training = own.training and isinstance(module, nn.modules.batchnorm._BatchNorm)
        return self

    def contrast(self, image: Tensor, text: Tensor, negatives: Tensor, pairs: Rewritten) -> Tensor:
        with torch.no_grad():
            teacher = self.vectors(self.teacher.teacher, pairs)  # type: ignore[arg-type]
        parts = self.objective(image, text, negatives, *teacher, self.scale(), pairs.mask)
        return self.total(**{name: weight * parts[name] for name, weight in self.objective.weights.items()})

    def after_step(self) -> None:
        super().after_step()
        self.teacher.update(self.encoder, self.decay)
