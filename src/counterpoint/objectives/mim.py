"""cMIM: a contrastive mutual information machine (Livne 2025, arXiv 2502.19642), what it adds to, and the ELBO.

All three train an encoder q(z|x), a decoder p(x|z) and a prior P(z) = N(0, I) on codes ``z = mean + noise *
exp(log_scale)`` of real data. With x from the data, the loss of an item is::

    MIM             - log p(x|z)  -  1/2 ( log q(z|x) + log P(z) )
    ContrastiveMIM  - log p(x|z)  -  1/2 ( log q(z|x) + log P(z) )  -  log p(k=1|x,z)
    ELBO            - log p(x|z)  +  log q(z|x) - log P(z)

The sign of log q tells MIM from the ELBO: a variational auto-encoder keeps its codes uncertain, at worst so uncertain
that they say nothing; MIM makes them as certain as it may.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings, known_reduction, normalize, positive, reduce
from counterpoint.objectives.likelihoods import log_normal
from counterpoint.pairwise import gather, log_partition


class ContrastiveMIMTerm(nn.Module):
    """``- log p(k=1|x,z)``: a code is told from the other codes of the batch, without any augmentation.

    With unit vectors ``u_i`` of the codes, the positive of a code is the code itself, and negatives are **averaged**::

        p_i = exp(1/temperature) / ( exp(1/temperature) + 1/(B-1) sum_{j != i} exp(<u_i, u_j>/temperature) )

    The mean estimates an expectation over all codes, so that the term does not depend on the batch size but for noise;
    with a sum it would be InfoNCE, whose value grows with the logarithm of B. The cosine of a code with itself is
    constant: the term only repels.

    Args:
        temperature: 0.1, the default of KERMT's code.
        negatives: ``"mean"``, the paper's, or ``"sum"``, InfoNCE without augmentation, for comparison.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the B terms.

    Shapes:
        ``loss(codes)``: (B, L) raw; during training samples, not means. Memory O(B L).

    From 0 (alone in its direction) over log 2 (all codes in one direction, whatever B) up to about ``2/temperature``.
    One code has nothing to be told from: its term is 0. A code of zeros has no direction: its cosine is 0, also with
    itself as in KERMT's code, and its term is log 2.

    Raises:
        ValueError: on no codes, non-finite values, temperature <= 0.

    Reference: arXiv 2502.19642; code by its author: NVIDIA-BioNeMo/KERMT, ``compute_cmim_loss``.
    """

    def __init__(self, temperature: float = 0.1, negatives: str = "mean", reduction: str = "mean") -> None:
        super().__init__()
        positive(temperature=temperature)
        if negatives not in ("mean", "sum"):
            raise ValueError(f"negatives: expected 'mean' or 'sum', got {negatives!r}")
        self.temperature, self.negatives, self.reduction = temperature, negatives, known_reduction(reduction)

    def forward(self, codes: Tensor) -> Tensor:
        (codes,) = embeddings(codes=codes)
        units = gather(normalize(codes))
        others = len(units) - 1
        if not others:
            return reduce(0 * units.sum(1), self.reduction)
        own = (units.detach() != 0).any(1).to(units) / self.temperature
        partition = log_partition(units, scale=1 / self.temperature, exclude="self")
        if self.negatives == "mean":
            partition = partition - math.log(others)
        return reduce(torch.logaddexp(own, partition) - own, self.reduction)


class _Likelihood(nn.Module):
    """What the losses of auto-encoders share: the log-likelihood of an item, and the densities of its code."""

    def __init__(self, recon_reduction: str, reduction: str) -> None:
        super().__init__()
        if recon_reduction not in ("sum", "mean"):
            raise ValueError(f"recon_reduction: expected 'sum' or 'mean', got {recon_reduction!r}")
        self.recon_reduction, self.reduction = recon_reduction, known_reduction(reduction)

    def _reconstruction(self, log_likelihood: Tensor, items: int, mask: Tensor | None) -> Tensor:
        """``- log p(x|z)`` (B,) over all processes."""
        ndims = tuple(range(1, 7))
        given = log_likelihood[:, None] if isinstance(log_likelihood, Tensor) and log_likelihood.ndim == 1 else None
        (entries,) = embeddings(ndims, log_likelihood=log_likelihood if given is None else given)
        if len(entries) != items:
            raise ValueError(f"log_likelihood: expected {items} items as z, got {tuple(log_likelihood.shape)}")
        if mask is None:
            entries = entries.flatten(1)
            return gather(-(entries.sum(1) if self.recon_reduction == "sum" else entries.mean(1)))
        if mask.shape != log_likelihood.shape:
            raise ValueError(f"mask: expected {tuple(log_likelihood.shape)} as log_likelihood, got {tuple(mask.shape)}")
        valid = mask.reshape(entries.shape).bool().flatten(1)
        count = valid.sum(1)
        if not bool(count.all()):
            raise ValueError(f"mask: {int((count == 0).sum())} of {items} items have no entry that counts")
        total = torch.where(valid, entries.flatten(1), 0.0).sum(1)
        return gather(-(total if self.recon_reduction == "sum" else total / count))

    @staticmethod
    def _densities(z: Tensor, mean: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        """``log q(z|x)`` and ``log P(z)``, (B,) each, summed over the dimensions, over all processes."""
        posterior, prior = gather(log_normal(z, mean, log_scale).sum(1)), gather(log_normal(z).sum(1))
        for name, density in (("log_scale", posterior), ("z", prior)):
            if not bool(torch.isfinite(density.detach()).all()):
                raise ValueError(f"{name}: a log density overflows; clamp log_scale from below (-6), and keep z small")
        return posterior, prior


class MIM(_Likelihood):
    """A mutual information machine that samples from the data alone (A-MIM): ``-log p(x|z) - (log q + log P) / 2``.

    It maximises the mutual information of data and codes together with their joint likelihood. The posterior's scale
    shrinks to where the encoder clamps it, without which the loss has no lower bound; so it may rightly be negative.

    Args:
        recon_reduction: what a log-likelihood of several entries an item becomes: ``"sum"``, the papers' and the
            likelihood's meaning; or ``"mean"``, KERMT's over the valid tokens, by as much weaker as there are entries.
        normalize_gradient: KERMT's switch: the gradient of the two densities of the code is divided by L, their value
            is not. False, its default.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the B items.

    Shapes:
        ``loss(log_likelihood, z, mean, log_scale, mask)``: log_likelihood (B,) or (B, ...) entry by entry, with a
        ``mask`` of its shape, true where an entry counts; z, mean and log_scale (B, L), where ``log_scale`` is the
        logarithm of the standard deviation and ``z`` was made of ``mean`` and ``log_scale`` with their gradient: that
        of log q is then 0 for the mean and -1 for log_scale.

    Raises:
        ValueError: on shapes that do not match, non-finite values, an item without an entry that counts, scales so
            small that a density overflows.

    The symmetric form, which samples from the prior half of the time, needs an estimate of log q(x) and of a gradient
    through samples of the prior; the papers train the asymmetric one, and so does this library.

    Reference: Livne, Swersky & Fleet, arXiv 1910.03175 and 2003.02645 (SentenceMIM, which adds the constant log B).
    """

    def __init__(self, recon_reduction: str = "sum", normalize_gradient: bool = False, reduction: str = "mean") -> None:
        super().__init__(recon_reduction, reduction)
        self.normalize_gradient = normalize_gradient

    def forward(
        self, log_likelihood: Tensor, z: Tensor, mean: Tensor, log_scale: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        return reduce(self._terms(log_likelihood, z, mean, log_scale, mask), self.reduction)

    def _terms(self, log_likelihood: Tensor, z: Tensor, mean: Tensor, log_scale: Tensor, mask: Tensor | None) -> Tensor:
        z, mean, log_scale = embeddings(z=z, mean=mean, log_scale=log_scale)
        reconstruction = self._reconstruction(log_likelihood, len(z), mask)
        posterior, prior = self._densities(z, mean, log_scale)
        latent = 0.5 * (posterior + prior)
        if self.normalize_gradient:
            latent = latent.detach() + (latent - latent.detach()) / z.shape[1]
        return reconstruction - latent


class ContrastiveMIM(MIM):
    """cMIM: :class:`MIM`, whose codes are moreover told from each other by :class:`ContrastiveMIMTerm`.

    All terms have unit weight.

    Args:
        temperature: 0.1, as for :class:`ContrastiveMIMTerm`.
        recon_reduction, normalize_gradient, reduction: as for :class:`MIM`.
        negatives: ``"mean"`` or ``"sum"``, as for :class:`ContrastiveMIMTerm`.

    Shapes, errors: as for :class:`MIM`. The contrastive term acts on ``z``, the samples.

    Reference: arXiv 2502.19642, 2411.10548, 2509.21511.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        recon_reduction: str = "sum",
        normalize_gradient: bool = False,
        negatives: str = "mean",
        reduction: str = "mean",
    ) -> None:
        super().__init__(recon_reduction, normalize_gradient, reduction)
        self.contrast = ContrastiveMIMTerm(temperature, negatives, reduction="none")

    def _terms(self, log_likelihood: Tensor, z: Tensor, mean: Tensor, log_scale: Tensor, mask: Tensor | None) -> Tensor:
        terms = super()._terms(log_likelihood, z, mean, log_scale, mask)  # which names what it refuses
        contrast: Tensor = self.contrast(z)
        return terms + contrast


class ELBO(_Likelihood):
    """The negative evidence lower bound of a variational auto-encoder: ``-log p(x|z) + beta KL( q(z|x) || P(z) )``.

    Args:
        beta: weight of the divergence; 1, the bound itself (others: Higgins et al., ICLR 2017).
        analytic: the divergence of the two normal distributions in closed form, as Kingma and Welling do; ``False``
            takes ``log q(z|x) - log P(z)`` at the sample, which is equal on average.
        recon_reduction, reduction: as for :class:`MIM`.

    Shapes, errors: as for :class:`MIM`; also a beta that is not finite or below 0.

    Reference: Kingma & Welling, ICLR 2014, arXiv 1312.6114.
    """

    def __init__(
        self, beta: float = 1.0, analytic: bool = True, recon_reduction: str = "sum", reduction: str = "mean"
    ) -> None:
        super().__init__(recon_reduction, reduction)
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta: expected a finite number of at least 0, got {beta}")
        self.beta, self.analytic = beta, analytic

    def forward(
        self, log_likelihood: Tensor, z: Tensor, mean: Tensor, log_scale: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        z, mean, log_scale = embeddings(z=z, mean=mean, log_scale=log_scale)
        reconstruction = self._reconstruction(log_likelihood, len(z), mask)
        if self.analytic:
            divergence = gather((mean.square() + torch.expm1(2 * log_scale) - 2 * log_scale).sum(1)) / 2
            if not bool(torch.isfinite(divergence.detach()).all()):
                raise ValueError("log_scale, mean: the divergence from the prior overflows; keep both small")
        else:
            posterior, prior = self._densities(z, mean, log_scale)
            divergence = posterior - prior
        return reduce(reconstruction + self.beta * divergence, self.reduction)
