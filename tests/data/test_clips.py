"""Clips: lists, folders and animations become as many frames each; what cannot be read; arrays."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from counterpoint.data import load, loader, pair
from counterpoint.data.clips import FRAMES, pictures, spread
from counterpoint.data.multimodal import as_taken


def picture(value, size=8):
    return Image.fromarray(np.full((size, size, 3), value, np.uint8))


def png(value):
    file = io.BytesIO()
    picture(value).save(file, "PNG")
    return file.getvalue()


def animation(values, kind="GIF"):
    file = io.BytesIO()
    first, *rest = map(picture, values)
    first.save(file, kind, save_all=True, append_images=rest, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def told(dataset):
    """The grey value of each frame."""
    return dataset[:]["clip"][:, :, 0, 0, 0].tolist()


def test_frames_are_spread_evenly():
    assert spread(8, 4).tolist() == [1, 3, 5, 7]
    assert spread(4, 4).tolist() == [0, 1, 2, 3]
    assert spread(2, 4).tolist() == [0, 0, 1, 1]
    assert spread(9, 3).tolist() == [1, 4, 7]


def test_lists_of_pictures(tmp_path):
    clips = [[{"bytes": png(10 * row + at), "path": None} for at in range(n)] for row, n in enumerate((4, 2, 1))]
    frame = pd.DataFrame({"frames": [*clips, []], "caption": ["a", "b", "c", "d"]})
    frame.to_parquet(tmp_path / "t.parquet")
    asked = {"text": "caption", "modalities": {"clip": "video:frames"}, "cache": tmp_path / "c"}
    dataset = load(tmp_path / "t.parquet", **asked)
    assert dataset.kinds == {"text": "text", "clip": "video"}
    assert dataset.shapes["clip"] == (4, 3, 8, 8)
    assert told(dataset) == [[0, 1, 2, 3], [10, 10, 11, 11], [20] * 4, [0] * 4]
    assert dataset.present("clip").tolist() == [True, True, True, False]
    assert dataset.subset([1, 0])[:]["clip"][:, 0, 0, 0, 0].tolist() == [10, 0]
    assert dataset.thumbnail(0).shape == (8, 8, 3)
    assert {tuple(batch["clip"].shape) for batch in loader(dataset, batch_size=2, seed=0)} == {(2, 4, 3, 8, 8)}
    asked["modalities"] = {"clip": {"kind": "video", "column": "frames", "frames": 2}}
    assert told(load(tmp_path / "t.parquet", **asked))[:3] == [[1, 3], [10, 11], [20, 20]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_animations_and_folders(kind, tmp_path):
    (tmp_path / "frames").mkdir()
    for at in (1, 2, 10):  # by number, not by letter
        picture(50 + at).save(tmp_path / "frames" / f"{at}.png")
    (tmp_path / "frames" / "notes.txt").write_text("no picture")
    (tmp_path / f"clip.{kind.lower()}").write_bytes(animation([0, 60, 120], kind))
    (tmp_path / "still.png").write_bytes(png(9))
    frame = pd.DataFrame({"c": ["frames", f"clip.{kind.lower()}", "still.png", ""], "word": list("abcd")})
    frame.to_csv(tmp_path / "t.csv", index=False)
    dataset = load(tmp_path / "t.csv", text="word", modalities={"clip": "video:c"}, cache=tmp_path / "c")
    expected = [[51, 52, 60], [0, 60, 120], [9, 9, 9], [0, 0, 0]]
    np.testing.assert_allclose(told(dataset), expected, atol=3)
    (tmp_path / "frames" / "10.png").write_bytes(png(99))
    again = load(tmp_path / "t.csv", text="word", modalities={"clip": "video:c"}, cache=tmp_path / "c")
    assert told(again)[0] == [51, 52, 99]  # what changed is decoded anew
    assert [item.at for item in pictures(animation([1, 2, 3]), tmp_path)] == [0, 1, 2]


def test_what_cannot_be_read(tmp_path):
    good = [{"bytes": png(value), "path": None} for value in (1, 2, 3)]
    bad = {"bytes": b"no picture", "path": None}
    frame = pd.DataFrame({"f": [good, [good[0], bad, good[2]], [bad, bad]], "w": list("abc")})
    frame.to_parquet(tmp_path / "t.parquet")
    asked = {"text": "w", "modalities": {"clip": "video:f"}, "cache": tmp_path / "c"}
    dataset = load(tmp_path / "t.parquet", max_corrupt=0.5, **asked)
    assert told(dataset) == [[1, 2, 3], [1, 1, 3], [0, 0, 0]]  # a neighbour stands in
    assert [row for row, _ in dataset.skipped] == ["row 2, clip", "row 1, clip"]
    (tmp_path / "x.mp4").write_bytes(b"film")
    (tmp_path / "empty").mkdir()
    for cell, message in (
        ("x.mp4", "x.mp4 is a film, which Pillow does not read"),
        ("empty", "no picture in the folder"),
    ):
        pd.DataFrame({"f": [cell], "w": ["a"]}).to_csv(tmp_path / "t.csv", index=False)
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "t.csv", **asked)


def test_arrays():
    x = np.arange(24, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2)
    rgb = x.reshape(4, 6, 8, 8, 1).repeat(3, 4)
    assert pair({"clip": rgb}).shapes["clip"] == (6, 3, 8, 8)
    assert torch.equal(pair({"clip": rgb})[:]["clip"], torch.from_numpy(rgb).permute(0, 1, 4, 2, 3))
    grey = pair({"clip": x.reshape(4, 6, 8, 8)}, kinds={"clip": "video"})
    assert grey.shapes["clip"] == (6, 1, 8, 8)
    lists = pair({"clip": [x, None, x[:3]]}, kinds={"clip": "video"})
    assert lists.shapes["clip"] == (FRAMES, 1, 8, 8)
    assert lists.present("clip").tolist() == [True, False, True]
    assert told(lists)[0] == spread(24, FRAMES).tolist()
    assert told(lists)[2] == spread(3, FRAMES).tolist()
    with pytest.raises(ValueError, match=r"^modalities: expected clips .* for 'clip', got"):
        pair({"clip": [x, x[:, :4]]}, kinds={"clip": "video"})
    with pytest.raises(ValueError, match=r"^modalities: frames are for videos, and at least 1; 'a', of kind 'image'"):
        load("x.csv", modalities={"a": {"kind": "image", "frames": 3}})


def test_what_an_encoder_takes_of_a_modality():
    assert as_taken("video", (4, 3, 8, 8)) == ("image", (3, 8, 8))
    assert as_taken("audio", (1, 80)) == ("signal", (1, 80))
    assert as_taken("vector", (5,)) == ("vector", (5,))
