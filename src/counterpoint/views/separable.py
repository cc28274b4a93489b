"""Crop, resize, flip and blur: everything that treats rows and columns apart.

Resampling an axis-aligned box of an image to a new size is one matrix product from each side,

    out = R @ image @ C^T,      R (H_out, H_in),  C (W_out, W_in),

where row ``i`` of ``R`` holds the weights with which input rows make output row ``i``. A crop chooses which entries are
not zero, antialiasing how wide each row is, a flip reverses the rows, a Gaussian blur is a band, and one after the
other is a product of small matrices. A batch in which every sample has a box of its own is therefore two batched
matrix products, however many of these transforms follow each other. That is what :class:`Resampling` collects.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from counterpoint.views.transform import Dice, Fusible, Range, is_number, is_size, pair, pieces

Step = Callable[[slice, Tensor | None], Tensor]  # (samples, matrices so far or None) -> matrices (b, out, in)


@dataclass(frozen=True)
class Resampling:
    """Pending steps for rows and columns; an axis without steps is left alone.

    The steps hold only what was drawn, a few numbers per sample. Their matrices are made, multiplied and applied for a
    small piece of the batch at a time (:func:`~counterpoint.views.transform.pieces`).

    Args:
        height: of the images after the steps.
        width: likewise.
        rows: steps that make the matrices (b, height, H_in), each from those of the steps before it.
        columns: likewise (b, width, W_in).
    """

    height: int
    width: int
    rows: tuple[Step, ...] = ()
    columns: tuple[Step, ...] = ()

    @classmethod
    def start(cls, x: Tensor) -> Resampling:
        """Return the resampling that changes nothing."""
        return cls(*x.shape[-2:])

    def __call__(self, x: Tensor) -> Tensor:
        """Apply to ``x`` (B, C, H_in, W_in); clamped to [0, 1], which rounding may leave by 1e-7."""
        if not self.rows and not self.columns:
            return x
        out = x.new_empty(*x.shape[:2], self.height, self.width)
        for part in pieces(x):
            piece = x[part]
            batch, channels, height, width = piece.shape
            columns, rows = _matrices(self.columns, part), _matrices(self.rows, part)
            if columns is not None:
                piece = torch.matmul(piece.reshape(batch, channels * height, width), columns.mT)
                piece = piece.view(batch, channels, height, self.width)
            if rows is not None:
                piece = torch.matmul(rows.unsqueeze(1), piece)
            torch.clamp(piece, 0, 1, out=out[part])
        return out


def _matrices(steps: tuple[Step, ...], part: slice) -> Tensor | None:
    matrices: Tensor | None = None
    for step in steps:
        matrices = step(part, matrices)
    return matrices


def _product(later: Tensor, earlier: Tensor | None) -> Tensor:
    return later if earlier is None else torch.matmul(later, earlier)


def _window_step(start: Tensor, length: Tensor, out: int, size: int) -> Step:
    """Resample a window of its own in each sample (B,), or the same in all (1,)."""
    if len(start) == 1:
        one = window(start, length, out, size)
        return lambda part, earlier: _product(one, earlier)
    return lambda part, earlier: _product(window(start[part], length[part], out, size), earlier)


def _flip_step(chosen: Tensor, size: int) -> Step:
    """Reverse the axis where ``chosen`` (B,)."""

    def flip(part: slice, earlier: Tensor | None) -> Tensor:
        matrices = torch.eye(size, device=chosen.device)[None] if earlier is None else earlier
        return torch.where(chosen[part].view(-1, 1, 1), matrices.flip(1), matrices)

    return flip


def _blur_step(taps: Tensor, size: int) -> Step:
    """Filter the axis with a symmetric kernel of ``taps`` (B, R+1) by distance."""
    return lambda part, earlier: _product(_band(taps[part], size), earlier)


def window(start: Tensor, length: Tensor, out: int, size: int) -> Tensor:
    """Weights that resample ``[start, start + length)`` of an axis of ``size`` pixels to ``out`` pixels.

    A triangle as wide as two output pixels (at least two input pixels) is laid over each output pixel's centre:
    bilinear interpolation when enlarging, antialiased when reducing, as PIL's BILINEAR and torchvision's
    ``antialias=True`` do.
    Pixels outside the window take no part, as if it had been cut out first.

    Args:
        start: first pixel, (B,).
        length: number of pixels, (B,).
        out: output size.
        size: input size.

    Returns:
        (B, out, size), each row summing to 1.
    """
    start, length = start.float().view(-1, 1, 1), length.float().view(-1, 1, 1)
    scale = length / out
    center = start + (torch.arange(out, device=start.device).view(1, -1, 1) + 0.5) * scale
    pixel = torch.arange(size, device=start.device).view(1, 1, -1) + 0.5
    weights = (pixel - center).abs_().div_(-scale.clamp(min=1)).add_(1).clamp_(min=0)
    weights.mul_((pixel > start) & (pixel < start + length))
    return weights.div_(weights.sum(-1, keepdim=True))


def shapes(height: int, width: int, scale: Range, ratio: Range, dice: Dice, tries: int = 10) -> tuple[Tensor, ...]:
    """Draw height and width of a box per sample, by the law of torchvision's ``RandomResizedCrop.get_params``.

    The area is uniform in ``scale`` (of the image's), the logarithm of width/height uniform in ``ratio``, both sides
    rounded to whole pixels. Of ``tries`` candidates the first that fits is taken.

    Returns:
        height, width, each (B,), and ``found`` (B,), false where no candidate fitted.
    """
    area = dice.uniform(*scale, tries).mul_(height * width)
    aspect = dice.uniform(math.log(ratio[0]), math.log(ratio[1]), tries).exp_()
    heights, widths = (area / aspect).sqrt_().round_(), (area * aspect).sqrt_().round_()
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    first = fits.int().argmax(1, keepdim=True)
    h, w = heights.gather(1, first).squeeze(1), widths.gather(1, first).squeeze(1)
    return h, w, fits.any(1)


def boxes(height: int, width: int, scale: Range, ratio: Range, dice: Dice, tries: int = 10) -> tuple[Tensor, ...]:
    """Draw a box per sample: :func:`shapes`, anywhere in the image alike.

    Returns:
        top, left, height, width, each (B,), and ``found`` (B,), false where no candidate fitted.
    """
    h, w, found = shapes(height, width, scale, ratio, dice, tries)
    top = (dice.uniform() * (height - h + 1)).floor_()
    left = (dice.uniform() * (width - w + 1)).floor_()
    return top, left, h, w, found


@dataclass(frozen=True)
class Spatial(Fusible):
    """A transform that treats rows and columns apart; neighbours of this kind fuse into two matrix products."""

    modality: ClassVar[str] = "image"
    change: ClassVar[type[Resampling]] = Resampling


@dataclass(frozen=True)
class RandomResizedCrop(Spatial):
    """Cut a box of random area, shape and place and resize it: the "Inception crop".

    Boxes follow torchvision's law (see :func:`boxes`); where none of ten candidates fits, the largest central box
    within ``ratio`` is taken. Resizing is antialiased bilinear and equals torchvision's ``resized_crop``.

    Args:
        size: side, or (height, width), of the result; ``None`` keeps the input's.
        scale: area of the box as a fraction of the image's. Default (0.08, 1), as in SimCLR (Chen et al. 2020).
        ratio: width over height. Default (3/4, 4/3), as in SimCLR.
    """

    size: int | tuple[int, int] | None = None
    scale: Range = (0.08, 1.0)
    ratio: Range = (3 / 4, 4 / 3)

    def validate(self) -> None:
        """Require a positive size, an ascending scale within (0, 1] and an ascending ratio above 0."""
        if self.size is not None and not is_size(self.size):
            raise self.fail("size", "a positive whole number, two of them, or None for the input's size")
        self.check_range("scale", low=math.ulp(0.0), high=1.0)
        self.check_range("ratio", low=math.ulp(0.0))

    def boxes(self, height: int, width: int, dice: Dice) -> tuple[Tensor, ...]:
        """Draw top, left, height and width of the boxes, each (B,), and ``found`` (B,)."""
        return boxes(height, width, self.scale, self.ratio, dice)

    def extend(self, pending: Resampling, dice: Dice) -> Resampling:
        """Add the crop to a pending resampling."""
        height, width = pending.height, pending.width
        top, left, h, w, found = self.boxes(height, width, dice)
        narrow, wide = self.ratio
        central_h = min(height, round(width / narrow))
        central_w = min(width, round(height * wide))
        h, w = torch.where(found, h, central_h), torch.where(found, w, central_w)
        top = torch.where(found, top, (height - central_h) // 2)
        left = torch.where(found, left, (width - central_w) // 2)
        out_h, out_w = (height, width) if self.size is None else pair(self.size)
        return Resampling(
            out_h,
            out_w,
            (*pending.rows, _window_step(top, h, out_h, height)),
            (*pending.columns, _window_step(left, w, out_w, width)),
        )


@dataclass(frozen=True)
class CenterSuppressedCrop(RandomResizedCrop):
    """A random resized crop whose centre keeps away from the centre of a box: towards its edges, inside them.

    Where the middle of the crop may lie is a box in the middle of the image; where in that range it does lie is drawn
    from Beta(alpha, alpha), which for ``alpha < 1`` has the form of a U. Two views then share fewer pixels than two
    random crops do, and still show what the middle of the image shows (see :func:`suppressed`).

    Args:
        size, ratio: as for :class:`RandomResizedCrop`.
        scale: area of the crop as a fraction of the image's. Default (0.2, 1), the official code's on CIFAR.
        box: top, left, bottom and right of the box, as fractions of the image's sides. Default the middle quarter, the
            code's on CIFAR; on Tiny-ImageNet 0.15 to 0.85, on ImageNet 0.2 to 0.8.
        alpha: 0.1, the code's on small images; 0.6 on ImageNet; 1 is uniform.

    Where none of ten shapes fits, the largest central box within ``ratio`` is taken, as everywhere. The official code
    finds the box from heat maps during training and then never does: it stays as given, and so it is here. On ImageNet
    the code crops at random for the first fifth of the epochs, which is left out here.

    Reference: Wu, Hobbs, Hovakimyan, "Hallucination Improves the Performance of Unsupervised Visual Representation
    Learning", ICCV 2023, arXiv 2307.12168; the crop is that of Peng et al., "Crafting Better Contrastive Views for
    Siamese Representation Learning", CVPR 2022, arXiv 2202.03278.
    """

    scale: Range = (0.2, 1.0)
    box: tuple[float, float, float, float] = (0.25, 0.25, 0.75, 0.75)
    alpha: float = 0.1

    def validate(self) -> None:
        """Require what a crop requires, a box within the image, and a positive alpha."""
        super().validate()
        if not isinstance(self.box, tuple) or len(self.box) != 4:
            raise self.fail("box", "four fractions: top, left, bottom, right")
        if not all(is_number(edge) and 0 <= edge <= 1 for edge in self.box):
            raise self.fail("box", "four fractions between 0 and 1: top, left, bottom, right")
        if self.box[0] > self.box[2] or self.box[1] > self.box[3]:
            raise self.fail("box", "top, left, bottom, right, with top <= bottom and left <= right")
        if isinstance(self.alpha, tuple):
            raise self.fail("alpha", "a number above 0")
        self.check_positive("alpha")

    def boxes(self, height: int, width: int, dice: Dice) -> tuple[Tensor, ...]:
        """Draw top, left, height and width of the boxes, each (B,), and ``found`` (B,)."""
        h, w, found = shapes(height, width, self.scale, self.ratio, dice)
        top = suppressed(height, h, self.box[0], self.box[2], dice.beta(self.alpha))
        left = suppressed(width, w, self.box[1], self.box[3], dice.beta(self.alpha))
        return top, left, h, w, found


def suppressed(size: int, length: Tensor, low: float, high: float, where: Tensor) -> Tensor:
    """First pixel of crops whose middles lie between two edges.

    The middle of a crop goes from the pixel of ``low`` to that of ``high``, its ends are kept inside the axis, and of
    the places that are left it takes that at the share ``where`` of the way, rounded down.

    Args:
        size: pixels of the axis.
        length: of the crops, (B,), at most ``size``.
        low: first edge, a fraction of the axis.
        high: last edge.
        where: (B,) in [0, 1); the last place is not reached, as in the official code.

    Returns:
        (B,), whole numbers from 0 to ``size - length``.
    """
    half, room = length.div(2, rounding_mode="floor"), size - length
    first = (int(size * low) - half).clamp(min=0).minimum(room)
    last = (int(size * high) - half).clamp(min=0).minimum(room)
    return first + ((last - first) * where).floor()


@dataclass(frozen=True)
class Resize(Spatial):
    """Resize the whole image to ``size`` (a side, or height and width), antialiased bilinear; not random.

    A size of two numbers that differ in shape from the image stretches it.
    """

    size: int | tuple[int, int]

    def validate(self) -> None:
        """Require a positive size."""
        if not is_size(self.size):
            raise self.fail("size", "a positive whole number or two of them")

    def extend(self, pending: Resampling, dice: Dice) -> Resampling:
        """Add the resize to a pending resampling."""
        height, width = pair(self.size)
        rows, columns = pending.rows, pending.columns
        if height != pending.height:
            rows = (*rows, _fixed_step(0, pending.height, height, pending.height, dice))
        if width != pending.width:
            columns = (*columns, _fixed_step(0, pending.width, width, pending.width, dice))
        return Resampling(height, width, rows, columns)


@dataclass(frozen=True)
class CenterCrop(Spatial):
    """Cut the central ``size`` (a side, or height and width) without resampling; not random.

    Raises:
        ValueError: on call, where the image is smaller than ``size``.
    """

    size: int | tuple[int, int]

    def validate(self) -> None:
        """Require a positive size."""
        if not is_size(self.size):
            raise self.fail("size", "a positive whole number or two of them")

    def extend(self, pending: Resampling, dice: Dice) -> Resampling:
        """Add the crop to a pending resampling."""
        h, w = pair(self.size)
        if h > pending.height or w > pending.width:
            raise self.fail("size", f"at most the image's {pending.height} x {pending.width} (or use Resize)")
        top, left = round((pending.height - h) / 2), round((pending.width - w) / 2)
        return Resampling(
            h,
            w,
            (*pending.rows, _fixed_step(top, h, h, pending.height, dice)),
            (*pending.columns, _fixed_step(left, w, w, pending.width, dice)),
        )


def _fixed_step(start: int, length: int, out: int, size: int, dice: Dice) -> Step:
    ends = torch.tensor([[start], [length]], device=dice.device)
    return _window_step(ends[0], ends[1], out, size)


@dataclass(frozen=True)
class HorizontalFlip(Spatial):
    """Mirror left and right with probability ``p`` (default 0.5)."""

    p: float = 0.5

    def validate(self) -> None:
        """Require a probability."""
        self.check_probability("p")

    def extend(self, pending: Resampling, dice: Dice) -> Resampling:
        """Add the flip to a pending resampling."""
        return replace(pending, columns=(*pending.columns, _flip_step(dice.chance(self.p), pending.width)))


@dataclass(frozen=True)
class VerticalFlip(Spatial):
    """Mirror top and bottom with probability ``p`` (default 0.5)."""

    p: float = 0.5

    def validate(self) -> None:
        """Require a probability."""
        self.check_probability("p")

    def extend(self, pending: Resampling, dice: Dice) -> Resampling:
        """Add the flip to a pending resampling."""
        return replace(pending, rows=(*pending.rows, _flip_step(dice.chance(self.p), pending.height)))


@dataclass(frozen=True)
class GaussianBlur(Spatial):
    """Blur with a Gaussian of random width, with reflected edges; equals torchvision's ``gaussian_blur``.

    Args:
        sigma: range of the standard deviation in pixels. Default (0.1, 2), as in SimCLR (Chen et al. 2020, app. A).
        p: probability of blurring a sample. Default 0.5, as in SimCLR.
        kernel_size: odd number of pixels; ``None`` is a tenth of the shorter side (as in SimCLR) made odd, at least 3.

    Raises:
        ValueError: on call, where the kernel reaches further than the image.
    """

    sigma: Range = (0.1, 2.0)
    p: float = 0.5
    kernel_size: int | None = None

    def validate(self) -> None:
        """Require positive sigmas in order, a probability, an odd kernel."""
        self.check_range("sigma", low=math.ulp(0.0))
        self.check_probability("p")
        if self.kernel_size is not None and not (is_size(self.kernel_size) and self.kernel_size % 2 == 1):
            raise self.fail("kernel_size", "a positive odd number, or None for a tenth of the image's side")

    def extend(self, pending: Resampling, dice: Dice) -> Resampling:
        """Add the blur to a pending resampling."""
        shorter = min(pending.height, pending.width)
        size = self.kernel_size or 2 * max(1, shorter // 10 // 2) + 1
        if size // 2 >= shorter:
            raise ValueError(f"GaussianBlur: kernel_size must be below twice the image's side {shorter}, got {size}.")
        sigma, chosen = dice.uniform(*self.sigma).view(-1, 1), dice.chance(self.p).view(-1, 1)
        distance = torch.arange(size // 2 + 1, device=dice.device).view(1, -1)
        taps = torch.exp(-0.5 * (distance / sigma) ** 2)
        taps = torch.where(chosen, taps, distance == 0)
        taps = taps / (2 * taps.sum(1, keepdim=True) - 1)  # every distance but 0 occurs on two sides
        return replace(
            pending,
            rows=(*pending.rows, _blur_step(taps, pending.height)),
            columns=(*pending.columns, _blur_step(taps, pending.width)),
        )


def _band(taps: Tensor, size: int) -> Tensor:
    """(B, size, size) matrices of a symmetric filter with weights ``taps`` (B, R+1) by distance, edges reflected.

    Output ``i`` meets input ``j`` directly at distance ``|i - j|`` and once more through each mirror: the mirror at 0
    shows pixel ``j`` at ``-j``, the one at the other end at ``2 (size - 1) - j``. The edge pixels are their own image.
    """
    by_distance = torch.nn.functional.pad(taps, (0, 2 * size - taps.shape[1]))
    i = torch.arange(size, device=taps.device)[:, None]
    j = torch.arange(size, device=taps.device)[None]
    nothing = 2 * size - 1  # a distance beyond every tap
    mirrored = torch.where(j > 0, i + j, nothing), torch.where(j < size - 1, 2 * (size - 1) - i - j, nothing)
    return by_distance[:, (i - j).abs()] + by_distance[:, mirrored[0]] + by_distance[:, mirrored[1]]
