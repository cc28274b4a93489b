"""Hard contrastive loss over a memory bank: Understanding the Behaviour of Contrastive Loss (Wang & Liu, CVPR 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from counterpoint.encoders import Encoder, mlp_head
from counterpoint.methods.base import Method, Recipe, Views
from counterpoint.objectives.hard import HardContrastive as HardLoss
from counterpoint.objectives.inputs import normalize, positive
from counterpoint.pairwise import gather, gather_labels


class HardContrastiveBank(Method):
    """Instance discrimination: an image's embedding against a remembered one of every training image, its own too.

    The bank holds one unit vector of each training item. An item's own is the positive of all its views; the nearest of
    the others are the negatives. After each step the own one moves to the mean ``z`` of the views::

        v  <-  momentum v + (1 - momentum) z,     scaled to length 1

    This is how the paper trains, each image against all others, with as many negatives however small the batch;
    :class:`~counterpoint.methods.vision.hard_contrastive.HardContrastive` takes the batch, or a queue.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`. Any number of views: the paper has one,
            and each is an anchor. The paper trains a ResNet-18 by SGD at 0.03 in batches of 128 on CIFAR.
        items: of the data set; :func:`counterpoint.fit` knows. Batches must carry ``batch["index"]``, positions in it.
        temperature, fraction, count: as for :class:`~counterpoint.objectives.hard.HardContrastive`; ``fraction`` is of
            all other training items, 0.0819 the paper's 4,095 of CIFAR's. 1 is the softmax over all of them.
        momentum: 0.5, from the instance discrimination of Wu et al. (2018); the paper's could not be read.
        dim: D of the projection, 128; its hidden layer is as wide as the features (the paper does not say).

    The bank starts with random unit vectors, is the same on all processes and belongs to the checkpoint: items x D
    numbers. A step takes O(B items D).

    Reference: arXiv 2012.09740; arXiv 1805.01978 for the bank.
    """

    n_views = None
    memory: Tensor
    members: Tensor

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        *,
        items: int,
        temperature: float = 1.0,
        fraction: float = 0.0819,
        count: int | None = None,
        momentum: float = 0.5,
        dim: int = 128,
    ) -> None:
        super().__init__(encoder, views, recipe)
        positive(items=items)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: expected a number of at least 0 and below 1, got {momentum}")
        self.projector = mlp_head(encoder.features, encoder.features, dim)
        self.objective = HardLoss(temperature, fraction, count)
        self.momentum = momentum
        self.register_buffer("memory", normalize(torch.randn(items, dim)))
        self.register_buffer("members", torch.arange(items), persistent=False)  # the positions of training items
        self._ddp_params_and_buffers_to_ignore = ["memory", "members"]

    def prepare(self, dataset: Any, indices: Any) -> None:
        self.members = torch.as_tensor(indices, device=self.memory.device)

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        index = self._index(batch)
        z = [normalize(self.project(view).float()) for view in views]
        bank = self.memory[self.members].to(z[0])
        own = self.memory[index].to(z[0])
        loss = torch.stack([self.objective(each, own, bank, index, self.members) for each in z]).mean()
        self.remember(torch.stack(z).mean(0), index)
        return loss

    @torch.no_grad()
    def remember(self, z: Tensor, index: Tensor) -> None:
        """Move the bank's rows at ``index`` (B,) towards ``z`` (B, D)."""
        whole = gather_labels(index)
        moved = self.momentum * self.memory[whole] + (1 - self.momentum) * gather(z.detach()).to(self.memory)
        self.memory[whole] = normalize(moved)

    def _index(self, batch: dict[str, Any]) -> Tensor:
        if "index" not in batch:
            raise ValueError("index: this method needs batch['index'], the positions of the items in the data set")
        index: Tensor = batch["index"].to(self.memory.device)
        if int(index.min()) < 0 or int(index.max()) >= len(self.memory):
            raise ValueError(
                f"index: expected 0 to {len(self.memory) - 1}, got {int(index.min())} to {int(index.max())}"
            )
        return index
