"""Gates of class pairs: golden figures in training and evaluation, symmetry, the other modes and kinds, refusals."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.encoders import PairGate
from counterpoint.encoders.gates import bernoulli_entropy

GOLDEN = {
    name: torch.from_numpy(np.asarray(value))
    for name, value in np.load(Path(__file__).parents[1] / "golden" / "04-hydra.npz").items()
}
Y1, Y2 = GOLDEN["y1"], GOLDEN["posy"]
close = {"rtol": 1e-8, "atol": 1e-10}


def official(**options):
    gate = PairGate(5, 6, embed_dim=6, hidden_dim=7, **options).double()
    state = {
        name.replace("gate_mlp_", "mlp.").replace("gate_label_", "label_"): value
        for name, value in GOLDEN.items()
        if name.startswith(("gate_mlp_", "gate_label_"))
    }
    parts = {name: ".".join(name.rsplit("_", 1)) for name in state if "running" not in name and "tracked" not in name}
    parts |= {name: name.replace("_", ".", 1) for name in state if name not in parts}
    gate.load_state_dict({parts[name]: value for name, value in state.items()})
    return gate


@pytest.mark.paper(4, "parity")
def test_golden_gates():
    gate = official()
    torch.testing.assert_close(gate(Y1, Y2), GOLDEN["gate_train"], **close)
    gate = official().eval()
    torch.testing.assert_close(gate(Y1, Y2), GOLDEN["gate_eval"], **close)
    torch.testing.assert_close(gate(Y1), GOLDEN["gate_eval_single"], **close)
    torch.testing.assert_close(official(mode="single").eval()(Y1, Y2), GOLDEN["gate_eval_single"], **close)
    single = gate.float()(Y1, Y2).double()
    torch.testing.assert_close(single, GOLDEN["gate_eval"], rtol=2e-3, atol=1e-5)


def test_a_product_is_that_of_both_classes():
    gate = official(mode="product").eval()
    torch.testing.assert_close(gate(Y1, Y2), official().eval()(Y1) * official().eval()(Y2))
    assert gate(Y1, Y2).mean() < official().eval()(Y1, Y2).mean()


@pytest.mark.parametrize("mode", ["fuse", "product"])
@pytest.mark.parametrize("training", [True, False])
def test_pairs_have_no_order(mode, training):
    first, second = (official(mode=mode).train(training) for _ in range(2))
    torch.testing.assert_close(first(Y1, Y2), second(Y2, Y1), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(first(Y1, Y2), first(Y1, Y1), atol=1e-3)


def test_training_gates_depend_on_the_batch_and_move_the_statistics():
    gate = official()
    together, before = gate(Y1, Y2), gate.mlp[1].running_mean.clone()
    assert not torch.allclose(gate(Y1[:4], Y2[:4]), together[:4], atol=1e-3)
    assert not torch.equal(gate.mlp[1].running_mean, before)
    gate.eval()
    torch.testing.assert_close(gate(Y1[:4], Y2[:4]), gate(Y1, Y2)[:4])
    assert gate(Y1[:1], Y2[:1]).shape == (1, 6)


def test_an_open_gate_has_nothing_to_learn():
    gate = PairGate(5, 6, mode="open")
    assert torch.equal(gate(Y1, Y2), torch.ones(8, 6))
    assert list(gate.parameters()) == []
    assert gate.penalty(gate.scores(Y1, Y2)) == 0


def test_gumbel_gates_are_random_in_training_and_almost_binary_when_cold():
    gate = official(kind="gumbel", temperature=0.01)
    torch.manual_seed(0)
    drawn = torch.stack([gate(Y1, Y2) for _ in range(2000)])
    assert ((drawn < 0.01) | (drawn > 0.99)).double().mean() > 0.95
    share = (drawn > 0.5).double().mean(0)  # of the coins that the scores say
    torch.testing.assert_close(share, GOLDEN["gate_train"], rtol=0, atol=0.05)
    torch.testing.assert_close(
        gate.load_state_dict(official().state_dict()) and gate.eval()(Y1, Y2), GOLDEN["gate_eval"]
    )


def test_stochastic_gates_open_as_often_as_their_penalty_says():
    gate = official(kind="stochastic")
    scores = gate.scores(Y1, Y2)
    torch.manual_seed(0)
    drawn = torch.stack([gate.opened(scores) for _ in range(3000)])
    assert drawn.min() == 0
    assert drawn.max() == 1
    torch.testing.assert_close((drawn > 0).double().mean(), gate.penalty(scores), rtol=0, atol=0.01)
    torch.testing.assert_close(gate.eval().opened(scores), (scores[0] + 0.5).clamp(0, 1))
    assert torch.autograd.grad(gate.penalty(scores), scores)[0].min() > 0  # a smaller score is a smaller penalty


def test_entropy():
    assert bernoulli_entropy(torch.tensor([0.0, 1.0])) == 0
    assert bernoulli_entropy(torch.tensor([0.5, 0.5])).item() == pytest.approx(math.log(2))
    gate = official()
    scores = gate.scores(Y1, Y2)
    torch.testing.assert_close(gate.penalty(scores), bernoulli_entropy(GOLDEN["gate_train"]))
    extreme = torch.full((1, 2, 6), 1e30, requires_grad=True)
    assert gate.penalty(extreme) == 0
    assert torch.autograd.grad(gate.penalty(extreme), extreme)[0].isfinite().all()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: PairGate(0, 4), "classes: expected at least 1"),
        (lambda: PairGate(3, 0), "dim: expected at least 1"),
        (lambda: PairGate(3, 4, mode="sum"), "mode: expected one of fuse"),
        (lambda: PairGate(3, 4, kind="hard"), "kind: expected one of sigmoid"),
        (lambda: PairGate(3, 4, kind="gumbel", temperature=0), "temperature: expected"),
        (lambda: PairGate(3, 4)(torch.tensor([0, 3])), "y1: expected classes 0 to 2, got 0 to 3"),
        (lambda: PairGate(3, 4)(torch.tensor([0, 1]), torch.tensor([0, -1])), "y2: expected classes 0 to 2"),
        (lambda: PairGate(3, 4)(torch.tensor([0, 1]), torch.tensor([0])), r"y2: expected integers \(B,\)"),
        (lambda: PairGate(3, 4)(torch.tensor([0.0, 1])), r"y1: expected integers \(B,\)"),
        (lambda: PairGate(3, 4)(torch.tensor([1])), "y1: expected at least 2 pairs in training"),
    ],
)
def test_refusals(make, told):
    with pytest.raises(ValueError, match=f"^{told}"):
        make()
