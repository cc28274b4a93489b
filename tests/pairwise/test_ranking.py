import pytest
import torch

from counterpoint.pairwise import nearest


def data(n=9, m=13, d=4):
    made = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=made), torch.randn(m, d, generator=made)


@pytest.mark.parametrize("block", [1, 30, 10_000])
def test_those_of_the_matrix(block, monkeypatch):
    monkeypatch.setattr("counterpoint.pairwise.ranking._BLOCK", block)
    q, k = data()
    groups, key_groups = torch.arange(9) % 4, torch.arange(13) % 5
    scores = (q @ k.T).masked_fill(groups[:, None] == key_groups, float("-inf"))
    values, index = nearest(q, k, 6, exclude=groups, exclude_keys=key_groups)
    order = scores.argsort(1, descending=True)[:, :6]
    assert torch.equal(index, order)
    torch.testing.assert_close(values, scores.gather(1, order))


def test_without_oneself():
    q, _ = data()
    q = torch.nn.functional.normalize(q, dim=1)
    own = torch.arange(9)
    assert torch.equal(nearest(q, k=1)[1][:, 0], own)
    assert (nearest(q, k=8, exclude=own)[1] != own[:, None]).all()


def test_there_is_no_gradient():
    q, k = data()
    assert not nearest(q.requires_grad_(), k, 2)[0].requires_grad


def test_too_many():
    q, k = data()
    with pytest.raises(ValueError, match=r"^k: expected 1 to 13, the number of keys, got 14"):
        nearest(q, k, 14)
    with pytest.raises(ValueError, match=r"^k: expected 1 to 13"):
        nearest(q, k, 0)
    with pytest.raises(ValueError, match=r"^k: expected at most 8, the keys that are left for some query, got 9"):
        nearest(q, k=9, exclude=torch.arange(9))
    with pytest.raises(ValueError, match=r"^exclude_keys: needed"):
        nearest(q, k, 3, exclude=torch.arange(9))


def test_in_any_order_they_are_the_same():
    queries, keys = torch.randn(6, 4), torch.randn(50, 4)
    groups = torch.arange(6) % 3, torch.arange(50) % 3
    for k in (1, 20, 33):
        options = {"exclude": groups[0], "exclude_keys": groups[1]}
        values, index = nearest(queries, keys, k, **options)
        found, where = nearest(queries, keys, k, **options, ordered=False)
        assert torch.equal(found.sort(1, descending=True).values, values)
        assert torch.equal(where.sort(1).values, index.sort(1).values)
    with pytest.raises(ValueError, match=r"^k: expected at most 33"):
        nearest(queries, keys, 34, **options, ordered=False)


@pytest.mark.parametrize(
    "case",
    ["normal", "rising", "every 17th is large", "none of the sample", "all equal", "few counted", "one query"],
)
def test_what_a_sample_of_the_keys_says_never_decides_what_is_found(case):
    """Many of very many are found by way of a sample, which may be wrong about a query."""
    made = torch.Generator().manual_seed(1)
    queries, keys = torch.tensor([[1.0], [2.0], [-1.0]]), torch.randn(6000, 1, generator=made)
    options = {}
    if case == "rising":
        keys = keys.sort(0).values
    elif case == "every 17th is large":
        keys[::17] += 10
    elif case == "none of the sample":
        keys[::17] -= 10
    elif case == "all equal":
        keys = torch.ones(6000, 1)
    elif case == "few counted":
        options = {"exclude": torch.tensor([0, 1, 2]), "exclude_keys": torch.arange(6000).clamp(min=5300) - 5300}
    elif case == "one query":
        queries = queries[:1]
    scores = queries @ keys.T
    if options:
        scores.masked_fill_(options["exclude"][:, None] == options["exclude_keys"], -torch.inf)
    k = 650
    values, index = nearest(queries, keys, k, ordered=False, **options)
    assert torch.equal(values, scores.gather(1, index))
    assert torch.equal(values.sort(1).values, scores.topk(k, 1).values.flip(1))
    assert all(len(set(row.tolist())) == k for row in index)


def test_half_precision_where_asked_for():
    made = torch.Generator().manual_seed(0)
    q, keys = (torch.nn.functional.normalize(torch.randn(n, 64, generator=made), dim=1) for n in (30, 3000))
    exact = q @ keys.T
    values, index = nearest(q, keys, 200, half=True)
    assert values.dtype == torch.float32
    assert (values - exact.gather(1, index)).abs().max() < 0.008
    assert not torch.equal(values, exact.gather(1, index))
    border = exact.topk(200, 1).values[:, -1:]
    assert (exact.gather(1, index) > border - 0.016).all()
    with torch.autocast("cpu", torch.bfloat16):  # not where it is not
        assert torch.equal(nearest(q, keys, 200)[0], exact.topk(200, 1).values)
