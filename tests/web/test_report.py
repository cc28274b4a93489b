"""Pages: whole, self-contained, escaped, and only as long as their data."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from counterpoint.web import ComparisonData, LeaderboardRow, RunData, comparison_page, run_page, write

VOID = {"br", "col", "hr", "img", "meta", "link"}
HOSTILE = '<script>alert("x")</script>'


class Page(HTMLParser):
    """A page taken apart; mismatched tags are an error."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.ids = [], [], "", []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def histograms(epochs):
    edges = np.linspace(-1, 1, 21)
    random = np.random.default_rng(0)
    counts = [
        [np.histogram(random.normal(mean, 0.1, 200).clip(-1, 1), edges)[0] for _ in range(epochs)] for mean in (0.8, 0)
    ]
    return {
        "edges": edges,
        "epochs": np.arange(epochs),
        "positive": np.array(counts[0]),
        "negative": np.array(counts[1]),
    }


def a_run(method="simclr", n=40, epochs=5, **changes):
    random = np.random.default_rng(len(method))
    labels = np.arange(n) % 4
    run = RunData(
        name=f"{method}-seed0",
        method=method,
        config={"encoder": {"width": 32}, "lr": 1e-3},
        environment={"torch": "2.14"},
        summary="kNN accuracy .9.",
        scores={"knn": 0.9, "uniformity": float("nan"), "probe": None},
        notes=["Mind the collapse."],
        skipped=[("broken.png", "truncated")],
        history=[{"epoch": e, "step": e * 4, "loss": 2.0 / (e + 1), "knn": 0.5 + e / 20} for e in range(epochs)],
        histograms=histograms(epochs),
        spectrum=np.geomspace(10, 0.1, 16),
        map=random.random((n, 2)),
        labels=labels,
        classes=["cat", "dog", "owl", "yak"],
        thumbnails=lambda i: np.full((8, 8, 3), i * 5 % 256, np.uint8),
        neighbours=(
            np.array([0, 1]),
            np.array([[4, 2, 8], [5, 9, 2]]),
            np.array([[True, False, True], [True, True, False]]),
        ),
        views=np.zeros((3, 2, 8, 8, 3), np.uint8),
        confusion=np.eye(4) * 5 + 1,
        seconds=75.0,
        command="counterpoint fit --config config.yaml",
    )
    return replace(run, **changes)


def a_comparison(**changes):
    rows = [
        LeaderboardRow("simclr", 0.97, 0.96, 0.98, 1, True, seeds=[0.965, 0.97, 0.975]),
        LeaderboardRow("vicreg", 0.968, 0.95, 0.98, 1, True, -0.002, -0.01, 0.006, 0.4, seeds=[0.96, 0.97, 0.972]),
        LeaderboardRow(
            "pca", 0.91, 0.9, 0.92, 3, False, -0.06, -0.08, -0.04, 0.002, seeds=[0.9, 0.91, 0.92], baseline=True
        ),
    ]
    data = ComparisonData(
        name="digits",
        metric="knn",
        rows=rows,
        data={"items": 1797},
        metrics={row.name: {"knn": (row.mean, row.low, row.high), "uniformity": (-2.0, -2.1, -1.9)} for row in rows},
        runs={"simclr": a_run("simclr"), "vicreg": a_run("vicreg")},
        settings={"epochs": 5},
        environment={"torch": "2.14"},
        seconds={"simclr": 12.0, "vicreg": 14.0, "pca": 0.01},
        failures=[("byol-seed1", "loss became NaN")],
        command="counterpoint compare digits",
    )
    return replace(data, **changes)


RUN_SECTIONS = {
    "scores",
    "training",
    "similarity",
    "maps",
    "neighbours",
    "spectra",
    "confusion",
    "views",
    "skipped",
    "repeat",
    "glossary",
}
COMPARISON_SECTIONS = {
    "leaderboard",
    "metrics",
    "cost",
    "curves",
    "maps",
    "neighbours",
    "similarity",
    "spectra",
    "views",
    "failures",
    "skipped",
    "repeat",
    "glossary",
}


def sections(page):
    return {attributes["id"] for attributes in page.all("section")}


def test_full_pages_have_every_section_and_link_to_it():
    for html, expected in ((run_page(a_run()), RUN_SECTIONS), (comparison_page(a_comparison()), COMPARISON_SECTIONS)):
        page = Page(html)
        assert sections(page) == expected
        assert {a["href"][1:] for a in page.all("a")} == expected
        assert len(page.ids) == len(set(page.ids))


@pytest.mark.parametrize("page", [run_page(RunData("r", "m")), comparison_page(ComparisonData("c", "knn", []))])
def test_sections_without_data_do_not_appear(page):
    assert sections(Page(page)) == set()


@pytest.mark.parametrize(
    ("field", "section"),
    [
        ("history", "training"),
        ("histograms", "similarity"),
        ("spectrum", "spectra"),
        ("map", "maps"),
        ("neighbours", "neighbours"),
        ("views", "views"),
        ("confusion", "confusion"),
        ("skipped", "skipped"),
        ("scores", "scores"),
        ("thumbnails", "neighbours"),
    ],
)
def test_each_section_stands_on_its_own_data(field, section):
    empty = {} if field == "scores" else () if field in ("history", "skipped") else None
    assert sections(Page(run_page(a_run(**{field: empty})))) == RUN_SECTIONS - {section}


@pytest.mark.parametrize("html", [run_page(a_run()), comparison_page(a_comparison())])
def test_nothing_is_loaded_from_elsewhere(html):
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "srcset", "xlink:href", "action", "poster", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#"))
    assert not re.search(r"https?://|@import|url\((?!\$)", html)
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_text_from_the_data_is_escaped_everywhere():
    run = a_run(
        name=HOSTILE,
        method=HOSTILE,
        config={HOSTILE: {HOSTILE: HOSTILE}},
        environment={HOSTILE: HOSTILE},
        summary=HOSTILE,
        scores={HOSTILE: 1.0},
        descriptions={HOSTILE: HOSTILE},
        notes=[HOSTILE],
        skipped=[(HOSTILE, HOSTILE)],
        classes=[HOSTILE] * 4,
        command=HOSTILE,
        history=[{"epoch": 0, "loss": 1.0, HOSTILE: 2.0}],
    )
    row = LeaderboardRow(HOSTILE, 0.5, 0.4, 0.6, seeds=[0.5, 0.5])
    comparison = a_comparison(
        name=HOSTILE,
        metric=HOSTILE,
        rows=[row],
        data={HOSTILE: HOSTILE},
        verdict=HOSTILE,
        notes=[HOSTILE],
        metrics={HOSTILE: {HOSTILE: (1.0, 0.9, 1.1)}},
        runs={HOSTILE: run},
        settings={HOSTILE: HOSTILE},
        failures=[(HOSTILE, HOSTILE)],
        command=HOSTILE,
        seconds={HOSTILE: 1.0},
    )
    for html in (run_page(run), comparison_page(comparison)):
        page = Page(html)
        assert len(page.all("script")) == 1
        assert HOSTILE in page.text
        assert "alert(" not in html.replace("&lt;script&gt;alert(", "")


def test_undecodable_file_names_can_be_written(tmp_path):
    html = run_page(a_run(skipped=[("caf\udce9\x00.png", "truncated")]))
    write(tmp_path / "report.html", html)
    assert "caf�" in (tmp_path / "report.html").read_text("utf-8")


def test_missing_scores_are_dashes():
    page = Page(run_page(a_run(scores={"knn": None, "probe": float("nan"), "nmi": float("inf")})))
    assert page.text.count("–") >= 3
    assert "nan" not in page.text.lower().replace("finance", "")
    rows = [
        LeaderboardRow("a", 0.5, seeds=[0.5]),
        LeaderboardRow("b", None, rank=2),
        LeaderboardRow("c", float("nan"), rank=3),
    ]
    text = Page(comparison_page(ComparisonData("x", "knn", rows, metrics={"a": {"knn": (None, None, None)}}))).text
    assert "None" not in text
    assert "nan" not in text.lower()


def test_every_figure_is_described_and_every_table_headed():
    for html in (run_page(a_run()), comparison_page(a_comparison())):
        page = Page(html)
        top = [a for a in page.all("svg") if a.get("aria-hidden") != "true"]
        assert all(len(a.get("aria-label", "")) > 5 and a.get("role") == "img" for a in top)
        assert all("alt" in a for a in page.all("img"))
        assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
        assert page.all("html")[0]["lang"] == "en"


def test_ties_share_a_rank_and_a_group():
    html = comparison_page(a_comparison())
    board = html[html.index('<table class="board">') : html.index("</table>")]
    tied = re.findall(r'<tbody class="tied">(.*?)</tbody>', board)
    assert len(tied) == 1
    assert "simclr" in tied[0]
    assert "vicreg" in tied[0]
    assert "pca" not in tied[0]
    assert tied[0].count(">1=<") == 2


def test_best_of_a_column_follows_the_direction_of_its_metric():
    metrics = {
        "a": {"knn": (0.9, None, None), "uniformity": (-1.0, None, None), "effective_rank": (9.0, None, None)},
        "b": {"knn": (0.8, None, None), "uniformity": (-3.0, None, None), "effective_rank": (5.0, None, None)},
    }
    html = comparison_page(ComparisonData("x", "knn", [], metrics=metrics))
    assert re.findall(r'class="best">([^<]*)<', html) == [".900", "−3.00"]


def test_a_score_of_one_method_alone_is_no_column():
    metrics = {name: {"knn": (0.5, None, None)} for name in "abc"}
    metrics["a"]["accuracy"] = (0.25, None, None)
    assert ".250" not in comparison_page(ComparisonData("x", "knn", [], metrics=metrics))
    assert ".250" in comparison_page(ComparisonData("x", "accuracy", [], metrics=metrics))  # which ranks
    metrics["b"]["accuracy"] = (0.5, None, None)
    assert ".250" in comparison_page(ComparisonData("x", "knn", [], metrics=metrics))
    assert ".250" in comparison_page(ComparisonData("x", "knn", [], metrics={"a": metrics["a"]}))


def test_one_method_one_epoch_and_no_labels():
    run = a_run(
        epochs=1, labels=None, classes=None, confusion=None, neighbours=(np.array([0]), np.array([[1, 2]]), None)
    )
    data = ComparisonData(
        "x", "knn", [LeaderboardRow("simclr", 0.5, seeds=[0.5])], runs={"simclr": run}, seconds={"simclr": 1.0}
    )
    page = Page(comparison_page(data))
    assert {"leaderboard", "curves", "maps", "neighbours", "similarity"} <= sections(page)
    assert "cost" not in sections(page)
    assert not [a for a in page.all("rect") if "wrong" in a["class"] or "right" in a["class"]]


def test_partly_labelled_items_are_shown_as_unlabelled():
    html = run_page(a_run(labels=np.array([-1, 0, 1, 2] * 10)))
    names = {a.get("data-name") for a in Page(html).all("path") if "data-name" in a}
    assert names == {"unlabelled", "cat", "dog", "owl"}


def test_right_and_wrong_differ_by_more_than_colour():
    page = Page(run_page(a_run()))
    frames = [a["class"] for a in page.all("rect") if a["class"].startswith("frame")]
    assert frames.count("frame right") == 4
    assert frames.count("frame wrong") == 2
    assert len([a for a in page.all("path") if a.get("class") == "cross"]) == 2


def test_size_is_bounded_with_thousands_of_points_and_seven_methods():
    n = 20_000
    random = np.random.default_rng(0)
    image = random.integers(0, 255, (32, 32, 3), np.uint8)
    runs = {
        f"m{i}": a_run(f"m{i}", n, map=random.random((n, 2)), thumbnails=lambda i: image, labels=np.arange(n) % 30)
        for i in range(7)
    }
    html = comparison_page(ComparisonData("x", "knn", [LeaderboardRow(m, 0.5) for m in runs], runs=runs))
    assert len(html) < 6e6
    dots = re.findall(r'd="((?:M[\d. ]+h0)+)"[^>]*data-name', html)
    assert sum(path.count("M") for path in dots) == 7 * 5000


def test_absent_parts_are_computed_from_embeddings():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(9, 6))
    run = a_run(n=9, embeddings=vectors, map=None, neighbours=None, spectrum=None)
    page = Page(run_page(run))
    assert {"maps", "neighbours", "spectra"} <= sections(page)


def test_write_replaces_whole_files(tmp_path):
    write(tmp_path / "r.html", "old")
    write(tmp_path / "r.html", "nö")
    assert (tmp_path / "r.html").read_text("utf-8") == "nö"
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]
