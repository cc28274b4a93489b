"""Continuous targets: from every kind of source, through subsets and splits, and refused where they are none."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from counterpoint.data import load, split
from counterpoint.data.targets import fractional, numbers, quantile_bins

AGES = pd.DataFrame(
    {
        "height": [1.5, 2.0, 3.25, 4.0],
        "age": [30.5, None, 12.25, 80.0],
        "label": ["rose", "iris", "", "rose"],
        "target": [0.5, 1.5, 2.5, 4.0],
    }
)


def written(frame, path):
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in frame.to_dict("records")))
    else:
        frame.to_csv(path, index=False)
    return path


def photos(folder, frame):
    for at, name in enumerate(frame["photo"]):
        Image.new("L", (8, 8), 40 * at).save(folder / name)
    frame.to_csv(folder / "about.csv", index=False)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_column_of_a_table(tmp_path, ending):
    dataset = load(written(AGES, tmp_path / f"t.{ending}"), target="age")
    assert dataset.targets.dtype == np.float64
    np.testing.assert_array_equal(dataset.targets, [30.5, np.nan, 12.25, 80.0])
    assert dataset.shape == (2,), "height and the column named target; the age is no feature"
    assert dataset.classes == ["iris", "rose"], "labels and target may both be there"
    batch = dataset[[2, 1]]
    assert batch["target"].dtype == torch.float32
    np.testing.assert_array_equal(batch["target"].numpy(), np.float32([12.25, np.nan]))
    assert "targets from 12.25 to 80" in repr(dataset)


def test_the_target_is_neither_label_nor_feature_unless_asked(tmp_path):
    path = written(AGES[["height", "target"]], tmp_path / "t.csv")
    alone = load(path, target="target")
    assert (alone.labels, alone.shape) == (None, (1,))
    with pytest.raises(ValueError, match=r"^labels .*target=.* in place of labels="):
        load(path)  # a column of that name is taken for labels, and these are none
    with pytest.raises(ValueError, match=r"^target: 'height' is among the features"):
        load(path, target="height", features=["height"])
    whole = written(pd.DataFrame({"x": [1.0, 2.5, 4.0], "stars": [3, 1, 3]}), tmp_path / "whole.csv")
    both = load(whole, target="stars", labels="stars")
    assert both.labels.tolist() == [1, 0, 1]
    assert both.targets.tolist() == [3, 1, 3]
    assert load(whole, target="stars").labels is None


def test_an_array_of_an_archive(tmp_path):
    x, age = np.random.default_rng(0).normal(size=(5, 3)), np.arange(5) / 2
    np.savez(tmp_path / "a.npz", x=x, y=[0, 1, 0, 1, 0], age=age)
    dataset = load(tmp_path / "a.npz", target="age")
    assert dataset.targets.tolist() == age.tolist()
    assert dataset.labels.tolist() == [0, 1, 0, 1, 0]
    np.savez(tmp_path / "b.npz", x=x, target=age)
    assert load(tmp_path / "b.npz", target="target").labels is None
    with pytest.raises(ValueError, match=r"^target: there is no column 'agee'. Did you mean 'age'"):
        load(tmp_path / "a.npz", target="agee")
    np.savez(tmp_path / "c.npz", x=x, age=age[:4])
    with pytest.raises(ValueError, match=r"^target: expected one target for each of the 5 rows, got shape \(4,\)"):
        load(tmp_path / "c.npz", target="age")


def test_a_pair():
    x = np.zeros((4, 2))
    fractions = load((x, [0.5, 1.0, float("nan"), 3.0]))
    assert fractions.labels is None
    np.testing.assert_array_equal(fractions.targets, [0.5, 1, np.nan, 3])
    np.testing.assert_array_equal(load((x, torch.tensor([0.5, 1, 2, 3]))).targets, [0.5, 1, 2, 3])
    whole = load((x, np.array([4.0, 2.0, 2.0, 4.0])))
    assert whole.targets is None, "whole numbers are classes unless it is said that they are not"
    both = load((x, np.array([4.0, 2.0, 2.0, 4.0])), target="label")
    assert (both.labels.tolist(), both.targets.tolist()) == ([1, 0, 0, 1], [4, 2, 2, 4])
    assert load((x, np.arange(4)), target="label", labels="none").labels is None
    with pytest.raises(ValueError, match=r"^target: 'label' takes the labels as numbers, and the data have none"):
        load(x, target="label")
    with pytest.raises(ValueError, match=r"^target: 'age' names a column .* Give 'label'"):
        load((x, np.arange(4)), target="age")


def test_folders_of_images(tmp_path):
    frame = pd.DataFrame({"photo": ["a.png", "b.png", "c.png"], "age": [20, 31, 47.5], "name": ["x", "y", "x"]})
    photos(tmp_path, frame)
    dataset = load(tmp_path, target="age", labels="name", cache=tmp_path / "cache")
    assert dataset.modality == "image"
    assert dataset.targets.tolist() == [20, 31, 47.5]
    assert dataset.classes == ["x", "y"]
    assert dataset[[1]]["image"].unique().item() == 40
    assert load(tmp_path, cache=tmp_path / "cache").targets is None
    with pytest.raises(ValueError, match=r"^target: there is no column 'weight'"):
        load(tmp_path, target="weight")


def test_unreadable_images_take_their_target_along(tmp_path):
    frame = pd.DataFrame({"photo": ["a.png", "b.png", "c.png"], "age": [20, 31, 47.5]})
    photos(tmp_path, frame)
    (tmp_path / "b.png").write_bytes(b"no picture")
    dataset = load(tmp_path, target="age", max_corrupt=0.5, cache=tmp_path / "cache")
    assert dataset.targets.tolist() == [20, 47.5]


def test_folders_named_by_numbers_and_digits(tmp_path):
    for at, age in enumerate(["20", "31.5", "100"]):
        (tmp_path / age).mkdir()
        Image.new("L", (8, 8), 50 * at).save(tmp_path / age / "x.png")
    dataset = load(tmp_path, target="label", cache=tmp_path / "cache")
    assert dict(zip(dataset.ids, dataset.targets, strict=True)) == {
        "20/x.png": 20,
        "31.5/x.png": 31.5,
        "100/x.png": 100,
    }
    digits = load("digits", target="label")
    assert digits.targets.tolist() == digits.labels.tolist()
    assert load(load("digits"), target="label", limit=5).targets.tolist() == load("digits", limit=5).labels.tolist()
    (tmp_path / "cat").mkdir()
    Image.new("L", (8, 8), 9).save(tmp_path / "cat" / "x.png")
    with pytest.raises(ValueError, match=r"^target: 'cat' is not a number"):
        load(tmp_path, target="label", cache=tmp_path / "cache")


def test_diabetes_has_a_target_of_its_own():
    dataset = load("diabetes")
    assert (len(dataset), dataset.shape, dataset.labels, dataset.name) == (442, (10,), None, "diabetes")
    assert (dataset.targets.min(), dataset.targets.max()) == (25, 346)
    with pytest.raises(ValueError, match=r"^target: 'age'"):
        load("diabetes", target="age")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1, "tall", 3], r"^target \(column 'h'\): 'tall' in row 1 is not a number"),
        ([1.0, float("inf"), 2], "1 of 3 values are infinite or beyond float32, the first in row 1"),
        ([1.0, 1e39, 2], "beyond float32"),
        ([None, float("nan"), "NA"], "none of the 3 items has a value"),
        ([2.5, 2.5, None], "every value is 2.5"),
        ([1e9, 1e9 + 1, 1e9 + 2], "too close for float32"),
        ([[1, 2], [3, 4]], "is not a number"),
        ([], "none of the 0 items"),
    ],
)
def test_what_is_no_target(values, said):
    with pytest.raises(ValueError, match=said) as caught:
        numbers(values, "target (column 'h')")
    assert str(caught.value).startswith("target (column 'h'): ")


def test_texts_and_whole_numbers_are_numbers():
    np.testing.assert_array_equal(numbers(["1.5", " 2 ", "", "NA", b"3"]), [1.5, 2, np.nan, np.nan, 3])
    assert numbers(np.array([True, False])).tolist() == [1, 0]
    assert fractional([0.5, None])
    assert not fractional(["0.5"])
    assert not fractional([1.0, float("nan")])
    assert not fractional(None)


def test_bins_hold_equal_shares():
    targets = np.random.default_rng(0).lognormal(size=1000)
    targets[::10] = np.nan
    bins = quantile_bins(targets, 10)
    assert np.bincount(bins[bins >= 0]).tolist() == [90] * 10
    assert (bins[::10] == -1).all()
    order = np.argsort(targets[~np.isnan(targets)])
    assert (np.diff(bins[~np.isnan(targets)][order]) >= 0).all()
    assert np.unique(quantile_bins(np.array([0.0] * 90 + [1.0] * 10), 10)).size == 2, "equal targets share a bin"


def test_splits_are_stratified_over_the_target():
    targets = np.random.default_rng(0).lognormal(sigma=2, size=400)
    targets[:7] = np.nan
    dataset = load((np.zeros((400, 2)), targets))
    parts = split(dataset, seed=3)
    assert set(range(7)) <= set(parts.train), "nothing can be measured where there is no target"
    assert (len(parts.val), len(parts.test)) == (59, 79)
    bins = quantile_bins(targets, 10)
    for part, share in ((parts.val, 0.15), (parts.test, 0.2)):
        counts = np.bincount(bins[part], minlength=10)
        assert (np.abs(counts - share * 39.3) <= 1.5).all()
    assert np.array_equal(split(dataset, seed=3).test, parts.test)
    assert not np.array_equal(split(dataset, seed=4).test, parts.test)
    small = split(dataset.subset(np.arange(100, 112)))
    assert (len(small.val), len(small.test)) == (2, 2)
