"""What every transform is: a frozen dataclass of parameters that acts on a whole batch, each sample by its own draw.

A transform holds no state and no randomness: its fields are its parameters (they become its configuration as they
stand), and the randomness of a call comes from :class:`Dice`, which wraps either the generator of the call or torch's
global one. Two transforms of one kind that follow each other often have a product that costs no more than one of
them - two matrices, two gains; such transforms are :class:`Fusible` and a pipeline multiplies them out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

Range = tuple[float, float]


class Dice:
    """The randomness of one call, one number per sample unless a shape is given.

    Args:
        x: the batch, a tensor (B, ...) or a list of B texts; numbers arrive on its device, a list's being the CPU.
        generator: source of randomness; ``None`` is torch's global generator of that device. A generator of another
            device is drawn from there and the numbers are moved.
    """

    def __init__(self, x: Tensor | Sequence[Any], generator: torch.Generator | None = None):
        self.batch = len(x)
        self.device = x.device if isinstance(x, Tensor) else torch.device("cpu")
        self.generator = generator
        self._source = self.device if generator is None else generator.device

    def uniform(self, low: float = 0.0, high: float = 1.0, *shape: int) -> Tensor:
        """Numbers from ``[low, high)``, (B, *shape)."""
        numbers = torch.rand(self.batch, *shape, generator=self.generator, device=self._source).to(self.device)
        return numbers if (low, high) == (0.0, 1.0) else numbers.mul_(high - low).add_(low)

    def chance(self, p: float, *shape: int) -> Tensor:
        """True with probability ``p``, (B, *shape)."""
        return self.uniform(0.0, 1.0, *shape) < p

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, (B, *shape)."""
        return torch.randn(self.batch, *shape, generator=self.generator, device=self._source).to(self.device)

    def beta(self, alpha: float) -> Tensor:
        """Numbers of Beta(alpha, alpha) in [0, 1), (B,): below 1 most lie near the ends, above 1 near the middle.

        Uniform numbers go through a table of the distribution's quantiles, interpolated: torch's own draws take no
        generator.
        """
        table = _beta_quantiles(alpha).to(self.device)
        place = self.uniform().mul_(len(table) - 1)
        before = place.long().clamp_(max=len(table) - 2)
        return torch.lerp(table[before], table[before + 1], place - before).clamp_(max=1 - 2**-24)


@cache
def _beta_quantiles(alpha: float) -> Tensor:
    """Quantiles of Beta(alpha, alpha) at even steps from 0 to 1; 2^14 steps, finer than images have pixels."""
    from scipy.special import betaincinv

    steps = torch.linspace(0, 1, 2**14 + 1, dtype=torch.float64)
    return torch.from_numpy(betaincinv(alpha, alpha, steps.numpy())).float()


@dataclass(frozen=True)
class Transform:
    """A random change of a batch; subclasses are frozen dataclasses whose fields are the parameters.

    Call it with ``x`` and, to repeat a draw, a ``torch.Generator``; it returns a new tensor and leaves ``x`` as it was.
    Every sample of the batch gets a draw of its own.
    """

    modality: ClassVar[str]

    def __post_init__(self) -> None:
        for field in fields(self):  # a configuration file has lists where the dataclass has tuples
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, _tuples(value))
        self.validate()

    def validate(self) -> None:
        """Raise ``ValueError`` for parameters that make no sense."""

    def __call__(self, x: Any, generator: torch.Generator | None = None) -> Any:
        """Return the changed batch: float32, of the shape of ``x`` unless the transform has a ``size``; or texts."""
        check_batch(x, self.modality)
        return self.apply(x, Dice(x, generator))

    def apply(self, x: Any, dice: Dice) -> Any:
        """Change a batch that has been checked, with randomness from ``dice``: a tensor, or a list of texts."""
        raise NotImplementedError

    def fail(self, name: str, expected: str) -> ValueError:
        """Return the error that says what is wrong with parameter ``name``."""
        got = getattr(self, name)
        return ValueError(f"{type(self).__name__}: {name} must be {expected}, got {got!r}.")

    def check_probability(self, *names: str) -> None:
        """Require each named parameter to lie in [0, 1]."""
        for name in names:
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value <= 1:
                raise self.fail(name, "a probability between 0 and 1")

    def check_range(self, name: str, low: float = -math.inf, high: float = math.inf) -> None:
        """Require the named parameter to be a pair in ascending order within [low, high]."""
        value = getattr(self, name)
        expected = f"a pair (low, high) with {low:g} <= low <= high <= {high:g}"
        if not isinstance(value, tuple) or len(value) != 2 or not all(is_number(bound) for bound in value):
            raise self.fail(name, expected)
        if not low <= value[0] <= value[1] <= high:
            raise self.fail(name, expected)

    def check_positive(self, *names: str) -> None:
        """Require each named parameter to be a number above 0, or a pair of them in ascending order."""
        for name in names:
            value = getattr(self, name)
            if isinstance(value, tuple):
                self.check_range(name, low=math.ulp(0.0))
            elif not is_number(value) or value <= 0:
                raise self.fail(name, "a number above 0")

    def spread(self, name: str, center: float, low: float = -math.inf, high: float = math.inf) -> Range:
        """Return the range of a parameter given as a pair, or as the distance ``v`` to both sides of ``center``.

        The lower end of a distance is cut at ``low``, as in torchvision; a range beyond [low, high] is refused.
        """
        value = getattr(self, name)
        if isinstance(value, tuple):
            self.check_range(name, low, high)
            return value
        if not is_number(value) or value < 0 or center + value > high:
            most = "" if high == math.inf else f" up to {high - center:g}"
            raise self.fail(name, f"a distance from {center:g} of at least 0{most}, or a pair (low, high)")
        return (max(low, center - value), center + value)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


class Change(Protocol):
    """What fusible transforms have drawn for a batch and not yet applied."""

    @classmethod
    def start(cls, x: Tensor) -> Self:
        """Return the change that leaves ``x`` as it is."""

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the change."""


@dataclass(frozen=True)
class Fusible(Transform):
    """A transform that can join a pending :class:`Change` and be applied together with its neighbours."""

    change: ClassVar[Any]  # the class of Change that this transform extends

    def extend(self, pending: Any, dice: Dice) -> Any:
        """Return ``pending`` followed by this transform, drawn from ``dice``."""
        raise NotImplementedError

    def apply(self, x: Tensor, dice: Dice) -> Tensor:
        """Change the batch by this transform alone."""
        changed: Tensor = self.extend(self.change.start(x), dice)(x)
        return changed


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite number and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_batch(x: Tensor, modality: str) -> None:
    """Require a float32 batch: (B, C, H, W) for ``"image"``, (B, F) for ``"vector"``, nothing of it empty.

    Raises:
        ValueError: another type, number of dimensions, number format, or a dimension of size zero.
    """
    shape, dims = ("(B, C, H, W)", 4) if modality == "image" else ("(B, F)", 2)
    if not isinstance(x, Tensor):
        raise ValueError(f"x must be a torch.Tensor of shape {shape}, got {type(x).__name__}.")
    if x.ndim != dims:
        hint = "; a single item needs x[None]" if x.ndim == dims - 1 else ""
        raise ValueError(f"x must have shape {shape}, got {tuple(x.shape)}{hint}.")
    if x.dtype != torch.float32:
        raise ValueError(f"x must be float32, got {x.dtype}; a Pipeline also takes uint8 and other floats.")
    if x.numel() == 0:
        raise ValueError(f"x must not be empty, got shape {tuple(x.shape)}.")


def pieces(x: Tensor, size: int = 2**20) -> list[slice]:
    """Slices of the batch of about ``size`` bytes each on a processor, so that what is between two steps stays cached.

    It also keeps intermediate tensors small enough for the C library to reuse their memory; large ones go back to the
    operating system after every step and cost a page fault per 4 KB the next time. Other devices get one slice.
    """
    if x.device.type != "cpu":
        return [slice(None)]
    step = max(1, size // max(1, x[0].numel() * x.element_size()))
    return [slice(start, start + step) for start in range(0, len(x), step)]


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Return (height, width) of a size given as one number or two."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def is_size(size: object) -> bool:
    """Whether ``size`` is a positive whole number or two of them."""
    numbers = size if isinstance(size, tuple) and len(size) == 2 else (size,)
    return all(isinstance(number, int) and not isinstance(number, bool) and number > 0 for number in numbers)
