"""The augmentation that takes a pasted patch off again (Xue et al., ICLR 2024: drop-digit on MNIST-on-CIFAR).

It stands before a pipeline and is none of its transforms, since an image alone does not tell what was under the patch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from counterpoint.views.transform import Dice, is_number


def drop_pasted(x: Tensor, background: Tensor, p: float = 0.75, generator: torch.Generator | None = None) -> Tensor:
    """Undo a blend with probability ``p``, drawn for each image: it is then the background, bit for bit.

    Call it once for each view, so that a patch may be in one view of an item and missing from another. Of two views,
    both show it with probability ``(1 - p) ** 2``.

    Args:
        x: images (B, C, H, W) with patches pasted on: ``batch["image"]`` of
            :class:`counterpoint.data.PastedDataset`.
        background: the same images without, of the same shape and type: ``batch["background"]``.
        p: probability that an image loses its patch. Default 0.75, that of a public reproduction of the paper.
        generator: source of randomness; torch's global one by default.

    Returns:
        (B, C, H, W), new, of the type of ``x``.

    Raises:
        ValueError: a probability outside [0, 1], or tensors that differ in shape or type.

    Example:
        >>> batch = pasted[:64]
        >>> images = [drop_pasted(batch["image"], batch["background"]) for pipeline in views.pipelines]
        >>> first, second = (pipeline(x) for pipeline, x in zip(views.pipelines, images, strict=True))
    """
    if not is_number(p) or not 0 <= p <= 1:
        raise ValueError(f"p: expected a probability between 0 and 1, got {p!r}.")
    for name, value in (("x", x), ("background", background)):
        if not isinstance(value, Tensor) or value.ndim != 4:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name}: expected a torch.Tensor (B, C, H, W), got {got}.")
    if x.shape != background.shape or x.dtype != background.dtype:
        raise ValueError(
            f"background: expected the shape and type of x, {tuple(x.shape)} {x.dtype}, got {tuple(background.shape)} "
            f"{background.dtype}."
        )
    return torch.where(Dice(x, generator).chance(p).view(-1, 1, 1, 1), background, x)
