"""The page of a run's layers."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from counterpoint.web.layers import layers_page, profile, summary


def row(name, part, probe=0.9, weights=(0.3, 0.2, 0.1)):
    return {
        "name": name, "part": part, "dimensions": 8, "probe": probe, "knn": probe, "effective_rank": 4.2,
        "inequality": 0.4, "weights": list(weights), "weighted": list(range(len(weights))),
        "spectrum": [4.0, 2.0, 0.5],
    }  # fmt: skip


def value(**changes):
    rows = [row("stage 1", "backbone", 0.7), row("features", "features", 0.95), row("projection", "projection", 0.9)]
    gap = {"mean": 0.05, "low": 0.02, "high": 0.08, "p": 0.01}
    return {
        "run": "digits-simclr", "method": "simclr", "data": "digits", "items": {"test": 359}, "notes": ["a note"],
        "classes": ["zero", "<script>", "two"], "layers": rows, "difference": {"probe": gap}, **changes,
    }  # fmt: skip


def page(found):
    return layers_page(found, {"lr": 0.001}, {"python": "3.11"}, "counterpoint layers runs/x")


def test_it_shows_what_was_measured_and_loads_nothing():
    shown = page(value())
    for text in ("digits-simclr", "359 test items", "stage 1", "a note", ".950", "counterpoint layers runs/x", "zero"):
        assert text in shown
    assert "<td><script>" not in shown
    assert "&lt;script&gt;" in shown
    assert not re.search(r'(?:src|href)="https?:', shown)
    for figure in re.findall(r"<svg .*?</svg>", shown, re.DOTALL):
        ET.fromstring(figure)


def test_the_summary_says_what_the_head_does_and_how_sure_that_is():
    said = summary(value())
    assert "95.0% of the test items before the head and on 90.0% after it" in said
    assert "+.050 (.020 to .080, p = .010 over test items), more than chance" in said
    unsure = {"probe": {"mean": 0.01, "low": -0.02, "high": 0.04, "p": 0.4}}
    assert "no more than chance" in summary(value(difference=unsure))
    headless = [row("stage 1", "backbone"), row("features", "features")]
    assert "no projection head" in summary(value(layers=headless, difference={}))


def test_without_labels_only_the_geometry_appears():
    bare = {"probe": None, "knn": None, "inequality": None, "weights": None, "weighted": None}
    shown = page(value(layers=[{**one, **bare} for one in value()["layers"]], difference={}, classes=None))
    assert "Effective rank" in shown
    assert 'id="weights"' not in shown
    assert "Linear probe" not in shown


@pytest.mark.parametrize("classes", [2, 10, 30])
def test_any_number_of_classes(classes):
    weights = np.linspace(0.1, 0.9, classes)
    rows = [row(name, name, weights=weights) for name in ("features", "projection")]
    shown = page(value(layers=rows, classes=None))
    assert f"Weights of {classes} classes" in shown
    assert ("class 29" in shown) == (classes == 30)


def test_absent_and_collapsed_layers_do_not_break_it():
    dead = row("projection", "projection", 0.1, (0.0, 0.0, 0.0)) | {"spectrum": [0.0, 0.0], "effective_rank": 0.0}
    shown = page(value(layers=[*value()["layers"][:2], dead]))
    assert "nan" not in shown.partition("<main>")[2].partition("</main>")[0]


def test_layers_go_down_and_values_to_the_right():
    from counterpoint.web.figures import Series

    rows = value()["layers"]
    figure = ET.fromstring(profile(rows, [Series("probe", [0.7, 0.95, 0.9], range(3))], "accuracy"))
    dots = [(float(e.get("cx")), float(e.get("cy"))) for e in figure.iter() if e.tag.endswith("circle")]
    assert [y for _, y in dots] == sorted(y for _, y in dots)
    assert dots[0][0] < dots[2][0] < dots[1][0]
