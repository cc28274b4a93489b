from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoint.evaluation import alignment, collapse, effective_rank, spectrum, tolerance, uniformity

GOLDEN = Path(__file__).parents[1] / "golden" / "00-baselines-geometry.npz"


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN, allow_pickle=False) as archive:
        return {key.removeprefix("align_uniform__"): torch.from_numpy(archive[key]) for key in archive.files}


def test_official_figures_and_gradients(golden):
    x, y = golden["x"].requires_grad_(), golden["y"].requires_grad_()
    close = alignment(x, y, alpha=golden["alpha"].item())
    even, other = (uniformity(view, t=golden["t"].item(), block=4) for view in (x, y))
    torch.testing.assert_close(close, golden["align"], rtol=1e-12, atol=0)
    torch.testing.assert_close(even, golden["uniform_x"], rtol=1e-12, atol=0)
    torch.testing.assert_close((even + other) / 2, golden["uniform_mean_xy"], rtol=1e-12, atol=0)
    of_align = torch.autograd.grad(close, (x, y))
    torch.testing.assert_close(of_align[0], golden["grad_align_x"], rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(of_align[1], golden["grad_align_y"], rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(torch.autograd.grad(even, x)[0], golden["grad_uniform_x"], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("block", [1, 3, 9, 10, 512])
def test_uniformity_does_not_depend_on_the_block(block):
    x = normal(10, 4).requires_grad_()
    whole, part = uniformity(x), uniformity(x, block=block)
    torch.testing.assert_close(part, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.autograd.grad(part, x), torch.autograd.grad(whole, x), rtol=1e-9, atol=1e-13)


def test_uniformity_of_known_configurations():
    opposite = torch.tensor([[1.0, 0], [-1, 0]])
    assert uniformity(opposite).item() == pytest.approx(-8)
    assert uniformity(torch.ones(5, 3)).item() == pytest.approx(0, abs=1e-5)
    assert uniformity(normal(400, 64)).item() == pytest.approx(-4, abs=0.15)  # nearly orthogonal: distance^2 = 2


def test_uniformity_of_a_sample_is_near_and_repeats():
    x = normal(3000, 8)
    sample = uniformity(x, limit=1500, seed=1)
    assert sample == uniformity(x, limit=1500, seed=1)
    assert sample != uniformity(x, limit=1500, seed=2)
    assert sample.item() == pytest.approx(uniformity(x).item(), abs=0.02)


@pytest.mark.parametrize("alpha", [1, 2, 3])
def test_alignment_with_any_exponent(alpha):
    x, y = normal(6, 3).requires_grad_(), normal(6, 3, seed=1)
    unit = torch.nn.functional.normalize
    expected = (unit(x) - unit(y)).norm(dim=1).pow(alpha).mean()
    torch.testing.assert_close(alignment(x, y, alpha=alpha), expected)
    same = alignment(x, x.detach().clone(), alpha=alpha)
    assert same.item() == 0
    assert torch.autograd.grad(same, x)[0].isfinite().all()


def test_tolerance_is_the_mean_over_pairs():
    x, labels = normal(12, 4), torch.tensor([0, 0, 0, 0, 1, 1, 1, 5, 5, 9, -1, -1])
    cosine = torch.nn.functional.cosine_similarity(x[:, None], x, dim=2)
    pairs = [(i, j) for i in range(12) for j in range(i) if labels[i] == labels[j] >= 0]
    assert tolerance(x, labels).item() == pytest.approx(np.mean([cosine[pair].item() for pair in pairs]))
    with pytest.raises(ValueError, match="no class has two items"):
        tolerance(x, torch.arange(12))


def test_tolerance_over_all_pairs_counts_other_classes_as_zero():
    x, labels = normal(7, 4), torch.tensor([0, 0, 0, 1, 1, 2, -1])
    inner, outer = 3 + 1, 15  # pairs of one class, and all pairs of the six that have one
    torch.testing.assert_close(tolerance(x, labels, over="all"), tolerance(x, labels) * inner / outer)
    whole = torch.zeros(7, dtype=torch.int64)
    torch.testing.assert_close(tolerance(x, whole, over="all"), tolerance(x, whole))  # one class: the mean cosine
    for over in ("same_class", "all"):
        with pytest.raises(ValueError, match="no class has two items"):
            tolerance(x, torch.arange(7), over=over)


@pytest.mark.paper(18, "parity")
def test_figures_of_the_uniformity_tolerance_dilemma():
    with np.load(GOLDEN.parent / "18-behaviour-contrastive-loss.npz") as archive:
        given = {key.removeprefix("a__"): torch.from_numpy(archive[key]) for key in archive.files}
    q, labels = given["q"], given["labels"]
    for found, name in [
        (uniformity(q, t=2), "uniformity_t2"),
        (tolerance(q, labels), "tolerance_same_class_mean"),
        (tolerance(q, labels, over="all"), "tolerance_all_pairs"),
        (alignment(q, given["k"]), "alignment"),
    ]:
        torch.testing.assert_close(found, given[name], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shape", [(30, 7), (7, 30)])
def test_spectrum_is_that_of_the_centred_matrix(shape):
    x = normal(*shape) + 3
    torch.testing.assert_close(spectrum(x), torch.linalg.svdvals(x - x.mean(0)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(spectrum(x, center=False), torch.linalg.svdvals(x), rtol=1e-6, atol=1e-6)
    turn = torch.linalg.qr(normal(shape[1], shape[1], seed=2))[0]
    torch.testing.assert_close(spectrum(x @ turn), spectrum(x), rtol=1e-6, atol=1e-6)


def test_effective_rank_counts_equal_directions():
    axes = torch.cat([torch.eye(5), -torch.eye(5)])
    assert effective_rank(axes) == pytest.approx(5)
    assert effective_rank(1000 * axes + 1e4) == pytest.approx(5, rel=1e-3)
    assert effective_rank(torch.arange(6.0)[:, None] * torch.ones(3)) == pytest.approx(1)
    weights = torch.tensor([3.0, 1.0]) / 4  # entropy of singular values, not of their squares
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0])), center=False) == pytest.approx(
        float(torch.special.entr(weights).sum().exp())
    )
    assert effective_rank(torch.full((50, 8), 0.3)) == 0


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_collapse_is_told_by_its_kind(scale):
    sphere = normal(200, 64, dtype=torch.float32)
    healthy = collapse(scale * sphere)
    assert not healthy
    assert healthy.kind == "none"
    assert healthy.spread == pytest.approx(1, abs=0.05)
    constant = torch.ones(64) + 1e-3 * sphere
    assert collapse(scale * constant).kind == "complete"
    assert collapse(scale * torch.ones(10, 64)).kind == "complete"
    line = sphere[:, :1] * torch.ones(64) + 1e-4 * sphere
    assert collapse(scale * line).kind == "dimensional"
    assert collapse(line).effective_rank < 2
    assert collapse(sphere.relu()).kind == "none"  # as features of a healthy network are


def test_refusals():
    x = normal(4, 3)
    for call, told in [
        (lambda: alignment(x, x[:3]), "same shape"),
        (lambda: alignment(x, x, alpha=0), "alpha"),
        (lambda: uniformity(x[:1]), "N >= 2"),
        (lambda: uniformity(x, t=-1), "t: expected"),
        (lambda: uniformity(x[0]), "N, D"),
        (lambda: tolerance(x, torch.zeros(3)), "labels"),
        (lambda: tolerance(x, torch.zeros(4).long(), over="classes"), "over: expected"),
        (lambda: collapse(x[:1]), "N >= 2"),
    ]:
        with pytest.raises(ValueError, match=told):
            call()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 8), st.integers(1, 5), st.integers(0, 10_000), st.sampled_from([0.0, 1e-30, 1.0, 1e30]),
    st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_values_and_gradients_are_finite_and_bounded(count, dimensions, seed, scale, dtype):
    x = (scale * torch.randint(-2, 3, (count, dimensions), generator=torch.Generator().manual_seed(seed))).to(dtype)
    x.requires_grad_()
    close, even = alignment(x, x.flip(0)), uniformity(x, block=3)
    assert 0 <= close.item() <= 4 + 1e-5
    assert -8 - 1e-5 <= even.item() <= 1e-5
    for value in (close, even):
        gradient = torch.autograd.grad(value, x)[0]
        # at scale 1e-30 the slope itself is 1e30; the row of zeros has none
        assert gradient.isfinite().all()
    assert 0 <= effective_rank(x) <= min(count, dimensions) + 1e-6
    assert np.isfinite([collapse(x).spread, collapse(x).effective_rank]).all()
