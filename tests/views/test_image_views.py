import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from counterpoint.views import Affine, CenterSuppressedCrop, GaussianNoise, RandomErasing, Rotation, Solarize


def images(batch=4, channels=3, height=12, width=17, seed=0):
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("degrees", "scale", "shear"), [(0.0, 1.0, 0.0), (30.0, 1.0, 0.0), (-75.0, 0.7, 0.0), (20.0, 1.3, 15.0)]
)
def test_affine_equals_torchvision_for_fixed_parameters(degrees, scale, shear):
    x = images()
    got = Affine(degrees=(degrees, degrees), scale=(scale, scale), shear=(shear, shear))(x)
    expected = tv.affine(x, degrees, [0, 0], scale, [shear, 0.0], interpolation=InterpolationMode.BILINEAR)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    if (scale, shear) == (1.0, 0.0):
        torch.testing.assert_close(Rotation((degrees, degrees))(x), expected, atol=1e-4, rtol=0)


def test_shifts_stay_within_the_fraction_and_reach_both_sides():
    x = torch.zeros(500, 1, 21, 41)
    x[:, :, 10, 20] = 1
    got = Affine(translate=(0.2, 0.1))(x, torch.Generator().manual_seed(0))
    rows = (got.sum((1, 3)) * torch.arange(21)).sum(1) / got.sum((1, 2, 3)) - 10
    columns = (got.sum((1, 2)) * torch.arange(41)).sum(1) / got.sum((1, 2, 3)) - 20
    assert 1.9 < rows.max() < 2.2
    assert -2.2 < rows.min() < -1.9
    assert 7.8 < columns.max() < 8.3
    assert -8.3 < columns.min() < -7.8


def test_affine_leaves_the_unchosen_alone():
    x = images(batch=200)
    kept = (Affine(degrees=(40.0, 40.0), p=0.3)(x, torch.Generator().manual_seed(0)) == x).flatten(1).all(1)
    assert 0.55 < kept.float().mean() < 0.85


def test_solarize_inverts_from_the_threshold_up():
    x = images(batch=300)
    got = Solarize(threshold=0.6, p=0.4)(x, torch.Generator().manual_seed(0))
    expected = tv.solarize(x, 0.6)
    chosen = (got != x).flatten(1).any(1)
    assert torch.equal(got[chosen], expected[chosen])
    assert 0.3 < chosen.float().mean() < 0.5


def test_erasing_paints_one_box_of_the_right_area():
    x = torch.ones(400, 2, 40, 40)
    got = RandomErasing(p=0.5, scale=(0.1, 0.2), value=0.25)(x, torch.Generator().manual_seed(0))
    erased = got[:, 0] == 0.25
    assert torch.equal(erased, got[:, 1] == 0.25)
    boxes = erased.any(2).sum(1) * erased.any(1).sum(1)
    assert torch.equal(boxes, erased.sum((1, 2)))
    areas = boxes[boxes > 0] / 1600
    assert 0.4 < len(areas) / 400 < 0.6
    assert areas.min() > 0.085
    assert areas.max() < 0.215
    assert len(areas.unique()) > 20


def test_noise_has_its_deviation_and_stays_in_range():
    x = torch.full((300, 1, 30, 30), 0.5)
    deviations = (GaussianNoise(std=(0.02, 0.1))(x, torch.Generator().manual_seed(0)) - x).flatten(1).std(1)
    assert 0.018 < deviations.min() < 0.03
    assert 0.09 < deviations.max() < 0.11
    noisy = GaussianNoise(std=0.5)(x)
    assert noisy.min() == 0
    assert noisy.max() == 1


@pytest.mark.parametrize(
    "transform",
    [
        Affine(degrees=20.0),
        CenterSuppressedCrop(),
        Rotation(20.0),
        RandomErasing(p=1),
        GaussianNoise(),
        Solarize(p=0.5),
    ],
)
def test_equal_samples_differ_and_both_kinds_of_seed_repeat(transform):
    x = images(batch=1).expand(30, -1, -1, -1)
    before = x.clone()
    got = transform(x, torch.Generator().manual_seed(5))
    assert len({round(float(view.double().sum()), 6) for view in got}) > (1 if isinstance(transform, Solarize) else 25)
    assert torch.equal(got, transform(x, torch.Generator().manual_seed(5)))
    torch.manual_seed(7)
    first, second = transform(x), transform(x)
    assert not torch.equal(first, second)
    torch.manual_seed(7)
    assert torch.equal(first, transform(x))
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Affine(padding="mirror"), "padding"),
        (lambda: Affine(translate=(0.1, 1.5)), "translate"),
        (lambda: Affine(scale=(0.0, 1.0)), "scale"),
        (lambda: Affine(degrees=-3), "degrees"),
        (lambda: Affine(degrees=(10, -10)), "degrees"),
        (lambda: Rotation("a lot"), "degrees"),
        (lambda: RandomErasing(scale=(0.4, 0.2)), "scale"),
        (lambda: RandomErasing(p=-1), "p"),
        (lambda: GaussianNoise(std=0), "std"),
        (lambda: GaussianNoise(std=float("nan")), "std"),
        (lambda: Solarize(threshold=128), "threshold"),
    ],
)
def test_parameters_without_sense_are_refused_by_name(make, name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        make()
