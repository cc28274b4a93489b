"""CACR: the official figures, the equations written out pair by pair, what it becomes at its limits, and refusals."""

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize
from torch.utils._python_dispatch import TorchDispatchMode

from counterpoint.objectives.cacr import CACR, CACRMoCoV3, CACRQueue

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "10-cacr.npz")
CASES = ("multi_k4", "pair_k1")
CHOICES = {"full": "full", "none": "none", "without_w1": "repulsion", "without_w2": "attraction"}


def golden(case, *names):
    return [torch.from_numpy(GOLDEN[f"{case}__{name}"]) for name in names]


def close(found, case, name, **tolerance):
    torch.testing.assert_close(
        found.double(), *golden(case, name), **({"rtol": 1e-7, "atol": 1e-9} | tolerance), check_dtype=False
    )


def scales(case):
    return {name: float(GOLDEN[f"{case}__{name}"]) for name in ("alpha", "beta", "tau_pos", "tau_neg")}


def options(case, choice):
    more = {
        "detached": {"detach_weights": True},
        "debiased": {"tau_plus": float(GOLDEN[f"{case}__debiased_tau_plus"])},
        "rbf": {"cost": "rbf", "rbf_t": float(GOLDEN[f"{case}__rbf_t"])},
    }
    return scales(case) | ({"weights": CHOICES[choice]} if choice in CHOICES else more[choice])


class TestGolden:
    @pytest.mark.paper(10, "parity")
    @pytest.mark.parametrize("choice", [*CHOICES, "detached", "debiased", "rbf"])
    @pytest.mark.parametrize("case", CASES)
    def test_the_batch(self, case, choice):
        (z,) = golden(case, "views")
        objective = CACR(**options(case, choice))
        for name, term in objective.components(z).items():
            if f"{case}__{choice}_{name}" in GOLDEN:
                close(term, case, f"{choice}_{name}")
        loss = objective(z.requires_grad_())
        close(loss, case, f"{'full' if choice == 'detached' else choice}_loss")
        close(torch.autograd.grad(loss, z)[0], case, f"{choice}_grad")

    @pytest.mark.paper(10, "parity")
    def test_the_queue(self):
        queries, keys, queue = golden("queue", "queries", "keys", "queue")
        objective = CACRQueue(**scales("queue"), intra_batch=bool(GOLDEN["queue__intra_batch"]))
        for name, term in objective.components(queries, keys, queue).items():
            close(term, "queue", name)
        loss = objective(queries.requires_grad_(), keys, queue)
        close(loss, "queue", "loss")
        close(torch.autograd.grad(loss, queries)[0], "queue", "grad")

    @pytest.mark.paper(10, "parity")
    @pytest.mark.parametrize(("cost", "name"), [("rbf", "rbf"), ("euclidean", "euclid")])
    def test_moco_v3(self, cost, name):
        """The figures have one key and the queries of the other views: here the key's own view stands before them."""
        queries, key, temperature = golden("moco", "queries", "key", "temperature")
        queries = torch.cat([torch.randn_like(key)[None], queries]).requires_grad_()
        loss = CACRMoCoV3(float(temperature), cost)(queries, key[None])
        close(loss, "moco", f"{name}_loss")
        (gradient,) = torch.autograd.grad(loss, queries)
        close(gradient[1:], "moco", f"{name}_grad")
        assert (gradient[0] == 0).all()

    @pytest.mark.paper(10, "parity")
    def test_float32(self):
        (z,) = golden("multi_k4", "views")
        loss = CACR(**scales("multi_k4"))(z.float())
        assert loss.dtype == torch.float32
        close(loss, "multi_k4", "full_loss", rtol=2e-3)
        queries, keys, queue = (x.float() for x in golden("queue", "queries", "keys", "queue"))
        close(CACRQueue(**scales("queue"))(queries, keys, queue), "queue", "loss", rtol=2e-3)


def example(views=3, items=5, dim=4, seed=0, dtype=torch.float64):
    return torch.randn(views, items, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def squared(x, y):
    return float((x - y).square().sum())


def averaged(values, logits):
    weights = np.exp(np.array(logits) - max(logits))
    return float(weights @ np.array(values) / weights.sum())


def written_out(z, alpha=1.0, beta=1.0, tau_pos=1.0, tau_neg=2.0):
    """The paper's equations, pair by pair."""
    z = normalize(z, dim=-1)
    views, items = range(len(z)), range(z.shape[1])
    attraction = []
    for a in views:
        for i in items:
            d = [squared(z[a, i], z[b, i]) for b in views if b != a]
            attraction.append(alpha * averaged(d, [tau_pos * x for x in d]))
    repulsion = []
    for a, b in combinations(views, 2):
        for i in items:
            d = [squared(z[a, i], z[b, j]) for j in items if j != i]
            repulsion.append(-beta * averaged(d, [-tau_neg * x for x in d]))
    return {"attraction": np.mean(attraction), "repulsion": np.mean(repulsion)}


class TestEquations:
    @pytest.mark.parametrize(("views", "items"), [(2, 2), (2, 5), (3, 2), (5, 4)])
    def test_the_batch(self, views, items):
        z = example(views, items)
        scale = {"alpha": 0.7, "beta": 1.3, "tau_pos": 3.0, "tau_neg": 0.4}  # all four count, each in its place
        found = {name: float(term) for name, term in CACR(**scale).components(z).items()}
        assert found == pytest.approx(written_out(z, **scale))

    @pytest.mark.parametrize("intra_batch", [True, False])
    def test_the_queue(self, intra_batch):
        queries, keys, queue = example(seed=1), example(seed=2), example(1, 7, seed=3)[0]
        found = CACRQueue(0.7, 1.3, 3.0, 0.4, intra_batch=intra_batch).components(queries, keys, queue)
        q, k, n = (normalize(x, dim=-1) for x in (queries, keys, queue))
        attraction, repulsion = [], []
        for a in range(3):
            for i in range(5):
                d = [squared(q[a, i], k[b, i]) for b in range(3) if b != a]
                attraction.append(averaged(d, [3 * x for x in d]))
                others = [*n, *(q[a, j] for j in range(5) if j != i and intra_batch)]
                d = [squared(q[a, i], x) for x in others]
                repulsion.append(averaged(d, [-0.4 * x for x in d]))
        assert float(found["attraction"]) == pytest.approx(0.7 * np.mean(attraction))
        assert float(found["repulsion"]) == pytest.approx(-1.3 * np.mean(repulsion))

    @pytest.mark.parametrize("keys", [2, 4])
    @pytest.mark.parametrize("cost", ["rbf", "euclidean"])
    def test_moco_v3(self, cost, keys):
        """Light mode has two keys and all queries, full mode as many keys as queries."""
        queries, targets, t = example(4, seed=1), example(4, seed=2)[:keys], 0.3
        loss = CACRMoCoV3(t, cost, reduction="none")(queries, targets)
        q, k = normalize(queries, dim=-1), normalize(targets, dim=-1)
        expected = np.zeros((keys, 5))
        for m in range(keys):
            for i in range(5):
                terms, others = [], [v for v in range(4) if v != m]
                for v in others:
                    scores = [float(q[v, i] @ k[m, j]) for j in range(5)]
                    if cost == "rbf":
                        terms.append(2 * t * (math.log(sum(math.exp(s / t) for s in scores)) - scores[i] / t))
                    else:
                        costs = [1 - s for j, s in enumerate(scores) if j != i]
                        terms.append(1 - scores[i] - averaged(costs, [-c / t for c in costs]))
                expected[m, i] = averaged(terms, [squared(q[v, i], k[m, i]) / t for v in others])
        assert loss.tolist() == pytest.approx(expected.mean(0).tolist())
        official = expected.mean(0).mean() if cost == "rbf" else expected.mean(0).sum()
        assert float(CACRMoCoV3(t, cost)(queries, targets)) == pytest.approx(official)

    def test_debiasing_is_affine_in_the_share(self):
        """(r - share d) / (1 - share) of every item, in which d is the item's own distance between the views."""
        z = example(2)
        plain = CACR(reduction="none")
        attraction, repulsion = plain.components(z).values()
        for share in (0.05, 0.4):
            debiased = CACR(tau_plus=share, reduction="none")(z)
            torch.testing.assert_close(debiased, attraction + (repulsion - share * attraction) / (1 - share))


class TestLimits:
    def test_two_views_have_no_choice_of_positive(self):
        z = example(2)
        assert CACR(tau_pos=5.0)(z) == CACR(tau_pos=0.0)(z) == CACR(weights="repulsion")(z)

    def test_no_multiplier_is_no_weights(self):
        z = example()
        torch.testing.assert_close(CACR(tau_pos=0, tau_neg=0)(z), CACR(weights="none")(z), rtol=0, atol=0)
        u = normalize(z, dim=-1)
        distances = (u[:, None, :, None] - u[None, :, None]).square().sum(-1)  # (V, V, B, B)
        own = distances.diagonal(dim1=2, dim2=3)
        attraction = own.sum() / own.numel() * 3 / 2
        between = torch.stack([distances[a, b] for a, b in combinations(range(3), 2)])
        repulsion = -(between.sum() - between.diagonal(dim1=1, dim2=2).sum()) / (3 * 5 * 4)
        torch.testing.assert_close(CACR(weights="none")(z), attraction + repulsion)

    def test_a_large_multiplier_leaves_the_farthest_positive_and_the_nearest_negative(self):
        z = example()
        u = normalize(z, dim=-1)
        distances = (u[:, None, :, None] - u[None, :, None]).square().sum(-1)
        found = CACR(tau_pos=1e5, tau_neg=1e5).components(z)
        farthest = distances.diagonal(dim1=2, dim2=3).amax(1).mean()
        torch.testing.assert_close(found["attraction"], farthest)
        others = distances + 9 * torch.eye(5, dtype=torch.float64)
        nearest = torch.stack([others[a, b].amin(1).mean() for a, b in combinations(range(3), 2)]).mean()
        torch.testing.assert_close(found["repulsion"], -nearest)

    def test_the_rbf_cost_without_weights_is_uniformity_between_views(self):
        z = example(2)
        u = normalize(z, dim=-1)
        kernel = (-2 * (u[0, :, None] - u[1]).square().sum(-1)).exp()
        mean = (kernel.sum() - kernel.trace()) / 20
        terms = CACR(weights="none", cost="rbf").components(z)
        torch.testing.assert_close(terms["repulsion"], mean.log())
        torch.testing.assert_close(terms["attraction"], (u[0] - u[1]).square().sum(1).mean())

    @pytest.mark.parametrize("temperature", [0.2, 1.0])
    def test_two_views_of_moco_v3_are_its_loss(self, temperature):
        queries, keys = example(2, seed=1), example(2, seed=2)
        q, k = normalize(queries, dim=-1), normalize(keys, dim=-1)
        terms = [cross_entropy(q[1 - m] @ k[m].T / temperature, torch.arange(5)) for m in range(2)]
        torch.testing.assert_close(CACRMoCoV3(temperature)(queries, keys), temperature * sum(terms))

    def test_equal_embeddings_cost_nothing_but_chance(self):
        z = torch.ones(3, 5, 4, dtype=torch.float64) * torch.tensor([1.0, -2, 3, 0.5])
        for objective in (CACR(), CACR(cost="rbf"), CACR(weights="none"), CACR(tau_plus=0.1)):
            given = z.clone().requires_grad_()
            loss = objective(given)
            loss.backward()
            assert float(loss.detach()) == pytest.approx(0, abs=1e-12)
            assert given.grad.abs().max() < 1e-12
        assert float(CACRQueue()(z, z, z[0])) == pytest.approx(0, abs=1e-12)
        assert float(CACRMoCoV3(0.2, "euclidean")(z, z)) == pytest.approx(0, abs=1e-12)
        assert float(CACRMoCoV3(0.2)(z, z)) == pytest.approx(0.4 * math.log(5))

    def test_without_the_batch_the_queue_alone_repels(self):
        queries, keys, queue = example(seed=1), example(seed=2), example(1, 7, seed=3)[0]
        alone = [CACRQueue(intra_batch=False).components(queries[:, [i]], keys[:, [i]], queue) for i in range(5)]
        for name, term in CACRQueue(intra_batch=False).components(queries, keys, queue).items():
            torch.testing.assert_close(term, torch.stack([terms[name] for terms in alone]).mean())


class TestWeights:
    def test_of_the_batch(self):
        z, objective = example(), CACR(beta=1.5)
        attraction, repulsion = objective.conditional_weights(z)
        assert attraction.shape == (3, 3, 5)
        assert repulsion.shape == (3, 5, 5)
        torch.testing.assert_close(attraction.sum(1), torch.ones(3, 5).double())
        torch.testing.assert_close(repulsion.sum(2), torch.ones(3, 5).double())
        assert (attraction.diagonal(dim1=0, dim2=1) == 0).all()
        assert (repulsion.diagonal(dim1=1, dim2=2) == 0).all()
        u = normalize(z, dim=-1)
        distances = (u[:, None, :, None] - u[None, :, None]).square().sum(-1)
        terms = objective.components(z)
        own = distances.diagonal(dim1=2, dim2=3)
        torch.testing.assert_close((attraction * own).sum(1).mean(), terms["attraction"])
        between = torch.stack([distances[a, b] for a, b in combinations(range(3), 2)])
        torch.testing.assert_close(-1.5 * (repulsion * between).sum(2).mean(), terms["repulsion"])

    def test_far_positives_and_near_negatives_weigh_more(self):
        z = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]]).repeat(3, 1, 1)
        z[2, 0] = torch.tensor([0.6, -0.8])  # one view of item 0 is elsewhere
        attraction, repulsion = CACR().conditional_weights(z)
        assert attraction[0, 2, 0] > 0.5 > attraction[0, 1, 0]
        assert repulsion[0, 0, 1] > 0.9 > repulsion[0, 0, 2]  # at a right angle, and opposite

    def test_without_weights_they_are_equal(self):
        attraction, repulsion = CACR(weights="none").conditional_weights(example())
        torch.testing.assert_close(attraction[0, 1:], torch.full((2, 5), 0.5).double())
        torch.testing.assert_close(repulsion + torch.eye(5) / 4, torch.full((3, 5, 5), 0.25).double())

    @pytest.mark.parametrize("intra_batch", [True, False])
    def test_of_the_queue(self, intra_batch):
        queries, keys, queue = example(seed=1), example(seed=2), example(1, 7, seed=3)[0]
        objective = CACRQueue(intra_batch=intra_batch)
        attraction, repulsion = objective.conditional_weights(queries, keys, queue)
        assert repulsion.shape == (3, 5, 12 if intra_batch else 7)
        torch.testing.assert_close(repulsion.sum(2), torch.ones(3, 5).double())
        q, k, n = (normalize(x, dim=-1) for x in (queries, keys, queue))
        others = torch.cat([n.expand(3, -1, -1), q], 1) if intra_batch else n.expand(3, -1, -1)
        distances = (q[:, :, None] - others[:, None]).square().sum(-1)
        terms = objective.components(queries, keys, queue)
        torch.testing.assert_close(-(repulsion * distances).sum(2).mean(), terms["repulsion"])
        own = (q[:, None] - k).square().sum(-1)
        torch.testing.assert_close((attraction * own).sum(1).mean(), terms["attraction"])

    @pytest.mark.parametrize("cost", ["rbf", "euclidean"])
    def test_of_moco_v3(self, cost):
        queries, keys = example(4, seed=1), example(4, seed=2)[:2]
        attraction, repulsion = CACRMoCoV3(0.5, cost).conditional_weights(queries, keys)
        q, k = normalize(queries, dim=-1), normalize(keys, dim=-1)
        distances = (k[:, None] - q).square().sum(-1)  # (M, V, B)
        cosines = torch.einsum("vid,mjd->mvij", q, k)
        torch.testing.assert_close(attraction.sum(1), torch.ones(2, 5).double())
        assert (attraction[[0, 1], [0, 1]] == 0).all()
        assert (repulsion[[0, 1], [0, 1]] == 0).all()
        if cost == "euclidean":
            negatives = ((1 - cosines) * repulsion).sum(3)
            expected = (attraction * (distances / 2 - negatives)).sum(1).mean(0).sum()
            torch.testing.assert_close(CACRMoCoV3(0.5, cost)(queries, keys), expected)
        else:  # the softmax of InfoNCE, positive included
            expected = (attraction * -repulsion.diagonal(dim1=2, dim2=3).where(attraction > 0, 1.0).log()).sum(1)
            torch.testing.assert_close(CACRMoCoV3(0.5, cost)(queries, keys), expected.mean())


BATCH = {
    "full": {},
    "detached": {"detach_weights": True},
    "rbf": {"cost": "rbf"},
    "debiased": {"tau_plus": 0.1},
    "none": {"weights": "none"},
}
batch = pytest.mark.parametrize("kind", BATCH.values(), ids=BATCH)


class TestInvariances:
    @batch
    def test_order_of_items_lengths_and_rotation(self, kind):
        z, loss = example(4, 6), CACR(**kind)
        expected = loss(z)
        torch.testing.assert_close(loss(z[:, torch.randperm(6)]), expected)
        torch.testing.assert_close(loss(z * torch.logspace(-30, 30, 6, dtype=torch.float64)[:, None]), expected)
        torch.testing.assert_close(loss(z @ torch.linalg.qr(example(1, 4, 4, 9)[0])[0]), expected)

    def test_repulsion_alone_depends_on_the_order_of_the_views(self):
        z = example(2)
        forth, back = CACR().components(z), CACR().components(z.flip(0))
        torch.testing.assert_close(forth["attraction"], back["attraction"])
        assert not torch.isclose(forth["repulsion"], back["repulsion"], rtol=1e-6)
        none = CACR(weights="none")  # a plain mean looks from nowhere
        torch.testing.assert_close(none(z), none(z.flip(0)))

    @pytest.mark.parametrize("kind", [k for name, k in BATCH.items() if name != "detached"])
    @pytest.mark.parametrize("shape", [(2, 2), (3, 4)])
    def test_gradients_equal_finite_differences(self, kind, shape):
        assert torch.autograd.gradcheck(CACR(tau_pos=2.0, **kind), (example(*shape).requires_grad_(),), atol=1e-6)

    def test_gradients_of_the_queue_with_weights_that_take_part(self):
        queries, keys, queue = (x.requires_grad_() for x in (example(2, 3), example(2, 3, seed=1), example(1, 4)[0]))
        assert torch.autograd.gradcheck(CACRQueue(detach_weights=False), (queries, keys, queue), atol=1e-6)

    @pytest.mark.parametrize("kind", [k | {"detach_weights": True} for k in ({}, {"cost": "rbf"}, {"tau_plus": 0.1})])
    def test_detached_weights_are_constants(self, kind):
        """The gradient is that of the mean with weights from elsewhere."""
        z = example().requires_grad_()
        loss = CACR(tau_neg=3.0, **kind)
        attraction, repulsion = (w.detach() for w in loss.conditional_weights(z))
        u = normalize(z, dim=-1)
        distances = (u[:, None, :, None] - u[None, :, None]).square().sum(-1)
        own, between = distances.diagonal(dim1=2, dim2=3), [distances[a, b] for a, b in combinations(range(3), 2)]
        total = (attraction * own).sum(1).mean()
        for weights, d in zip(repulsion, between, strict=True):
            if loss.cost == "rbf":
                total = total + (weights * (-2 * d).exp()).sum(1).mean().log() / 3
            else:
                term = -(weights * d).sum(1)
                term = term if loss.tau_plus is None else (term - 0.1 * d.diagonal()) / 0.9
                total = total + term.mean() / 3
        torch.testing.assert_close(loss(z), total)
        torch.testing.assert_close(torch.autograd.grad(loss(z), z), torch.autograd.grad(total, z))

    def test_only_the_teachers_weights_are_constants_by_default(self):
        queries, keys, queue = example(seed=1).requires_grad_(), example(seed=2), example(1, 7, seed=3)[0]
        gradients = {
            (intra, detach): torch.autograd.grad(
                CACRQueue(weights="repulsion", intra_batch=intra, detach_weights=detach)(queries, keys, queue), queries
            )[0]
            for intra in (True, False)
            for detach in (None, True, False)
        }
        torch.testing.assert_close(gradients[False, None], gradients[False, True])
        for intra, detach in ((True, True), (True, False)):
            assert (gradients[intra, None] - gradients[intra, detach]).abs().max() > 1e-3

    def test_reductions(self):
        z, keys, queue = example(), example(seed=2), example(1, 7, seed=3)[0]
        for kind, given in ((CACR, (z,)), (CACRQueue, (z, keys, queue)), (CACRMoCoV3, (z, keys))):
            terms = kind(reduction="none")(*given)
            assert terms.shape == (5,)
            torch.testing.assert_close(kind(reduction="sum")(*given), terms.sum())
            torch.testing.assert_close(kind()(*given), terms.mean())


OBJECTIVES = {
    **{f"batch {name}": (CACR(**kind), 1) for name, kind in BATCH.items()},
    "sharp": (CACR(tau_pos=500, tau_neg=500), 1),
    "sharp rbf": (CACR(tau_neg=500, cost="rbf"), 1),
    "queue": (CACRQueue(), 3),
    "sharp queue": (CACRQueue(tau_pos=500, tau_neg=500), 3),
    "rbf": (CACRMoCoV3(0.01), 2),
    "euclidean": (CACRMoCoV3(0.01, "euclidean"), 2),
}
every = pytest.mark.parametrize(("objective", "inputs"), OBJECTIVES.values(), ids=OBJECTIVES)
EXTREMES = {
    "zero rows": lambda z: z * torch.tensor([0.0, 1, 0, 1, 1, 1])[:, None],
    "nothing but zeros": lambda z: z * 0,
    "1e30": lambda z: z * 1e30,
    "1e-30": lambda z: z * 1e-30,
    "both": lambda z: z * torch.tensor([1e30, 1e-30, 1, 1e30, 1e-30, 1])[:, None],
    "duplicates": lambda z: z[:, [0, 0, 0, 1, 1, 1]],
    "one dimension": lambda z: z[..., :1],
}


def arguments(z, inputs):
    """z alone, with keys, or with keys and a queue."""
    return (z, z.flip(0).detach() + 0.1, z[-1].detach())[:inputs]


class TestInput:
    @every
    @pytest.mark.parametrize("change", EXTREMES.values(), ids=EXTREMES)
    def test_finite_embeddings_give_finite_losses(self, objective, inputs, change):
        z = change(example(3, 6, dtype=torch.float32)).requires_grad_()
        loss = objective(*arguments(z, inputs))
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(z.grad).all()

    @every
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_other_types_are_computed_in_float32(self, objective, inputs, dtype):
        z = example(3, 6, dtype=torch.float32).to(dtype).requires_grad_()
        loss = objective(*arguments(z, inputs))
        loss.backward()
        assert loss.dtype == torch.float32
        assert z.grad.dtype == dtype
        exact = objective(*(x.detach().double() for x in arguments(z, inputs)))
        torch.testing.assert_close(loss.double(), exact, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize(("objective", "inputs"), [OBJECTIVES[k] for k in ("batch full", "queue", "euclidean")])
    def test_means_are_exact_under_autocast(self, objective, inputs):
        given = arguments(example(3, 6, dtype=torch.float32), inputs)
        with torch.autocast("cpu", torch.bfloat16):
            found = objective(*given)
        torch.testing.assert_close(found, objective(*given), rtol=0, atol=0)

    @every
    def test_one_view_or_one_item(self, objective, inputs):
        name = "z" if inputs == 1 else "queries"
        with pytest.raises(ValueError, match=f"^{name}: expected at least 2 views"):
            objective(*arguments(example(1, 6), inputs))
        alone = arguments(example(3, 1), inputs)
        if inputs == 3:
            assert torch.isfinite(objective(*alone))  # the queue is enough
        else:
            with pytest.raises(ValueError, match=f"^{name}: expected at least 2 items"):
                objective(*alone)

    @pytest.mark.parametrize("at", range(6))
    @pytest.mark.parametrize("value", ["nan", "inf", "integers", "flat", "empty"])
    def test_what_is_no_embedding(self, at, value):
        kind, names, k = [
            (CACR, ("z",), 0),
            *((CACRQueue, ("queries", "keys", "negatives"), k) for k in range(3)),
            *((CACRMoCoV3, ("queries", "keys"), k) for k in range(2)),
        ][at]
        given = list(arguments(example(3, 6), len(names)))
        changed = given[k].clone()
        if value in ("nan", "inf"):
            changed[..., 0] = float(value)
        given[k] = {"integers": changed.long(), "flat": changed[0], "empty": changed[..., :0]}.get(value, changed)
        with pytest.raises(ValueError, match=f"^{names[k]}: "):
            kind()(*given)

    def test_shapes_that_differ(self):
        z = example(3, 6)
        with pytest.raises(ValueError, match=r"^keys: expected \(3, 6, 4\) as queries, got \(2, 6, 4\)"):
            CACRQueue()(z, z[:2], z[0])
        with pytest.raises(ValueError, match=r"^negatives: expected \(K, 4\), got \(6, 2\)"):
            CACRQueue()(z, z, z[0, :, :2])
        for keys in (example(4, 6), z[:, :5], z[..., :3]):
            with pytest.raises(ValueError, match=r"^keys: expected \(1 to 3, 6, 4\), got"):
                CACRMoCoV3()(z, keys)

    @pytest.mark.parametrize("kind", [CACR, CACRQueue])
    @pytest.mark.parametrize("name", ["alpha", "beta", "tau_pos", "tau_neg"])
    @pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
    def test_scales(self, kind, name, value):
        with pytest.raises(ValueError, match=f"^{name}: expected a finite number, 0 or more"):
            kind(**{name: value})

    @pytest.mark.parametrize(
        ("kind", "given", "name"),
        [
            (CACR, {"weights": "without_w1"}, "weights"),
            (CACRQueue, {"weights": True}, "weights"),
            (CACR, {"cost": "cosine"}, "cost"),
            (CACRMoCoV3, {"cost": "cosine"}, "cost"),
            (CACR, {"rbf_t": 0.0}, "rbf_t"),
            (CACR, {"tau_plus": 1.0}, "tau_plus"),
            (CACR, {"tau_plus": 0.0}, "tau_plus"),
            (CACR, {"tau_plus": 0.1, "cost": "rbf"}, "tau_plus"),
            (CACR, {"tau_plus": 0.1, "weights": "attraction"}, "tau_plus"),
            (CACR, {"cost": "rbf", "reduction": "none"}, "reduction"),
            (CACRQueue, {"reduction": "avg"}, "reduction"),
            (CACRMoCoV3, {"reduction": "avg"}, "reduction"),
            (CACRMoCoV3, {"temperature": 0.0}, "temperature"),
        ],
    )
    def test_options_are_checked_when_they_are_given(self, kind, given, name):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            kind(**given)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that was made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.elements = max(self.elements, made.numel())
        return made


@pytest.mark.parametrize(("objective", "inputs"), [OBJECTIVES[k] for k in ("batch full", "batch rbf", "queue", "rbf")])
def test_no_matrix_of_all_pairs_is_made(objective, inputs):
    z = example(2, 2400, 4, dtype=torch.float32).requires_grad_()
    with Largest() as largest:
        objective(*arguments(z, inputs)).backward()
    assert 2400 < largest.elements < 2400**2 / 4
