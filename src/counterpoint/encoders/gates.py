"""Gates that choose the coordinates in which two classes are compared (Wu et al., arXiv 2410.18200)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

MODES = ("fuse", "product", "single", "open")
KINDS = ("sigmoid", "gumbel", "stochastic")
_SPREAD = 0.5  # of the noise of stochastic gates, the official code's


class PairGate(nn.Module):
    """For two classes, a number from 0 to 1 for each coordinate of an embedding: how much of it takes part.

    A table holds a vector for each class; the vectors of the two are averaged, so that their order does not matter, and
    pass ReLU, batch norm, linear, ReLU, batch norm, linear::

        g(a, b) = sigmoid( MLP( (E_a + E_b) / 2 ) )

    Args:
        classes: C.
        dim: D, of the embeddings.
        embed_dim: of the class vectors; 512, the authors'.
        hidden_dim: of the MLP; 1,024, the authors'.
        mode: ``"fuse"`` averages the class vectors; ``"product"`` multiplies the gates of the two classes;
            ``"single"`` is the gate of the first class alone; ``"open"`` is 1 everywhere, without parameters.
        kind: ``"sigmoid"``; ``"gumbel"``: in training, logistic noise is added before the sigmoid, which then is
            almost binary at a low ``temperature``; ``"stochastic"``: ``clamp(mu + 0.5 + 0.5 noise, 0, 1)`` with normal
            noise in training, exactly closed or open in part of the cases.
        temperature: of Gumbel gates; 1.

    Shapes:
        ``gate(y1, y2)``: integers (B,) each to (B, D). Without ``y2``, and in mode ``"single"``, gates of one class.

    Raises:
        ValueError: an unknown mode or kind, labels that are no classes, or one pair in training (batch norm).

    Both classes of a product pass the MLP in one batch, so that it is symmetric in training too; the authors' code does
    not say. Batch norm makes the gates of training depend on the other pairs of the batch.
    """

    def __init__(
        self,
        classes: int,
        dim: int,
        embed_dim: int = 512,
        hidden_dim: int = 1024,
        mode: str = "fuse",
        kind: str = "sigmoid",
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value in (("classes", classes), ("dim", dim), ("embed_dim", embed_dim), ("hidden_dim", hidden_dim)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        if mode not in MODES:
            raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
        if kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature: expected a finite number above 0, got {temperature}")
        self.classes, self.dim, self.mode, self.kind, self.temperature = classes, dim, mode, kind, temperature
        if mode == "open":
            return
        self.label_embedding = nn.Embedding(classes, embed_dim)
        self.mlp = nn.Sequential(
            nn.ReLU(),
            nn.BatchNorm1d(embed_dim),
            nn.Linear(embed_dim, hidden_dim),
            nn.ReLU(),
            nn.BatchNorm1d(hidden_dim),
            nn.Linear(hidden_dim, dim),
        )

    def forward(self, y1: Tensor, y2: Tensor | None = None) -> Tensor:
        return self.opened(self.scores(y1, y2))

    def scores(self, y1: Tensor, y2: Tensor | None = None) -> Tensor:
        """What decides how open gates are: (1, B, D), or (2, B, D) of a product."""
        y2 = None if self.mode == "single" else y2
        for name, y in (("y1", y1), ("y2", y2)):
            if y is not None:
                self._check(name, y, y1)
        if self.mode == "open":
            return torch.full((1, len(y1), self.dim), math.inf, device=y1.device)
        if type(self.mlp[1]) is nn.BatchNorm1d and self.training and len(y1) < 2:
            raise ValueError("y1: expected at least 2 pairs in training, whose statistics batch norm needs, got 1")
        first = self.label_embedding(y1)
        if y2 is None:
            return self.mlp(first)[None]
        second = self.label_embedding(y2)
        if self.mode == "fuse":
            return self.mlp((first + second) / 2)[None]
        return torch.stack(self.mlp(torch.cat([first, second])).chunk(2))

    def opened(self, scores: Tensor) -> Tensor:
        """The gates (B, D) of :meth:`scores`; drawn anew at each call where they are random."""
        if self.mode == "open":
            return torch.ones_like(scores[0])
        if self.kind == "stochastic":
            noise = _SPREAD * torch.randn_like(scores) if self.training else 0.0
            gates = (scores + 0.5 + noise).clamp(0, 1)
        elif self.kind == "gumbel" and self.training:
            uniform = torch.rand_like(scores).clamp(min=torch.finfo(scores.dtype).tiny, max=1 - 2**-24)
            gates = torch.sigmoid((scores + torch.logit(uniform)) / self.temperature)
        else:
            gates = torch.sigmoid(scores)
        return gates.prod(0)

    def penalty(self, scores: Tensor) -> Tensor:
        """What keeps gates from staying undecided, or stochastic ones from all being open: a mean over all of them.

        The entropy of a coin as likely as the gate is open; for stochastic gates the probability of not being closed,
        ``Phi((mu + 0.5) / 0.5)``.
        """
        if self.mode == "open":
            return scores.new_zeros(())
        if self.kind == "stochastic":
            return torch.special.ndtr((scores + 0.5) / _SPREAD).mean()
        size = scores.abs()  # the same from the scores: the slope of entr is infinite where a sigmoid has become 1
        return (torch.log1p(torch.exp(-size)) + size * torch.sigmoid(-size)).mean()

    def _check(self, name: str, y: Tensor, first: Tensor) -> None:
        if y.ndim != 1 or y.shape != first.shape or y.is_floating_point() or not len(y):
            raise ValueError(f"{name}: expected integers (B,), got {tuple(y.shape)} {y.dtype}")
        if bool(((y < 0) | (y >= self.classes)).any()):
            raise ValueError(f"{name}: expected classes 0 to {self.classes - 1}, got {int(y.min())} to {int(y.max())}")

    def extra_repr(self) -> str:
        return f"classes={self.classes}, dim={self.dim}, mode={self.mode!r}, kind={self.kind!r}"


def bernoulli_entropy(gates: Tensor) -> Tensor:
    """Mean entropy, in nats, of coins that show 1 with the probabilities ``gates``; 0 where all are 0 or 1."""
    return (torch.special.entr(gates) + torch.special.entr(1 - gates)).mean()
