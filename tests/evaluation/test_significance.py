import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoint.evaluation import difference, holm, interval, leaderboard, share_interval


def layout(generator, seeds, items, seed=0.02, item=0.3, rest=0.3):
    return (
        generator.normal(0, seed, (seeds, 1))
        + generator.normal(0, item, (1, items))
        + generator.normal(0, rest, (seeds, items))
    )


@pytest.mark.parametrize(
    ("seeds", "parts"),
    [
        (3, {}),
        (3, {"seed": 0.0}),
        (3, {"seed": 0.01, "item": 0.0}),
        (5, {"seed": 0.05}),
        (10, {"seed": 0.2}),  # seeds dominate: an interval over items alone would cover one time in five
    ],
)
def test_the_interval_covers_the_truth_as_often_as_it_says(seeds, parts):
    generator = np.random.default_rng(1)
    found = [interval(layout(generator, seeds, 300, **parts)) for _ in range(400)]
    covered = np.mean([one.low <= 0 <= one.high for one in found])
    assert 0.92 <= covered <= 0.99
    assert np.mean([one.p < 0.05 for one in found]) == pytest.approx(1 - covered)


def test_intervals_over_seeds_alone_or_items_alone_would_not_cover():
    """What the crossed model is for: on the same data either simple interval misses its 95 %."""
    generator = np.random.default_rng(2)
    data = [layout(generator, 4, 300, seed=0.03, item=0.3, rest=0.1) for _ in range(300)]
    crossed = np.mean([(one := interval(values)).low <= 0 <= one.high for values in data])
    items = np.mean([(one := interval(values.mean(0)[None])).low <= 0 <= one.high for values in data])
    seeds = np.mean([(one := interval(values.mean(1))).low <= 0 <= one.high for values in data])
    assert crossed > 0.92
    assert items < 0.9
    assert seeds < 0.9


@pytest.mark.parametrize("odd", ["alike", "two deterministic", "one wild"])
def test_ties_under_the_null_are_rarely_broken(odd):
    """Eight methods of equal quality: that any is called different from the best must happen in at most 7 %."""
    generator = np.random.default_rng(3)
    scale = np.ones(8)
    scale[:2] = 0 if odd == "two deterministic" else 1
    scale[0] = 2.5 if odd == "one wild" else scale[0]
    broken = 0
    for _ in range(150):
        scores = {
            f"method {m}": layout(generator, 3, 200, seed=0.02 * s, item=0.2, rest=0.2 * min(s, 1))
            for m, s in enumerate(scale)
        }
        broken += not all(row.tied for row in leaderboard(scores))
    assert broken / 150 <= 0.07


def test_a_real_difference_is_found_and_ranked():
    generator = np.random.default_rng(4)
    hard = generator.normal(0, 0.8, (1, 400))  # items are hard for every method alike: pairing takes that out
    means = {"fair": 0.8, "good": 0.9, "also good": 0.898, "poor": 0.5}
    scores = {name: mean + hard + layout(generator, 3, 400, 0.005, 0.05, 0.1) for name, mean in means.items()}
    rows = leaderboard(scores)
    assert {row.name for row in rows[:2]} == {"good", "also good"}
    assert [row.name for row in rows[2:]] == ["fair", "poor"]
    assert [row.rank for row in rows] == [1, 1, 3, 4]
    assert [row.tied for row in rows] == [True, True, False, False]
    assert rows[0].difference is None
    assert rows[2].difference.mean == pytest.approx(rows[2].mean - rows[0].mean)
    assert rows[2].difference.p < 0.05
    # own intervals carry the difficulty of the items and overlap; the paired difference does not
    assert rows[2].high > rows[0].low
    turned = leaderboard({name: -values for name, values in scores.items()}, higher_is_better=False)
    assert [(row.name, row.rank) for row in turned] == [(row.name, row.rank) for row in rows]


def test_rows_are_in_the_order_of_their_ranks():
    """One that varies much is told from nobody, and stands before what is better on average and surely worse."""
    generator = np.random.default_rng(0)
    means = {"best": 0.9, "good": 0.8, "fair": 0.7, "unsteady": 0.65}
    scores = {name: mean + layout(generator, 3, 400, 0.001, 0.01, 0.01) for name, mean in means.items()}
    scores["unsteady"] += 9 * generator.standard_normal((1, 400))
    scores["unsteady"] += 0.65 - scores["unsteady"].mean()
    rows = leaderboard(scores)
    assert [(row.name, row.rank) for row in rows] == [("best", 1), ("unsteady", 1), ("good", 2), ("fair", 3)]
    assert rows[0].difference is None


def test_seed_scores_give_the_paired_t_test():
    from scipy.stats import ttest_rel

    a, b = np.random.default_rng(5).normal(0.8, 0.02, (2, 6))
    found, expected = difference(a, b), ttest_rel(a, b)
    ends = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
    assert (found.mean, found.seeds, found.items) == (pytest.approx((a - b).mean()), 6, 0)
    back = difference(b, a)
    assert (back.mean, back.low, back.high, back.p) == pytest.approx((-found.mean, -found.high, -found.low, found.p))
    pair = leaderboard({"a": a, "b": b})[1].difference
    assert pair.p == pytest.approx(expected.pvalue)  # with two methods there is nothing to pool or to correct


def test_the_variance_is_that_of_the_two_way_layout():
    """By hand: seed means 1 and 3, item means 1, 2 and 3, no rest: variance 2/2 + 1/3."""
    values = np.array([[0.0, 1, 2], [2, 3, 4]])
    found = interval(values, confidence=0.95)
    from scipy.stats import t

    freedom = (1 + 1 / 3) ** 2 / (1**2 / 1 + (1 / 3) ** 2 / 2)
    assert found.high - found.mean == pytest.approx(t.ppf(0.975, freedom) * (1 + 1 / 3) ** 0.5)


def test_one_seed_speaks_of_items_only():
    values = np.random.default_rng(6).normal(0.1, 1, (1, 50))
    found = interval(values)
    from scipy.stats import ttest_1samp

    assert found.p == pytest.approx(ttest_1samp(values[0], 0).pvalue)
    assert not found.seeds_vary
    assert interval(np.repeat(values, 2, 0)).seeds_vary
    alone = difference([0.9], [0.5])
    assert (alone.low, alone.high, alone.p) == (-np.inf, np.inf, 1)
    assert all(row.tied for row in leaderboard({"a": [0.9], "b": [0.1]}))


def test_equal_scores_are_a_tie_without_nan():
    same = np.ones((3, 20))
    found = difference(same, same)
    assert (found.mean, found.low, found.high, found.p, found.significant) == (0, 0, 0, 1, False)
    always = difference(same, same - 0.1)
    assert (always.low, always.high, always.p) == (pytest.approx(0.1), pytest.approx(0.1), 0)
    assert always.significant
    assert [row.rank for row in leaderboard({"a": same, "b": same, "c": same[:] * 1.0})] == [1, 1, 1]


def test_items_that_no_method_is_judged_on_are_left_out():
    a, b = np.random.default_rng(7).random((2, 3, 10))
    gaps_a, gaps_b = np.insert(a, [0, 4], np.nan, axis=1), np.insert(b, [0, 4], np.nan, axis=1)
    assert difference(gaps_a, gaps_b) == difference(a, b)
    with pytest.raises(ValueError, match="NaN in one method"):
        difference(gaps_a, np.nan_to_num(gaps_b))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1, 1])
    assert len(holm([])) == 0
    with pytest.raises(ValueError, match="p_values"):
        holm([0.5, 1.5])


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: difference([1, 2], [1, 2, 3]), "same seeds and items"),
        (lambda: difference([1, 2], [1, 2], confidence=95), "confidence"),
        (lambda: interval(np.ones((2, 2, 2))), r"\(S, n\)"),
        (lambda: interval([]), "not empty"),
        (lambda: interval([0.5, np.nan]), "NaN or Inf"),
        (lambda: interval(np.full((2, 3), np.nan)), "nothing but NaN"),
        (lambda: leaderboard({}), "no method"),
        (lambda: leaderboard({"a": [1, 2], "b": [1, 2, 3]}), "same seeds and items"),
    ],
)
def test_refusals(call, told):
    with pytest.raises(ValueError, match=told):
        call()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 10_000), st.integers(1, 3))
def test_results_are_never_nan(seeds, items, seed, levels):
    scores = np.random.default_rng(seed).integers(0, levels, (3, seeds, items)).astype(float)
    for row in leaderboard({"a": scores[0], "b": scores[1], "c": scores[2]}):
        assert not np.isnan([row.mean, row.low, row.high]).any()
        assert row.low <= row.mean <= row.high
        assert 1 <= row.rank <= 3
        if row.difference is not None:
            assert 0 <= row.difference.p <= 1
            assert row.tied == (row.rank == 1)


def test_a_share_has_an_interval_at_its_ends_too():
    """Wilson's: (p + z^2/2n -+ z sqrt(p (1-p)/n + z^2/4n^2)) / (1 + z^2/n)."""
    z = 1.959963984540054
    for right, n in ((0, 10), (3, 10), (10, 10), (1, 1), (170, 400)):
        p, half = right / n, z * np.sqrt(right / n * (1 - right / n) / n + z**2 / (4 * n**2))
        wanted = [(p + z**2 / (2 * n) + sign * half) / (1 + z**2 / n) for sign in (-1, 1)]
        found = share_interval([1.0] * right + [0.0] * (n - right))
        assert found == pytest.approx(wanted, abs=1e-9)
        assert found[0] < found[1]
    with pytest.raises(ValueError, match=r"^right: expected at least one item"):
        share_interval([])
