"""What a method found out survives the folder, is drawn, and comes with a fit."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

import counterpoint as cp
from counterpoint import findings
from counterpoint.experiments.run import Run
from counterpoint.findings import Captions, Curves, Heatmap, Pictures, Scatter
from counterpoint.methods.vision.simclr import SimCLR
from counterpoint.web import RunData, run_page
from counterpoint.web.discoveries import discoveries, heatmap, lines
from counterpoint.web.scatter import groups

MAP = Heatmap("Classes", "Dark is alike.", np.array([[1.0, 0.25], [np.nan, -2.0]]), ["cat", "<dog>"])
PAIRS = Pictures("Items", "Left in, right out.", np.zeros((3, 2, 8, 8, 1), np.uint8), ["input", "output"])
SCORES = Curves("Scores", "Over training.", np.arange(5), {"a": np.arange(5) / 4, "b": [0, 1, np.nan, 1, 0]})
POINTS = Scatter("Map", "Lines join pairs.", {"image": [[0, 0], [1, 2], [np.nan, 0]], "<text>": [[3, 1], [4, 1]]}, 2)
TEXTS = Captions("Captions", "What it says.", [["a <cat>", "cat"], ["", "dog"]], ["written", "true"])
SHOWN = Captions("Captions", "Seen.", TEXTS.lines, TEXTS.columns, np.full((2, 8, 16, 3), 7, np.uint8))


def test_they_come_back_as_they_were(tmp_path):
    findings.save(tmp_path, [MAP, PAIRS, SCORES, POINTS, TEXTS, SHOWN])
    first, second, third, fourth, fifth, sixth = findings.load(tmp_path)
    assert (fifth.lines, fifth.columns, fifth.images) == (TEXTS.lines, TEXTS.columns, None)
    assert sixth.lines == TEXTS.lines
    np.testing.assert_array_equal(sixth.images, SHOWN.images)
    np.testing.assert_array_equal(first.values, MAP.values)
    assert (first.rows, first.columns, first.title) == (["cat", "<dog>"], ["cat", "<dog>"], "Classes")
    np.testing.assert_array_equal(second.images, PAIRS.images)
    assert second.columns == ["input", "output"]
    assert list(third.series) == ["a", "b"]
    np.testing.assert_array_equal(third.series["b"], [0, 1, np.nan, 1, 0])
    assert (third.x_label, third.y_label) == ("step", "value")
    assert list(fourth.groups) == ["image", "<text>"]
    np.testing.assert_array_equal(fourth.groups["image"], [[0, 0], [1, 2], [np.nan, 0]])
    assert fourth.joined == 2


def test_none_leave_no_file_and_remove_an_older_one(tmp_path):
    assert findings.load(tmp_path) == []
    findings.save(tmp_path, [MAP])
    findings.save(tmp_path, [])
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_named(tmp_path):
    findings.save(tmp_path, [MAP])
    path = tmp_path / "findings.npz"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"findings.*findings\.npz"):
        findings.load(tmp_path)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: Heatmap("t", "", np.zeros((2, 2)), ["a"]), "rows, columns"),
        (lambda: Heatmap("t", "", np.zeros(2), ["a", "b"]), "values"),
        (lambda: Pictures("t", "", np.zeros((1, 1, 4, 4, 3))), "images"),
        (lambda: Pictures("t", "", PAIRS.images, ["one"]), "columns"),
        (lambda: Curves("t", "", [0, 1], {"a": [1, 2, 3]}), "series"),
        (lambda: Curves("t", "", [0, 1]), "series"),
        (lambda: Scatter("t", ""), "groups"),
        (lambda: Scatter("t", "", {"a": [[0, 1, 2]]}), "groups"),
        (lambda: Scatter("t", "", {"a": [0, 1]}), "groups"),
        (lambda: Scatter("t", "", POINTS.groups, 3), "joined"),
        (lambda: Captions("t", "", [], ["a"]), "lines"),
        (lambda: Captions("t", "", [["x"], ["x", "y"]], ["a"]), "lines"),
        (lambda: Captions("t", "", [["x"]], ["a"], np.zeros((1, 4, 4, 3))), "images"),
        (lambda: Captions("t", "", [["x"]], ["a"], np.zeros((2, 4, 4, 3), np.uint8)), "images"),
    ],
)
def test_what_does_not_fit_together_is_refused(make, argument):
    with pytest.raises(ValueError, match=argument):
        make()


def test_each_kind_is_drawn_as_well_formed_markup():
    for one in (MAP, PAIRS, SCORES, POINTS):
        root = ET.fromstring(f"<div>{discoveries([one])}</div>")
        assert root.find(".//svg") is not None
        assert one.text in "".join(root.itertext())
    drawn = ET.fromstring(groups(POINTS.groups, 2, "t"))
    lines, *dots = drawn.findall("path")
    assert [name.text for name in drawn.findall("text")] == ["image", "<text>"]
    assert lines.get("d").count("L") == 2
    assert [path.get("d").count("h0") for path in dots] == [2, 2, 1, 1]  # the point with NaN is left out
    assert ET.fromstring(groups(POINTS.groups, 0, "t")).find("path").get("class") == "dots c0"
    cells = ET.fromstring(heatmap(MAP)).findall("rect")
    assert len(cells) == 3  # the empty one is left out
    assert [float(cell.get("fill-opacity")) for cell in cells] == [1.0, 0.76, 0.04]
    for one, pictures in ((TEXTS, 0), (SHOWN, 2)):
        drawn = str(discoveries([one]))
        assert drawn.count("<img") == pictures
        assert "<td>a &lt;cat&gt;</td><td>cat</td>" in drawn
        assert drawn.count("<tr>") == 3
    assert discoveries([]) is None


def test_a_long_training_stays_a_small_figure():
    x = np.arange(100_000)
    drawn = lines(Curves("t", "", x, {"a": np.sin(x / 1e4)}))
    assert len(drawn) < 20_000


class Finds(SimCLR):
    def findings(self, dataset, indices):
        assert not self.training
        return [Heatmap("Chosen", "Positions.", indices[:4].reshape(2, 2), ["a", "b"])]


class Fails(SimCLR):
    def findings(self, dataset, indices):
        raise ValueError("no figure today")


SMALL = {"limit": 200, "steps": 2, "batch_size": 32, "encoder": "mlp", "monitor": 0, "progress": False, "threads": 1}


def test_a_fit_keeps_and_shows_them(tmp_path):
    run = cp.fit("digits", Finds, out=str(tmp_path / "run"), **SMALL)
    (found,) = Run(run.folder).findings
    assert np.all(np.diff(found.values.ravel()) > 0)
    page = (run.folder / "report.html").read_text()
    assert "What the method found" in page
    assert "Chosen" in page
    assert "What the method found" not in run_page(RunData("r", "simclr"))


def test_a_figure_that_fails_costs_no_training(tmp_path):
    run = cp.fit("digits", Fails, out=str(tmp_path / "run"), report=False, **SMALL)
    assert run.state == "finished"
    assert any("no figure today" in note for note in run.status["notes"])
