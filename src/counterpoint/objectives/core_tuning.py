"""Core-tuning: contrast-regularised fine-tuning (Zhang et al., NeurIPS 2021, arXiv 2102.06605)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings, known_reduction, normalize, positive, reduce
from counterpoint.pairwise import gather, gather_labels, log_partition, pair_sum

_TOLERANCE = 1e-5  # between entries of soft labels that are the same: some roundings of float32


class FocalSupCon(nn.Module):
    """Supervised contrastive loss in which a pair weighs the more, the less probable it still is.

    With unit vectors ``z``, ``p_ij = exp(<z_i, z_j>/temperature) / sum_{k != i} exp(<z_i, z_k>/temperature)``, and
    positives ``P(i)``, the rows whose label equals that of ``i``::

        l_i = - 1/|P(i)| sum_{j in P(i)} (1 - p_ij) log p_ij

    averaged over the anchors that have a positive.

    Args:
        temperature: 0.07, the official code's.
        normalize_by: ``"positives"`` divides an anchor's sum by ``|P(i)|``, as the paper does; ``"all"`` by the number
            of rows N, as the official code does, which makes the loss smaller by ``|P(i)| / N`` and lets frequent
            classes weigh more.
        detach_weight: whether ``1 - p_ij`` is held constant; ``False`` in the official code.
        empty: what a batch without any positive does: ``"error"`` raises, ``"zero"`` costs 0 (the official code).
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the terms of the anchors; one without a positive is left out
            of the mean and is 0 in ``"none"``.

    Shapes:
        ``loss(z, labels)``: z (N, D) raw; labels (N,) integers, where -1 is like nothing else; or soft labels (N, C)
        floating point, such as those of mixed rows, where two rows are positives if their labels are equal, up to 1e-5.
        (The official code compares ``sum_c 10^c y_c``, which in float32 confuses labels from eight classes on.) Memory
        O(N D + N C).

    Raises:
        ValueError: on one embedding in all, no positive anywhere, mismatched labels, non-finite values.

    Relations: without the weight and by ``"positives"`` this is :class:`SupCon` of one view.
    """

    def __init__(
        self,
        temperature: float = 0.07,
        normalize_by: str = "positives",
        detach_weight: bool = False,
        empty: str = "error",
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        positive(temperature=temperature)
        if normalize_by not in ("positives", "all"):
            raise ValueError(f"normalize_by: expected 'positives' or 'all', got {normalize_by!r}")
        if empty not in ("error", "zero"):
            raise ValueError(f"empty: expected 'error' or 'zero', got {empty!r}")
        self.temperature, self.normalize_by, self.detach_weight = temperature, normalize_by, detach_weight
        self.empty, self.reduction = empty, known_reduction(reduction)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        (z,) = embeddings(z=z)
        gathered = gather_labels(_checked(labels, len(z)))
        assert gathered is not None
        z = gather(normalize(z))
        if len(z) < 2:
            raise ValueError("z: expected at least 2 embeddings, got 1, which has no pair")
        groups = same_labels(gathered)
        number = torch.bincount(groups)[groups] - 1
        has = number > 0
        if self.empty == "error" and not bool(has.any()):
            raise ValueError(f"labels: none of {len(z)} embeddings has a positive: give classes of two")
        terms = self._sums(z, groups) / (number.clamp(min=1) if self.normalize_by == "positives" else len(z))
        if self.reduction == "mean":
            return terms.sum() / has.sum().clamp(min=1)
        return reduce(terms, self.reduction)

    def _sums(self, z: Tensor, groups: Tensor) -> Tensor:
        """Over the positives of each anchor, of ``- (1 - p) log p``."""
        own, scale = torch.arange(len(z), device=z.device), 1 / self.temperature
        partition = log_partition(z, scale=scale, exclude=own)

        def term(s: Tensor, partition: Tensor, mine: Tensor, other: Tensor) -> Tensor:
            log_p = s * scale - partition
            weight = torch.expm1(log_p)  # p - 1
            return torch.where(mine == other, (weight.detach() if self.detach_weight else weight) * log_p, 0.0)

        numbers = groups.to(z)  # exact in float32 up to 16 million rows
        return pair_sum(term, z, rows=(partition, numbers), columns=(numbers,), exclude=own)


class CoreTuning(nn.Module):
    """Cross entropy on soft labels, and eta times :class:`FocalSupCon` on the same rows.

    ``L = 1/N sum_i - sum_c y_ic log softmax(logits_i)_c + eta * FocalSupCon(z, y)``. Rows are a batch and what
    :func:`~counterpoint.mining.generate_hard_pairs` makes of it: two of them are positives if their mixed labels are
    equal, so what lies between two classes is a negative for all others and has no positive itself.

    Args:
        eta: 0.1, the official README's for CIFAR-10; its code's default, 10, is used nowhere.
        temperature, normalize_by, detach_weight: see :class:`FocalSupCon`; the official code normalises by ``"all"``.

    Shapes:
        ``loss(logits, z, targets)``: (N, C), (N, D) raw, and (N, C) with rows that sum to 1.

    A batch without any positive costs its cross entropy alone. Across processes the cross entropy is that of the own
    rows, whose average is that of all.

    Raises:
        ValueError: on shapes that do not match, non-finite values, targets that are no distributions, eta < 0.

    Relations: with ``eta=0`` this is cross entropy, with mixed rows manifold mixup.
    """

    def __init__(
        self,
        eta: float = 0.1,
        temperature: float = 0.07,
        normalize_by: str = "positives",
        detach_weight: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= eta < float("inf"):
            raise ValueError(f"eta: expected a finite number of at least 0, got {eta}")
        self.eta = eta
        self.contrast = FocalSupCon(temperature, normalize_by, detach_weight, empty="zero")

    def terms(self, logits: Tensor, z: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The two terms, weighted: ``"classification"`` and ``"contrast"``, without the latter where eta is 0."""
        (logits,) = embeddings(logits=logits)
        (targets,) = embeddings(targets=targets)
        if targets.shape != logits.shape:
            raise ValueError(f"targets: expected {tuple(logits.shape)} as logits, got {tuple(targets.shape)}")
        if bool((targets < 0).any()) or bool(((targets.sum(1) - 1).abs() > 1e-3).any()):
            raise ValueError("targets: expected rows of numbers from 0 that sum to 1")
        if z.shape[:1] != logits.shape[:1]:
            raise ValueError(f"z: expected {len(logits)} rows as logits, got {tuple(z.shape)}")
        found = {"classification": nn.functional.cross_entropy(logits, targets.to(logits))}
        return found | {"contrast": self.eta * self.contrast(z, targets)} if self.eta else found

    def forward(self, logits: Tensor, z: Tensor, targets: Tensor) -> Tensor:
        return torch.stack(list(self.terms(logits, z, targets).values())).sum()


def same_labels(labels: Tensor) -> Tensor:
    """Numbers 0..K-1 (N,) that are equal where labels are: integers (N,), or soft ones (N, C) up to 1e-5 an entry.

    Rows of integers below 0 are each a label of their own. Entries of soft labels are chained: sorted, a column begins
    a new value wherever the next lies further than 1e-5, so that roundings never part two labels.
    """
    if labels.ndim == 1:
        own = torch.arange(len(labels), device=labels.device)
        groups: Tensor = torch.unique(torch.where(labels < 0, -1 - own, labels.long()), return_inverse=True)[1]
        return groups
    values, order = labels.sort(0)
    steps = torch.zeros_like(order)
    steps[1:] = (values.diff(dim=0) > _TOLERANCE).cumsum(0)
    groups = torch.unique(torch.empty_like(order).scatter_(0, order, steps), dim=0, return_inverse=True)[1]
    return groups


def _checked(labels: Tensor, rows: int) -> Tensor:
    if not isinstance(labels, Tensor) or labels.shape[:1] != (rows,) or labels.ndim != 1 + labels.is_floating_point():
        got = f"{tuple(labels.shape)} {labels.dtype}" if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"labels: expected ({rows},) integers or ({rows}, C) floating point, got {got}")
    if labels.is_floating_point():
        (labels,) = embeddings(labels=labels)
    return labels
