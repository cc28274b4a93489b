import pytest
import torch

from counterpoint.views import FeatureCorruption, FeatureDropout, FeatureNoise, FeatureScale, Pipeline


def test_corruption_takes_values_of_the_same_feature_from_other_rows():
    batch, features = 40, 10
    x = torch.arange(batch * features, dtype=torch.float32).view(batch, features)
    got = FeatureCorruption(rate=0.6)(x, torch.Generator().manual_seed(0))
    assert torch.equal(got % features, x % features)  # the column of origin
    assert ((got != x).sum(1) == 6).all()  # exactly floor(rate * F), never from the own row
    donors = (got // features)[got != x].view(batch, 6)
    assert donors.unique(dim=0).shape[0] == batch
    assert all(len(row.unique()) > 1 for row in donors)


def test_corruption_leaves_a_batch_of_one():
    x = torch.rand(1, 5)
    assert torch.equal(FeatureCorruption()(x), x)


def test_noise_is_measured_in_each_features_deviation():
    x = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 100.0, 0.0])
    noise = FeatureNoise(std=0.1)(x, torch.Generator().manual_seed(1)) - x
    torch.testing.assert_close(noise.std(0), torch.tensor([0.1, 10.0, 0.0]), rtol=0.05, atol=0)
    assert FeatureNoise()(x[:1]).isfinite().all()


def test_dropout_and_scale():
    x = torch.ones(1000, 20)
    dropped = FeatureDropout(p=0.3)(x, torch.Generator().manual_seed(0))
    assert set(dropped.unique().tolist()) == {0.0, 1.0}
    assert abs(dropped.mean() - 0.7) < 0.01
    scaled = FeatureScale((0.5, 2.0))(x, torch.Generator().manual_seed(0))
    assert torch.equal(scaled, scaled[:, :1].expand_as(scaled))
    assert 0.5 <= scaled.min() < 0.51
    assert 1.99 < scaled.max() <= 2


@pytest.mark.parametrize("transform", [FeatureNoise(), FeatureDropout(), FeatureCorruption(), FeatureScale()])
def test_rows_differ_seeds_repeat_and_images_are_refused(transform):
    x = torch.rand(30, 8)
    assert torch.equal(transform(x, torch.Generator().manual_seed(1)), transform(x, torch.Generator().manual_seed(1)))
    changes = transform(x, torch.Generator().manual_seed(1)) - x
    assert len(changes.unique(dim=0)) > 20
    with pytest.raises(ValueError, match=r"\(B, F\)"):
        Pipeline([transform])(torch.rand(2, 3, 4, 4))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: FeatureNoise(std=-1), "std"),
        (lambda: FeatureDropout(p=3), "p"),
        (lambda: FeatureCorruption(rate=1.2), "rate"),
        (lambda: FeatureScale((2.0, 1.0)), "scale"),
    ],
)
def test_parameters_without_sense_are_refused_by_name(make, name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        make()
