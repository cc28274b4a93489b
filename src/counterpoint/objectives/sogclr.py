"""SogCLR and iSogCLR: moving averages and temperatures of one's own for every item, so that small batches suffice.

SogCLR: Yuan et al., ICML 2022 (arXiv 2202.12387). iSogCLR: Qiu et al., ICML 2023 (arXiv 2305.11965).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings, known_reduction, normalize, positive, reduce
from counterpoint.pairwise import gather, gather_labels, log_partition, pair_sum


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


class SogCLR(nn.Module):
    """NT-Xent without the positive in the denominator, whose denominator is a moving average over the item's visits.

    A batch of B items estimates the normaliser of an item from 2B - 2 negatives, and the logarithm of an average over
    few is biased. With unit vectors, item i, view v, the m = 2B - 2 views j of the other items and sg = no gradient::

        g_v = 1/m sum_j exp(<z_v, z_j> / tau),    S_v = (1 - gamma) s_i + gamma g_v,    s_i <- mean_v S_v
        l_i = sum_v [ 1/m sum_j sg( exp(<z_v, z_j> / tau) / S_v ) <z_v, z_j> - <z_1, z_2> ],    loss = mean_i l_i

    At an item's first visit S_v = g_v. The first term's gradient is that of ``tau log S_v / gamma`` (of ``tau log g_v``
    at the first visit); its **value** is no InfoNCE, and the loss may be negative: watch ``state.s`` instead.

    Args:
        items: of the data set, each with its moving average.
        gamma: 0.8, the official code's; 0.9 in LibAUC. 1 forgets what was before.
        temperature: 0.1, the official code's.
        compat: ``"official"``: averages start anew in epoch 0 only, and an item first seen later enters with
            ``gamma g`` as if its average had been 0, which blows up its weights by 1/gamma until it is forgotten. (Not
            reproduced: unimodal SogCLR in the iSogCLR repository remembers S_1 + S_2; LibAUC the mean, as here.)
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the B terms.

    Shapes:
        ``loss(z1, z2, index)``: z (B, D) raw, B >= 2 over all processes, index (B,) positions in the data set. Rows of
        one item in a batch are averaged in its state. Memory O(B D + items): no 2B x 2B matrix is made.

    The state steps in training mode with gradients on, and only then. ``epoch`` is for ``compat="official"`` and, like
    ``progress`` (0 to 1), for the schedules of :class:`ISogCLR`.

    Raises:
        ValueError: on B = 1 (no negatives), no ``index`` or one outside the data, shapes that differ, non-finite values
            (before anything is remembered), temperature <= 0, gamma outside (0, 1].

    Relations: with gamma = 1 the gradient is tau times that of the decoupled NT-Xent (DCL), both views added;
    :class:`ISogCLR` learns the temperatures; :class:`BimodalSogCLR` is for pairs of images and texts.

    Reference: arXiv 2202.12387; code zhqiu/contrastive-learning-iSogCLR and LibAUC.
    """

    def __init__(
        self,
        items: int,
        gamma: float = 0.8,
        temperature: float = 0.1,
        compat: str | None = None,
        reduction: str = "mean",
        *,
        step: TemperatureStep | None = None,
    ) -> None:
        super().__init__()
        self.state = ItemState(items, gamma, temperature, step)
        self.compat, self.reduction = _known_compat(compat), known_reduction(reduction)

    def forward(
        self,
        z1: Tensor,
        z2: Tensor,
        index: Tensor | None = None,
        epoch: int | None = None,
        progress: float | None = None,
    ) -> Tensor:
        z1, z2 = embeddings(z1=z1, z2=z2)
        index = self.state.positions("index", index, len(z1))
        z1, z2 = gather(normalize(z1)), gather(normalize(z2))
        if len(z1) < 2:
            raise ValueError("z1: expected at least 2 rows, since with 1 there are no negatives")
        z, own = torch.cat([z1, z2]), torch.arange(len(z1), device=z1.device).repeat(2)
        fresh = epoch == 0 if self.compat == "official" else None
        repulsion = self.state(
            z, z, z.new_zeros(len(z)), index.repeat(2), own, len(z) - 2, fresh, epoch=epoch, progress=progress
        )
        terms = repulsion.view(2, -1).sum(0) - 2 * (z1 * z2).sum(1)
        return reduce(terms, self.reduction)


class ISogCLR(SogCLR):
    """SogCLR whose items have temperatures of their own, learnt by gradient descent on a robust loss.

    Of the weights p of an item's negatives the worst within ``KL(p || uniform) <= rho`` count, and the temperature is
    the multiplier of that constraint (see :func:`dro_temperature`): items of frequent semantics, with many similar
    negatives, get a large one, rare items a small one. The loss is that of :class:`SogCLR` at the temperatures as they
    are, which then take the step of :class:`TemperatureStep` with the mean over views of::

        G_v = log S_v + rho - 1/m sum_j w_vj <z_v, z_j> / tau_i

    Args:
        items, gamma, temperature, compat, reduction: as for :class:`SogCLR`; temperatures start at ``temperature``.
        rho: 0.4, as the published runs on CIFAR-100; below log(2B - 2), see :class:`TemperatureStep`.
        eta: 0.03, as there; 0.01 in LibAUC, which is safer on small data.
        beta: 0.5, as there; 0.9 in the official class and in LibAUC.
        tau_min: 0.05, the official class's.
        tau_max: 1, the official class's; 0.7 in LibAUC.
        clip: 3, the official code's.
        schedule, eta_min, decay: see :class:`TemperatureStep`.

    Shapes, Raises: as :class:`SogCLR`; also for a temperature outside its bounds. ``state.tau`` (items,) holds the
    temperatures.

    Reference: arXiv 2305.11965; code zhqiu/contrastive-learning-iSogCLR, ``unimodal_exps/losses.py``.
    """

    def __init__(
        self,
        items: int,
        gamma: float = 0.8,
        temperature: float = 0.1,
        rho: float = 0.4,
        eta: float = 0.03,
        beta: float = 0.5,
        tau_min: float = 0.05,
        tau_max: float = 1.0,
        clip: float = 3.0,
        schedule: str = "constant",
        eta_min: float = 1e-4,
        decay: float = 0.8,
        compat: str | None = None,
        reduction: str = "mean",
    ) -> None:
        step = TemperatureStep(rho, eta, beta, tau_min, tau_max, clip, schedule, eta_min, decay)
        super().__init__(items, gamma, temperature, compat, reduction, step=step)


class BimodalSogCLR(nn.Module):
    """SogCLR for pairs of images and texts: both directions, each side with a state of its own.

    With unit vectors, ``h_ij = <x_i, t_j> - <x_i, t_i>`` over the m = B - 1 texts j of other pairs (images for texts)::

        S_i = (1 - gamma) s_i + gamma 1/m sum_j exp(h_ij / tau),    s_i <- S_i
        loss = mean_i 1/m sum_j sg( exp(h_ij / tau) / S_i ) h_ij    over images, plus the same over texts

    Args:
        items: images of the data set.
        gamma: 0.8, the official README's; 0.9 in LibAUC.
        temperature: 0.01, the official README's.
        texts: of the data set, where they have positions of their own; ``None``: as many as images, one each.
        compat: ``"official"``, the code of the published runs: the pair itself counts in the sum of S, and averages
            start from 0 instead of the first visit's value, which blows up the first weights by 1/gamma. A later
            commit of the authors' repository has neither.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the B terms, each image's and its text's added.

    Shapes:
        ``loss(image, text, index, text_index)``: both (B, D) raw, B >= 2 over all processes; positions (B,) in the data
        set, those of the texts by default the same. Memory O(B D + items + texts): no B x B matrix is made.

    Raises:
        ValueError: as :class:`SogCLR`.

    Relations: LibAUC has this loss times (B - 1) / 2.

    Reference: arXiv 2202.12387 and 2305.11965; code ``bimodal_exps/models/losses.py`` and LibAUC.
    """

    def __init__(
        self,
        items: int,
        gamma: float = 0.8,
        temperature: float = 0.01,
        texts: int | None = None,
        compat: str | None = None,
        reduction: str = "mean",
        *,
        step: TemperatureStep | None = None,
    ) -> None:
        super().__init__()
        self.image_state = ItemState(items, gamma, temperature, step)
        self.text_state = ItemState(items if texts is None else texts, gamma, temperature, step)
        self.compat, self.reduction = _known_compat(compat), known_reduction(reduction)

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        index: Tensor | None = None,
        text_index: Tensor | None = None,
        epoch: int | None = None,
        progress: float | None = None,
    ) -> Tensor:
        image, text = embeddings(image=image, text=text)
        name, text_index = ("index", index) if text_index is None else ("text_index", text_index)
        text_index = self.text_state.positions(name, text_index, len(text))
        index = self.image_state.positions("index", index, len(image))
        image, text = gather(normalize(image)), gather(normalize(text))
        if len(image) < 2:
            raise ValueError("image: expected at least 2 rows, since with 1 there are no negatives")
        pairs, own = (image * text).sum(1), torch.arange(len(image), device=image.device)
        official = self.compat == "official"
        how = {"fresh": False if official else None, "count_positive": official, "epoch": epoch, "progress": progress}
        terms = self.image_state(image, text, pairs, index, own, len(own) - 1, **how)
        terms = terms + self.text_state(text, image, pairs, text_index, own, len(own) - 1, **how)
        return reduce(terms, self.reduction)


class BimodalISogCLR(BimodalSogCLR):
    """:class:`BimodalSogCLR` in which each image and each text learns a temperature, as in :class:`ISogCLR`.

    Args:
        items, gamma, temperature, texts, compat, reduction: as for :class:`BimodalSogCLR`.
        rho: 6, of the official README's 6 to 8 and LibAUC's default, for millions of pairs; take less than log(B - 1)
            on small data, see :class:`TemperatureStep`.
        eta: 0.03, beta: 0.9, tau_min: 0.005, tau_max: 1, clip: 5: the official README and code; LibAUC has 0.05 as the
            largest temperature.
        schedule, eta_min, decay: see :class:`TemperatureStep`.

    Shapes, Raises: as :class:`BimodalSogCLR`. Temperatures: ``image_state.tau`` and ``text_state.tau``.

    Reference: arXiv 2305.11965.
    """

    def __init__(
        self,
        items: int,
        gamma: float = 0.8,
        temperature: float = 0.01,
        texts: int | None = None,
        rho: float = 6.0,
        eta: float = 0.03,
        beta: float = 0.9,
        tau_min: float = 0.005,
        tau_max: float = 1.0,
        clip: float = 5.0,
        schedule: str = "constant",
        eta_min: float = 1e-4,
        decay: float = 0.8,
        compat: str | None = None,
        reduction: str = "mean",
    ) -> None:
        step = TemperatureStep(rho, eta, beta, tau_min, tau_max, clip, schedule, eta_min, decay)
        super().__init__(items, gamma, temperature, texts, compat, reduction, step=step)


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


def _known_compat(compat: str | None) -> str | None:
    if compat not in (None, "official"):
        raise ValueError(f"compat: expected None or 'official', got {compat!r}")
    return compat
