"""Feature transformation: golden figures, the closed form, what interpolation does, options."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from counterpoint.objectives import InfoNCE, score_statistics
from counterpoint.views.feature_transformation import (
    FeatureTransformation,
    extrapolate_positives,
    interpolate_negatives,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "55-feature-transformation.npz")
parity = pytest.mark.paper(55, "parity")
close = {"rtol": 1e-7, "atol": 1e-9}
CASES = {"scalar_posneg": "posneg", "elem_posneg": "posneg", "pos_only": "pos", "neg_only": "neg"}


def unit(*shape, seed=0):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


Q, K, BANK = unit(5, 8), unit(5, 8, seed=1), unit(30, 8, seed=2)


def golden(case):
    def get(name):
        found = GOLDEN.get(f"{case}_{name}")
        return None if found is None else torch.from_numpy(np.asarray(found))

    return get


@parity
@pytest.mark.parametrize(("case", "mode"), CASES.items())
def test_golden(case, mode):
    get = golden(case)
    q, temperature = get("q").requires_grad_(), float(get("temperature"))
    draws = get("lambda_pos"), get("lambda_neg"), get("perm")
    changed = FeatureTransformation(mode)(q, get("k"), get("queue"), *draws)
    objective = InfoNCE(temperature, normalize=False)
    loss = objective(*changed)
    torch.testing.assert_close(loss, get("loss"), **close)
    torch.testing.assert_close(torch.autograd.grad(loss, q)[0], get("grad_q"), **close)
    queries, keys, bank = (x.detach() for x in changed)
    positive, negative = (queries * keys).sum(1), queries @ bank.T
    torch.testing.assert_close(torch.cat([positive[:, None], negative], 1) / temperature, get("logits"), **close)
    found = score_statistics(positive, negative, temperature)
    official = (found.negative_mean, found.negative_variance, found.positive, found.exp_negative, found.exp_positive)
    torch.testing.assert_close(torch.stack(official, 1), get("score_stats"), **close)
    assert objective(*(x.float() for x in changed)).item() == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize("lam", [1.0, 1.3, 2.0])
def test_the_closed_form_of_extrapolation(lam):
    s = (Q * K).sum(1)
    q, k = extrapolate_positives(Q, K, lam)
    torch.testing.assert_close((q * k).sum(1), s + 2 * lam * (1 - lam) * (1 - s))
    torch.testing.assert_close(q.square().sum(1), 1 + 2 * lam * (lam - 1) * (1 - s))
    torch.testing.assert_close(q + k, Q + K)  # pushed apart about their middle


def test_extrapolation_makes_pairs_harder_and_interpolation_easier():
    s = (Q * K).sum(1)
    for _ in range(20):
        q, k = extrapolate_positives(Q, K)
        assert ((q * k).sum(1) < s).all()
        q, k, _ = FeatureTransformation("pos", positives="interpolate")(Q, K, BANK)
        assert ((q * k).sum(1) > s).all()


def test_equal_pairs_stay_and_opposite_ones_do_not_overflow():
    for same in extrapolate_positives(Q, Q, 1.7):
        torch.testing.assert_close(same, Q)
    q, k = extrapolate_positives(Q.float(), -Q.float(), 2.0)
    torch.testing.assert_close((q * k).sum(1), torch.full((5,), -9.0))
    assert torch.isfinite(InfoNCE(0.02, normalize=False)(q, k, BANK.float()))


def test_the_gradient_flows_through_the_key_that_holds_the_query():
    lam, q = 1.4, Q.clone().requires_grad_()
    moved, k = extrapolate_positives(q, K, lam)
    gradient = torch.autograd.grad((moved * k).sum(), q)[0]
    torch.testing.assert_close(gradient, (lam**2 + (1 - lam) ** 2) * K + 2 * lam * (1 - lam) * Q)
    objective = InfoNCE(0.3, normalize=False)
    permutation = torch.arange(30).flip(0)
    transformation = FeatureTransformation()
    assert torch.autograd.gradcheck(lambda x: objective(*transformation(x, K, BANK, lam, 0.3, permutation)), (q,))


def test_interpolation_mixes_each_with_another():
    permutation = torch.randperm(30)
    for mu in (0.0, 0.3, 1.0):
        found = interpolate_negatives(BANK, mu, permutation)
        torch.testing.assert_close(found, mu * BANK + (1 - mu) * BANK[permutation])
    found = interpolate_negatives(BANK)
    assert found.shape == BANK.shape
    assert (found.norm(dim=1) <= 1 + 1e-9).all()
    torch.testing.assert_close(found.mean(0), BANK.mean(0))  # nothing is lost or doubled
    torch.testing.assert_close(interpolate_negatives(BANK[:1]), BANK[:1])  # with itself


def test_modes_leave_the_rest_alone():
    q, k, bank = FeatureTransformation("neg")(Q, K, BANK)
    assert q is Q
    assert k is K
    assert not torch.equal(bank, BANK)
    q, _, bank = FeatureTransformation("pos")(Q, K, BANK)
    assert bank is BANK
    assert not torch.equal(q, Q)


def test_without_change_it_is_plain_info_nce():
    changed = FeatureTransformation()(Q, K, BANK, 1.0, 1.0)
    torch.testing.assert_close(InfoNCE(0.2, normalize=False)(*changed), InfoNCE(0.2)(Q, K, BANK))


@pytest.mark.parametrize(("elementwise", "pos", "neg"), [("none", 0, 0), ("both", 1, 1), ("pos", 1, 0), ("neg", 0, 1)])
def test_one_weight_for_the_step_or_one_for_each_entry(elementwise, pos, neg):
    q, _, bank = FeatureTransformation(elementwise=elementwise)(Q, K, BANK, permutation=torch.arange(30).roll(1))
    lam = (q - K) / (Q - K)
    mu = (bank - BANK.roll(1, 0)) / (BANK - BANK.roll(1, 0))
    for weights, every, low in ((lam, pos, 1), (mu, neg, 0)):
        assert weights.min() > low - 1e-9
        assert weights.max() < low + 1 + 1e-9
        assert (weights.std() > 0.05) == bool(every)


def test_renormalised_pairs_are_unit_vectors():
    q, k, bank = FeatureTransformation(postmix_norm=True)(Q, K, BANK)
    for x in (q, k):
        torch.testing.assert_close(x.norm(dim=1), torch.ones(5, dtype=torch.float64))
    assert (bank.norm(dim=1) < 1).any()  # negatives are left as they are, as in the official code


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "both"},
        {"elementwise": "all"},
        {"positives": "mix"},
        {"pos_alpha": 0},
        {"neg_alpha": float("nan")},
    ],
)
def test_options_are_named(options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: expected"):
        FeatureTransformation(**options)


def test_shapes_are_named():
    with pytest.raises(ValueError, match=r"^keys: "):
        extrapolate_positives(Q, K[:4])
    with pytest.raises(ValueError, match=r"^permutation: "):
        interpolate_negatives(BANK, permutation=torch.arange(29))
    with pytest.raises(ValueError, match=r"^weight: "):
        interpolate_negatives(BANK, torch.rand(30))
