"""The vocabulary for images: float32 batches (B, C, H, W) in [0, 1], each sample changed by a draw of its own.

Most of it lives where its mathematics is explained and is only named here: crops, resizes, flips and blurs in
:mod:`counterpoint.views.separable`, changes of colour in :mod:`counterpoint.views.color`. This module adds what fits
neither: solarising, turning, erasing and noise. Nothing standardises the pixels: the encoder does that itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from counterpoint.views.color import ColorJitter, Grayscale
from counterpoint.views.separable import (
    CenterCrop,
    CenterSuppressedCrop,
    GaussianBlur,
    HorizontalFlip,
    RandomResizedCrop,
    Resize,
    VerticalFlip,
    boxes,
)
from counterpoint.views.transform import Dice, Range, Transform

__all__ = [
    "Affine",
    "CenterCrop",
    "CenterSuppressedCrop",
    "ColorJitter",
    "GaussianBlur",
    "GaussianNoise",
    "Grayscale",
    "HorizontalFlip",
    "RandomErasing",
    "RandomResizedCrop",
    "Resize",
    "Rotation",
    "Solarize",
    "VerticalFlip",
]


@dataclass(frozen=True)
class Solarize(Transform):
    """Invert every value from ``threshold`` up, ``x -> 1 - x``, with probability ``p``.

    Args:
        threshold: in [0, 1]. Default 0.5, as in BYOL (Grill et al. 2020, app. B).
        p: probability per sample. Default 0.2, as for BYOL's second view.
    """

    threshold: float = 0.5
    p: float = 0.2
    modality: ClassVar[str] = "image"

    def validate(self) -> None:
        """Require both parameters in [0, 1]."""
        self.check_probability("threshold", "p")

    def apply(self, x: Tensor, dice: Dice) -> Tensor:
        """Solarise the chosen samples."""
        threshold = torch.where(dice.chance(self.p), self.threshold, math.inf).view(-1, 1, 1, 1)
        return torch.where(x >= threshold, 1 - x, x)


@dataclass(frozen=True)
class Affine(Transform):
    """Turn, shift, scale and shear around the centre; one bilinear resampling.

    With fixed parameters it equals torchvision's ``affine`` (bilinear, and for ``padding="zeros"``).

    Args:
        degrees: angle, clockwise, uniform in [-v, v] or in the pair given. Default 0.
        translate: largest shift along (x, y), as fractions of width and height. Default (0, 0).
        scale: range of the magnification. Default (1, 1).
        shear: angle of the shear along x in degrees, uniform in [-v, v] or in the pair given. Default 0.
        padding: what lies outside: ``"zeros"`` (black), ``"border"`` or ``"reflection"``.
        p: probability per sample. Default 1.
    """

    degrees: float | Range = 0.0
    translate: Range = (0.0, 0.0)
    scale: Range = (1.0, 1.0)
    shear: float | Range = 0.0
    padding: str = "zeros"
    p: float = 1.0
    modality: ClassVar[str] = "image"

    def validate(self) -> None:
        """Require angles, shifts within the image, positive scales in order, a known padding, a probability."""
        self.spread("degrees", 0.0)
        self.spread("shear", 0.0, low=-89.0, high=89.0)
        if not isinstance(self.translate, tuple) or len(self.translate) != 2:
            raise self.fail("translate", "a pair of fractions for x and y")
        if not all(0 <= shift <= 1 for shift in self.translate):
            raise self.fail("translate", "a pair of fractions between 0 and 1")
        self.check_range("scale", low=math.ulp(0.0))
        if self.padding not in ("zeros", "border", "reflection"):
            raise self.fail("padding", "'zeros', 'border' or 'reflection'")
        self.check_probability("p")

    def apply(self, x: Tensor, dice: Dice) -> Tensor:
        """Warp each sample by its own matrix."""
        height, width = x.shape[-2:]
        turn = torch.deg2rad(dice.uniform(*self.spread("degrees", 0.0)))
        shear = torch.tan(torch.deg2rad(dice.uniform(*self.spread("shear", 0.0))))
        zoom = dice.uniform(*self.scale)
        shift_x = dice.uniform(-self.translate[0], self.translate[0]) * width
        shift_y = dice.uniform(-self.translate[1], self.translate[1]) * height
        cos, sin = torch.cos(turn), torch.sin(turn)
        # x_out = zoom * Turn @ Shear @ x_in + shift, Shear = [[1, -tan], [0, 1]]; grid_sample wants the inverse.
        a, b = (cos - shear * sin) / zoom, (sin + shear * cos) / zoom
        c, d = -sin / zoom, cos / zoom
        rows = [a, b, -(a * shift_x + b * shift_y), c, d, -(c * shift_x + d * shift_y)]
        inverse = torch.stack(rows, 1).view(-1, 2, 3)
        # grid_sample counts from -1 to 1 along each axis, so pixels are scaled on the way in and on the way out.
        pixels = x.new_tensor([[1, height / width, 2 / width], [width / height, 1, 2 / height]])
        grid = functional.affine_grid(inverse * pixels, list(x.shape), align_corners=False)
        warped = functional.grid_sample(x, grid, mode="bilinear", padding_mode=self.padding, align_corners=False)
        warped = warped.clamp_(0, 1)
        return warped if self.p == 1 else torch.where(dice.chance(self.p).view(-1, 1, 1, 1), warped, x)


@dataclass(frozen=True)
class Rotation(Transform):
    """Turn around the centre by an angle uniform in ``[-degrees, degrees]`` or in the pair given.

    What lies outside follows ``padding`` as in :class:`Affine`, of which this is the plainest case.
    """

    degrees: float | Range
    padding: str = "zeros"
    modality: ClassVar[str] = "image"

    def validate(self) -> None:
        """Require what :class:`Affine` requires."""
        Affine(self.degrees, padding=self.padding)

    def apply(self, x: Tensor, dice: Dice) -> Tensor:
        """Turn each sample by its own angle."""
        return Affine(self.degrees, padding=self.padding).apply(x, dice)


@dataclass(frozen=True)
class RandomErasing(Transform):
    """Paint a random box with one value (Zhong et al. 2020); boxes follow the law of torchvision's.

    Args:
        p: probability per sample. Default 0.5.
        scale: area of the box as a fraction of the image's. Default (0.02, 0.33).
        ratio: width over height. Default (0.3, 3.3).
        value: what is painted. Default 0, black.
    """

    p: float = 0.5
    scale: Range = (0.02, 0.33)
    ratio: Range = (0.3, 3.3)
    value: float = 0.0
    modality: ClassVar[str] = "image"

    def validate(self) -> None:
        """Require probabilities and ascending ranges."""
        self.check_probability("p", "value")
        self.check_range("scale", low=0.0, high=1.0)
        self.check_range("ratio", low=math.ulp(0.0))

    def apply(self, x: Tensor, dice: Dice) -> Tensor:
        """Erase one box in each chosen sample; where no candidate box fits the image, nothing."""
        height, width = x.shape[-2:]
        top, left, h, w, found = (part.view(-1, 1, 1, 1) for part in boxes(height, width, self.scale, self.ratio, dice))
        row = torch.arange(height, device=x.device).view(1, 1, -1, 1)
        column = torch.arange(width, device=x.device).view(1, 1, 1, -1)
        inside = (row >= top) & (row < top + h) & (column >= left) & (column < left + w)
        return torch.where(inside & found & dice.chance(self.p).view(-1, 1, 1, 1), self.value, x)


@dataclass(frozen=True)
class GaussianNoise(Transform):
    """Add independent normal noise to every value, clamped to [0, 1].

    Args:
        std: standard deviation, of pixels in [0, 1]; a pair is a range from which each sample draws. Default 0.05.
        p: probability per sample. Default 1.
    """

    std: float | Range = 0.05
    p: float = 1.0
    modality: ClassVar[str] = "image"

    def validate(self) -> None:
        """Require a positive deviation and a probability."""
        self.check_positive("std")
        self.check_probability("p")

    def apply(self, x: Tensor, dice: Dice) -> Tensor:
        """Add noise to the chosen samples."""
        low, high = self.std if isinstance(self.std, tuple) else (self.std, self.std)
        std = dice.uniform(low, high).mul_(dice.chance(self.p)).view(-1, 1, 1, 1)
        return dice.normal(*x.shape[1:]).mul_(std).add_(x).clamp_(0, 1)
