"""Significance: is a difference between methods more than luck?

Two kinds of luck enter a test accuracy: the seed (initialisation, order, augmentations) and the items that happen to be
in the test set. An interval over seeds alone forgets the second, one over items the first, and with three seeds either
mistake is large. Here methods are run with the same S seeds and scored on the same n items, and the differences
``d[s, i]`` of a pair of methods follow a crossed random-effects model (Searle, Casella & McCulloch 1992; for benchmarks
of learning algorithms: Bouthillier et al. 2021, "Accounting for Variance in Machine Learning Benchmarks"):

    d[s, i] = difference + seed[s] + item[i] + rest[s, i]
    Var(mean) = var_seed / S + var_item / n + var_rest / (n S)

estimated from the mean squares of the two-way layout, with degrees of freedom after Satterthwaite (1946). The interval
thus speaks of new seeds *and* new items of the same kind.

Comparing many methods multiplies the chances of a false alarm, so p-values are corrected after :func:`holm` (1979),
over all pairs: the best method is itself picked by looking at the scores, which makes each of its comparisons the most
favourable of many.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Difference:
    """A mean with its confidence interval; here mostly the mean difference of two methods.

    Attributes:
        mean: the estimate.
        low: lower end of the interval; ``-inf`` where a single seed without items allows none.
        high: upper end.
        p: two-sided p-value of "the mean is zero".
        seeds: S.
        items: n; 0 where scores per item were not given.
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: int
    items: int

    @property
    def seeds_vary(self) -> bool:
        """False where S = 1: the interval then covers the choice of items only, and not that of the seed."""
        return self.seeds > 1

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out zero."""
        return not self.low <= 0 <= self.high


@dataclass(frozen=True)
class Row:
    """A method's place in a leaderboard.

    Attributes:
        name: of the method.
        mean: its mean score.
        low: lower end of the interval of its own mean. Two such intervals may overlap where the paired difference is
            clear: compare by ``difference``.
        high: upper end.
        difference: this method minus the best; its interval is not corrected for there being many pairs, its ``p`` is.
            None in the row of the best.
        tied: not significantly different from the best (true of the best itself).
        rank: 1 for the best and all tied with it; others, one more than the number of methods significantly better.
    """

    name: str
    mean: float
    low: float
    high: float
    difference: Difference | None
    tied: bool
    rank: int


def interval(scores: np.ndarray | Sequence[float], confidence: float = 0.95) -> Difference:
    """Mean of one method's scores, or of differences, over seeds and items, with its interval.

    Args:
        scores: (S,), a score per seed; or (S, n), a score per seed and item. Items that are NaN for all seeds (not
            scored) are left out.
        confidence: of the interval, between 0 and 1.

    Raises:
        ValueError: another shape, nothing to average, a NaN in some seeds only, or a confidence out of range.
    """
    return _interval(scores, confidence)


def share_interval(right: np.ndarray | Sequence[bool], confidence: float = 0.95) -> tuple[float, float]:
    """Where a share lies of which N independent items tell, Wilson's interval: as wide as it should be at 0 and 1 too.

    Args:
        right: (N,) whether each item counts; a number above 1/2 does.
        confidence: of the interval.

    Raises:
        ValueError: no item.

    Relations: :func:`interval` is for scores over several seeds, or of items that are no yes or no.
    """
    from scipy.stats import binomtest

    counts = np.asarray(right, np.float64).reshape(-1) > 0.5
    if not counts.size:
        raise ValueError("right: expected at least one item")
    found = binomtest(int(counts.sum()), counts.size).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


def difference(
    a: np.ndarray | Sequence[float], b: np.ndarray | Sequence[float], confidence: float = 0.95
) -> Difference:
    """Mean of ``a - b``, paired, with its interval and p-value.

    Args:
        a: (S,) scores of one method over S seeds, or (S, n) over S seeds and n test items.
        b: the other's, with the same seeds and items in the same order.
        confidence: of the interval, between 0 and 1.

    Returns:
        The difference. With S = 1 the interval covers items only (``seeds_vary`` is False); with S = 1 and no items it
        is infinite and p is 1. Where all differences are equal the interval is a point.

    Raises:
        ValueError: shapes that differ or are neither of the two, NaN in one of the methods only.
    """
    return interval(_paired(a, b), confidence)


def _paired(a: np.ndarray | Sequence[float], b: np.ndarray | Sequence[float]) -> np.ndarray:
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape:
        raise ValueError(
            f"a, b: expected the same seeds and items, got shapes {first.shape} and {second.shape}. "
            "Run both methods with the same seeds on the same split."
        )
    if not np.array_equal(np.isnan(first), np.isnan(second)):
        raise ValueError("a, b: NaN in one method where the other has a score; score both on the same items.")
    return first - second


def _scored(name: str, scores: np.ndarray | Sequence[float]) -> np.ndarray:
    values = np.asarray(scores, np.float64)
    if values.ndim not in (1, 2) or not values.size:
        raise ValueError(f"{name}: expected shape (S,) or (S, n), not empty, got {values.shape}.")
    if values.ndim == 2:
        values = values[:, ~np.isnan(values).all(axis=0)]
    if not values.size or not np.isfinite(values).all():
        raise ValueError(f"{name}: NaN or Inf in some seeds, or nothing but NaN; give a score for every seed.")
    return values


def _variance(values: np.ndarray, pooled: tuple[float, float] | None = None) -> tuple[float, float]:
    """Variance of the mean of (S,) or (S, n) scores, and its degrees of freedom.

    The mean squares between seeds, between items and of the rest estimate ``n var_seed + var_rest``,
    ``S var_item + var_rest`` and ``var_rest``, whence the variance of the mean is their first plus second minus third,
    over n S. ``pooled`` is a variance between seeds (of their means) and its degrees of freedom known from elsewhere:
    where the one found here is smaller, which with few seeds is often luck, the pooled one stands.
    """
    values = values[:, None] if values.ndim == 1 else values
    seeds, items = values.shape
    by_seed, by_item = values.mean(axis=1), values.mean(axis=0)
    if seeds == 1:
        return (float(by_item.var(ddof=1) / items), items - 1.0) if items > 1 else (np.inf, 1.0)
    between, freedom = float(by_seed.var(ddof=1)), seeds - 1.0
    if pooled is not None:
        between, freedom = max(between, pooled[0]), pooled[1]
    variance, spread = between / seeds, (between / seeds) ** 2 / freedom
    if items > 1:
        item = by_item.var(ddof=1) / items
        rest = np.square(values - by_seed[:, None] - by_item + values.mean()).sum()
        rest /= (seeds - 1) * (items - 1) * seeds * items
        if item > rest:
            variance += item - rest
            spread += item**2 / (items - 1) + rest**2 / ((seeds - 1) * (items - 1))
    return float(variance), float(variance**2 / spread) if spread > 0 else freedom


def _pooled_between_seeds(scores: Sequence[np.ndarray]) -> tuple[float, float] | None:
    """Variance between seeds of a difference of two methods, from all M methods together, with (M - 1)(S - 1) degrees.

    As in the analysis of variance: what remains of the M x S table of seed means without the methods' and the seeds'
    own effects.
    """
    table = np.stack([_scored("scores", values).reshape(len(values), -1).mean(axis=1) for values in scores])
    methods, seeds = table.shape
    if methods < 2 or seeds < 2:
        return None
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    freedom = (methods - 1) * (seeds - 1)
    return 2 * float(np.square(rest).sum()) / freedom, float(freedom)


def _interval(
    scores: np.ndarray | Sequence[float], confidence: float, pooled: tuple[float, float] | None = None
) -> Difference:
    from scipy.stats import t

    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence}.")
    values = _scored("scores", scores)
    mean, seeds, items = float(values.mean()), len(values), values.shape[1] if values.ndim == 2 else 0
    variance, freedom = _variance(values, pooled)
    error = variance**0.5
    if np.isinf(error):
        return Difference(mean, -np.inf, np.inf, 1.0, seeds, items)
    if error <= 1e-12 * abs(mean):  # all equal, up to rounding
        return Difference(mean, mean, mean, 1.0 if mean == 0 else 0.0, seeds, items)
    reach = float(t.ppf((1 + confidence) / 2, freedom)) * error
    return Difference(mean, mean - reach, mean + reach, float(2 * t.sf(abs(mean) / error, freedom)), seeds, items)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """P-values corrected for being many, after Holm 1979: the chance of any false alarm stays below the level.

    Args:
        p_values: (M,), each between 0 and 1.

    Returns:
        float64 (M,) in the given order: each, by rising p, times the number of hypotheses not yet rejected, never below
        an earlier one and at most 1.

    Raises:
        ValueError: another shape or values out of range.
    """
    p = np.asarray(p_values, np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p_values: expected shape (M,) with values between 0 and 1, got {p_values!r}.")
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return corrected


def leaderboard(
    scores: Mapping[str, np.ndarray | Sequence[float]], *, higher_is_better: bool = True, confidence: float = 0.95
) -> list[Row]:
    """Methods from best to worst, with ties shown as ties.

    Three seeds leave two degrees of freedom, and after correction for many pairs two degrees decide nothing and err
    often. The variance between seeds is therefore taken from all M methods together, with (M - 1)(S - 1) degrees, as in
    the analysis of variance; a pair that varies more than that keeps its own. In simulations with 3 seeds, 3 to 8
    methods of equal quality and equal or very unequal variances, a tie was broken in 2 to 7 % of leaderboards; with
    each pair's own variance, in up to 14 %.

    Args:
        scores: a name and (S,) or (S, n) scores, for each method; the same seeds and items for all.
        higher_is_better: False where a low score is good.
        confidence: of the intervals; a tie is broken at the level ``1 - confidence`` after correction.

    Returns:
        A row per method, by rank and within a rank by mean; the best first, and equal means in the order given. A
        method may have a better mean than one that ranks before it, if its scores vary more.

    Raises:
        ValueError: no method, or what :func:`difference` refuses.
    """
    if not scores:
        raise ValueError("scores: no method to compare.")
    sign = 1 if higher_is_better else -1
    own = {name: interval(values, confidence) for name, values in scores.items()}
    names = sorted(own, key=lambda name: -sign * own[name].mean)
    pairs = list(itertools.combinations(names, 2))
    pairwise = [_paired(scores[worse], scores[better]) for better, worse in pairs]
    pooled = _pooled_between_seeds([np.asarray(values) for values in scores.values()])
    differences = [_interval(values, confidence, pooled) for values in pairwise]
    corrected = holm([found.p for found in differences])
    level = 1 - confidence
    rows = [Row(names[0], own[names[0]].mean, own[names[0]].low, own[names[0]].high, None, True, 1)]
    for name in names[1:]:
        above = [pair for pair, (_, worse) in enumerate(pairs) if worse == name]  # the pair with the best comes first
        tied = bool(corrected[above[0]] > level)
        found = differences[above[0]]
        against_best = Difference(
            found.mean, found.low, found.high, float(corrected[above[0]]), found.seeds, found.items
        )
        rank = 1 if tied else 1 + int((corrected[above] <= level).sum())
        rows.append(Row(name, own[name].mean, own[name].low, own[name].high, against_best, tied, rank))
    return sorted(rows, key=lambda row: row.rank)  # by mean they are already
