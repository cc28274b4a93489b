"""Sinkhorn: balanced codes, safe at any scale, and over processes those of one process with all rows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.processes import in_processes

from counterpoint.objectives.swav import SwAV
from counterpoint.pairwise.assignment import sinkhorn

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "62-swav.npz")


def scores(rows=12, columns=5, seed=0, scale=0.3, dtype=torch.float64):
    return scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def literal(s, epsilon=0.05, iterations=3):
    """As the paper's listing has it, with exponentials; K x B, columns of it are items."""
    q = torch.exp(s / epsilon).T
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(1, keepdim=True) / q.shape[0]
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


@pytest.mark.paper(62, "parity")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 2e-3)])
def test_golden(dtype, tolerance):
    s = torch.from_numpy(GOLDEN["sinkhorn__scores"]).to(dtype)
    codes = sinkhorn(s, float(GOLDEN["sinkhorn__epsilon"]), int(GOLDEN["sinkhorn__iterations"]))
    assert codes.dtype == dtype
    torch.testing.assert_close(codes, torch.from_numpy(GOLDEN["sinkhorn__codes"]).to(dtype), rtol=tolerance, atol=1e-9)


@pytest.mark.parametrize("shape", [(12, 5), (4, 20), (7, 1), (1, 6)])
@pytest.mark.parametrize("iterations", [1, 3, 100])
def test_the_exponential_form(shape, iterations):
    s = scores(*shape)
    torch.testing.assert_close(sinkhorn(s, 0.1, iterations), literal(s, 0.1, iterations))


def test_without_iterations_it_is_a_softmax():
    torch.testing.assert_close(sinkhorn(scores(), 0.1, 0), (scores() / 0.1).softmax(1))


def test_rows_are_exact_and_columns_approach_balance():
    unbalanced = [(sinkhorn(scores(), 0.1, n).sum(0) - 12 / 5).abs().max().item() for n in (0, 1, 3, 200)]
    assert unbalanced == sorted(unbalanced, reverse=True)
    assert unbalanced[0] > 1
    assert unbalanced[-1] < 1e-6
    torch.testing.assert_close(sinkhorn(scores(), 0.01, 1).sum(1), torch.ones(12, dtype=torch.float64))


def test_a_row_everybody_prefers_is_shared():
    """All items like column 0 best; only balance makes them differ."""
    s = torch.tensor([[0.9, 0.5, 0.1], [0.9, 0.1, 0.5], [0.9, 0.1, 0.1]])
    assert sinkhorn(s, iterations=0).argmax(1).tolist() == [0, 0, 0]
    assert sinkhorn(s).argmax(1).tolist() == [1, 2, 0]


def test_shifts_and_permutations():
    s, order = scores(), torch.randperm(12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(sinkhorn(s + 3), sinkhorn(s))
    torch.testing.assert_close(sinkhorn(s + torch.arange(5) / 10), sinkhorn(s))  # a popular column gains nothing
    torch.testing.assert_close(sinkhorn(s[order]), sinkhorn(s)[order])
    torch.testing.assert_close(sinkhorn(s[:, [4, 2, 0, 1, 3]]), sinkhorn(s)[:, [4, 2, 0, 1, 3]])


def test_a_bank_is_more_rows_without_codes():
    s, bank = scores(), scores(20, seed=1) + torch.tensor([0.5, 0, 0, 0, 0])
    torch.testing.assert_close(sinkhorn(s, bank=bank), sinkhorn(torch.cat([bank, s]))[-12:])
    assert not torch.allclose(sinkhorn(s, bank=bank), sinkhorn(s), atol=0.1)


def test_large_scores_in_single_precision():
    s = scores(scale=10.0)  # thirty times a cosine, whose exponential has no float32
    exact = sinkhorn(s)
    assert torch.isinf(torch.exp(s.float() / 0.05)).any()
    torch.testing.assert_close(sinkhorn(s.float()).double(), exact, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    s = scores().to(dtype)
    assert torch.equal(sinkhorn(s), sinkhorn(s.float()))


@pytest.mark.parametrize(
    "s",
    [
        torch.zeros(6, 4),
        torch.ones(6, 4) * 3e38,
        torch.tensor([[3e38, -3e38], [-3e38, 3e38], [3e38, 3e38], [0, 1]]),
        torch.tensor([[3e38, -3e38, -3e38]] * 3),
        torch.eye(4)[:2] * 1e30,
    ],
)
@pytest.mark.parametrize("iterations", [0, 3, 50])
def test_whatever_is_finite_has_codes(s, iterations):
    codes = sinkhorn(s, 1e-3, iterations)
    assert torch.isfinite(codes).all()
    torch.testing.assert_close(codes.sum(1), torch.ones(len(s)))


def test_equal_rows_share_all_columns():
    torch.testing.assert_close(sinkhorn(scores(1).expand(6, 5), 0.1), torch.full((6, 5), 0.2, dtype=torch.float64))


def test_there_is_no_gradient():
    assert not sinkhorn(scores().requires_grad_(), bank=scores().requires_grad_()).requires_grad


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("epsilon", {"epsilon": 0}),
        ("epsilon", {"epsilon": float("nan")}),
        ("epsilon", {"epsilon": float("inf")}),
        ("iterations", {"iterations": -1}),
        ("scores", {"scores": torch.ones(3)}),
        ("scores", {"scores": torch.ones(0, 3)}),
        ("scores", {"scores": torch.ones(3, 0)}),
        ("scores", {"scores": torch.ones(3, 2).long()}),
        ("scores", {"scores": torch.tensor([[1.0, float("nan")]])}),
        ("bank", {"bank": torch.ones(3, 4)}),
        ("bank", {"bank": torch.full((3, 5), float("inf"))}),
    ],
)
def test_what_has_no_answer(name, given):
    with pytest.raises(ValueError, match=f"^{name}: "):
        sinkhorn(**{"scores": scores(), **given})


def crops():
    """Scores of two global and one local crop, and of a queue."""
    return torch.stack([scores(9, seed=seed) for seed in range(3)]), [scores(7, seed=seed) for seed in (5, 6)]


def whole():
    s, bank = crops()
    s.requires_grad_()
    loss = SwAV()(s[:2], s[2:], bank)
    return sinkhorn(s[0]), sinkhorn(s[0], bank=bank[0]), loss.detach(), torch.autograd.grad(loss, s)[0]


def work(rank, shards, expected):
    start = sum(shards[:rank])
    mine = slice(start, start + shards[rank])
    codes, with_bank, wanted, gradient = expected
    s, bank = crops()
    torch.testing.assert_close(sinkhorn(s[0, mine]), codes[mine])
    torch.testing.assert_close(sinkhorn(s[0, mine], bank=bank[0]), with_bank[mine])
    torch.testing.assert_close(sinkhorn(s[0]), codes)  # all hold all of it
    own = s[:, mine].clone().requires_grad_()
    loss = SwAV()(own[:2], own[2:], bank)
    torch.testing.assert_close(loss.detach(), wanted)
    # DistributedDataParallel divides by the processes
    torch.testing.assert_close(torch.autograd.grad(loss, own)[0] / len(shards), gradient[:, mine])
    assert len(SwAV(reduction="none")(own[:2])) == 9


@pytest.mark.parametrize("shards", [(5, 4), (7, 1, 1)], ids=["two", "three"])
def test_processes_together_equal_one_with_all_rows(tmp_path, shards):
    in_processes(work, tmp_path, len(shards), shards, whole())
