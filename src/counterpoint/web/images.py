"""Pictures inside the page: arrays to data URIs, many thumbnails in one sheet."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from counterpoint.web.content import Array, Thumbnails

if TYPE_CHECKING:
    from PIL import Image

PNG_LIMIT = 1_200  # bytes; photographs above it go as WebP, a quarter of the size


def pixels(image: Array) -> Array:
    """Any image as uint8 (H, W, 3): grey (H, W) or (H, W, 1), RGBA, and floats in [0, 1] are converted.

    Raises:
        ValueError: not an image of 1, 3 or 4 channels.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(f"image: got shape {image.shape}, expected (H, W) or (H, W, C) with C of 1, 3 or 4.")
    if image.dtype != np.uint8:
        image = (np.nan_to_num(image.astype(np.float32)).clip(0, 1) * 255).round().astype(np.uint8)
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]


def fit(image: Array, size: int) -> Array:
    """The image within a ``size`` x ``size`` square on white, kept in proportion; small ones grow by whole factors."""
    from PIL import Image

    image = pixels(image)
    height, width = image.shape[:2]
    longest = max(height, width)
    if longest > size:
        new = (max(1, round(width * size / longest)), max(1, round(height * size / longest)))
        picture = Image.fromarray(image).resize(new, Image.Resampling.LANCZOS)
    else:
        factor = size // longest
        picture = Image.fromarray(image).resize((width * factor, height * factor), Image.Resampling.NEAREST)
    square = Image.new("RGB", (size, size), "white")
    square.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    return np.asarray(square)


def data_uri(image: Array) -> str:
    """A uint8 (H, W, 3) picture as ``data:image/png;base64,...``; lossy WebP where PNG would be large.

    A picture without colour is stored as one channel.
    """
    from PIL import Image

    grey = bool((image[..., :1] == image).all())
    picture = Image.fromarray(image[..., 0] if grey else image)
    png = _encoded(picture, "PNG", optimize=True)
    if len(png) <= PNG_LIMIT:
        return f"data:image/png;base64,{base64.b64encode(png).decode()}"
    webp = _encoded(picture.convert("RGB"), "WEBP", quality=82, method=6)
    kind, smaller = min(("png", png), ("webp", webp), key=lambda item: len(item[1]))
    return f"data:image/{kind};base64,{base64.b64encode(smaller).decode()}"


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def thumbnail(image: Array, limit: int) -> str:
    """An image as the data URI of a square, its longer side at most ``limit`` pixels."""
    image = pixels(image)
    return data_uri(fit(image, cell_size(image.shape, limit)))


def cell_size(shape: Sequence[int], limit: int) -> int:
    """Side of a thumbnail's square: the image's longer side, at most ``limit`` pixels."""
    return int(min(max(shape[0], shape[1]), limit))


def sheet(images: Sequence[Array | None], columns: int, size: int) -> Array:
    """Thumbnails in rows of ``columns`` as one uint8 picture without gaps; ``None`` leaves its square white."""
    rows = -(-len(images) // columns)
    out = np.full((rows * size, columns * size, 3), 255, np.uint8)
    for at, image in enumerate(images):
        if image is not None:
            top, left = at // columns * size, at % columns * size
            out[top : top + size, left : left + size] = fit(image, size)
    return out


def thumbnails_of(items: Sequence[int], thumbnails: Thumbnails) -> list[Array | None]:
    """The thumbnail of each item, ``None`` for those that have none."""
    return [None if (image := thumbnails(int(item))) is None else pixels(image) for item in items]
