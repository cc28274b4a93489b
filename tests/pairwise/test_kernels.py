import math

import pytest
import torch
from torch.nn.functional import normalize

from counterpoint.pairwise import log_mean_kernel, matched_distances


def rows(items, dim=3, seed=0, dtype=torch.float64):
    made = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(items, dim, generator=made, dtype=dtype), dim=1)


def written(x, y, t):
    squared = (x[:, None] - y[None]).square().sum(2)
    off = ~torch.eye(len(x), dtype=torch.bool)
    return (-t * squared[off]).exp().mean().log()


@pytest.mark.parametrize("tile", [None, 1, 4])
@pytest.mark.parametrize("t", [0.1, 2.0, 200.0])
def test_it_is_the_log_of_the_mean_kernel_over_pairs(t, tile):
    x, y = rows(9), rows(9, seed=1)
    torch.testing.assert_close(log_mean_kernel(x, t=t, tile=tile), written(x, x, t))
    torch.testing.assert_close(log_mean_kernel(x, y, t=t, tile=tile), written(x, y, t))
    x[3], y[5], y[3] = 0, 0, 0
    torch.testing.assert_close(log_mean_kernel(x, t=t, tile=tile), written(x, x, t))
    torch.testing.assert_close(log_mean_kernel(x, y, t=t, tile=tile), written(x, y, t))


def test_it_is_never_above_0():
    for items in (2, 50, 700):
        for dtype in (torch.float32, torch.float64):
            x = rows(1, 5, dtype=dtype).expand(items, 5)
            assert -1e-5 < log_mean_kernel(x, t=2).item() <= 0
            assert -1e-5 < log_mean_kernel(x, x, t=30).item() <= 0


def test_gradient_through_normalisation():
    x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: log_mean_kernel(normalize(a, dim=1), t=2), (x,))
    assert torch.autograd.gradcheck(lambda a, b: log_mean_kernel(normalize(a, dim=1), normalize(b, dim=1)), (x, y))


def test_far_apart_the_mean_does_not_vanish():
    x = torch.eye(4)
    assert log_mean_kernel(x, t=500).item() == pytest.approx(-1000, rel=1e-5)
    assert math.isfinite(log_mean_kernel(torch.stack([x[0], -x[0]]), t=1e4))


@pytest.mark.parametrize("alpha", [0.5, 1, 2, 4])
def test_matched_distances(alpha):
    x, y = rows(6).requires_grad_(), rows(6, seed=1)
    torch.testing.assert_close(matched_distances(x, y, alpha=alpha), (x - y).norm(dim=1) ** alpha)
    (slope,) = torch.autograd.grad(matched_distances(x, x.detach().clone(), alpha=alpha).sum(), x)
    assert (slope == 0).all()
