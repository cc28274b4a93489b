"""Methods for a target that is a number: they learn an order, and see the target in standard deviations."""

import numpy as np
import pytest
import torch

import counterpoint as cp
from counterpoint.data import load
from counterpoint.encoders import build
from counterpoint.methods.regression.l1_regression import L1Regression
from counterpoint.methods.regression.supcon_regression import SupConRegression
from counterpoint.methods.regression.supremix import SupReMix
from counterpoint.objectives import SupCon
from counterpoint.objectives import SupReMix as SupReMixLoss

KINDS = [SupReMix, SupConRegression, L1Regression]
TARGETS = torch.tensor([3.0, 1.0, 3.0, 8.0, 5.0, 1.0])


def make(kind, **options):
    torch.manual_seed(0)
    return kind(build("mlp", (6,), widths=(16,)), **options)


def pair():
    made = torch.Generator().manual_seed(0)
    return [torch.randn(6, 6, generator=made) for _ in range(2)]


def fit(method, out, **settings):
    return cp.fit(
        "digits", method, out=str(out), target="label", epochs=6, limit=1000, batch_size=100, threads=1, seed=1,
        progress=False, encoder_options={"widths": [16, 32, 64]}, report=False, monitor=0, **settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    return fit("untrained", tmp_path_factory.mktemp("untrained"), metrics=["mae", "knn_mae", "spearman"]).scores


@pytest.mark.paper(27, "trains")
@pytest.mark.parametrize("method", ["supremix", "supcon_regression", "l1_regression"])
def test_learns_from_real_images(method, untrained, tmp_path):
    run = fit(method, tmp_path / "run", metrics=["mae", "knn_mae", "spearman"])
    losses = [row["loss"] for row in run.metrics]
    assert losses[-1] < losses[0]
    assert run.scores["mae"] < 0.96 * untrained["mae"], "random convolutions and a regression do well on digits"
    assert run.scores["knn_mae"] < 0.8 * untrained["knn_mae"]
    assert run.scores["spearman"] > untrained["spearman"] + 0.05
    if method == "supremix":
        (figure,) = run.findings
        means = figure.values
        assert np.diag(means).mean() > means.mean() + 0.1
        targets = load("digits", limit=1000).labels[np.load(run.folder / "splits.npz")["train"]]
        assert (run.model().center, run.model().scale) == pytest.approx((targets.mean(), targets.std()))


@pytest.mark.parametrize("kind", KINDS)
def test_targets_of_a_batch_that_are_all_equal(kind):
    """All distances are 0: for contrast a single class, and nothing that is no number."""
    method = make(kind, center=2.0)
    loss = method.loss(pair(), {"target": torch.full((6,), 7.0)})
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
    if kind is not L1Regression:
        z = torch.stack(make(kind).embed_together(pair()))
        torch.testing.assert_close(loss, SupCon(0.3)(z, torch.zeros(6, dtype=torch.int64)))


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_standardised_target_counts(kind):
    torch.manual_seed(0)
    expected = make(kind).loss(pair(), {"target": TARGETS}).item()
    torch.manual_seed(0)
    method = make(kind, center=-40.0, scale=10.0)
    assert method.loss(pair(), {"target": TARGETS * 10 - 40}).item() == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match=r"^target: this method needs a target"):
        method.loss(pair(), {})
    for wrong in ({"scale": 0.0}, {"scale": float("nan")}, {"center": float("inf")}):
        with pytest.raises(ValueError, match=r"^center, scale"):
            make(kind, **wrong)


def test_supremix_passes_its_options():
    method = make(SupReMix, mix_neg=False, window=2.5, temperature=0.2, distance_weight="l2", max_mixtures=None)
    z = torch.stack(list(method.embed_together(pair())))
    expected = SupReMixLoss(0.2, 2.5, mix_neg=False, distance_weight="l2")(z, TARGETS)
    torch.testing.assert_close(method.loss(pair(), {"target": TARGETS}), expected)
    assert make(SupReMix, max_mixtures=3, mix_pos=False, beta=(5, 5)).objective.beta == (5, 5)


def test_supcon_of_equal_targets_and_of_bins():
    method = make(SupConRegression)
    z = torch.stack(list(method.embed_together(pair())))
    torch.testing.assert_close(method.loss(pair(), {"target": TARGETS}), SupCon(0.3)(z, TARGETS.long()))
    numbers = torch.tensor([-0.0, 0.0, -1.5, 1.5, -1.5, 3e38])
    found = method.classes(numbers)
    assert (found >= 0).all(), "below 0 would mean that there is no label"
    assert torch.equal(found[:, None] == found, numbers[:, None] == numbers)
    binned = make(SupConRegression, bin_width=0.5)
    bins = binned.classes(torch.tensor([-0.6, -0.4, -0.1, 0.1, 0.4, 0.6]))
    assert (bins - bins[0]).tolist() == [0, 1, 1, 2, 2, 3]
    with pytest.raises(ValueError, match=r"^bin_width: expected"):
        make(SupConRegression, bin_width=0.0)


@pytest.mark.parametrize("error", ["l1", "mse"])
def test_errors_of_the_output(error):
    method = make(L1Regression, error=error)
    views = pair()
    together = torch.cat(list(method.embed_together(views)))
    wrong = method.output(together)[:, 0] - TARGETS.repeat(2)
    expected = wrong.abs().mean() if error == "l1" else wrong.square().mean()
    torch.testing.assert_close(method.loss(views, {"target": TARGETS}), expected)
    with pytest.raises(ValueError, match=r"^error: expected"):
        make(L1Regression, error="huber")
