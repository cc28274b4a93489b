"""Symile and pairwise CLIP: golden figures, the candidates that are in the sums, limits, the bound, refusals."""

import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from counterpoint.objectives import (
    GroupInfoNCE,
    PairwiseCLIPLoss,
    SymileLoss,
    mip_scores,
    multilinear_inner_product,
    pairwise_scores,
)
from counterpoint.objectives import symile as module

ROOT = Path(__file__).parents[2]
ARCHIVE = np.load(ROOT / "tests" / "golden" / "40-symile.npz")
GOLDEN = {name: torch.from_numpy(np.asarray(ARCHIVE[name])) for name in ARCHIVE.files}
parity = pytest.mark.paper(40, "parity")
close = {"rtol": 1e-7, "atol": 1e-9}


def made(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def made_orders(modalities, items):
    """Permutations (M, M - 1, N)."""
    generator, shape = torch.Generator().manual_seed(5), (modalities, modalities - 1, items)
    drawn = [torch.randperm(items, generator=generator) for _ in range(modalities * (modalities - 1))]
    return torch.stack(drawn).view(shape)


def along_the_sphere(gradient, units):
    """What is left of the gradient of unit vectors, which the authors' loss takes as they are, if lengths are free."""
    return gradient - (gradient * units).sum(-1, keepdim=True) * units


def check(loss, case, value, gradient, **options):
    """Value, both gradients, lengths that do not matter, and float32."""
    reps, scale = (
        GOLDEN[f"{case}.reps"].clone().requires_grad_(),
        GOLDEN[f"{case}.logit_scale"].clone().requires_grad_(),
    )
    got = loss(list(reps), scale, **options)
    torch.testing.assert_close(got, GOLDEN[f"{case}.{value}"], **close)
    found = torch.autograd.grad(got, (reps, scale), allow_unused=True)
    torch.testing.assert_close(found[0], along_the_sphere(GOLDEN[f"{case}.{gradient}"], reps.detach()), **close)
    if f"{case}.grad_logit_scale" in GOLDEN:
        torch.testing.assert_close(found[1], GOLDEN[f"{case}.grad_logit_scale"], **close)
    lengths = torch.logspace(-3, 3, reps.shape[1], dtype=torch.float64)[:, None]
    torch.testing.assert_close(loss(reps.detach() * lengths, scale.detach(), **options), got.detach())
    single = loss(list(reps.detach().float()), scale.detach().float(), **options)
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(got.item(), rel=2e-3)


@parity
@pytest.mark.parametrize("case", ["n3", "n4"])
def test_golden_permutations(case):
    check(SymileLoss(), case, "loss", "grad_reps", permutations=GOLDEN[f"{case}.perms"])


@parity
@pytest.mark.parametrize("case", ["sq3", "sq4"])
@pytest.mark.parametrize("chunk", [module._CHUNK, 20])
def test_golden_all_combinations(case, chunk, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", chunk)  # the second: a few candidates at a time
    check(SymileLoss("all"), case, "loss", "grad_reps")


@parity
def test_golden_pairwise():
    check(PairwiseCLIPLoss(), "pair", "loss_pairwise_clip", "grad_reps")


@parity
def test_golden_scores():
    queries, scale = list(GOLDEN["pair.reps"][1:]), GOLDEN["pair.logit_scale"]
    candidates = GOLDEN["pair.candidates"]
    torch.testing.assert_close(mip_scores(candidates, queries), GOLDEN["pair.mip"], **close)
    torch.testing.assert_close(mip_scores(candidates, queries, scale), GOLDEN["pair.zeroshot_symile"], **close)
    torch.testing.assert_close(pairwise_scores(candidates, queries, scale), GOLDEN["pair.zeroshot_clip"], **close)
    everything = multilinear_inner_product([candidates[None], *(q[:, None] for q in queries)])
    torch.testing.assert_close(everything, GOLDEN["pair.mip"], **close)


@parity
@pytest.mark.parametrize("case", ["n3", "n4"])
def test_golden_logits(case):
    """Off the diagonal the shuffled tuples of the first anchor, on it the items' own."""
    reps, perms = GOLDEN[f"{case}.reps"], GOLDEN[f"{case}.perms"][0]
    shuffled = [r[p] for r, p in zip(reps[1:], perms, strict=True)]
    logits = mip_scores(reps[0], shuffled).T.clone()
    logits[range(len(logits)), range(len(logits))] = multilinear_inner_product(list(reps))
    torch.testing.assert_close(logits, GOLDEN[f"{case}.logits_anchor0"], **close)


def written_out(z, scale, permutations=None):
    """The definition, candidate by candidate: mean over anchors and items."""
    units, items = [normalize(x, dim=1) for x in z], len(z[0])
    terms = []
    for m, anchor in enumerate(units):
        others = units[:m] + units[m + 1 :]
        for i in range(items):
            own = math.prod(others)[i] @ anchor[i]
            if permutations is None:
                rest = [rows for rows in itertools.product(range(items), repeat=len(others)) if set(rows) != {i}]
            else:
                rest = [tuple(p[j].item() for p in permutations[m]) for j in range(items) if j != i]
            scores = [math.prod(o[row] for o, row in zip(others, rows, strict=True)) @ anchor[i] for rows in rest]
            terms.append(cross_entropy(torch.stack([own, *scores]) * scale, torch.tensor(0)))
    return torch.stack(terms)


@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_the_definition(modalities):
    z = [made(4, 5, seed=m) for m in range(modalities)]
    expected = written_out(z, 7.0)
    torch.testing.assert_close(SymileLoss("all", 1 / 7, reduction="none")(z), expected)
    orders = made_orders(modalities, 4)
    loss = SymileLoss("n", 1 / 7, reduction="none")
    torch.testing.assert_close(loss(z, permutations=orders), written_out(z, 7.0, orders))


def test_two_modalities_and_all_negatives_are_clip():
    x, y = made(6, 4), made(6, 4, seed=1)
    torch.testing.assert_close(SymileLoss("all", 0.2)([x, y]), GroupInfoNCE(0.2)(x, y))
    torch.testing.assert_close(PairwiseCLIPLoss(0.2)([x, y]), GroupInfoNCE(0.2)(x, y))


def test_pairs_are_added_or_averaged():
    z = {name: made(5, 4, seed=at) for at, name in enumerate("abc")}
    pairs = PairwiseCLIPLoss(reduction="none")(z)
    expected = [GroupInfoNCE()(z[a], z[b]) for a, b in (("a", "b"), ("a", "c"), ("b", "c"))]
    torch.testing.assert_close(pairs, torch.stack(expected))
    torch.testing.assert_close(PairwiseCLIPLoss()(z), pairs.sum())
    torch.testing.assert_close(PairwiseCLIPLoss(reduction="mean")(z), pairs.mean())


@pytest.mark.parametrize("negatives", ["n", "all"])
def test_a_modality_of_ones_drops_out(negatives):
    """A constant factor leaves the tuples of the others, each as often as there are rows of it."""
    z, loss = [made(5, 4), made(5, 4, seed=1)], SymileLoss(negatives, 0.1, reduction="none")
    constant = [*z, torch.ones(5, 4, dtype=torch.float64)]
    if negatives == "all":
        pair = SymileLoss("all", 0.2, reduction="none")(z)  # ones have length 2: 1/0.1 * 1/2
        torch.testing.assert_close(loss(constant)[:10], pair + math.log(5))
    assert torch.isfinite(loss(constant)).all()


def test_signs_of_two_modalities_and_their_order_do_not_matter():
    z = [made(5, 4, seed=m) for m in range(3)]
    loss = SymileLoss("all")
    expected = loss(z)
    torch.testing.assert_close(loss([-z[0], -z[1], z[2]]), expected)
    torch.testing.assert_close(loss([z[2], z[0], z[1]]), expected)
    torch.testing.assert_close(loss(torch.stack(z)), expected)
    torch.testing.assert_close(loss({"image": z[0], "text": z[1], "audio": z[2]}), expected)
    assert not torch.isclose(loss([-z[0], z[1], z[2]]), expected)


def test_each_anchor_and_modality_has_a_permutation_of_its_own():
    loss = SymileLoss(generator=torch.Generator().manual_seed(0))
    units = [made(50, 3, seed=m) for m in range(4)]
    drawn = loss._permutations(None, units)
    assert drawn.shape == (4, 3, 50)
    assert len({tuple(p.tolist()) for p in drawn.flatten(0, 1)}) == 12
    assert (drawn.sort(-1)[0] == torch.arange(50)).all()
    again = SymileLoss(generator=torch.Generator().manual_seed(0))
    assert (again._permutations(None, units) == drawn).all()
    torch.manual_seed(3)
    first = SymileLoss()(units)
    assert SymileLoss()(units) != first  # drawn anew at each call
    torch.manual_seed(3)
    assert SymileLoss()(units) == first


@pytest.mark.parametrize("negatives", ["n", "all"])
def test_gradients_equal_finite_differences(negatives, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 12)
    z = [made(4, 3, seed=m).requires_grad_() for m in range(3)]
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    orders = torch.stack([torch.randperm(4, generator=torch.Generator().manual_seed(m)) for m in range(6)]).view(
        3, 2, 4
    )
    orders = orders if negatives == "n" else None
    loss = SymileLoss(negatives)
    assert torch.autograd.gradcheck(lambda a, b, c, s: loss([a, b, c], s, orders), (*z, scale))
    assert torch.autograd.gradcheck(lambda a, b, c, s: PairwiseCLIPLoss()([a, b, c], s), (*z, scale))


def test_xor_is_seen_by_symile_and_not_by_pairs():
    """Codes for which the sum over k of the product is 1 for a XOR b = c and -1 otherwise; no pair tells anything."""
    bits = torch.tensor(list(itertools.product([0, 1], [0, 1])), dtype=torch.float64).repeat(8, 1)
    a, b = (2 * bits - 1).split(1, 1)
    z = [torch.cat([x, torch.zeros_like(x)], 1) for x in (a, b, a * b)]
    symile, pairs = SymileLoss("all", 0.05), PairwiseCLIPLoss(0.05, reduction="none")
    # of 32^2 candidates half are right, and the loss cannot tell them apart: log 512, where chance is log 1024
    assert symile(z).item() == pytest.approx(math.log(512), abs=1e-6)
    assert pairs(z).mean().item() > math.log(32)  # worse than telling nothing, which is the best that pairs can do
    signs = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    right = (mip_scores(signs, z[:2]).argmax(1) == (a * b < 0)[:, 0]).double().mean()
    assert right == 1
    told = pairwise_scores(signs, z[:2]).diff(dim=1)[:, 0]  # for a = b = -1, a = -1 and b = 1, and so on
    torch.testing.assert_close(told[:4], torch.tensor([4.0, 0, 0, -4], dtype=torch.float64))


def test_log_of_the_candidates_minus_the_loss_is_below_the_total_correlation():
    """The XOR has one bit of total correlation; the codes above attain the bound as the temperature falls."""
    bits = torch.tensor(list(itertools.product([0, 1], [0, 1])), dtype=torch.float64).repeat(8, 1)
    a, b = (2 * bits - 1).split(1, 1)
    z = [torch.cat([x, torch.zeros_like(x)], 1) for x in (a, b, a * b)]
    bounds = [math.log(1024) - SymileLoss("all", t)(z).item() for t in (10.0, 1.0, 0.1, 0.01)]
    assert bounds == sorted(bounds)
    assert all(bound <= math.log(2) + 1e-9 for bound in bounds)
    assert bounds[-1] == pytest.approx(math.log(2))


def test_a_prior_turns_scores_into_a_posterior():
    candidates, queries = made(3, 4), [made(2, 4, seed=1), made(2, 4, seed=2)]
    prior = torch.tensor([6.0, 3.0, 0.0], dtype=torch.float64)
    for scores in (mip_scores, pairwise_scores):
        plain, weighted = scores(candidates, queries, 5.0), scores(candidates, queries, 5.0, prior)
        posterior = plain.exp() * prior
        torch.testing.assert_close(weighted.softmax(1), posterior / posterior.sum(1, keepdim=True))
        assert (weighted[:, 2] == -math.inf).all()
        torch.testing.assert_close(scores(candidates, queries, 5.0, prior * 7), weighted)
    for wrong in (prior[:2], -prior, prior * 0, prior * math.nan):
        with pytest.raises(ValueError, match=r"^prior: expected \(3,\) finite frequencies"):
            mip_scores(candidates, queries, prior=wrong)


def test_one_item_costs_nothing():
    z = [made(1, 4, seed=m).requires_grad_() for m in range(3)]
    for negatives in ("n", "all"):
        loss = SymileLoss(negatives)(z)
        assert loss.item() == pytest.approx(0, abs=1e-12)
        assert all(torch.isfinite(g).all() and g.abs().max() < 1e-9 for g in torch.autograd.grad(loss, z))
    with pytest.raises(ValueError, match="expected at least 2 rows"):
        PairwiseCLIPLoss()(z)


@pytest.mark.parametrize("negatives", ["n", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("change", [lambda x: x * 0, lambda x: x * 1e30, lambda x: x[:1].expand_as(x), lambda x: x])
def test_finite_embeddings_give_finite_losses(negatives, dtype, change):
    z = [made(6, 4, dtype=torch.float32), change(made(6, 4, seed=1, dtype=torch.float32)), made(6, 4, seed=2)]
    z = [x.to(dtype).requires_grad_() for x in z]
    for temperature in (0.07, 0.005):
        loss = SymileLoss(negatives, temperature)(z)
        loss.backward()
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)
        assert all(torch.isfinite(x.grad).all() for x in z)
    if change(torch.ones(2)).sum() == 0:  # all scores of a zero vector are 0
        count = 6 if negatives == "n" else 36
        zeros = [torch.zeros(6, 4), *z[1:]]
        assert SymileLoss(negatives)(zeros).item() == pytest.approx(math.log(count), rel=1e-5)


REFUSED = {
    "one modality": (lambda z: z[:1], r"^z: expected at least 2 modalities, got 1"),
    "none": (lambda z: [], r"^z: expected at least 2 modalities, got 0"),
    "one table": (lambda z: z[0], r"^z: expected \(M, N, D\) or a sequence of \(N, D\), got \(4, 3\)"),
    "rows that differ": (lambda z: [z[0], z[1][:2], z[2]], r"^z\[1\]: expected \(4, 3\)"),
    "dimensions that differ": (lambda z: [z[0], z[1], z[2][:, :2]], r"^z\[2\]: expected \(4, 3\)"),
    "NaN": (lambda z: [z[0], z[1] * math.nan, z[2]], r"^z\[1\]: .*NaN or infinite"),
    "NaN by name": (lambda z: {"image": z[0], "text": z[1] * math.inf}, r"^z\['text'\]: .*NaN or infinite"),
    "integers": (lambda z: [z[0], z[1].long()], r"^z\[1\]: expected a floating-point tensor"),
    "no rows": (lambda z: [x[:0] for x in z], r"^z\[0\]: expected at least 1 row"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("loss", [SymileLoss(), SymileLoss("all"), PairwiseCLIPLoss()], ids=["n", "all", "pairs"])
def test_refusals(loss, change, message):
    with pytest.raises(ValueError, match=message):
        loss(change([made(4, 3, seed=m) for m in range(3)]))


def test_refused_options():
    z = [made(4, 3, seed=m) for m in range(3)]
    for options, message in (
        ({"negatives": "n2"}, "negatives: expected 'n' or 'all'"),
        ({"temperature": 0}, "temperature: expected"),
        ({"reduction": "max"}, "reduction: expected"),
        ({"max_candidates": 0}, "max_candidates: expected"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            SymileLoss(**options)
    with pytest.raises(ValueError, match=r"^scale: expected a finite number above 0"):
        SymileLoss()(z, torch.tensor(-1.0))
    with pytest.raises(ValueError, match=r"^negatives: all combinations of 3 modalities .* are 16 candidates"):
        SymileLoss("all", max_candidates=15)(z)
    SymileLoss("all", max_candidates=16)(z)
    for wrong in (torch.zeros(3, 2, 4).long(), torch.arange(4), torch.arange(4.0).expand(3, 2, 4)):
        with pytest.raises(ValueError, match=r"^permutations: expected integers \(3, 2, 4\)"):
            SymileLoss()(z, permutations=wrong)
    with pytest.raises(ValueError, match=r"^candidates: expected \(C, 3\)"):
        mip_scores(made(5, 4), z)
    with pytest.raises(ValueError, match=r"^queries: expected at least 1"):
        mip_scores(made(5, 4), [])
    for tensors in ([z[0]], [z[0], z[1][:, :2]], [z[0], z[1][:3]], [z[0], z[1][:, :1]]):
        with pytest.raises(ValueError, match=r"^z: (expected|shapes)"):
            multilinear_inner_product(tensors)


def test_factors_are_not_changed_and_broadcast():
    a, b = made(4), made(5, 1, 4)
    before = a.clone(), b.clone()
    assert multilinear_inner_product([a, b, made(3, 4)]).shape == (5, 3)
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])


MEMORY = """
import torch
from counterpoint.objectives import SymileLoss
from counterpoint.objectives import symile
from counterpoint.pairwise import partition
torch.set_num_threads(1)
partition._KEPT_BYTES = 0
symile._CHUNK = 1 << 18
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
def run(negatives, items):
    SymileLoss(negatives)(torch.randn(3, items, 16, requires_grad=True)).backward()
for negatives, items in (("n", 4096), ("all", 256)):
    run(negatives, 100)
    open("/proc/self/clear_refs", "w").write("5")
    before = peak()
    run(negatives, items)
    print(round(peak() - before))
"""


def test_neither_logits_nor_candidates_are_kept():
    """The logits of 4,096 rows have 64 MiB an anchor, and so have those of 256 rows and all 65,536 candidates."""
    run = [sys.executable, "-c", MEMORY]
    done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=ROOT)
    shuffled, combined = map(int, done.stdout.split())
    assert shuffled < 60
    assert combined < 60
