"""Losses over many views, against golden figures, their equations pair by pair, limits and identities."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from counterpoint.objectives import NTXent, SupCon
from counterpoint.objectives.multiview import MVDHEL, AverageOfOthers, MVInfoNCE, PairwiseAverage, PolyView

GOLDEN = {
    key: torch.from_numpy(value)
    for key, value in np.load(Path(__file__).parents[1] / "golden" / "22-mv-dhel.npz").items()
}


def dhel(temperature):
    """DHEL for two views: MV-DHEL of these two."""
    return lambda z1, z2: MVDHEL(temperature)(torch.stack([z1, z2]))


# "pvc_arithmetic" is recorded too: what that code calls so is no poly-view loss, and nobody should reproduce it
FORMS = {
    "mvinfonce_code": lambda t: MVInfoNCE(t, variant="code"),
    "mvinfonce_paper": MVInfoNCE,
    "mvdhel_code": MVDHEL,
    "mvdhel_paper_no_self": lambda t: lambda z: MVDHEL(t)(z) - math.log(2),
    "mvdhel_paper_with_self": lambda t: MVDHEL(t, include_self=True),
    "pwe_ntxent": lambda t: PairwiseAverage(temperature=t),
    "avg_ntxent": AverageOfOthers,
    "ntxent_all_positives": SupCon,
    "pwe_dhel": lambda t: PairwiseAverage(dhel(t)),
    "pvc_geometric": PolyView,
}
KINDS = {
    "MVInfoNCE": MVInfoNCE,
    "MVInfoNCE code": lambda **k: MVInfoNCE(variant="code", **k),
    "MVDHEL": MVDHEL,
    "MVDHEL self": lambda **k: MVDHEL(include_self=True, **k),
    "PairwiseAverage": PairwiseAverage,
    "AverageOfOthers": AverageOfOthers,
    "PolyView": PolyView,
    "PolyView arithmetic": lambda **k: PolyView(aggregation="arithmetic", **k),
}
every = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
TERMS = {"MVInfoNCE": 5, "MVDHEL": 5, "AverageOfOthers": 30, "PolyView": 15, "PolyView arithmetic": 15}


def views(number=3, items=5, dim=4, seed=0):
    return torch.randn(number, items, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.paper(22, "parity")
@pytest.mark.parametrize(("case", "name"), [(case, name) for case in ("n2", "n4") for name in FORMS] + [("n2", "dhel")])
def test_values_and_gradients(case, name):
    z, temperature = GOLDEN[f"{case}__views"].clone().requires_grad_(), float(GOLDEN[f"{case}__temperature"])
    objective = FORMS["mvdhel_code" if name == "dhel" else name](temperature)
    loss = objective(z)
    torch.testing.assert_close(loss, GOLDEN[f"{case}__{name}"], rtol=1e-7, atol=1e-9)
    gradient = torch.autograd.grad(loss, z)[0]
    torch.testing.assert_close(gradient, GOLDEN[f"{case}__{name}_grad"], rtol=1e-7, atol=1e-9)
    assert objective(z.detach().float()).item() == pytest.approx(loss.item(), rel=2e-3)


def written_out(z, temperature, form):
    """The equations, pair by pair."""
    z = normalize(z, dim=-1)
    number, items, _ = z.shape
    loss = 0.0

    def e(i, view, j, other):
        return math.exp(float(z[view, i] @ z[other, j]) / temperature)

    for i in range(items):
        pairs = sum(e(i, a, i, b) for a in range(number) for b in range(number) if a != b)
        if form == "infonce":
            below = sum(e(i, a, j, b) for a in range(number) for b in range(number) if a != b for j in range(items))
            loss -= math.log(pairs / below)
        elif form == "infonce code":
            below = sum(
                e(i, a, j, b) for a in range(number) for b in range(number) for j in range(items) if (a, i) != (b, j)
            )
            loss -= math.log(pairs / below)
        elif form == "dhel":
            within = [sum(e(i, a, j, a) for j in range(items) if j != i) for a in range(number)]
            loss -= math.log(pairs / 2 / math.prod(within))
        else:
            for a in range(number):
                others = sum(e(i, a, j, b) for j in range(items) if j != i for b in range(number))
                shares = [e(i, a, i, b) / (e(i, a, i, b) + others) for b in range(number) if b != a]
                logs = [math.log(share) for share in shares]
                term = sum(logs) / len(logs) if form == "geometric" else math.log(sum(shares) / len(shares))
                loss -= term / number
    return loss / items


@pytest.mark.parametrize(("number", "items", "temperature"), [(3, 5, 0.3), (5, 2, 0.2), (6, 4, 0.05)])
@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ("infonce", MVInfoNCE),
        ("infonce code", KINDS["MVInfoNCE code"]),
        ("dhel", MVDHEL),
        ("geometric", PolyView),
        ("arithmetic", KINDS["PolyView arithmetic"]),
    ],
)
def test_the_equations_pair_by_pair(form, kind, number, items, temperature):
    z = views(number, items)
    assert kind(temperature=temperature)(z).item() == pytest.approx(written_out(z, temperature, form), rel=1e-10)


def test_with_two_views_the_rivals_are_ntxent():
    z = views(2)
    expected = NTXent(0.2)(*z)
    for name in ("PairwiseAverage", "AverageOfOthers", "PolyView", "PolyView arithmetic"):
        torch.testing.assert_close(KINDS[name]()(z), expected, msg=name)
    for kind in (MVInfoNCE, MVDHEL):
        assert abs(kind()(z) - expected) > 0.01


def test_two_view_dhel():
    """Alignment and, for each view by itself, one log-sum-exp of the other items."""
    z = normalize(views(2), dim=-1)
    expected = -(z[0] * z[1]).sum(1) / 0.2
    for view in z:
        scores = (view @ view.T / 0.2).fill_diagonal_(-math.inf)
        expected = expected + scores.logsumexp(1)
    torch.testing.assert_close(MVDHEL(reduction="none")(z), expected)


def test_pairwise_average_of_any_loss():
    z = views(4)
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    distance = torch.nn.functional.mse_loss
    expected = torch.stack([distance(z[a], z[b]) for a, b in pairs]).mean()
    torch.testing.assert_close(PairwiseAverage(distance)(z), expected)
    assert "NTXent" in repr(PairwiseAverage())


def test_the_pull_of_mvdhel_is_a_softmax_over_pairs_of_views():
    """The closest pair gets most of it, and the total is one over the temperature."""
    z = normalize(views(3), dim=-1)
    cosines = torch.stack([(z[a] * z[b]).sum(1) for a, b in ((0, 1), (0, 2), (1, 2))]).requires_grad_()
    pull = torch.autograd.grad((cosines / 0.2).logsumexp(0).sum(), cosines)[0]
    energy = MVDHEL(reduction="none")(z) + (cosines / 0.2).logsumexp(0)
    within = torch.stack([(v @ v.T / 0.2).fill_diagonal_(-math.inf).logsumexp(1) for v in z]).sum(0)
    torch.testing.assert_close(energy.detach(), within)  # which does not know the other views
    torch.testing.assert_close(pull.sum(0), torch.full((5,), 5.0, dtype=torch.float64))
    assert torch.equal(pull.argmax(0), cosines.argmax(0))


@pytest.mark.parametrize(("number", "items"), [(2, 2), (4, 3)])
@pytest.mark.parametrize("temperature", [0.2, 0.005])
def test_equal_embeddings(number, items, temperature):
    z = torch.ones(number, items, 3, dtype=torch.float64) * torch.tensor([1.0, -2, 0.5])
    n, m = number, items
    pairs = math.log(n * (n - 1) / 2)
    expected = {
        "MVInfoNCE": math.log(m),
        "MVInfoNCE code": math.log((n * m - 1) / (n - 1)),
        "MVDHEL": n * math.log(m - 1) + (n - 1) / temperature - pairs,
        "MVDHEL self": n * math.log(m) + (n - 1) / temperature - pairs - math.log(2),
        "PairwiseAverage": math.log(2 * m - 1),
        "AverageOfOthers": math.log(2 * m - 1),
        "PolyView": math.log(n * (m - 1) + 1),
        "PolyView arithmetic": math.log(n * (m - 1) + 1),
    }
    for name, value in expected.items():
        assert KINDS[name](temperature=temperature)(z).item() == pytest.approx(value, rel=1e-9), name


@every
def test_symmetries(kind):
    z = views(4)
    loss, objective = kind()(z), kind()
    torch.testing.assert_close(objective(z[[2, 0, 3, 1]]), loss)
    torch.testing.assert_close(objective(z[:, [4, 2, 0, 1, 3]]), loss)
    torch.testing.assert_close(objective(z * torch.rand(4, 5, 1).double().add(0.1)), loss)
    rotation = torch.linalg.qr(views(1, 4)[0])[0]
    torch.testing.assert_close(objective(z @ rotation), loss)
    torch.testing.assert_close(objective({"image": z[0], "text": z[1], "audio": z[2], "video": z[3]}), loss)
    assert not torch.isclose(objective(torch.stack([z[0], *z[1:].roll(1, 1)])), loss)  # views of the wrong item


@every
def test_a_perfect_embedding_beats_a_random_one(kind):
    z = torch.eye(5, dtype=torch.float64).repeat(4, 1, 1)
    assert kind()(z) < kind()(views(4, 5, 5)) - 0.5


@pytest.mark.parametrize("name", TERMS)
def test_reductions(name):
    kind, z = KINDS[name], views(3)
    terms = kind(reduction="none")(z)
    assert terms.shape == (TERMS[name],)
    torch.testing.assert_close(terms.mean(), kind()(z))
    torch.testing.assert_close(kind(reduction="sum")(z), terms.sum())


@every
def test_gradients_equal_finite_differences(kind):
    assert torch.autograd.gradcheck(kind(), views(3, 3, 3).requires_grad_(), atol=1e-4)


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(kind, dtype):
    z = views().to(dtype).requires_grad_()
    loss = kind()(z)
    loss.backward()
    assert loss.dtype == torch.float32
    assert z.grad.dtype == dtype
    torch.testing.assert_close(loss.double(), kind()(z.detach().double()), rtol=1e-5, atol=1e-5)


@every
def test_autocast(kind):
    """The engine may take half precision for its sums over pairs; the loss does not."""
    z = views(3, 40).float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = kind()(z)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, kind()(z), rtol=0.01, atol=0.01)


EXTREMES = {
    "nothing but zeros": lambda z: z * 0,
    "1e30": lambda z: z * 1e30,
    "1e-30": lambda z: z * 1e-30,
    "duplicates": lambda z: z[:, [0, 0, 0, 0, 0]],
    "opposite views": lambda z: torch.stack([z[0], -z[0], -z[0]]),
    "one dimension": lambda z: z[..., :1],
}


@every
@pytest.mark.parametrize("change", EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize("temperature", [0.2, 1e-3])
def test_whatever_is_finite_has_a_finite_loss(kind, change, temperature):
    z = change(views().float()).requires_grad_()
    loss = kind(temperature=temperature)(z)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z.grad).all()


@every
def test_what_has_no_answer_is_refused(kind):
    z = torch.randn(3, 4, 2)
    with pytest.raises(ValueError, match=r"^z: expected at least 2 views"):
        kind()(z[:1])
    with pytest.raises(ValueError, match=r"^z1?: expected at least 2 "):
        kind()(z[:, :1])
    for bad, message in [
        (z / 0, ".*NaN or infinite"),
        (z[0], "expected \\(V, rows, D\\)"),
        (z.long(), "expected a floating-point"),
        (list(z), "expected a floating-point tensor, got list"),
        ({}, "expected a floating-point tensor, got dict"),
        (z[:0], "expected at least 1 row"),
        ({"image": z[0]}, "expected at least 2 views"),
    ]:
        with pytest.raises(ValueError, match=f"^z: {message}"):
            kind()(bad)
    with pytest.raises(ValueError, match=r"^text: expected \(4, 2\) as image, got \(3, 2\)"):
        kind()({"image": z[0], "text": z[1, :3]})
    for bad in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"^temperature: expected"):
            kind(temperature=bad)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (MVInfoNCE, "variant"),
        (PolyView, "aggregation"),
        *((kind, "reduction") for kind in (MVInfoNCE, MVDHEL, AverageOfOthers, PolyView)),
    ],
)
def test_options_are_checked_when_they_are_given(kind, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        kind(**{name: "other"})
