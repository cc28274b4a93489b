"""The page of the microscope, from plain data."""

import math
import re
import xml.etree.ElementTree as ET

import pytest

from counterpoint.web.axes import Scale
from counterpoint.web.explain import explain_page, sentences, share, summary
from counterpoint.web.figures import Series
from counterpoint.web.lines import bent, curves


def look(multiplier=0.5, full=10.0, **changes):
    return {
        "negatives": 30.0, "effective": 12.0, "hardest_1": 0.2, "hardest_10": 0.6, "attracted": 0.0, "pull": 5.0,
        "push": 5.0, "full": full, "multiplier": multiplier, "multiplier_least": 0.1, "multipliers": [0.1, 0.9],
        "gradient": 3.0, "direction": 0.6, "residual": 1e-16,
        "negative_curve": {"x": [-0.5, 0.0, 0.5], "y": [-0.2, 0.01, 30.0]},
        "positive_curve": {"x": [0.5, 0.9], "y": [0.9, 0.2]}, **changes,
    }  # fmt: skip


def loss(name, base=None, **changes):
    base = look() if base is None else base
    return {
        "name": name, "why": None, "base": base, "conditional": None,
        "split": {"length": 0.0, "positives": 0.6, "others": 0.4, "nowhere": 0.0},
        "temperature": {"0.1": base, "0.5": {**base, "effective": 25.0}},
        "batch_size": {"16": base, "64": {**base, "multiplier": 0.8}}, "views": {"2": base, "4": base}, **changes,
    }  # fmt: skip


def value(*losses, **changes):
    base = {"temperature": 0.1, "batch_size": 16, "views": 2}
    return {"data": "clusters", "items": 64, "base": base, "losses": list(losses), "moved": {}, **changes}


def page(found):
    return explain_page(found, {"seed": 0}, {"python": "3.11"}, "counterpoint explain x")


NONE = {"base": None, "temperature": {}, "batch_size": {}, "views": {}, "why": "it is about dimensions"}


def test_figures_are_whole_and_nothing_is_loaded_or_injected():
    weights = {"x": [-0.1, 0.1], "y": [1.2, 0.8]}
    odd = loss("<script>alert(1)</script>", conditional={"views": 3, "attraction": weights, "repulsion": weights})
    shown = page(value(loss("NTXent"), odd, {**loss("Twins"), **NONE}))
    assert "<script>alert" not in shown
    assert not re.search(r'(?:src|href)="https?:', shown)
    figures = re.findall(r"<svg .*?</svg>", shown, re.DOTALL)
    assert len(figures) == 2 + 1 + 2 + 3 * 2 * 2 + 2
    for figure in figures:
        ET.fromstring(figure)
        assert "nan" not in figure
    assert "Twins gives no weights to pairs: it is about dimensions." in shown


@pytest.mark.parametrize(
    "found", [value({**loss("Twins"), **NONE}), value(loss("Own", look(negatives=0.0, full=None)))]
)
def test_what_is_not_there_does_not_appear(found):
    shown = page(found)
    assert 'id="hardest"' not in shown
    assert 'id="split"' in shown


def test_a_single_value_is_no_sweep():
    one = loss("NTXent")
    one |= {axis: dict(list(one[axis].items())[:1]) for axis in ("temperature", "batch_size", "views")}
    shown = page(value(one))
    for axis in ("temperature", "batch_size", "views"):
        assert f'id="{axis}"' not in shown
    assert sentences(value(one)).keys() == {"hardest"}


def test_sentences_are_computed():
    weak, strong = loss("NTXent", look(0.25)), loss("DCL", look(1.0, push=10.0))
    strong["batch_size"]["64"]["multiplier"] = 1.0
    said = sentences(value(weak, strong, moved={"NTXent": 0.0, "DCL": 0.04, "CACR": 0.52}))
    assert said["hardest"] == "The hardest 1 % of the negatives take 20 % of NTXent's and 20 % of DCL's push."
    assert said["coupling"] == "DCL pulls positives 4.0 times as hard as NTXent at batch 16, and 1.2 times at 64."
    assert said["balance"] == "DCL pushes 2 times as hard as it pulls."
    assert said["alike"].startswith("DCL shares its push among the negatives much as NTXent does. To be shared as")
    assert said["alike"].endswith("52 % of that of CACR would have to go to other negatives.")
    assert "go from 12.0 to 25.0 of 30 in NTXent" in said["temperature"]
    assert said["batch_size"].endswith("goes from .250 to .800 in NTXent and stays at 1.00 in DCL.")
    assert said["views"].endswith("goes from .900 to .200 in NTXent and goes from .900 to .200 in DCL.")


def test_multipliers_without_a_full_pull_are_marked_and_not_compared():
    found = value(loss("NTXent"), loss("CACR", look(1.0, full=None)))
    assert "coupling" not in sentences(found)
    assert summary(found["losses"][1]["base"])[3] == "1.00*"
    assert summary(None) == ["–"] * 8


def test_the_scale_goes_on_below_zero():
    assert bent(0) == 0
    assert bent(-3) == -bent(3)
    steps = [bent(10.0 ** (power + 1)) - bent(10.0**power) for power in range(0, 4)]
    assert steps == pytest.approx([math.log(10)] * 4, rel=1e-4)
    drawn = curves([Series("a", [0, 1], [-1, 100])], "x", "y", True)
    assert {">−1<", ">0<", ">100<"} <= set(re.findall(r">[^<>]+<", drawn))


def test_a_logarithmic_axis_has_a_tick_at_each_value():
    drawn = curves([Series("a", [16, 64, 256], [0.1, 0.2, 0.3])], "batch", "y", False, log=True)
    places = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', drawn)]
    assert places[2] - places[1] == pytest.approx(places[1] - places[0], abs=0.2)
    assert {">16<", ">64<", ">256<"} <= set(re.findall(r">[^<>]+<", drawn))
    assert Scale(16, 256, 0, 1, True)(64) == pytest.approx(0.5)


def test_shares():
    assert [share(x) for x in (0, 1e-33, 0.004, 0.0994, 0.5, None, math.nan)] == [
        "0 %",
        "0 %",
        "0.4 %",
        "9.9 %",
        "50 %",
        "–",
        "–",
    ]
