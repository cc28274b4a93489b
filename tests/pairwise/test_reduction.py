import pytest
import torch

from counterpoint.pairwise import log_partition, pair_sum

GROUPS = torch.tensor([0, 1, 1, 2, 0, 3, 3, 3, 4, 5, 6])
KEY_GROUPS = torch.tensor([1, 1, 0, 7, 3, 2, 9])


def data(n=11, m=7, d=3, dtype=torch.float64):
    made = torch.Generator().manual_seed(0)
    q, k = (torch.randn(rows, d, generator=made, dtype=dtype) for rows in (n, m))
    return q, k, torch.rand(n, generator=made, dtype=dtype) + 0.5, torch.rand(m, generator=made, dtype=dtype)


def hinge(s, threshold, weight):
    return weight * torch.relu(s - threshold + 0.5) ** 2


def plain(term, q, k, rows, columns, groups=None, key_groups=None):
    value = term(q @ k.T, *(r[:, None] for r in rows), *(c[None, :] for c in columns))
    if groups is not None:
        value = torch.where(groups[:, None] == key_groups[None, :], 0.0, value)
    return value.sum(1)


@pytest.mark.parametrize("tile", [1, 2, 5, None])
@pytest.mark.parametrize("excluded", [False, True])
def test_value_and_gradients_are_those_of_the_matrix(tile, excluded):
    inputs = [x.requires_grad_() for x in data()]
    q, k, r, c = inputs
    given = {"exclude": GROUPS, "exclude_keys": KEY_GROUPS} if excluded else {}
    ours = pair_sum(hinge, q, k, rows=(r,), columns=(c,), tile=tile, **given)
    theirs = plain(hinge, q, k, (r,), (c,), *given.values())
    torch.testing.assert_close(ours, theirs)
    outer = torch.linspace(-1, 2, 11, dtype=torch.float64)
    for a, b in zip(*(torch.autograd.grad(v @ outer, inputs) for v in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)


def test_own_keys_take_the_gradient_of_both_sides():
    q = data()[0].requires_grad_()
    ours = pair_sum(torch.sigmoid, q, exclude=torch.arange(11), tile=4)
    scores = torch.sigmoid(q @ q.T)
    theirs = (scores - torch.diag(scores.diag())).sum(1)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(*(torch.autograd.grad((v**2).sum(), q) for v in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)


def test_detach_within_the_term():
    q, k, _, _ = data()
    q.requires_grad_()
    weighted = pair_sum(lambda s: torch.exp(s).detach() * s, q, k, tile=3)
    scores = q @ k.T
    (found,) = torch.autograd.grad(weighted.sum(), q)
    (wanted,) = torch.autograd.grad((scores.exp().detach() * scores).sum(), q)
    torch.testing.assert_close(found, wanted)


def test_a_constant_term_has_no_gradient():
    q, k, _, _ = data()
    count = pair_sum(lambda s: (s > 0).to(s.dtype), q.requires_grad_(), k, tile=3)
    assert torch.equal(count, (q @ k.T > 0).sum(1).double())
    assert torch.equal(torch.autograd.grad(count.sum(), q)[0], torch.zeros_like(q))


def test_the_mean_score_under_a_softmax_is_the_slope_of_the_partition():
    q, k, _, _ = data()
    t = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    partition = log_partition(q, k, scale=t)
    mean = pair_sum(lambda s, r: s * torch.exp(2.0 * s - r), q, k, rows=(partition.detach(),))
    slopes = torch.stack([torch.autograd.grad(one, t, retain_graph=True)[0] for one in partition])
    torch.testing.assert_close(mean, slopes)


def test_gradcheck():
    q, k, r, c = data(4, 3, 2)
    assert torch.autograd.gradcheck(
        lambda *x: pair_sum(
            lambda s, a, b: torch.tanh(s * a) + b * s, x[0], x[1], rows=(x[2],), columns=(x[3],), tile=2
        ),
        tuple(x.requires_grad_() for x in (q, k, r, c)),
    )


def test_what_is_left_out_cannot_overflow():
    """The self pair's exponential would be infinite, and 0 times infinity is no number."""
    x = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [-1.0, 1e-3]]), dim=1).requires_grad_()
    own = torch.arange(2)
    partition = log_partition(x, x, scale=60.0, exclude=own)
    mean = pair_sum(lambda s, r: s * torch.exp(60 * s - r), x, rows=(partition,), exclude=own)
    torch.testing.assert_close(mean, torch.full((2,), -1.0), atol=1e-4, rtol=0)
    assert torch.isfinite(torch.autograd.grad(mean.sum(), x)[0]).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    q, k, _, _ = (x.to(dtype) for x in data())
    ours = pair_sum(torch.exp, q, k)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, torch.exp(q.float() @ k.float().T).sum(1))


def test_second_derivatives():
    q, k, r, c = (x.requires_grad_() for x in data(4, 3, 2))
    assert torch.autograd.gradgradcheck(
        lambda *x: pair_sum(
            lambda s, a, b: torch.tanh(s * a) + b * s,
            *x[:2],
            rows=x[2:3],
            columns=x[3:],
            exclude=GROUPS[:4],
            exclude_keys=KEY_GROUPS[:3],
            tile=2,
        ),
        (q, k, r, c),
    )
    assert torch.autograd.gradgradcheck(lambda x: pair_sum(torch.tanh, x, exclude=torch.arange(4), tile=2), (q,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": (torch.zeros(3),)}, r"rows: expected \(11,\)"),
        ({"columns": (torch.zeros(11),)}, r"columns: expected \(7,\)"),
        ({"exclude": GROUPS}, "exclude_keys: needed"),
        ({"exclude": GROUPS.double(), "exclude_keys": KEY_GROUPS}, "exclude: expected integers"),
        ({"tile": 0}, "tile: expected at least 1"),
        ({"term": lambda s: s.sum(1)}, "term: expected the shape of the tile"),
        ({"keys": torch.zeros(7, 2, dtype=torch.float64)}, "keys: expected D = 3"),
    ],
)
def test_bad_arguments(change, message):
    q, k, _, _ = data()
    given = {"term": torch.exp, "queries": q, "keys": k, **change}
    with pytest.raises(ValueError, match=f"^{message}"):
        pair_sum(given.pop("term"), given.pop("queries"), given.pop("keys"), **given)
