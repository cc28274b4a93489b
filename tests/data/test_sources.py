import io

import numpy as np
import pytest
from PIL import Image

from counterpoint.data import load, names, split


def test_digits():
    dataset = load("digits")
    assert (len(dataset), dataset.shape, dataset.modality) == (1797, (1, 8, 8), "image")
    assert dataset.classes == [str(i) for i in range(10)]
    pixels = dataset[:]["image"]
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert set(np.unique(pixels)) <= {round(i * 255 / 16) for i in range(17)}
    assert dataset.labels[:10].tolist() == list(range(10))
    assert len(load("digits", limit=100)) == 100
    assert set(load("digits", limit=100).labels) == set(range(10))
    assert names() == ["cifar10", "diabetes", "digits"]


def test_a_dataset_passes_through():
    dataset = load("digits")
    assert load(dataset) is dataset
    assert len(load(dataset, limit=5)) == 5


@pytest.fixture
def cifar(tmp_path):
    import pandas as pd

    def image(value):
        file = io.BytesIO()
        Image.new("RGB", (32, 32), (value, 0, 0)).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}

    (tmp_path / "cifar10").mkdir()
    for part, count in (("train", 6), ("test", 4)):
        frame = pd.DataFrame({"image": [image(i * 10) for i in range(count)], "label": [i % 3 for i in range(count)]})
        frame.to_parquet(tmp_path / "cifar10" / f"{part}.parquet")
    return tmp_path / "cifar10"


@pytest.mark.parametrize("way", ["variable", "here", "data", "root", "colon"])
def test_cifar10_is_found(cifar, tmp_path, monkeypatch, way):
    monkeypatch.delenv("COUNTERPOINT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    word, options = "cifar10", {"cache": tmp_path / "cache"}
    if way != "here":
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
    if way == "variable":
        monkeypatch.setenv("COUNTERPOINT_DATA", str(tmp_path))
    elif way == "data":
        (tmp_path / "elsewhere" / "data").symlink_to(tmp_path)
    elif way == "root":
        options["root"] = cifar
    elif way == "colon":
        word = f"cifar10:{cifar}"
    dataset = load(word, **options)
    assert (dataset.name, dataset.shape, len(dataset)) == ("cifar10", (3, 32, 32), 10)
    assert split(dataset).test.tolist() == [0, 1, 2, 3], "test.parquet comes first by name and stays the test part"
    assert dataset[:]["image"][:, 0, 0, 0].tolist() == [0, 10, 20, 30, 0, 10, 20, 30, 40, 50]
    assert dataset.ids[4] == "train/0"


def test_cifar10_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.delenv("COUNTERPOINT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"\$COUNTERPOINT_DATA/cifar10.*download=True.*170 MB"):
        load("cifar10")
    with pytest.raises(FileNotFoundError, match="root"):
        load("cifar10", root=tmp_path / "nowhere")
    (tmp_path / "cifar10" / "cifar-10-batches-py").mkdir(parents=True)
    (tmp_path / "cifar10" / "cifar-10-batches-py" / "data_batch_1").touch()
    with pytest.raises(ValueError, match="pickle"):
        load("cifar10")


def test_unknown_names_suggest_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    with pytest.raises(FileNotFoundError, match=r"Did you mean 'digits'.*folder of images.*hub:"):
        load("digit")
    with pytest.raises(FileNotFoundError, match="Did you mean 'photos'"):
        load("photo")
    with pytest.raises(FileNotFoundError, match=r"Did you mean '.*photos'"):
        load(tmp_path / "fotos")
    (tmp_path / "x.docx").touch()
    with pytest.raises(ValueError, match="of a kind that is not read"):
        load("x.docx")
    with pytest.raises(ValueError, match="got dict"):
        load({})
