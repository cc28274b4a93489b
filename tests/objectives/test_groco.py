"""GroCo: the official figures, the equation written out, what does and does not matter to it, and refusals."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy, normalize

from counterpoint.objectives.groco import GroCo
from counterpoint.objectives.sorting import DifferentiableSort

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "48-groco.npz")
cases = pytest.mark.parametrize("case", ["v2_k5", "v4_k3", "multicrop_v5_p2"])
stops = pytest.mark.parametrize("stop", [True, False])


def golden(case, name):
    return torch.from_numpy(np.asarray(GOLDEN[f"{case}__{name}"]))


def official(case, **options):
    negatives, positives = (int(golden(case, name)) for name in ("topk_neg", "n_pos_views"))
    return GroCo(negatives, float(golden(case, "steepness")), positive_views=positives, **options)


def views(count=3, items=7, dim=4, seed=0):
    return torch.randn(count, items, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def written_out(z, negatives, positives, steepness):
    """The loss anchor by anchor, by the sums of the permutation's columns."""
    z, terms = normalize(z, dim=-1), []
    for v in range(len(z)):
        for i in range(z.shape[1]):
            low = sorted(float(z[v, i] @ z[v, j]) for j in range(z.shape[1]) if j != i)[-negatives:]
            high = sorted(float(z[v, i] @ z[u, i]) for u in range(positives) if u != v)
            n, k = len(low) + len(high), len(low)
            shares = DifferentiableSort(n, steepness=steepness)(torch.tensor([low + high], dtype=z.dtype))[1][0]
            logs = [math.log(float(shares[e, :k].sum() if e < k else shares[e, k:].sum())) for e in range(n)]
            terms.append(-sum(logs) / n)
    return torch.tensor(terms, dtype=z.dtype)


@pytest.mark.paper(48, "parity")
@cases
@stops
def test_official_figures(case, stop):
    z = golden(case, "views").requires_grad_()
    loss = official(case, stop_gradient=stop)(z)
    torch.testing.assert_close(loss, golden(case, f"loss_stopgrad{int(stop)}"), rtol=1e-7, atol=1e-9)
    (gradient,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(gradient, golden(case, f"grad_stopgrad{int(stop)}"), rtol=1e-7, atol=1e-9)


@pytest.mark.paper(48, "parity")
@cases
def test_official_figures_in_float32(case):
    z = golden(case, "views").float().requires_grad_()
    loss = official(case)(z)
    assert loss.item() == pytest.approx(float(golden(case, "loss_stopgrad1")), rel=2e-3)
    (gradient,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(gradient.double(), golden(case, "grad_stopgrad1"), rtol=2e-3, atol=1e-6)


@pytest.mark.paper(48, "parity")
@cases
def test_official_sorter_input_and_permutation(case):
    """The golden permutation of the golden similarities of view 0 gives the terms of that view."""
    similarities, shares = golden(case, "anchor0_sorted_sims"), golden(case, "anchor0_permutation")
    negatives = int(golden(case, "topk_neg"))
    sorter = DifferentiableSort(similarities.shape[1], steepness=float(golden(case, "steepness")))
    torch.testing.assert_close(sorter(similarities)[1], shares, rtol=1e-7, atol=1e-9)
    low = shares[:, :, :negatives].sum(2)
    target = (torch.arange(low.shape[1]) < negatives).double().expand_as(low)
    expected = binary_cross_entropy(low, target, reduction="none").mean(1)
    terms = official(case, reduction="none")(golden(case, "views"))
    torch.testing.assert_close(terms[: len(low)], expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("count", "positives"), [(2, 2), (3, 3), (4, 2), (5, 3)])
@pytest.mark.parametrize("negatives", [1, 3, 50])
def test_the_equation(count, positives, negatives):
    z = views(count)
    loss = GroCo(negatives, 4.0, positive_views=positives, reduction="none")
    torch.testing.assert_close(loss(z), written_out(z, negatives, positives, 4.0))
    torch.testing.assert_close(GroCo(negatives, 4.0, reduction="none")(z, positive_views=positives), loss(z))
    torch.testing.assert_close(GroCo(negatives, 4.0, positive_views=positives)(z), loss(z).mean())
    torch.testing.assert_close(GroCo(negatives, 4.0, positive_views=positives, reduction="sum")(z), loss(z).sum())


def test_one_negative_and_one_positive_are_one_soft_swap():
    z = views(2, items=2)
    u = normalize(z, dim=-1)
    lead = torch.stack([(u[v, i] * (u[1 - v, i] - u[v, 1 - i])).sum() for v in range(2) for i in range(2)])
    torch.testing.assert_close(GroCo(1, 3.0, reduction="none")(z), -(torch.atan(3 * lead) / math.pi + 0.5).log())


def test_negatives_are_of_the_anchors_own_view():
    z, loss = views(2), GroCo(3, 5.0, reduction="none")
    changed = z.clone()
    changed[1, 1:] = views(2, seed=5)[1, 1:]  # all other items of the other view
    terms, after = loss(z).view(2, -1), loss(changed).view(2, -1)
    torch.testing.assert_close(after[0, 0], terms[0, 0])
    assert not torch.isclose(after[1, 0], terms[1, 0])


def test_small_crops_are_anchors_but_no_positives():
    z, loss = views(4), GroCo(3, 5.0, positive_views=2, reduction="none")
    changed = z.clone()
    changed[3] = views(4, seed=5)[3]
    terms, after = loss(z).view(4, -1), loss(changed).view(4, -1)
    torch.testing.assert_close(after[:3], terms[:3])
    assert not torch.isclose(after[3], terms[3]).any()


def test_the_gradient_goes_through_the_anchor_alone():
    """The term of an anchor moves the anchor; without the stop, its positive and its hardest negatives as well."""
    for stop, moved in ((True, {(0, 2)}), (False, {(0, 2), (1, 2)})):
        z = views(2).requires_grad_()
        terms = GroCo(2, stop_gradient=stop, reduction="none")(z)
        (gradient,) = torch.autograd.grad(terms[2], z)
        touched = {tuple(where) for where in gradient.abs().sum(-1).nonzero().tolist()}
        cosines = normalize(z[0], dim=-1) @ normalize(z[0, 2], dim=-1)
        hardest = {(0, int(j)) for j in cosines.argsort()[-3:] if j != 2}
        assert touched == moved | (set() if stop else hardest)


def test_only_the_order_between_the_groups_counts():
    """Positives above all negatives cost nothing to a steep sorter, however the groups are ordered inside."""
    angles = torch.tensor([[0.0, 1.5, 3.0], [0.1, 1.3, 3.3], [-0.3, 1.6, 2.9]], dtype=torch.float64)
    z = torch.stack([angles.cos(), angles.sin()], dim=-1)
    assert GroCo(2, 1e6)(z) < 1e-4
    assert GroCo(2, 1e6)(z.roll(1, dims=1)) < 1e-4
    angles[1] = angles[1].roll(1)  # the second view's are other items'
    assert GroCo(2, 1e6)(torch.stack([angles.cos(), angles.sin()], dim=-1)) > 1


@stops
def test_gradients_equal_finite_differences(stop):
    z = views(3, items=4, dim=3)
    if stop:  # of the anchors alone: the same with the others held constant
        z = z.requires_grad_()
        (found,) = torch.autograd.grad(GroCo(2, 3.0)(z), z)
        total = torch.zeros_like(z)
        for v, i in ((v, i) for v in range(3) for i in range(4)):
            alone = z.detach().clone().requires_grad_()
            term = GroCo(2, 3.0, stop_gradient=False, reduction="none")(alone)[v * 4 + i] / 12
            total[v, i] = torch.autograd.grad(term, alone)[0][v, i]
        torch.testing.assert_close(found, total)
    else:
        assert torch.autograd.gradcheck(GroCo(2, 3.0, stop_gradient=False), (z.requires_grad_(),), atol=1e-5)


@pytest.mark.parametrize("network", ["odd_even", "bitonic"])
def test_what_does_not_matter(network):
    z, loss = views(4), GroCo(3, 5.0, positive_views=2, network=network)
    expected, order = loss(z), torch.randperm(7, generator=torch.Generator().manual_seed(1))
    rotation = torch.linalg.qr(views(1, 4, 4, seed=9)[0])[0]
    lengths = torch.logspace(-9, 9, 7, dtype=torch.float64)[:, None]
    for same in (z[:, order], z[[1, 0, 2, 3]], z[[0, 1, 3, 2]], z @ rotation, z * lengths):
        torch.testing.assert_close(loss(same), expected)
    assert not torch.isclose(loss(z[[2, 1, 0, 3]]), expected)  # a small crop is no full crop
    assert not torch.isclose(loss(z[:, :, :3]), expected)


@pytest.mark.parametrize("relaxation", ["cauchy", "logistic", "logistic_phi", "gaussian", "reciprocal", "optimal"])
@pytest.mark.parametrize("network", ["odd_even", "bitonic"])
def test_all_sorters_learn_the_order(network, relaxation):
    z = views(3, items=8).requires_grad_()
    loss = GroCo(4, 2.0, network=network, relaxation=relaxation)
    start = loss(z)
    for _ in range(12):
        (gradient,) = torch.autograd.grad(loss(z), z)
        z = (z - 40 * gradient).detach().requires_grad_()
    assert loss(z) < 0.8 * start


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_other_types_are_computed_in_float32(dtype):
    z = views(3, items=40).to(dtype).requires_grad_()
    loss = GroCo()(z)
    loss.backward()
    assert loss.dtype == torch.float32
    assert z.grad.dtype == dtype
    torch.testing.assert_close(loss.double(), GroCo()(z.detach().double()), rtol=1e-5, atol=1e-6)


def test_autocast_does_not_reach_the_loss():
    z = views(3, items=40).float()
    expected = GroCo()(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(GroCo()(z), expected)


EXTREMES = {
    "zero rows": lambda z: z * torch.tensor([0.0, 1, 0, 1, 1, 1])[:, None],
    "nothing but zeros": lambda z: z * 0,
    "all equal": lambda z: torch.ones_like(z),
    "1e30": lambda z: z * 1e30,
    "1e-30": lambda z: z * 1e-30,
    "duplicates": lambda z: z[:, [0, 0, 0, 1, 1, 1]],
    "views equal": lambda z: z[:1].expand(3, -1, -1),
    "one dimension": lambda z: z[..., :1],
    "two items": lambda z: z[:, :2],
}


@stops
@pytest.mark.parametrize("change", EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize("relaxation", ["cauchy", "logistic", "logistic_phi"])
@pytest.mark.parametrize("steepness", [1.0, 1e4])
def test_finite_embeddings_give_finite_losses(change, stop, relaxation, steepness):
    z = change(views(3, items=6).float()).detach().requires_grad_()
    loss = GroCo(4, steepness, stop, relaxation=relaxation)(z)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z.grad).all()


def test_equal_embeddings():
    """Every swap is a fair coin: of three, by (0 1), (1 2), (0 1), the first two stay low in 3 of 4 cases."""
    assert GroCo()(torch.ones(2, 2, 3)).item() == pytest.approx(math.log(2))
    assert GroCo()(torch.ones(2, 3, 3)).item() == pytest.approx((2 * math.log(4 / 3) + math.log(2)) / 3)
    assert 0.1 < GroCo()(torch.ones(2, 20, 3)).item() < 0.7


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (torch.randn(1, 4, 3), "expected at least 2 views of at least 2 items, got 1 of 4"),
        (torch.randn(2, 1, 3), "expected at least 2 views of at least 2 items, got 2 of 1"),
        (torch.randn(4, 3), r"expected \(V, rows, D\), got \(4, 3\)"),
        (torch.randn(2, 4, 3).long(), "expected a floating-point tensor"),
        (torch.randn(2, 0, 3), "expected at least 1 row"),
        (torch.full((2, 4, 3), float("nan")), "24 of 24 values are NaN or infinite"),
        (torch.full((2, 4, 3), float("inf")), "24 of 24 values are NaN or infinite"),
    ],
)
def test_embeddings_are_checked(z, message):
    with pytest.raises(ValueError, match=f"^z: {message}"):
        GroCo()(z)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negatives": 0}, "negatives: expected at least 1, got 0"),
        ({"steepness": -1}, "steepness: expected a finite number above 0"),
        ({"positive_views": 1}, "positive_views: expected at least 2, got 1"),
        ({"network": "quick"}, "network: expected"),
        ({"relaxation": "hard"}, "relaxation: expected"),
        ({"reduction": "avg"}, "reduction: expected"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        GroCo(**options)


def test_more_positive_views_than_views():
    with pytest.raises(ValueError, match=r"^positive_views: expected 2 to 3, the views in z, got 4"):
        GroCo(positive_views=4)(views(3))
    with pytest.raises(ValueError, match=r"^positive_views: expected 2 to 3, the views in z, got 1"):
        GroCo()(views(3), positive_views=1)
    with pytest.raises(ValueError, match=r"^positive_views: expected 2 to 3, the views in z, got 0"):
        GroCo()(views(3), positive_views=0)
    with pytest.raises(ValueError, match=r"^network: 'bitonic' sorts up to 21 values"):
        GroCo(25, network="bitonic")(views(2, items=40))


MEMORY = """
import resource, torch
from counterpoint.objectives.groco import GroCo
torch.set_num_threads(1)
def run(items):
    z = torch.randn(2, items, 32, requires_grad=True)
    GroCo()(z).backward()
run(400)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(6000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_no_matrix_of_all_pairs_is_made():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 100  # MiB; the matrix of one view has 137
