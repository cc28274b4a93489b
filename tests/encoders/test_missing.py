"""What stands for a modality that is missing: nothing of the placeholder's row counts, and the flag is learnt from."""

import math

import pytest
import torch

from counterpoint.encoders import MissingModalityEmbedding
from counterpoint.encoders.missing import MODES

PRESENT = torch.tensor([True, False, True, False])


@pytest.mark.parametrize("mode", MODES)
def test_what_stood_in_a_missing_row_does_not_matter(mode):
    x, missing = torch.randn(4, 3), MissingModalityEmbedding(3, mode).eval()
    other = torch.where(PRESENT[:, None], x, torch.tensor(math.nan))
    got = missing(other.requires_grad_(), PRESENT)
    torch.testing.assert_close(got, missing(x, PRESENT))
    assert got.shape == (4, missing.features)
    torch.testing.assert_close(got[PRESENT, :3], x[PRESENT])
    torch.testing.assert_close(got[1], got[3])
    gradient = torch.autograd.grad(got.sum(), other)[0]
    assert (gradient == PRESENT[:, None]).all()


def test_an_indicator_is_one_column_that_says_what_is_missing():
    got = MissingModalityEmbedding(3, placeholder=0.5)(torch.randn(4, 3), PRESENT)
    assert got[:, 3].tolist() == [0, 1, 0, 1]
    assert (got[~PRESENT, :3] == 0.5).all()
    assert MissingModalityEmbedding(3)(torch.randn(4, 3))[:, 3].tolist() == [0] * 4


def test_the_mean_is_that_of_all_rows_that_were_there_in_training():
    missing, generator = MissingModalityEmbedding(3, "embedding", width=2), torch.Generator().manual_seed(0)
    batches = [torch.randn(n, 3, generator=generator) for n in (4, 7, 1)]
    flags = [torch.rand(len(x), generator=generator) < 0.6 for x in batches]
    flags[2][:] = False
    for x, present in zip(batches, flags, strict=True):
        missing(torch.where(present[:, None], x, math.nan), present)
    there = torch.cat(batches)[torch.cat(flags)]
    torch.testing.assert_close(missing.mean, there.mean(0))
    missing.eval()
    got = missing(torch.full((4, 3), 100.0), PRESENT)
    torch.testing.assert_close(got[1, :3], there.mean(0))  # evaluation leaves it alone
    torch.testing.assert_close(got[:, 3:], missing.embedding.weight[[0, 1, 0, 1]])
    again = MissingModalityEmbedding(3, "embedding", width=2).eval()
    again.load_state_dict(missing.state_dict())
    torch.testing.assert_close(again(torch.zeros(4, 3), ~PRESENT), missing(torch.zeros(4, 3), ~PRESENT))


def test_a_learned_vector_in_place_of_an_embedding():
    missing = MissingModalityEmbedding(3, "vector")
    got = missing(torch.zeros(4, 3), PRESENT)
    assert torch.equal(got[~PRESENT], missing.vector.expand(2, 3))
    got.sum().backward()
    assert missing.vector.grad.tolist() == [2, 2, 2]


def test_a_modality_that_was_never_there_has_a_mean_of_zero():
    missing = MissingModalityEmbedding(3, "embedding")
    got = missing(torch.full((4, 3), math.nan), torch.zeros(4, dtype=torch.bool))
    assert (got[:, :3] == 0).all()
    assert torch.isfinite(got).all()


def test_refusals():
    for options, name in (({"mode": "drop"}, "mode"), ({"width": 0}, "width"), ({"dim": 0}, "dim")):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            MissingModalityEmbedding(**{"dim": 3} | options)
    missing = MissingModalityEmbedding(3)
    with pytest.raises(ValueError, match=r"^x: expected \(B, 3\), got \(4, 2\)"):
        missing(torch.randn(4, 2))
    for wrong in (PRESENT[:3], PRESENT.float()):
        with pytest.raises(ValueError, match=r"^present: expected bool \(4,\)"):
            missing(torch.randn(4, 3), wrong)
