"""The spectral contrastive loss."""

from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.objectives.spectral import SpectralContrastive

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "70-projection-head.npz")


def pairs(z1, z2):
    """The equation over the matrix of pairs."""
    scores = z1 @ z2.T
    others = ~torch.eye(len(z1), dtype=bool)
    return -2 * scores.diagonal().mean() + scores[others].square().mean()


@pytest.mark.paper(70, "parity")
@pytest.mark.parametrize("case", ["plain", "clipped"])
@pytest.mark.parametrize(("dtype", "rtol", "atol"), [(torch.float64, 1e-7, 1e-9), (torch.float32, 2e-3, 1e-5)])
def test_golden(case, dtype, rtol, atol):
    z1, z2 = (torch.from_numpy(GOLDEN[f"spectral__{name}"]).to(dtype).requires_grad_() for name in ("z1", "z2"))
    clip = float(GOLDEN["spectral__mu"]) if case == "clipped" else None
    loss = SpectralContrastive(clip)(z1, z2)
    found = [loss, *torch.autograd.grad(loss, (z1, z2))]
    for value, name in zip(found, ("loss", "grad_z1", "grad_z2"), strict=True):
        expected = torch.from_numpy(GOLDEN[f"spectral__{case}_{name}"]).to(dtype)
        torch.testing.assert_close(value, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (2, 1), (6, 6)])
def test_both_orders_of_the_sum_are_the_equation(shape):
    z1, z2 = torch.randn(2, *shape, dtype=torch.float64)
    torch.testing.assert_close(SpectralContrastive()(z1, z2), pairs(z1, z2))


@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
def test_gradient(shape):
    z1, z2 = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(SpectralContrastive(), (z1, z2))
    assert torch.autograd.gradcheck(SpectralContrastive(0.8), (z1, z2))


def test_views_and_items_in_any_order():
    z1, z2 = torch.randn(2, 7, 4, dtype=torch.float64)
    loss, order = SpectralContrastive(), torch.randperm(7)
    torch.testing.assert_close(loss(z1, z2), loss(z2, z1))
    torch.testing.assert_close(loss(z1, z2), loss(z1[order], z2[order]))


def test_constant_features():
    c = 1.7
    z = torch.full((6, 4), (c / 4) ** 0.5, dtype=torch.float64)
    assert SpectralContrastive()(z, z).item() == pytest.approx(-2 * c + c * c)


def test_orthogonal_items_of_length_one_are_the_best_there_are():
    z = torch.eye(5)
    assert SpectralContrastive()(z, z).item() == -2
    assert SpectralContrastive()(z, z[[1, 2, 3, 4, 0]]).item() == pytest.approx(0.25)


def test_clipping_cuts_the_long_and_leaves_the_short():
    z1, z2 = torch.randn(2, 8, 4, dtype=torch.float64)
    assert SpectralContrastive(1e6)(z1, z2) == SpectralContrastive()(z1, z2)
    unit = [torch.nn.functional.normalize(z, dim=1) for z in (z1, z2)]
    torch.testing.assert_close(SpectralContrastive(1e-4)(z1, z2), SpectralContrastive()(*(0.01 * z for z in unit)))


def test_hostile_input():
    for z in (torch.zeros(4, 3), torch.full((4, 3), 1e30), torch.full((4, 3), 1e-45), 1e30 * torch.eye(4)):
        z = z.clone().requires_grad_()
        loss = SpectralContrastive(1.0)(z, z)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(z.grad).all()
    assert SpectralContrastive()(torch.zeros(4, 3), torch.zeros(4, 3)) == 0
    with pytest.raises(ValueError, match=r"^z1, z2: embeddings are so long that the loss overflows"):
        SpectralContrastive()(torch.full((4, 3), 1e30), torch.full((4, 3), 1e30))


def test_half_precision_is_computed_in_float32():
    z1, z2 = torch.randn(2, 64, 16)
    exact = SpectralContrastive()(z1.bfloat16().float(), z2.bfloat16().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = SpectralContrastive()(z1.bfloat16(), z2.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact)


@pytest.mark.parametrize(
    ("z1", "z2", "message"),
    [
        (torch.randn(1, 3), torch.randn(1, 3), "z1: expected at least 2 rows"),
        (torch.randn(4, 3), torch.randn(4, 2), r"z2: expected \(4, 3\) as z1"),
        (torch.randn(4, 3), torch.full((4, 3), float("nan")), "z2: 12 of 12 values are NaN"),
        (torch.ones(4, 3).long(), torch.ones(4, 3), "z1: expected a floating-point tensor"),
    ],
)
def test_bad_input(z1, z2, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        SpectralContrastive()(z1, z2)


@pytest.mark.parametrize("mu", [0.0, -1.0, float("inf")])
def test_bad_options(mu):
    with pytest.raises(ValueError, match=r"^clip_mu: expected a finite number above 0"):
        SpectralContrastive(mu)
