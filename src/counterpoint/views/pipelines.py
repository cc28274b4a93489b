"""The papers' pipelines of images, by whose names :func:`~counterpoint.views.named.resolve` knows them.

Each is a function of the size of the views and the number of channels and returns :class:`Views`. Figures are those of
the paper or of its official code, named in each docstring; three rules hold for all of them:

- **Grey images** (one channel) keep brightness and contrast and lose saturation, hue and greyscale, which would do
  nothing.
- **Small images** (up to 32 pixels) are not blurred, as SimCLR leaves blur out on CIFAR-10 (Chen et al. 2020,
  app. B.9). ``blur=True`` brings it back; the pipelines of AdaInf's study have it, as its official code has.
- **Oblong images** get crops of their own proportions, give or take the paper's 3/4 to 4/3, as in SimCLR's
  official code; stretching a crop to the view then distorts no more than the paper's does.

Flips stand next to the crop, where they cost nothing; wherever a paper puts them the result is the same.
"""

from __future__ import annotations

from typing import Any

from counterpoint.views.image import (
    Affine,
    CenterSuppressedCrop,
    ColorJitter,
    GaussianBlur,
    GaussianNoise,
    Grayscale,
    HorizontalFlip,
    RandomResizedCrop,
    Resize,
    Solarize,
)
from counterpoint.views.pipeline import Pipeline, Views
from counterpoint.views.transform import Range, Transform, pair

Size = int | tuple[int, int]
SMALL = 32  # pixels: CIFAR-10's side
TINY = 16
LARGE = 96


def simclr(size: Size, channels: int = 3, strength: float | None = None, blur: bool | None = None) -> Views:
    """SimCLR's two views (Chen et al. 2020, appendix A; for small images appendix B.9).

    Args:
        size: side, or (height, width), of the views.
        channels: 1 or 3.
        strength: of the colour distortion; ``None`` is 1, and 0.5 up to 32 pixels as in the paper for CIFAR-10.
        blur: whether half of the views are blurred; ``None``: above 32 pixels.
    """
    strength = (0.5 if _small(size) else 1.0) if strength is None else strength
    pipeline = Pipeline(
        [
            *_crop(size, (0.08, 1.0)),
            *_color(channels, 0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength),
            *_blur(size, 0.5, blur),
        ]
    )
    return Views([pipeline] * 2)


def mocov2(size: Size, channels: int = 3, blur: bool | None = None) -> Views:
    """MoCo v2's two views: SimCLR's with gentler colours and larger crops (Chen et al. 2020b; ``--aug-plus``).

    Arguments as for :func:`simclr`.
    """
    pipeline = Pipeline([*_crop(size, (0.2, 1.0)), *_color(channels, 0.4, 0.4, 0.4, 0.1), *_blur(size, 0.5, blur)])
    return Views([pipeline] * 2)


def byol(size: Size, channels: int = 3, blur: bool | None = None) -> Views:
    """BYOL's asymmetric pair (Grill et al. 2020, table 6): the first always blurred, the second rarely but solarised.

    Arguments as for :func:`simclr`.
    """
    shared = [*_crop(size, (0.08, 1.0)), *_color(channels, 0.4, 0.4, 0.2, 0.1)]
    first = Pipeline([*shared, *_blur(size, 1.0, blur)])
    second = Pipeline([*shared, *_blur(size, 0.1, blur), Solarize(threshold=0.5, p=0.2)])
    return Views([first, second])


def swav(
    size: Size,
    channels: int = 3,
    local: int = 6,
    local_size: Size | None = None,
    local_scale: Range | None = None,
    strength: float | None = None,
    blur: bool | None = None,
) -> Views:
    """SwAV's multi-crop: two views of large crops and ``local`` of small ones (Caron et al. 2020).

    Up to 16 pixels, where a twentieth of the image would be two pixels and a flip makes another digit, the large views
    are those of :func:`digits` and the small ones crops without flip or colour; these figures are ours.

    Args:
        size: side, or (height, width), of the two large views.
        channels: 1 or 3.
        local: number of small views. Default 6, as in the official code.
        local_size: of the small views; ``None`` keeps the paper's proportion of 96 to 224, rounded to a multiple of 8
            and at least 8, and up to 16 pixels is half the side.
        local_scale: share of the image in a small crop: the paper's 5 to 14 %, and 20 to 40 % up to 16 pixels. Large
            ones have 14 to 100 %.
        strength: of the colour distortion, as for :func:`simclr`.
        blur: whether half of the views are blurred; ``None``: above 32 pixels.
    """
    local_size, local_scale = _local(size, local_size, local_scale)
    if max(pair(size)) <= TINY:
        return _digits_and_crops(size, channels, local, local_size, local_scale)
    strength = (0.5 if _small(size) else 1.0) if strength is None else strength
    after = [*_color(channels, 0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength), *_blur(size, 0.5, blur)]
    large = Pipeline([*_crop(size, (0.14, 1.0)), *after])
    small = Pipeline([*_crop(local_size, local_scale), *after])
    return Views([large] * 2 + [small] * local)


def groco(
    size: Size,
    channels: int = 3,
    local: int = 0,
    local_size: Size | None = None,
    local_scale: Range | None = None,
    blur: bool | None = None,
) -> Views:
    """GroCo's pair, and with ``local`` its multi-crop (Shvetsova et al. 2023; ``dino`` in the official code).

    DINO's pair: BYOL's views, with large crops as in :func:`swav`; small ones have the same colours, and half of them
    are blurred. The official runs are of this pair, of the pair twice (``count=4``), and with ``local=6``.

    Up to 16 pixels the views are those of :func:`swav`, its small ones included.

    Args:
        size, channels, local_size, local_scale, blur: as for :func:`swav`; crops are the same, 14 to 100 % and 5 to
            14 % of the image.
        local: number of small views; 0.
    """
    local_size, local_scale = _local(size, local_size, local_scale)
    if max(pair(size)) <= TINY:
        return _digits_and_crops(size, channels, local, local_size, local_scale)
    color = _color(channels, 0.4, 0.4, 0.2, 0.1)
    large, small = [*_crop(size, (0.14, 1.0)), *color], [*_crop(local_size, local_scale), *color]
    first = Pipeline([*large, *_blur(size, 1.0, blur)])
    second = Pipeline([*large, *_blur(size, 0.1, blur), Solarize(threshold=0.5, p=0.2)])
    return Views([first, second, *[Pipeline([*small, *_blur(size, 0.5, blur)])] * local])


def hallucinator(
    size: Size,
    channels: int = 3,
    alpha: float | None = None,
    box: tuple[float, float, float, float] | None = None,
    scale: Range | None = None,
    blur: bool | None = None,
) -> Views:
    """Hallucinator's two views (Wu, Hobbs, Hovakimyan 2023): a crop towards the edges of a box, and an ordinary one.

    Colours are MoCo v2's. Up to 16 pixels there is neither flip nor colour, as for :func:`swav`, and crops have 40 to
    100 % of the image; these figures are ours.

    Args:
        size: side, or (height, width), of the views.
        channels: 1 or 3, and any number up to 16 pixels.
        alpha: of the first crop's place, see :class:`~counterpoint.views.CenterSuppressedCrop`; ``None`` is the
            official code's 0.1 for small images (here: up to 96 pixels, STL-10's) and 0.6 for larger ones.
        box: where its middle may lie; ``None`` is the code's, the middle half of each side for small images and 0.2 to
            0.8 for larger ones.
        scale: share of the image in a crop; ``None`` is the code's 20 to 100 %.
        blur: whether half of the views are blurred; ``None``: above 32 pixels.
    """
    tiny, large = max(pair(size)) <= TINY, max(pair(size)) > LARGE
    alpha = alpha if alpha is not None else 0.6 if large else 0.1
    low, high = (0.2, 0.8) if large else (0.25, 0.75)
    box = (low, low, high, high) if box is None else box
    scale = scale or ((0.4, 1.0) if tiny else (0.2, 1.0))
    ratio = _ratio(size, (3 / 4, 4 / 3))
    crops = CenterSuppressedCrop(size, scale, ratio, box, alpha), RandomResizedCrop(size, scale, ratio)
    if tiny:
        return Views(Pipeline([crop, GaussianNoise(std=0.05)]) for crop in crops)
    after = [HorizontalFlip(p=0.5), *_color(channels, 0.4, 0.4, 0.4, 0.1), *_blur(size, 0.5, blur)]
    return Views(Pipeline([crop, *after]) for crop in crops)


def simclr_strong(
    size: Size,
    channels: int = 3,
    crop: float = 0.08,
    jitter: float = 0.8,
    strength: float = 1.0,
    blur: bool | None = True,
    tiny: float = 1.0,
) -> Views:
    """The standard views of AdaInf's study (Wang et al. 2024; ``symmetric`` in the official code), with knobs.

    They are SimCLR's at full strength and with blur also at 32 pixels, where :func:`simclr` changes colours half as
    much and does not blur. Up to 16 pixels, where such crops show nothing and a flip makes another digit, the views
    are those of :func:`digits`; how strong they are in each of the pipelines of this family is ours.

    Args:
        size: side, or (height, width), of the views.
        channels: 1 or 3.
        crop: smallest share of the image in a crop; 0.02 to 0.4 in the paper's ablation.
        jitter: probability of a change of colour.
        strength: of that change: brightness, contrast and saturation by 0.8, hue by 0.2, times this; 0.1 to 2 in the
            paper's ablation, where we take the factor to be of the same kind.
        blur: whether half of the views are blurred, by 0.1 to 2 pixels; ``None``: above 32 pixels.
        tiny: strength of :func:`digits` up to 16 pixels, in place of the three knobs.
    """
    if max(pair(size)) <= TINY:
        return digits(size, channels, strength=tiny)
    color = _color(channels, 0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength, p=jitter)
    return Views([Pipeline([*_crop(size, (crop, 1.0)), *color, *_blur(size, 0.5, blur)])] * 2)


def simclr_weak(size: Size, channels: int = 3, strength: float = 0.5, tiny: float = 0.75, **knobs: Any) -> Views:
    """:func:`simclr_strong` with half its changes of colour (``symmetric_weak`` in AdaInf's official code)."""
    return simclr_strong(size, channels, strength=strength, tiny=tiny, **knobs)


def adainf(
    size: Size,
    channels: int = 3,
    crop: float = 0.2,
    jitter: float = 0.4,
    strength: float = 0.5,
    tiny: float = 0.5,
    **knobs: Any,
) -> Views:
    """AdaInf's weak views, for data that generated ones have made many (Wang et al. 2024; ``symmetric_adainf``).

    :func:`simclr_strong` with crops of at least a fifth of the image and colours that change half as often and half
    as much.
    """
    return simclr_strong(size, channels, crop, jitter, strength, tiny=tiny, **knobs)


def asymmetric(
    size: Size,
    channels: int = 3,
    crop: float = 0.08,
    jitter: float = 0.8,
    strength: float = 1.0,
    tiny: float = 1.0,
) -> Views:
    """The standard pair for BYOL and Barlow Twins in AdaInf's study (``asymmetric`` in the official code).

    Knobs as for :func:`simclr_strong`; at strength 1 brightness and contrast change by 0.4, saturation by 0.2 and hue
    by 0.1. There is no blur, and a fifth of the second views are solarised.
    """
    if max(pair(size)) <= TINY:
        return digits(size, channels, strength=tiny)
    color = _color(channels, 0.4 * strength, 0.4 * strength, 0.2 * strength, 0.1 * strength, p=jitter)
    shared = [*_crop(size, (crop, 1.0)), *color]
    return Views([Pipeline(shared), Pipeline([*shared, Solarize(threshold=0.5, p=0.2)])])


def adainf_asymmetric(
    size: Size, channels: int = 3, crop: float = 0.2, jitter: float = 0.4, strength: float = 1.0, tiny: float = 0.5
) -> Views:
    """AdaInf's weak pair for BYOL and Barlow Twins (``asymmetric_adainf`` in the official code)."""
    return asymmetric(size, channels, crop, jitter, strength, tiny)


def digits(size: Size, channels: int = 1, strength: float = 1.0) -> Views:
    """Two gentle views for small or grey pictures of things that have a way up, such as handwritten digits.

    No flip, which turns a 2 into something else, and no change of colour: small turns, shifts and magnifications, which
    stand in for the crop, and a little noise. All of it is one interpolation, as every further one blurs eight pixels
    visibly. The figures are ours, not a paper's.

    Args:
        size: side, or (height, width), of the views.
        channels: any number.
        strength: of everything: angles, shifts, magnifications (0.9 to 1.3 at 1) and noise, times this; up to 4.
    """
    if not 0 < strength <= 4:
        raise ValueError(f"strength: expected a number above 0 and up to 4, got {strength}.")
    shift, scale = 0.1 * strength, (0.9**strength, 1 + 0.3 * strength)
    warp = Affine(degrees=15.0 * strength, translate=(shift, shift), scale=scale, shear=10.0 * strength)
    pipeline = Pipeline([Resize(size), warp, GaussianNoise(std=0.05 * strength)])
    return Views([pipeline] * 2)


def rocket(
    size: Size,
    channels: int = 3,
    local: int = 2,
    local_size: Size | None = None,
    asymmetric: bool = False,
    blur: bool | None = None,
) -> Views:
    """CLIP-rocket's views of images: one that is only cropped, and ``local`` changed as in MoCo v2 (Fini et al. 2023).

    The first, the global one, is a crop of 50 to 100 % of the image; the local ones have crops of 8 to 100 %, colour,
    grey, blur and flips. Grey images, and those of up to 16 pixels, have the views of :func:`digits` as local ones.

    Args:
        size: side, or (height, width), of the views.
        channels: 1 or 3.
        local: number of local views, A; 2, the paper's.
        local_size: of the local views; ``None``: as the global one. The paper has 192 to 224 on its largest data.
        asymmetric: BYOL's pair as local views, the authors' option.
        blur: whether half of the local views are blurred; ``None``: above 32 pixels.
    """
    crop = RandomResizedCrop(size, scale=(0.5, 1.0), ratio=_ratio(size, (3 / 4, 4 / 3)))
    small = size if local_size is None else local_size
    if channels == 1 or max(pair(size)) <= TINY:
        changed = digits(small, channels).pipelines
    elif asymmetric:
        changed = byol(small, channels, blur).pipelines
    else:
        color = _color(channels, 0.4, 0.4, 0.4, 0.1)
        changed = (Pipeline([*_crop(small, (0.08, 1.0)), *color, *_blur(small, 0.5, blur)]),)
    return Views([Pipeline([crop]), *(changed[i % len(changed)] for i in range(local))])


def slip(size: Size, channels: int = 3) -> Views:
    """SLIP's views of images (Mu et al., ECCV 2022): one for the captions, a crop of at least half, and SimCLR's two.

    Grey images, and those of up to 16 pixels, have the views of :func:`digits` in place of SimCLR's.
    """
    small = channels == 1 or max(pair(size)) <= TINY
    crop = RandomResizedCrop(size, scale=(0.5, 1.0), ratio=_ratio(size, (3 / 4, 4 / 3)))
    return Views([Pipeline([crop]), *(digits(size, channels) if small else simclr(size, channels)).pipelines])


def none(size: Size, channels: int = 3) -> Views:
    """One view, the image itself at ``size``: not random, for evaluation."""
    return Views([Pipeline([Resize(size)])])


def identity() -> Views:
    """One view, the vector or image as it is: for evaluation."""
    return Views([Pipeline()])


def _local(size: Size, local_size: Size | None, local_scale: Range | None) -> tuple[Size, Range]:
    """Size of multi-crop's small views and their share of the image, where they are not given."""
    tiny = max(pair(size)) <= TINY
    height, width = (max(2, side // 2) if tiny else max(8, 8 * round(side * 3 / 7 / 8)) for side in pair(size))
    local_size = (height, width) if local_size is None else local_size
    return local_size, local_scale or ((0.2, 0.4) if tiny else (0.05, 0.14))


def _digits_and_crops(size: Size, channels: int, local: int, local_size: Size, local_scale: Range) -> Views:
    """Multi-crop for tiny images."""
    crop = RandomResizedCrop(local_size, scale=local_scale, ratio=_ratio(local_size, (3 / 4, 4 / 3)))
    return Views([*digits(size, channels).pipelines, *[Pipeline([crop, GaussianNoise(std=0.05)])] * local])


def _small(size: Size) -> bool:
    return max(pair(size)) <= SMALL


def _ratio(size: Size, ratio: Range) -> Range:
    height, width = pair(size)
    return (ratio[0] * width / height, ratio[1] * width / height)


def _crop(size: Size, scale: Range) -> list[Transform]:
    return [RandomResizedCrop(size, scale=scale, ratio=_ratio(size, (3 / 4, 4 / 3))), HorizontalFlip(p=0.5)]


def _color(
    channels: int, brightness: float, contrast: float, saturation: float, hue: float, p: float = 0.8
) -> list[Transform]:
    if channels == 1:
        return [ColorJitter(brightness, contrast, p=p)]
    if channels != 3:
        raise ValueError(
            f"channels must be 1 or 3 for views that change colours, got {channels}; "
            "give a list of transforms without ColorJitter and Grayscale."
        )
    return [ColorJitter(brightness, contrast, saturation, hue, p=p), Grayscale(p=0.2)]


def _blur(size: Size, p: float, blur: bool | None) -> list[Transform]:
    wanted = not _small(size) if blur is None else blur
    return [GaussianBlur(sigma=(0.1, 2.0), p=p)] if wanted else []
