"""DeepCluster-v2, SwAV's offline sibling (Caron et al., NeurIPS 2020, appendix D; first version: ECCV 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from counterpoint.encoders import Encoder
from counterpoint.encoders.prototypes import Prototypes
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.vision._multicrop import MultiCrop
from counterpoint.mining.clusters import spherical_kmeans
from counterpoint.objectives.inputs import positive
from counterpoint.pairwise import gather, gather_labels


class DeepCluster(MultiCrop):
    """All items are clustered before each epoch; each crop must then find the cluster of its item.

    The embeddings of the global crops, as they came by in the epoch before, are clustered by spherical k-means. The
    centroids become the prototypes, which have no gradient, and with the cluster ``y`` of each item::

        loss = mean over heads, crops and items of  - log softmax( <z, c_1..K> / temperature )_y

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        items: of the data set; :func:`counterpoint.fit` knows. Batches must carry ``batch["index"]``, positions in it.
        temperature: 0.1, the official default.
        prototypes: K of each head; ``None`` is 3,000, the official default, or one for 40 items where that is fewer.
        heads: 3, the official default: clusterings that differ in where they start, and in the global crop that they
            are made of, the heads taking them in turn.
        n_assign: 2, the official default.
        iterations: of k-means: 10, the official code's.
        dim: D of the projection, 128; its hidden layer is as wide as the features.

    Before the first epoch the embeddings are made in a pass over the data without training. An item that no batch has
    shown yet has no cluster and no loss until the next epoch. Memory of n_assign x items x D numbers, the same on all
    processes and part of the checkpoint; clusterings start from the same items in every training of as many.

    Reference: arXiv 2006.09882; official code: facebookresearch/swav, main_deepclusterv2.py.
    """

    memory: Tensor
    seen: Tensor
    assignments: Tensor

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        *,
        items: int,
        temperature: float = 0.1,
        prototypes: int | None = None,
        heads: int = 3,
        n_assign: int = 2,
        iterations: int = 10,
        dim: int = 128,
    ) -> None:
        super().__init__(encoder, views, recipe, n_assign, dim)
        positive(temperature=temperature, items=items, heads=heads)
        k = min(3000, max(2, items // 40)) if prototypes is None else prototypes
        self.prototypes = Prototypes(dim, heads * k).requires_grad_(False)  # the heads' one after the other
        self.register_buffer("memory", torch.zeros(n_assign, items, dim))
        self.register_buffer("seen", torch.zeros(items, dtype=torch.bool))
        self.register_buffer("assignments", torch.full((heads, items), -1))
        # all processes make the same of them: DistributedDataParallel need not send them around before each step
        self._ddp_params_and_buffers_to_ignore = ["memory", "seen", "assignments"]
        self.temperature, self.heads, self.k, self.iterations = temperature, heads, k, iterations

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        z, index = self.embed_by_size(views, least=1), self._index(batch)
        targets = self.assignments[:, index].T.flatten()  # (B heads,)
        logits = [self.prototypes(each).view(-1, self.k) / self.temperature for each in z]
        terms = [cross_entropy(each, targets, ignore_index=-1, reduction="none") for each in logits]
        self.remember(z, index)
        known = gather((targets >= 0).float()).sum().clamp(min=1)
        return gather(torch.stack(terms, 1)).mean(1).sum() / known

    def _index(self, batch: dict[str, Any]) -> Tensor:
        if "index" not in batch:
            raise ValueError("index: this method needs batch['index'], the positions of the items in the data set")
        index: Tensor = batch["index"].to(self.memory.device)
        if int(index.min()) < 0 or int(index.max()) >= len(self.seen):
            raise ValueError(f"index: expected 0 to {len(self.seen) - 1}, got {int(index.min())} to {int(index.max())}")
        return index

    @torch.no_grad()
    def remember(self, z: Sequence[Tensor], index: Tensor) -> None:
        """Keep the embeddings (B, D) of the global crops of the items at ``index`` (B,)."""
        rows, whole = torch.stack(list(z[: self.n_assign]), 1), gather_labels(index)
        self.memory[:, whole] = gather(rows.detach()).transpose(0, 1).to(self.memory)
        self.seen[whole] = True

    def on_train_start(self) -> None:
        if bool(self.seen.any()):  # resumed
            return
        with torch.no_grad():
            for batch in self.trainer.train_dataloader or ():
                batch = self.transfer_batch_to_device(batch, self.device, 0)
                views = batch["views"] if "views" in batch else self.make_views(batch)
                self.remember(self.embed_by_size(views[: self.n_assign], least=1), self._index(batch))

    def on_train_epoch_start(self) -> None:
        self.cluster()

    @torch.no_grad()
    def cluster(self) -> None:
        """Cluster what is remembered: new prototypes, and new assignments of the items seen."""
        if int(self.seen.sum()) < self.k:
            raise ValueError(f"prototypes: expected at most {int(self.seen.sum())}, the items to cluster, got {self.k}")
        made = torch.Generator()
        for head, prototypes in enumerate(self.prototypes.weight.split(self.k)):
            made.manual_seed(self.current_epoch * self.heads + head)  # the same after a kill and a resume
            vectors = self.memory[head % self.n_assign, self.seen]
            centroids, self.assignments[head, self.seen] = spherical_kmeans(vectors, self.k, self.iterations, made)
            prototypes.copy_(centroids)
