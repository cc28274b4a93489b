"""One image file to one uint8 ``(C, H, W)`` array, whatever its size and mode.

The rules: EXIF orientation is obeyed, transparency lies on white, 16-bit samples are scaled to 8, of an animation the
first frame is taken unless a :class:`Frame` asks for another, and the picture is resized with antialiasing so that its
shorter side fits and then cut to its centre. Anything that cannot be decoded raises, and so does a picture of absurd
size (a decompression bomb).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

Item: TypeAlias = "bytes | str | np.ndarray | Frame | None"
"""An encoded image, the path of one, its pixels, uint8 ``(H, W)`` or ``(H, W, C)``, or a frame of an animation."""


@dataclass(frozen=True)
class Frame:
    """The frame number ``at`` of an animation, which is an encoded image or the path of one."""

    source: bytes | str
    at: int


ENDINGS = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"))
_GREY = frozenset(("1", "L", "LA", "La", "I", "F"))
_ORIENTATION = 0x0112
_TURNED = frozenset((5, 6, 7, 8))


def look(item: Item) -> tuple[int, int, bool]:
    """Height, width (both as displayed) and whether an image is grey, from its header alone."""
    if isinstance(item, np.ndarray):
        return item.shape[0], item.shape[1], item.ndim == 2
    with _opened(item) as image:
        width, height = image.size
        if image.getexif().get(_ORIENTATION) in _TURNED:
            width, height = height, width
        return height, width, image.mode in _GREY or image.mode.startswith("I;16")


def frames(item: bytes | str) -> int:
    """How many frames an animation has; 1 for a still image."""
    with _opened(item) as image:
        return int(getattr(image, "n_frames", 1))


def decode(item: Item, size: tuple[int, int], channels: int) -> np.ndarray:
    """Read an image as uint8 ``(C, H, W)``.

    Args:
        item: the image.
        size: ``(H, W)`` to make of it.
        channels: 1 or 3.

    Raises:
        Exception: whatever Pillow raises on a file that it cannot decode; ``ValueError`` for a bomb.
    """
    from PIL import Image, ImageOps

    height, width = size
    with _opened(item) as image:
        # a JPEG can be decoded at a fraction of its size; twice the target leaves the antialiasing its work
        image.draft("L" if channels == 1 else "RGB", (2 * max(size), 2 * max(size)))
        picture = eight_bits(ImageOps.exif_transpose(image)).convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        scale = min(picture.width / width, picture.height / height)
        across, down = width * scale, height * scale
        left, top = (picture.width - across) / 2, (picture.height - down) / 2
        box = (left, top, left + across, top + down)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
    pixels = np.asarray(picture)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def eight_bits(image: Image) -> Image:
    """An opaque picture of mode L or one that converts to RGB without a decision left to take."""
    from PIL import Image

    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float64)
        if image.mode == "F":
            if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
                raise ValueError("a picture of floats outside [0, 1]")
            values *= 65535
        return Image.fromarray(np.rint(values.clip(0, 65535) / 257).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def _opened(item: Item) -> Image:
    from PIL import Image

    if item is None:
        raise ValueError("no image here")
    if isinstance(item, np.ndarray):
        return Image.fromarray(item)
    if isinstance(item, Frame):
        image = _opened(item.source)
        image.seek(item.at)
        return image
    image = Image.open(io.BytesIO(item) if isinstance(item, bytes) else item)
    most = Image.MAX_IMAGE_PIXELS
    if most and image.width * image.height > most:
        image.close()
        raise ValueError(f"{image.width} x {image.height} pixels: a decompression bomb?")
    return image
