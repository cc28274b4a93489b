import pytest
import torch

from counterpoint.views import (
    CenterSuppressedCrop,
    ColorJitter,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    RandomResizedCrop,
    Solarize,
    Views,
    names,
    resolve,
)


def kinds(views, index=0):
    return {type(transform) for transform in views.pipelines[index].transforms}


def only(views, kind, index=0):
    [transform] = [item for item in views.pipelines[index].transforms if isinstance(item, kind)]
    return transform


@pytest.mark.parametrize("name", names("image"))
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 48, 40), (1, 8, 8), (3, 9, 9)])
def test_every_name_makes_views_of_any_images(name, shape):
    views = resolve(name, "image", shape)
    x = torch.randint(0, 256, (5, *shape), dtype=torch.uint8)
    made = views(x, torch.Generator().manual_seed(0))
    assert len(made) == views.n == len(views.sizes)
    for view, size in zip(made, views.sizes, strict=True):
        assert view.shape == (5, shape[0], *(size or shape[1:]))
        assert view.dtype == torch.float32
        assert view.min() >= 0
        assert view.max() <= 1
    assert made[0].shape[2:] == shape[1:]
    assert Views.from_config(views.to_config()) == views
    if shape[0] == 1:
        assert Grayscale not in kinds(views)


def test_simclr_follows_the_paper_for_large_and_for_small_images():
    large, small = resolve("simclr", "image", (3, 224, 224)), resolve("simclr", "image", (3, 32, 32))
    assert only(large, RandomResizedCrop) == RandomResizedCrop(224, (0.08, 1.0), (3 / 4, 4 / 3))
    assert only(large, ColorJitter) == ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8)
    assert only(large, Grayscale).p == 0.2
    assert only(large, GaussianBlur) == GaussianBlur((0.1, 2.0), p=0.5)
    assert only(small, ColorJitter) == ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8)
    assert GaussianBlur not in kinds(small)
    assert GaussianBlur in kinds(resolve({"simclr": {"blur": True}}, "image", (3, 32, 32)))


def test_byol_is_asymmetric():
    views = resolve("byol", "image", (3, 96, 96))
    assert [only(views, GaussianBlur, i).p for i in (0, 1)] == [1.0, 0.1]
    assert Solarize not in kinds(views, 0)
    assert only(views, Solarize, 1) == Solarize(0.5, 0.2)
    assert only(views, ColorJitter) == ColorJitter(0.4, 0.4, 0.2, 0.1, p=0.8)


def test_mocov2_crops_from_a_fifth():
    assert only(resolve("mocov2", "image", (3, 64, 64)), RandomResizedCrop).scale == (0.2, 1.0)


def test_swav_has_two_large_and_six_small_crops():
    assert resolve("swav", "image", (3, 224, 224)).sizes == [(224, 224)] * 2 + [(96, 96)] * 6
    views = resolve({"swav": {"local": 4}}, "image", (3, 32, 32))
    assert [tuple(view.shape[2:]) for view in views(torch.rand(2, 3, 32, 32))] == [(32, 32)] * 2 + [(16, 16)] * 4
    assert only(views, RandomResizedCrop, 5).scale == (0.05, 0.14)
    assert only(views, ColorJitter, 5).brightness == 0.4  # half the strength for small images, as everywhere
    assert only(resolve("swav", "image", (3, 224, 224)), ColorJitter).brightness == 0.8


def test_swav_on_digits_has_small_crops_that_show_something():
    views = resolve({"swav": {"local": 3}}, "image", (1, 8, 8))
    assert [tuple(view.shape[2:]) for view in views(torch.rand(2, 1, 8, 8))] == [(8, 8)] * 2 + [(4, 4)] * 3
    assert only(views, RandomResizedCrop, 4).scale == (0.2, 0.4)
    assert not {HorizontalFlip, ColorJitter} & kinds(views)
    asked = {"swav": {"local": 1, "local_size": 6, "local_scale": (0.3, 0.5)}}
    crop = only(resolve(asked, "image", (1, 8, 8)), RandomResizedCrop, 2)
    assert (crop.size, crop.scale) == ((6, 6), (0.3, 0.5)) or (crop.size, crop.scale) == (6, (0.3, 0.5))


@pytest.mark.paper(48, "parity")
def test_groco_has_the_figures_of_the_official_code():
    views = resolve({"groco": {"local": 6}}, "image", (3, 224, 224))
    assert views.sizes == [(224, 224)] * 2 + [(96, 96)] * 6
    for index in range(8):
        size, scale = (224, (0.14, 1.0)) if index < 2 else ((96, 96), (0.05, 0.14))
        assert only(views, RandomResizedCrop, index) == RandomResizedCrop(size, scale, (3 / 4, 4 / 3))
        assert only(views, HorizontalFlip, index).p == 0.5
        assert only(views, ColorJitter, index) == ColorJitter(0.4, 0.4, 0.2, 0.1, p=0.8)
        assert only(views, Grayscale, index).p == 0.2
        assert only(views, GaussianBlur, index) == GaussianBlur((0.1, 2.0), p=(1.0, 0.1, *[0.5] * 6)[index])
        assert (Solarize in kinds(views, index)) == (index == 1)
    assert only(views, Solarize, 1) == Solarize(0.5, 0.2)
    assert resolve("groco", "image", (3, 224, 224)).pipelines == views.pipelines[:2]
    tiny = resolve({"groco": {"local": 3}}, "image", (1, 8, 8))
    assert tiny == resolve({"swav": {"local": 3}}, "image", (1, 8, 8))


def test_hallucinators_first_view_keeps_away_from_the_middle_and_its_second_does_not():
    views = resolve("hallucinator", "image", (3, 32, 32))
    box = (0.25, 0.25, 0.75, 0.75)
    assert only(views, CenterSuppressedCrop) == CenterSuppressedCrop(32, (0.2, 1.0), (3 / 4, 4 / 3), box, 0.1)
    assert views.pipelines[1].transforms[0] == RandomResizedCrop(32, (0.2, 1.0), (3 / 4, 4 / 3))
    assert views.pipelines[0].transforms[1:] == views.pipelines[1].transforms[1:]
    large = only(resolve("hallucinator", "image", (3, 224, 224)), CenterSuppressedCrop)
    assert (large.box, large.alpha) == ((0.2, 0.2, 0.8, 0.8), 0.6)
    assert GaussianBlur in kinds(resolve("hallucinator", "image", (3, 64, 64)))
    own = resolve({"hallucinator": {"alpha": 0.3, "box": [0.1, 0.1, 0.9, 0.9]}}, "image", (3, 32, 32))
    assert only(own, CenterSuppressedCrop).alpha == 0.3
    assert only(own, CenterSuppressedCrop).box == (0.1, 0.1, 0.9, 0.9)
    for index in (0, 1):
        assert not kinds(resolve("hallucinator", "image", (1, 8, 8)), index) & {HorizontalFlip, ColorJitter}


def test_untouched_views_are_untouched():
    x = torch.randint(0, 256, (3, 3, 20, 24), dtype=torch.uint8)
    for name in ("none", "identity"):
        [view] = resolve(name, "image", (3, 20, 24))(x)
        assert torch.equal(view, x / 255)
    [small] = resolve("none", "image", (3, 20, 24), size=10)(x)
    assert small.shape == (3, 3, 10, 10)
    row = torch.rand(2, 5)
    assert torch.equal(resolve("identity", "vector", (5,))(row)[0], row)


def test_scarf_keeps_one_view_whole():
    row = torch.rand(30, 10)
    whole, corrupted = resolve("scarf", "vector", (10,))(row)
    assert torch.equal(whole, row)
    assert ((corrupted != row).sum(1) == 6).all()


def test_oblong_images_get_crops_of_their_own_proportions():
    crop = only(resolve("simclr", "image", (3, 50, 100)), RandomResizedCrop)
    assert crop.size == (50, 100)
    assert crop.ratio == pytest.approx((1.5, 8 / 3))


@pytest.mark.paper(64, "parity")
@pytest.mark.parametrize(
    ("name", "crop", "jitter", "blur", "solarize"),
    [
        ("simclr_strong", 0.08, (0.8, 0.8, 0.8, 0.2, 0.8), 0.5, (0, 0)),
        ("simclr_weak", 0.08, (0.4, 0.4, 0.4, 0.1, 0.8), 0.5, (0, 0)),
        ("adainf", 0.2, (0.4, 0.4, 0.4, 0.1, 0.4), 0.5, (0, 0)),
        ("asymmetric", 0.08, (0.4, 0.4, 0.2, 0.1, 0.8), 0, (0, 0.2)),
        ("adainf_asymmetric", 0.2, (0.4, 0.4, 0.2, 0.1, 0.4), 0, (0, 0.2)),
    ],
)
def test_adainf_has_the_figures_of_the_official_configurations(name, crop, jitter, blur, solarize):
    views = resolve(name, "image", (3, 32, 32))
    assert views.n == 2
    for index in (0, 1):
        assert only(views, RandomResizedCrop, index) == RandomResizedCrop(32, (crop, 1.0), (3 / 4, 4 / 3))
        assert only(views, ColorJitter, index) == ColorJitter(*jitter[:4], p=jitter[4])
        assert only(views, Grayscale, index).p == 0.2
        assert only(views, HorizontalFlip, index).p == 0.5
        assert (GaussianBlur in kinds(views, index)) == (blur > 0)
        assert not blur or only(views, GaussianBlur, index) == GaussianBlur((0.1, 2.0), p=blur)
        assert (Solarize in kinds(views, index)) == (solarize[index] > 0)
        assert not solarize[index] or only(views, Solarize, index).p == solarize[index]


def test_knobs_say_how_strong_the_views_are():
    views = resolve({"adainf": {"crop": 0.4, "jitter": 1.0, "strength": 0.1, "blur": False}}, "image", (3, 32, 32))
    assert only(views, RandomResizedCrop).scale == (0.4, 1.0)
    assert only(views, ColorJitter) == ColorJitter(0.8 * 0.1, 0.8 * 0.1, 0.8 * 0.1, 0.2 * 0.1, p=1.0)
    assert GaussianBlur not in kinds(views)
    with pytest.raises(ValueError, match="views: adainf cannot take"):
        resolve({"adainf": {"crops": 0.4}}, "image", (3, 32, 32))


def test_adainf_on_digits_is_a_weaker_form_of_their_views():
    shape = (1, 8, 8)
    plain = resolve("digits", "image", shape)
    assert resolve("simclr_strong", "image", shape) == resolve("asymmetric", "image", shape) == plain
    assert resolve({"digits": {"strength": 1.0}}, "image", shape) == plain
    x = torch.rand(256, *shape)
    changes = []
    for name in ("adainf", "simclr_weak", "simclr_strong"):
        view = resolve(name, "image", shape)(x, torch.Generator().manual_seed(0))[0]
        changes.append(float((view - x).square().mean()))
    assert changes == sorted(changes)
    assert changes[0] < 0.7 * changes[2]
    with pytest.raises(ValueError, match="strength: expected"):
        resolve({"digits": {"strength": 0}}, "image", shape)
