from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from torchvision.transforms.v2 import functional as tv

from counterpoint.views.separable import (
    CenterCrop,
    CenterSuppressedCrop,
    GaussianBlur,
    HorizontalFlip,
    RandomResizedCrop,
    Resampling,
    Resize,
    VerticalFlip,
    _blur_step,
    _window_step,
    boxes,
    suppressed,
)
from counterpoint.views.transform import Dice


def images(batch=4, channels=3, height=20, width=26, seed=0):
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


def crop(x, top, left, h, w, out_h, out_w):
    rows = _window_step(torch.tensor([top]), torch.tensor([h]), out_h, x.shape[-2])
    columns = _window_step(torch.tensor([left]), torch.tensor([w]), out_w, x.shape[-1])
    return Resampling(out_h, out_w, (rows,), (columns,))(x)


@pytest.mark.parametrize(
    ("box", "out"),
    [
        ((0, 0, 20, 26), (20, 26)),
        ((3, 5, 13, 11), (8, 8)),
        ((3, 5, 4, 3), (16, 16)),
        ((7, 0, 13, 26), (5, 31)),
        ((19, 25, 1, 1), (4, 4)),
        ((0, 0, 20, 26), (1, 1)),
    ],
)
def test_a_crop_equals_torchvisions_antialiased_bilinear(box, out):
    x = images()
    expected = tv.resized_crop(x, *box, size=list(out), antialias=True)
    torch.testing.assert_close(crop(x, *box, *out), expected, atol=1e-5, rtol=0)


def test_random_crop_equals_torchvision_box_by_box():
    x, generator = images(batch=6), torch.Generator().manual_seed(3)
    got = RandomResizedCrop(9)(x, generator)
    top, left, h, w, _ = boxes(20, 26, (0.08, 1.0), (3 / 4, 4 / 3), Dice(x, torch.Generator().manual_seed(3)))
    for i, box in enumerate(zip(top.int(), left.int(), h.int(), w.int(), strict=True)):
        expected = tv.resized_crop(x[i], *map(int, box), size=[9, 9], antialias=True)
        torch.testing.assert_close(got[i], expected, atol=1e-5, rtol=0)


def test_box_areas_are_uniform_in_scale_and_ratios_log_uniform():
    x = torch.zeros(20_000, 1, 1, 1)
    top, left, h, w, found = boxes(400, 400, (0.1, 0.4), (0.5, 2.0), Dice(x, torch.Generator().manual_seed(0)))
    assert found.all()
    area, ratio = h * w / 400**2, torch.log2(w / h)
    for values, low, high in ((area, 0.1, 0.4), (ratio, -1.0, 1.0)):
        quantiles = torch.quantile((values - low) / (high - low), torch.tensor([0.25, 0.5, 0.75]))
        torch.testing.assert_close(quantiles, torch.tensor([0.25, 0.5, 0.75]), atol=0.02, rtol=0)
    assert ((top >= 0) & (top + h <= 400) & (left >= 0) & (left + w <= 400)).all()
    free = left / (400 - w)
    torch.testing.assert_close(free.mean(), torch.tensor(0.5), atol=0.01, rtol=0)
    assert (left == 0).any()
    assert (left + w == 400).any()


def test_boxes_that_do_not_fit_fall_back_to_the_largest_central_one():
    x = torch.arange(40.0).view(1, 1, 1, 40).expand(2, 1, 10, 40) / 40
    got = RandomResizedCrop((10, 10), scale=(1.0, 1.0), ratio=(1.0, 1.0))(x)
    torch.testing.assert_close(got, x[..., 15:25], atol=1e-6, rtol=0)


GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "35-hallucinator.npz")


@pytest.mark.paper(35, "parity")
def test_suppressed_crops_are_the_official_codes():
    """From the drawn area, ratio and places of the golden rows to the crop, or to another try."""
    height, width = map(int, GOLDEN["crop_hw"])
    top, left, bottom, right = map(float, GOLDEN["crop_box"])
    area, ratio, u, v, *expected = torch.from_numpy(GOLDEN["crop_rows"]).T
    h, w = (area / ratio).sqrt().round(), (area * ratio).sqrt().round()
    fits = (h <= height) & (w <= width)
    assert torch.equal(fits, expected[0] >= 0)
    places = suppressed(height, h, top, bottom, u), suppressed(width, w, left, right, v)
    for got, wanted in zip((*places, h, w), expected, strict=True):
        assert torch.equal(got[fits], wanted[fits])


def test_a_suppressed_crop_is_the_box_it_draws():
    crop, x = CenterSuppressedCrop((9, 7), box=(0.3, 0.1, 0.6, 0.9), alpha=0.4), images(batch=6)
    top, left, h, w, _ = crop.boxes(20, 26, Dice(x, torch.Generator().manual_seed(3)))
    got = crop(x, torch.Generator().manual_seed(3))
    for i, box in enumerate(zip(top.int(), left.int(), h.int(), w.int(), strict=True)):
        expected = tv.resized_crop(x[i], *map(int, box), size=[9, 7], antialias=True)
        torch.testing.assert_close(got[i], expected, atol=1e-5, rtol=0)


def overlap(a, b):
    """Intersection over union of boxes (top, left, height, width)."""
    inner = [(torch.minimum(a[i] + a[i + 2], b[i] + b[i + 2]) - torch.maximum(a[i], b[i])).clamp(min=0) for i in (0, 1)]
    shared = inner[0] * inner[1]
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


@pytest.mark.parametrize("side", [32, 64])
def test_two_views_of_hallucinator_share_less_than_two_random_crops(side):
    dice = Dice(torch.zeros(10_000, 1, 1, 1), torch.Generator().manual_seed(0))
    plain = RandomResizedCrop(scale=(0.2, 1.0))
    random, other, suppressed = (c.boxes(side, side, dice) for c in (plain, plain, CenterSuppressedCrop()))
    gap = overlap(random, other) - overlap(suppressed, other)
    assert gap.mean() > 4 * gap.std() / 100  # the standard error of 10^4 draws
    middle = CenterSuppressedCrop(alpha=50.0).boxes(side, side, dice)
    assert overlap(middle, other).mean() > overlap(suppressed, other).mean()


def test_the_middle_of_a_suppressed_crop_stays_in_the_box_and_leaves_its_middle():
    crop = CenterSuppressedCrop(scale=(0.04, 0.09), ratio=(1.0, 1.0), box=(0.2, 0.4, 0.8, 0.6), alpha=0.1)
    top, left, h, w, found = crop.boxes(200, 200, Dice(torch.zeros(5000, 1, 1, 1), torch.Generator().manual_seed(0)))
    assert found.all()
    row, column = top + h.div(2, rounding_mode="floor"), left + w.div(2, rounding_mode="floor")
    assert row.min() == 40
    assert row.max() == 159
    assert column.min() == 80
    assert column.max() == 119
    assert ((row < 50) | (row > 150)).float().mean() > 0.6  # two twelfths of the way, were it uniform
    assert abs(row.mean() - 100) < 3


@pytest.mark.parametrize(
    "box", [(0.0, 0.0, 1.0, 1.0), (0.9, 0.9, 1.0, 1.0), (0.0, 0.0, 0.0, 0.0), (0.5, 0.5, 0.5, 0.5)]
)
def test_suppressed_crops_never_leave_the_image(box):
    crop = CenterSuppressedCrop(scale=(0.1, 1.0), box=box)
    top, left, h, w, _ = crop.boxes(17, 11, Dice(torch.zeros(3000, 1, 1, 1), torch.Generator().manual_seed(0)))
    assert ((top >= 0) & (top + h <= 17) & (left >= 0) & (left + w <= 11)).all()


@pytest.mark.parametrize("alpha", [0.1, 0.6, 1.0, 3.0])
def test_draws_of_beta_follow_its_distribution(alpha):
    draws = Dice(torch.zeros(20_000, 1), torch.Generator().manual_seed(0)).beta(alpha)
    assert draws.max() < 1
    steps = np.linspace(0.05, 0.95, 10)
    share = [(draws.numpy() <= step).mean() for step in steps]
    assert share == pytest.approx(scipy.stats.beta(alpha, alpha).cdf(steps), abs=0.015)


def test_equal_samples_get_different_views_and_a_generator_repeats_them():
    x = images(batch=1).expand(16, -1, -1, -1)
    first = RandomResizedCrop()(x, torch.Generator().manual_seed(1))
    assert len({tuple(view.flatten()[:50].tolist()) for view in first}) == 16
    assert torch.equal(first, RandomResizedCrop()(x, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, RandomResizedCrop()(x, torch.Generator().manual_seed(2)))


def test_pieces_of_the_batch_fit_together(monkeypatch):
    x = images(batch=7)
    transforms = [RandomResizedCrop(11), HorizontalFlip(), VerticalFlip(), GaussianBlur()]
    whole = [transform(x, torch.Generator().manual_seed(1)) for transform in transforms]
    monkeypatch.setattr("counterpoint.views.separable.pieces", lambda x: [slice(i, i + 2) for i in range(0, len(x), 2)])
    for transform, expected in zip(transforms, whole, strict=True):
        torch.testing.assert_close(transform(x, torch.Generator().manual_seed(1)), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("flip", "axis"), [(HorizontalFlip, -1), (VerticalFlip, -2)])
def test_flips_mirror_half_of_the_samples_exactly(flip, axis):
    x = images(batch=4000, channels=1, height=4, width=5)
    got = flip()(x, torch.Generator().manual_seed(0))
    mirrored = (got == x.flip(axis)).flatten(1).all(1)
    untouched = (got == x).flatten(1).all(1)
    assert (mirrored ^ untouched).all()
    assert abs(mirrored.float().mean() - 0.5) < 0.03
    assert torch.equal(flip(p=1)(x), x.flip(axis))
    assert torch.equal(flip(p=0)(x), x)


@pytest.mark.parametrize("size", [(20, 26), (10, 13), (40, 17)])
def test_resize_equals_torchvision(size):
    x = images()
    torch.testing.assert_close(Resize(size)(x), tv.resize(x, list(size), antialias=True), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(20, 26), (7, 8), (8, 7), (1, 26)])
def test_center_crop_equals_torchvision(size):
    x = images()
    assert torch.equal(CenterCrop(size)(x), tv.center_crop(x, list(size)))


@pytest.mark.parametrize(("kernel", "sigma"), [(3, 0.1), (3, 2.0), (9, 1.3), (23, 2.0)])
def test_blur_equals_torchvision(kernel, sigma):
    x = images()
    got = GaussianBlur(sigma=(sigma, sigma), p=1, kernel_size=kernel)(x)
    torch.testing.assert_close(got, tv.gaussian_blur(x, [kernel, kernel], [sigma, sigma]), atol=1e-5, rtol=0)


def test_blur_takes_a_tenth_of_the_side_as_its_kernel_and_leaves_the_unchosen():
    x = torch.zeros(64, 1, 64, 64)
    x[:, :, 32, 32] = 1
    got = GaussianBlur(sigma=(5.0, 5.0), p=0.5)(x, torch.Generator().manual_seed(0))
    blurred = (got != x).flatten(1).any(1)
    assert 16 < blurred.sum() < 48
    assert torch.equal(got[~blurred], x[~blurred])
    assert ((got[blurred][0, 0] > 0).sum(0) > 0).sum() == 7  # 64 // 10 = 6, made odd


def test_a_kernel_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match="kernel_size"):
        GaussianBlur(kernel_size=9)(images(height=4))
    assert _blur_step(torch.ones(1, 2) / 3, 2)(slice(None), None).sum(-1).allclose(torch.ones(2))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: RandomResizedCrop(8, scale=(0.5, 0.1)), "scale"),
        (lambda: RandomResizedCrop(8, scale=(0.5, 1.5)), "scale"),
        (lambda: RandomResizedCrop(8, scale=0.5), "scale"),
        (lambda: RandomResizedCrop(8, ratio=(0.0, 1.0)), "ratio"),
        (lambda: RandomResizedCrop(0), "size"),
        (lambda: Resize((4, -4)), "size"),
        (lambda: Resize(4.5), "size"),
        (lambda: HorizontalFlip(p=1.1), "p"),
        (lambda: VerticalFlip(p="half"), "p"),
        (lambda: GaussianBlur(sigma=(0, 1)), "sigma"),
        (lambda: GaussianBlur(kernel_size=4), "kernel_size"),
        (lambda: CenterCrop(30)(images()), "size"),
        (lambda: CenterSuppressedCrop(scale=(0.5, 1.5)), "scale"),
        (lambda: CenterSuppressedCrop(box=(0.2, 0.2, 0.8)), "box"),
        (lambda: CenterSuppressedCrop(box=(0.2, 0.2, 0.1, 0.8)), "box"),
        (lambda: CenterSuppressedCrop(box=(0.2, 0.2, 1.1, 0.8)), "box"),
        (lambda: CenterSuppressedCrop(alpha=0), "alpha"),
        (lambda: CenterSuppressedCrop(alpha=(0.1, 0.2)), "alpha"),
    ],
)
def test_parameters_without_sense_are_refused_by_name(make, name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        make()


@pytest.mark.parametrize(
    "x",
    [
        torch.rand(3, 8, 8),
        torch.rand(2, 8),
        torch.rand(2, 3, 8, 8).double(),
        torch.ones(2, 3, 8, 8).long(),
        torch.rand(2, 3, 0, 8),
        torch.rand(0, 3, 8, 8),
        [1, 2],
    ],
)
def test_batches_that_are_none_are_refused(x):
    with pytest.raises(ValueError, match="x must"):
        HorizontalFlip()(x)


def test_a_batch_of_one_pixel_passes():
    assert RandomResizedCrop()(torch.full((1, 1, 1, 1), 0.5)).tolist() == [[[[0.5]]]]
