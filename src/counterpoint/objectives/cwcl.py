"""Continuously weighted contrastive loss: a frozen modality grades the positives (Srinivasa et al., NeurIPS 2023).

The published equations could not be read; this is the objective as a later paper that adopts it states it, and its
public code gives the same figures.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings, known_reduction, normalize, positive, reduce
from counterpoint.objectives.soft_targets import soft_target_terms, target_means
from counterpoint.pairwise import gather, log_partitions

REVERSE = ("infonce", "weighted")


def affine_cosine(x: Tensor) -> Tensor:
    """Weights ``w_ij = cos(x_i, x_j)/2 + 1/2`` in [0, 1], ``w_ii = 1``.

    Unrelated rows (cosine 0) weigh a half, opposite ones nothing. A row of zeros is at a half from all but itself.

    Args:
        x: (N, M), raw.

    Returns:
        (N, N).

    Raises:
        ValueError: on another shape or non-finite values.
    """
    (x,) = embeddings(x=x)
    x = normalize(x)
    return ((x @ x.T).clamp(-1, 1) / 2 + 0.5).fill_diagonal_(1)


class CWCLLoss(nn.Module):
    """The frozen tower's anchors see every item of the other tower as a positive, as far as *they* find it alike.

    With unit vectors ``p`` of the frozen tower, ``q`` of the one that is trained, and ``s = 1/temperature``::

        w_ij    = <p_i, p_j>/2 + 1/2,  w_ii = 1                                     constant
        forward = - mean_i 1/(sum_j w_ij) sum_j w_ij log( exp(s <p_i, q_j>) / sum_k exp(s <p_i, q_k>) )
        reverse = - mean_i log( exp(s <p_i, q_i>) / sum_k exp(s <p_k, q_i>) )
        loss    = forward + reverse

    Added, not averaged. The anchors of ``reverse`` are those of the tower in training, whose own similarities mean
    nothing yet; it is plain InfoNCE. Since unrelated items weigh a half, most of the target lies on items that do not
    match, and the loss has a floor near ``log N``: a large value is no fault.

    Args:
        temperature: 0.07, where CLIP's learned one starts. What the authors took could not be read.
        reverse: ``"infonce"``, the paper's, or ``"weighted"``: the same weights, normalised for each anchor, in this
            direction too.
        weight_fn: from the features (N, M) to weights (N, N), at least 0; :func:`affine_cosine`, the paper's.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the N terms, both directions in each.

    Shapes:
        ``loss(frozen, trained, weight_source, scale)``: both (N, D), raw; weight_source (N, M), optional: features of
        the frozen tower before its projection, of any width, from which the weights are made instead; scale as in
        :class:`GroupInfoNCE`. Memory O(N D + N M + M D): affine weights need no matrix, since ``sum_j <u_i, u_j> q_j``
        is ``u_i`` times the M x D matrix ``sum_j u_j q_j^T``. Any other ``weight_fn`` makes its N x N.

    Raises:
        ValueError: on shapes that differ, non-finite values, another number of rows in weight_source, weights that are
            not (N, N), finite and at least 0, an anchor without weights, temperature <= 0.

    N = 1 costs 0. If all frozen rows are one, all weights are 1 and the target is uniform.

    Reference: arXiv 2309.14580.

    Relations: with weights that are the identity, and halved, this is CLIP's loss (:class:`GroupInfoNCE`); with those
    of equal labels ``forward`` is a supervised contrastive loss across towers.
    """

    def __init__(
        self,
        temperature: float = 0.07,
        reverse: str = "infonce",
        weight_fn: Callable[[Tensor], Tensor] = affine_cosine,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        positive(temperature=temperature)
        if reverse not in REVERSE:
            raise ValueError(f"reverse: expected 'infonce' or 'weighted', got {reverse!r}")
        self.temperature, self.reverse, self.weight_fn = temperature, reverse, weight_fn
        self.reduction = known_reduction(reduction)

    def parts(
        self,
        frozen: Tensor,
        trained: Tensor,
        weight_source: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The N terms of each direction: ``"forward"`` of the frozen anchors, ``"reverse"`` of the others."""
        p, q = (gather(normalize(x)) for x in embeddings(frozen=frozen, trained=trained))
        source = frozen if weight_source is None else weight_source
        (source,) = embeddings(weight_source=source)
        if len(source) != len(frozen):
            raise ValueError(f"weight_source: expected ({len(frozen)}, M), got {tuple(source.shape)}")
        features = gather(source.detach())
        if scale is not None:
            positive(scale=float(scale.detach()))
        s = 1 / self.temperature if scale is None else scale
        if len(p) == 1:
            nothing = (p * q).sum(1) * 0
            return {"forward": nothing, "reverse": nothing}
        rows, columns = log_partitions(p, q, scale=s)
        with torch.autocast(p.device.type, enabled=False):
            forward, *more = self._means(features, (q, p) if self.reverse == "weighted" else (q,))
        return {
            "forward": soft_target_terms(rows, p, forward, scale=s),
            "reverse": soft_target_terms(columns, q, more[0] if more else p, scale=s),
        }

    def forward(
        self,
        frozen: Tensor,
        trained: Tensor,
        weight_source: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> Tensor:
        parts = self.parts(frozen, trained, weight_source, scale)
        return reduce(parts["forward"] + parts["reverse"], self.reduction)

    def _means(self, features: Tensor, keys: tuple[Tensor, ...]) -> list[Tensor]:
        """Target means of each kind of keys."""
        if self.weight_fn is affine_cosine:
            return _affine_means(normalize(features), keys)
        weights = self.weight_fn(features)
        if not isinstance(weights, Tensor) or weights.shape != (len(features), len(features)):
            got = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
            raise ValueError(f"weight_fn: expected weights ({len(features)}, {len(features)}), got {got}")
        return [target_means(weights.detach(), k) for k in keys]


def _affine_means(u: Tensor, keys: tuple[Tensor, ...]) -> list[Tensor]:
    """``sum_j w_ij k_j / sum_j w_ij`` for :func:`affine_cosine` of unit rows ``u``, without the weights."""
    own = (1 - u.square().sum(1)) / 2  # from the formula to a weight of 1 with itself: a half for a row of zeros
    total = (len(u) + u @ u.sum(0)) / 2 + own
    found = []
    for k in keys:
        weighted = (k.sum(0) + u.to(k) @ (u.to(k).T @ k)) / 2 + own[:, None].to(k) * k
        found.append(weighted / total[:, None].to(k))
    return found
