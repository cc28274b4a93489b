"""Across the gap between modalities: adapters of text vectors, so that a head trained on them knows image vectors.

CLOSE (Gu, Clark & Kembhavi, ICCV 2023) trains a model on the text vectors of a frozen CLIP and uses it on image
vectors. The two lie in different parts of the sphere, so in training each text vector is moved by an :class:`Adapter`:
blurred until the gap is no longer visible, or carried over to where image vectors lie. Images are never adapted.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings, normalize

ADAPTERS = ("none", "noise", "mean-shift", "covariance", "linear", "random-shift")


class GapStatistics(NamedTuple):
    """What pairs of vectors say about the gap; see :func:`fit_adapters`.

    ``mu`` (D,) is the mean of image minus text, ``cov`` (D, D) its covariance; ``weight`` (D, D) and ``bias`` (D,) are
    the linear map from text to image, ``image = weight @ text + bias``.
    """

    mu: Tensor
    cov: Tensor
    weight: Tensor
    bias: Tensor


def fit_adapters(text: Tensor, image: Tensor, ridge: float = 0.0) -> GapStatistics:
    """Estimate from pairs what the structured adapters need.

    Args:
        text, image: (N, D), raw, row by row of one item each; normalised here. N >= 2.
        ridge: added to the variance of the texts in every direction, which draws the linear map towards the mean of the
            images. 0, the literal definition: least squares and, with fewer pairs than dimensions, the smallest such
            map on centred vectors. How the authors fitted theirs is not published.

    Returns:
        the :class:`GapStatistics`, computed in float64, in the type of ``text`` (float32 at least). The covariance
        divides by N - 1.

    Raises:
        ValueError: fewer than two pairs, shapes that differ, values that are not finite, a negative ridge.
    """
    text, image = embeddings(text=text, image=image)
    if len(text) < 2:
        raise ValueError(f"text: expected at least 2 pairs to estimate from, got {len(text)}")
    if not 0 <= ridge < math.inf:
        raise ValueError(f"ridge: expected a finite number of at least 0, got {ridge}")
    t, v = (normalize(x.detach().double()) for x in (text, image))
    gap = v - t
    t0, v0 = t - t.mean(0), v - v.mean(0)
    if ridge:
        size = len(t)
        weight = torch.linalg.solve(t0.T @ t0 / size + ridge * torch.eye(t.shape[1]).to(t), t0.T @ v0 / size).T
    else:  # the driver that knows singular matrices runs on the processor alone
        weight = torch.linalg.lstsq(t0.cpu(), v0.cpu(), driver="gelsd").solution.T.to(t)
    found = (gap.mean(0), torch.cov(gap.T).reshape(len(weight), -1), weight, v.mean(0) - weight @ t.mean(0))
    return GapStatistics(*(x.to(text.dtype) for x in found))


class Adapter(nn.Module):
    """Moves text vectors before a head that will see image vectors; what all adapters share.

    In training a vector is moved and blurred by noise and normalised again; in evaluation only what is not random is
    left. Mean shift and linear map thus act on *texts* in evaluation too, noise and covariance become the identity. No
    adapter is ever for images.

    Args:
        std: ``w``, standard deviation of the noise in each coordinate. The noise is about ``w sqrt(D)`` long: with
            D = 768 and w = 0.08 that is 2.2, more than twice the vector itself.

    Shapes:
        ``adapter(x, generator=None)``: (B, D), raw, to (B, D) float32 (float64 stays). Vectors are normalised first;
        one of zeros stays zero. Without a generator the noise is drawn from torch's global one.

    Raises:
        ValueError: a std that is negative or not finite; vectors that are no (B, D) finite numbers, or of another D
            than the statistics.

    Reference: arXiv 2211.09778; official code: allenai/close.
    """

    def __init__(self, std: float = 0.08) -> None:
        super().__init__()
        if not 0 <= std < math.inf:
            raise ValueError(f"std: expected a finite number of at least 0, got {std}")
        self.std = float(std)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        with torch.autocast(x.device.type if isinstance(x, Tensor) else "cpu", enabled=False):
            (x,) = embeddings(x=x)
            for name, value in self.named_buffers():
                if value.shape[-1] != x.shape[1]:
                    raise ValueError(
                        f"x: expected vectors of {value.shape[-1]} numbers as {name} has, got {x.shape[1]}"
                    )
            x = normalize(x)
            return self.perturb(x, *self.draw(x, generator)) if self.training else self.move(x)

    def draw(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """The random numbers of a step: standard normal, (B, D)."""
        return (torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator),)

    def move(self, x: Tensor) -> Tensor:
        """What happens to unit vectors (B, D) in training and in evaluation alike; nothing, where noise is all."""
        return x

    def perturb(self, x: Tensor, *draws: Tensor) -> Tensor:
        """What happens to unit vectors (B, D) in training, given the numbers that :meth:`draw` drew."""
        return normalize(self.move(x) + self.std * draws[0])

    def adopt(self, statistics: GapStatistics) -> None:
        """Take from the statistics what this adapter needs; the noise needs nothing."""

    def extra_repr(self) -> str:
        return f"std={self.std}"


class GaussianNoiseAdapter(Adapter):
    """``(t + w eps) / |t + w eps|``, the paper's main method: a head that is shown blurred texts does not see the gap.

    Args:
        std: ``w``: 0.08, the official code's for visual entailment; it has 0.04 for questions and for several captions
            an image, 0.12 for single captions.
        renormalize: bring the sum back to length 1, as the official code does. Without it, inputs in training are
            longer than those of the test.
    """

    def __init__(self, std: float = 0.08, renormalize: bool = True) -> None:
        super().__init__(std)
        self.renormalize = renormalize

    def perturb(self, x: Tensor, *draws: Tensor) -> Tensor:
        moved = x + self.std * draws[0]
        return normalize(moved) if self.renormalize else moved


class MeanShiftAdapter(Adapter):
    """``t + scale mu``, then noise: each text is carried by the mean difference of image and text.

    Args:
        mu: (D,), or D for one that is estimated later: zeros until :meth:`adopt`.
        scale: of the shift; 1.
        std: of the noise; 0.04, the smallest of the official ones.
        renormalize: between shift and noise, and in evaluation after the shift; the official code does not.
    """

    mu: Tensor

    def __init__(self, mu: Tensor | int, scale: float = 1.0, std: float = 0.04, renormalize: bool = False) -> None:
        super().__init__(std)
        if not math.isfinite(scale):
            raise ValueError(f"scale: expected a finite number, got {scale}")
        self.register_buffer("mu", _given("mu", mu, 1))
        self.scale, self.renormalize = float(scale), renormalize

    def move(self, x: Tensor) -> Tensor:
        x = x + self.scale * self.mu.to(x)
        return normalize(x) if self.renormalize else x

    def adopt(self, statistics: GapStatistics) -> None:
        self.mu.copy_(_given("mu", statistics.mu, 1, self.mu))

    def extra_repr(self) -> str:
        return f"scale={self.scale}, std={self.std}"


class RandomShiftAdapter(MeanShiftAdapter):
    """A shift in a fixed random direction, then noise: the control for :class:`MeanShiftAdapter`.

    Args:
        dim: D.
        length: of the shift. ``None``: that of the mean difference, once :meth:`adopt` says it, and 1 until then.
        std, renormalize: as for :class:`MeanShiftAdapter`.
        seed: of the direction, which is a buffer: it is saved, moves between devices and is the same wherever it is
            made; the official code draws one on the first GPU at each start.
    """

    def __init__(
        self, dim: int, length: float | None = None, std: float = 0.04, seed: int = 0, renormalize: bool = False
    ) -> None:
        if length is not None and not 0 <= length < math.inf:
            raise ValueError(f"length: expected a finite number of at least 0, got {length}")
        zeros = _given("dim", dim, 1)
        direction = torch.randn(len(zeros), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        unit = normalize(direction[None])[0].to(zeros)
        super().__init__(unit if length is None else length * unit, 1.0, std, renormalize)
        self.length = length

    def adopt(self, statistics: GapStatistics) -> None:
        mu = _given("mu", statistics.mu, 1, self.mu)
        if self.length is None:
            self.mu.copy_(normalize(self.mu[None])[0] * torch.linalg.vector_norm(mu))


class CovarianceNoiseAdapter(Adapter):
    """``t + mu + multiplier delta + w eps`` with ``delta ~ N(0, cov)``, normalised: noise that looks like the gap.

    In evaluation texts are left as they are, without the shift, as in the official code.

    Args:
        mu: (D,), mean of image minus text, or D for statistics that are estimated later: zeros until :meth:`adopt`.
        cov: (D, D), its covariance; zeros by default. It may be singular, as from fewer pairs than dimensions: draws
            then stay within the directions that were seen.
        multiplier: 3, the official code's. 1 draws differences as wide as they are.
        std: of the isotropic noise; 0.04.

    Raises:
        ValueError: a covariance that is not symmetric, or has an eigenvalue well below zero.
    """

    mu: Tensor
    root: Tensor

    def __init__(self, mu: Tensor | int, cov: Tensor | None = None, multiplier: float = 3.0, std: float = 0.04) -> None:
        super().__init__(std)
        if not math.isfinite(multiplier):
            raise ValueError(f"multiplier: expected a finite number, got {multiplier}")
        self.multiplier = float(multiplier)
        self.register_buffer("mu", _given("mu", mu, 1))
        self.register_buffer("root", torch.zeros(2 * self.mu.shape).to(self.mu))
        if cov is not None:
            self.root.copy_(_root(_given("cov", cov, 2, self.root)))

    def draw(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Standard normal numbers, and draws from N(0, cov): both (B, D)."""
        (eps,), (plain,) = (Adapter.draw(self, x, generator) for _ in range(2))
        return eps, plain @ self.root.to(x).T

    def perturb(self, x: Tensor, *draws: Tensor) -> Tensor:
        eps, delta = draws
        return normalize(x + self.mu.to(x) + self.multiplier * delta + self.std * eps)

    def adopt(self, statistics: GapStatistics) -> None:
        self.mu.copy_(_given("mu", statistics.mu, 1, self.mu))
        self.root.copy_(_root(_given("cov", statistics.cov, 2, self.root)))

    def extra_repr(self) -> str:
        return f"multiplier={self.multiplier}, std={self.std}"


class LinearAdapter(Adapter):
    """``A t + b``, then noise: each text is carried to where the image that belongs to it is expected.

    Args:
        weight: A (D, D), rows out, or D for a map that is estimated later: the identity until :meth:`adopt`.
        bias: b (D,); zeros by default.
        std: of the noise; 0.04.
        renormalize: after the map, in evaluation too; the official code does.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self, weight: Tensor | int, bias: Tensor | None = None, std: float = 0.04, renormalize: bool = True
    ) -> None:
        super().__init__(std)
        self.register_buffer("weight", _given("weight", weight, 2))
        zeros = torch.zeros(len(self.weight)).to(self.weight)
        self.register_buffer("bias", zeros if bias is None else _given("bias", bias, 1, zeros))
        self.renormalize = renormalize

    def move(self, x: Tensor) -> Tensor:
        x = nn.functional.linear(x, self.weight.to(x), self.bias.to(x))
        return normalize(x) if self.renormalize else x

    def adopt(self, statistics: GapStatistics) -> None:
        self.weight.copy_(_given("weight", statistics.weight, 2, self.weight))
        self.bias.copy_(_given("bias", statistics.bias, 1, self.bias))


def make_adapter(name: str, dim: int, std: float = 0.08, **options: Any) -> Adapter:
    """An adapter by name, whose statistics are still to be estimated: what the option ``adapter`` of CLOSE takes.

    Args:
        name: ``"noise"``, ``"mean-shift"``, ``"covariance"``, ``"linear"``, ``"random-shift"``, or ``"none"``: texts as
            they are.
        dim: D.
        std: of the noise.
        options: of the adapter.

    Raises:
        ValueError: unknown name (with the nearest one), an option that it does not have.
    """
    makers: dict[str, Callable[..., Adapter]] = {
        "none": lambda dim, std: GaussianNoiseAdapter(0.0),
        "noise": lambda dim, std, **more: GaussianNoiseAdapter(std, **more),
        "mean-shift": lambda dim, std, **more: MeanShiftAdapter(dim, std=std, **more),
        "covariance": lambda dim, std, **more: CovarianceNoiseAdapter(dim, std=std, **more),
        "linear": lambda dim, std, **more: LinearAdapter(dim, std=std, **more),
        "random-shift": lambda dim, std, **more: RandomShiftAdapter(dim, std=std, **more),
    }
    if name not in makers:
        near = difflib.get_close_matches(str(name), ADAPTERS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"adapter: no adapter {name!r}; {hint}There are: {', '.join(ADAPTERS)}")
    try:
        return makers[name](dim, std, **options)
    except TypeError as error:
        raise ValueError(f"adapter_options: {name!r} does not take {options}: {error}") from None


def _given(name: str, value: Tensor | int, ndim: int, like: Tensor | None = None) -> Tensor:
    """A vector or a square matrix of finite numbers; of a size alone, zeros or the identity."""
    if isinstance(value, int):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
        return torch.zeros(value) if ndim == 1 else torch.eye(value)
    value = torch.as_tensor(value).detach()
    value = value if value.is_floating_point() and value.dtype.itemsize >= 4 else value.float()
    square = value.ndim == ndim and value.numel() > 0 and len(set(value.shape)) == 1
    if not square or (like is not None and value.shape != like.shape) or not bool(torch.isfinite(value).all()):
        expected = ("(D,)" if ndim == 1 else "(D, D)") if like is None else tuple(like.shape)
        raise ValueError(f"{name}: expected {expected} finite numbers, got {tuple(value.shape)}")
    return value.clone() if like is None else value.to(like)


def _root(cov: Tensor) -> Tensor:
    """``R`` with ``R R' = cov``, which may be singular."""
    size = cov.abs().max()
    if bool((cov - cov.T).abs().max() > 1e-4 * size):
        raise ValueError("cov: expected a symmetric matrix")
    values, vectors = torch.linalg.eigh((cov + cov.T).double() / 2)
    if bool(values[0] < -1e-4 * size):
        raise ValueError(f"cov: expected no negative eigenvalue, got {float(values[0]):.3g}")
    return (vectors * values.clamp(min=0).sqrt()).to(cov)
