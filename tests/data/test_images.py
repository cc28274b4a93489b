import io

import numpy as np
import pytest
from PIL import Image

from counterpoint.data.images import decode, look


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (4, 4), 77), [77, 77, 77]),
        (Image.new("1", (4, 4), 1), [255, 255, 255]),
        (Image.new("RGB", (4, 4), (1, 2, 3)), [1, 2, 3]),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 0)), [255, 255, 255]),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 128)), [255, 127, 127]),
        (Image.new("LA", (4, 4), (0, 0)), [255, 255, 255]),
        (Image.fromarray(np.full((4, 4), 65535, np.uint16)), [255, 255, 255]),
        (Image.fromarray(np.full((4, 4), 257 * 9, np.uint16)), [9, 9, 9]),
        (Image.new("RGB", (4, 4), (10, 200, 30)).quantize(4), [10, 200, 30]),
    ],
    ids=["grey", "bilevel", "colour", "clear", "half clear", "grey alpha", "16 bit white", "16 bit", "palette"],
)
def test_modes_become_rgb(image, expected):
    pixels = decode(encoded(image), (4, 4), 3)
    assert pixels.shape == (3, 4, 4)
    assert pixels.dtype == np.uint8
    assert pixels[:, 2, 2].tolist() == expected


def test_cmyk_and_float_pictures():
    cmyk = decode(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"), (16, 16), 3)
    assert cmyk[0].mean() > 200
    assert cmyk[1:].mean() < 60
    floats = Image.fromarray(np.full((4, 4), 0.5, np.float32))
    assert abs(int(decode(encoded(floats, "TIFF"), (4, 4), 1)[0, 0, 0]) - 128) <= 1
    with pytest.raises(ValueError, match="outside"):
        decode(encoded(Image.fromarray(np.full((4, 4), 7.0, np.float32)), "TIFF"), (4, 4), 1)


def test_palette_transparency_lies_on_white():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 0, 9, 9, 9])
    pixels = decode(encoded(image, transparency=0), (4, 4), 3)
    assert (pixels == 255).all()


def test_grey_is_read_from_the_header():
    assert look(encoded(Image.new("L", (5, 4)))) == (4, 5, True)
    assert look(encoded(Image.fromarray(np.zeros((4, 5), np.uint16)))) == (4, 5, True)
    assert look(encoded(Image.new("RGB", (5, 4)))) == (4, 5, False)


def test_orientation_is_obeyed():
    image = Image.new("RGB", (4, 8), "black")
    image.paste("white", (0, 0, 4, 4))  # the top half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: the top becomes the right
    data = encoded(image, exif=exif)
    assert look(data)[:2] == (4, 8)
    shown = decode(data, (4, 8), 3)
    assert shown[:, :, 4:].min() == 255
    assert shown[:, :, :4].max() == 0


def test_shorter_side_is_fitted_and_the_centre_kept():
    image = Image.new("RGB", (300, 100), "red")
    image.paste("blue", (100, 0, 200, 100))
    pixels = decode(encoded(image), (10, 10), 3)
    assert (pixels[2, :, 1:-1] == 255).all(), "only the blue middle third is left"
    assert (pixels[0, :, 1:-1] == 0).all()
    assert pixels[2].min() > 200, "the outermost columns lean over the cut a little, as they do when resizing first"


def test_resizing_is_antialiased():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    pixels = decode(encoded(Image.fromarray(stripes)), (8, 8), 1)
    assert np.abs(pixels.astype(int) - 128).max() <= 20, "without antialiasing it would be black or white"


def test_large_jpegs_keep_their_content():
    ramp = np.broadcast_to(np.linspace(0, 255, 1024).astype(np.uint8), (1024, 1024))
    pixels = decode(encoded(Image.fromarray(ramp), "JPEG"), (16, 16), 1)[0].astype(int)
    assert np.abs(pixels[8] - np.linspace(8, 247, 16)).max() < 4


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_truncated_and_garbage_files_raise(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever Pillow raises
        decode(data[: len(data) // 2], (64, 64), 3)
    with pytest.raises(Exception):  # noqa: B017, PT011
        decode(b"\0" * 100, (64, 64), 3)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_raise(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="bomb"):
        decode(encoded(Image.new("L", (11, 10))), (4, 4), 1)


def test_a_missing_cell_raises():
    with pytest.raises(ValueError, match="no image"):
        decode(None, (4, 4), 1)
