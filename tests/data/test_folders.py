import os

import numpy as np
import pytest
from PIL import Image

from counterpoint.data import load


def picture(path, value=128, size=(8, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, (value,) * 3 if mode == "RGB" else value).save(path)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "counterpoint"


def test_first_subfolder_is_the_class_and_deeper_ones_are_not(tmp_path, cache):
    photos = tmp_path / "photos"
    picture(photos / "cat" / "deep" / "er" / "1.png", 10)
    picture(photos / "cat" / "2.PNG", 20)
    picture(photos / "dog" / "1.png", 30)
    picture(photos / "loose.png", 40)
    dataset = load(photos)
    assert list(dataset.ids) == ["cat/2.PNG", "cat/deep/er/1.png", "dog/1.png", "loose.png"]
    assert dataset.classes == ["cat", "dog"]
    assert dataset.labels.tolist() == [0, 0, 1, -1]
    assert dataset[[0, 1, 2, 3]]["image"][:, 0, 0, 0].tolist() == [20, 10, 30, 40]
    assert dataset.given is None
    assert dataset.path(2) == photos / "dog" / "1.png"
    assert list(cache.iterdir()), "decoded images are kept in $XDG_CACHE_HOME/counterpoint"


def test_flat_folder_has_no_labels(tmp_path, cache):
    for i in range(3):
        picture(tmp_path / "flat" / f"{i}.png")
    dataset = load(str(tmp_path / "flat"))
    assert dataset.labels is None
    assert dataset.classes is None
    assert "label" not in dataset[[0]]


def test_top_folders_called_train_and_test_are_the_split(tmp_path, cache):
    for part, count in (("train", 3), ("validation", 1), ("Test", 2)):
        for i in range(count):
            picture(tmp_path / "d" / part / "ab"[i % 2] / f"{i}.png")
    dataset = load(tmp_path / "d")
    assert dict(zip(*np.unique(dataset.given, return_counts=True), strict=True)) == {"test": 2, "train": 3, "val": 1}
    assert dataset.classes == ["a", "b"]


def test_a_class_called_test_beside_others_is_a_class(tmp_path, cache):
    for part in ("test", "exam"):
        picture(tmp_path / "d" / part / "1.png")
    dataset = load(tmp_path / "d")
    assert dataset.given is None
    assert dataset.classes == ["exam", "test"]


def test_hidden_files_and_other_files_are_passed_over(tmp_path, cache):
    picture(tmp_path / "d" / "a.png")
    picture(tmp_path / "d" / ".hidden.png")
    picture(tmp_path / "d" / ".thumbs" / "b.png")
    picture(tmp_path / "d" / "__MACOSX" / "c.png")
    (tmp_path / "d" / "notes.txt").write_text("not an image")
    dataset = load(tmp_path / "d")
    assert list(dataset.ids) == ["a.png"]
    assert dataset.skipped == []


def test_a_link_that_leads_back_up_ends(tmp_path, cache):
    picture(tmp_path / "d" / "a" / "1.png")
    os.symlink(tmp_path / "d", tmp_path / "d" / "a" / "loop")
    assert len(load(tmp_path / "d")) == 1


def test_empty_folders_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"source: the folder .* is empty"):
        load(tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"source: no image in .*\.png"):
        load(tmp_path / "empty")


def test_labels_can_be_left_aside_but_not_named(tmp_path, cache):
    picture(tmp_path / "d" / "a" / "1.png")
    assert load(tmp_path / "d", labels="none").labels is None
    with pytest.raises(ValueError, match=r"labels.*folder of images"):
        load(tmp_path / "d", labels="species")


def test_limit_draws_over_all_classes(tmp_path, cache):
    for name in "ab":
        for i in range(20):
            picture(tmp_path / "d" / name / f"{i}.png", i)
    dataset = load(tmp_path / "d", limit=10)
    assert len(dataset) == 10
    assert set(dataset.labels) == {0, 1}, "the first ten would all be of class a"
    for i, name in enumerate(dataset.ids):
        assert dataset[[i]]["image"].max() == int(name.split("/")[1].removesuffix(".png"))
    with pytest.raises(ValueError, match="limit"):
        load(tmp_path / "d", limit=0)


def test_odd_file_names_survive(tmp_path, cache):
    names = ["ünï côdé.png", "with space.png", b"\xff\xfe.png".decode("utf-8", "surrogateescape")]
    for name in names:
        picture(tmp_path / "d" / name)
    dataset = load(tmp_path / "d")
    assert sorted(dataset.ids) == sorted(names)
    assert all(dataset.path(i).exists() for i in range(3))
