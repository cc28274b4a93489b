import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge as Reference

from counterpoint.evaluation import (
    DESCRIPTIONS,
    HIGHER_IS_BETTER,
    Embeddings,
    Evaluation,
    evaluate,
    few_target_ridge,
    knn_regression,
    order_agreement,
    ridge,
)
from counterpoint.evaluation.regression import by_group, target_bins

SCORES = {"mae", "rmse", "r2", "pearson", "gm_error", "mae_10", "mae_50", "knn_mae", "spearman"}
GROUPS = {"mae_many", "mae_medium", "mae_few"}


def line(count, seed, noise=0.5, dimensions=6, unit=1.0):
    """Embeddings of which two directions tell the target."""
    made = np.random.default_rng(seed)
    x = made.standard_normal((count, dimensions)) * np.arange(1, dimensions + 1) + 3
    y = 2 * x[:, 0] - x[:, 3] / 4 + noise * made.standard_normal(count)
    return Embeddings(x, targets=unit * y)


TRAIN, VAL, TEST = line(120, 0), line(60, 1), line(80, 2)


def replaced(part, targets):
    return Embeddings(part.vectors, part.labels, targets=targets)


@pytest.fixture(scope="module")
def full():
    return evaluate(TRAIN, VAL, TEST)


def test_scores_and_their_items(full):
    assert set(full.scores) - GROUPS == SCORES | {"uniformity", "effective_rank"}
    for name in ("mae", "mae_10", "mae_50", "knn_mae"):
        assert full.items[name].shape == (80,)
        assert full.scores[name] == pytest.approx(full.items[name].mean(), rel=1e-5)
    assert full.notes == []
    assert not any(HIGHER_IS_BETTER[name] for name in {"mae", "rmse", "gm_error", "mae_50", "knn_mae"} | GROUPS)
    assert all(HIGHER_IS_BETTER[name] for name in ("r2", "pearson", "spearman"))
    assert set(DESCRIPTIONS) >= SCORES | GROUPS


def test_scores_are_what_they_are_called(full):
    truth, predicted = full.arrays["targets"], full.arrays["target_predictions"]
    wrong = predicted - truth
    assert full.scores["mae"] == pytest.approx(np.abs(wrong).mean())
    assert full.scores["rmse"] == pytest.approx((wrong**2).mean() ** 0.5)
    assert full.scores["pearson"] == pytest.approx(np.corrcoef(truth, predicted)[0, 1])
    assert full.scores["r2"] == pytest.approx(1 - (wrong**2).sum() / ((truth - truth.mean()) ** 2).sum())
    assert full.scores["gm_error"] == pytest.approx(np.exp(np.log(np.abs(wrong)).mean()))
    assert 0.3 < full.scores["mae"] < 0.5 < full.scores["knn_mae"], "0.4 is the mean of the noise's size"
    assert full.scores["mae"] < full.scores["mae_50"] < full.scores["mae_10"]


def test_errors_are_in_the_unit_of_the_target(full):
    scaled = evaluate(*(replaced(part, 1000 * part.targets - 7e4) for part in (TRAIN, VAL, TEST)))
    for name in ("mae", "rmse", "gm_error", "mae_10", "mae_50", "knn_mae"):
        assert scaled.scores[name] == pytest.approx(1000 * full.scores[name], rel=1e-6)
    for name in ("r2", "pearson", "spearman"):
        assert scaled.scores[name] == pytest.approx(full.scores[name], rel=1e-6)


def test_ridge_is_ridge():
    x, x_test = TRAIN.vectors.astype(float), TEST.vectors.astype(float)
    mean, scale = x.mean(0), x.std(0) * 6**0.5
    for penalty in (1e-3, 1.0):
        model = Reference(alpha=penalty * len(x)).fit((x - mean) / scale, TRAIN.targets)
        found = ridge(TRAIN, VAL, TEST, penalties=[penalty])
        np.testing.assert_allclose(found.predictions, model.predict((x_test - mean) / scale), rtol=1e-4, atol=1e-4)


def test_the_penalty_is_chosen_on_the_validation_set_alone():
    noisy = [line(n, seed, noise=6, dimensions=40) for n, seed in ((60, 0), (200, 1), (200, 2))]
    found = ridge(*noisy)
    assert found.validation[found.penalty] == min(found.validation.values())
    alone = [ridge(noisy[0], None, noisy[1], penalties=[1]).penalty, ridge(noisy[0], None, noisy[2]).penalty]
    assert alone == [0.01, 0.01]
    errors = {p: np.abs(ridge(*noisy, penalties=[p]).predictions - noisy[2].targets).mean() for p in found.validation}
    assert errors[found.penalty] < errors[min(errors)], "an unpenalised fit of 40 dimensions to 60 items is worse"
    other = ridge(*noisy[:2], replaced(noisy[2], -noisy[2].targets))
    assert np.array_equal(other.predictions, found.predictions)
    assert "penalty" in evaluate(noisy[0], None, noisy[2]).notes[-1]


def test_few_targets():
    found = few_target_ridge(TRAIN, TEST, 10, draws=3, seed=4)
    assert found.shape == (3, 80)
    assert np.array_equal(few_target_ridge(TRAIN, TEST, 10, draws=3, seed=4), found)
    assert not np.allclose(few_target_ridge(TRAIN, TEST, 10, draws=3, seed=5), found)
    hidden = TRAIN.targets.copy()
    chosen = np.random.default_rng([4, 10, 0]).permutation(120)[:10]
    hidden[np.setdiff1d(np.arange(120), chosen)] += 50.0
    np.testing.assert_allclose(few_target_ridge(replaced(TRAIN, hidden), TEST, 10, draws=1, seed=4)[0], found[0])
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]
    turned = [Embeddings(part.vectors @ turn, targets=part.targets) for part in (TRAIN, TEST)]
    np.testing.assert_allclose(few_target_ridge(*turned, 10, draws=3, seed=4), found, atol=1e-3)


def test_neighbours():
    train = Embeddings(np.eye(3), targets=np.array([1.0, 5.0, np.nan]))
    test = Embeddings(np.array([[2.0, 0, 0], [1, 1, 9]]))
    np.testing.assert_allclose(knn_regression(train, test, k=1), [1, 1])
    np.testing.assert_allclose(knn_regression(train, test, temperature=1e3), [3, 3], atol=1e-2)
    near = knn_regression(train, test)
    assert near[0] == pytest.approx(1, abs=1e-5)
    assert near[1] == pytest.approx(3)


def test_order():
    angle = np.linspace(0, 1, 40)
    arc = Embeddings(np.stack([np.cos(angle), np.sin(angle)], 1), targets=angle * 7 + 3)
    assert order_agreement(arc) == pytest.approx(1, abs=2e-3), "vectors are float32"
    assert abs(order_agreement(replaced(arc, np.random.default_rng(0).permutation(angle)))) < 0.2
    z = TEST.vectors.astype(float) / np.linalg.norm(TEST.vectors, axis=1, keepdims=True)
    pairs = np.triu_indices(80, 1)
    expected = spearmanr(np.abs(TEST.targets[:, None] - TEST.targets)[pairs], (1 - z @ z.T)[pairs])[0]
    assert order_agreement(TEST) == pytest.approx(expected, abs=1e-4)
    assert order_agreement(TEST, limit=30) == order_agreement(TEST, limit=30) != order_agreement(TEST, limit=30, seed=1)
    with pytest.raises(ValueError, match="at least 3"):
        order_agreement(Embeddings(np.eye(3), targets=np.array([1, 2, np.nan])))


def test_bins_of_unequal_filling():
    ages = np.repeat([20.0, 30, 40, 50], [600, 100, 60, 4])
    bins = target_bins(ages)
    assert bins.counts.tolist() == [600, 100, 60, 4]
    assert bins.group(np.array([20.0, 31, 40, 50, 90, -5])).tolist() == [
        "many",
        "medium",
        "medium",
        "few",
        "few",
        "few",
    ]
    test = np.repeat([20.0, 30, 50, 70], 6)
    errors = np.arange(24.0)
    found = by_group(errors, test, bins)
    assert {name: np.nanmean(values) for name, values in found.items()} == {"many": 2.5, "medium": 8.5, "few": 17.5}
    assert by_group(errors, np.full(24, 20.0), bins) == {}
    assert by_group(errors, test, target_bins(np.repeat([20.0, 30, 50, 70], 9))) == {}
    fine = target_bins(np.random.default_rng(0).standard_normal(5000))
    assert len(fine.counts) == 20
    assert fine.counts.sum() == 5000
    assert fine.group(np.array([0.0, fine.edges[-1], fine.edges[0], fine.edges[-1] + 1])).tolist() == [
        "many",
        *["few"] * 3,
    ]


def test_rare_targets_are_reported_where_there_are_some():
    made = np.random.default_rng(0)
    parts = []
    for count in (600, 200, 400):
        y = made.exponential(size=count)
        parts.append(Embeddings(np.stack([np.sqrt(y), made.standard_normal(count)], 1), targets=y))
    found = evaluate(*parts)
    assert set(found.scores) >= GROUPS
    assert found.scores["mae_few"] > 2 * found.scores["mae_many"], "a line through a root misses its ends"
    counts = {name: int((~np.isnan(found.items[name])).sum()) for name in GROUPS}
    assert sum(counts.values()) == 400
    mean = sum(found.scores[name] * counts[name] for name in GROUPS) / 400
    assert mean == pytest.approx(found.scores["mae"], rel=1e-5)


def test_missing_targets_do_not_count():
    holes = TEST.targets.copy()
    holes[:10] = np.nan
    found = evaluate(TRAIN, VAL, replaced(TEST, holes))
    assert np.isnan(found.items["mae"]).sum() == 10
    kept = Embeddings(TEST.vectors[10:], targets=TEST.targets[10:])
    assert found.scores["mae"] == pytest.approx(evaluate(TRAIN, VAL, kept).scores["mae"])
    assert "10 of 80 test items have no target" in found.notes[0]
    train = TRAIN.targets.copy()
    train[60:] = np.nan
    half = ridge(replaced(TRAIN, train), VAL, TEST)
    assert not np.allclose(half.predictions, ridge(TRAIN, VAL, TEST).predictions)
    nothing = evaluate(replaced(TRAIN, np.full(120, np.nan)), VAL, TEST)
    assert "Too few targets in the training set" in nothing.notes[0]
    assert "mae" not in nothing.scores
    short = evaluate(Embeddings(TRAIN.vectors[:20], targets=TRAIN.targets[:20]), VAL, TEST)
    assert "mae_50" not in short.scores
    assert "mae_50: left out, the training set has only 20 targets." in short.notes


def test_labels_and_targets_together(tmp_path):
    parts = [Embeddings(part.vectors, np.arange(len(part)) % 3, targets=part.targets) for part in (TRAIN, VAL, TEST)]
    found = evaluate(*parts)
    assert {"mae", "knn", "probe", "spearman"} <= set(found.scores)
    assert found.scores["mae"] == evaluate(TRAIN, VAL, TEST).scores["mae"]
    found.save(tmp_path)
    again = Evaluation.load(tmp_path)
    assert again.scores == found.scores
    np.testing.assert_array_equal(again.items["mae"], found.items["mae"])
    assert set(evaluate(*parts, metrics=["mae"]).scores) == {"mae"}


def test_constant_test_targets_and_collapsed_embeddings():
    found = evaluate(TRAIN, VAL, replaced(TEST, np.full(80, 2.0)))
    assert not {"r2", "pearson", "spearman"} & set(found.scores)
    assert np.isfinite(list(found.scores.values())).all()
    same = [Embeddings(np.ones_like(part.vectors), targets=part.targets) for part in (TRAIN, VAL, TEST)]
    flat = evaluate(*same)
    assert flat.scores["mae"] == pytest.approx(np.abs(TEST.targets - TRAIN.targets.mean()).mean())
    assert np.isfinite(list(flat.scores.values())).all()
    assert any(note.startswith("spearman: left out") for note in flat.notes)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"^targets: expected \(80,\) numbers"):
        replaced(TEST, np.zeros(79))
    with pytest.raises(ValueError, match=r"^targets: expected finite"):
        replaced(TEST, np.full(80, np.inf))
    with pytest.raises(ValueError, match="at least 2 items with a target"):
        ridge(Embeddings(TRAIN.vectors), VAL, TEST)
    with pytest.raises(ValueError, match=r"^penalties"):
        ridge(TRAIN, VAL, TEST, penalties=[0.0])
    with pytest.raises(ValueError, match=r"^shots"):
        few_target_ridge(TRAIN, TEST, 1)
    assert Embeddings(TEST.vectors, targets=torch.arange(80)).targets.dtype == np.float64
