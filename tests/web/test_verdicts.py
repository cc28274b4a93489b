"""The picture of all claims: where a mark lies says what the verdict says."""

import re
from xml.etree import ElementTree

from counterpoint.web.verdicts import verdicts

NS = {"s": "http://www.w3.org/2000/svg"}


def entry(name, verdict, effect, low, high, better=True, at_least=0.0):
    values = {"name": name, "verdict": verdict, "effect": effect, "low": low, "high": high, "metric": "probe"}
    return {**values, "higher_is_better": better, "at_least": at_least}


def places(*entries):
    """Position of each mark by the setting's name, and those of the lines at -6 and 6."""
    drawn = ElementTree.fromstring(verdicts([("A & B", entries)]))
    found = {}
    for mark in drawn:
        title = mark.find("s:title", NS)
        if title is not None and ":" in title.text:
            x = mark.get("cx") or float(re.match(r"M([\d.]+)", mark.get("d")).group(1)) + 3.5
            found[title.text.split(":")[0]] = float(x)
    lines = [float(line.get("x1")) for line in drawn.findall("s:line", NS)]
    return found, lines[0], lines[-1]


def test_a_mark_lies_as_many_half_widths_out_as_its_difference():
    one = entry("one", "holds", 0.04, 0.02, 0.06)
    worse = entry("worse", "fails", 0.04, 0.03, 0.05, better=False)
    asked = entry("asked", "fails", 0.01, 0.0, 0.02, at_least=0.05)
    even = entry("even", "inconclusive", 0.0, -0.1, 0.1)
    found, low, high = places(one, worse, asked, even)
    unit, middle = (high - low) / 12, (high + low) / 2
    for name, distance in {"one": 2, "worse": -4, "asked": -4, "even": 0}.items():
        assert abs(found[name] - middle - distance * unit) < 0.2


def test_what_has_no_interval_lies_where_its_verdict_is():
    unknown = entry("unknown", "inconclusive", 0.3, None, None)
    exact = entry("exact", "holds", 1.0, 1.0, 1.0)
    far = entry("far", "fails", -1.0, -1.001, -0.999)
    skipped = {"name": "skipped", "verdict": "not run"}
    found, low, high = places(unknown, exact, far, skipped)
    assert set(found) == {"unknown", "exact", "far"}
    assert abs(found["unknown"] - (low + high) / 2) < 0.2
    assert (found["exact"], found["far"]) == (high, low)
