"""The tiled log partition against the dense matrix: values, gradients, exclusions, weights, ranges, memory."""

import math
import subprocess
import sys

import pytest
import torch

from counterpoint.pairwise import log_partition, log_partitions

INF = float("inf")


def dense(q, k, scale=1.0, exclude=None, exclude_keys=None, log_weights=None):
    """The score matrix with its exclusions, whole."""
    scores = q @ k.T * (scale[:, None] if isinstance(scale, torch.Tensor) and scale.ndim else scale)
    if log_weights is not None:
        scores = scores + log_weights
    if exclude is not None:
        other = exclude if exclude_keys is None else exclude_keys
        scores = scores.masked_fill(exclude[:, None] == other[None, :], -INF)
    return scores


def lse(scores, dim=1):
    """logsumexp whose gradient is 0, not NaN, where nothing is left."""
    return torch.where((scores > -INF).any(dim), scores.logsumexp(dim), -INF)


def rows(n, d, seed=0, dtype=torch.float64, size=1.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype).mul_(size)


def same(actual, expected, inputs, rtol=1e-10, atol=1e-12):
    """Values, and gradients of a weighted sum so that no row's gradient hides behind another's."""
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, equal_nan=False)
    weights = torch.linspace(0.5, 2.0, actual.numel(), dtype=actual.dtype)
    kept = expected > -INF
    for ours, theirs in zip(
        torch.autograd.grad((actual * weights)[kept].sum(), inputs, retain_graph=True),
        torch.autograd.grad((expected * weights)[kept].sum(), inputs, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


GROUPS = {
    "none": lambda n, m: (None, None),
    "all but myself": lambda n, m: (torch.arange(n), torch.arange(m)),
    "labels": lambda n, m: (torch.arange(n) * 7 % 3, torch.arange(m) * 5 % 3),
    "sorted labels": lambda n, m: (torch.arange(n) // 4, torch.arange(m) // 4),
    "negative labels": lambda n, m: (-torch.arange(n) // 3, -torch.arange(m) // 5),
    "some have nothing left": lambda n, m: (torch.tensor([5, *[9] * (n - 1)]), torch.full((m,), 5)),
    "nobody has anything left": lambda n, m: (torch.zeros(n).long(), torch.zeros(m).long()),
}
PATHS = {"direct": 1.0, "running maximum": 30.0}  # of the scores: float64 is exponentiated directly up to 300


@pytest.mark.parametrize("size", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("tile", [None, 1, 5])
def test_equals_the_dense_matrix(size, groups, tile):
    q, k = rows(13, 4, 1, size=size).requires_grad_(), rows(17, 4, 2, size=size).requires_grad_()
    exclude, exclude_keys = groups(13, 17)
    actual = log_partition(q, k, scale=0.7, exclude=exclude, exclude_keys=exclude_keys, tile=tile)
    same(actual, lse(dense(q, k, 0.7, exclude, exclude_keys)), [q, k])


@pytest.mark.parametrize("size", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("tile", [None, 1, 5])
def test_own_keys_equal_the_dense_matrix(size, groups, tile):
    q = rows(13, 4, size=size).requires_grad_()
    exclude, _ = groups(13, 13)
    actual = log_partition(q, scale=0.7, exclude=exclude, tile=tile)
    same(actual, lse(dense(q, q, 0.7, exclude)), [q])


@pytest.mark.parametrize("tile", [None, 5])
def test_own_keys_with_groups_that_are_not_symmetric(tile):
    q, exclude, exclude_keys = rows(13, 4).requires_grad_(), torch.arange(13) % 4, torch.arange(13) // 4
    actual = log_partition(q, scale=0.7, exclude=exclude, exclude_keys=exclude_keys, tile=tile)
    same(actual, lse(dense(q, q, 0.7, exclude, exclude_keys)), [q])


@pytest.mark.parametrize("size", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("tile", [None, 5])
def test_rows_and_columns_equal_the_dense_matrix(size, groups, tile):
    q, k = rows(13, 4, 1, size=size).requires_grad_(), rows(17, 4, 2, size=size).requires_grad_()
    exclude, exclude_keys = groups(13, 17)
    by_row, by_column = log_partitions(q, k, scale=0.7, exclude=exclude, exclude_keys=exclude_keys, tile=tile)
    scores = dense(q, k, 0.7, exclude, exclude_keys)
    same(torch.cat([by_row, by_column]), torch.cat([lse(scores), lse(scores, 0)]), [q, k])
    same(by_column, lse(scores, 0), [q, k])


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("size", PATHS.values(), ids=PATHS)
def test_log_weights(own, size):
    q, k = rows(13, 4, 1, size=size).requires_grad_(), rows(17, 4, 2, size=size).requires_grad_()
    keys = q if own else k
    weights = rows(1, len(keys), 3)[0]
    weights[::4] = -INF
    weights.requires_grad_()
    groups = torch.arange(13) % 5, torch.arange(len(keys)) % 5
    actual = log_partition(
        q, None if own else k, exclude=groups[0], exclude_keys=groups[1], log_weights=weights, tile=5
    )
    same(actual, lse(dense(q, keys, 1.0, *groups, weights)), [q, weights] if own else [q, k, weights])


def test_keys_without_weight_are_no_keys():
    q, k = rows(6, 4, 1), rows(9, 4, 2)
    weights = torch.tensor([0.0] * 5 + [-INF] * 4, dtype=torch.float64)
    torch.testing.assert_close(log_partition(q, k, log_weights=weights), log_partition(q, k[:5]))
    assert (log_partition(q, k, log_weights=torch.full((9,), -INF)) == -INF).all()


@pytest.mark.parametrize("size", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("shape", [(), (13,)])
def test_scale_has_a_gradient(size, shape):
    q, k = rows(13, 4, 1, size=size).requires_grad_(), rows(17, 4, 2, size=size).requires_grad_()
    scale = torch.linspace(0.3, 1.2, 13, dtype=torch.float64)[: 13 if shape else 1].reshape(shape).requires_grad_()
    same(log_partition(q, k, scale=scale, tile=5), lse(dense(q, k, scale)), [q, k, scale])
    if not shape:
        own = torch.arange(13)
        same(log_partition(q, scale=scale, exclude=own, tile=5), lse(dense(q, q, scale, own)), [q, scale])


def test_gradients_equal_finite_differences():
    q, k = rows(5, 3, 1).requires_grad_(), rows(7, 3, 2).requires_grad_()
    scale, weights = torch.tensor(0.8, dtype=torch.float64).requires_grad_(), rows(1, 7, 3)[0].requires_grad_()
    own, groups = torch.arange(5), (torch.arange(5) % 2, torch.arange(7) % 2)
    check = torch.autograd.gradcheck
    assert check(lambda q, s: log_partition(q, scale=s, exclude=own, tile=2), (q, scale))
    assert check(
        lambda q, k, s, w: log_partition(
            q, k, scale=s, exclude=groups[0], exclude_keys=groups[1], log_weights=w, tile=3
        ),
        (q, k, scale, weights),
    )
    assert check(lambda q, k, s: log_partitions(q, k, scale=s, tile=3), (q, k, scale))


def test_a_query_with_nothing_left_has_no_gradient():
    for size in PATHS.values():
        q = rows(6, 4, size=size).requires_grad_()
        exclude = torch.tensor([0, 0, 0, 1, 1, 1])
        log_partition(q[:4], q[:3].detach(), exclude=exclude[:4], exclude_keys=exclude[:3]).sum().backward()
        assert (q.grad[:3] == 0).all()
        assert (q.grad[3] != 0).all()


@pytest.mark.parametrize("largest", [1e3, 1e5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_scores_neither_overflow_nor_vanish(largest, dtype):
    q = torch.nn.functional.normalize(rows(40, 8)).to(dtype).requires_grad_()
    own = torch.arange(40)
    actual = log_partition(q, scale=largest, exclude=own, tile=16)
    expected = lse(dense(q.double(), q.double(), largest, own))
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=0)
    actual.sum().backward()
    assert torch.isfinite(q.grad).all()
    repelled = log_partition(-q.detach(), q.detach(), scale=largest, exclude=own)
    assert torch.isfinite(repelled).all()


@pytest.mark.parametrize("largest", [39.0, 41.0])
def test_float32_is_exact_on_both_sides_of_the_bound(largest):
    x = torch.nn.functional.normalize(rows(300, 16))
    x[1] = x[0]  # a score at the bound itself
    x[2] = -x[0]
    exact, single = x.clone().requires_grad_(), x.float().requires_grad_()
    own = torch.arange(300)
    expected = lse(dense(exact, exact, largest, own))
    actual = log_partition(single, scale=largest, exclude=own, tile=64)
    torch.testing.assert_close(actual.double(), expected, rtol=2e-6, atol=2e-5)
    actual.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(single.grad.double(), exact.grad, rtol=1e-4, atol=1e-3)


def test_order_does_not_matter():
    q, k, shuffle = rows(13, 4, 1), rows(17, 4, 2), torch.randperm(17, generator=torch.Generator().manual_seed(0))
    groups = torch.arange(13) % 3, torch.arange(17) % 3
    ordered = log_partition(q, k, exclude=groups[0], exclude_keys=groups[1], tile=5)
    keys = log_partition(q, k[shuffle], exclude=groups[0], exclude_keys=groups[1][shuffle], tile=5)
    flipped = log_partition(q.flip(0), k, exclude=groups[0].flip(0), exclude_keys=groups[1], tile=5)
    torch.testing.assert_close(keys, ordered)
    torch.testing.assert_close(flipped.flip(0), ordered)


def test_one_query_and_one_key():
    q, k = rows(1, 4, 1), rows(1, 4, 2)
    torch.testing.assert_close(log_partition(q, k, scale=2.0), 2 * (q @ k.T)[0])
    torch.testing.assert_close(log_partition(q, scale=2.0), 2 * (q @ q.T)[0])
    assert log_partition(q, exclude=torch.arange(1)).item() == -INF


def test_many_equal_keys_count_themselves():
    assert log_partition(torch.zeros(2, 3), torch.zeros(1000, 3)).tolist() == pytest.approx([math.log(1000)] * 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    x = torch.nn.functional.normalize(rows(60, 16)).to(dtype)
    half, whole = x.clone().requires_grad_(), x.double().requires_grad_()
    own = torch.arange(60)
    actual = log_partition(half, scale=10.0, exclude=own, tile=16)
    expected = lse(dense(whole, whole, 10.0, own))
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=5e-6)
    actual.sum().backward()
    expected.sum().backward()
    assert half.grad.dtype == dtype
    error = torch.finfo(dtype).eps  # that of rounding the gradient to the type of the input
    torch.testing.assert_close(half.grad.double(), whole.grad, rtol=error, atol=error)


@pytest.mark.parametrize("scale", [1.0, 5.0, 20.0])
@pytest.mark.parametrize("own", [True, False])
def test_bfloat16_tiles_are_within_the_stated_error(scale, own):
    """Under autocast; at its worst where all vectors are alike, so that no roundings cancel."""
    for spread in (1.0, 0.01):
        x, y = (torch.nn.functional.normalize(1 + spread * rows(700, 16, k)).float().requires_grad_() for k in (1, 2))
        keys = None if own else y
        inputs = [x] if own else [x, y]
        plain = log_partition(x, keys, scale=scale, exclude="self")
        with torch.autocast("cpu", torch.bfloat16):
            cast = log_partition(x, keys, scale=scale, exclude="self")
        assert cast.dtype == torch.float32
        assert not torch.equal(cast, plain)
        assert (cast - plain).abs().max() < scale * 2**-6 + 2**-7
        if spread == 1.0:
            for found, wanted in zip(*(torch.autograd.grad(r.sum(), inputs) for r in (cast, plain)), strict=True):
                assert (found - wanted).norm() < (scale * 2**-6 + 2**-6) * wanted.norm()


def test_autocast_keeps_float32_where_bfloat16_would_not_do():
    x = torch.nn.functional.normalize(rows(60, 16)).float()
    for given, scale in ((x, 100.0), (x.double(), 10.0)):  # scores beyond the bound; float64
        plain = log_partition(given, scale=scale, exclude="self")
        with torch.autocast("cpu", torch.bfloat16):
            cast = log_partition(given, scale=scale, exclude="self", tile=30)
        torch.testing.assert_close(cast, plain, rtol=1e-6, atol=0)
    with torch.autocast("cpu", torch.bfloat16):  # one tile is quicker than any conversion
        assert torch.equal(log_partition(x, exclude="self"), log_partition(x, exclude="self", tile=60))
    assert torch.equal(cast, log_partition(x.double(), scale=10.0, exclude="self", tile=30))


@pytest.mark.parametrize("tile", [None, 3])
def test_second_derivatives(tile):
    q, k = rows(4, 3, 1).requires_grad_(), rows(5, 3, 2).requires_grad_()
    scale, weights = torch.tensor(0.8, dtype=torch.float64).requires_grad_(), rows(1, 5, 3)[0].requires_grad_()
    groups = torch.arange(4) % 2, torch.arange(5) % 3
    check = torch.autograd.gradgradcheck
    assert check(lambda q, s: log_partition(q, scale=s, exclude="self", tile=tile), (q, scale))
    assert check(
        lambda q, k, w: log_partition(
            q, k, scale=0.7, exclude=groups[0], exclude_keys=groups[1], log_weights=w, tile=tile
        ),
        (q, k, weights),
    )
    assert check(lambda q, k: log_partitions(q, k, scale=1.3, tile=tile), (q, k))


@pytest.mark.parametrize("tile", [None, 5])
def test_self_is_one_group_a_row(tile):
    q, k = rows(13, 4, 1).requires_grad_(), rows(13, 4, 2).requires_grad_()
    own = torch.arange(13)
    for inputs in ((q,), (q, k)):
        words = log_partition(*inputs, exclude="self", tile=tile)
        same(words, lse(dense(q, inputs[-1], 1.0, own, own)), list(inputs))


def test_a_learned_scale_of_zero():
    q, scale = rows(6, 3).requires_grad_(), torch.zeros((), dtype=torch.float64, requires_grad=True)
    same(log_partition(q, scale=scale, exclude="self"), lse(dense(q, q, scale, torch.arange(6))), [q, scale])


@pytest.mark.parametrize("kept", [0, 1, 3, 100])
@pytest.mark.parametrize("size", PATHS.values(), ids=PATHS)
def test_kept_tiles_change_nothing(kept, size, monkeypatch):
    """None, some or all of the tiles are there in the backward pass; the graph may be walked twice."""
    monkeypatch.setattr("counterpoint.pairwise.partition._KEPT_BYTES", kept * 25 * 8)
    q, k = rows(13, 4, 1, size=size).requires_grad_(), rows(17, 4, 2, size=size).requires_grad_()
    both = torch.cat(log_partitions(q, k, scale=0.7, tile=5))
    scores = dense(q, k, 0.7)
    same(both, torch.cat([lse(scores), lse(scores, 0)]), [q, k])
    own = log_partition(q, scale=0.7, exclude="self", tile=5)
    same(own, lse(dense(q, q, 0.7, torch.arange(13))), [q])
    same(own, lse(dense(q, q, 0.7, torch.arange(13))), [q])


def test_keys_without_a_gradient():
    q, k = rows(13, 4, 1).requires_grad_(), rows(17, 4, 2)
    for tile in (None, 5):
        same(log_partition(q, k, tile=tile), lse(dense(q, k)), [q])


Q, K, LONG = torch.ones(4, 3), torch.ones(5, 3), torch.arange(5)
BAD = [
    ("queries", (torch.ones(4),), {}),
    ("queries", (torch.ones(4, 3).long(),), {}),
    ("queries", (torch.ones(0, 3),), {}),
    ("keys", (Q, torch.ones(5)), {}),
    ("keys", (Q, torch.ones(5, 2)), {}),
    ("keys", (Q, torch.ones(0, 3)), {}),
    ("scale", (Q, K), {"scale": torch.ones(5)}),
    ("scale", (Q,), {"scale": torch.ones(4)}),
    ("scale", (Q,), {"scale": -1.0}),
    ("exclude", (Q, K), {"exclude": LONG, "exclude_keys": LONG}),
    ("exclude", (Q, K), {"exclude": torch.ones(4), "exclude_keys": LONG}),
    ("exclude_keys", (Q, K), {"exclude": LONG[:4], "exclude_keys": LONG[:4]}),
    ("exclude_keys", (Q, K), {"exclude": LONG[:4]}),
    ("exclude_keys", (Q, K), {"exclude_keys": LONG}),
    ("log_weights", (Q, K), {"log_weights": torch.zeros(4)}),
    ("log_weights", (Q, K), {"log_weights": LONG}),
    ("tile", (Q, K), {"tile": 0}),
    ("exclude", (Q, K), {"exclude": "self"}),
    ("exclude", (Q,), {"exclude": "own"}),
    ("exclude", (Q,), {"exclude": "self", "exclude_keys": LONG[:4]}),
]


@pytest.mark.parametrize(("name", "arguments", "named"), BAD)
def test_what_does_not_fit_is_named(name, arguments, named):
    with pytest.raises(ValueError, match=f"^{name}: "):
        log_partition(*arguments, **named)


def test_within_a_compiled_model():
    x = rows(6, 4).float()
    model = torch.nn.Linear(4, 4)

    def loss(x):
        return log_partition(model(x), exclude=torch.arange(6)).mean() * 2

    compiled = torch.compile(loss, backend="eager")
    torch.testing.assert_close(compiled(x), loss(x))
    gradients = [torch.autograd.grad(f(x), model.weight)[0] for f in (compiled, loss)]
    torch.testing.assert_close(*gradients)


MEMORY = """
import sys, torch
from counterpoint.pairwise import log_partition, log_partitions, pair_sum, partition
torch.set_num_threads(1)
partition._KEPT_BYTES = int(sys.argv[1]) << 20
def run(n, m):
    x, y = (torch.nn.functional.normalize(torch.randn(rows, 32), dim=1).requires_grad_() for rows in (n, m))
    log_partition(x, scale=2.0, exclude="self").sum().backward()
    sum(part.sum() for part in log_partitions(x, y, scale=100.0)).backward()
    pair_sum(torch.sigmoid, x, y).sum().backward()
def peak():  # not ru_maxrss, which begins with what the parent held
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
run(600, 600)
before = peak()
run(16384, 4096)
print(peak() - before)
"""


@pytest.mark.parametrize("kept", [0, 64])
def test_memory_is_linear_in_the_rows_beside_what_is_kept(kept):
    command = [sys.executable, "-c", MEMORY, str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < kept + 120  # MiB; the matrices of scores would be 1024 and 256
