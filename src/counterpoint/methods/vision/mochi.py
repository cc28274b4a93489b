"""MoCHi: Hard Negative Mixing for Contrastive Learning (Kalantidis et al., NeurIPS 2020)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from counterpoint.encoders import Encoder
from counterpoint.methods.base import Recipe, Views, labels_of
from counterpoint.methods.vision.moco import MoCo
from counterpoint.mining import Mixtures, Queue, draw_mixtures
from counterpoint.objectives.inputs import normalize
from counterpoint.pairwise import gather_labels


class MoCHi(MoCo):
    """MoCo with harder negatives than there are: mixtures of a query's hardest keys, and of them with the query.

    Args:
        encoder, views, recipe, temperature, momentum, queue_size, dim: as for
            :class:`~counterpoint.methods.vision.moco.MoCo`; temperature 0.2 and dim 128 are MoCHi's too.
        n_hard: N, how many of the queue's keys count as hardest for a query; by default 1,024, the paper's first
            setting, and at most a quarter of the queue (ours: in a short queue a small N would be all one class).
        n_pair: s, mixtures of two of them; by default N, as in the paper's (1024, 1024, 128).
        n_query: s', mixtures of one of them with the query, whose share is below 1/2; by default N / 8.
        warmup: share of the training before synthetic negatives join in; 0.05, the paper's 10 of 200 epochs. In the
            meantime the queue's random first rows give way.
        oracle: leave keys of the query's class out of the queue, for the loss and for mixing: the paper's class oracle,
            the bound of what could be gained. Needs labels; they are kept with the queue.

    Logged at each step as ``proxy_accuracy``: the share of queries that score higher with their key than with any
    negative, the synthetic ones included; and as ``proxy_accuracy_queue`` without these.

    The mixtures are drawn again for each query and step, and never enter the queue.

    Reference: arXiv 2010.01028. No official code is public; whether gradients may pass through a mixture is not said:
    as in two independent implementations they do not.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        temperature: float = 0.2,
        n_hard: int | None = None,
        n_pair: int | None = None,
        n_query: int | None = None,
        warmup: float = 0.05,
        oracle: bool = False,
        momentum: float = 0.99,
        queue_size: int = 4096,
        dim: int = 128,
    ) -> None:
        super().__init__(encoder, views, recipe, temperature, momentum, queue_size, dim)
        self.n_hard = min(1024, max(1, queue_size // 4)) if n_hard is None else n_hard
        self.n_pair = self.n_hard if n_pair is None else n_pair
        self.n_query = self.n_hard // 8 if n_query is None else n_query
        if not 1 <= self.n_hard <= queue_size:
            raise ValueError(f"n_hard: expected 1 to {queue_size}, the length of the queue, got {n_hard}")
        if min(self.n_pair, self.n_query) < 0:
            raise ValueError(f"n_pair, n_query: expected at least 0, got {self.n_pair} and {self.n_query}")
        if not 0 <= warmup <= 1:
            raise ValueError(f"warmup: expected a share from 0 to 1, got {warmup}")
        self.warmup, self.oracle = warmup, oracle
        if oracle:
            self.queue = Queue(queue_size, dim, labelled=True)
            self.queue.push(normalize(torch.randn(queue_size, dim)))

    def contrast(self, queries: Tensor, keys: Tensor, batch: dict[str, Any]) -> Tensor:
        bank, own = self.queue(), None
        labels, known = self._classes(batch) if self.oracle else (None, None)
        self.watch(queries, keys, bank)
        if self.progress >= self.warmup and self.n_pair + self.n_query:
            counts = self.n_hard, self.n_pair, self.n_query
            drawn = draw_mixtures(queries, bank, *counts, exclude=labels, exclude_negatives=known)
            own = drawn.scores(queries, bank)
            self.watch(queries, keys, bank, own, stage="after")
            self._log_proxy(queries, keys, drawn, own)
        return self.objective(queries, keys, bank, own, labels, known)

    def enqueue(self, keys: Tensor, batch: dict[str, Any]) -> None:
        self.queue.push(keys, gather_labels(labels_of(batch)) if self.oracle else None)

    def _classes(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Of the queries and of the queue; an unlabelled query, or key, is of no class."""
        labels = labels_of(batch)
        return torch.where(labels < 0, -2, labels), self.queue.labels[: int(self.queue.filled)].clone()

    @torch.no_grad()
    def _log_proxy(self, queries: Tensor, keys: Tensor, drawn: Mixtures, own: Tensor) -> None:
        if self._trainer is None or drawn.cosines is None:
            return
        q = normalize(queries.detach().float())
        positive = (q * keys).sum(1)
        first = positive > drawn.cosines.amax(1)
        told = {"proxy_accuracy_queue": first, "proxy_accuracy": first & (positive > own.amax(1))}
        shares = {name: right.float().mean() for name, right in told.items()}
        self.log_dict(shares, on_step=False, on_epoch=True, batch_size=len(q))
