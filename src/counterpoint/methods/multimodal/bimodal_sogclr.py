"""SogCLR for pairs of modalities: Stochastic Optimization for Global Contrastive Learning (Yuan et al., ICML 2022)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.encoders import MultimodalEncoder
from counterpoint.methods.base import Recipe
from counterpoint.methods.multimodal._multimodal import Multimodal, View
from counterpoint.objectives.sogclr import BimodalSogCLR as Objective


class BimodalSogCLR(Multimodal):
    """CLIP with a moving average of each item's denominator, in each direction, so that small batches do.

    With more than two modalities it is the sum over all pairs of them, each over the items that have both and with
    averages of its own.

    Args:
        encoder, views, recipe, dim, head, freeze: see :class:`~counterpoint.methods.multimodal._multimodal.Multimodal`;
            the authors have linear heads to 256 dimensions.
        items: of the data set; :func:`counterpoint.fit` knows. Batches must carry ``batch["index"]``, positions in it.
        gamma: share of the batch in the moving average, 0.8 (the iSogCLR repository; 0.9 in LibAUC).
        temperature: 0.07, where CLIP's starts, for data of thousands; the authors' 0.01 is for CC3M's three million
            pairs.
        compat: see :class:`~counterpoint.objectives.sogclr.BimodalSogCLR`.

    Averages step with each batch of the training, and are saved in its checkpoints.

    Reference: arXiv 2202.12387; code zhqiu/contrastive-learning-iSogCLR, ``bimodal_exps``.
    """

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any = None,
        recipe: Recipe | None = None,
        dim: int = 128,
        head: str = "linear",
        freeze: Sequence[str] = (),
        *,
        items: int,
        gamma: float = 0.8,
        temperature: float = 0.07,
        compat: str | None = None,
    ) -> None:
        super().__init__(encoder, views, recipe, dim, head, freeze)
        self.remember(lambda: Objective(items, gamma, temperature, compat=compat))

    def remember(self, objective: Callable[[], Objective]) -> None:
        """An objective for each two modalities; ``objectives["0 1"]`` is that of the first and the second."""
        count = len(self.names)
        self.objectives = nn.ModuleDict({f"{a} {b}": objective() for a in range(count) for b in range(a + 1, count)})

    def loss(self, views: Sequence[View], batch: dict[str, Any]) -> Tensor:
        if "index" not in batch:
            raise ValueError("index: this method needs batch['index'], the positions of the items in the data set")
        z, terms = self.embed_present(views[0], batch), []
        for a, b, x, y in self.pairs(z, batch):
            there, index = self.both(batch, a, b), batch["index"]
            objective = self.objectives[f"{self.names.index(a)} {self.names.index(b)}"]
            where = {"epoch": self.current_epoch, "progress": self.progress}
            terms.append(objective(x, y, index if len(x) == len(index) else index[there], **where))
        return torch.stack(terms).sum() if terms else self.nothing(z)
