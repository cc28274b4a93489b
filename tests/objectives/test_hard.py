"""The losses and diagnostics of Wang & Liu 2021: golden figures, exact statements of the paper, limits, selection."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from counterpoint.objectives import InfoNCE, NTXent
from counterpoint.objectives.hard import HardContrastive, SimpleContrastive, penalty_entropy, relative_penalty

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "18-behaviour-contrastive-loss.npz")
TAUS = range(len(GOLDEN["a__taus"]))
KEEP, LAMBDA = int(GOLDEN["a__keep"]), float(GOLDEN["a__lambda_"])
parity = pytest.mark.paper(18, "parity")
close = {"rtol": 1e-7, "atol": 1e-9}


def golden(name):
    return torch.from_numpy(GOLDEN[f"a__{name}"])


def made(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def check(kind, options, values, gradient):
    """Terms and gradient of their mean, and the mean in float32."""
    q, k = golden("q").requires_grad_(), golden("k")
    terms = kind(candidates="other", reduction="none", **options)(q, k)
    torch.testing.assert_close(terms, values, **close)
    loss = kind(candidates="other", **options)
    torch.testing.assert_close(torch.autograd.grad(loss(q, k), q)[0], gradient, **close)
    assert loss(q.float(), k.float()).item() == pytest.approx(values.mean().item(), rel=2e-3)


@parity
@pytest.mark.parametrize("t", TAUS)
@pytest.mark.parametrize(("name", "options"), [("softmax", {"fraction": 1}), ("hard", {"count": KEEP})])
def test_golden_softmax(name, options, t):
    options = {"temperature": float(GOLDEN["a__taus"][t]), **options}
    check(HardContrastive, options, golden(f"{name}_per_sample")[t], golden(f"{name}_grad_q_of_mean")[t])


@parity
@pytest.mark.parametrize(("name", "options"), [("simple", {}), ("hard_simple", {"count": KEEP})])
def test_golden_simple(name, options):
    values, gradient = golden(f"{name}_per_sample"), golden(f"{name}_grad_q_of_mean")
    check(SimpleContrastive, {"lambda_": LAMBDA, **options}, values, gradient)


@parity
@pytest.mark.parametrize("t", TAUS)
def test_golden_diagnostics(t):
    scores, temperature = golden("similarity"), float(GOLDEN["a__taus"][t])
    torch.testing.assert_close(normalize(golden("q")) @ normalize(golden("k")).T, scores, **close)
    torch.testing.assert_close(relative_penalty(scores, temperature), golden("relative_penalty")[t], **close)
    torch.testing.assert_close(penalty_entropy(scores, temperature), golden("penalty_entropy")[t], **close)


@parity
def test_golden_threshold():
    loss = HardContrastive(count=KEEP, candidates="other")
    _, threshold = loss._hardest(loss._pairs(golden("q"), golden("k"), None), KEEP)
    torch.testing.assert_close(threshold, golden("hard_threshold"), **close)


def score_gradients(loss, i):
    """d l_i / d s_i,j of the paper's row i, from those of the unit keys: ``d/dk = d/ds (q - s k)``."""
    q, k = normalize(golden("q"))[i], normalize(golden("k"))
    keys = k.clone().requires_grad_()
    others = [j for j in range(len(k)) if j != i]
    gradient = torch.autograd.grad(loss(q[None], keys[i : i + 1], keys[others]), keys)[0]
    return gradient @ q / (1 - (k @ q).square())


@parity
@pytest.mark.parametrize("t", TAUS)
def test_golden_gradients_of_the_scores(t):
    """Attraction equals the sum of all repulsions; each is its share ``relative_penalty`` of it."""
    temperature = float(GOLDEN["a__taus"][t])
    shares = relative_penalty(golden("similarity"), temperature)
    for i in range(len(shares)):
        found = score_gradients(HardContrastive(temperature, fraction=1), i)
        torch.testing.assert_close(found[i], golden("dL_ds_pos")[t, i], **close)
        torch.testing.assert_close(found.sum(), torch.zeros_like(found[i]), **close)
        repulsion = found.clone()
        repulsion[i] = 0
        torch.testing.assert_close(repulsion, golden("dL_ds_neg")[t, i], **close)
        torch.testing.assert_close(repulsion / -found[i], shares[i], **close)


def test_a_hard_loss_repels_hard_negatives_alone():
    scores = golden("similarity")
    for loss in (HardContrastive(0.3, count=KEEP), SimpleContrastive(count=KEEP)):
        for i in range(len(scores)):
            found = score_gradients(loss, i)
            row = scores[i].clone()
            row[i] = -2
            assert set(found.abs().gt(1e-9).nonzero().flatten().tolist()) == {i, *row.topk(KEEP).indices.tolist()}
            torch.testing.assert_close(found.sum(), torch.zeros_like(found[i]), **close)  # and as much as it attracts


TEMPERATURES = [0.01, 0.03, 0.07, 0.3, 1.0, 10.0, 1e3]


def test_the_entropy_rises_with_the_temperature():
    scores = made(40, 30).tanh()
    scores[0] = 0.2  # all alike: as even as can be at any temperature
    entropies = torch.stack([penalty_entropy(scores, t) for t in TEMPERATURES])
    assert (entropies[1:, 1:] > entropies[:-1, 1:]).all()
    assert (penalty_entropy(scores, 1e-6) <= entropies[0]).all()
    even = torch.where(torch.arange(40) < 30, 29.0, 30.0).double().log()  # rows beyond the 30th have no positive here
    torch.testing.assert_close(entropies[-1], even, rtol=1e-6, atol=0)
    torch.testing.assert_close(entropies[:, 0], even[0].expand(len(TEMPERATURES)), rtol=1e-12, atol=0)


def test_penalties_at_a_temperature_of_almost_nothing():
    scores = torch.tensor([[1.0, 0.3, 0.9], [-0.5, 1, -0.4]], requires_grad=True)
    torch.testing.assert_close(relative_penalty(scores, 1e-30), torch.tensor([[0.0, 0, 1], [0, 0, 1]]))
    entropy = penalty_entropy(scores, 1e-30).sum()
    assert entropy == 0
    assert torch.autograd.grad(entropy, scores)[0].isfinite().all()


def test_penalties_of_a_mask():
    scores, negatives = made(4, 4), torch.tensor([[0, 0, 1, 1], [1, 1, 0, 1], [0, 0, 0, 1], [1, 1, 1, 1]]).bool()
    shares = relative_penalty(scores, 0.5, negatives)
    expected = torch.where(negatives, torch.exp(scores / 0.5), 0)
    torch.testing.assert_close(shares, expected / expected.sum(1, keepdim=True))
    assert penalty_entropy(scores, 0.5, negatives)[2] == 0
    assert torch.autograd.gradcheck(lambda s: penalty_entropy(s, 0.5, negatives), (scores.requires_grad_(),))


@pytest.mark.parametrize("candidates", ["both", "other"])
def test_a_low_temperature_makes_it_a_triplet_loss(candidates):
    """``max(0, hardest - positive)``, whatever is kept beside the hardest."""
    z1, z2 = made(9, 3), made(9, 3, seed=1) + made(9, 3)
    scores, attraction = written_scores(z1, z2, candidates)
    expected = (scores.amax(1) - attraction).clamp(min=0)
    assert 0 < (expected > 0).sum() < len(expected)
    for fraction in (1.0, 0.3):
        loss = HardContrastive(1e-5, fraction, candidates=candidates, reduction="none")
        torch.testing.assert_close(1e-5 * loss(z1, z2), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("candidates", ["both", "other"])
@pytest.mark.parametrize("fraction", [1.0, 0.25])
def test_a_high_temperature_makes_it_the_simple_loss(candidates, fraction):
    z1, z2 = made(9, 3), made(9, 3, seed=1)
    kept = round(fraction * (16 if candidates == "both" else 8))
    softmax = HardContrastive(1e6, fraction, candidates=candidates, reduction="none")(z1, z2)
    simple = SimpleContrastive(fraction=fraction, candidates=candidates, reduction="none")(z1, z2)
    torch.testing.assert_close(1e6 * (softmax - math.log(1 + kept)), simple * kept / (1 + kept), rtol=0, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.01, 0.5])
def test_all_kept_is_the_softmax_loss(temperature):
    z1, z2, bank = made(6, 4), made(6, 4, seed=1), made(11, 4, seed=2)
    for options in ({"fraction": 1}, {"count": 10}, {"count": 99}):
        loss = HardContrastive(temperature, reduction="none", **options)
        torch.testing.assert_close(loss(z1, z2), NTXent(temperature, reduction="none")(z1, z2), **close)
    loss = HardContrastive(temperature, fraction=1, reduction="none")
    torch.testing.assert_close(loss(z1, z2, bank), InfoNCE(temperature, reduction="none")(z1, z2, bank), **close)


def written_scores(z1, z2, candidates):
    """Scores with all that is no negative at -2, and those with the positive."""
    z1, z2 = normalize(z1), normalize(z2)
    attraction, items = (z1 * z2).sum(1), len(z1)
    if candidates == "other":
        return (z1 @ z2.T).fill_diagonal_(-2), attraction
    z = torch.cat([z1, z2])
    own = torch.arange(items).repeat(2)
    return (z @ z.T).masked_fill(own[:, None] == own, -2), attraction.repeat(2)


def written_out(z1, z2, kept, temperature=None, bank=None, candidates="both"):
    """The equations, with the kept negatives from a sort; the simple loss where there is no temperature."""
    scores, attraction = written_scores(z1, z2, candidates if bank is None else "other")
    if bank is not None:
        scores = normalize(z1) @ normalize(bank).T
    hard = scores.sort(dim=1, descending=True).values[:, :kept]
    if temperature is None:
        return hard.sum(1) / kept - attraction
    return torch.cat([attraction[:, None], hard], 1).div(temperature).logsumexp(1) - attraction / temperature


@pytest.mark.parametrize("kept", [1, 3, 7])
@pytest.mark.parametrize("form", ["both", "other", "bank"])
def test_values_and_gradients_of_the_equation(form, kept, monkeypatch):
    monkeypatch.setattr("counterpoint.objectives.hard._BLOCK", 13)  # thresholds in many blocks
    z1, z2 = made(9, 4).requires_grad_(), made(9, 4, seed=1).requires_grad_()
    bank = made(12, 4, seed=2).requires_grad_() if form == "bank" else None
    inputs = [z1, z2] if bank is None else [z1, z2, bank]
    candidates = "both" if bank is not None else form
    options = {"count": kept, "candidates": candidates, "reduction": "none"}
    for temperature in (0.05, 0.7, None):
        loss = HardContrastive(temperature, **options) if temperature else SimpleContrastive(**options)
        found, expected = loss(*inputs), written_out(z1, z2, kept, temperature, bank, candidates)
        torch.testing.assert_close(found, expected, **close)
        weight = made(len(found), seed=3)
        gradients = (torch.autograd.grad(value @ weight, inputs) for value in (found, expected))
        torch.testing.assert_close(*gradients, **close)


@pytest.mark.parametrize("kept", [{"count": 3}, {"fraction": 0.5}, {"fraction": 1}])
@pytest.mark.parametrize("temperature", [0.2, None])
def test_rows_of_the_own_item_in_a_bank_are_no_negatives(kept, temperature):
    """Each query against the bank without its item's rows, as if it were alone; items stand in any order."""
    z1, z2, bank = made(4, 5).requires_grad_(), made(4, 5, seed=1), made(11, 5, seed=2)
    items, held = torch.tensor([7, 2, 9, 5]), torch.tensor([9, 3, 2, 8, 7, 1, 5, 0, 4, 6, 11])
    bank[held == 2] = 5 * z1[1].detach()  # the nearest there can be, and not to be taken
    made_by = {"reduction": "none", **kept}
    loss = HardContrastive(temperature, **made_by) if temperature else SimpleContrastive(**made_by)
    found = loss(z1, z2, bank, items, held)
    alone = torch.cat([loss(z1[i : i + 1], z2[i : i + 1], bank[held != items[i]]) for i in range(4)])
    torch.testing.assert_close(found, alone, **close)
    for a, b in zip(*(torch.autograd.grad(value.sum(), z1) for value in (found, alone)), strict=True):
        torch.testing.assert_close(a, b, **close)
    assert not torch.isclose(found[1], loss(z1, z2, bank)[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_selection_that_no_rounding_upsets(dtype):
    """More rows than a tile has: the last one kept is found again though its score is rounded elsewhere."""
    z1, z2 = made(700, 37, dtype=dtype), made(700, 37, seed=1, dtype=dtype)
    loss = SimpleContrastive(count=1, candidates="other", reduction="none")
    torch.testing.assert_close(loss(z1, z2), written_out(z1, z2, 1, candidates="other"), rtol=1e-5, atol=1e-5)


def test_the_share_is_of_the_negatives_and_at_least_one():
    z1, z2 = made(11, 4), made(11, 4, seed=1)
    for fraction, kept in ((0.0819, 2), (0.01, 1), (0.5, 10), (0.99, 20)):
        loss = HardContrastive(0.5, fraction, reduction="none")
        torch.testing.assert_close(loss(z1, z2), written_out(z1, z2, kept, 0.5), **close)
    loss = SimpleContrastive(fraction=0.1, reduction="none")
    bank = made(30, 4, seed=2)
    torch.testing.assert_close(loss(z1, z2, bank), written_out(z1, z2, 3, None, bank), **close)


def test_ties_are_kept():
    """Of a bank that holds each row three times, the two hardest are three."""
    z1, z2, bank = made(6, 4), made(6, 4, seed=1), made(8, 4, seed=2)
    thrice = torch.cat([bank, bank * 2, bank * 0.1])
    loss = HardContrastive(0.5, count=2, reduction="none")(z1, z2, thrice)
    torch.testing.assert_close(loss, written_out(z1, z2, 3, 0.5, thrice), **close)
    loss = SimpleContrastive(1 / 6, count=4, reduction="none")(z1, z2, thrice)
    torch.testing.assert_close(loss, written_out(z1, z2, 6, None, thrice), **close)


@pytest.mark.parametrize("kept", [1, 8])
def test_equal_embeddings_leave_no_choice(kept):
    z = torch.ones(5, 3) * torch.tensor([1.0, -2, 0.5])
    for temperature in (0.01, 1.0):
        assert HardContrastive(temperature, count=kept)(z, z).item() == pytest.approx(math.log(9), rel=1e-5)
        assert penalty_entropy(torch.ones(5, 5), temperature) == pytest.approx([math.log(4)] * 5)
    assert SimpleContrastive(0.1, count=kept)(z, z).item() == pytest.approx(8 * 0.1 - 1, rel=1e-5)


LOSSES = {
    "hard": lambda **k: HardContrastive(0.3, count=3, **k),
    "hard, other": lambda **k: HardContrastive(0.3, count=3, candidates="other", **k),
    "simple": lambda **k: SimpleContrastive(**k),
    "hard simple": lambda **k: SimpleContrastive(fraction=0.4, **k),
}
every = pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)


@every
def test_order_views_and_lengths(make):
    z1, z2 = made(7, 4), made(7, 4, seed=1)
    loss, order = make(), torch.randperm(7, generator=torch.Generator().manual_seed(0))
    expected = loss(z1, z2)
    torch.testing.assert_close(loss(z1[order], z2[order]), expected)
    torch.testing.assert_close(loss(z1 * 1e100, z2 * torch.logspace(-9, 9, 7)[:, None]), expected)
    assert torch.isclose(loss(z2, z1), expected, rtol=1e-9) == (loss.candidates == "both")
    terms = make(reduction="none")(z1, z2)
    assert terms.shape == ((14,) if loss.candidates == "both" else (7,))
    torch.testing.assert_close(terms.mean(), expected)
    torch.testing.assert_close(make(reduction="sum")(z1, z2), terms.sum())


@every
def test_gradients_equal_finite_differences(make):
    z1, z2, bank = (made(*shape, seed=k).requires_grad_() for k, shape in enumerate([(6, 4), (6, 4), (9, 4)]))
    assert torch.autograd.gradcheck(make(), (z1, z2))
    assert torch.autograd.gradcheck(make(), (z1, z2, bank))


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(make, dtype):
    z1, z2 = (made(20, 8, seed=k).to(dtype).requires_grad_() for k in range(2))
    loss = make()(z1, z2)
    loss.backward()
    assert loss.dtype == torch.float32
    assert z1.grad.dtype == dtype
    torch.testing.assert_close(loss.double(), make()(z1.double(), z2.double()), rtol=1e-5, atol=1e-6)


EXTREMES = {
    "zero rows": lambda z: z * torch.tensor([0.0, 1, 0, 1, 1, 1])[:, None],
    "nothing but zeros": lambda z: z * 0,
    "1e30": lambda z: z * 1e30,
    "1e-20": lambda z: z * 1e-20,  # the slope of 1e-30 at a temperature of 1e-12 is beyond float32
    "duplicates": lambda z: z[[0, 0, 0, 1, 1, 1]],
    "one dimension": lambda z: z[:, :1],
    "opposite": lambda z: z[[0, 0, 0, 0, 0, 0]] * torch.tensor([1.0, -1, -1, -1, -1, -1])[:, None],
}


@pytest.mark.parametrize("change", EXTREMES.values(), ids=EXTREMES)
def test_finite_embeddings_give_finite_losses(change):
    for bank in (None, made(9, 4, seed=2, dtype=torch.float32)):
        for loss in (HardContrastive(1e-4), HardContrastive(1.0, count=4), SimpleContrastive(fraction=0.3)):
            z1, z2 = (change(made(6, 4, seed=k, dtype=torch.float32)).requires_grad_() for k in range(2))
            value = loss(z1, z2) if bank is None else loss(z1, z2, bank[:, : z1.shape[1]])
            assert value.isfinite()
            assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, (z1, z2)))


def test_a_temperature_below_the_rounding_of_the_scores(monkeypatch):
    monkeypatch.setattr("counterpoint.objectives.hard._BLOCK", 1)  # a row at a time, rounded otherwise than a tile
    z1, z2 = (made(50, 37, seed=k, dtype=torch.float32).requires_grad_() for k in range(2))
    value = HardContrastive(1e-12, count=2)(z1, z2)
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, (z1, z2)))


def test_a_tile_without_negatives_spoils_no_gradient():
    """The 513th row meets only itself in the last tile, and all its negatives lie far below that."""
    z = torch.ones(513, 2) * torch.tensor([1.0, 0.01])
    z[512] = torch.tensor([-1.0, 0])
    z.requires_grad_()
    value = HardContrastive(1e-3, count=3, candidates="other")(z, z.detach())
    assert value.isfinite()
    assert torch.autograd.grad(value, z)[0].isfinite().all()


@pytest.mark.parametrize("kind", [HardContrastive, SimpleContrastive])
def test_refusals(kind):
    z, loss = made(4, 3), kind()
    for call, told in [
        (lambda: loss(z[:1], z[:1]), "z1: expected at least 2 rows"),
        (lambda: loss(z, z[:3]), "z2: expected"),
        (lambda: loss(z * torch.nan, z), "z1: .* NaN or infinite"),
        (lambda: loss(z, z, z[:, :2]), r"negatives: expected \(K, 3\), got \(4, 2\)"),
        (lambda: loss(z, z, z[:0]), "negatives: expected at least 1 row"),
        (lambda: loss(z, z, z / 0), "negatives: .* NaN or infinite"),
        (lambda: loss(z, z, z, torch.arange(4)), "exclude, exclude_keys: expected both"),
        (lambda: loss(z, z, None, torch.arange(4), torch.arange(4)), "exclude, exclude_keys: expected both"),
        (lambda: loss(z, z, z, torch.arange(3), torch.arange(4)), r"exclude: expected \(4,\) integers"),
        (lambda: loss(z, z, z, torch.arange(4), torch.rand(4)), r"exclude_keys: expected \(4,\) integers"),
        (lambda: loss(z, z, z, torch.arange(4), torch.zeros(4).long()), "negatives: expected a row of another item"),
        (lambda: kind(fraction=0), "fraction: expected"),
        (lambda: kind(fraction=1.1), "fraction: expected"),
        (lambda: kind(fraction=math.nan), "fraction: expected"),
        (lambda: kind(count=0), "count: expected at least 1"),
        (lambda: kind(candidates="all"), "candidates: expected"),
        (lambda: kind(reduction="avg"), "reduction: expected"),
        (lambda: HardContrastive(0), "temperature: expected"),
        (lambda: SimpleContrastive(-1), "lambda_: expected"),
        (lambda: SimpleContrastive(math.nan), "lambda_: expected"),
        (lambda: relative_penalty(z, 0), "temperature: expected"),
        (lambda: relative_penalty(z[0], 1), "scores: expected"),
        (lambda: relative_penalty(z[:1, :1], 1), "scores: expected a negative in each row"),
        (lambda: penalty_entropy(z / 0, 1), "scores: .* NaN or infinite"),
        (lambda: penalty_entropy(z, 1, torch.ones(3, 4).bool()), "negatives: expected"),
    ]:
        with pytest.raises(ValueError, match=f"^{told}"):
            call()
    assert loss(z[:1], z[1:2], z).isfinite()  # one query is enough against a bank


MEMORY = """
import resource, torch
from counterpoint.objectives.hard import HardContrastive
torch.set_num_threads(1)
def run(items):
    z = torch.randn(2, items, 16, requires_grad=True)
    HardContrastive(1.0, 0.5)(z[0], z[1]).backward()
run(400)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(2000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_no_matrix_of_all_pairs_is_made():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 50  # MiB, for 4,000 embeddings: their matrix has 61, what is kept with its positions 91
