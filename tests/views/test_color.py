import math

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from counterpoint.views import Pipeline
from counterpoint.views.color import ColorJitter, Grayscale

LUMA = torch.tensor([0.299, 0.587, 0.114])


def images(batch=4, channels=3, seed=0):
    """Muted colours, so that no clamp acts."""
    return 0.35 + 0.2 * torch.rand(batch, channels, 9, 11, generator=torch.Generator().manual_seed(seed))


def luma(x):
    return torch.einsum("c,bchw->bhw", LUMA, x)


# torchvision's luma weight of red is 0.2989, which sums to 0.9999 with the others; ours is BT.601's 0.299.
@pytest.mark.parametrize(
    ("name", "adjust", "tolerance"),
    [
        ("brightness", tv.adjust_brightness, 1e-6),
        ("contrast", tv.adjust_contrast, 1e-4),
        ("saturation", tv.adjust_saturation, 1e-4),
    ],
)
@pytest.mark.parametrize("factor", [0.6, 1.4])
def test_each_factor_equals_torchvision_where_nothing_is_clamped(name, adjust, tolerance, factor):
    x = images()
    got = ColorJitter(**{name: (factor, factor)}, p=1)(x)
    torch.testing.assert_close(got, adjust(x, factor), atol=tolerance, rtol=0)


def test_greyscale_equals_torchvision():
    x = images()
    torch.testing.assert_close(Grayscale(p=1)(x), tv.rgb_to_grayscale(x, 3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("turns", [-0.5, -0.2, 0.1, 0.5])
def test_hue_keeps_luma_leaves_grey_alone_and_can_be_undone(turns):
    x, jitter = images(), ColorJitter(hue=(turns, turns), p=1)
    got = jitter(x)
    assert (got - x).abs().max() > 0.01
    torch.testing.assert_close(luma(got), luma(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(ColorJitter(hue=(-turns, -turns), p=1)(got), x, atol=1e-5, rtol=0)
    grey = x[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(jitter(grey), grey, atol=1e-5, rtol=0)


def test_hue_turns_the_same_way_as_torchvision():
    red = torch.tensor([0.6, 0.4, 0.4]).view(1, 3, 1, 1)
    for turns, strongest in ((0.0, 0), (1 / 3, 1), (-1 / 3, 2)):
        assert ColorJitter(hue=(turns, turns), p=1)(red).flatten().argmax() == strongest
        assert tv.adjust_hue(red, turns).flatten().argmax() == strongest


def test_all_changes_of_colour_commute_while_nothing_is_clamped():
    parts = [
        ColorJitter(brightness=(0.9, 0.9), p=1),
        ColorJitter(contrast=(0.7, 0.7), p=1),
        ColorJitter(saturation=(1.3, 1.3), p=1),
        ColorJitter(hue=(0.07, 0.07), p=1),
    ]
    x = images()
    together = ColorJitter((0.9, 0.9), (0.7, 0.7), (1.3, 1.3), (0.07, 0.07), p=1)(x)
    for order in (parts, parts[::-1], parts[2:] + parts[:2]):
        one_by_one = x
        for part in order:
            one_by_one = part(one_by_one)
        torch.testing.assert_close(one_by_one, together, atol=1e-5, rtol=0)
        torch.testing.assert_close(Pipeline(order)(x), together, atol=1e-5, rtol=0)


def test_jitter_takes_p_of_the_samples_and_factors_from_the_whole_range():
    x = torch.full((5000, 1, 1, 1), 0.4)
    factors = (ColorJitter(brightness=0.5, p=0.8)(x, torch.Generator().manual_seed(0)) / 0.4).flatten()
    changed = factors[(factors - 1).abs() > 1e-6]
    assert abs(len(changed) / 5000 - 0.8) < 0.02
    quartiles = torch.quantile(changed, torch.tensor([0.0, 0.25, 0.75, 1.0]))
    torch.testing.assert_close(quartiles, torch.tensor([0.5, 0.75, 1.25, 1.5]), atol=0.02, rtol=0)


def test_samples_are_jittered_apart_and_repeatably():
    x, jitter = images(batch=1).expand(12, -1, -1, -1), ColorJitter(0.4, 0.4, 0.4, 0.1, p=1)
    got = jitter(x, torch.Generator().manual_seed(0))
    assert len({round(float(view.sum()), 3) for view in got}) == 12
    assert torch.equal(got, jitter(x, torch.Generator().manual_seed(0)))


def test_one_channel_ignores_colour_and_feels_light():
    x = images(channels=1)
    for colour in (ColorJitter(saturation=(0, 0), p=1), ColorJitter(hue=(0.3, 0.3), p=1), Grayscale(p=1)):
        assert torch.equal(colour(x), x)
    torch.testing.assert_close(ColorJitter((0.5, 0.5), p=1)(x), x / 2)
    mean = x.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(ColorJitter(contrast=(0.5, 0.5), p=1)(x), (x + mean) / 2)


def test_the_result_is_clamped_and_nan_is_not_hidden():
    x = torch.rand(8, 3, 5, 5)
    got = ColorJitter(2.0, 2.0, 2.0, 0.5, p=1)(x)
    assert got.min() >= 0
    assert got.max() <= 1
    x[0, 0, 0, 0] = math.nan
    got = ColorJitter(0.4, p=1)(x)
    assert got[0].isnan().any()
    assert not got[1:].isnan().any()


@pytest.mark.parametrize("channels", [2, 4])
def test_other_numbers_of_channels_are_refused(channels):
    for transform in (ColorJitter(0.4), Grayscale()):
        with pytest.raises(ValueError, match=f"1 or 3 channels.*got {channels}"):
            transform(images(channels=channels))


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"brightness": -0.1}, "brightness"),
        ({"contrast": (1.2, 0.8)}, "contrast"),
        ({"saturation": (-1.0, 1.0)}, "saturation"),
        ({"hue": 0.6}, "hue"),
        ({"hue": (-0.7, 0.0)}, "hue"),
        ({"p": 2}, "p"),
    ],
)
def test_parameters_without_sense_are_refused_by_name(parameters, name):
    with pytest.raises(ValueError, match=f"ColorJitter: {name} must be"):
        ColorJitter(**parameters)
