"""Embedding and search across modalities."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import counterpoint as cp
from counterpoint.experiments.layers import layers
from counterpoint.search import embed, search

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """120 digits as files, with a caption each but the first."""
    folder = tmp_path_factory.mktemp("pairs")
    x, y = load_digits(return_X_y=True)
    rows = []
    for i in range(120):
        Image.fromarray((x[i].reshape(8, 8) * 15.9).astype(np.uint8)).save(folder / f"{i}.png")
        rows.append({"photo": f"{i}.png", "caption": None if i == 0 else f"the digit {WORDS[y[i]]}", "label": y[i]})
    pd.DataFrame(rows).to_parquet(folder / "pairs.parquet")
    return folder / "pairs.parquet"


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "clip"
    quiet = {"progress": False, "report": False, "monitor": 0, "evaluate": False}
    return cp.fit(str(table), "clip", text="caption", epochs=40, batch_size=32, out=str(folder), **quiet)


def test_a_text_finds_pictures(run, table):
    labels = pd.read_parquet(table)["label"]
    right = []
    for word in ("zero", "three", "seven"):
        hits = search(str(run.folder), f"the digit {word}", k=5, progress=False)
        right += [labels[int(hit.id)] == WORDS.index(word) for hit in hits]
    assert np.mean(right) > 0.6


def test_a_picture_finds_texts_and_an_item_its_like(run, table):
    hits = search(str(run.folder), str(table.parent / "40.png"), modality="text", k=20, progress=False)
    assert hits[0].id.startswith("the digit ")
    assert len(search(str(run.folder), "5", k=3, progress=False)) == 3
    with pytest.raises(ValueError, match="modality: there is no 'sound'"):
        search(str(run.folder), "x", modality="sound", progress=False)


def test_embeddings_of_one_modality(run, table, tmp_path):
    quiet = {"text": "caption", "modality": "text", "progress": False}
    out = embed(str(table), str(run.folder), str(tmp_path / "t.parquet"), **quiet)
    kept = pd.read_parquet(out)
    assert len(kept) == 119  # one has no caption
    vector = run.encoder().embed("text", ["the digit one"])[0].numpy()
    mine = np.stack(kept["vector"])[(kept["id"] == "the digit one").to_numpy()][0]
    np.testing.assert_allclose(mine / np.linalg.norm(mine), vector, atol=1e-5)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        Image.open(table.parent / f"{i}.png").save(folder / f"{i}.png")
    out = embed(str(folder), str(run.folder), str(tmp_path / "i.parquet"), progress=False)
    assert np.stack(pd.read_parquet(out)["vector"]).shape == (3, 128)
    other = {"modality": "text", "modalities": {"words": "text:caption"}}
    with pytest.raises(ValueError, match=r"data: .*'text' is wanted"):
        embed(str(table), str(run.folder), str(tmp_path / "x.parquet"), **other)


def test_what_needs_one_modality_says_so(run, tmp_path):
    with pytest.raises(ValueError, match="run: layers are probed"):
        layers(str(run.folder))
    with pytest.raises(ValueError, match="format: ONNX holds one encoder"):
        cp.export(str(run.folder), str(tmp_path / "x.onnx"), format="onnx")
    cp.export(str(run.folder), str(tmp_path / "out"))
    assert 'encoder.embed("text", items)' in (tmp_path / "out" / "README.md").read_text()
    assert cp.load(tmp_path / "out").dim == 128
