"""What SogCLR and iSogCLR remember of each item: the average of its normaliser, and a temperature that learns.

SogCLR: Yuan et al., ICML 2022 (arXiv 2202.12387). iSogCLR: Qiu et al., ICML 2023 (arXiv 2305.11965), whose temperatures
descend on the dual of a robust loss; :func:`dro_temperature` solves it exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from counterpoint.objectives.inputs import positive
from counterpoint.pairwise import gather_labels, log_partition, pair_sum


@dataclass(frozen=True)
class TemperatureStep:
    """One step of stochastic gradient descent on the temperatures of the items that a batch holds.

    ``u <- (1 - beta) u + beta clip(G)``, then ``tau <- clip(tau - eta u)``, where ``G`` is the derivative of the robust
    loss ``tau log mean_j exp(h_j / tau) + tau rho`` at ``tau``, see :func:`dro_temperature`.

    Args:
        rho: KL radius: how far from uniform the worst-case weights of an item's negatives may be. Weights of m
            negatives cannot be farther than log m: with a larger rho, every temperature falls to ``tau_min``.
        eta: step size.
        beta: share of the new gradient in the momentum u.
        tau_min: smallest temperature.
        tau_max: largest temperature.
        clip: bound of G; ``inf`` for none (LibAUC).
        schedule: of eta over training: ``"constant"`` (the published runs), ``"cosine"``, a quarter of a wave from eta
            to ``eta_min`` over ``progress``, or ``"exponential"``, times ``decay`` each epoch, where epoch 1 has eta
            and epoch 0, as in the official code, more.
        eta_min: where cosine and exponential end; 1e-4, the official code's.
        decay: 0.8, the official code's.
    """

    rho: float
    eta: float
    beta: float
    tau_min: float
    tau_max: float
    clip: float
    schedule: str = "constant"
    eta_min: float = 1e-4
    decay: float = 0.8

    def __post_init__(self) -> None:
        positive(rho=self.rho, eta=self.eta, tau_min=self.tau_min, tau_max=self.tau_max, decay=self.decay)
        if self.tau_min > self.tau_max:
            raise ValueError(f"tau_min: expected at most tau_max = {self.tau_max}, got {self.tau_min}")
        if not 0 < self.beta <= 1:
            raise ValueError(f"beta: expected a number above 0 and at most 1, got {self.beta}")
        if not self.clip > 0:
            raise ValueError(f"clip: expected a number above 0, got {self.clip}")
        if not 0 <= self.eta_min <= self.eta:
            raise ValueError(f"eta_min: expected a number from 0 to eta = {self.eta}, got {self.eta_min}")
        if self.schedule not in ("constant", "cosine", "exponential"):
            raise ValueError(f"schedule: expected 'constant', 'cosine' or 'exponential', got {self.schedule!r}")

    def size(self, epoch: int | None, progress: float | None) -> float:
        """eta at an epoch, counted from 0, or at a share of the training."""
        if self.schedule == "constant":
            return self.eta
        if self.schedule == "cosine":
            if progress is None:
                raise ValueError("progress: needed by the cosine schedule, from 0 to 1")
            factor = math.cos(math.pi / 2 * progress)
        else:
            if epoch is None:
                raise ValueError("epoch: needed by the exponential schedule, from 0")
            factor = self.decay ** (epoch - 1)
        return self.eta_min + (self.eta - self.eta_min) * factor


class ItemState(nn.Module):
    """What is remembered of each item, as buffers: saved in checkpoints, moved with the module, equal on all processes.

    ``log_s`` (items,) is the log of the moving average ``s`` of the item's normaliser, ``-inf`` for one never seen;
    ``tau`` (items,) its temperature; ``u`` (items,) the momentum of the temperature's gradient. The papers keep ``s``
    and, against overflow, a running maximum ``b`` of its exponents; the logarithm is both, ``log_s = b + log s``, and
    it can underflow as little as overflow.

    Args:
        items: of the data set.
        gamma: share of the batch in the moving average.
        temperature: at which all items start.
        step: how temperatures learn; ``None``: they stay.
    """

    log_s: Tensor
    tau: Tensor
    u: Tensor

    def __init__(self, items: int, gamma: float, temperature: float, step: TemperatureStep | None) -> None:
        super().__init__()
        if items < 1:
            raise ValueError(f"items: expected at least 1, the number of items in the data set, got {items}")
        if not 0 < gamma <= 1:
            raise ValueError(f"gamma: expected a number above 0 and at most 1, got {gamma}")
        positive(temperature=temperature)
        if step is not None and not step.tau_min <= temperature <= step.tau_max:
            raise ValueError(f"temperature: expected {step.tau_min} to {step.tau_max}, got {temperature}")
        self.gamma, self.step = gamma, step
        self.register_buffer("log_s", torch.full((items,), -math.inf))
        self.register_buffer("tau", torch.full((items,), float(temperature)))
        self.register_buffer("u", torch.zeros(items))

    @property
    def s(self) -> Tensor:
        """The moving averages (items,); 0 for items never seen."""
        return self.log_s.exp()

    def positions(self, name: str, index: Tensor | None, rows: int) -> Tensor:
        """``index`` of this process's rows, checked, and then of the rows of all processes."""
        if index is None:
            raise ValueError(f"{name}: needed, since each item has a state: its position in the data set, from 0")
        if index.shape != (rows,) or index.is_floating_point() or index.dtype == torch.bool:
            raise ValueError(f"{name}: expected ({rows},) integers, got {tuple(index.shape)} {index.dtype}")
        if int(index.min()) < 0 or int(index.max()) >= len(self.tau):
            found = f"{int(index.min())} to {int(index.max())}"
            raise ValueError(f"{name}: expected positions from 0 to {len(self.tau) - 1}, got {found}")
        gathered = gather_labels(index.to(self.tau.device, torch.int64))
        assert gathered is not None
        return gathered

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        positives: Tensor,
        index: Tensor,
        exclude: Tensor,
        negatives: int,
        fresh: bool | None = None,
        count_positive: bool = False,
        epoch: int | None = None,
        progress: float | None = None,
    ) -> Tensor:
        """Mean score of each query's negatives (N,), weighted by ``w_ij = exp(h_ij / tau_i) / S_i`` without gradient.

        In training, and where gradients are recorded, it also takes the step of the state. In evaluation mode and
        under ``no_grad`` it looks at the state and leaves it alone: measuring a loss is no visit.

        Args:
            queries, keys: (N, D) and (M, D), of unit length.
            positives: (N,) subtracted from the scores of each query: its positive score, or 0.
            index: (N,) positions of the queries' items in the data set. Rows of one item step together, by the mean.
            exclude: (N,) groups of queries and of keys; equal ones are no negatives of each other.
            negatives: m, of each query.
            fresh: whether all averages start anew, as the official code decides by the epoch; ``None``: those of items
                that were never seen do.
            count_positive: the official bimodal code's ``exp(0)`` of the positive in the normaliser.
            epoch, progress: for the schedule of eta.
        """
        tau = self.tau[index].to(queries.dtype)
        eta = self.step.size(epoch, progress) if self.step is not None else 0.0
        with torch.no_grad():
            batch = log_partition(queries, keys, scale=1 / tau, exclude=exclude, exclude_keys=exclude) - positives / tau
            if count_positive:
                batch = torch.logaddexp(batch, torch.zeros_like(batch))
            log_s = self._average(self.log_s[index].to(tau.dtype), batch - math.log(negatives), fresh)
        rows = (positives, 1 / tau, log_s)
        mean = pair_sum(_weighted, queries, keys, rows=rows, exclude=exclude, exclude_keys=exclude) / negatives
        if self.training and torch.is_grad_enabled():
            self._remember(index, log_s, log_s - mean.detach() / tau, eta)
        return mean

    def _average(self, old: Tensor, batch: Tensor, fresh: bool | None) -> Tensor:
        if fresh:
            return batch
        keep = math.log1p(-self.gamma) if self.gamma < 1 else -math.inf
        mixed = torch.logaddexp(old + keep, batch + math.log(self.gamma))
        return mixed if fresh is False else torch.where(old.isneginf(), batch, mixed)

    @torch.no_grad()
    def _remember(self, index: Tensor, log_s: Tensor, gradient: Tensor, eta: float) -> None:
        items, row = torch.unique(index, return_inverse=True)
        count = torch.bincount(row)

        def mean(x: Tensor) -> Tensor:
            return x.new_zeros(len(items)).index_add(0, row, x) / count

        top = log_s.new_full((len(items),), -math.inf).scatter_reduce(0, row, log_s, "amax")
        self.log_s[items] = (top + mean(torch.exp(log_s - top[row])).log()).to(self.log_s)
        if self.step is not None:
            new = (mean(gradient) + self.step.rho).clamp(-self.step.clip, self.step.clip).to(self.u)
            self.u[items] = torch.lerp(self.u[items], new, self.step.beta)
            self.tau[items] = (self.tau[items] - eta * self.u[items]).clamp(self.step.tau_min, self.step.tau_max)


def _weighted(score: Tensor, positive: Tensor, scale: Tensor, log_s: Tensor) -> Tensor:
    h = score - positive
    return h * torch.exp(h.detach() * scale - log_s).detach()


@torch.no_grad()
def dro_temperature(h: Tensor, rho: float, tau_min: float, tau_max: float) -> Tensor:
    """The temperature at which iSogCLR's steps rest: the exact minimiser of the robust loss of given scores.

    ::

        max { <p, h> : KL(p || uniform) <= rho }  =  min over tau > 0 of  tau log mean_j exp(h_j / tau) + tau rho

    The derivative in tau is ``rho - KL(p_tau || uniform)`` with ``p_tau = softmax(h / tau)``; it rises with tau, so the
    minimiser is found by bisection, in float64: inside the bounds the worst-case weights lie at just rho.

    Args:
        h: (..., m) scores of the negatives, m >= 2.
        rho: KL radius; from log m on, the minimiser is ``tau_min``.
        tau_min, tau_max: bounds of the minimiser.

    Returns:
        (...) of the type of ``h``, without gradient.

    Raises:
        ValueError: fewer than two scores, non-finite values, rho <= 0, bounds that are not 0 < tau_min <= tau_max.
    """
    if not h.is_floating_point() or h.ndim < 1 or h.shape[-1] < 2 or not bool(torch.isfinite(h).all()):
        raise ValueError(f"h: expected finite scores (..., m >= 2), got {tuple(h.shape)} {h.dtype}, or NaN or infinite")
    positive(rho=rho, tau_min=tau_min, tau_max=tau_max)
    if tau_min > tau_max:
        raise ValueError(f"tau_min: expected at most tau_max = {tau_max}, got {tau_min}")
    scores = h.double() - h.double().amax(-1, keepdim=True)
    low = torch.full(h.shape[:-1], math.log(tau_min), dtype=torch.float64, device=h.device)
    high = torch.full_like(low, math.log(tau_max))

    def too_small(log_tau: Tensor) -> Tensor:
        log_p = torch.log_softmax(scores / log_tau.exp()[..., None], -1)
        return (log_p.exp() * log_p).sum(-1) + math.log(h.shape[-1]) > rho

    at_low, at_high = ~too_small(low), too_small(high)
    for _ in range(64):  # halvings: beyond the precision of float64
        middle = (low + high) / 2
        rises = too_small(middle)
        low, high = torch.where(rises, middle, low), torch.where(rises, high, middle)
    found = torch.where(at_low, tau_min, torch.where(at_high, tau_max, low.exp()))
    return found.to(h.dtype)
