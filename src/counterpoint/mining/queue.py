"""A first-in first-out bank of past embeddings (He et al., CVPR 2020, arXiv 1911.05722)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Queue(nn.Module):
    """The last ``length`` embeddings that were pushed, as buffers: saved with the model and moved with it.

    Args:
        length: K, rows held. MoCo: 65,536 on ImageNet; CIFAR replications 4,096.
        dim: D.
        labelled: a class is kept with each row, in ``labels``; -1 where it is not known.

    Unlike MoCo's code, which starts from random vectors, rows that were never written are not returned.
    """

    rows: Tensor
    filled: Tensor
    position: Tensor
    labels: Tensor

    def __init__(self, length: int, dim: int, labelled: bool = False) -> None:
        super().__init__()
        for name, value in (("length", length), ("dim", dim)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        self.register_buffer("rows", torch.zeros(length, dim))
        if labelled:
            self.register_buffer("labels", torch.full((length,), -1))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    def forward(self) -> Tensor:
        """The rows written so far, (<= K, D), in no particular order; a copy, so that later pushes leave it alone."""
        return self.rows[: int(self.filled)].clone()

    @torch.no_grad()
    def push(self, x: Tensor, labels: Tensor | None = None) -> None:
        """Overwrite the oldest rows with ``x`` (B, D); of more than K rows the last K are kept.

        Args:
            x: (B, D).
            labels: integers (B,), for a queue that keeps them; -1 by default.

        Raises:
            ValueError: on another dimension than D, other than B labels, or labels for a queue that keeps none.
        """
        length, dim = self.rows.shape
        if x.ndim != 2 or x.shape[1] != dim:
            raise ValueError(f"x: expected (B, {dim}), got {tuple(x.shape)}")
        if labels is not None and (not hasattr(self, "labels") or labels.shape != x.shape[:1]):
            raise ValueError(f"labels: expected ({len(x)},) for a queue with labelled=True, got {tuple(labels.shape)}")
        x = x.detach()[-length:].to(self.rows)
        where = (self.position + torch.arange(len(x), device=x.device)) % length
        self.rows[where] = x
        if hasattr(self, "labels"):
            self.labels[where] = -1 if labels is None else labels[-length:].to(self.labels)
        self.position.fill_((self.position + len(x)) % length)
        self.filled.fill_(min(int(self.filled) + len(x), length))
