"""SupReMix against the official code's figures, against points that are really mixed, and at its limits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from counterpoint.objectives import SupCon, SupReMix
from counterpoint.objectives import supremix as module

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "27-supremix.npz")
VARIANTS = {
    "": {},
    "_no_mix": {"mix_neg": False, "mix_pos": False},
    "_mix_neg_only": {"mix_pos": False},
    "_mix_pos_only": {"mix_neg": False},
    "_official_two_maxima": {"compat": "official"},
    "_unweighted": {"distance_weight": None},
}


def golden(case, dtype=torch.float64):
    """Features (V, N, D), targets, weights of the anchors, and a loss with the case's parameters."""
    x, y, b = (torch.tensor(GOLDEN[f"{case}_{name}"]) for name in ("features_raw", "labels", "lambda_neg"))
    settings = {"temperature": float(GOLDEN[f"{case}_temperature"]), "window": float(GOLDEN[f"{case}_window"])}
    return x.transpose(0, 1).to(dtype), y, b, settings


def some(items=7, views=2, dim=5, seed=0, dtype=torch.float64):
    made = torch.Generator().manual_seed(seed)
    z = torch.randn(views, items, dim, generator=made, dtype=dtype)
    y = torch.randint(0, 5, (items,), generator=made).to(dtype) / 2
    return z, y, torch.rand(views * items, views * items, generator=made, dtype=dtype)


def literal(z, y, b, loss, maximum=None):
    """The equations one by one, with mixtures as points."""
    z = normalize(z, dim=-1).reshape(-1, z.shape[-1])
    y = y.repeat(len(z) // len(y))
    w = {
        "l1": lambda d: 1 + d,
        "l2": lambda d: 1 + d**2,
        "l1_inverse": lambda d: 1 / (1 + d),
        "l2_inverse": lambda d: 1 / (1 + d**2),
        None: lambda d: 1.0,
    }[loss.distance_weight]
    fixed, terms = z.detach(), []
    for i in range(len(z)):
        candidates = [(z[j], float(y[j]), bool(y[j] == y[i])) for j in range(len(z)) if j != i]
        for k in range(len(z)):
            if loss.mix_neg and y[k] != y[i]:
                m = b[i, k] * fixed[i] + (1 - b[i, k]) * fixed[k]
                candidates.append((m, float(b[i, k] * y[i] + (1 - b[i, k]) * y[k]), False))
            for j in range(len(z)):
                near = y[i] - y[j] < loss.window and y[k] - y[i] < loss.window
                if loss.mix_pos and y[j] < y[i] < y[k] and near:
                    a = (y[k] - y[i]) / (y[k] - y[j])
                    candidates.append((a * fixed[j] + (1 - a) * fixed[k], float(y[i]), True))
        scores = torch.stack([z[i] @ u / loss.temperature for u, _, _ in candidates])
        weights = torch.tensor([w(abs(float(y[i]) - goal)) for _, goal, _ in candidates], dtype=z.dtype)
        positive = torch.tensor([sign for _, _, sign in candidates])
        if positive.any():
            terms.append((weights * scores.exp()).sum().log() - scores[positive].mean())
    return torch.stack(terms).mean()


@pytest.mark.paper(27, "parity")
@pytest.mark.parametrize("case", "ab")
@pytest.mark.parametrize("variant", VARIANTS)
def test_official_figures(case, variant):
    x, y, b, settings = golden(case)
    x.requires_grad_()
    loss = SupReMix(**settings, **VARIANTS[variant])(x, y, b)
    np.testing.assert_allclose(loss.item(), GOLDEN[f"{case}_loss{variant}"], rtol=1e-12)
    if f"{case}_grad{variant}" in GOLDEN:
        loss.backward()
        np.testing.assert_allclose(x.grad.transpose(0, 1), GOLDEN[f"{case}_grad{variant}"], atol=1e-12)


@pytest.mark.paper(27, "parity")
@pytest.mark.parametrize("case", "ab")
def test_official_mixtures(case):
    x, y, b, settings = golden(case)
    found = SupReMix(**settings).mixtures(x, y, 0, b)
    np.testing.assert_allclose(found.points, GOLDEN[f"{case}_anchor0_mixtures"], atol=1e-12)
    np.testing.assert_allclose(found.targets, GOLDEN[f"{case}_anchor0_mix_labels"], atol=1e-12)
    np.testing.assert_array_equal(found.positive, GOLDEN[f"{case}_anchor0_mix_mask"])
    for anchor in range(len(b)):
        positive = SupReMix(**settings).mixtures(x, y, anchor, b).positive
        assert positive.sum() == GOLDEN[f"{case}_n_mix_pos_per_anchor"][anchor]
        assert (~positive).sum() == GOLDEN[f"{case}_n_mix_neg_per_anchor"][anchor]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types(dtype):
    x, y, b, settings = golden("a", dtype)
    found = SupReMix(**settings)(x, y.to(dtype), b)
    assert found.dtype == torch.float32
    expected = SupReMix(**settings)(x.double(), y, b)
    torch.testing.assert_close(found.double(), expected, rtol=2e-5, atol=0)


@pytest.mark.parametrize("distance_weight", ["l1", "l2", "l1_inverse", "l2_inverse", None])
@pytest.mark.parametrize("views", [1, 3])
def test_as_points_that_are_mixed(distance_weight, views):
    z, y, b = some(views=views)
    loss = SupReMix(0.2, 1.3, distance_weight=distance_weight)
    torch.testing.assert_close(loss(z, y, b), literal(z, y, b, loss))


def test_gradient():
    z, y, b = some(items=4, dim=3)
    z.requires_grad_()
    for options in ({"mix_neg": False, "mix_pos": False}, {"detach_mixtures": False}):
        loss = SupReMix(0.3, 1.3, **options)
        assert torch.autograd.gradcheck(lambda z, loss=loss: loss(z, y, b), (z,))
    constant, free = (torch.autograd.grad(SupReMix(0.3, 1.3, detach_mixtures=d)(z, y, b), z)[0] for d in (True, False))
    expected = torch.autograd.grad(literal(z, y, b, SupReMix(0.3, 1.3)), z)[0]
    torch.testing.assert_close(constant, expected)
    assert (constant - free).abs().max() > 0.01


def test_blocks_change_nothing(monkeypatch):
    z, y, b = some(items=12)
    z.requires_grad_()
    whole = SupReMix(0.3, 1.3)(z, y, b)
    gradient = torch.autograd.grad(whole, z)[0]
    monkeypatch.setattr(module, "_BLOCK", 100)
    parts = SupReMix(0.3, 1.3)(z, y, b)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts, z)[0], gradient)


def test_draws_kept_for_the_second_pass(monkeypatch):
    z, y, _ = some(items=20)
    z.requires_grad_()
    torch.manual_seed(0)
    whole = torch.autograd.grad(SupReMix(0.3, 1.3, detach_mixtures=False, mix_pos=False)(z, y), z)[0]
    monkeypatch.setattr(module, "_BLOCK", 2 * 24 * 12)  # two blocks
    torch.manual_seed(0)
    loss = SupReMix(0.3, 1.3, detach_mixtures=False, mix_pos=False)
    value = loss(z, y)
    torch.rand(3)  # other draws in between
    torch.testing.assert_close(torch.autograd.grad(value, z)[0], whole)


def test_order_of_items_and_views():
    z, y, b = some()
    loss = SupReMix(0.3, 1.3, reduction="none")
    terms, order = loss(z, y, b), torch.tensor([3, 6, 0, 5, 1, 2, 4])
    both = torch.cat([order, order + 7])
    torch.testing.assert_close(loss(z[:, order], y[order], b[both][:, both]), terms[both])
    turned = torch.cat([torch.arange(7, 14), torch.arange(7)])
    torch.testing.assert_close(loss(z.flip(0), y, b[turned][:, turned]), terms[turned])
    torch.testing.assert_close(loss(z, y, b).mean(), SupReMix(0.3, 1.3)(z, y, b))


def test_only_directions_and_differences_count():
    z, y, b = some()
    expected = SupReMix(0.3, 1.3)(z, y, b)
    scale = torch.rand(2, 7, 1, dtype=z.dtype) + 0.5
    turn = torch.linalg.qr(torch.randn(5, 5, dtype=z.dtype))[0]
    torch.testing.assert_close(SupReMix(0.3, 1.3)(z * scale @ turn, y, b), expected)
    torch.testing.assert_close(SupReMix(0.3, 1.3)(z, y + 256.0, b), expected)
    torch.testing.assert_close(SupReMix(0.3, 1.3)(z, -y, b), expected)
    unweighted = SupReMix(0.3, 1.3, distance_weight=None)(z, y, b)
    torch.testing.assert_close(SupReMix(0.3, 13.0, distance_weight=None)(z, 10 * y, b), unweighted)


def test_supcon_is_what_is_left_without_mixtures_and_weights():
    z, y, _ = some()
    classes = (2 * y).long()
    plain = SupReMix(0.2, mix_neg=False, mix_pos=False, distance_weight=None)
    torch.testing.assert_close(plain(z, y), SupCon(0.2)(z, classes))
    torch.testing.assert_close(plain(z[0], y), SupCon(0.2)(z[0], classes))
    equal = torch.full_like(y, 3.5)
    torch.testing.assert_close(SupReMix(0.2)(z, equal), SupCon(0.2)(z, torch.zeros(7, dtype=torch.long)))


def test_ends_of_the_mixture():
    """All anchor: the anchor once more for every other target. Nothing of it: every other target counts twice."""
    z, y, _ = some(items=5)
    y = torch.arange(5.0, dtype=z.dtype)
    units = normalize(z, dim=-1).reshape(10, -1)
    s, both = units @ units.T / 0.3, y.repeat(2)
    away = (both[:, None] - both).abs()
    others = away > 0
    attraction = s[torch.arange(10), (torch.arange(10) + 5) % 10]
    plain = torch.where(others, (1 + away) * s.exp(), 0.0).sum(1)
    loss = SupReMix(0.3, mix_pos=False, reduction="none")
    whole = attraction.exp() + plain + others.sum(1) * s.diag().exp()
    torch.testing.assert_close(loss(z, y, torch.ones(10, 10)), whole.log() - attraction)
    torch.testing.assert_close(loss(z, y, torch.zeros(10, 10)), (attraction.exp() + 2 * plain).log() - attraction)


def test_draws_have_the_mean_of_beta():
    z, y, _ = some(items=40)
    y = torch.arange(40.0)
    torch.manual_seed(0)
    found = SupReMix(mix_pos=False, beta=(2, 8)).mixtures(z, y, 0)
    own = (found.targets - y[0]) / (torch.cat([y[1:], y[1:]]) - y[0])  # the other's share
    assert found.points.shape == (78, 5)
    assert own.mean().item() == pytest.approx(0.8, abs=0.05)
    assert own.std().item() == pytest.approx((16 / (100 * 11)) ** 0.5, abs=0.04)
    assert len(own.unique()) > 70, "a draw for each pair, not one for the batch"


def test_continuous_targets_without_an_equal_pair():
    z, y, _ = some(items=8)
    y = torch.rand(8, dtype=z.dtype, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(SupReMix()(z, y))
    terms = SupReMix(mix_neg=False, reduction="none")(z[0], y)
    ends = torch.zeros(8, dtype=torch.bool).index_fill(0, torch.stack([y.argmin(), y.argmax()]), True)
    assert torch.equal(terms == 0, ends), "one view: the smallest and the largest target have nothing on one side"
    mean = SupReMix(mix_neg=False)(z[0], y)
    torch.testing.assert_close(mean, terms[~ends].mean())
    torch.testing.assert_close(SupReMix(mix_neg=False, empty="zero")(z[0], y), terms.mean())
    for options in ({"empty": "error"}, {"mix_pos": False}, {"window": 1e-6}):
        with pytest.raises(ValueError, match=r"^targets: \d of 8 anchors have no positive"):
            SupReMix(**options)(z[0], y)


def test_one_item():
    z = torch.randn(2, 1, 4)
    assert SupReMix()(z, torch.tensor([3.0])).item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match=r"^z: expected at least 2 embeddings"):
        SupReMix()(z[:1], torch.tensor([3.0]))


def test_max_mixtures():
    z, y, b = some(items=15)
    y = torch.rand(15, dtype=z.dtype, generator=torch.Generator().manual_seed(0))
    b = b[:1, :1].expand(30, 30)
    torch.testing.assert_close(SupReMix(max_mixtures=10**6)(z, y, b), SupReMix()(z, y, b))
    few = torch.stack([SupReMix(0.5, max_mixtures=4, mix_pos=False, reduction="none")(z, y, b) for _ in range(25)])
    none, every = (SupReMix(0.5, mix_neg=m, mix_pos=False, reduction="none")(z, y, b) for m in (False, True))
    assert (few > none).all()
    assert (few < every).all()
    share = (few.exp().mean(0) - none.exp()) / (every.exp() - none.exp())
    assert share.mean().item() == pytest.approx(4 / 28, rel=0.1), "each is as likely to be taken"
    drawn = torch.stack([SupReMix(0.5, max_mixtures=20, mix_neg=False, reduction="none")(z, y) for _ in range(3)])
    exact = SupReMix(0.5, mix_neg=False, reduction="none")(z, y)
    many = [((y < one).sum() * (y > one).sum() * 4).item() > 20 for one in y] * 2
    assert ((drawn != exact).any(0) == torch.tensor(many)).all(), "all are taken where there are no more"


def test_far_and_large():
    z, y, b = some(dtype=torch.float32)
    for options in ({}, {"distance_weight": "l2"}, {"distance_weight": "l2_inverse"}):
        x = (z * 1e30).requires_grad_()
        found = SupReMix(0.01, **options)(x, y * 1e30, b)
        found.backward()
        assert torch.isfinite(found)
        assert torch.isfinite(x.grad).all()
    x = torch.zeros(2, 7, 5, requires_grad=True)
    SupReMix()(x, y).backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(
    "targets",
    [torch.zeros(3), torch.zeros(7, 1), [0.0] * 7, torch.full((7,), float("nan")), torch.full((7,), float("inf"))],
)
def test_targets_that_do_not_fit(targets):
    with pytest.raises(ValueError, match=r"^targets: expected "):
        SupReMix()(torch.randn(2, 7, 3), targets)


def test_targets_whose_difference_is_infinite():
    with pytest.raises(ValueError, match=r"^targets: expected finite numbers whose differences are finite"):
        SupReMix()(torch.randn(2, 2, 3), torch.tensor([-3e38, 3e38]))


@pytest.mark.parametrize(
    ("z", "said"),
    [
        (torch.full((2, 7, 3), float("nan")), "NaN or infinite"),
        (torch.zeros(2, 7, 3).long(), "floating-point"),
        (torch.zeros(7), "expected"),
        (torch.zeros(1, 2, 7, 3), "expected"),
        (torch.zeros(2, 0, 3), "expected at least 1 row"),
        (torch.zeros(2, 7, 0), "expected at least 1 row"),
    ],
)
def test_embeddings_that_do_not_fit(z, said):
    with pytest.raises(ValueError, match=f"^z: .*{said}"):
        SupReMix()(z, torch.zeros(7))


def test_integers_and_other_options():
    z, y, b = some()
    whole = (2 * y).long()
    assert SupReMix()(z, whole, b) == SupReMix()(z, whole.double(), b)
    for weights in (torch.rand(7, 7), torch.full((14, 14), 1.5), torch.full((14, 14), float("nan"))):
        with pytest.raises(ValueError, match=r"^weights: expected \(14, 14\) numbers in \[0, 1\]"):
            SupReMix()(z, y, weights)
    for name, value in (
        ("temperature", 0.0), ("window", -1.0), ("beta", (0, 1)), ("beta", (1,)), ("distance_weight", "L1_inv"),
        ("max_mixtures", 0), ("empty", "ignore"), ("compat", "code"), ("reduction", "avg"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            SupReMix(**{name: value})
