"""What words and lists in a configuration mean, and what they cannot mean."""

import pytest

from counterpoint.views import ColorJitter, HorizontalFlip, Pipeline, Views, resolve


def test_auto_chooses_by_the_data():
    assert resolve("auto", "image", (3, 32, 32)) == resolve("simclr", "image", (3, 32, 32))
    assert resolve("auto", "image", (1, 64, 64)) == resolve("digits", "image", (1, 64, 64))
    assert resolve("auto", "image", (3, 16, 16)) == resolve("digits", "image", (3, 16, 16))
    assert resolve("auto", "vector", (7,)) == resolve("scarf", "vector", (7,))
    grey = resolve("auto", "image", (1, 8, 8)).pipelines[0].transforms
    assert not any(isinstance(transform, HorizontalFlip | ColorJitter) for transform in grey)


def test_configurations_resolve():
    flip = {"HorizontalFlip": {"p": 1.0}}
    pipeline = Pipeline([HorizontalFlip(1.0)])
    assert resolve([flip], "image", (3, 8, 8)) == Views([pipeline] * 2)
    assert resolve(flip, "image", (3, 8, 8)) == Views([pipeline] * 2)
    assert resolve([[flip], [], [flip]], "image", (3, 8, 8)) == Views([pipeline, Pipeline(), pipeline])
    views = Views([pipeline])
    assert resolve(views, "image", (3, 8, 8)) is views


@pytest.mark.parametrize(
    ("spec", "modality", "shape", "message"),
    [
        ("simcrl", "image", (3, 8, 8), "did you mean 'simclr'"),
        ("simclr", "vector", (8,), "unknown name 'simclr' for vectors"),
        ({"simclr": {"strenght": 1}}, "image", (3, 8, 8), "simclr cannot take"),
        ({"simclr": {}, "byol": {}}, "image", (3, 8, 8), "views must be"),
        ({"simclr": {"size": -3}}, "image", (3, 8, 8), "size must be"),
        (7, "image", (3, 8, 8), "views must be"),
        ([], "image", (3, 8, 8), "views must be"),
        (["FeatureDropout"], "image", (3, 8, 8), "for vectors, and the data are images"),
        ("simclr", "image", (4, 32, 32), "channels must be 1 or 3"),
        ("auto", "sound", (4,), "modality must be"),
        ("auto", "image", (32, 32), "shape must be"),
    ],
)
def test_specifications_that_mean_nothing_are_refused(spec, modality, shape, message):
    with pytest.raises(ValueError, match=message):
        resolve(spec, modality, shape)


def test_count_repeats_the_pipelines_in_turn():
    four = resolve({"byol": {"count": 4}}, modality="image", shape=(3, 48, 48))
    two = resolve("byol", modality="image", shape=(3, 48, 48))
    assert four.pipelines == two.pipelines * 2
    assert resolve({"auto": {"count": 3}}, modality="image", shape=(1, 8, 8)).n == 3
    for count in (0, 1.5, True):
        with pytest.raises(ValueError, match="count of at least 1"):
            resolve({"simclr": {"count": count}}, modality="image", shape=(3, 48, 48))
