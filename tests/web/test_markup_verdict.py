"""The words and figures of a page."""

import math

import numpy as np
import pytest

from counterpoint.web.content import LeaderboardRow
from counterpoint.web.markup import Html, duration, element, flatten, listed, number, probability, signed
from counterpoint.web.verdict import verdict


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.972, ".972"),
        (1.0, "1.00"),
        (0.9996, "1.00"),
        (12.34, "12.3"),
        (99.96, "100"),
        (-2.41, "−2.41"),
        (1797, "1,797"),
        (0.000005, "5e−6"),
        (0.0, "0"),
        (-0.5, "−.500"),
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "–"),
        (np.float32(0.5), ".500"),
    ],
)
def test_numbers(value, shown):
    assert number(value) == shown


def test_other_figures():
    assert signed(0.01) == "+.010"
    assert signed(-0.01) == "−.010"
    assert (probability(0.0004), probability(0.013), probability(1.0), probability(None)) == (
        "p < .001",
        "p = .013",
        "p = 1",
        "–",
    )
    assert [duration(s) for s in (0.42, 38, 250, 59.7, 7500, None)] == [
        "0.4 s",
        "38 s",
        "4 min 10 s",
        "1 min",
        "2 h 5 min",
        "–",
    ]
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert flatten({"a": {"b": 1e-5, "c": [1, 2]}, "d": None, "e": {}}) == {
        "a.b": "1e-05",
        "a.c": "1, 2",
        "d": "–",
        "e": "{}",
    }


def test_elements_escape_what_is_not_html():
    assert element("p", "<b>", element("i", "&"), None, ["x", 1], title='"', hidden=None, class_="c") == (
        '<p title="&quot;" class="c">&lt;b&gt;<i>&amp;</i>x1</p>'
    )
    assert (
        element("p", "a\N{NO-BREAK SPACE}b\N{IDEOGRAPHIC SPACE}é\x00")
        == "<p>a\N{NO-BREAK SPACE}b\N{IDEOGRAPHIC SPACE}é�</p>"
    )
    assert element("p", Html("<b>x</b>")) == "<p><b>x</b></p>"


def row(name, mean, rank, difference=None, p=None, baseline=False):
    low, high = (None, None) if difference is None else (difference - 0.01, difference + 0.01)
    return LeaderboardRow(
        name, mean, mean - 0.01, mean + 0.01, rank, False, difference, low, high, p, [mean] * 3, {}, baseline
    )


def test_verdict_of_a_tie_names_both_and_the_real_gap():
    text = verdict(
        [row("simclr", 0.97, 1), row("vicreg", 0.968, 1, -0.002, 0.6), row("moco", 0.94, 3, -0.03, 0.004)],
        "kNN accuracy",
    )
    assert "simclr and vicreg are tied for best" in text
    assert "moco, is .030 behind the best, and that is real (95 % interval .020 to .040, p = .004)" in text.replace(
        "\N{NO-BREAK SPACE}", " "
    )


def test_verdict_of_a_clear_winner():
    text = verdict([row("simclr", 0.97, 1), row("moco", 0.94, 2, -0.03, 0.004)], "kNN accuracy")
    assert text.startswith("simclr is best, with a kNN accuracy of .970 over 3 seeds (95 % interval .960 to .980).")


def test_verdict_does_not_call_chance_real():
    assert "could be chance" in verdict([row("a", 0.97, 1), row("b", 0.95, 2, -0.02, 0.2)], "kNN")
    single = [LeaderboardRow("a", 0.97, rank=1, seeds=[0.97]), LeaderboardRow("b", 0.95, rank=2, seeds=[0.95])]
    assert "One seed cannot tell" in verdict(single, "kNN")
    assert "real (" not in verdict(single, "kNN")


def test_verdict_says_when_a_baseline_is_as_good():
    rows = [row("raw", 0.97, 1, baseline=True), row("simclr", 0.969, 1, -0.001, 0.8)]
    assert "raw is a baseline" in verdict(rows, "kNN")
    rows = [row("simclr", 0.97, 1), row("raw", 0.9, 2, -0.07, 0.001, baseline=True)]
    assert "The strongest baseline, raw, reaches .900." in verdict(rows, "kNN")


def test_verdict_without_results():
    assert "nothing to compare" in verdict([], "kNN")
    assert "nothing to compare" in verdict([LeaderboardRow("a", None)], "kNN")
