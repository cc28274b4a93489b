import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.io import wavfile

from counterpoint.data import MultimodalDataset, load, loader, pair, split


def png(value, size=8):
    file = io.BytesIO()
    Image.new("RGB", (size, size), (value, 0, 0)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def wav(samples, rate=8000, dtype=np.int16):
    file = io.BytesIO()
    wavfile.write(file, rate, (np.asarray(samples) * 32767).astype(dtype))
    return {"bytes": file.getvalue(), "path": None}


@pytest.fixture
def table(tmp_path):
    """Six rows: pictures of rising red, captions, words, sounds of two lengths; a gap in each column."""
    sounds = [wav(np.full(80 + 40 * (i % 2), 0.1 * i)) for i in range(6)]
    frame = pd.DataFrame(
        {
            "photo": [png(i * 20) if i != 1 else None for i in range(6)],
            "caption": [f"item {i}" if i != 2 else None for i in range(6)],
            "sound": [s if i != 3 else None for i, s in enumerate(sounds)],
            "trace": [[float(i), 1.0, 2.0, 3.0] if i != 4 else None for i in range(6)],
            "a": [float(i) for i in range(6)],
            "b": [1.0] * 6,
            "label": ["x", "y"] * 3,
        }
    )
    path = tmp_path / "pairs.parquet"
    frame.to_parquet(path)
    return path


def test_columns_become_modalities_with_gaps(table, tmp_path):
    dataset = load(
        table, image="photo", text="caption", audio="sound", signal="trace", features=["a", "b"], cache=tmp_path / "c"
    )
    assert isinstance(dataset, MultimodalDataset)
    assert dataset.kinds == {
        "image": "image", "text": "text", "audio": "audio", "signal": "signal", "features": "vector"
    }  # fmt: skip
    assert dataset.shapes == {"image": (3, 8, 8), "text": (), "audio": (1, 120), "signal": (1, 4), "features": (2,)}
    assert dataset.rates == {"audio": 8000}
    batch = dataset[[5, 1, 2, 3, 4]]
    assert batch["image"][:, 0, 0, 0].tolist() == [100, 0, 40, 60, 80]
    assert batch["text"] == ["item 5", "item 1", "", "item 3", "item 4"]
    assert batch["features"][:, 0].tolist() == [5, 1, 2, 3, 4]
    assert batch["signal"][:, 0, 0].tolist() == [5, 1, 2, 3, 0]
    torch.testing.assert_close(batch["audio"][0, 0, :80], torch.full((80,), 0.5), atol=1e-4, rtol=0)
    assert batch["audio"][2, 0, 80:].abs().max() == 0  # a short one is followed by silence
    present = {name: there.tolist() for name, there in batch["present"].items()}
    yes = [True] * 5
    assert present["image"] == [True, False, True, True, True]
    assert present["text"] == [True, True, False, True, True]
    assert present["audio"] == [True, True, True, False, True]
    assert present["signal"] == [True, True, True, True, False]
    assert present["features"] == yes
    assert dataset.classes == ["x", "y"]
    again = load(table, text="caption", audio="sound", cache=tmp_path / "c")
    assert list(again.kinds) == ["image", "text", "audio"]  # the column of images is found by itself
    assert torch.equal(again[:]["audio"], dataset[:]["audio"])


def test_a_subset_and_batches_keep_what_belongs_together(table, tmp_path):
    dataset = load(table, image="photo", text="caption", cache=tmp_path / "c")
    part = dataset.subset([4, 2, 0])
    assert part[:]["text"] == ["item 4", "", "item 0"]
    assert part[:]["image"][:, 0, 0, 0].tolist() == [80, 40, 0]
    assert part.present("text").tolist() == [True, False, True]
    assert load(dataset, limit=2)[:]["index"].tolist() == [0, 1]
    seen = [batch for batch in loader(dataset, batch_size=4, seed=0)]
    for batch in seen:
        for text, index, there in zip(batch["text"], batch["index"].tolist(), batch["present"]["text"], strict=True):
            assert text == (f"item {index}" if there else "")
    assert sum(len(batch["text"]) for batch in seen) == 6


def test_several_texts_an_item(tmp_path):
    frame = pd.DataFrame({"captions": [["a", "b"], ["c"], []], "other": ["d", None, "e"], "x": [1.0, 2.0, 3.0]})
    frame.to_parquet(tmp_path / "t.parquet")
    told = {"text": {"kind": "text", "columns": ["captions", "other"]}, "v": "vector:x"}
    dataset = load(tmp_path / "t.parquet", modalities=told)
    assert dataset[:]["text"] == [("a", "b", "d"), ("c",), ("e",)]
    assert dataset.texts("text") == ["a", "c", "e"]


def test_recordings_of_other_rates_and_formats_are_brought_to_one(tmp_path):
    tone = np.sin(np.arange(800) * 2 * np.pi * 100 / 8000) * 0.5
    fast = np.sin(np.arange(1600) * 2 * np.pi * 100 / 16000) * 0.5
    frame = pd.DataFrame({"s": [wav(tone), wav(tone), wav(fast, 16000)], "word": ["a", "b", "c"]})
    frame.to_parquet(tmp_path / "t.parquet")
    waves = load(tmp_path / "t.parquet", audio="s", text="word", cache=tmp_path / "c")[:]["audio"]
    assert waves.shape == (3, 1, 800)
    torch.testing.assert_close(waves[2, 0, 50:-50], waves[0, 0, 50:-50], atol=0.02, rtol=0)


def test_what_cannot_be_decoded_is_missing_and_listed(tmp_path):
    frame = pd.DataFrame(
        {"photo": [png(1), {"bytes": b"no picture", "path": None}, png(3)], "caption": ["a", "b", "c"]}
    )
    frame.to_parquet(tmp_path / "t.parquet")
    dataset = load(tmp_path / "t.parquet", image="photo", text="caption", max_corrupt=0.5, cache=tmp_path / "c")
    assert dataset.present("image").tolist() == [True, False, True]
    assert dataset[:]["image"][:, 0, 0, 0].tolist() == [1, 0, 3]
    assert [row for row, _ in dataset.skipped] == ["row 1, image"]
    with pytest.raises(ValueError, match="max_corrupt"):
        load(tmp_path / "t.parquet", image="photo", text="caption", cache=tmp_path / "d")
    frame = pd.DataFrame({"s": [wav([0.1] * 9), {"bytes": b"RIFFnope", "path": None}], "caption": ["a", "b"]})
    frame.to_parquet(tmp_path / "s.parquet")
    with pytest.raises(ValueError, match=r"recordings in column 's'.*max_corrupt"):
        load(tmp_path / "s.parquet", audio="s", text="caption", cache=tmp_path / "c")
    heard = load(tmp_path / "s.parquet", audio="s", text="caption", cache=tmp_path / "c", max_corrupt=0.5)
    assert heard.present("audio").tolist() == [True, False]


def test_arrays_of_an_npz(tmp_path):
    images = np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8)
    np.savez(tmp_path / "a.npz", left=images, word=np.array(["a", "", "c"]), v=np.eye(3), y=np.array([0, 1, 0]))
    told = {"left": "image:left", "word": "text:word", "v": "vector:v"}
    dataset = load(tmp_path / "a.npz", modalities=told)
    assert dataset.labels.tolist() == [0, 1, 0]
    assert torch.equal(dataset[:]["left"][:, 0], torch.from_numpy(images))
    assert dataset.present("word").tolist() == [True, False, True]


def test_pair_from_python():
    digits = load("digits", limit=4)
    vectors = np.array([[1.0, 2.0], [np.nan, np.nan], [5.0, 6.0], [7.0, 8.0]])
    dataset = pair(
        {"image": digits, "text": ["a", "b", None, "d"], "v": vectors, "audio": np.zeros((4, 16))},
        labels=[1, 0, 1, 1], classes=["no", "yes"], given=["train", "train", "val", "test"], rates={"audio": 100},
    )  # fmt: skip
    assert torch.equal(dataset[:]["image"], digits[:]["image"])
    assert dataset.present("v").tolist() == [True, False, True, True]
    assert dataset[:]["v"][1].tolist() == [0, 0]
    assert (dataset.labels.tolist(), dataset.classes) == ([1, 0, 1, 1], ["no", "yes"])
    assert dataset.kinds["audio"] == "audio"
    assert split(dataset).test.tolist() == [3]
    assert dataset.thumbnail(0).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("modalities", "more", "message"),
    [
        ({"text": [None, "", " "]}, {}, "'text' is missing in all 3 items"),
        ({"text": ["a", "b"], "v": np.eye(3)}, {}, "as many items"),
        ({"present": ["a", "b"]}, {}, "'present' cannot be a name"),
        ({"half": ["a", "b"]}, {}, "'half' cannot be a name"),  # towers are attributes of a module
        ({"v": np.array([[1.0, np.nan], [1.0, 2.0]])}, {}, "'v': .*NaN"),
        ({"v": [[1.0], [1.0, 2.0]]}, {}, "differ in shape"),
        ({"t": ["a"]}, {"kinds": {"t": "image"}}, "holds texts"),
        ({"t": ["a"]}, {"kinds": {"u": "image"}}, "no modality 'u'"),
        ({"t": ["a", "b"]}, {"labels": [0, 2], "classes": ["a", "b"]}, "classes: 2 names"),
        ({}, {}, "none given"),
    ],
)
def test_what_cannot_be_paired(modalities, more, message):
    with pytest.raises(ValueError, match=message):
        pair(modalities, **more)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"text": "captoin"}, "no column 'captoin'.*caption"),
        ({"text": "caption", "modalities": {"v": "tensor:a"}}, "kind 'tensor'"),
        ({"text": "caption", "modalities": {"text": "text:caption"}}, "given twice"),
        ({"text": "caption", "modalities": {"i": "image:photo,a"}}, "one column"),
        ({"text": "caption", "modalities": {"i": 3}}, "expected a kind"),
        ({"text": "caption", "modalities": {"i": "vector:caption"}}, "not a number"),
    ],
)
def test_columns_that_cannot_be_read(table, asked, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load(table, cache=tmp_path / "c", **asked)


def test_an_array_has_no_columns():
    with pytest.raises(ValueError, match=r"data\.pair"):
        load(np.eye(3), text="caption")


def test_all_texts_of_all_items():
    data = pair({"vector": np.ones((4, 2)), "text": [["a", "b"], None, "c", ["d"]]})
    assert data.all_texts("text") == ["a", "b", "c", "d"]
    assert data.subset([3, 0]).all_texts("text") == ["d", "a", "b"]
    assert pair({"vector": np.ones((2, 2)), "text": ["a", "b"]}).all_texts("text") == ["a", "b"]
    with pytest.raises(ValueError, match=r"^all_texts: 'vector' holds vectors"):
        data.all_texts("vector")
