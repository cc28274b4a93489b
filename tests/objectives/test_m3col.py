"""M3CoL's losses: golden figures with and without the official fixed points, definitions, limits, refusals."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from counterpoint.objectives import GroupInfoNCE, M3CoLoss, MultimodalMixupContrastive, SoftTargetContrastiveLoss
from counterpoint.views.features import mixup_embeddings

ARCHIVE = np.load(Path(__file__).parents[1] / "golden" / "15-m3col.npz")
GOLDEN = {name: torch.from_numpy(np.asarray(ARCHIVE[name])) for name in ARCHIVE.files}
parity = pytest.mark.paper(15, "parity")
close = {"rtol": 1e-7, "atol": 1e-9}


def made(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@parity
@pytest.mark.parametrize("case", ["mix", "mix_fixed"])
@pytest.mark.parametrize("compat", [None, "official"])
def test_golden_mixtures(case, compat):
    """Value and gradient through the mixing; without fixed points both targets are the same."""
    a, b, perm, lam = (GOLDEN[f"{case}.{name}"] for name in ("a", "b", "perm", "lam"))
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    drawn = mixup_embeddings(a, perm=perm, lam=lam)
    torch.testing.assert_close(drawn.mixed, GOLDEN[f"{case}.mixed"], **close)
    loss = M3CoLoss(compat=compat)(drawn.mixed, b, perm, lam)
    end = "_official" if compat else ""
    torch.testing.assert_close(loss, GOLDEN[f"{case}.loss{end}"], **close)
    found = torch.autograd.grad(loss, (a, b))
    torch.testing.assert_close(found[0], GOLDEN[f"{case}.grad_a{end}"], **close)
    torch.testing.assert_close(found[1], GOLDEN[f"{case}.grad_b{end}"], **close)
    single = M3CoLoss(compat=compat)(drawn.mixed.float(), b.float(), perm, lam.float())
    assert single.item() == pytest.approx(loss.item(), rel=2e-3)


@parity
@pytest.mark.parametrize("case", ["mix", "mix_fixed"])
def test_golden_one_way(case):
    b, perm, lam, mixed = (GOLDEN[f"{case}.{name}"] for name in ("b", "perm", "lam", "mixed"))
    loss = M3CoLoss(symmetric=False, compat="official")(mixed, b, perm, lam)
    torch.testing.assert_close(loss, GOLDEN[f"{case}.loss_official_oneway"], **close)


@parity
@pytest.mark.parametrize("detached", [False, True])
def test_golden_soft_targets(detached):
    x, y = (GOLDEN[f"soft.{name}"].clone().requires_grad_() for name in ("preds", "targets"))
    loss = SoftTargetContrastiveLoss(detach_targets=detached)(x, y)
    torch.testing.assert_close(loss, GOLDEN["soft.loss"], **close)
    found, end = torch.autograd.grad(loss, (x, y)), "_detached" if detached else ""
    torch.testing.assert_close(found[0], GOLDEN[f"soft.grad_preds{end}"], **close)
    torch.testing.assert_close(found[1], GOLDEN[f"soft.grad_targets{end}"], **close)


@parity
@pytest.mark.parametrize("phase", ["m3co", "softclip"])
def test_golden_cycle(phase):
    z, loss = GOLDEN["tri.embeddings"].clone().requires_grad_(), MultimodalMixupContrastive()
    drawn = [
        mixup_embeddings(x, perm=p, lam=s) for x, p, s in zip(z, GOLDEN["tri.perms"], GOLDEN["tri.lams"], strict=True)
    ]
    got = loss(list(z), drawn if phase == "m3co" else None)
    torch.testing.assert_close(got, GOLDEN[f"tri.loss_{phase}"], **close)
    torch.testing.assert_close(torch.autograd.grad(got, z)[0], GOLDEN[f"tri.grad_{phase}"], **close)


def written_out(mixed, other, perm, lam, temperature):
    """The definition, from the matrix of targets; a row at a time."""
    scores = normalize(mixed, dim=1) @ normalize(other, dim=1).T / temperature
    targets = torch.zeros_like(scores)
    for i, (j, share) in enumerate(zip(perm.tolist(), lam.tolist(), strict=True)):
        targets[i, i] += share
        targets[i, j] += 1 - share
    rows, columns = scores.log_softmax(1), scores.log_softmax(0)
    return -((targets * rows).sum(1) + (targets * columns).sum(0)) / 2


def test_the_definition_term_by_term():
    perm, lam = torch.tensor([1, 1, 0, 3, 3]), torch.tensor([0.2, 1.0, 0.0, 0.6, 0.9], dtype=torch.float64)
    mixed, other = made(5, 3), made(5, 3, seed=1)  # not a permutation: sources may be shared
    got = M3CoLoss(0.3, reduction="none")(mixed, other, perm, lam)
    torch.testing.assert_close(got, written_out(mixed, other, perm, lam, 0.3))


def test_soft_targets_are_those_of_the_second_modality_in_both_directions():
    x, y = made(5, 3), made(5, 3, seed=1)
    u, v = normalize(x, dim=1), normalize(y, dim=1)
    targets, scores = (v @ v.T / 0.2).softmax(1), u @ v.T / 0.2
    expected = -((targets * scores.log_softmax(1)).sum(1) + (targets * scores.T.log_softmax(1)).sum(1)) / 2
    torch.testing.assert_close(SoftTargetContrastiveLoss(0.2, reduction="none")(x, y), expected)


def test_unmixed_it_is_clip():
    x, y, perm = made(6, 4), made(6, 4, seed=1), torch.randperm(6, generator=torch.Generator().manual_seed(0))
    ones = torch.ones(6, dtype=torch.float64)
    torch.testing.assert_close(M3CoLoss(0.3)(x, y, perm, ones), GroupInfoNCE(0.3)(x, y))
    torch.testing.assert_close(M3CoLoss(0.3)(x, y, torch.arange(6), ones * 0.3), GroupInfoNCE(0.3)(x, y))
    # all of the weight on the other source: pairs that are shuffled
    torch.testing.assert_close(M3CoLoss(0.3)(x, y[perm.argsort()], perm, ones * 0), GroupInfoNCE(0.3)(x, y))


def test_cold_soft_targets_are_clip():
    x, y = made(6, 4), made(6, 4, seed=1)
    y = torch.linalg.qr(made(6, 6))[0]  # far apart, so that each is its own only target
    x = made(6, 6)
    got, clip = SoftTargetContrastiveLoss(0.01)(x, y), GroupInfoNCE(0.01)(x, y)
    torch.testing.assert_close(got, clip, rtol=1e-6, atol=1e-6)


def test_the_phases_and_their_pairs():
    z = {name: made(5, 4, seed=at) for at, name in enumerate("abc")}
    a, b, c = z.values()
    soft = SoftTargetContrastiveLoss()
    loss = MultimodalMixupContrastive()
    torch.testing.assert_close(loss(z), soft(a, b) + soft(b, c) + soft(c, a))
    torch.testing.assert_close(loss([a, b]), soft(a, b) + soft(b, a))
    pairs = MultimodalMixupContrastive("pairs")
    back = soft(b, a) + soft(c, b) + soft(a, c)
    torch.testing.assert_close(pairs(torch.stack([a, b, c])), loss(z) + back)
    torch.testing.assert_close(pairs([a, b]), loss([a, b]))
    drawn = [mixup_embeddings(x) for x in z.values()]
    mixing = M3CoLoss()
    torch.testing.assert_close(
        loss(z, drawn), sum(mixing(m.mixed, o, m.perm, m.lam) for m, o in zip(drawn, (b, c, a), strict=True))
    )
    assert [MultimodalMixupContrastive(switch=0.33).mixes(p) for p in (0, 0.32, 0.33, 1)] == [True, True, False, False]
    assert not MultimodalMixupContrastive(switch=0).mixes(0)


def test_gradients_equal_finite_differences():
    x, y = made(4, 3).requires_grad_(), made(4, 3, seed=1).requires_grad_()
    perm, lam = torch.tensor([2, 1, 0, 3]), torch.tensor([0.3, 0.5, 0.9, 1.0], dtype=torch.float64)
    for loss in (M3CoLoss(), M3CoLoss(compat="official"), M3CoLoss(symmetric=False)):
        assert torch.autograd.gradcheck(lambda a, b, loss=loss: loss(a, b, perm, lam), (x, y), atol=1e-4)
    assert torch.autograd.gradcheck(SoftTargetContrastiveLoss(), (x, y), atol=1e-4)
    soft = SoftTargetContrastiveLoss(detach_targets=True)
    assert torch.autograd.gradcheck(lambda a: soft(a, y), (x,), atol=1e-4)


def test_one_item_costs_nothing():
    x, y = made(1, 3).requires_grad_(), made(1, 3, seed=1).requires_grad_()
    for got in (
        SoftTargetContrastiveLoss()(x, y),
        M3CoLoss()(x, y, torch.zeros(1).long(), torch.tensor([0.4])),
    ):
        assert got.item() == pytest.approx(0, abs=1e-12)
        assert all(g.abs().max() < 1e-9 for g in torch.autograd.grad(got, (x, y), materialize_grads=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("change", [lambda x: x * 0, lambda x: x * 1e30, lambda x: x[:1].expand_as(x)])
def test_finite_embeddings_give_finite_losses(dtype, change):
    x, y = change(made(6, 4, dtype=torch.float32)), made(6, 4, seed=1, dtype=torch.float32)
    for first, second in ((x, y), (y, x), (x, x)):
        z = [v.clone().to(dtype).requires_grad_() for v in (first, second)]
        drawn = [mixup_embeddings(v, select_prob=1) for v in z]
        loss = MultimodalMixupContrastive()
        for got in (loss(z), loss(z, drawn)):
            gradients = torch.autograd.grad(got, z, retain_graph=True)
            assert got.dtype == torch.float32
            assert torch.isfinite(got)
            assert all(torch.isfinite(g).all() for g in gradients)


def test_refusals():
    x, y, perm, lam = made(4, 3), made(4, 3, seed=1), torch.tensor([1, 2, 3, 0]), torch.full((4,), 0.5)
    loss = M3CoLoss()
    for given, message in (
        ((x * math.nan, y, perm, lam), "mixed: .*NaN"),
        ((x, y[:3], perm, lam), r"other: expected \(4, 3\)"),
        ((x, y, perm[:3], lam), r"perm: expected integers \(4,\)"),
        ((x, y, lam, lam), r"perm: expected integers \(4,\)"),
        ((x, y, perm + 1, lam), "perm: expected rows 0 to 3, got 1 to 4"),
        ((x, y, perm, perm), r"lam: expected floating-point \(4,\)"),
        ((x, y, perm, lam * 3), "lam: expected shares from 0 to 1"),
        ((x, y, perm, lam * math.nan), "lam: expected shares from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            loss(*given)
    for kind, options, name in (
        (M3CoLoss, {"compat": "paper"}, "compat"),
        (M3CoLoss, {"temperature": 0}, "temperature"),
        (SoftTargetContrastiveLoss, {"temperature": -1}, "temperature"),
        (MultimodalMixupContrastive, {"mode": "ring"}, "mode"),
        (MultimodalMixupContrastive, {"switch": 1.5}, "switch"),
        (MultimodalMixupContrastive, {"soft_temperature": 0}, "soft_temperature"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            kind(**options)
    both = MultimodalMixupContrastive()
    with pytest.raises(ValueError, match=r"^mixtures: expected 2, one of each modality, got 1"):
        both([x, y], [mixup_embeddings(x)])
    with pytest.raises(ValueError, match=r"^z: expected at least 2 modalities"):
        both([x])
