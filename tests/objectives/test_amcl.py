"""AMCL: the equations (2.1) to (2.4) against golden figures, their limits, and what they must survive."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from counterpoint.objectives import BarlowTwins, InfoNCE, NegativeCosine, NTXent, amcl
from counterpoint.objectives.amcl import AMCL, AMCLBarlow, AMCLSimSiam, PairTemperature, omega

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "16-amcl.npz")
parity = pytest.mark.paper(16, "parity")


def golden(*names, grad=True, case="c3"):
    return [torch.from_numpy(GOLDEN[f"{case}__{name}"]).requires_grad_(grad) for name in names]


def close(found, *expected, case="c3", rtol=1e-7, atol=1e-9):
    found = found if isinstance(found, tuple) else (found,)
    for value, name in zip(found, expected, strict=True):
        wanted = torch.from_numpy(GOLDEN[f"{case}__{name}"]).to(value.dtype)
        torch.testing.assert_close(value, wanted, rtol=rtol, atol=atol)


def constant(value):
    return lambda x, y: torch.full_like((x * y)[..., 0], value)


def table(keys, tau):
    """A given temperature (C, M) for each key (C, M, D): what a pair's second embedding is looked up in."""
    keys = normalize(keys.detach(), dim=2)

    def temperature(x, y):
        index = (y.detach().flatten(1, -2) @ keys.transpose(1, 2)).argmax(2)
        return tau.gather(1, index).view(y.shape[:-1])

    return temperature


def per_sample(z, z_pos, z_neg, tau_pos, tau_neg, **options):
    """Golden anchors have negatives of their own: each is a batch of one with its bank."""
    terms = []
    for b in range(z.shape[1]):
        one = slice(b, b + 1)
        known = table(torch.cat([z_pos[:, one], z_neg[:, b]], 1), torch.cat([tau_pos[:, one], tau_neg[:, b]], 1))
        loss = AMCL(known, float(GOLDEN["c3__beta"]), reduction="none", **options)
        terms.append(loss(z[:, one], z_pos[:, one], z_neg[:, b]))
    return torch.cat(terms)


NAMES = ("z", "z_pos", "z_neg", "tau_pos", "tau_neg")


class TestParity:
    @parity
    def test_simclr_and_moco(self):
        inputs = golden(*NAMES)
        terms = per_sample(*inputs)
        close((terms, terms.mean()), "per_sample", "loss")
        close(torch.autograd.grad(terms.mean(), inputs), *(f"grad_{name}" for name in NAMES))

    @parity
    def test_smooth_maximum(self):
        close(per_sample(*golden(*NAMES, grad=False), negative="logsumexp"), "soft_per_sample")

    @parity
    def test_float32(self):
        terms = per_sample(*(x.float() for x in golden(*NAMES, grad=False)))
        assert terms.dtype == torch.float32
        close((terms, terms.mean()), "per_sample", "loss", rtol=2e-3)

    @parity
    def test_simsiam(self):
        names = ("z", "z_pos", "tau_pos", "simsiam_tau_rev", "simsiam_h", "simsiam_h_pos")
        z, z_pos, tau, reverse, h, h_pos = golden(*names)
        terms = AMCLSimSiam(lambda x, y: tau if torch.allclose(x, normalize(z, dim=2)) else reverse, 0.1, "none")(
            z, z_pos, h, h_pos
        )
        close((terms, terms.mean()), "simsiam_per_sample", "simsiam_loss")
        gradients = torch.autograd.grad(terms.mean(), (z, z_pos, tau, reverse, h, h_pos), allow_unused=True)
        close(gradients[:4], *(f"simsiam_grad_{name}" for name in ("z", "z_pos", "tau", "tau_rev")))
        assert gradients[4:] == (None, None)

    @parity
    def test_barlow(self):
        z, z_pos, diagonal, off = golden("z", "z_pos", "barlow_tau_diag", "barlow_tau_off")
        same, seen = torch.eye(8, dtype=torch.bool), []

        def temperature(x, y):
            seen.append(x[:, :, 0])
            return torch.where(same, diagonal[:, None], off)

        loss = AMCLBarlow(temperature, float(GOLDEN["c3__barlow_lambda"]), float(GOLDEN["c3__beta"]), eps=0.0)(z, z_pos)
        close((loss, seen[0]), "barlow_loss", "barlow_cross_corr")
        gradients = torch.autograd.grad(loss, (z, z_pos, diagonal))
        close(gradients, "barlow_grad_z", "barlow_grad_z_pos", "barlow_grad_tau_diag")

    @parity
    def test_temperature(self):
        weights = golden("w1", "b1", "w2", "b2", case="tau_head")
        network = PairTemperature(6, 1, 10, tau_min=1e-5, tau_max=2.0).double()
        names = ("first.0.weight", "first.0.bias", "last.0.weight", "last.0.bias")
        network.load_state_dict(dict(zip(names, weights, strict=True)))
        zi, zj = golden("zi", "zj", case="tau_head")
        tau = network(zi[None], zj[None])[0]
        scaled = torch.cosine_similarity(zi, zj) / tau
        close((tau, scaled, omega(tau, 6)), "tau", "scaled_similarity", "omega", case="tau_head")
        close(torch.autograd.grad(scaled.sum(), (zi, zj)), "grad_zi", "grad_zj", case="tau_head")


def views(heads=3, items=5, dim=4, seed=0, dtype=torch.float64):
    made = torch.Generator().manual_seed(seed)
    z = torch.randn(heads, items, dim, generator=made, dtype=torch.float64)
    return [(z + 0.5 * torch.randn(z.shape, generator=made, dtype=torch.float64)).to(dtype) for _ in range(2)]


def network(heads=3, dim=4, **options):
    torch.manual_seed(0)
    return PairTemperature(dim, heads, 8, **options).double()


OBJECTIVES = {
    "hardest": lambda t, **k: AMCL(t, **k),
    "in the maximum": lambda t, **k: AMCL(t, positive_in_denominator=True, **k),
    "logsumexp": lambda t, **k: AMCL(t, negative="logsumexp", **k),
    "in the sum": lambda t, **k: AMCL(t, negative="logsumexp", positive_in_denominator=True, **k),
}
every = pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES)


class TestMeaning:
    @every
    def test_negatives_in_the_batch_are_the_embeddings_of_other_items(self, make):
        z1, z2 = views()
        loss = make(network(), reduction="none")
        expected = []
        for anchors, positives in ((z1, z2), (z2, z1)):
            for b in range(5):
                others = torch.cat([z[:, torch.arange(5) != b] for z in (z1, z2)], 1)
                expected.append(loss(anchors[:, b : b + 1], positives[:, b : b + 1], others))
        torch.testing.assert_close(loss(z1, z2), torch.cat(expected))

    @every
    def test_order_of_items_views_and_heads_does_not_matter(self, make):
        z1, z2 = views()
        temperature, order = network(), torch.tensor([3, 0, 4, 2, 1])
        loss = make(temperature)
        expected = loss(z1, z2)
        torch.testing.assert_close(loss(z1[:, order], z2[:, order]), expected)
        torch.testing.assert_close(loss(z2, z1), expected)
        heads = torch.tensor([2, 0, 1])
        for name in ("first", "last"):
            setattr(temperature, name, torch.nn.ModuleList(getattr(temperature, name)[i] for i in heads))
        torch.testing.assert_close(loss(z1[heads], z2[heads]), expected)

    @every
    def test_lengths_do_not_matter(self, make):
        z1, z2 = views()
        lengths = torch.logspace(-100, 100, 5, dtype=torch.float64)[:, None]
        loss = make(network())
        torch.testing.assert_close(loss(z1 * lengths, z2 / lengths), loss(z1, z2))

    def test_the_sum_over_heads(self):
        z1, z2 = views()
        parts = [AMCL(constant(0.3))(z1[c : c + 1], z2[c : c + 1]) for c in range(3)]
        torch.testing.assert_close(AMCL(constant(0.3))(z1, z2), sum(parts))

    def test_the_hardest_is_chosen_by_similarity_alone(self):
        """And not by similarity over temperature, which would take the other one."""
        anchor, bank = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.8, 0.6], [0.6, 0.8]]])
        known = table(torch.cat([anchor, bank], 1), torch.tensor([[1.0, 2.0, 0.1]]))
        assert AMCL(known, beta=0)(anchor, anchor, bank).item() == pytest.approx(0.8 / 2 - 1 / 1)

    def test_of_equal_negatives_one_gets_the_gradient(self):
        anchor = torch.tensor([[[1.0, 0.0]]])
        bank = torch.tensor([[[0.6, 0.8], [0.6, -0.8], [0.0, 1.0]]], requires_grad=True)
        AMCL(constant(0.5))(anchor, anchor, bank).backward()
        assert sorted(bank.grad.abs().sum(2)[0].gt(0).tolist()) == [False, False, True]
        assert bank.grad[0, 2].abs().sum() == 0

    def test_a_nearest_positive_in_the_maximum_is_at_rest(self):
        z1, z2 = (z.requires_grad_() for z in views(heads=1))
        near = z1 + 0.01 * z2
        far, tau = torch.full((), 0.7, dtype=torch.float64, requires_grad=True), constant(1.0)
        loss = AMCL(lambda x, y: far * tau(x, y), positive_in_denominator=True)(z1, near)
        assert loss.item() == 0
        assert all(not g.any() for g in torch.autograd.grad(loss, (z1, z2, far)))
        assert AMCL(tau)(z1, near).item() != 0

    def test_regulariser_of_positives_counts_up_and_of_negatives_down(self):
        anchor = torch.tensor([[[1.0, 0.0]]])
        known = table(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([[0.5, 2.0]]))
        bank = torch.tensor([[[0.0, 1.0]]])
        with_, without = (AMCL(known, beta)(anchor, anchor, bank).item() for beta in (0.1, 0.0))
        expected = math.log(0.5) + 1 / 0.5 - math.log(2) - 1 / 2  # D = 2
        assert with_ - without == pytest.approx(0.1 * expected, rel=1e-5)

    def test_omega_is_the_gaussian_likelihood_of_unit_vectors(self):
        a, b = normalize(torch.randn(2, 6, dtype=torch.float64), dim=1)
        tau = torch.tensor(0.3, dtype=torch.float64)
        gaussian = torch.distributions.MultivariateNormal(a, tau * torch.eye(6, dtype=torch.float64))
        expected = gaussian.log_prob(b) + 3 * math.log(2 * math.pi)
        torch.testing.assert_close(a @ b / tau - omega(tau, 6), expected)


class TestLimits:
    def test_ntxent(self):
        (z1,), (z2,) = views(heads=1)
        smooth = AMCL(constant(0.3), 0.0, "logsumexp", positive_in_denominator=True, reduction="none")
        torch.testing.assert_close(smooth(z1[None], z2[None]), NTXent(0.3, "none")(z1, z2))

    @pytest.mark.parametrize("inside", [False, True])
    def test_info_nce(self, inside):
        (q,), (k,) = views(heads=1)
        (bank,), _ = views(heads=1, items=7, seed=1)
        smooth = AMCL(constant(0.3), 0.0, "logsumexp", positive_in_denominator=inside)(q[None], k[None], bank[None])
        torch.testing.assert_close(smooth, InfoNCE(0.3, inside)(q, k, bank))

    def test_a_cold_sum_is_the_maximum(self):
        z1, z2 = views()
        cold = [AMCL(constant(1e-3), 0.0, negative)(z1, z2) for negative in ("hardest", "logsumexp")]
        torch.testing.assert_close(cold[1], cold[0], rtol=1e-6, atol=0)

    def test_simsiam(self):
        (p1,), (p2,) = views(heads=1)
        (h1,), (h2,) = views(heads=1, seed=1)
        expected = (NegativeCosine()(p1, h2) + NegativeCosine()(p2, h1)) / 2
        torch.testing.assert_close(AMCLSimSiam(constant(1.0), 0.0)(p1[None], p2[None], h1, h2), expected)

    def test_barlow(self):
        z1, z2 = views(items=9)
        expected = sum(BarlowTwins(0.005)(a, b) for a, b in zip(z1, z2, strict=True))
        torch.testing.assert_close(AMCLBarlow(constant(1.0), beta=0.0)(z1, z2), expected)

    def test_barlow_depends_on_neither_order_nor_number_of_the_items(self):
        z1, z2 = views(items=9)
        loss, order = AMCLBarlow(network()), torch.randperm(9, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(loss(z1[:, order], z2[:, order]), loss(z1, z2))
        torch.testing.assert_close(loss(z1.repeat(1, 2, 1), z2.repeat(1, 2, 1)), loss(z1, z2))


class TestComputation:
    @every
    def test_gradients(self, make):
        temperature = network()
        weights = [temperature.first[0].weight, temperature.last[2].bias]
        assert torch.autograd.gradcheck(
            lambda z1, z2, *_: make(temperature)(z1, z2), [z.requires_grad_() for z in views(items=3)] + weights
        )

    def test_gradients_of_the_other_forms(self):
        z1, z2 = (z.requires_grad_() for z in views(items=4))
        h1, h2 = (h[0] for h in views(heads=1, items=4, seed=1))
        assert torch.autograd.gradcheck(lambda *z: AMCLSimSiam(network())(*z, h1, h2), (z1, z2))
        assert torch.autograd.gradcheck(AMCLBarlow(network()), (z1, z2))

    def test_blocks_of_the_smooth_maximum(self, monkeypatch):
        inputs = [z.requires_grad_() for z in views(items=6)]
        temperature = network()
        parameters = [*inputs, *temperature.parameters()]
        results = []
        for pairs in (2**15, 25, 1):  # all rows at once, two, one
            monkeypatch.setattr(amcl, "_PAIRS", pairs)
            loss = AMCL(temperature, negative="logsumexp")(*inputs)
            results.append([loss, *torch.autograd.grad(loss, parameters)])
        for other in results[1:]:
            torch.testing.assert_close(other, results[0])

    def test_only_two_temperatures_an_anchor_are_computed(self):
        seen = []
        AMCL(lambda x, y: seen.append((x * y).shape) or constant(1.0)(x, y))(*views(items=50))
        assert seen == [(3, 100, 4)] * 2

    def test_all_pairs_by_broadcasting(self):
        temperature, (x, y) = network(), views(items=6)
        table = temperature(x[:, :, None], y[:, None])
        assert table.shape == (3, 6, 6)
        for i, j in ((0, 0), (2, 5), (5, 2)):
            torch.testing.assert_close(table[:, i, j], temperature(x[:, i : i + 1], y[:, j : j + 1])[:, 0])

    def test_temperatures_within_their_bounds(self):
        with torch.no_grad():
            network_ = PairTemperature(4, 2, tau_min=0.2, tau_max=0.9)
            for last, bias in zip(network_.last, (-1e4, 1e4), strict=True):
                last.bias.fill_(bias)
            tau = network_(torch.randn(2, 5, 4), torch.randn(2, 5, 4))
        torch.testing.assert_close(tau, torch.tensor([0.2, 0.9])[:, None].expand(2, 5))

    def test_a_network_for_each_head(self):
        x = torch.randn(1, 5, 4, dtype=torch.float64).expand(3, 5, 4)
        tau = network()(x, x)
        assert not torch.isclose(tau[0], tau[1]).any()
        assert not torch.isclose(tau[1], tau[2]).any()

    def test_statistics(self):
        loss = AMCL(network())
        z1, z2 = views()
        loss(z1, z2)
        x, y = (normalize(torch.cat(pair, 1), dim=2) for pair in ((z1, z2), (z2, z1)))
        torch.testing.assert_close(loss.statistics["tau_positive"], loss.temperature(x, y).mean().detach())
        assert set(loss.statistics) == {f"tau_{kind}{std}" for kind in ("positive", "negative") for std in ("", "_std")}
        assert not any(value.requires_grad for value in loss.statistics.values())

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_types(self, dtype):
        z1, z2 = views(items=8, dtype=dtype)
        h = z1[0]
        temperature = network().float()
        for loss in (AMCL(temperature), AMCL(temperature, negative="logsumexp"), AMCLBarlow(temperature)):
            assert loss(z1, z2).dtype == torch.float32
            torch.testing.assert_close(loss(z1, z2), loss(z1.float(), z2.float()))
        torch.testing.assert_close(
            AMCLSimSiam(temperature)(z1, z2, h, h), AMCLSimSiam(temperature)(*(x.float() for x in (z1, z2, h, h)))
        )

    def test_autocast_does_not_round_the_temperatures(self):
        temperature, (z1, z2) = network().float(), views(items=8, dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            found = [loss(z1, z2) for loss in (AMCL(temperature), AMCL(temperature, negative="logsumexp"))]
        for value, negative in zip(found, ("hardest", "logsumexp"), strict=True):
            torch.testing.assert_close(value, AMCL(temperature, negative=negative)(z1, z2))


HOSTILE = {
    "identical": torch.ones(3, 4, 5),
    "zero": torch.zeros(3, 4, 5),
    "one zero row": torch.cat([torch.zeros(3, 1, 5), torch.ones(3, 1, 5), torch.randn(3, 2, 5)], 1),
    "large": 1e30 * torch.linspace(-1, 1, 60).view(3, 4, 5),
    "small": 1e-30 * torch.linspace(-1, 1, 60).view(3, 4, 5),
}


class TestInput:
    @pytest.mark.parametrize("z", HOSTILE.values(), ids=HOSTILE)
    @pytest.mark.parametrize("tau_min", [0.05, 1e-5])
    def test_finite(self, z, tau_min):
        temperature = PairTemperature(5, 3, tau_min=tau_min)
        losses = [make(temperature) for make in OBJECTIVES.values()] + [AMCLBarlow(temperature)]
        for loss in [*losses, lambda z1, z2: AMCLSimSiam(temperature)(z1, z2, z2[0], z1[0])]:
            z1 = z.clone().requires_grad_()
            value = loss(z1, z)
            assert torch.isfinite(value)
            assert all(torch.isfinite(g).all() for g in torch.autograd.grad(value, (z1, *temperature.parameters())))

    def test_identical_embeddings_cost_nothing_where_temperatures_agree(self):
        z = torch.ones(3, 4, 5)
        assert AMCL(constant(0.7))(z, z).item() == 0
        known = table(torch.ones(3, 1, 5), torch.full((3, 1), 0.7))
        assert AMCL(known)(z, z).item() == pytest.approx(0, abs=1e-5)

    @pytest.mark.parametrize("name", ["z1", "z2"])
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda z: z * float("nan"), "NaN or infinite"),
            (lambda z: z.long(), "floating-point"),
            (lambda z: z[0], "expected"),
            (lambda z: z[:, :0], "expected"),
            (lambda z: z[..., :0], "expected"),
        ],
    )
    def test_embeddings(self, name, change, message):
        given = dict(zip(("z1", "z2"), views(), strict=True))
        given[name] = change(given[name])
        for loss in (AMCL(constant(1.0)), AMCLBarlow(constant(1.0))):
            with pytest.raises(ValueError, match=f"^{name}: .*{message}"):
                loss(**given)

    def test_one_item(self):
        z = torch.randn(3, 1, 4)
        for loss in (AMCL(constant(1.0)), AMCLBarlow(constant(1.0))):
            with pytest.raises(ValueError, match=r"^z1: expected at least 2"):
                loss(z, z)
        assert torch.isfinite(AMCL(constant(1.0))(z, z, torch.randn(3, 1, 4)))  # one negative is enough
        assert torch.isfinite(AMCLSimSiam(constant(1.0))(z, z, z[0], z[0]))

    @pytest.mark.parametrize("shape", [(2, 6, 4), (3, 6, 5), (3, 0, 4), (6, 4)])
    def test_banks_that_do_not_fit(self, shape):
        with pytest.raises(ValueError, match=r"^negatives: expected"):
            AMCL(constant(1.0))(*views(), torch.randn(shape))

    @pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5, 4)])
    def test_targets_that_do_not_fit(self, shape):
        h = torch.randn(shape)
        with pytest.raises(ValueError, match=r"^h1: expected"):
            AMCLSimSiam(constant(1.0))(*views(), h, h)

    @pytest.mark.parametrize(
        ("make", "name"),
        [
            (lambda: AMCL(constant(1.0), beta=-1), "beta"),
            (lambda: AMCL(constant(1.0), beta=float("nan")), "beta"),
            (lambda: AMCLSimSiam(constant(1.0), beta=float("inf")), "beta"),
            (lambda: AMCLBarlow(constant(1.0), beta=-1), "beta"),
            (lambda: AMCLBarlow(constant(1.0), lambda_=-1), "lambda_"),
            (lambda: AMCL(constant(1.0), negative="softest"), "negative"),
            (lambda: AMCL(constant(1.0), reduction="avg"), "reduction"),
            (lambda: AMCLSimSiam(constant(1.0), reduction="avg"), "reduction"),
            (lambda: PairTemperature(0), "dim"),
            (lambda: PairTemperature(4, 0), "heads"),
            (lambda: PairTemperature(4, hidden=0), "hidden"),
            (lambda: PairTemperature(4, tau_min=0), "tau_min"),
            (lambda: PairTemperature(4, tau_max=float("inf")), "tau_max"),
            (lambda: PairTemperature(4, tau_min=0.5, tau_max=0.4), "tau_max"),
        ],
    )
    def test_options(self, make, name):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            make()


@pytest.mark.parametrize("bank", [False, True])
@pytest.mark.parametrize("pairs", [1, 40, 10_000])
def test_the_smooth_maximum_goes_backward_in_blocks(bank, pairs, monkeypatch):
    """Whatever the blocks, the gradient of the loss written down at once: of both views, the bank and the network."""
    monkeypatch.setattr("counterpoint.objectives.amcl._PAIRS", pairs)
    torch.manual_seed(0)
    temperature = PairTemperature(4, heads=2, hidden=5).double()
    z = [torch.randn(2, n, 4, dtype=torch.float64, requires_grad=True) for n in (6, 6, *([9] if bank else []))]
    found = AMCL(temperature, negative="logsumexp")(*z)
    x = [torch.nn.functional.normalize(part, dim=2) for part in z]
    anchors, positives = (x[0], x[1]) if bank else (torch.cat(x, 1), torch.cat(x[::-1], 1))
    keys = x[2] if bank else anchors
    tau, every = temperature(anchors, positives), temperature(anchors[:, :, None], keys[:, None])
    scores = anchors @ keys.transpose(1, 2) / every - 0.1 * (2 * every.log() + 1 / every)
    if not bank:
        items = torch.arange(6).repeat(2)
        scores = scores.masked_fill(items[:, None] == items, -torch.inf)
    pull = (anchors * positives).sum(2) / tau - 0.1 * (2 * tau.log() + 1 / tau)
    wanted = (scores.logsumexp(2) - pull).sum(0).mean()
    torch.testing.assert_close(found, wanted)
    inputs = [*z, *temperature.parameters()]
    torch.testing.assert_close(torch.autograd.grad(found, inputs), torch.autograd.grad(wanted, inputs))


def test_the_smooth_maximum_loses_no_gradient_unseen():
    scale = torch.tensor(0.5, requires_grad=True)
    z = torch.randn(2, 2, 6, 4)
    loss = AMCL(lambda x, y: constant(1.0)(x, y) * scale, negative="logsumexp")
    with pytest.raises(ValueError, match=r"^temperature: expected a module that holds what is learned"):
        loss(*z)
    frozen = PairTemperature(4, heads=2)
    frozen.last.requires_grad_(False)
    z.requires_grad_()
    AMCL(frozen, negative="logsumexp")(*z).backward()
    assert frozen.first[0].weight.grad is not None
    assert frozen.last[0].weight.grad is None
