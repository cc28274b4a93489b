"""LARC: its equation over several steps, what is left as it is, groups, resumption, and training by it."""

import copy

import pytest
import torch

from counterpoint.methods import Recipe
from counterpoint.methods.larc import LARC


def parameter(*shape, seed=0, scale=1.0):
    made = torch.Generator().manual_seed(seed)
    return torch.nn.Parameter(scale * torch.randn(shape, generator=made, dtype=torch.float64))


def steps(optimizer, parameters, gradients):
    for step in gradients:
        for w, grad in zip(parameters, step, strict=True):
            w.grad = grad
        optimizer.step()


def test_it_is_sgd_with_a_rate_for_each_tensor():
    ours = [parameter(3, 4), parameter(5, seed=1, scale=100)]
    theirs = [w.detach().clone().requires_grad_() for w in ours]
    gradients = [[torch.randn_like(w) * 10**i for w in ours] for i in range(3)]
    larc = LARC(ours, lr=0.6, momentum=0.8, weight_decay=0.02, trust=0.01)
    sgd = torch.optim.SGD(theirs, lr=0.6, momentum=0.8)
    for step in gradients:
        scaled = []
        for w, grad in zip(theirs, step, strict=True):
            rate = 0.01 * w.norm() / (grad.norm() + 0.02 * w.norm() + 1e-8)
            scaled.append((rate * (grad + 0.02 * w)).detach())
        steps(larc, ours, [step])
        steps(sgd, theirs, [scaled])
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


def test_a_step_is_a_share_of_the_tensor_whatever_its_gradient():
    for size in (1e-6, 1.0, 1e6):
        w = parameter(7)
        before = w.detach().clone()
        steps(LARC([w], lr=0.5, weight_decay=0), [w], [[size * torch.ones_like(w)]])
        assert (w - before).norm().item() == pytest.approx(0.5 * 0.001 * before.norm().item(), rel=1e-2)


def test_what_is_zero_takes_the_plain_step_and_does_not_decay():
    bias, still, frozen = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.ones(3)), parameter(2)
    before = frozen.detach().clone()
    steps(
        LARC([bias, still, frozen], lr=0.5, weight_decay=0.1),
        [bias, still, frozen],
        [[torch.ones(3), torch.zeros(3), None]],
    )
    assert bias.tolist() == [-0.5] * 3
    assert still.tolist() == [1.0] * 3
    assert torch.equal(frozen, before)


def test_groups_and_schedules_reach_it():
    module = torch.nn.Linear(4, 4)
    optimizer, schedule = Recipe("larc", lr=0.6, weight_decay=0.3, warmup=0.5).optimizers(module, 4)
    assert isinstance(optimizer, LARC)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.3]
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.6)


def test_it_goes_on_from_its_state():
    w, gradients = parameter(3), [[parameter(3, seed=i).detach()] for i in range(4)]
    optimizer = LARC([w])
    steps(optimizer, [w], gradients[:2])
    other = w.detach().clone().requires_grad_()
    again = LARC([other])
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(optimizer, [w], gradients[2:])
    steps(again, [other], gradients[2:])
    assert torch.equal(w, other)


def test_a_closure_computes_the_gradient():
    w = parameter(3)
    optimizer = LARC([w])
    before = w.detach().clone()

    def closure():
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(before.square().sum().item())
    assert w.norm() < before.norm()


@pytest.mark.parametrize(
    ("name", "value"), [("lr", -1.0), ("momentum", 1.0), ("weight_decay", float("inf")), ("trust", float("nan"))]
)
def test_what_cannot_be(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        LARC([parameter(3)], **{name: value})
