"""M3CoL: mixtures of one modality aligned with both of their sources in another (Kumar et al., TMLR 2025).

Contrastive losses take an item's modalities for each other's only match, while items share more than that. M3CoL first
mixes embeddings of a modality and asks each mixture to find both of its sources in another modality, in the shares of
the mixture (:class:`M3CoLoss`); later, with the mixing stopped, it asks each item to be as near to the others across
modalities as they are to each other within one (:class:`SoftTargetContrastiveLoss`).
:class:`MultimodalMixupContrastive` is both, over the pairs of any number of modalities, and the time of the change.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import torch
from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings, known_reduction, normalize, positive, reduce
from counterpoint.objectives.soft_targets import soft_target_terms, softmax_means
from counterpoint.objectives.symile import Modalities, named_modalities
from counterpoint.pairwise import gather, gather_labels, log_partition, log_partitions


class M3CoLoss(nn.Module):
    """Each mixture finds its two sources in the other modality, and each item there the mixtures it is a source of.

    With ``S_ij = cos(m_i, e_j)/temperature`` of mixtures ``m_i = lam_i a_i + (1 - lam_i) a_perm(i)`` and embeddings
    ``e`` of the other modality, and targets ``P_ij`` that sum ``lam_i`` at j = i and ``1 - lam_i`` at j = perm(i)::

        l_i = - 1/2 sum_j P_ij log softmax_j S_ij  -  1/2 sum_j P_ji log softmax_j S_ji

    The rows of P sum to 1; its columns need not, as an item may be a source of several mixtures.

    Args:
        temperature: 0.1, the official code's.
        symmetric: ``False`` leaves the first term alone, without the 1/2.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the B terms.
        compat: ``"official"`` sets the diagonal of P where perm(i) = i to ``1 - lam_i`` instead of 1, as the official
            code does: such a row counts less, and not at all if it is not mixed.

    Shapes:
        ``loss(mixed, other, perm, lam)``: (B, D) raw each, mixed before normalising
        (:func:`~counterpoint.views.features.mixup_embeddings`); perm (B,) integers, rows of this process's batch; lam
        (B,) in [0, 1]. Memory O(B D). With B = 1 the loss is 0.

    Raises:
        ValueError: shapes that differ, non-finite values, rows that there are not, shares outside [0, 1],
            temperature <= 0.

    Reference: arXiv 2409.17777; official code: RaghavSinghal10/M3CoL.

    Relations: with ``lam = 1`` this is CLIP's loss, :class:`GroupInfoNCE` with one group.
    """

    def __init__(
        self, temperature: float = 0.1, symmetric: bool = True, reduction: str = "mean", compat: str | None = None
    ) -> None:
        super().__init__()
        positive(temperature=temperature)
        if compat not in (None, "official"):
            raise ValueError(f"compat: expected None or 'official', got {compat!r}")
        self.temperature, self.symmetric, self.compat = temperature, symmetric, compat
        self.reduction = known_reduction(reduction)

    def forward(self, mixed: Tensor, other: Tensor, perm: Tensor, lam: Tensor) -> Tensor:
        m, e = (normalize(x) for x in embeddings(mixed=mixed, other=other))
        perm, lam = self._checked(perm, lam, m)
        scale, rest = 1 / self.temperature, 1 - lam
        if self.compat == "official":
            lam = torch.where(perm == torch.arange(len(perm), device=perm.device), 0.0, lam)
        # of the two targets of each row, and of the rows whose target an item is
        sources = lam[:, None] * e + rest[:, None] * e[perm]
        mixtures = (lam[:, None] * m).index_add(0, perm, rest[:, None] * m)
        row_mass, column_mass = (gather_labels(x) for x in (lam + rest, lam.index_add(0, perm, rest)))
        m, e, sources, mixtures = (gather(x) for x in (m, e, sources, mixtures))
        if not self.symmetric:
            partition = log_partition(m, e, scale=scale)
            return reduce(soft_target_terms(partition, m, sources, scale=scale, mass=row_mass), self.reduction)
        rows, columns = log_partitions(m, e, scale=scale)
        found = soft_target_terms(rows, m, sources, scale=scale, mass=row_mass)
        finding = soft_target_terms(columns, e, mixtures, scale=scale, mass=column_mass)
        return reduce((found + finding) / 2, self.reduction)

    def _checked(self, perm: Tensor, lam: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        items = len(m)
        if not isinstance(perm, Tensor) or perm.shape != (items,) or perm.is_floating_point() or perm.is_complex():
            raise ValueError(f"perm: expected integers ({items},), got {tuple(getattr(perm, 'shape', ()))}")
        if bool(((perm < 0) | (perm >= items)).any()):
            raise ValueError(f"perm: expected rows 0 to {items - 1}, got {int(perm.min())} to {int(perm.max())}")
        if not isinstance(lam, Tensor) or lam.shape != (items,) or not lam.is_floating_point():
            raise ValueError(f"lam: expected floating-point ({items},), got {tuple(getattr(lam, 'shape', ()))}")
        if not bool(((lam >= 0) & (lam <= 1)).all()):
            raise ValueError(f"lam: expected shares from 0 to 1, got {float(lam.min())} to {float(lam.max())}")
        return perm.to(m.device, torch.int64), lam.detach().to(m)


class SoftTargetContrastiveLoss(nn.Module):
    """Items are to be as near to each other across modalities as they are within the second one.

    With ``T = softmax_j cos(y_i, y_j)/temperature`` and ``S_ij = cos(x_i, y_j)/temperature``::

        l_i = - 1/2 sum_j T_ij log softmax_j S_ij  -  1/2 sum_j T_ij log softmax_j S_ji

    Both directions have the same targets, those of y; :class:`MultimodalMixupContrastive` adds the loss with x and y
    exchanged.

    Args:
        temperature: 0.125, the official code's; of scores and targets.
        detach_targets: hold T constant. ``False`` is the official code, whose gradient through T can draw all
            similarities together.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the B terms.

    Shapes:
        ``loss(x, y)``: (B, D) each, raw. Memory O(B D) where attention has a fused kernel. With B = 1 the loss is 0.
        The gradient is of the first order.

    Raises:
        ValueError: shapes that differ, non-finite values, temperature <= 0.

    Reference: arXiv 2409.17777; official code: RaghavSinghal10/M3CoL, where it is the soft CLIP loss.

    Relations: the lower the temperature, the nearer to CLIP's loss; :class:`CWCL` takes its targets from another,
    frozen model.
    """

    def __init__(self, temperature: float = 0.125, detach_targets: bool = False, reduction: str = "mean") -> None:
        super().__init__()
        positive(temperature=temperature)
        self.temperature, self.detach_targets = temperature, detach_targets
        self.reduction = known_reduction(reduction)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = (gather(normalize(z)) for z in embeddings(x=x, y=y))
        scale, like = 1 / self.temperature, y.detach() if self.detach_targets else y
        rows, columns = log_partitions(x, y, scale=scale)
        found = soft_target_terms(rows, x, softmax_means(like, y, scale=scale), scale=scale)
        finding = soft_target_terms(columns, y, softmax_means(like, x, scale=scale), scale=scale)
        return reduce((found + finding) / 2, self.reduction)


class MultimodalMixupContrastive(nn.Module):
    """M3CoL's contrastive part: mixtures first, soft targets later, over pairs of modalities.

    In the first phase each modality is mixed within the batch and aligned with another one by :class:`M3CoLoss`; in the
    second :class:`SoftTargetContrastiveLoss` aligns them unmixed. The losses of all pairs are added.

    Args:
        mode: ``"cyclic"``, the official code's: 1 with 2, 2 with 3, ..., M with 1 (with two modalities, both ways
            round); ``"pairs"``: each with every other one, M (M - 1) losses.
        switch: share of the training that is the first phase; 0.33, the official code's, which rounds it down to whole
            epochs. 0: soft targets alone; 1: mixtures alone.
        temperature: of the first phase; 0.1.
        soft_temperature: of the second; 0.125.
        detach_targets: see :class:`SoftTargetContrastiveLoss`.
        compat: see :class:`M3CoLoss`.

    Shapes:
        ``loss(z, mixtures)``: z a mapping of M >= 2 modalities to (B, D), a sequence or a stack of them, raw; mixtures,
        in the first phase, for each modality what :func:`~counterpoint.views.features.mixup_embeddings` returns: mixed
        (B, D), perm (B,) and lam (B,). Without them it is the loss of the second phase. :meth:`mixes` tells which phase
        it is.

    Raises:
        ValueError: fewer than two modalities, another number of mixtures, an unknown mode, a switch outside [0, 1], and
            as the two losses.

    The official code mixes embeddings for all modalities; its README mixes raw inputs where they are not text.

    Reference: arXiv 2409.17777; official code: RaghavSinghal10/M3CoL.
    """

    def __init__(
        self,
        mode: str = "cyclic",
        switch: float = 0.33,
        temperature: float = 0.1,
        soft_temperature: float = 0.125,
        detach_targets: bool = False,
        compat: str | None = None,
    ) -> None:
        super().__init__()
        if mode not in ("cyclic", "pairs"):
            raise ValueError(f"mode: expected 'cyclic' or 'pairs', got {mode!r}")
        if not 0 <= switch <= 1:
            raise ValueError(f"switch: expected a share from 0 to 1, got {switch}")
        positive(soft_temperature=soft_temperature)
        self.mode, self.switch = mode, switch
        self.mixing = M3CoLoss(temperature, compat=compat)
        self.soft = SoftTargetContrastiveLoss(soft_temperature, detach_targets)

    def mixes(self, progress: float) -> bool:
        """Whether the first phase lasts when this share of the training, from 0 to 1, is done."""
        return progress < self.switch

    def ways(self, modalities: int) -> list[tuple[int, int]]:
        """The pairs (mixed, other), by number."""
        if self.mode == "pairs":
            return list(permutations(range(modalities), 2))
        return [(m, (m + 1) % modalities) for m in range(modalities)]

    def pair(self, x: Tensor, y: Tensor, mixture: tuple[Tensor, Tensor, Tensor] | None = None) -> Tensor:
        """The loss of one pair: with a mixture of ``x`` that of the first phase, without one that of the second."""
        if mixture is None:
            return self.soft(x, y)  # type: ignore[no-any-return]
        mixed, perm, lam = mixture
        return self.mixing(mixed, y, perm, lam)  # type: ignore[no-any-return]

    def forward(self, z: Modalities, mixtures: Sequence[tuple[Tensor, Tensor, Tensor]] | None = None) -> Tensor:
        named = list(named_modalities(z).values())
        if mixtures is not None and len(mixtures) != len(named):
            raise ValueError(f"mixtures: expected {len(named)}, one of each modality, got {len(mixtures)}")
        drawn = [None] * len(named) if mixtures is None else list(mixtures)
        return torch.stack([self.pair(named[a], named[b], drawn[a]) for a, b in self.ways(len(named))]).sum()
