import numpy as np
import pytest
from scipy.linalg import sqrtm

from counterpoint.evaluation import frechet, nearest

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(300, 6)) @ RNG.normal(size=(6, 6)), RNG.normal(1, 2, size=(200, 6))


def test_frechet_is_the_formula():
    c, d = np.cov(A, rowvar=False), np.cov(B, rowvar=False)
    expected = np.square(A.mean(0) - B.mean(0)).sum() + np.trace(c + d - 2 * sqrtm(c @ d).real)
    assert frechet(A, B) == pytest.approx(expected, rel=1e-9)
    assert frechet(B, A) == pytest.approx(frechet(A, B))


def test_frechet_of_known_gaussians():
    assert frechet(A, A) == pytest.approx(0, abs=1e-9)
    assert frechet(A, A + 3) == pytest.approx(6 * 9)
    centred = A - A.mean(0)
    assert frechet(centred, 2 * centred) == pytest.approx(np.trace(np.cov(A, rowvar=False)))  # (2 - 1)^2 times


def test_frechet_of_fewer_items_than_dimensions_and_of_one_dimension():
    assert np.isfinite(frechet(RNG.normal(size=(3, 50)), RNG.normal(size=(4, 50))))
    assert frechet(A[:, :1], A[:, :1] + 1) == pytest.approx(1)


@pytest.mark.parametrize("pair", [(A[:1], B), (A, B[:, :3]), (A[0], B)])
def test_frechet_refuses(pair):
    with pytest.raises(ValueError, match="a, b: expected"):
        frechet(*pair)


def test_nearest_finds_copies_whatever_the_block():
    gallery = RNG.random((50, 1, 4, 4)).astype(np.float32)
    queries = gallery[[7, 3, 9]] + np.float32(0.01)
    for block in (1, 512):
        distances, where = nearest(queries, gallery, block)
        assert where.tolist() == [7, 3, 9]
        np.testing.assert_allclose(distances, 0.01, rtol=1e-2)
