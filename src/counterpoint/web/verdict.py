"""The outcome of a comparison in plain English, as strong as the statistics allow and no stronger."""

from __future__ import annotations

from collections.abc import Sequence

from counterpoint.web.content import LeaderboardRow
from counterpoint.web.markup import counted, interval, known, listed, number, probability

SIGNIFICANT = 0.05
NO_BREAK = "\N{NO-BREAK SPACE}"


def verdict(rows: Sequence[LeaderboardRow], title: str, higher_is_better: bool = True) -> str:
    """Two or three sentences on a leaderboard, best first.

    Args:
        rows: the leaderboard; rows that share the first rank are tied for best.
        title: of the score, as it is said within a sentence.
        higher_is_better: False for an error.
    """
    if not rows or not known(rows[0].mean):
        return "No method finished, so there is nothing to compare."
    first = [row for row in rows if row.rank == rows[0].rank and known(row.mean)]
    others = [row for row in rows if row.rank != rows[0].rank and known(row.mean)]
    seeds = len([seed for seed in rows[0].seeds if known(seed)])
    sentences = [_best(first, title, seeds, "highest" if higher_is_better else "lowest")]
    if len(rows) == 1:
        return f"{sentences[0]} There is nothing to compare it with."
    if seeds == 1:
        sentences.append("One seed cannot tell a real difference from a lucky one: repeat with three or more.")
    elif others:
        sentences.append(_next(others[0], len(first) > 1, 1 if higher_is_better else -1))
    beaten = _baselines(rows)
    return " ".join([*sentences, beaten] if beaten else sentences)


def _best(first: Sequence[LeaderboardRow], title: str, seeds: int, end: str) -> str:
    best = first[0]
    span = f", 95 % interval {interval(best.low, best.high)}" if known(best.low) and known(best.high) else ""
    over = f" over {counted(seeds, 'seed')}" if seeds else ""
    if len(first) == 1:
        return f"{best.name} is best, with a {title} of {number(best.mean)}{over}{span and f' ({span[2:]})'}."
    return (
        f"{listed([row.name for row in first])} are tied for best: they cannot be told apart{over}. "
        f"{best.name} has the {end} {title}, {number(best.mean)}{span and f' ({span[2:]})'}."
    )


def _next(row: LeaderboardRow, tie: bool, sign: int) -> str:
    start = f"The next method{' outside the tie' if tie else ''}, {row.name},"
    if not known(row.difference):
        return f"{start} reaches {number(row.mean)}."
    evidence: list[str] = []
    ahead = False  # the whole interval on one side
    if known(row.difference_low) and known(row.difference_high):
        # said as a distance behind: the smaller one first
        behind = sorted((-sign * row.difference_high, -sign * row.difference_low))  # type: ignore[operator]
        evidence.append(f"95 % interval {interval(*behind)}")
        ahead = behind[0] > 0
    if known(row.p):
        evidence.append(probability(row.p).replace(" ", NO_BREAK))
    gap = f"{start} is {number(-sign * row.difference)} behind the best"  # type: ignore[operator]
    if not evidence:
        return f"{gap}."
    real = row.p < SIGNIFICANT if known(row.p) else ahead  # type: ignore[operator]
    weight = "and that is real" if real else "though that alone could be chance"
    return f"{gap}, {weight} ({', '.join(evidence)})."


def _baselines(rows: Sequence[LeaderboardRow]) -> str:
    """What a reader who trained for hours should not overlook: whether a baseline does as well."""
    if all(row.baseline for row in rows):
        return ""
    as_good = [row.name for row in rows if row.baseline and row.rank == rows[0].rank and known(row.mean)]
    if as_good:
        verb = "is" if len(as_good) == 1 else "are"
        noun = "a baseline" if len(as_good) == 1 else "baselines"
        return f"Mind that {listed(as_good)} {verb} {noun}: no method does measurably better on these data."
    strongest = next((row for row in rows if row.baseline and known(row.mean)), None)
    return f"The strongest baseline, {strongest.name}, reaches {number(strongest.mean)}." if strongest else ""
