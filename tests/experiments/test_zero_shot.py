"""Several data sets by the names of their classes: the table, names and sentences of each set, and the command."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import counterpoint as cp
from counterpoint.cli import main
from counterpoint.data import pair

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
DIGITS = load_digits()
QUIET = {
    "progress": False,
    "report": False,
    "monitor": 0,
    "threads": 1,
    "evaluate": False,
    "batch_size": 64,
    "lr": 3e-3,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """CLIP on digits and sentences that name them."""
    images = (DIGITS.images[:1200] * 15.9).astype(np.uint8)
    data = pair({"image": images, "text": [f"a photo of a {WORDS[d]}" for d in DIGITS.target[:1200]]})
    towers = {"image": {"widths": [16, 32]}, "text": {"width": 32, "depth": 1}}
    out = tmp_path_factory.mktemp("runs") / "clip"
    return cp.fit(data, "clip", out=str(out), steps=150, encoders=towers, prompts=["a photo of a {}"], **QUIET)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Unseen digits: a table with words, a folder of few classes by other names, and one that comes split."""
    where = tmp_path_factory.mktemp("sets")
    images, target = (DIGITS.images[1200:] * 15.9).astype(np.uint8), DIGITS.target[1200:]
    files = []
    for at, (image, digit) in enumerate(zip(images, target, strict=True)):
        files.append(f"all/{at}.png")
        paths = [where / files[-1]]
        if digit < 3:
            paths.append(where / "few" / f"n{digit}" / f"{at}.png")
        paths.append(
            where / "split" / ("test" if at < 100 else "train") / WORDS[digit if at < 100 else 0] / f"{at}.png"
        )
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    frame = pd.DataFrame({"file": files, "digit": [WORDS[digit] for digit in target]})
    frame.to_csv(where / "all.csv", index=False)
    return where


def test_a_table_of_sets(run, folder):
    few = {"n0": "zero", "n1": "one", "n2": "two"}
    sets = {
        "all": {"data": str(folder / "all.csv"), "labels": "digit", "image": "file"},
        "few": {"data": str(folder / "few"), "classes": few},
        "wrong": {"data": str(folder / "few"), "classes": ["one", "two", "zero"]},
        "split": str(folder / "split"),
    }
    found = cp.zero_shot(str(run.folder), sets)
    rows = {row["set"]: row for row in found.rows}
    assert list(rows) == list(sets)
    assert rows["all"]["accuracy"] > 0.8
    assert rows["few"]["accuracy"] > 0.9
    assert rows["wrong"]["accuracy"] < 0.1
    assert (rows["all"]["items"], rows["all"]["classes"], rows["all"]["chance"]) == (597, 10, 0.1)
    assert rows["split"]["items"] == 100  # its test part
    assert rows["all"]["top5"] > rows["all"]["accuracy"]
    assert rows["few"]["top5"] is None
    assert rows["all"]["low"] < rows["all"]["accuracy"] < rows["all"]["high"]
    assert found.mean["accuracy"] == pytest.approx(np.mean([row["accuracy"] for row in found.rows]))
    told = json.loads((run.folder / "zero_shot.json").read_text())
    assert told["sets"] == found.rows
    assert told["mean"] == found.mean


def test_sentences_of_a_set_and_of_all(run, folder, tmp_path):
    words = {"data": str(folder / "all.csv"), "labels": "digit", "image": "file"}
    blind = {**words, "prompts": ["a photo of a seven, not a {}"], "limit": 200}
    out = str(tmp_path / "z.json")
    found = cp.zero_shot(str(run.folder), {"own": blind, "all": {**words, "limit": 200}}, out, prompts=["{}"])
    own, every = found.rows
    assert own["items"] == every["items"] == 200
    assert own["accuracy"] != every["accuracy"]
    assert found.path == tmp_path / "z.json"


def test_the_command(run, folder, capsys):
    (folder / "sets.yaml").write_text(f"few: {{data: {folder}/few, classes: [zero, one, two]}}\n")
    assert main(["zero_shot", str(run.folder), str(folder / "sets.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["set", "items", "classes"]
    assert lines[1].startswith("few ")
    assert lines[2].startswith("mean ")
    inline = json.dumps({"few": str(folder / "few")})
    assert main(["zero_shot", str(run.folder), inline]) == 0
    assert "few" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({}, r"^sets: expected at least one data set by name"),
        ({"a": {"labels": "x"}}, r"^sets: 'a' takes data, .* and data is missing"),
        ({"a": {"data": "digits", "label": "x"}}, r"^sets: 'a' takes data, .* got 'label'"),
        ({"a": {"data": "digits", "classes": ["one"]}}, r"^sets: 'a' has the 10 classes 0, 1, 2"),
        ({"a": {"data": "digits", "classes": {"ten": "x"}}}, r"^sets: 'a' has no class 'ten'; it has 0, 1"),
        ({"a": {"data": "digits", "prompts": ["x"]}}, r"^prompts: 'x' has no \{\}"),
        ({"a": {"data": "digits", "labels": "none"}}, r"^sets: 'a' has no labels"),
    ],
)
def test_what_is_refused(run, sets, message):
    with pytest.raises(ValueError, match=message):
        cp.zero_shot(str(run.folder), sets)


def test_a_run_without_texts_is_refused(tmp_path):
    run = cp.fit("digits", "simclr", out=str(tmp_path / "r"), steps=1, encoder_options={"widths": [8]}, **QUIET)
    with pytest.raises(ValueError, match=r"^run: .* was not trained to bring texts near"):
        cp.zero_shot(str(run.folder), {"a": "digits"})
