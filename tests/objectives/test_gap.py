"""CUA and CUAXU: the authors' figures, the equations pair by pair, and where one loss is another."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from counterpoint.evaluation import alignment, uniformity
from counterpoint.objectives import (
    AlignmentLoss,
    CLIPUniformAlignLoss,
    CrossUniformityLoss,
    GroupInfoNCE,
    NegativeCosine,
    UniformityLoss,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "05-contrastive-gap.npz")
CASES = ("c1", "c2", "c3")
LOSSES = {
    "clip": {"w_align": 0, "w_uniform": 0},
    "cua": {},
    "cuaxu": {"w_cross": 1},
}


def golden(case, name):
    return torch.from_numpy(GOLDEN[f"{case}.{name}"])


def pair(items=7, dim=4, seed=0):
    made = torch.Generator().manual_seed(seed)
    return [torch.randn(items, dim, generator=made, dtype=torch.float64, requires_grad=True) for _ in range(2)]


@pytest.mark.paper(5, "parity")
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_golden_losses(case, name, dtype):
    image, text = (golden(case, side).to(dtype).requires_grad_() for side in ("image", "text"))
    loss = CLIPUniformAlignLoss(float(golden(case, "temperature")), **LOSSES[name])(image, text)
    close = {"rtol": 1e-7, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 2e-3, "atol": 2e-5}
    torch.testing.assert_close(loss.double(), golden(case, f"loss_{name}"), **close)
    loss.backward()
    for side, z in (("image", image), ("text", text)):
        torch.testing.assert_close(z.grad.double(), golden(case, f"grad_{name}_{side}"), **close)


@pytest.mark.paper(5, "parity")
@pytest.mark.parametrize("case", CASES)
def test_the_golden_parts(case):
    image, text = golden(case, "image"), golden(case, "text")
    parts = CLIPUniformAlignLoss(float(golden(case, "temperature")), w_cross=1).parts(image, text)
    for found, name in [
        (parts["clip"], "loss_clip"),
        (parts["align"], "align"),
        (parts["uniform"], "uniform"),
        (parts["cross"], "uniform_cross"),
        (AlignmentLoss()(image, text), "align"),
        (UniformityLoss()(image), "uniform_image"),
        (UniformityLoss()(text), "uniform_text"),
        (CrossUniformityLoss()(image, text), "uniform_cross"),
    ]:
        torch.testing.assert_close(found, golden(case, name), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("t", [0.5, 2, 9])
def test_uniformities_pair_by_pair(t):
    x, y = (normalize(z.detach(), dim=1) for z in pair())
    own = [math.exp(-t * float((x[i] - x[j]).square().sum())) for i in range(7) for j in range(i)]
    cross = [math.exp(-t * float((x[i] - y[j]).square().sum())) for i in range(7) for j in range(7) if i != j]
    assert UniformityLoss(t)(x).item() == pytest.approx(math.log(sum(own) / len(own)))
    assert CrossUniformityLoss(t)(x, y).item() == pytest.approx(math.log(sum(cross) / len(cross)))


@pytest.mark.parametrize("alpha", [1, 2, 3])
def test_alignment_pair_by_pair(alpha):
    x, y = (z.detach() for z in pair())
    terms = AlignmentLoss(alpha, reduction="none")(x, y)
    torch.testing.assert_close(terms, (normalize(x, dim=1) - normalize(y, dim=1)).norm(dim=1) ** alpha)
    torch.testing.assert_close(AlignmentLoss(alpha, reduction="sum")(x, y), terms.sum())
    torch.testing.assert_close(AlignmentLoss(alpha)(x, y), alignment(x, y, alpha=alpha))


def test_relations():
    x, y = (z.detach() for z in pair())
    torch.testing.assert_close(UniformityLoss()(x), CrossUniformityLoss()(x, x.clone()))
    torch.testing.assert_close(UniformityLoss(3)(x), uniformity(x, t=3))
    torch.testing.assert_close(AlignmentLoss()(x, y), 2 + 2 * NegativeCosine()(x, y))
    clip = CLIPUniformAlignLoss(0.2, w_clip=1, w_align=0, w_uniform=0)
    torch.testing.assert_close(clip(x, y), GroupInfoNCE(0.2)(x, y))


def test_weights_weigh_and_what_weighs_nothing_is_not_computed():
    x, y = pair()
    parts = CLIPUniformAlignLoss(0.1, w_cross=1).parts(x, y)
    loss = CLIPUniformAlignLoss(0.1, w_clip=0.5, w_align=2, w_uniform=3, w_cross=0.25)(x, y)
    expected = 0.5 * parts["clip"] + 2 * parts["align"] + 3 * parts["uniform"] + 0.25 * parts["cross"]
    torch.testing.assert_close(loss, expected)
    assert CLIPUniformAlignLoss(w_uniform=0).parts(x, y).keys() == {"clip", "align"}


def test_a_learned_scale_reaches_only_the_contrast():
    x, y = pair()
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    loss = CLIPUniformAlignLoss(0.01, w_cross=1)
    torch.testing.assert_close(loss(x, y, scale), CLIPUniformAlignLoss(0.2, w_cross=1)(x, y))
    found = torch.autograd.grad(loss(x, y, scale), scale)
    torch.testing.assert_close(found, torch.autograd.grad(GroupInfoNCE()(x, y, scale=scale), scale))


def test_two_pairs_are_enough():
    x, y = torch.eye(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64).flip(1)
    assert UniformityLoss()(x).item() == pytest.approx(-2 * 2)
    assert CrossUniformityLoss()(x, y).item() == pytest.approx(0, abs=1e-12)
    assert UniformityLoss()(torch.cat([x[:1], -x[:1]])).item() == pytest.approx(-8)


def test_one_place_is_stationary():
    z = torch.tensor([[1.0, -2, 0.5]], dtype=torch.float64).repeat(6, 1).requires_grad_()
    value = UniformityLoss()(z)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert value.item() <= 0
    (gradient,) = torch.autograd.grad(value, z)
    torch.testing.assert_close(gradient, torch.zeros_like(z))


def test_close_rows_are_told_apart_by_their_slope():
    """The value rounds to 0 in float32, and its gradient does not."""
    made = torch.Generator().manual_seed(0)
    z = torch.tensor([[1.0, -2, 0.5, 0.1]]) + 1e-5 * torch.randn(40, 4, generator=made)
    exact = z.double().requires_grad_()
    z.requires_grad_()
    UniformityLoss()(z).backward()
    UniformityLoss()(exact).backward()
    assert z.grad.norm() > 0.2 * exact.grad.norm()
    torch.testing.assert_close(z.grad.double(), exact.grad, rtol=0.5, atol=float(exact.grad.abs().max()) / 2)


def test_zero_rows_keep_their_distances():
    """A row of zeros is at distance 1 from every unit vector, and at 0 from another one."""
    x = torch.eye(3, dtype=torch.float64)
    x[2] = 0
    kernel = [math.exp(-2 * d) for d in (2, 1, 1)]
    assert UniformityLoss()(x).item() == pytest.approx(math.log(sum(kernel) / 3))
    assert UniformityLoss()(x * 0).item() == pytest.approx(0, abs=1e-12)
    y = torch.eye(3, dtype=torch.float64)
    between = [math.exp(-2 * d) for d in (2, 2, 2, 2, 1, 1)]
    assert CrossUniformityLoss()(x, y).item() == pytest.approx(math.log(sum(between) / 6))
    assert CrossUniformityLoss()(y, x).item() == pytest.approx(math.log(sum(between) / 6))
    for z in (x, x * 0):
        z = z.clone().requires_grad_()
        CLIPUniformAlignLoss(w_cross=1)(z, y).backward()
        assert torch.isfinite(z.grad).all()


def test_coincident_unmatched_pairs_have_a_gradient():
    """x_i = y_j: where a root of the distance would have an infinite slope."""
    x, _ = pair()
    y = x.detach().roll(1, 0).requires_grad_()
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(CrossUniformityLoss()(x, y), (x, y)))


def test_gradients_equal_finite_differences():
    assert torch.autograd.gradcheck(CLIPUniformAlignLoss(0.3, w_cross=1), pair(5, 3))
    assert torch.autograd.gradcheck(AlignmentLoss(3), pair(5, 3))
    x = pair(700, 2)[0]  # more than one tile
    (found,) = torch.autograd.grad(UniformityLoss()(x), x)
    unit = normalize(x, dim=1)
    distances = torch.pdist(unit).square()
    (expected,) = torch.autograd.grad(torch.logsumexp(-2 * distances, 0), x)
    torch.testing.assert_close(found, expected)


def test_refusals():
    x, y = (z.detach() for z in pair())
    for call, told in [
        (lambda: CLIPUniformAlignLoss()(x[:1], y[:1]), "image: expected at least 2 rows"),
        (lambda: CLIPUniformAlignLoss()(x, y[:5]), r"text: expected \(7, 4\) as image"),
        (lambda: CLIPUniformAlignLoss()(x, y / 0), "text: .* NaN or infinite"),
        (lambda: UniformityLoss()(x[:1]), "x: expected at least 2 rows"),
        (lambda: CrossUniformityLoss()(x[:1], y[:1]), "x: expected at least 2 rows"),
        (lambda: AlignmentLoss(0), "alpha: expected"),
        (lambda: AlignmentLoss(reduction="avg"), "reduction: expected"),
        (lambda: UniformityLoss(0), "t: expected"),
        (lambda: CrossUniformityLoss(math.nan), "t: expected"),
        (lambda: CLIPUniformAlignLoss(0), "temperature: expected"),
        (lambda: CLIPUniformAlignLoss(t=-1), "t: expected"),
        (lambda: CLIPUniformAlignLoss(w_align=-1), "w_align: expected"),
        (lambda: CLIPUniformAlignLoss(w_cross=math.inf), "w_cross: expected"),
        (lambda: CLIPUniformAlignLoss(w_clip=0, w_align=0, w_uniform=0), "w_clip: expected a weight above 0"),
        (lambda: CLIPUniformAlignLoss()(x, y, torch.tensor(0.0)), "scale: expected"),
    ]:
        with pytest.raises(ValueError, match=f"^{told}"):
            call()
