"""Figures: labels apart, scales true, colours enough."""

import re

import numpy as np
import pytest

from counterpoint.web.axes import LETTER, Scale, extent, log_ticks, spread, tick_labels, ticks
from counterpoint.web.figures import Series, cost, curve, ridges, spectra
from counterpoint.web.grids import confusion, grid
from counterpoint.web.images import data_uri, fit, pixels, sheet, thumbnail
from counterpoint.web.scatter import class_styles, scatter


def labels(svg):
    found = re.findall(
        r'<text x="([-\d.]+)" y="([-\d.]+)" class="([^"]*)"(?: text-anchor="(\w+)")?>([^<]*)</text>', svg
    )
    boxes = []
    for x, y, _, anchor, content in found:
        wide = LETTER * 0.85 * len(content)
        left = float(x) - {"middle": wide / 2, "end": wide, "": 0}[anchor]
        boxes.append((left, left + wide, float(y), content))
    return boxes


def assert_apart(svg):
    boxes = labels(svg)
    for i, (left, right, y, content) in enumerate(boxes):
        for other_left, other_right, other_y, other in boxes[:i]:
            assert right < other_left or left > other_right or abs(y - other_y) >= 9, f"{content!r} covers {other!r}"


def test_scales_and_ticks():
    assert Scale(0, 1, 10, 110)(0.5) == 60
    assert Scale(1, 100, 0, 100, log=True)(10) == pytest.approx(50)
    assert Scale(0, 1, 0, 10)(5) == 10
    assert ticks(0, 1, 6) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert log_ticks(1e-4, 1) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1])
    assert len(log_ticks(0.3, 4)) >= 3
    assert all(2 <= len(ticks(-a, b)) <= 5 for a in (0.001, 3, 77) for b in (0.002, 1, 5000))
    low, high = extent([0.5, 0.5, None, float("nan")])
    assert low < 0.5 < high


def test_spread_moves_labels_apart_in_order_and_no_further_than_needed():
    placed = spread([50, 51, 52, 90], 10, 0, 100)
    assert placed == pytest.approx([41, 51, 61, 90])
    assert np.diff(spread([100] * 5, 12, 0, 100)) == pytest.approx(12)
    assert max(spread([100] * 5, 12, 0, 100)) <= 100
    assert len(spread([5.0] * 50, 12, 0, 100)) == 50


def test_labels_of_crowded_figures_do_not_touch():
    names = ["simclr", "supcon", "moco", "byol", "simsiam", "barlow", "vicreg", "raw", "pca", "untrained", "supervised"]
    points = {name: (30 + i * 0.3, 0.95 + i * 0.0005, 0.94, 0.97) for i, name in enumerate(names)}
    assert_apart(cost(points, "kNN accuracy"))
    lines = [Series(name, [1, 2, 3, 4], [1, 0.5, 0.3, 0.2 + i * 1e-4], i) for i, name in enumerate(names)]
    svg = spectra(lines)
    assert_apart(svg)
    assert all(name in svg for name in names)
    assert_apart(curve(Series("a", list(range(300)), np.linspace(1e-4, 2e-4, 300).tolist()), "loss"))


def test_curve_breaks_at_missing_values_and_shows_one_epoch_as_a_dot():
    svg = curve(Series("a", [0, 1, 2, 3], [1.0, float("nan"), 0.5, 0.4]), "loss")
    line = re.search(r'<path d="([^"]*)" class="line c0"', svg)[1]
    assert line.count("M") == 2
    assert line.count("L") == 1
    assert 'class="dot c0"' in curve(Series("a", [0], [1.0]), "loss")


def test_spectrum_of_collapsed_embeddings_stays_inside_the_frame():
    svg = spectra([Series("a", [1, 2, 3], [1, 0, 0])])
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", re.search(r'd="([^"]*)" class="line', svg)[1])]
    assert max(heights) <= 260


def test_ridges_show_first_and_last_epoch_and_say_the_means():
    edges = np.array([-1.0, 0.0, 1.0])
    positive, negative = np.array([[5, 5]] * 20), np.array([[0, 9]] * 19 + [[9, 0]])
    svg = ridges(edges, np.arange(20), positive, negative, "simclr")
    assert {"0", "19"} <= {content for *_, content in labels(svg)}
    assert "negative pairs go from a mean of .500 to −.500" in svg
    assert svg.count('class="ridge positive"') == 7


def test_scatter_holds_every_finite_point_in_its_class_and_in_the_frame():
    xy = np.random.default_rng(0).normal(size=(50, 2)) * 1e6
    xy[3] = np.nan
    group = np.arange(50) % 2
    svg = scatter(xy, group, {0: "cat", 1: "dog"}, class_styles(group), np.arange(50) + 100, "m")
    paths = re.findall(r'<path d="([^"]*)" class="dots (c\d)"[^>]*data-name="(\w+)" data-items="([^"]*)"', svg)
    assert [(style, name) for _, style, name, _ in paths] == [("c0", "cat"), ("c1", "dog")]
    assert paths[0][0].count("M") == 25
    assert paths[1][0].count("M") == 24
    assert "103" not in paths[1][3].split()
    places = np.array([float(v) for d, *_ in paths for v in re.findall(r"[\d.]+(?= |h)", d)])
    assert places.min() >= 0
    assert places.max() <= 320


def test_twenty_classes_look_different_and_the_rest_is_grey():
    styles = class_styles(np.repeat(np.arange(25), np.arange(25, 0, -1)))
    shown = [style for style in styles.values() if style != "rest"]
    assert len(shown) == len(set(shown)) == 20
    assert [label for label, style in styles.items() if style == "rest"] == [20, 21, 22, 23, 24]


def test_confusion_and_grid():
    svg = confusion(np.array([[8, 2], [0, 0]]), ["cat", "a very long class name"])
    assert ".800 on the diagonal" in svg
    assert svg.count("<rect") == 4
    assert 'fill-opacity="0.80"' in svg
    svg = grid([["data:image/png;base64,AA", "data:image/png;base64,BB", None]], np.array([[True, False]]), "x")
    assert svg.count("<image") == 2
    assert svg.count("frame right") == svg.count("frame wrong") == 1


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 3), (8, 8, 4)])
def test_images_of_any_channels(shape):
    assert pixels(np.zeros(shape, np.uint8)).shape == (8, 8, 3)
    assert pixels(np.ones(shape, np.float32)).max() == 255


def test_images_keep_their_proportions_and_their_values():
    wide = np.zeros((10, 20, 3), np.uint8)
    square = fit(wide, 20)
    assert square.shape == (20, 20, 3)
    assert (square[5:15] == 0).all()
    assert (square[:5] == 255).all()
    assert fit(np.zeros((300, 200, 3), np.uint8), 48).shape == (48, 48, 3)
    small = np.random.default_rng(0).integers(0, 255, (4, 4, 1), np.uint8)
    assert (fit(small, 8)[::2, ::2, :1] == small).all()
    pair = sheet([small, None, small], 2, 8)
    assert pair.shape == (16, 16, 3)
    assert (pair[:8, 8:] == 255).all()


def test_photographs_are_compressed():
    noise = np.random.default_rng(0).integers(0, 255, (48, 48, 3), np.uint8)
    assert data_uri(noise).startswith("data:image/webp;base64,")
    assert thumbnail(np.zeros((8, 8, 1), np.uint8), 48).startswith("data:image/png;base64,")
    assert len(thumbnail(noise, 48)) < 48 * 48 * 3


def test_what_is_not_an_image_is_refused():
    with pytest.raises(ValueError, match="image: got shape"):
        pixels(np.zeros((8, 8, 7), np.uint8))


def test_the_axis_of_what_never_changes_names_its_value_once():
    html = curve(Series("a", [0, 1, 2], [0.0021, 0.0021, 0.0021]), "recall")
    assert html.count(">.002<") == 1
    assert curve(Series("a", [0, 1], [0.0, 1.0]), "recall").count('class="grid"') > 2


def test_no_two_ticks_read_the_same():
    assert tick_labels([0, 0.25, 0.5]) == ["0", ".250", ".500"]
    assert tick_labels([0, 0.0005, 0.001]) == ["0", "0.0005", "0.001"]
    assert tick_labels([-1000.5, -1000]) == ["−1000.5", "−1000"]
