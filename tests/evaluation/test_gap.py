"""Measures of the modality gap: the authors' figures and configurations whose gap is known."""

from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.evaluation import linear_separability, modality_gap

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "05-contrastive-gap.npz")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.paper(5, "parity")
@pytest.mark.parametrize("case", ["c1", "c2", "c3"])
def test_the_golden_measures(case):
    found = modality_gap(GOLDEN[f"{case}.image"], GOLDEN[f"{case}.text"]).scores()
    for name in ("centroid_distance", "mean_pair_cosine", "mean_pair_distance"):
        assert found[name] == pytest.approx(float(GOLDEN[f"{case}.{name}"]), rel=1e-9)


def test_the_same_vectors_have_no_gap():
    x = normal(200, 8)
    gap = modality_gap(x, x * 3)
    assert gap.centroid_distance == pytest.approx(0, abs=1e-9)
    assert gap.mean_pair_cosine == pytest.approx(1)
    assert gap.mean_pair_distance == pytest.approx(0, abs=1e-6)
    assert gap.linear_separability == pytest.approx(0.5, abs=0.1)


def test_two_clusters_are_a_total_gap():
    x = normal(100, 8) * 0.1 + torch.eye(8, dtype=torch.float64)[0]
    y = normal(100, 8, seed=1) * 0.1 - torch.eye(8, dtype=torch.float64)[0]
    gap = modality_gap(x, y, names=("image", "text"))
    assert gap.linear_separability == 1
    assert 1.8 < gap.centroid_distance <= 2
    assert gap.mean_pair_cosine < -0.8
    # the axis between the clusters is most of the variance of both, and of neither
    assert gap.explained["both"][0] > 0.8
    assert gap.explained["image"][0] < 0.5
    assert gap.effective_rank["both"] < gap.effective_rank["text"]


def test_explained_variance_counts_the_dimensions_used():
    flat = torch.cat([normal(300, 3), torch.zeros(300, 5, dtype=torch.float64)], 1)
    shares = modality_gap(flat, normal(300, 8, seed=1)).explained
    assert shares["x"].sum() == pytest.approx(1)
    assert shares["x"][3:] == pytest.approx(0, abs=1e-12)
    assert (np.diff(shares["both"]) <= 0).all()
    centred = torch.nn.functional.normalize(flat, dim=1).numpy()
    expected = np.linalg.svd(centred - centred.mean(0))[1] ** 2
    assert shares["x"] == pytest.approx(expected / expected.sum(), abs=1e-9)


def test_members_of_a_pair_stay_on_one_side_of_the_split():
    """Pairs that only their own other half resembles: a split of rows would let it be learnt by heart."""
    pairs = normal(60, 200)
    noise = normal(60, 200, seed=1) * 1e-3
    assert linear_separability(pairs, pairs + noise) < 0.8


def test_it_repeats_and_takes_a_sample():
    x, y = normal(400, 6), normal(400, 6, seed=1) + 0.3
    assert linear_separability(x, y, seed=3) == linear_separability(x, y, seed=3)
    assert linear_separability(x, y, limit=50) in np.arange(21) / 20


def test_degenerate_vectors():
    for x in (torch.ones(5, 3), torch.zeros(5, 3), torch.ones(2, 1)):
        gap = modality_gap(x, x.clone())
        assert gap.centroid_distance == 0
        assert all(np.isfinite(list(gap.scores().values())))
        assert gap.explained["both"].sum() == 0


def test_refusals():
    x = normal(6, 3)
    for arguments, told in [
        ((x, x[:5]), "x, y: expected matched rows"),
        ((x[:1], x[:1]), r"x: expected floating point \(N, D\)"),
        ((x, x.long()), "y: expected floating point"),
        ((x, x / 0), "y: 18 of 18 values are NaN or infinite"),
    ]:
        with pytest.raises(ValueError, match=f"^{told}"):
            modality_gap(*arguments)
