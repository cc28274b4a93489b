"""Supervised contrastive learning (Khosla et al., NeurIPS 2020, arXiv 2004.11362)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings, known_reduction, normalize, positive, reduce
from counterpoint.pairwise import gather, gather_labels, log_partition


class SupCon(nn.Module):
    """Every embedding of an anchor's class is its positive: ``L_out`` of the paper.

    With unit vectors ``z``, positives ``P(i)`` (same class, not itself) and all others in the denominator::

        l_i = - (temperature / base_temperature) * 1/|P(i)| sum_{p in P(i)} log( exp(<z_i, z_p>/temperature)
                                                                  / sum_{j != i} exp(<z_i, z_j>/temperature) )

    Args:
        temperature: 0.1, the paper's.
        base_temperature: ``None`` means ``temperature``, which is the paper's equation; the official code has 0.07.
        anchors: ``"all"`` views are anchors, or only those of the ``"first"`` view (contrast mode "one").
        empty: what an anchor without any positive does: ``"skip"`` leaves it out of the mean, ``"zero"`` counts it as 0
            (the official code), ``"error"`` raises.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the terms of the anchors, view after view; a skipped anchor's
            term is 0 in ``"none"``.

    Shapes:
        ``loss(z, labels)``: z (V, B, D) or (B, D) raw, labels (B,) integers or ``None``: each item is its own class.
        ``-1`` marks an unlabelled item, which then is a class of its own. Memory O(V B D + classes D).

    Raises:
        ValueError: on one embedding in all, no positive anywhere, mismatched labels, non-finite values.

    Relations: without labels and with two views this is :class:`NTXent`.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        base_temperature: float | None = None,
        anchors: str = "all",
        empty: str = "skip",
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        base_temperature = temperature if base_temperature is None else base_temperature
        positive(temperature=temperature, base_temperature=base_temperature)
        if anchors not in ("all", "first"):
            raise ValueError(f"anchors: expected 'all' or 'first', got {anchors!r}")
        if empty not in ("skip", "zero", "error"):
            raise ValueError(f"empty: expected 'skip', 'zero' or 'error', got {empty!r}")
        self.temperature, self.base_temperature = temperature, base_temperature
        self.anchors, self.empty, self.reduction = anchors, empty, known_reduction(reduction)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        (z,) = embeddings((2, 3), z=z)
        z = z[None] if z.ndim == 2 else z
        if labels is not None and (labels.shape != (z.shape[1],) or labels.is_floating_point()):
            raise ValueError(f"labels: expected ({z.shape[1]},) integers, got {tuple(labels.shape)} {labels.dtype}")
        z = gather(normalize(z).transpose(0, 1)).transpose(0, 1)
        views, items, _ = z.shape
        if views * items < 2:
            raise ValueError("z: expected at least 2 embeddings, got 1, which has no pair")
        groups = _classes(gather_labels(labels), items, z.device).repeat(views)
        keys = z.reshape(views * items, -1)
        anchors = items if self.anchors == "first" else len(keys)
        return self._loss(keys, anchors, groups)

    def _loss(self, keys: Tensor, anchors: int, groups: Tensor) -> Tensor:
        own = torch.arange(len(keys), device=keys.device)
        queries, mine, scale = keys[:anchors], groups[:anchors], 1 / self.temperature
        if anchors == len(keys):
            partition = log_partition(keys, scale=scale, exclude=own)
        else:
            partition = log_partition(queries, keys, scale=scale, exclude=own[:anchors], exclude_keys=own)
        # the sum over a class of <z_i, z_p> is <z_i, sum of the class>: no pair needs to be looked at
        counts = torch.bincount(groups, minlength=int(groups.max()) + 1)
        sums = keys.new_zeros(len(counts), keys.shape[1]).index_add(0, groups, keys)
        number = counts[mine] - 1
        attraction = (queries * (sums[mine] - queries)).sum(1) / number.clamp(min=1)
        terms = self.temperature / self.base_temperature * (partition - attraction * scale)
        has = number > 0
        if not bool(has.all()):
            terms = self._without(terms, has)
        return reduce(terms, self.reduction)

    def _without(self, terms: Tensor, has: Tensor) -> Tensor:
        if self.empty == "error" or not bool(has.any()):
            raise ValueError(
                f"labels: {int((~has).sum())} of {len(has)} anchors have no positive: give two views or classes of two"
            )
        if self.empty == "skip" and self.reduction == "mean":
            return terms[has]
        return torch.where(has, terms, 0.0)


def _classes(labels: Tensor | None, items: int, device: torch.device) -> Tensor:
    """Class numbers 0..K-1 of the items; the unlabelled ones get a class each."""
    own = torch.arange(items, device=device)
    if labels is None:
        return own
    inverse: Tensor = torch.unique(torch.where(labels < 0, -1 - own, labels.to(device)), return_inverse=True)[1]
    return inverse
