import numpy as np
import pytest
from PIL import Image

from counterpoint.data import load, split

datasets = pytest.importorskip("datasets")


def images(count, names=("cat", "dog")):
    pictures = [Image.new("RGB", (8, 8), (i, 0, 255)) for i in range(count)]
    made = datasets.Dataset.from_dict({"picture": pictures, "animal": [i % 2 for i in range(count)]})
    return made.cast_column("picture", datasets.Image()).cast_column("animal", datasets.ClassLabel(names=list(names)))


def test_saved_images_with_splits(tmp_path):
    datasets.DatasetDict({"train": images(6), "test": images(4)}).save_to_disk(tmp_path / "saved")
    dataset = load(tmp_path / "saved", cache=tmp_path / "cache")
    assert (len(dataset), dataset.shape, dataset.classes) == (10, (3, 8, 8), ["cat", "dog"])
    assert dataset[:]["image"][:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert dataset.labels.tolist() == [0, 1] * 5
    assert split(dataset).test.tolist() == [6, 7, 8, 9]


def test_a_saved_selection_keeps_its_order(tmp_path):
    images(6).select([5, 0, 3]).save_to_disk(tmp_path / "saved")
    dataset = load(tmp_path / "saved", cache=tmp_path / "cache")
    assert dataset[:]["image"][:, 0, 0, 0].tolist() == [5, 0, 3]
    assert dataset.given is None


def test_saved_vectors(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    datasets.Dataset.from_dict({"emb": x.tolist(), "label": ["a", "b"] * 10}).save_to_disk(tmp_path / "saved")
    dataset = load(tmp_path / "saved")
    assert np.array_equal(dataset[:]["vector"], x)
    assert dataset.classes == ["a", "b"]


def test_other_parts_than_train_and_test_are_left_out(tmp_path):
    parts = {"train": images(4), "unsupervised": images(4), "test": images(2)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    assert len(load(tmp_path / "saved", cache=tmp_path / "cache")) == 6


def test_a_damaged_folder_is_refused(tmp_path):
    images(3).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "dataset_info.json").unlink()
    next((tmp_path / "saved").glob("*.arrow")).unlink()
    with pytest.raises(ValueError, match=r"source: .*saved Hugging Face dataset"):
        load(tmp_path / "saved")


def test_nothing_is_downloaded_unasked(monkeypatch, tmp_path):
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(FileNotFoundError, match=r"hub:nobody/nothing.*download=True"):
        load("hub:nobody/nothing")
    assert not __import__("datasets").config.HF_HUB_OFFLINE, "the setting is put back"
