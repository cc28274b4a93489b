"""Arbitrary pairs behind gates: golden figures, the equation cell by cell, masks, limits, blocks, hostile input."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from counterpoint.objectives import ArbitraryPairs, InfoNCE, arbitrary
from counterpoint.objectives.arbitrary import gated_cosine, gated_dot, multi_positive_terms

GOLDEN = {
    name: torch.from_numpy(np.asarray(value))
    for name, value in np.load(Path(__file__).parents[1] / "golden" / "04-hydra.npz").items()
}
parity = pytest.mark.paper(4, "parity")
close = {"rtol": 1e-8, "atol": 1e-10}
LABELS = GOLDEN["y1"], GOLDEN["posy"], GOLDEN["y1"]


def made(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gates(*shape, seed=5):
    return made(*shape, seed=seed).mul(2).sigmoid()


def check(kind, loss):
    z, k = (GOLDEN[name].clone().requires_grad_() for name in ("z1", "k2"))
    value = loss(z, k, *LABELS, GOLDEN["gate_train"])
    torch.testing.assert_close(value, GOLDEN[f"{kind}_loss"], **close)
    for gradient, name in zip(torch.autograd.grad(value, (z, k)), ("z1", "k2"), strict=True):
        torch.testing.assert_close(gradient, GOLDEN[f"{kind}_grad_{name}"], **close)
    single = loss(z.float(), k.float(), *LABELS, GOLDEN["gate_train"].float())
    assert single.item() == pytest.approx(value.item(), rel=2e-3)


@parity
def test_golden_cosine():
    temperature = float(GOLDEN["temperature"])
    z, k = (normalize(GOLDEN[name], dim=1) for name in ("z1", "k2"))
    torch.testing.assert_close(gated_cosine(z, k, GOLDEN["gate_train"], 1 / temperature), GOLDEN["cos_logits"], **close)
    check("cos", ArbitraryPairs(temperature))


@parity
def test_golden_dot():
    scale = float(GOLDEN["scale_dot"])
    z, k = (normalize(GOLDEN[name], dim=1) for name in ("z1", "k2"))
    torch.testing.assert_close(gated_dot(z, k, GOLDEN["gate_train"], scale), GOLDEN["dot_logits"], **close)
    check("dot", ArbitraryPairs(1 / scale, similarity="dot"))


@parity
def test_golden_gradient_of_the_class_table():
    from tests.encoders.test_gates import official

    gate = official()
    loss = ArbitraryPairs(float(GOLDEN["temperature"]))(
        GOLDEN["z1"], GOLDEN["k2"], *LABELS, gate(GOLDEN["y1"], GOLDEN["posy"])
    )
    found = torch.autograd.grad(loss, gate.label_embedding.weight)[0]
    torch.testing.assert_close(found, GOLDEN["cos_grad_label_embedding"], **close)


@parity
def test_golden_masked_loss():
    scores = GOLDEN["raw_logits"].clone().requires_grad_()
    positives = GOLDEN["raw_pos_mask"]
    loss = multi_positive_terms(scores, positives, GOLDEN["raw_neg_mask"]).sum() / positives.sum()
    torch.testing.assert_close(loss, GOLDEN["raw_loss"], **close)
    torch.testing.assert_close(torch.autograd.grad(loss, scores)[0], GOLDEN["raw_grad_logits"], **close)


def written_out(z, k, own, target, of, gate, temperature, similarity="cosine", ungated=0.0, exclude_self=False):
    """The mean over positive cells, each score from the gated vectors themselves."""
    total, cells = 0.0, 0
    for i in range(len(z)):

        def score(j, i=i):
            if similarity == "cosine":
                return normalize(gate[i] * z[i], dim=0) @ normalize(gate[i] * k[j], dim=0) / temperature
            a, b = normalize(z[i], dim=0), normalize(k[j], dim=0)
            return (gate[i].square() * a) @ b / temperature - ungated * (a @ b)

        others = [j for j in range(len(k)) if not (exclude_self and i == j) and of[j] >= 0]
        negatives = [j for j in others if of[j] not in (own[i], target[i])]
        for j in others:
            if of[j] == target[i] and own[i] >= 0 and target[i] >= 0:
                total = total + torch.stack([score(n) for n in (j, *negatives)]).logsumexp(0) - score(j)
                cells += 1
    return total / cells


@pytest.mark.parametrize("options", [{}, {"similarity": "dot"}, {"similarity": "dot", "ungated": 0.7}])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_value_and_gradients_of_the_equation(options, temperature):
    z, k, gate = made(6, 4).requires_grad_(), made(9, 4, seed=1).requires_grad_(), gates(6, 4).requires_grad_()
    own, target = torch.tensor([0, 1, 2, 0, -1, 1]), torch.tensor([1, 1, 0, 7, 2, -1])
    of = torch.tensor([0, 1, 2, 3, 1, -1, 0, 2, 1])
    found = ArbitraryPairs(temperature, **options)(z, k, own, target, of, gate)
    expected = written_out(z, k, own.tolist(), target.tolist(), of.tolist(), gate, temperature, **options)
    torch.testing.assert_close(found, expected, **close)
    torch.testing.assert_close(*(torch.autograd.grad(value, (z, k, gate)) for value in (found, expected)), **close)


def test_an_anchor_is_not_its_own_key():
    z, gate = made(7, 4), gates(7, 4)
    own = torch.tensor([0, 0, 1, 1, 2, 2, 0])
    for target in (own, own.flip(0)):
        found = ArbitraryPairs(0.3, exclude_self=True)(z, z, own, target, own, gate)
        lists = own.tolist(), target.tolist(), own.tolist()
        torch.testing.assert_close(found, written_out(z, z, *lists, gate, 0.3, exclude_self=True), **close)
    same = ArbitraryPairs(0.3)(z, z, own, own, own, gate)
    torch.testing.assert_close(same, written_out(z, z, *[own.tolist()] * 3, gate, 0.3), **close)
    assert same < ArbitraryPairs(0.3, exclude_self=True)(z, z, own, own, own, gate)


def test_without_labels_it_is_info_nce_of_the_batch():
    q, k = made(6, 4), made(6, 4, seed=1)
    expected = [InfoNCE(0.2)(q[i : i + 1], k[i : i + 1], k[[j for j in range(6) if j != i]]) for i in range(6)]
    torch.testing.assert_close(ArbitraryPairs(0.2, reduction="none")(q, k), torch.stack(expected))
    own = torch.arange(6)
    torch.testing.assert_close(ArbitraryPairs(0.2)(q, k, own, own, own), torch.stack(expected).mean())


def test_open_and_equal_gates_are_none():
    z, k = made(8, 6), made(8, 6, seed=1)
    expected = ArbitraryPairs(0.3)(z, k, *LABELS)
    for gate in (torch.ones(8, 6), torch.full((8, 6), 1e-30), torch.logspace(-20, 20, 8)[:, None].expand(8, 6)):
        torch.testing.assert_close(ArbitraryPairs(0.3)(z, k, *LABELS, gate.double()), expected)


def test_a_closed_coordinate_plays_no_part():
    z, k, gate = made(8, 6), made(8, 6, seed=1), gates(8, 6)
    gate[:, 4:] = 0
    changed = [torch.cat([x[:, :4], made(8, 2, seed=9)], 1) for x in (z, k)]
    torch.testing.assert_close(
        ArbitraryPairs()(z, k, *LABELS, gate), ArbitraryPairs()(*changed, *LABELS, gate), rtol=1e-10, atol=0
    )


def test_scores_are_not_symmetric():
    z, gate = normalize(made(5, 4), dim=1), gates(5, 4)
    scores = gated_cosine(z, z, gate)
    assert not torch.allclose(scores, scores.T, atol=1e-2)
    torch.testing.assert_close(scores.diagonal(), torch.ones(5, dtype=torch.float64))
    assert scores.abs().max() <= 1 + 1e-12


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_blocks_of_anchors_fit_together(similarity, monkeypatch):
    inputs = [made(11, 4).requires_grad_(), made(11, 4, seed=1).requires_grad_(), gates(11, 4).requires_grad_()]
    own = torch.arange(11) % 3
    options = {"similarity": similarity, "learnable_scale": True}
    results = []
    for cells in (10**6, 25):
        monkeypatch.setattr(arbitrary, "_CELLS", cells)
        loss = ArbitraryPairs(0.2, exclude_self=True, **options).double()
        value = loss(*inputs[:2], own, own.roll(1), own, inputs[2])
        results.append((value, *torch.autograd.grad(value, [*inputs, loss.log_scale])))
    torch.testing.assert_close(*results, **close)


def test_reductions():
    z, k, gate = made(8, 6), made(8, 6, seed=1), gates(8, 6)
    terms = ArbitraryPairs(reduction="none")(z, k, *LABELS, gate)
    cells = (LABELS[1][:, None] == LABELS[2]).sum()
    assert terms.shape == (8,)
    torch.testing.assert_close(ArbitraryPairs(reduction="sum")(z, k, *LABELS, gate), terms.sum())
    torch.testing.assert_close(ArbitraryPairs()(z, k, *LABELS, gate), terms.sum() / cells)


def test_order_and_lengths():
    z, k, gate = made(8, 6), made(8, 6, seed=1), gates(8, 6)
    own, target, of = LABELS
    order, other = torch.randperm(8), torch.randperm(8)
    for loss in (ArbitraryPairs(), ArbitraryPairs(similarity="dot")):
        expected = loss(z, k, *LABELS, gate)
        found = loss(z[order] * 1e90, k[other] * 1e-90, own[order], target[order], of[other], gate[order])
        torch.testing.assert_close(found, expected)


def test_no_positive_anywhere_is_zero_and_moves_nothing():
    z, k, gate = made(4, 3).requires_grad_(), made(4, 3, seed=1).requires_grad_(), gates(4, 3).requires_grad_()
    loss = ArbitraryPairs()(z, k, torch.zeros(4).long(), torch.full((4,), 9), torch.arange(4), gate)
    assert loss == 0
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(loss, (z, k, gate)))


def test_no_negatives_are_exactly_zero():
    """All keys are of the own or the target class."""
    z, k = made(4, 3).requires_grad_(), made(4, 3, seed=1).requires_grad_()
    own, target, of = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 0, 0]), torch.tensor([0, 1, 1, 0])
    loss = ArbitraryPairs()(z, k, own, target, of)
    assert loss == 0
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(loss, (z, k)))
    of[0] = 5  # a negative for all
    assert ArbitraryPairs()(z, k, own, target, of) > 0.01


def test_keys_of_the_own_class_are_left_out():
    z, k = made(3, 4), made(5, 4, seed=1)
    own, target, of = torch.zeros(3).long(), torch.ones(3).long(), torch.tensor([0, 1, 2, 0, 1])
    expected = ArbitraryPairs()(z, k, own, target, of)
    k[[0, 3]] = made(2, 4, seed=8)
    assert ArbitraryPairs()(z, k, own, target, of) == expected
    assert ArbitraryPairs()(z, k, torch.full((3,), 7), target, of) != expected  # then they are negatives


@pytest.mark.parametrize("options", [{}, {"similarity": "dot", "ungated": 0.5}])
def test_gradients_equal_finite_differences(options):
    inputs = [made(8, 4).requires_grad_(), made(8, 4, seed=1).requires_grad_(), gates(8, 4).requires_grad_()]
    loss = ArbitraryPairs(0.5, **options)
    assert torch.autograd.gradcheck(lambda z, k, g: loss(z, k, *LABELS, g), inputs)
    assert torch.autograd.gradgradcheck(lambda z, k, g: loss(z, k, *LABELS, g), [x[:8, :3] for x in inputs])


def test_a_learned_scale_starts_at_the_temperature_and_has_the_right_slope():
    z, k = made(8, 6), made(8, 6, seed=1)
    loss = ArbitraryPairs(0.4, learnable_scale=True).double()
    value = loss(z, k, *LABELS)
    torch.testing.assert_close(value, ArbitraryPairs(0.4)(z, k, *LABELS), rtol=1e-6, atol=1e-7)
    step = 1e-4
    ends = [ArbitraryPairs(0.4 * math.exp(-sign * step))(z, k, *LABELS) for sign in (1, -1)]
    slope = torch.autograd.grad(value, loss.log_scale)[0]
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-7)


EXTREMES = {
    "zero rows": lambda z: z * torch.tensor([0.0, 1, 0, 1, 1, 1, 0, 1])[:, None],
    "nothing but zeros": lambda z: z * 0,
    "1e30": lambda z: z * 1e30,
    "1e-30": lambda z: z * 1e-30,
    "duplicates": lambda z: z[[0] * 8],
}
GATES = {
    "closed": lambda g: g * 0,
    "some closed": lambda g: g * (g > 0.5),
    "one coordinate": lambda g: g * torch.tensor([0.0, 0, 1, 0, 0, 0]),
    "tiny": lambda g: g * 1e-38,
    "huge": lambda g: g * 1e30,
    "uneven": lambda g: g * torch.logspace(-30, 0, 6),
}


@pytest.mark.parametrize("change", EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize("shut", GATES.values(), ids=GATES)
def test_finite_input_gives_a_finite_loss(change, shut):
    z, k = (change(made(8, 6, seed=seed, dtype=torch.float32)).requires_grad_() for seed in range(2))
    gate = shut(gates(8, 6).float()).requires_grad_()
    for loss in (ArbitraryPairs(0.01), ArbitraryPairs(0.01, "dot", ungated=1.0)):
        if loss.similarity == "dot" and gate.max() > 1e20:
            continue  # the square of the gate is a factor of the score
        value = loss(z, k, *LABELS, gate)
        assert value.isfinite()
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, (z, k, gate)))


def test_a_closed_gate_has_the_score_zero():
    z, k = (normalize(made(4, 6, seed=seed), dim=1) for seed in range(2))
    assert (gated_cosine(z, k, torch.zeros(4, 6, dtype=torch.float64)) == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    z, k, gate = made(8, 6).to(dtype), made(8, 6, seed=1).to(dtype), gates(8, 6).to(dtype)
    loss = ArbitraryPairs()(z, k, *LABELS, gate)
    assert loss.dtype == torch.float32
    exact = ArbitraryPairs()(z.double(), k.double(), *LABELS, gate.double())
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-6)


def test_refusals():
    z, y, loss = made(4, 3), torch.arange(4), ArbitraryPairs()
    for call, told in [
        (lambda: loss(z * math.nan, z), "anchors: .* NaN or infinite"),
        (lambda: loss(z, z[:, :2]), r"keys: expected \(N, 3\), got \(4, 2\)"),
        (lambda: loss(z, z[:3]), r"keys: expected \(4, 3\) as anchors without labels, got \(3, 3\)"),
        (lambda: loss(z, z, y, y), "key_labels: expected all three labels or none"),
        (lambda: loss(z, z, y, None, y), "target_labels: expected all three labels or none"),
        (lambda: loss(z, z[:3], y, y, y), r"key_labels: expected \(3,\) integers, got \(4,\)"),
        (lambda: loss(z, z, y.float(), y, y), r"anchor_labels: expected \(4,\) integers"),
        (lambda: loss(z, z, y, y, y, torch.ones(4, 2)), r"gate: expected \(4, 3\) as anchors"),
        (lambda: loss(z, z, y, y, y, -torch.ones(4, 3)), "gate: expected finite numbers of at least 0"),
        (lambda: loss(z, z, y, y, y, torch.ones(4, 3) / 0), "gate: expected finite numbers of at least 0"),
        (
            lambda: ArbitraryPairs(exclude_self=True)(z, z[:3], y, y, y[:3]),
            "keys: expected .* as anchors with exclude_self",
        ),
        (lambda: ArbitraryPairs(0), "temperature: expected"),
        (lambda: ArbitraryPairs(similarity="euclidean"), "similarity: expected"),
        (lambda: ArbitraryPairs(ungated=0.5), "ungated: expected 0"),
        (lambda: ArbitraryPairs(similarity="dot", ungated=math.nan), "ungated: expected 0"),
        (lambda: ArbitraryPairs(reduction="avg"), "reduction: expected"),
    ]:
        with pytest.raises(ValueError, match=f"^{told}"):
            call()
