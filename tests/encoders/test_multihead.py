import pytest
import torch

from counterpoint.encoders import mlp_head
from counterpoint.encoders.multihead import MultiHeadProjector


def test_heads_side_by_side_and_one_by_one():
    projector, h = MultiHeadProjector(5, 7, 4, heads=3).eval(), torch.randn(6, 5)
    z = projector(h)
    assert z.shape == (6, 12)
    assert projector.split(z).shape == (3, 6, 4)
    for head, part in zip(projector.heads, projector.split(z), strict=True):
        assert torch.equal(part, head(h))


def test_heads_start_apart():
    weights = [head[0].weight for head in MultiHeadProjector(5, 7, 4, heads=3).heads]
    assert not any(torch.equal(a, b) for a, b in zip(weights, [*weights[1:], weights[0]], strict=True))


def test_a_head_is_an_mlp_head():
    (head,) = MultiHeadProjector(5, 7, 4, heads=1, layers=3, last_norm=True).heads
    assert str(head) == str(mlp_head(5, 7, 4, layers=3, last_norm=True))


def test_no_head():
    with pytest.raises(ValueError, match=r"^heads: expected at least 1, got 0"):
        MultiHeadProjector(5, 7, 4, heads=0)
