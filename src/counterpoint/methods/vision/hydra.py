"""Hydra: Rethinking Positive Pairs in Contrastive Learning (Wu et al. 2024), its first version, with a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.encoders import EMA, Encoder, PairGate, mlp_head
from counterpoint.encoders.ema import cosine_momentum
from counterpoint.methods.base import Recipe, Views, labels_of
from counterpoint.methods.vision._gated import Gated, labelled, projector
from counterpoint.objectives import ArbitraryPairs


class Hydra(Gated):
    """MoCo v3, and beside it pairs of any two classes, compared in coordinates that a gate chooses for them.

    ``loss = (instance + beta pairs + same_class same) / (1 + beta + same_class) + gamma penalty``. Predictions of each
    of two views seek the teacher's keys of the other: in the instance loss that of the same image among the batch; in
    the pair loss those of the images of a target class, drawn for each image. ``same``, of an earlier revision, is the
    pair loss with the own class as target.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        classes: C; :func:`counterpoint.fit` takes it from the data.
        beta: weight of the pair loss; 1. The authors' argument is 0 unless set, and their value is not known to us.
        same_class: weight of the pair loss with the own class as target; 0.
        temperature: of the instance loss; 0.2, MoCo v3's for ViTs. The authors' argument has 1.
        pair_temperature: of the pair loss; 0.1, the authors' in their scripts.
        pairs: how targets are drawn: ``"arbitrary"``, the batch's classes in another order; ``"identical"``, the own
            class; ``"distinct"``, any other class. See :func:`~counterpoint.mining.partner_classes`.
        weights: (C, C), draws targets in proportion to ``weights[own, target]`` instead.
        gate, gate_kind: mode, ``"open"`` being none, and kind: see :class:`~counterpoint.encoders.PairGate`.
        gate_embed, gate_hidden: of the gates' network; 512 and 1,024, the authors'.
        similarity: ``"cosine"`` or ``"dot"``, see :class:`~counterpoint.objectives.arbitrary.ArbitraryPairs`.
        gamma: weight of the gates' penalty (entropy, or openness of stochastic gates); 0, the authors'.
        momentum: of the teacher at the start, rising to 1 by a cosine: 0.99, MoCo v3's.
        dim: D of projection and prediction, 256, the authors'.
        hidden: of both heads; ``None`` is twice the features, the authors' 4,096 for 2,048.
        projector_layers: 2 for ResNets; 3 for ViTs.
        norm: what ends the projector: ``"layer"``, the authors'; with ``"batch"`` gates do not close, they say.

    Any views beyond the second are local crops: their instance loss against the keys of the first two, averaged, is
    added. A single view is compared with its own key. There is no factor ``2 temperature`` as in MoCo v3. Only labelled
    items are of use.

    Reference: arXiv 2410.18200, version 1.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        classes: int = 10,
        beta: float = 1.0,
        same_class: float = 0.0,
        temperature: float = 0.2,
        pair_temperature: float = 0.1,
        pairs: str = "arbitrary",
        weights: list[list[float]] | None = None,
        gate: str = "fuse",
        gate_kind: str = "sigmoid",
        gate_embed: int = 512,
        gate_hidden: int = 1024,
        similarity: str = "cosine",
        gamma: float = 0.0,
        momentum: float = 0.99,
        dim: int = 256,
        hidden: int | None = None,
        projector_layers: int = 2,
        norm: str = "layer",
    ) -> None:
        super().__init__(encoder, views, recipe)
        for name, value in (("beta", beta), ("same_class", same_class)):
            if not value >= 0:
                raise ValueError(f"{name}: expected a number of at least 0, got {value}")
        hidden = hidden or 2 * encoder.features
        self.projector = projector(encoder.features, hidden, dim, projector_layers, norm)
        self.predictor = mlp_head(dim, hidden, dim)
        self.teacher = EMA(nn.Sequential(encoder, self.projector))
        self.gate = PairGate(classes, dim, gate_embed, gate_hidden, gate, gate_kind)
        self.gate.requires_grad_(bool(beta or same_class))
        self.draw_from(pairs, weights)
        self.instance = ArbitraryPairs(temperature)
        self.objective = ArbitraryPairs(pair_temperature, similarity)
        self.beta, self.same_class, self.gamma, self.momentum = beta, same_class, gamma, momentum

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        labels, views = labelled(labels_of(batch), views)
        queries = [self.predictor(self.project(view)) for view in views]
        keys = [self.teacher(view).float() for view in views[:2]]
        # each of the first two views with the key of the other, local crops with both
        across = list(zip(queries[:2], reversed(keys), strict=True))
        share = 1 / (1 + self.beta + self.same_class)
        parts, penalties = {"instance": share * self._mean(self.instance(q, k) for q, k in across)}, []
        for name, weight, own in (("same_class", self.same_class, True), ("across", self.beta, False)):
            if weight:
                targets = labels if own else self.targets(labels)
                gates, penalty = self.gates(labels, targets)
                pairs = self._mean(self.objective(q, k, labels, targets, labels, gates) for q, k in across)
                parts[name] = share * weight * pairs
                penalties.append(penalty)
        if penalties:
            parts["gates"] = self.gamma * self._mean(penalties)
        if queries[2:]:
            parts["local"] = self._mean(self.instance(q, k) for q in queries[2:] for k in keys)
        return self.total(**parts)

    def _mean(self, terms: Any) -> Tensor:
        return torch.stack(list(terms)).mean()

    def after_step(self) -> None:
        momentum = cosine_momentum(self.momentum, self.progress)
        self.teacher.update(nn.Sequential(self.encoder, self.projector), momentum)
