"""CWCL: the equations' figures, its limits, and the form without a matrix against the one with it."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from counterpoint.objectives import CWCLLoss, GroupInfoNCE, affine_cosine, soft_target_contrastive

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "13-cwcl.npz")
CASES = ("c1", "c2", "c3")


def golden(case, name):
    return torch.from_numpy(GOLDEN[f"{case}.{name}"])


def pair(items=7, dim=4, seed=0):
    made = torch.Generator().manual_seed(seed)
    return [torch.randn(items, dim, generator=made, dtype=torch.float64, requires_grad=True) for _ in range(2)]


def with_a_matrix(x):
    """The same weights from a function that the loss does not know."""
    return affine_cosine(x)


def given(case):
    source = golden(case, "weight_source") if f"{case}.weight_source" in GOLDEN else None
    return golden(case, "frozen"), golden(case, "trained"), source


@pytest.mark.paper(13, "parity")
@pytest.mark.parametrize("weight_fn", [affine_cosine, with_a_matrix])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES)
def test_the_golden_figures(case, dtype, weight_fn):
    frozen, trained, source = (x if x is None else x.to(dtype) for x in given(case))
    frozen.requires_grad_(), trained.requires_grad_()
    loss = CWCLLoss(float(golden(case, "temperature")), weight_fn=weight_fn)
    close = {"rtol": 1e-7, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 2e-3, "atol": 1e-5}
    parts = loss.parts(frozen, trained, source)
    torch.testing.assert_close(parts["forward"].mean().double(), golden(case, "loss_cwcl"), **close)
    torch.testing.assert_close(parts["reverse"].mean().double(), golden(case, "loss_nce"), **close)
    value = loss(frozen, trained, source)
    torch.testing.assert_close(value.double(), golden(case, "loss"), **close)
    value.backward()
    torch.testing.assert_close(frozen.grad.double(), golden(case, "grad_frozen"), **close)
    torch.testing.assert_close(trained.grad.double(), golden(case, "grad_trained"), **close)


@pytest.mark.paper(13, "parity")
@pytest.mark.parametrize("case", CASES)
def test_the_golden_weights(case):
    frozen, _, source = given(case)
    weights = affine_cosine(frozen if source is None else source)
    torch.testing.assert_close(weights, golden(case, "weights"), rtol=1e-7, atol=1e-9)
    assert (weights.diagonal() == 1).all()


@pytest.mark.parametrize("items", [2, 9, 700])
@pytest.mark.parametrize("reverse", ["infonce", "weighted"])
def test_without_a_matrix(reverse, items):
    frozen, trained = pair(items)
    source, scale = pair(items, 6, seed=1)[0], torch.tensor(8.0, dtype=torch.float64, requires_grad=True)
    p, q = normalize(frozen, dim=1), normalize(trained, dim=1)
    weights, scores = affine_cosine(source), p @ q.T * scale
    back = weights if reverse == "weighted" else torch.eye(items)
    expected = soft_target_contrastive(scores, weights.detach()) + soft_target_contrastive(scores.T, back.detach())
    found = CWCLLoss(reverse=reverse)(frozen, trained, source, scale)
    torch.testing.assert_close(found, expected)
    inputs = (frozen, trained, scale)
    torch.testing.assert_close(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs))


def test_weights_that_are_the_identity_are_clip():
    frozen, trained = pair()
    loss = CWCLLoss(0.2, weight_fn=lambda x: torch.eye(len(x)), reduction="none")
    expected = 2 * GroupInfoNCE(0.2, reduction="none")(frozen, trained)
    torch.testing.assert_close(loss(frozen, trained), expected)


def test_binary_weights_are_supervised_contrast_across_towers():
    frozen, trained = pair(6)
    labels = torch.tensor([0, 1, 0, 2, 1, 0])
    same = labels[:, None] == labels
    forward = CWCLLoss(0.3, weight_fn=lambda x: same.double()).parts(frozen, trained)["forward"]
    logs = torch.log_softmax(normalize(frozen, dim=1) @ normalize(trained, dim=1).T / 0.3, 1)
    torch.testing.assert_close(forward, -(logs * same).sum(1) / same.sum(1))


def test_weights_carry_no_gradient_and_one_side_gives_them():
    frozen, trained = pair()
    source = pair(seed=3)[0]
    CWCLLoss()(frozen, trained, source).backward()
    assert source.grad is None
    assert not torch.isclose(CWCLLoss()(frozen, trained), CWCLLoss()(trained, frozen))


def test_equal_frozen_rows_ask_for_uniform_scores():
    frozen = torch.ones(5, 4, dtype=torch.float64)
    trained = pair(5)[1]
    parts = CWCLLoss(0.5).parts(frozen, trained)
    scores = normalize(frozen, dim=1) @ normalize(trained, dim=1).T / 0.5
    torch.testing.assert_close(parts["forward"], -torch.log_softmax(scores, 1).mean(1))
    parts["forward"].sum().backward()
    assert torch.isfinite(trained.grad).all()


def test_opposite_rows_weigh_nothing_and_zero_rows_a_half():
    x = torch.tensor([[1.0, 0], [-3, 0], [0, 0], [0, 2]])
    expected = torch.tensor([[1, 0, 0.5, 0.5], [0, 1, 0.5, 0.5], [0.5, 0.5, 1, 0.5], [0.5, 0.5, 0.5, 1]])
    torch.testing.assert_close(affine_cosine(x), expected)
    big = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    weights = affine_cosine(torch.cat([big, -big]))
    assert weights.min() >= 0
    assert weights.max() <= 1
    trained = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    matrix = CWCLLoss(weight_fn=with_a_matrix)(x, trained)
    torch.testing.assert_close(CWCLLoss()(x, trained), matrix)


def test_the_floor_is_near_the_logarithm_of_the_batch():
    """Unrelated items weigh a half: a perfect match of orthogonal items still costs almost a uniform target."""
    z = torch.eye(64, dtype=torch.float64)
    loss = CWCLLoss(1.0).parts(z, z)
    assert abs(float(loss["forward"].mean()) - math.log(64)) < 0.1


def test_one_pair_costs_nothing():
    frozen, trained = pair(1)
    for reverse in ("infonce", "weighted"):
        loss = CWCLLoss(0.01, reverse=reverse)(frozen, trained)
        assert loss.item() == 0
        assert all((g == 0).all() for g in torch.autograd.grad(loss, (frozen, trained)))


def test_reductions():
    frozen, trained = pair()
    terms = CWCLLoss(reduction="none")(frozen, trained)
    assert terms.shape == (7,)
    torch.testing.assert_close(CWCLLoss()(frozen, trained), terms.mean())
    torch.testing.assert_close(CWCLLoss(reduction="sum")(frozen, trained), terms.sum())


@pytest.mark.parametrize("reverse", ["infonce", "weighted"])
def test_gradients_equal_finite_differences(reverse):
    source = pair(5, 3, seed=1)[0].detach()
    assert torch.autograd.gradcheck(lambda p, q: CWCLLoss(0.3, reverse)(p, q, source), pair(5, 3))


def test_refusals():
    p, q = (z.detach() for z in pair())
    for call, told in [
        (lambda: CWCLLoss()(p, q[:5]), r"trained: expected \(7, 4\) as frozen"),
        (lambda: CWCLLoss()(p / 0, q), "frozen: .* NaN or infinite"),
        (lambda: CWCLLoss()(p, q, p[:5]), r"weight_source: expected \(7, M\), got \(5, 4\)"),
        (lambda: CWCLLoss()(p, q, p * torch.nan), "weight_source: .* NaN or infinite"),
        (lambda: CWCLLoss()(p, q, p.long()), "weight_source: expected a floating-point"),
        (lambda: CWCLLoss(0), "temperature: expected"),
        (lambda: CWCLLoss()(p, q, None, torch.tensor(-1.0)), "scale: expected"),
        (lambda: CWCLLoss(reverse="both"), "reverse: expected"),
        (lambda: CWCLLoss(reduction="avg"), "reduction: expected"),
        (lambda: CWCLLoss(weight_fn=lambda x: x)(p, q), r"weight_fn: expected weights \(7, 7\), got \(7, 4\)"),
        (lambda: CWCLLoss(weight_fn=lambda x: 1.0)(p, q), r"weight_fn: expected weights \(7, 7\), got float"),
        (lambda: CWCLLoss(weight_fn=lambda x: x @ x.T)(p, q), "weights: expected numbers of at least 0"),
        (
            lambda: CWCLLoss(weight_fn=lambda x: torch.diag(x[:, 0].abs() * 0 + (x[:, 0] > 0)))(p, q),
            "weights: .* anchors have no positive",
        ),
        (lambda: affine_cosine(p[0]), r"x: expected \(rows, D\)"),
    ]:
        with pytest.raises(ValueError, match=f"^{told}"):
            call()
