"""SimLAP: Rethinking Positive Pairs in Contrastive Learning (Wu et al. 2025), its second version's plain form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from counterpoint.encoders import Encoder, PairGate
from counterpoint.methods.base import Recipe, Views, labels_of
from counterpoint.methods.vision._gated import Gated, labelled, projector
from counterpoint.objectives import ArbitraryPairs


class SimLAP(Gated):
    """Any two images may be a positive pair, compared in coordinates that a gate chooses for their two classes.

    Each image draws a target class; the views of images of that class are its positives. There is no teacher and no
    instance loss, and gradients flow into both sides.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        classes: C; :func:`counterpoint.fit` takes it from the data.
        temperature: 0.1, the authors'.
        learnable_scale: whether the temperature is learned, as in one revision of the authors' code.
        pairs: how targets are drawn: ``"arbitrary"``, the batch's classes in another order; ``"identical"``, the own
            class; ``"distinct"``, any other class. See :func:`~counterpoint.mining.partner_classes`.
        weights: (C, C), draws targets in proportion to ``weights[own, target]`` instead.
        gate, gate_kind: mode, ``"open"`` being none, and kind: see :class:`~counterpoint.encoders.PairGate`.
        gate_embed, gate_hidden: of the gates' network; 512 and 1,024, the authors'.
        similarity: ``"cosine"`` or ``"dot"``, see :class:`~counterpoint.objectives.arbitrary.ArbitraryPairs`.
        gamma: weight of the gates' penalty (entropy, or openness of stochastic gates); 0, the authors'.
        exclude_self: with one view, whether an image may not be its own positive; the authors' code lets it.
        dim: D of the projection, 256, the authors'.
        hidden: of the projector; ``None`` is twice the features; the authors' is 2,048 for ResNets.
        norm: what ends the projector: ``"layer"``, the authors'; with ``"batch"`` gates do not close, they say.

    The first view has the anchors, each other one keys, averaged over; a single view is compared with itself. The
    authors train a linear classifier on the side to watch; here :func:`counterpoint.fit` watches nearest neighbours.
    Only labelled items are of use.

    Reference: arXiv 2410.18200, version 2.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        classes: int = 10,
        temperature: float = 0.1,
        learnable_scale: bool = False,
        pairs: str = "arbitrary",
        weights: list[list[float]] | None = None,
        gate: str = "fuse",
        gate_kind: str = "sigmoid",
        gate_embed: int = 512,
        gate_hidden: int = 1024,
        similarity: str = "cosine",
        gamma: float = 0.0,
        exclude_self: bool = False,
        dim: int = 256,
        hidden: int | None = None,
        norm: str = "layer",
    ) -> None:
        super().__init__(encoder, views, recipe)
        self.projector = projector(encoder.features, hidden or 2 * encoder.features, dim, 2, norm)
        self.gate = PairGate(classes, dim, gate_embed, gate_hidden, gate, gate_kind)
        self.draw_from(pairs, weights)
        self.objective = ArbitraryPairs(temperature, similarity, learnable_scale=learnable_scale)
        self.alone = ArbitraryPairs(temperature, similarity, exclude_self=exclude_self)
        self.alone.log_scale = self.objective.log_scale
        self.gamma = gamma

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        labels, views = labelled(labels_of(batch), views)
        z, *others = (self.project(view) for view in views)
        targets = self.targets(labels)
        gates, penalty = self.gates(labels, targets)
        if others:
            terms = [self.objective(z, keys, labels, targets, labels, gates) for keys in others]
        else:
            terms = [self.alone(z, z, labels, targets, labels, gates)]
        return self.total(contrast=torch.stack(terms).mean(), gates=self.gamma * penalty)
