"""A question to a run: what is accepted, what comes back, what is kept."""

import os
import re

import numpy as np
import pytest
import torch
from PIL import Image

import counterpoint as cp
from counterpoint.encoders import build
from counterpoint.search import Store, build_index, search


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path):
    """Red and blue pictures of several sizes; one has a name that must be escaped."""
    draw = np.random.default_rng(0)
    for name, colour in (("red", (220, 20, 20)), ("blue", (20, 20, 220))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            noise = draw.integers(-15, 15, (40 + i, 50, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / (f"{i}.png" if i else "<b>&.png"))
    return tmp_path / "photos"


@pytest.fixture
def run(tmp_path, photos):
    torch.manual_seed(0)
    folder = tmp_path / "run"
    build("mlp", (3, 8, 8), widths=(16,), mean=[0.5] * 3, std=[0.2] * 3).save(folder / "encoder")
    (folder / "config.yaml").write_text(f"data: {photos}\nlabels: null\nmax_corrupt: 0.01\ndownload: false\n")
    return str(folder)


def test_a_picture_finds_its_like(run, photos, tmp_path):
    hits = search(run, str(photos / "red" / "1.png"), k=6, progress=False)
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5, 6]
    assert (hits[0].id, hits[0].score) == ("red/1.png", pytest.approx(1, abs=1e-5))
    assert hits[0].path == str(photos / "red" / "1.png")
    assert {hit.label for hit in hits} == {"red"}
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_an_item_is_not_its_own_answer(run):
    by_id = search(run, "blue/2.png", k=5, progress=False)
    assert len(by_id) == 5
    assert {hit.label for hit in by_id} == {"blue"}
    assert "blue/2.png" not in [hit.id for hit in by_id]
    row = next(hit.row for hit in search(run, 0, k=20) if hit.id == "blue/2.png")
    assert search(run, row, k=5) == search(run, str(row), k=5) == by_id


def test_arrays_and_npy_files(run, photos, tmp_path):
    dataset = cp.data.load(str(photos), image_size=8, channels=3)
    item = dataset[[3]]["image"][0].numpy()
    vector = cp.load(run).embed(torch.from_numpy(item)[None])[0].numpy()
    np.save(tmp_path / "item.npy", item)
    np.save(tmp_path / "vector.npy", 5 * vector)
    answers = [[hit.id for hit in search(run, q, k=4)] for q in (item, str(tmp_path / "item.npy"), 5 * vector)]
    answers.append([hit.id for hit in search(run, str(tmp_path / "vector.npy"), k=4)])
    assert answers[0][0] == dataset.ids[3]
    assert answers.count(answers[0]) == 4


def test_embeddings_are_kept_while_they_hold(run, photos):
    kept = os.path.join(run, "search", "photos.parquet")
    search(run, 0)
    first = os.stat(kept).st_mtime_ns
    search(run, 1, kind="hnsw")
    assert os.stat(kept).st_mtime_ns == first
    Image.new("RGB", (30, 30), "green").save(photos / "red" / "new.png")
    assert "red/new.png" in [hit.id for hit in search(run, 1, k=20, kind="hnsw")]  # the index too is made anew
    second = os.stat(kept).st_mtime_ns
    assert second != first
    encoder = cp.load(run)
    encoder.mean += 0.1
    encoder.save(os.path.join(run, "encoder"))
    search(run, 0)
    assert os.stat(kept).st_mtime_ns != second


def test_other_data_than_the_runs(run, tmp_path):
    (tmp_path / "more").mkdir()
    for i in range(3):
        Image.new("RGB", (9, 9), (i, 80, 90)).save(tmp_path / "more" / f"{i}.png")
    assert {hit.id for hit in search(run, "0.png", data=str(tmp_path / "more"))} == {"1.png", "2.png"}


@pytest.mark.parametrize("form", ["parquet", "folder", "object"])
def test_an_index_of_ones_own(run, photos, tmp_path, form):
    path = cp.embed(str(photos), run, str(tmp_path / "e.parquet"), progress=False)
    index = {"parquet": path, "object": build_index(path)}.get(form) or build_index(path).save(tmp_path / "index")
    expected = search(run, str(photos / "red" / "1.png"))
    assert search(run, str(photos / "red" / "1.png"), index=index, out=str(tmp_path / "p.html")) == expected
    assert (tmp_path / "p.html").read_text().count("<img") == 11  # pictures come from their files


def test_an_index_of_another_encoder_is_refused(run, photos, tmp_path):
    path = cp.embed(str(photos), run, str(tmp_path / "e.parquet"), progress=False)
    torch.manual_seed(1)
    build("mlp", (3, 8, 8), widths=(16,)).save(tmp_path / "other")
    with pytest.raises(ValueError, match="another encoder"):
        search(str(tmp_path / "other"), 0, index=str(path))


def test_a_corrupt_query_is_named(run, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8 no picture")
    with pytest.raises(ValueError, match=r"query: .*bad\.jpg cannot be read as an image"):
        search(run, str(bad), progress=False)
    (tmp_path / "bad.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"query: .*bad\.npy cannot be read as an array"):
        search(run, str(tmp_path / "bad.npy"))


@pytest.mark.parametrize(
    ("query", "kind", "message"),
    [
        ("red/none.png", FileNotFoundError, "no item of that id; ids look like 'blue/0|blue/1|blue/<b>"),
        (99, ValueError, "numbered from 0 to 11"),
        (-1, ValueError, "numbered from 0"),
        (np.zeros(7), ValueError, r"shape \(7,\); expected \(3, 8, 8\)"),
        (np.full(16, np.nan), ValueError, "finite"),
        (np.array(["a"]), ValueError, "finite numbers"),
    ],
)
def test_queries_that_cannot_be_answered(run, query, kind, message):
    with pytest.raises(kind, match=message):
        search(run, query, progress=False)


def test_wrong_arguments(run, photos, tmp_path):
    with pytest.raises(ValueError, match="k: expected"):
        search(run, 0, k=0)
    with pytest.raises(ValueError, match=r"out: .*\.html"):
        search(run, 0, out=str(tmp_path / "x.png"))
    with pytest.raises(ValueError, match="data, index"):
        search(run, 0, data=str(photos), index="x.parquet")
    with pytest.raises(ValueError, match="say with data"):
        search(os.path.join(run, "encoder"), 0)


def test_the_page_is_whole_and_escaped(run, photos, tmp_path):
    out = tmp_path / "deep" / "page.html"
    hits = search(run, "red/1.png", k=11, out=str(out))
    text = out.read_text()
    assert text.count("<img") == 12
    assert text.count("≠") == sum(hit.label != "red" for hit in hits) == 6
    assert "red/&lt;b&gt;&amp;.png" in text
    assert "<b>" not in text
    assert not re.search(r'(src|href)="(?!data:)', text)  # nothing from elsewhere
    assert "5 of 11 have the label" in text


def test_vectors_have_a_page_without_pictures(tmp_path):
    build("mlp", (4,), widths=(5,)).save(tmp_path / "encoder")
    values = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    hits = search(str(tmp_path / "encoder"), 3, data=values, k=4, out=str(tmp_path / "p.html"), progress=False)
    assert len(hits) == 4
    assert "<img" not in (tmp_path / "p.html").read_text()
    assert len(Store(tmp_path / "encoder" / "search" / "array.parquet")) == 30
