"""SwAV: parity with the official loss loop, its limits, and what it refuses."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.objectives.inputs import normalize
from counterpoint.objectives.swav import SwAV
from counterpoint.pairwise.assignment import sinkhorn

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "62-swav.npz")
CASES = ["two_views", "multicrop_2_3", "queue"]


def golden(case, dtype=torch.float64):
    return {
        name.split("__")[1]: torch.from_numpy(GOLDEN[name]).to(dtype) if GOLDEN[name].ndim else GOLDEN[name].item()
        for name in GOLDEN.files
        if name.startswith(case + "__")
    }


def computed(g):
    """Loss, and gradients in the raw embeddings and in the prototypes as they are."""
    z, c = g["embeddings"].requires_grad_(), g["prototypes"].requires_grad_()
    scores = normalize(z) @ c.T
    queue = list(g["queue"] @ c.T) if "queue" in g else None
    objective = SwAV(g["temperature"], g["epsilon"], g["iterations"])
    loss = objective(scores[: g["n_global"]], scores[g["n_global"] :], queue)
    return scores, (loss.detach(), *torch.autograd.grad(loss, (z, c)))


@pytest.mark.paper(62, "parity")
@pytest.mark.parametrize("case", CASES)
def test_golden(case):
    g = golden(case)
    scores, found = computed(g)
    torch.testing.assert_close(scores[0].detach(), g["scores0"], rtol=1e-7, atol=1e-9)
    expected = torch.tensor(g["loss"], dtype=torch.float64), g["grad_embeddings"], g["grad_prototypes"]
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    for crop, codes in enumerate(g["codes"]):
        bank = g["queue"][crop] @ g["prototypes"].T if "queue" in g else None
        found = sinkhorn(scores[crop], g["epsilon"], g["iterations"], bank)
        torch.testing.assert_close(found, codes, rtol=1e-7, atol=1e-9)


@pytest.mark.paper(62, "parity")
@pytest.mark.parametrize("case", CASES)
def test_golden_in_single_precision(case):
    g = golden(case, torch.float32)
    _, found = computed(g)
    expected = torch.tensor(g["loss"]), g["grad_embeddings"], g["grad_prototypes"]
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4)


def crops(count=4, items=6, k=5, seed=0):
    made = torch.Generator().manual_seed(seed)
    return torch.rand(count, items, k, generator=made, dtype=torch.float64) * 2 - 1


def test_every_other_crop_predicts_and_none_itself():
    s = crops()
    codes = [sinkhorn(each) for each in s[:2]]
    pairs = [(i, v) for i in range(2) for v in range(4) if v != i]
    terms = [-(codes[i] * torch.log_softmax(s[v] / 0.1, 1)).sum(1) for i, v in pairs]
    expected = torch.stack(terms).mean(0)
    torch.testing.assert_close(SwAV(reduction="none")(s[:2], s[2:]), expected)
    torch.testing.assert_close(SwAV()(s[:2], s[2:]), expected.mean())
    torch.testing.assert_close(SwAV(reduction="sum")(s[:2], s[2:]), expected.sum())


def test_one_global_crop_predicts_nothing():
    s = crops(2).requires_grad_()
    (gradient,) = torch.autograd.grad(SwAV()(s[:1], s[1:]), s)
    assert (gradient[0] == 0).all()
    assert (gradient[1] != 0).any()


def test_orders_do_not_matter():
    s, order = crops(), torch.tensor([3, 0, 5, 1, 4, 2])
    loss = SwAV()(s[:2], s[2:])
    torch.testing.assert_close(SwAV()(s[[1, 0]], s[[3, 2]]), loss)
    torch.testing.assert_close(SwAV()(s[:2, order], s[2:, order]), loss)
    torch.testing.assert_close(SwAV()(s[:2, :, [4, 2, 0, 1, 3]], s[2:, :, [4, 2, 0, 1, 3]]), loss)
    assert not torch.isclose(SwAV()(s[2:], s[:2]), loss)  # which crops have codes does


def test_codes_have_no_gradient():
    """The gradient of a prediction is (softmax - code) / temperature, whatever the code was made from."""
    s = crops(2).requires_grad_()
    (gradient,) = torch.autograd.grad(SwAV()(s), s)
    expected = [(torch.softmax(s[v] / 0.1, 1) - sinkhorn(s[1 - v])) / (0.1 * 6 * 2) for v in range(2)]
    torch.testing.assert_close(gradient, torch.stack(expected))


def test_gradcheck():
    s = crops(3, 4, 3)
    constant = [sinkhorn(each) for each in s[:2]]  # finite differences would see the codes change

    def loss(x):
        logs = torch.log_softmax(x / 0.1, 2)
        pairs = [(i, v) for i in range(2) for v in range(3) if v != i]
        return -torch.stack([(constant[i] * logs[v]).sum(1).mean() for i, v in pairs]).mean()

    x = s.requires_grad_()
    assert torch.autograd.gradcheck(loss, x)
    torch.testing.assert_close(torch.autograd.grad(SwAV()(x[:2], x[2:]), x), torch.autograd.grad(loss(x), x))


def test_the_queue_takes_part_in_the_balance_alone():
    s, queue = crops(), list(crops(2, 20, seed=1))
    popular = [each + torch.tensor([1.0, 0, 0, 0, 0]) for each in queue]
    loss = SwAV()(s[:2], s[2:], popular)
    assert not torch.isclose(loss, SwAV()(s[:2], s[2:]))
    assert not torch.isclose(loss, SwAV()(s[:2], s[2:], [popular[0], queue[1]]))  # to each crop its own
    assert SwAV(reduction="none")(s[:2], s[2:], popular).shape == (6,)


def test_limits():
    same = torch.ones(2, 6, 5)
    assert SwAV()(same).item() == pytest.approx(math.log(5))  # all alike: uniform codes and predictions
    assert SwAV()(torch.zeros(2, 6, 5)).item() == pytest.approx(math.log(5))  # zero vectors
    assert SwAV()(torch.rand(2, 6, 1)).item() == 0  # one prototype
    collapsed = torch.tensor([1.0, 0, 0, 0]).repeat(2, 6, 1)
    assert SwAV(iterations=0)(collapsed).item() < 1e-3  # the trivial solution, which balance makes dear
    assert SwAV()(collapsed).item() > math.log(4)
    agreed = torch.eye(4).repeat(2, 2, 1)
    assert SwAV()(agreed).item() < 1e-2


@pytest.mark.parametrize("scale", [30.0, 1e30, 3e38])
@pytest.mark.parametrize("shape", [(2, 3, 50), (3, 1, 4), (2, 6, 5)])
def test_finite_for_finite_scores(scale, shape):
    s = ((crops(*shape).float() * scale).nan_to_num()).requires_grad_()
    loss = SwAV()(s)
    (gradient,) = torch.autograd.grad(loss, s)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    s = crops().to(dtype).requires_grad_()
    loss = SwAV()(s[:2], s[2:])
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, SwAV()(s[:2].float(), s[2:].float()))
    assert torch.isfinite(torch.autograd.grad(loss, s)[0]).all()


def poked(x, value):
    x = x.clone()
    x[0, 1, 1] = value
    return x


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("global_scores", (crops(1),)),
        ("global_scores", ([], crops(2))),
        ("global_scores", (poked(crops(2), float("nan")),)),
        ("global_scores", (poked(crops(2), float("inf")),)),
        ("global_scores", (crops(2).long(),)),
        ("global_scores", (crops(2)[..., 0],)),
        ("local_scores", (crops(2), crops(1, k=4))),
        ("local_scores", (crops(2), crops(1, items=5))),
        ("local_scores", (crops(2), poked(crops(1), float("nan")))),
        ("queue_scores", (crops(2), (), crops(1))),
        ("queue_scores", (crops(2), (), crops(2, k=4))),
        ("queue_scores", (crops(2), (), poked(crops(2), float("nan")))),
    ],
)
def test_what_has_no_answer(name, given):
    with pytest.raises(ValueError, match=f"^{name}"):
        SwAV()(*given)


@pytest.mark.parametrize(
    ("name", "value"), [("temperature", 0.0), ("epsilon", float("nan")), ("iterations", -1), ("reduction", "avg")]
)
def test_options(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        SwAV(**{name: value})
