"""Brightness, contrast, saturation, hue and grey: one small group of matrices.

Let ``Y`` be an image's luma (ITU-R BT.601), ``m`` the mean of its luma, and split every pixel into its grey part and
its chroma, ``x = Y + (x - Y)``. Then

    brightness b    x -> b x
    contrast c      x -> c x + (1 - c) m
    saturation s    x -> Y + s (x - Y)
    hue theta       x -> Y + rotate(x - Y, theta)        around the grey axis, in the YIQ plane
    greyscale       x -> Y                               which is saturation 0

and as none of the last three touches the luma, **they all commute**; the product of any number of them is
``(b, c, s e^{i theta})`` with the factors multiplied. A :class:`Recoloring` keeps these three numbers per sample, and a
run of colour transforms, in whatever order, is one 3x4 matrix per sample and one clamp to [0, 1].

Two differences to torchvision, on purpose. It clamps after each of the four, which is what makes their order matter,
and so it draws one; here there is none to draw. And its hue turns HSV's hexagon, which changes how bright a colour
looks; here hue keeps the luma, as NVIDIA DALI's does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from counterpoint.views.transform import Dice, Fusible, Range, pieces

# RGB -> YIQ (FCC 1953, to four digits); the first row is the luma of ITU-R BT.601.
_YIQ = torch.tensor(
    [[0.2990, 0.5870, 0.1140], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], dtype=torch.float64
)
_QUARTER_TURN = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]], dtype=torch.float64)


def _bases() -> tuple[Tensor, Tensor, Tensor]:
    """The three matrices of which every recolouring is a sum: to grey, chroma kept, chroma turned by 90 degrees."""
    grey = _YIQ[0].expand(3, 3)
    turned = torch.linalg.inv(_YIQ) @ _QUARTER_TURN @ _YIQ
    return grey.float(), (torch.eye(3) - grey).float(), turned.float()


_GREY, _CHROMA, _TURNED = _bases()


@dataclass(frozen=True)
class Recoloring:
    """Pending gains per sample, each (B,): brightness, contrast (``None``: 1) and complex chroma (``None``: 1)."""

    brightness: Tensor
    contrast: Tensor | None = None
    chroma: Tensor | None = None

    @classmethod
    def start(cls, x: Tensor) -> Recoloring:
        """Return the recolouring that changes nothing; refuses images that are neither grey nor RGB."""
        if x.shape[1] not in (1, 3):
            raise ValueError(
                f"x must have 1 or 3 channels for a change of colour, got {x.shape[1]} (shape {tuple(x.shape)}); "
                "leave out ColorJitter and Grayscale, or convert the images to RGB."
            )
        return cls(x.new_ones(len(x)))

    def __call__(self, x: Tensor) -> Tensor:
        """Apply to ``x`` (B, C, H, W) with C = 1 or 3; clamped once, at the end, to [0, 1]."""
        batch, channels = x.shape[:2]
        flat = x.reshape(batch, channels, -1)
        gain = self.brightness if self.contrast is None else self.brightness * self.contrast
        if channels == 1:
            matrix = gain.view(-1, 1, 1)
        elif self.chroma is None:
            matrix = gain.view(-1, 1, 1) * torch.eye(3, device=x.device)
        else:
            bases = torch.stack([_GREY, _CHROMA, _TURNED]).view(3, 9).to(x.device)
            parts = torch.stack([torch.ones_like(gain), self.chroma.real, self.chroma.imag], 1)
            matrix = (gain.view(-1, 1) * (parts @ bases)).view(-1, 3, 3)
        out = torch.empty_like(flat)
        if self.contrast is None:
            for part in pieces(flat):
                torch.clamp(torch.bmm(matrix[part], flat[part]), 0, 1, out=out[part])
            return out.view_as(x)
        weights = _YIQ[0].float().to(x.device) if channels == 3 else x.new_ones(1)
        share = self.brightness * (1 - self.contrast)
        for part in pieces(flat):
            mean = flat[part].mean(2) @ weights
            changed = torch.baddbmm((share[part] * mean).view(-1, 1, 1), matrix[part], flat[part])
            torch.clamp(changed, 0, 1, out=out[part])
        return out.view_as(x)


@dataclass(frozen=True)
class Color(Fusible):
    """A transform of colours; neighbours of this kind fuse into one matrix per sample and one clamp."""

    modality: ClassVar[str] = "image"
    change: ClassVar[type[Recoloring]] = Recoloring


@dataclass(frozen=True)
class ColorJitter(Color):
    """Change brightness, contrast, saturation and hue, each by a random amount.

    On one channel saturation and hue do nothing.

    Args:
        brightness: the factor is uniform in ``[max(0, 1 - v), 1 + v]``, or in the pair given. Default 0: unchanged.
        contrast: likewise.
        saturation: likewise.
        hue: the angle is uniform in ``[-v, v]`` turns (v up to 0.5), or in the pair given.
        p: probability of changing a sample. Default 0.8, as in SimCLR (Chen et al. 2020).
    """

    brightness: float | Range = 0.0
    contrast: float | Range = 0.0
    saturation: float | Range = 0.0
    hue: float | Range = 0.0
    p: float = 0.8

    def validate(self) -> None:
        """Require factors of at least 0, hues within half a turn, a probability."""
        for name in ("brightness", "contrast", "saturation"):
            self.spread(name, 1.0, low=0.0)
        self.spread("hue", 0.0, low=-0.5, high=0.5)
        self.check_probability("p")

    def extend(self, pending: Recoloring, dice: Dice) -> Recoloring:
        """Add the jitter to a pending recolouring."""
        chosen = dice.chance(self.p)

        def factor(name: str) -> Tensor:
            return torch.where(chosen, dice.uniform(*self.spread(name, 1.0, low=0.0)), 1.0)

        brightness, contrast, chroma = pending.brightness, pending.contrast, pending.chroma
        if self.brightness != 0:
            brightness = brightness * factor("brightness")
        if self.contrast != 0:
            contrast = _times(factor("contrast"), contrast)
        if self.saturation != 0 or self.hue != 0:
            saturation = factor("saturation")
            angle = dice.uniform(*self.spread("hue", 0.0, low=-0.5, high=0.5)).mul_(2 * math.pi)
            chroma = _times(torch.polar(saturation, torch.where(chosen, angle, 0.0)), chroma)
        return Recoloring(brightness, contrast, chroma)


@dataclass(frozen=True)
class Grayscale(Color):
    """Take the colour away with probability ``p`` (default 0.2, as in SimCLR); all channels then hold the luma.

    On one channel it does nothing.
    """

    p: float = 0.2

    def validate(self) -> None:
        """Require a probability."""
        self.check_probability("p")

    def extend(self, pending: Recoloring, dice: Dice) -> Recoloring:
        """Add the loss of colour to a pending recolouring."""
        kept = (~dice.chance(self.p)).to(torch.complex64)
        return replace(pending, chroma=_times(kept, pending.chroma))


def _times(gain: Tensor, earlier: Tensor | None) -> Tensor:
    return gain if earlier is None else gain * earlier
