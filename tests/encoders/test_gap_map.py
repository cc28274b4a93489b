import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from counterpoint.encoders import gap_map, mlp_head, turn


def clusters(items=50, dim=6):
    """Matched unit vectors in two cones, one turned from the other."""
    made = torch.Generator().manual_seed(0)
    x = normalize(torch.eye(dim)[0] + 0.2 * torch.randn(items, dim, generator=made), dim=1)
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=made))[0]
    return x, x @ rotation


def distance(x, y):
    return float((x.mean(0) - y.mean(0)).norm())


def test_a_gap_of_0_undoes_a_rotation():
    x, y = clusters()
    found = gap_map(x, 5 * y)
    torch.testing.assert_close(y.double() @ found.T, x.double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found @ found.T, torch.eye(6, dtype=torch.float64))


def test_the_gap_grows_with_its_share():
    x, y = clusters()
    found = [distance(x, y @ gap_map(x, y, share).T.float()) for share in (0.0, 0.5, 1.0)]
    assert found[0] < 1e-4
    assert found[0] < found[1] < found[2]
    assert found[2] == pytest.approx(distance(x, y), rel=0.2)


@pytest.mark.parametrize("head", [nn.Linear(4, 6, bias=False), nn.Linear(4, 6), mlp_head(4, 5, 6)])
def test_a_turned_head_is_the_map_behind_the_head(head):
    x, y = clusters()
    found, h = gap_map(x, y, 0.5), torch.randn(9, 4)
    head.eval()
    expected = normalize(head(h), dim=1) @ found.T.float()
    turn(head, found)
    torch.testing.assert_close(normalize(head(h), dim=1), expected, rtol=1e-4, atol=1e-5)


def test_refusals():
    x, y = clusters()
    for call, told in [
        (lambda: gap_map(x, y[:3]), "x, y: expected matched rows"),
        (lambda: gap_map(x[0], y[0]), "x, y: expected matched rows"),
        (lambda: gap_map(x, y, 1.5), "gap: expected a number from 0"),
        (lambda: turn(nn.Identity(), gap_map(x, y)), "head: expected a last linear layer of 6 outputs"),
        (lambda: turn(nn.Linear(6, 5), gap_map(x, y)), "head: expected a last linear layer of 6 outputs"),
    ]:
        with pytest.raises(ValueError, match=f"^{told}"):
            call()
