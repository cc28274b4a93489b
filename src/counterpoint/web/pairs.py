"""The page of a test of pairs: what share of them a run gets right, by category, and the pairs themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from counterpoint.findings import Pictures
from counterpoint.web import tables
from counterpoint.web.discoveries import pictures as drawn
from counterpoint.web.markup import Html, element, interval, number, signed
from counterpoint.web.report import _notes, _page, _repeat, _section


def pairs_page(
    value: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    shown: Sequence[int],
    images: np.ndarray,
    statements: Sequence[Sequence[str]],
    command: str,
) -> str:
    """A test of pairs as a self-contained HTML page.

    Args:
        value, rows: the content of ``pairs.json``, of the test and of its pairs.
        shown: which of the pairs are shown.
        images: uint8 (S, 2, H, W, channels) of those.
        statements: S times two.
        command: what writes the page again.
    """
    scores = value["scores"]
    low, high = value["interval"]
    both, single = scores["pairs"], scores["statements"]
    lead = (
        f"In {both:.1%} of {len(rows):,} pairs ({interval(low, high)} over pairs) both statements are nearer to their "
        f"own image than to the other; guessing reaches 25 %. Of single statements {single:.1%} are, where guessing "
        "reaches 50 %."
    )
    sections = [
        _section("categories", "By category", _categories(scores, rows)),
        _section(
            "pairs",
            "Pairs",
            _pairs(rows, shown, images, statements),
            "The most clearly wrong first. Under each image its statement, and its cosine with its own image minus "
            "that with the other: below zero it picks the wrong one.",
        ),
        _repeat(command, {}),
    ]
    facts = [str(value["data"]), f"{len(rows):,} pairs"]
    return _page(
        "Counterpoint pairs", str(value["run"]), facts, [element("p", lead, class_="verdict"), *_notes(value["notes"])],
        sections,
    )  # fmt: skip


def _categories(scores: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> Html | None:
    kinds = [name.partition(":")[2] for name in scores if name.startswith("pairs:")]
    if not kinds:
        return None
    body = [
        element(
            "tr",
            element("th", kind, scope="row"),
            element("td", f"{sum(row['category'] == kind for row in rows):,}", class_="number"),
            element("td", number(scores[f"pairs:{kind}"]), class_="number"),
        )
        for kind in kinds
    ]
    return tables.plain_table({"Category": None, "Pairs": "number", "Both right": "number"}, body)


def _pairs(
    rows: Sequence[Mapping[str, Any]], shown: Sequence[int], images: np.ndarray, statements: Sequence[Sequence[str]]
) -> Html | None:
    if images.shape[-1] not in (1, 3):
        return None
    told = [
        [f"{text} ({signed(margin)})" for text, margin in zip(texts, rows[at]["margins"], strict=True)]
        for at, texts in zip(shown, statements, strict=True)
    ]
    return drawn(Pictures("Pairs", "", images, ["one", "the other"], told))
