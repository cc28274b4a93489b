"""`counterpoint pairs`: two-digit pictures that share one digit, as a table, tested with a run."""

import io
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import counterpoint as cp
from counterpoint.cli import main
from counterpoint.experiments.pairs import pairs

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
QUIET = {"progress": False, "report": False, "monitor": 0, "threads": 1, "evaluate": False}


def png(picture):
    held = io.BytesIO()
    Image.fromarray(picture).save(held, "png")
    return held.getvalue()


def table(count, pick, rng):
    """Rows of pictures of two digits; two rows each that have one digit in common, and that one's place."""
    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8) / 16 * 255).astype(np.uint8)
    rows = []
    for number in range(count):
        a, b, c = rng.choice(pick, 3)
        for left, right in ((a, b), (c, b)):
            rows.append(
                {
                    "photo": png(np.concatenate([x[left], x[right]], 1)),
                    "words": f"{WORDS[y[left]]} before {WORDS[y[right]]}",
                    "pair": f"p{number}", "differs": "left" if number % 2 else "more left",
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A short run, and a table of pairs of other digits, shuffled."""
    folder, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    order = rng.permutation(1797)
    table(400, order[:1400], rng).to_parquet(folder / "train.parquet")
    tests = table(60, order[1400:], rng)
    tests.sample(frac=1, random_state=0).to_parquet(folder / "pairs.parquet")
    run = cp.fit(
        str(folder / "train.parquet"), "clip", image="photo", text="words", epochs=6, batch_size=64, lr=3e-3,
        out=str(folder / "run"), **QUIET,
    )  # fmt: skip
    return folder, run, tests


def test_a_run_is_better_than_guessing_and_the_answers_are_those_of_its_vectors(made, capsys):
    folder, run, tests = made
    assert main(["pairs", str(folder / "pairs.parquet"), str(run.folder), "--category", "differs"]) == 0
    told = capsys.readouterr().out
    value = json.loads((run.folder / "pairs.json").read_text())
    assert value["scores"]["pairs"] > 0.5
    assert f"{value['scores']['pairs']:.3f}" in told
    assert set(value["scores"]) == {"pairs", "statements", "pairs:left", "pairs:more left"}
    encoder = run.encoder().eval()
    pictures = np.stack([np.asarray(Image.open(io.BytesIO(one))) for one in tests["photo"]])
    x = encoder.embed("photo" if "photo" in encoder.towers else "image", torch.from_numpy(pictures)[:, None])
    t = encoder.embed("words" if "words" in encoder.towers else "text", tests["words"].tolist())
    own, other = (x * t).sum(1).view(-1, 2), (x.view(-1, 2, x.shape[1]).flip(1).flatten(0, 1) * t).sum(1).view(-1, 2)
    margins = dict(zip(tests["pair"][::2], (own - other).tolist(), strict=True))
    found = {row["pair"]: row for row in value["pairs"]}
    assert found.keys() == margins.keys()
    for name, row in found.items():
        assert sorted(row["margins"]) == pytest.approx(sorted(margins[name]), abs=1e-4)
        assert row["category"] == tests.set_index("pair")["differs"][name].iloc[0]
    page = (run.folder / "pairs.html").read_text()
    assert "more left" in page
    assert "--category differs" in page
    assert page.count("<img") == 2 * 24


def test_it_does_not_write_over_a_test_and_needs_no_run_folder(made, tmp_path):
    folder, run, _ = made
    data = str(folder / "pairs.parquet")
    run.encoder().save(tmp_path / "alone")
    found = pairs(data, str(tmp_path / "alone"), str(tmp_path / "out"), image="photo", text="words", report=False)
    assert found.page is None
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["pairs.json"]
    with pytest.raises(FileExistsError, match="out: "):
        pairs(data, str(run.folder), str(tmp_path / "out"))
    pairs(data, str(run.folder), str(tmp_path / "out"), overwrite=True, report=False)


def test_pairs_that_are_not_whole(made, tmp_path):
    _, run, tests = made
    broken = tests.copy()
    broken.loc[broken.index[0], "words"] = None
    broken.loc[broken.index[3], "pair"] = "alone"
    broken.to_parquet(tmp_path / "broken.parquet")
    found = pairs(str(tmp_path / "broken.parquet"), str(run.folder), str(tmp_path), report=False)
    assert "p0" not in found.names
    assert "p1" not in found.names
    assert len(found.names) == 58
    assert found.notes == ["3 of 61 pairs are left out: an image or a text of theirs is missing."]


def test_an_image_that_cannot_be_read_leaves_its_pair_out(made, tmp_path):
    _, run, tests = made
    broken = tests.copy()
    broken.at[broken.index[1], "photo"] = b"no picture"
    broken.to_parquet(tmp_path / "broken.parquet")
    found = pairs(str(tmp_path / "broken.parquet"), str(run.folder), str(tmp_path), category="differs", report=False)
    assert len(found.names) == 59
    assert "p0" not in found.names
    assert found.notes == ["1 of 60 pairs are left out: an image or a text of theirs is missing."]
    assert list(found.accuracy.categories) == [tests.set_index("pair")["differs"][name].iloc[0] for name in found.names]


def test_what_it_refuses(made, tmp_path):
    folder, run, tests = made
    data = str(folder / "pairs.parquet")
    for name, arguments in (
        ("pair", {"pair": "differs"}),
        ("gone", {"pair": "gone"}),
        ("pair: name the column", {"pair": "none"}),
    ):
        with pytest.raises(ValueError, match=name):
            pairs(data, str(run.folder), str(tmp_path / name), **arguments)
    lonely = tests.iloc[::2]
    lonely.to_parquet(tmp_path / "lonely.parquet")
    with pytest.raises(ValueError, match=r"^pair: no two rows share a name"):
        pairs(str(tmp_path / "lonely.parquet"), str(run.folder), str(tmp_path / "x"))
    single = cp.fit("digits", "simclr", limit=100, batch_size=32, steps=1, out=str(tmp_path / "single"), **QUIET)
    with pytest.raises(ValueError, match=r"^run: .* of one modality"):
        pairs(data, str(single.folder))
    with pytest.raises(FileNotFoundError):
        pairs(data, str(tmp_path / "nothing"))
