"""Weights of pairs from autograd, against closed forms."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from counterpoint.evaluation.microscope import NotOfPairs, gradient_split, pair_weights
from counterpoint.objectives import (
    CACR,
    DCL,
    BarlowTwins,
    GroCo,
    InfoNCE,
    NegativeCosine,
    NTXent,
    SimpleContrastive,
    SpectralContrastive,
    SupCon,
    VICReg,
    npc_multiplier,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "00-baselines.npz")
B, T = 7, 0.3


def views(dim=5, number=2, items=B, seed=0):
    draw = torch.Generator().manual_seed(seed)
    base = torch.randn(items, dim, generator=draw, dtype=torch.float64)
    return base + 0.4 * torch.randn(number, items, dim, generator=draw, dtype=torch.float64)


def cosines(z, temperature=T):
    rows = normalize(z.reshape(-1, z.shape[-1]), dim=1)
    return rows @ rows.T / temperature


def off_diagonal(x):
    return x[~torch.eye(len(x), dtype=torch.bool)]


def close(x, y):
    torch.testing.assert_close(x, y, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dim", [2, 5, 40])  # fewer dimensions than rows, where the gradient alone has no answer
class TestSoftmax:
    def test_weights_of_an_anchor_are_its_probabilities(self, dim):
        z = views(dim)
        expected = cosines(z).fill_diagonal_(-torch.inf).softmax(1)
        for i in range(2 * B):
            found = pair_weights(NTXent(T, reduction="none"), z[0], z[1], term=i)
            probabilities = expected[i].clone()
            probabilities[(i + B) % (2 * B)] -= 1  # the positive's
            others = torch.arange(2 * B) != i
            close(found.weight[i][others] * T, probabilities[others])

    def test_the_positive_weighs_as_much_as_all_negatives(self, dim):
        z = views(dim)
        for i in range(2 * B):
            found = pair_weights(NTXent(T, reduction="none"), z[0], z[1], term=i)
            close(found.pull[i], found.push[i])
            q = torch.cat(npc_multiplier(z[0], z[1], T))[i]
            close(found.pull[i] * T / (2 * B), q)

    def test_a_whole_batch(self, dim):
        z = views(dim)
        p = cosines(z).fill_diagonal_(-torch.inf).softmax(1)
        mine = torch.arange(2 * B) % B
        pulled = (mine[:, None] == mine).double()
        expected = (p + p.T - 2 * pulled) / (2 * B * T)
        found = pair_weights(NTXent(T), z[0], z[1])
        close(off_diagonal(found.weight), off_diagonal(expected))
        assert found.residual < 1e-14

    def test_dcl_has_no_multiplier(self, dim):
        z = views(dim)
        mine = torch.arange(2 * B) % B
        same = mine[:, None] == mine
        expected = (
            cosines(z).masked_fill(same, -torch.inf).softmax(1) - (same & ~torch.eye(2 * B, dtype=torch.bool)) * 1.0
        )
        for i in (0, B + 2):
            found = pair_weights(DCL(T, reduction="none"), z[0], z[1], term=i)
            others = torch.arange(2 * B) != i
            close(found.weight[i][others] * T, expected[i][others])
        q1, q2 = npc_multiplier(z[0], z[1], T)
        close(pair_weights(NTXent(T), z[0], z[1]).pull * T / 2, ((q1 + q2) / 2).repeat(2))
        close(pair_weights(DCL(T), z[0], z[1]).pull * T / 2, torch.ones(2 * B, dtype=torch.float64))

    def test_supcon_shares_the_pull_among_its_class(self, dim):
        z, labels = views(dim), torch.tensor([0, 0, 1, 1, 1, 2, 3])
        loss = SupCon(T, reduction="none")
        found = pair_weights(lambda x: loss(x, labels), z, groups=[labels.expand(2, B)], term=1)
        p = cosines(z).fill_diagonal_(-torch.inf).softmax(1)[1]
        positive = labels.repeat(2) == 0
        positive[1] = False
        expected = (p - positive.double() / positive.sum()) / T
        others = torch.arange(2 * B) != 1
        close(found.weight[1][others], expected[others])
        assert found.positive[1].tolist() == positive.tolist()

    def test_infonce_against_a_bank(self, dim):
        z, bank = views(dim), views(dim, 1, 9, seed=1)[0]
        groups = [torch.arange(B), torch.arange(B), B + torch.arange(9)]
        found = pair_weights(InfoNCE(T), z[0], z[1], bank, groups=groups, anchors=1)
        q, k, n = (normalize(x, dim=1) for x in (z[0], z[1], bank))
        p = torch.cat([(q * k).sum(1, keepdim=True), q @ n.T], 1).div(T).softmax(1)
        close(found.weight[:B, 2 * B :], p[:, 1:] / (B * T))
        close(found.weight[:B, B : 2 * B].diagonal(), (p[:, 0] - 1) / (B * T))
        assert found.negative.sum(1).tolist() == [9] * B  # keys of other items are nobody's negatives
        close(found.pull * T, 1 - p[:, 0])


def test_negatives_of_two_modalities_are_of_the_other_one():
    z = views()
    found = pair_weights(lambda image, text: InfoNCE(T)(image, text, text.roll(1, 0)), z[0], z[1], anchors=1)
    expected = torch.cat([torch.zeros(B, B), 1 - torch.eye(B)], 1).bool()
    assert found.negative.tolist() == expected.tolist()
    assert found.views.tolist() == [0] * B + [1] * B
    assert pair_weights(NTXent(T), z[0], z[1]).negative.sum(1).tolist() == [2 * B - 2] * 2 * B


@pytest.mark.parametrize("case", ["ntxent_a", "ntxent_b"])
def test_the_weights_add_up_to_the_golden_gradient(case):
    z1, z2 = (torch.from_numpy(GOLDEN[f"{case}__{name}"]) for name in ("z1", "z2"))
    found = pair_weights(NTXent(float(GOLDEN[f"{case}__temperature"])), z1, z2, unit=False)
    golden = torch.from_numpy(np.concatenate([GOLDEN[f"{case}__grad_z1"], GOLDEN[f"{case}__grad_z2"]]))
    torch.testing.assert_close(found.weight @ torch.cat([z1, z2]).double(), golden.double(), rtol=1e-7, atol=1e-9)
    assert found.loss == pytest.approx(float(GOLDEN[f"{case}__loss"]), rel=1e-7)


class TestWeights:
    def test_of_any_function_of_inner_products(self):
        z = views(3)
        a = torch.rand(2 * B, 2 * B, dtype=torch.float64)

        def loss(x):
            s = x.flatten(0, 1) @ x.flatten(0, 1).T
            return (a * s**3).sum()

        found = pair_weights(loss, z, unit=False)
        s = found.similarity
        close(off_diagonal(found.weight) / off_diagonal(s).abs().max() ** 2,
              off_diagonal(3 * (a + a.T) * s**2) / off_diagonal(s).abs().max() ** 2)  # fmt: skip

    def test_stop_gradients_make_them_one_sided(self):
        z = views()
        found = pair_weights(NegativeCosine(), z[0], z[1])
        close(found.weight[:B, B:].diagonal(), torch.full((B,), -1 / B, dtype=torch.float64))
        assert not found.weight[B:].any()
        free, stopped = (pair_weights(GroCo(3, stop_gradient=stop), z).weight for stop in (False, True))
        torch.testing.assert_close(free, free.T)
        close(off_diagonal(stopped + stopped.T), off_diagonal(free))

    def test_spectral_is_a_square(self):
        z = normalize(views(), dim=-1)
        found = pair_weights(SpectralContrastive(), z[0], z[1])
        between = 2 * (z[0] @ z[1].T) / (B * (B - 1))
        between.fill_diagonal_(-2 / B)
        close(found.weight[:B, B:], between)
        assert not off_diagonal(found.weight[:B, :B]).any()

    def test_cacr_without_a_gradient_through_its_weights(self):
        z = views()
        loss = CACR(detach_weights=True)
        _, repulsion = loss.conditional_weights(z)
        found = pair_weights(loss, z)
        close(found.weight[:B, B:].fill_diagonal_(0), 2 * repulsion[0] / B)

    def test_rows_in_another_order(self):
        z, order = views(), torch.tensor([3, 0, 6, 1, 2, 5, 4])
        both = torch.cat([order, order + B])
        found, moved = (pair_weights(NTXent(T), x[0], x[1]) for x in (z, z[:, order]))
        close(moved.weight, found.weight[both][:, both])
        close(moved.gradient, found.gradient[both])

    def test_forces_that_cancel_are_forces(self):
        z = torch.ones(2, B, 5, dtype=torch.float64)
        found = pair_weights(NTXent(T), z[0], z[1])
        close(found.push, torch.full((2 * B,), 2 / T * (2 * B - 2) / (2 * B - 1), dtype=torch.float64))
        assert float(found.gradient.abs().max()) < 1e-15

    @pytest.mark.parametrize("length", [1e-12, 1e12])
    def test_of_rows_of_any_length(self, length):
        z = views()
        z[1, 3] *= length
        found, even = pair_weights(NTXent(T), z[0], z[1], unit=False), pair_weights(NTXent(T), z[0], z[1])
        sizes = z.flatten(0, 1).norm(dim=1)
        close(off_diagonal(found.weight * sizes * sizes[:, None]), off_diagonal(even.weight))

    def test_lengths_do_not_count_on_the_sphere(self):
        z = views()
        found, longer = (pair_weights(NTXent(T), x[0], x[1]) for x in (z, 7 * z))
        close(found.weight, longer.weight)
        assert float((found.gradient * normalize(z.flatten(0, 1), dim=1)).sum(1).abs().max()) < 1e-12

    @pytest.mark.parametrize("loss", [BarlowTwins(), VICReg(), lambda a, b: (a**4).sum() + (b - a).abs().sum()])
    @pytest.mark.parametrize("dim", [5, 40])
    def test_what_is_no_function_of_inner_products_is_refused(self, loss, dim):
        z = views(dim)
        with pytest.raises(NotOfPairs, match=r"^loss: not a function of the inner products"):
            pair_weights(loss, z[0], z[1])

    def test_what_has_no_gradient_has_no_weights(self):
        found = pair_weights(lambda z: (z * 0).sum(), views())
        assert not found.weight.any()
        assert found.effective_negatives.tolist() == found.hardest(0.01).tolist() == [0.0] * 2 * B
        assert bool(found.direction.isnan().all())
        assert not pair_weights(lambda z: z.detach().sum(), views()).weight.any()

    def test_arguments_are_named(self):
        z = views()
        with pytest.raises(ValueError, match=r"^inputs: .*\(7, 5\).*\(7, 4\)"):
            pair_weights(NTXent(), z[0], z[1][:, :4])
        with pytest.raises(ValueError, match=r"^inputs:"):
            pair_weights(NTXent())
        with pytest.raises(ValueError, match=r"^inputs: 2 of 14 rows are zero"):
            pair_weights(NTXent(), z[0] * (torch.arange(B) > 1)[:, None], z[1])
        with pytest.raises(ValueError, match=r"^groups: expected \[\(2, 7\)\], got \[\(7,\)\]"):
            pair_weights(SupCon(), z, groups=[torch.arange(B)])
        with pytest.raises(ValueError, match=r"^loss: expected a scalar, got \(14,\)"):
            pair_weights(NTXent(reduction="none"), z[0], z[1])
        with pytest.raises(ValueError, match=r"^fraction: .* got 1.5"):
            pair_weights(NTXent(), z[0], z[1]).hardest(1.5)


class TestSummaries:
    def test_shares_of_the_hardest(self):
        z = views(items=60)
        found = pair_weights(NTXent(T), z[0], z[1])
        shares, s = found.shares, found.similarity
        for i in (0, 77):
            others = found.negative[i]
            hard = s[i][others].argsort(descending=True)
            for fraction, kept in ((0.001, 1), (0.01, 1), (0.1, 12), (1, 118)):
                expected = shares[i][others][hard[:kept]].sum()
                assert float(found.hardest(fraction)[i]) == pytest.approx(float(expected), rel=1e-9)
        close(found.hardest(1), torch.ones(120, dtype=torch.float64))

    def test_effective_negatives_lie_between_one_and_all(self):
        z = views()
        even = pair_weights(SimpleContrastive(), z[0], z[1])
        close(even.effective_negatives, torch.full((2 * B,), 2.0 * B - 2, dtype=torch.float64))
        sharp = pair_weights(DCL(0.001), z[0], z[1])
        assert float(sharp.effective_negatives.min()) < 2

    def test_weight_times_direction_is_the_gradient(self):
        z = views()
        found = pair_weights(NTXent(T), z[0], z[1])
        close(found.pull * found.direction, found.gradient.norm(dim=1) * 2 * B)


class TestSplit:
    def test_shares_add_up(self):
        z = views(40)
        for loss in (NTXent(), BarlowTwins(), VICReg(), SpectralContrastive()):
            split = gradient_split(loss, z[0], z[1])
            assert sum(split.values()) == pytest.approx(1)
            assert min(split.values()) > -1e-12

    def test_sums_over_pairs_stay_among_the_rows(self):
        z = views(40)
        pairs, twins = gradient_split(NTXent(), z[0], z[1]), gradient_split(BarlowTwins(), z[0], z[1])
        assert pairs["length"] < 1e-20
        assert pairs["nowhere"] < 1e-20
        assert min(pairs["positives"], pairs["others"]) > 0.05
        assert twins["nowhere"] > 0.05
        assert gradient_split(BarlowTwins(), *views(5))["nowhere"] < 1e-20  # 14 rows span all 5 dimensions

    def test_pure_directions(self):
        z = views(40)
        assert gradient_split(NegativeCosine(), z[0], z[1])["positives"] == pytest.approx(1)
        assert gradient_split(lambda a, b: (a**2).sum(), z[0], z[1])["length"] == pytest.approx(1)
        split = gradient_split(lambda x: x[0, 0] @ x[0, 1], z)
        assert split["others"] > 0.5
        assert split["nowhere"] < 1e-20
