import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from counterpoint.views.separable import (
    CenterCrop,
    GaussianBlur,
    HorizontalFlip,
    RandomResizedCrop,
    Resampling,
    Resize,
    VerticalFlip,
    _blur_step,
    _window_step,
    boxes,
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
