import numpy as np
import pytest
from sklearn.datasets import load_digits

from counterpoint.generators import get, names
from counterpoint.generators.mixture import Mixture

X = (load_digits().images[:300, None] / 16).astype(np.float32)


def test_names():
    assert names() == ["gmm", "diffusion"]
    assert get("gmm") is Mixture
    with pytest.raises(ValueError, match="no generator 'gm'; did you mean 'gmm'"):
        get("gm")


def test_draws_have_the_moments_of_the_data():
    x = 0.4 + 0.2 * X  # far from 0 and 1, where draws are cut
    model = Mixture((1, 8, 8), components=4, dimensions=20).fit(x)
    drawn = model.sample(4000, (0, 0))
    assert drawn.shape == (4000, 1, 8, 8)
    assert drawn.dtype == np.float32
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    a, b = drawn.reshape(4000, -1), x.reshape(300, -1)
    assert np.abs(a.mean(0) - b.mean(0)).max() < 0.01
    basis = model.arrays["basis"]
    spread = [((x - x.mean(0)) @ basis.T).var(0)[:5] for x in (a, b)]
    np.testing.assert_allclose(spread[0], spread[1], rtol=0.2)


def test_more_components_draw_better():
    """One Gaussian knows no classes: what it draws lies farther from any real item."""
    from counterpoint.evaluation import nearest

    far = [np.median(nearest(Mixture((1, 8, 8), n).fit(X).sample(400, (1, 0)), X)[0]) for n in (1, 10)]
    assert far[1] < 0.9 * far[0]


def test_a_draw_is_a_function_of_its_seed():
    model = Mixture((1, 8, 8)).fit(X)
    first, again, other = (model.sample(50, seed) for seed in ((3, 1), (3, 1), (3, 2)))
    assert (first == again).all()
    assert not (first == other).all()
    assert (Mixture((1, 8, 8)).fit(X).sample(50, (3, 1)) == first).all()


def test_what_is_saved_draws_the_same(tmp_path):
    model = Mixture((1, 8, 8)).fit(X)
    model.save(tmp_path / "some")
    opened = Mixture.load(tmp_path / "some")
    assert opened.config == model.config
    assert model.config["components"] == 6  # one for 50 items
    assert (opened.sample(20, (0, 5)) == model.sample(20, (0, 5))).all()
    assert {path.name for path in (tmp_path / "some").iterdir()} == {"config.json", "model.safetensors"}


def test_vectors_are_not_cut():
    x = np.random.default_rng(0).normal(5, 3, (300, 4)).astype(np.float32)
    drawn = Mixture((4,), components=1).fit(x).sample(3000, (0, 0))
    assert drawn.shape == (3000, 4)
    np.testing.assert_allclose(drawn.mean(0), x.mean(0), atol=0.4)
    np.testing.assert_allclose(drawn.std(0), x.std(0), rtol=0.15)


@pytest.mark.parametrize("x", [np.zeros((20, 1, 4, 4)), np.eye(3)[:, None, None], X[:2]])
def test_odd_data_draw_finite_items(x):
    assert np.isfinite(Mixture(x.shape[1:]).fit(x).sample(10, (0, 0))).all()


@pytest.mark.parametrize(("name", "value"), [("components", 0), ("components", 1.5), ("dimensions", -1)])
def test_parameters(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        Mixture((1, 8, 8), **{name: value})


@pytest.mark.parametrize(("items", "components"), [(1, None), (5, 6)])
def test_too_few_items(items, components):
    with pytest.raises(ValueError, match=r"^data: a mixture of"):
        Mixture((1, 8, 8), components).fit(X[:items])
