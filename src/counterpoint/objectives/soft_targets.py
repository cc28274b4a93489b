"""Graded positives: cross entropy of scores against row-normalised weights, with and without the matrix of all pairs.

Of an anchor's candidates each may be a positive to some degree: as alike as a frozen model finds the two (CWCL), as
much as was mixed in of it (M3Co), as probable as another softmax says (soft-target losses). With scores ``s`` and
targets ``T`` all of them are::

    l_i = - sum_j T_ij log softmax_j(s_i)_j = (sum_j T_ij) log sum_j exp(s_ij) - sum_j T_ij s_ij

:func:`soft_target_contrastive` takes both as matrices. Where ``s_ij = scale <q_i, k_j>``, the second term is
``scale <q_i, m_i>`` with the anchor's *target mean* ``m_i = sum_j T_ij k_j``, and :func:`soft_target_terms` needs
nothing but these means and the log partition: no matrix, wherever the means can be had without it. They can for weights
that touch few pairs (mixing), for affine ones (:func:`~counterpoint.objectives.cwcl.affine_cosine`) and for those that
are a softmax themselves (:func:`softmax_means`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from counterpoint.objectives.inputs import embeddings, known_reduction, reduce


def soft_target_contrastive(
    scores: Tensor, weights: Tensor, *, normalize: bool = True, reduction: str = "mean"
) -> Tensor:
    """Cross entropy between each row of scores, as a softmax, and the weights of its candidates.

    ::

        l_i = - sum_j T_ij log( exp(s_ij) / sum_k exp(s_ik) ),    T_ij = w_ij / sum_k w_ik

    Args:
        scores: (N, M), cosines over a temperature; for the other direction give their transpose.
        weights: (N, M), finite and at least 0, in the orientation of the scores; the caller detaches what should carry
            no gradient. Normalising by rows and transposing do not commute.
        normalize: ``False`` takes the weights as they are: rows need not sum to 1.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the N terms.

    An anchor all of whose weights are 0 has no positive: its term is 0, and if the weights are normalised it is left
    out of the mean.

    Returns:
        A scalar, or (N,); float32, float64 for float64 scores.

    Raises:
        ValueError: on shapes that differ, scores or weights that are not finite, weights below 0, no positive anywhere.

    Relations: ``weights`` = identity is InfoNCE, those of equal labels are a supervised contrastive loss whose
    positives share one softmax. :func:`soft_target_terms` is the same without the matrices.
    """
    (scores,) = embeddings(scores=scores)
    weights, has = _targets(weights, scores.shape, normalize)
    terms = -(weights.to(scores) * torch.log_softmax(scores, 1)).sum(1)
    if known_reduction(reduction) == "mean" and normalize:
        terms = terms[has]
    return reduce(terms, reduction)


def soft_target_terms(
    partition: Tensor, queries: Tensor, means: Tensor, *, scale: float | Tensor = 1.0, mass: Tensor | None = None
) -> Tensor:
    """The terms of :func:`soft_target_contrastive` for scores ``scale <q_i, k_j>``, from target means.

    Args:
        partition: (N,), ``log sum_j exp(scale <q_i, k_j>)``: :func:`~counterpoint.pairwise.log_partition`, or one side
            of :func:`~counterpoint.pairwise.log_partitions` where both directions are needed.
        queries: (N, D), as they went into the partition: normalised where the loss asks for it.
        means: (N, D), ``sum_j T_ij k_j`` of the same keys, which is seldom of unit length.
        scale: a number or a 0-d tensor, usually one over the temperature.
        mass: (N,), ``sum_j T_ij``; 1 by default, as for targets that are normalised.

    Returns:
        (N,).
    """
    expected = partition if mass is None else partition * mass
    return expected - (queries * means).sum(1) * scale


def target_means(weights: Tensor, keys: Tensor, *, normalize: bool = True) -> Tensor:
    """Target means from a matrix of weights: ``m_i = sum_j T_ij k_j`` with ``T_ij = w_ij / sum_k w_ik``.

    Args:
        weights: (N, M), finite and at least 0, something above 0 in each row if they are normalised.
        keys: (M, D).
        normalize: ``False`` takes the weights as they are.

    Returns:
        (N, D).

    Raises:
        ValueError: on shapes that differ, weights that are not finite or below 0, an anchor without a positive.
    """
    targets, has = _targets(weights, (len(weights), len(keys)), normalize)
    if normalize and not bool(has.all()):
        raise ValueError(f"weights: {int((~has).sum())} of {len(has)} anchors have no positive")
    return targets.to(keys) @ keys


def softmax_means(features: Tensor, keys: Tensor, *, scale: float = 1.0) -> Tensor:
    """Target means for targets that are a softmax of similarities: ``m_i = sum_j softmax_j(scale <f_i, f_j>)_j k_j``.

    This is attention, whose fused kernels keep no N x N matrix where the device and the type have one.

    Args:
        features: (N, E), already normalised where similarities are cosines; detach them for constant targets.
        keys: (N, D).
        scale: one over the temperature of the targets.

    Returns:
        (N, D), differentiable in both, to the first order.
    """
    wide = max(features.shape[1], keys.shape[1])  # fused kernels want one width; zeros change neither scores nor means
    f, k = (torch.nn.functional.pad(x, (0, wide - x.shape[1]))[None, None] for x in (features, keys))
    with torch.autocast(features.device.type, enabled=False):
        means = torch.nn.functional.scaled_dot_product_attention(f, f, k, scale=scale)
    return means[0, 0, :, : keys.shape[1]]


def _targets(weights: Tensor, shape: Sequence[int], normalize: bool) -> tuple[Tensor, Tensor]:
    """Weights, checked, rows summing to 1 where asked for; and which rows (N,) have a positive."""
    (weights,) = embeddings(weights=weights)
    if weights.shape != tuple(shape):
        raise ValueError(f"weights: expected {tuple(shape)}, a number for each pair, got {tuple(weights.shape)}")
    if bool((weights < 0).any()):
        raise ValueError(f"weights: expected numbers of at least 0, got {float(weights.detach().min())}")
    largest = weights.detach().amax(1, keepdim=True)
    has = largest > 0
    if not bool(has.any()):
        raise ValueError("weights: expected a positive somewhere, got 0 for all pairs")
    if normalize:  # by the largest first, so that no sum overflows or vanishes
        weights = weights / torch.where(has, largest, 1)
        weights = weights / torch.where(has, weights.sum(1, keepdim=True), 1)
    return weights, has[:, 0]
