"""DCL, DCLW and the coupling that they remove, against golden figures, limits and identities."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.objectives import InfoNCE, NTXent
from counterpoint.objectives.dcl import DCL, DCLW, npc_multiplier

GOLDEN = {
    key: torch.from_numpy(value) for key, value in np.load(Path(__file__).parents[1] / "golden" / "12-dcl.npz").items()
}
parity = pytest.mark.paper(12, "parity")
cases = pytest.mark.parametrize("case", ["a", "b"])
every = pytest.mark.parametrize("kind", [DCL, DCLW])


def golden(case, *names):
    return [GOLDEN[f"{case}__{name}"].clone().requires_grad_() for name in names]


def close(found, expected):
    torch.testing.assert_close(found, GOLDEN[expected], rtol=1e-7, atol=1e-9)


def pair(items=6, dim=4, seed=0):
    return torch.randn(2, items, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def options(case, *names):
    return {name: float(GOLDEN[f"{case}__{name}"]) for name in names}


@parity
@cases
@pytest.mark.parametrize(
    ("kind", "named", "more", "times"),
    [
        (DCL, "dcl", {}, 1),
        (DCLW, "dclw", {}, 1),
        (DCLW, "dclw_undetached", {"detach_weight": False}, 2),  # recorded as the sum of both directions
    ],
)
def test_values_and_gradients(case, kind, named, more, times):
    z1, z2 = golden(case, "z1", "z2")
    given = options(case, *(["temperature"] if kind is DCL else ["temperature", "sigma"]))
    loss = times * kind(**given, **more)(z1, z2)
    close(loss, f"{case}__{named}_{'loss' if times == 1 else 'sum'}")
    for gradient, name in zip(torch.autograd.grad(loss, (z1, z2)), ("z1", "z2"), strict=True):
        close(gradient, f"{case}__{named}_grad_{name}")
    single = times * kind(**given, **more)(z1.detach().float(), z2.detach().float())
    torch.testing.assert_close(single.double(), loss.detach(), rtol=2e-3, atol=1e-5)


@parity
@cases
def test_the_first_view_alone(case):
    z1, z2 = golden(case, "z1", "z2")
    terms = DCL(**options(case, "temperature"), reduction="none")(z1, z2)
    close(terms[: len(z1)].mean(), f"{case}__dcl_one_way_z1")


@parity
@cases
def test_multiplier(case):
    q1, q2 = npc_multiplier(GOLDEN[f"{case}__z1"], GOLDEN[f"{case}__z2"], **options(case, "temperature"))
    close(q1, f"{case}__npc_multiplier_view1")
    close(q2, f"{case}__npc_multiplier_view2")


@parity
@cases
def test_weights(case):
    z1, z2 = (torch.nn.functional.normalize(z, dim=1) for z in golden(case, "z1", "z2"))
    close(DCLW(**options(case, "sigma")).weight((z1 * z2).sum(1)), f"{case}__dclw_weight")


@parity
def test_queue():
    q, k, queue = golden("queue", "q", "k", "queue")
    loss = DCL(**options("queue", "temperature"))(q, k, queue)
    close(loss, "queue__loss")
    close(torch.autograd.grad(loss, q)[0], "queue__grad_q")


def test_with_a_bank_it_is_decoupled_infonce():
    z1, z2 = pair()
    bank = pair(9, seed=1)[0]
    expected = InfoNCE(0.3, positive_in_denominator=False, reduction="none")(z1, z2, bank)
    torch.testing.assert_close(DCL(0.3, reduction="none")(z1, z2, bank), expected)
    cosines = torch.nn.functional.cosine_similarity(z1, z2)
    weighted = expected + (1 - DCLW().weight(cosines)) * cosines / 0.3
    torch.testing.assert_close(DCLW(0.3, reduction="none")(z1, z2, bank), weighted)
    assert torch.isfinite(DCL()(z1[:1], z2[:1], bank))  # one query suffices where there is a bank


def test_the_multiplier_is_what_separates_the_gradients_of_ntxent():
    """The gradient of each term of NT-Xent is q times that of the same term of DCL, for all embeddings."""
    z = pair(items=4).requires_grad_()
    q = torch.cat(npc_multiplier(z[0], z[1], 0.4))
    assert not q.requires_grad
    assert (q > 0.01).all()
    assert (q < 0.999).all()
    ntxent, dcl = (kind(0.4, reduction="none")(z[0], z[1]) for kind in (NTXent, DCL))
    for i, factor in enumerate(q):
        ours, theirs = (torch.autograd.grad(terms[i], z, retain_graph=True)[0] for terms in (dcl, ntxent))
        torch.testing.assert_close(theirs, factor * ours)


def test_the_multiplier_falls_with_the_batch_and_with_easy_positives():
    z1, noise = pair(items=40)
    near, far = (npc_multiplier(z1, z1 + width * noise)[0] for width in (0.1, 0.5))
    few = npc_multiplier(z1[:8], z1[:8] + 0.5 * noise[:8])[0]
    assert near.mean() < far.mean()
    assert (few < far[:8]).all()


def test_an_easy_positive_stops_ntxent_and_not_dcl():
    """Of two items, each far from the other and equal to its other view."""
    z = torch.tensor([[1.0, 0.1], [-1.0, 0.1]], dtype=torch.float64)
    gradients = []
    for kind in (NTXent, DCL):
        z1 = z.clone().requires_grad_()
        gradients.append(torch.autograd.grad(kind(0.1)(z1, z), z1)[0].norm())
    assert max(q.max() for q in npc_multiplier(z, z, 0.1)) < 1e-7
    assert gradients[0] < 1e-7
    assert gradients[1] > 0.1


@pytest.mark.parametrize("temperature", [0.001, 0.1])
def test_a_large_sigma_makes_all_weights_one(temperature):
    z1, z2 = pair()
    torch.testing.assert_close(DCLW(temperature, sigma=1e9)(z1, z2), DCL(temperature)(z1, z2))


def test_weights_pull_at_pairs_that_are_far_apart():
    cosines = torch.tensor([0.9, 0.5, -0.2, 0.1])
    weights = DCLW().weight(cosines)
    assert weights.mean().item() == pytest.approx(1)
    assert weights.argsort().tolist() == cosines.argsort(descending=True).tolist()
    lonely = DCLW(sigma=0.05).weight(torch.tensor([1.0, -1, -1, -1, -1]))
    torch.testing.assert_close(lonely, torch.tensor([-3.0, 2, 2, 2, 2]))
    clamped = DCLW(sigma=0.05, clamp_weight=True).weight(torch.tensor([1.0, -1, -1, -1, -1]))
    torch.testing.assert_close(clamped, torch.tensor([0.0, 2, 2, 2, 2]))


@every
@pytest.mark.parametrize("items", [2, 7])
def test_equal_embeddings_cost_the_logarithm_of_the_negatives(kind, items):
    z = torch.ones(items, 3) * torch.tensor([1.0, -2, 0.5])
    for temperature in (0.2, 0.005):
        assert kind(temperature)(z, z).item() == pytest.approx(math.log(2 * items - 2), abs=1e-4)


def test_two_items_at_a_low_temperature():
    """The own and the cross view of the other item are the only negatives, in one sum."""
    z = torch.nn.functional.normalize(pair(items=2, dim=3), dim=-1)
    rows, terms = z.flatten(0, 1), []
    for i, (positive, *others) in enumerate([(2, 1, 3), (3, 0, 2), (0, 1, 3), (1, 0, 2)]):
        scores = rows[i] @ rows.T / 0.05
        terms.append(torch.logsumexp(scores[others], 0) - scores[positive])
    torch.testing.assert_close(DCL(0.05, reduction="none")(z[0], z[1]), torch.stack(terms))


@every
def test_symmetries_and_reductions(kind):
    z1, z2 = pair()
    loss, order = kind()(z1, z2), torch.tensor([3, 1, 0, 5, 4, 2])
    torch.testing.assert_close(kind()(z2, z1), loss)
    torch.testing.assert_close(kind()(z1[order], z2[order]), loss)
    torch.testing.assert_close(kind()(z1 * 1e3, z2 * 1e-3), loss)
    terms = kind(reduction="none")(z1, z2)
    assert terms.shape == (12,)
    torch.testing.assert_close(terms.mean(), loss)
    torch.testing.assert_close(kind(reduction="sum")(z1, z2), terms.sum())
    assert kind()(z1, z1) < 0


@pytest.mark.parametrize("objective", [DCL(), DCLW(detach_weight=False), DCLW(clamp_weight=True, detach_weight=False)])
def test_gradients_equal_finite_differences(objective):
    z1, z2 = pair(items=4, dim=3).requires_grad_().unbind()
    assert torch.autograd.gradcheck(objective, (z1.detach().requires_grad_(), z2.detach().requires_grad_()), atol=1e-4)


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(kind, dtype):
    z1, z2 = (z.to(dtype).requires_grad_() for z in pair())
    loss = kind()(z1, z2)
    loss.backward()
    assert loss.dtype == torch.float32
    assert z1.grad.dtype == dtype
    torch.testing.assert_close(loss.double(), kind()(z1.detach().double(), z2.detach().double()), rtol=1e-5, atol=1e-5)


@every
@pytest.mark.parametrize(
    "change", [lambda z: z * 0, lambda z: z * 1e30, lambda z: z * 1e-30, lambda z: z[[0] * 6], lambda z: z[:, :1]]
)
@pytest.mark.parametrize("temperature", [0.1, 1e-3])
def test_whatever_is_finite_has_a_finite_loss(kind, change, temperature):
    z1, z2 = (change(z.float()).requires_grad_() for z in pair())
    loss = kind(temperature)(z1, z2)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z1.grad).all()
    assert torch.isfinite(z2.grad).all()


@every
def test_what_has_no_answer_is_refused(kind):
    z = torch.randn(4, 3)
    for z1, z2, negatives, message in [
        (z[:1], z[:1], None, "z1: expected at least 2 rows"),
        (z, z[:3], None, "z2: expected"),
        (z / 0, z, None, "z1: .*NaN or infinite"),
        (z[None], z[None], None, "z1: expected \\(rows, D\\)"),
        (z, z, z[:0], "negatives: expected"),
        (z, z, z[:, :2], "negatives: expected \\(K, 3\\)"),
        (z, z, z.long(), "negatives: expected a floating-point"),
    ]:
        with pytest.raises(ValueError, match=f"^{message}"):
            kind()(z1, z2, negatives)
    for bad in ({"temperature": 0}, {"temperature": float("nan")}, {"reduction": "avg"}):
        with pytest.raises(ValueError, match=f"^{next(iter(bad))}: expected"):
            kind(**bad)
    with pytest.raises(ValueError, match=r"^sigma: expected"):
        DCLW(sigma=0)
    with pytest.raises(ValueError, match=r"^z1: expected at least 2 rows"):
        npc_multiplier(z[:1], z[:1])
