"""Documents with pictures in them: three layouts of tables, arrays from Python, what is missing or cannot be read."""

import io
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from counterpoint.data import InterleavedDataset, documents, load, loader, split


def png(value, size=8):
    file = io.BytesIO()
    Image.new("L", (size, size), value).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    for value in (10, 20, 30, 40):
        (tmp_path / f"{value}.png").write_bytes(png(value))
    return tmp_path


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def values(batch):
    """The grey of each picture of each document."""
    return batch["pictures"][:, :, 0, 0, 0].tolist()


ROWS = [
    {"text": "Two of them: <visual> one <visual> two", "images": ["10.png", "20.png"], "label": "a"},
    {"text": "three", "images": ["30.png"], "label": "b"},
    {"text": "no picture", "images": [], "label": "a"},
    {"text": "<visual><visual>", "images": ["40.png", "10.png"], "label": "b"},
]


def test_texts_with_marks(folder):
    dataset = load(write(folder / "d.jsonl", ROWS), cache=folder / "c")
    assert isinstance(dataset, InterleavedDataset)
    assert (len(dataset), dataset.kinds, dataset.shapes["image"]) == (4, {"image": "image", "text": "text"}, (1, 8, 8))
    batch = dataset[[0, 1, 2, 3]]
    assert batch["document"] == [ROWS[0]["text"], "<visual> three", "no picture", "<visual><visual>"]
    assert batch["text"] == ["Two of them: one two", "three", "no picture", ""]
    assert values(batch) == [[10, 20], [30, 0], [0, 0], [40, 10]]
    assert batch["shown"].int().tolist() == [[1, 1], [1, 0], [0, 0], [1, 1]]
    assert batch["pair"].tolist() == [False, True, False, False]
    assert batch["image"][:, 0, 0, 0].tolist() == [10, 30, 0, 40]
    assert batch["present"]["image"].tolist() == [True, True, False, True]
    assert batch["present"]["text"].tolist() == [True, True, True, False]
    assert dataset.classes == ["a", "b"]
    assert batch["label"].tolist() == [0, 1, 0, 1]
    assert batch["pictures"].dtype == torch.uint8
    assert "4 documents, 5 pictures" in repr(dataset)


def test_lists_alike_and_matched_sentences(folder):
    lists = write(
        folder / "lists.jsonl",
        [{"texts": ["lead", None, "one", None, "two"], "images": [None, "10.png", None, "20.png", None]}],
    )
    batch = load(lists, cache=folder / "c")[[0]]
    assert batch["document"] == ["lead <visual> one <visual> two"]
    assert values(batch) == [[10, 20]]
    pictures = [{"image_name": "10.png", "matched_text_index": 1}, {"image_name": "20.png", "matched_text_index": 0}]
    sentences = ["one", "two", "three"]
    rows = [
        {"text_list": sentences, "image_info": pictures},
        {"text_list": sentences, "image_info": pictures, "similarity_matrix": [[0.9, 0.8, 0], [0.85, 0, 0]]},
        {"text_list": sentences, "image_info": pictures, "similarity_matrix": [[-0.1, -0.2, 0], [0, 0, 0.5]]},
    ]
    batch = load(write(folder / "matched.jsonl", rows), cache=folder / "c")[[0, 1, 2]]
    assert batch["document"] == [
        "<visual> one <visual> two three",
        "<visual> one <visual> two three",  # the best for both, not the first picture's best
        "one two <visual> three",
    ]
    assert values(batch) == [[20, 10], [20, 10], [20, 0]]


def test_parquet_with_bytes(folder):
    rows = [{"text": "<visual> one", "images": [{"bytes": png(50), "path": None}]}] * 3
    path = folder / "d.parquet"
    pd.DataFrame(rows).to_parquet(path)
    dataset = load(path, cache=folder / "c", limit=2)
    assert len(dataset) == 2
    assert isinstance(dataset, InterleavedDataset)
    assert values(dataset[[1]]) == [[50]]


def test_a_picture_that_cannot_be_read_loses_its_mark(folder):
    (folder / "20.png").write_bytes(b"nothing")
    dataset = load(write(folder / "d.jsonl", ROWS), cache=folder / "c", max_corrupt=0.5)
    batch = dataset[[0]]
    assert batch["document"] == ["Two of them: <visual> one   two"]
    assert values(batch) == [[10, 0]]
    assert dataset.skipped[0][0] == "document 0, picture 1"
    with pytest.raises(ValueError, match=r"1 of the 5 images"):
        load(write(folder / "e.jsonl", ROWS), cache=folder / "c")


def test_a_changed_picture_is_read_anew(folder):
    path = write(folder / "d.jsonl", ROWS)
    load(path, cache=folder / "c")
    (folder / "30.png").write_bytes(png(77))
    assert values(load(path, cache=folder / "c")[[1]])[0][0] == 77


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "<visual> a <visual>", "images": ["10.png"]}, r"row 0 of 'd' has 2 times <visual> and 1 pictures"),
        ({"texts": ["a"], "images": [None, "10.png"]}, r"has 1 texts and 2 images: expected lists alike"),
        ({"text": "a", "images": []}, r"the documents of 'd' have no pictures"),
        (
            {"text_list": ["a"], "image_info": [{"image_name": "10.png"}], "similarity_matrix": [[1, 2]]},
            r"similarity_matrix \(1, 2\): expected \(1, 1\)",
        ),
        (
            {"text_list": ["a"], "image_info": [{"image_name": "10.png", "matched_text_index": 4}]},
            r"expected numbers of 1 sentences or -1, got 4",
        ),
    ],
)
def test_rows_that_do_not_hold_together(row, message, folder):
    with pytest.raises(ValueError, match=message):
        load(write(folder / "d.jsonl", [row]), cache=folder / "c")


def test_from_python():
    made = [np.full((8, 8), value, np.uint8) for value in range(5)]
    texts = ["<visual> a <visual> b <visual> c <visual> d", "e"]
    dataset = documents(texts, [made[:4], made[4:]], labels=[1, 0], images=3, given=["train", "test"])
    batch = dataset[[0, 1]]
    assert values(batch) == [[0, 1, 2], [4, 0, 0]]
    assert batch["document"][1] == "<visual> e"
    part = dataset.subset([1])
    assert isinstance(part, InterleavedDataset)
    assert (part[[0]]["document"], values(part[[0]]), part.given.tolist()) == (["<visual> e"], [[4, 0, 0]], ["test"])
    assert split(documents(texts * 5, [made[:4], made[4:]] * 5)).test.size == 2
    read = next(iter(loader(dataset, 2, 2)))
    assert read["pictures"].shape == (2, 3, 1, 8, 8)


def test_what_python_may_not_give():
    one = np.zeros((8, 8), np.uint8)
    for texts, pictures, message in (
        (["a"], [], "^pictures: expected 1 lists"),
        (["<visual> a"], [[one, one]], "^texts: number 0 has 1 times <visual> and 2 pictures"),
        (["a"], [[]], "^pictures: expected some, of one shape, got none"),
        (["a"], [[one, one[:4]]], "^pictures: expected some, of one shape"),
        (["a"], [[one[0]]], r"^pictures: expected arrays \(H, W\)"),
    ):
        with pytest.raises(ValueError, match=message):
            documents(texts, pictures)
    with pytest.raises(ValueError, match=r"^images: expected at least 1"):
        documents(["a"], [[one]], images=0)
