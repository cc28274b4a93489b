"""SogCLR and iSogCLR: moving averages and temperatures of one's own for every item, so that small batches suffice.

SogCLR: Yuan et al., ICML 2022 (arXiv 2202.12387). iSogCLR: Qiu et al., ICML 2023 (arXiv 2305.11965).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings, known_reduction, normalize, reduce
from counterpoint.objectives.item_state import ItemState, TemperatureStep
from counterpoint.pairwise import gather


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


def _known_compat(compat: str | None) -> str | None:
    if compat not in (None, "official"):
        raise ValueError(f"compat: expected None or 'official', got {compat!r}")
    return compat
