import pytest
import torch
import yaml

from counterpoint.views import (
    ColorJitter,
    FeatureNoise,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    Pipeline,
    RandomResizedCrop,
    Resize,
    Rotation,
    Solarize,
    VerticalFlip,
    Views,
)
from counterpoint.views.pipeline import TRANSFORMS

EVERYTHING = [
    Rotation(10.0),
    RandomResizedCrop(12),
    HorizontalFlip(),
    GaussianBlur(p=0.7),
    Resize((9, 10)),
    VerticalFlip(),
    Grayscale(),
    Solarize(),
    HorizontalFlip(p=0.3),
]


def test_fused_equals_one_by_one():
    x = torch.rand(9, 3, 20, 16)
    together, generator = Pipeline(EVERYTHING)(x, torch.Generator().manual_seed(0)), torch.Generator().manual_seed(0)
    one_by_one = x
    for transform in EVERYTHING:
        one_by_one = transform(one_by_one, generator)
    assert together.shape == (9, 3, 9, 10)
    torch.testing.assert_close(together, one_by_one, atol=1e-5, rtol=0)


def test_a_run_of_colours_is_clamped_once():
    x = torch.full((1, 3, 2, 2), 0.8)
    bright_and_back = Pipeline([ColorJitter((2.0, 2.0), p=1), ColorJitter((0.5, 0.5), p=1)])
    torch.testing.assert_close(bright_and_back(x), x)


def test_bytes_and_other_floats_become_float32():
    byte = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    for pipeline in (Pipeline(), Pipeline([HorizontalFlip(p=0)])):
        for x in (byte, byte / 255, byte.double() / 255):
            got = pipeline(x)
            assert got.dtype == torch.float32
            torch.testing.assert_close(got, byte / 255)
    with pytest.raises(ValueError, match="int64"):
        Pipeline()(byte.long())
    with pytest.raises(ValueError, match="list"):
        Pipeline()([1, 2])


def test_views_differ_from_each_other_and_repeat_by_seed():
    views = Views([Pipeline([RandomResizedCrop(8)])] * 2)
    x = torch.rand(4, 1, 16, 16)
    first, second = views(x, torch.Generator().manual_seed(0))
    assert not torch.equal(first, second)
    assert all(map(torch.equal, views(x, torch.Generator().manual_seed(0)), (first, second)))
    torch.manual_seed(4)
    drawn = views(x)
    torch.manual_seed(4)
    assert all(map(torch.equal, views(x), drawn))


def test_configurations_survive_yaml():
    views = Views([Pipeline(EVERYTHING), Pipeline(), Pipeline([FeatureNoise(0.3)])][:2])
    again = Views.from_config(yaml.safe_load(yaml.safe_dump(views.to_config())))
    assert again == views
    assert hash(again) == hash(views)
    assert "RandomResizedCrop(size=12" in repr(again)


def test_every_transform_has_a_configuration_that_makes_it_again():
    required = {"Resize": {"size": 4}, "CenterCrop": {"size": [4, 5]}, "Rotation": {"degrees": 5.0}}
    required["OneOf"] = {"transforms": ["RandomSwap", {"RandomDeletion": {"p": 0.2}}]}
    assert len(TRANSFORMS) == 26
    for name in TRANSFORMS:
        made = Pipeline.from_config([{name: required.get(name, {})}])
        assert Pipeline.from_config(made.to_config()) == made
    assert Pipeline.from_config(["HorizontalFlip"]) == Pipeline([HorizontalFlip()])
    assert Pipeline.from_config([{"RandomResizedCrop": {"scale": [0.2, 1]}}]) == Pipeline(
        [RandomResizedCrop(scale=(0.2, 1.0))]
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([{"RandomResizeCrop": {}}], "did you mean 'RandomResizedCrop'"),
        (["horizontalflip"], "did you mean 'HorizontalFlip'"),
        ([{"ColorJitter": {"brightnes": 0.4}}], "unknown parameter 'brightnes'; did you mean 'brightness'"),
        ([{"HorizontalFlip": {"p": 4}}], "probability"),
        ([{"Resize": {}}], "'size' is missing"),
        ([{"HorizontalFlip": 0.5}], "parameters must be"),
        ([{"HorizontalFlip": {}, "Resize": {}}], "a transform must be"),
        ([3], "a transform must be"),
        ({"HorizontalFlip": {}}, "must be a list"),
        ("simclr", "must be a list"),
        ([{"HorizontalFlip": {}}, {"FeatureDropout": {}}], "one modality"),
    ],
)
def test_configurations_that_mean_nothing_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        Pipeline.from_config(config)


def test_views_need_pipelines_of_one_modality():
    with pytest.raises(ValueError, match="at least one Pipeline"):
        Views([])
    with pytest.raises(ValueError, match="at least one Pipeline"):
        Views([HorizontalFlip()])
    with pytest.raises(ValueError, match="one modality"):
        Views([Pipeline([HorizontalFlip()]), Pipeline([FeatureNoise()])])
    with pytest.raises(ValueError, match="must hold transforms"):
        Pipeline([{"HorizontalFlip": {}}])


def test_shapes_are_checked_before_anything_is_drawn():
    with pytest.raises(ValueError, match=r"x\[None\]"):
        Pipeline([HorizontalFlip()])(torch.rand(3, 8, 8))
    with pytest.raises(ValueError, match="empty"):
        Pipeline([HorizontalFlip()])(torch.rand(2, 3, 0, 8))


def test_nan_passes_through():
    x = torch.rand(2, 3, 8, 8)
    x[0] = torch.nan
    for view in Pipeline([Solarize(p=1), HorizontalFlip(p=1), ColorJitter(0.4)])(x), Pipeline([GaussianBlur()])(x):
        assert view[0].isnan().all()
        assert not view[1].isnan().any()
