"""What Hydra and SimLAP share: gates of class pairs, targets, what is told of the gates, and the map of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from counterpoint.encoders import PairGate, mlp_head
from counterpoint.encoders.gates import bernoulli_entropy
from counterpoint.findings import Finding, Heatmap
from counterpoint.methods.base import Method
from counterpoint.mining import partner_classes
from counterpoint.mining.partners import MODES
from counterpoint.objectives.inputs import normalize

SHOWN = 40  # classes on the map


class Gated(Method):
    """A method whose pairs are of any two classes and are compared behind gates.

    Mean number of open coordinates and mean entropy of the gates are logged as ``gate_activation`` and
    ``gate_entropy``; the page of a run shows which classes the gates take to be related.
    """

    needs_labels = True
    labelled_only = True
    n_views = None
    gate: PairGate

    def draw_from(self, pairs: str, weights: Sequence[Sequence[float]] | None) -> None:
        """How targets are drawn, checked."""
        if pairs not in MODES:
            raise ValueError(f"pairs: expected one of {', '.join(MODES)}, got {pairs!r}")
        self.pairs = pairs
        self.weights = None if weights is None else torch.tensor(weights, dtype=torch.float32)
        self.seen: dict[str, Tensor] = {}

    def targets(self, labels: Tensor) -> Tensor:
        """A target class for each item."""
        return partner_classes(labels, self.pairs, self.gate.classes, self.weights)

    def gates(self, labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Gates (B, D) and their penalty; both are kept for the log."""
        with torch.autocast(labels.device.type, enabled=False):
            scores = self.gate.scores(labels, targets)
            gates, penalty = self.gate.opened(scores), self.gate.penalty(scores)
        activation = gates.detach().sum(1).mean()
        self.seen = {"gate_activation": activation, "gate_entropy": bernoulli_entropy(gates.detach())}
        return gates, penalty

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log_dict(self.seen, on_step=False, on_epoch=True)
        return loss

    @torch.no_grad()
    def relations(self, classes: int | None = None) -> tuple[Tensor, Tensor]:
        """What the gates say of the first C classes: (C, C) twice.

        First how much of the space is open to each two of them, the mean of ``g(a, b)``. Second how alike two classes
        are as partners: the correlation of ``g(a, .)`` with ``g(b, .)`` over all partners and coordinates, the mean
        over the classes taken off.
        """
        count = min(classes or self.gate.classes, self.gate.classes)
        training = self.gate.training
        self.gate.eval()
        each = torch.arange(count, device=self.device)
        gates = torch.stack([self.gate(each, each[a].repeat(count)) for a in range(count)])
        self.gate.train(training)
        profile = normalize((gates - gates.mean(0)).flatten(1))
        return gates.mean(2), profile @ profile.T

    def findings(self, dataset: Any, indices: Any) -> Sequence[Finding]:
        """Two maps of the classes: how much of the space two of them share, and how alike they are as partners."""
        if self.gate.mode == "open" or self.gate.classes < 2:
            return ()
        names = list(dataset.classes or map(str, range(self.gate.classes)))[: min(SHOWN, self.gate.classes)]
        width, alike = (values.cpu().numpy() for values in self.relations(len(names)))
        np.fill_diagonal(alike, np.nan)  # 1 by definition, and would take the shades from the others
        note = f" The first {SHOWN} of {self.gate.classes} classes." if self.gate.classes > len(names) else ""
        return [
            Heatmap(
                "Which classes are alike as partners",
                "Correlation of the gates that two classes have with all classes, after the mean gate is taken off: 1 "
                "where they are compared with the rest in the same coordinates." + note,
                alike,
                names,
            ),
            Heatmap(
                "How much of the space two classes share",
                "Mean of the gate of a pair of classes: 1 if they are compared in all coordinates, 0 in none." + note,
                width,
                names,
            ),
        ]


def projector(features: int, hidden: int, dim: int, layers: int, norm: str) -> nn.Module:
    """A head of linear, batch norm, ReLU and at last linear, ended by layer norm, batch norm or nothing.

    Raises:
        ValueError: another ``norm`` than ``"layer"``, ``"batch"``, ``"none"``.
    """
    if norm not in ("layer", "batch", "none"):
        raise ValueError(f"norm: expected 'layer', 'batch' or 'none', got {norm!r}")
    head = mlp_head(features, hidden, dim, layers=layers, last_norm=norm == "batch")
    return nn.Sequential(*head, nn.LayerNorm(dim)) if norm == "layer" else head


def labelled(labels: Tensor, views: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Labels and views without the items whose class is unknown.

    Raises:
        ValueError: fewer than two are left.
    """
    known = labels >= 0
    if int(known.sum()) < 2:
        raise ValueError(f"labels: expected at least 2 labelled items in a batch, got {int(known.sum())}")
    if bool(known.all()):
        return labels, list(views)
    return labels[known], [view[known] for view in views]
