import numpy as np
import pytest
from hypothesis import given as draws
from hypothesis import settings
from hypothesis import strategies as st

from counterpoint.data import Splits, few, load, split


def made(labels=None, given=None, count=None):
    count = count or len(labels if labels is not None else given)
    dataset = load(np.zeros((count, 2)))
    if labels is not None:
        dataset.labels = np.asarray(labels, dtype=np.int64)
        dataset.classes = [str(i) for i in range(max(labels) + 1)]
    dataset.given = None if given is None else np.asarray(given)
    return dataset


def check(parts, count):
    everything = np.concatenate([parts.train, parts.val, parts.test])
    assert sorted(everything) == list(range(count)), "disjoint, and nothing left out"
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in (parts.train, parts.val, parts.test))


def test_stratified_in_proportion_and_in_total():
    labels = np.repeat([0, 1, 2], [200, 100, 10])
    parts = split(made(labels), seed=1)
    check(parts, 310)
    assert np.bincount(labels[parts.test]).tolist() == [40, 20, 2]
    assert np.bincount(labels[parts.val]).tolist() in ([30, 15, 1], [30, 15, 2])


def test_rounding_does_not_add_up_over_many_classes():
    parts = split(made(np.repeat(np.arange(40), 10)))
    check(parts, 400)
    assert len(parts.val) == 60, "0.15 of 10 is 1.5 in each class; on the whole it must be 60, not 80"
    assert len(parts.test) == 80


def test_small_classes():
    labels = [0] * 50 + [1] + [2, 2] + [3, 3, 3]
    parts = split(made(labels))
    where = {name: [labels[i] for i in getattr(parts, name)] for name in ("train", "val", "test")}
    assert where["train"].count(1) == 1
    assert where["train"].count(2) == where["test"].count(2) == 1
    assert [where[name].count(3) for name in ("train", "val", "test")] == [1, 1, 1]


def test_classes_of_one_each_are_split_at_random():
    check(parts := split(made(np.arange(20))), 20)
    assert (len(parts.val), len(parts.test)) == (3, 4)


def test_seeded():
    dataset = made(np.repeat([0, 1], 50))
    first, again, other = split(dataset, 3), split(dataset, 3), split(dataset, 4)
    assert (first.test == again.test).all()
    assert (first.val == again.val).all()
    assert not np.array_equal(first.test, other.test)


def test_items_without_a_label_train():
    labels = np.repeat([0, 1, -1], [20, 20, 60])
    parts = split(made(labels))
    check(parts, 100)
    assert (labels[parts.val] >= 0).all()
    assert (labels[parts.test] >= 0).all()
    assert len(parts.test) == 8


def test_given_is_respected_and_a_missing_part_is_drawn_from_train():
    given = np.repeat(["train", "test"], [80, 20])
    labels = np.tile([0, 1], 50)
    parts = split(made(labels, given))
    check(parts, 100)
    assert parts.test.tolist() == list(range(80, 100))
    assert len(parts.val) == 12
    assert np.bincount(labels[parts.val]).tolist() == [6, 6]
    complete = np.array(["test", "val", "train"] * 5)
    parts = split(made(given=complete))
    assert parts.train.tolist() == list(range(2, 15, 3))
    assert parts.val.tolist() == list(range(1, 15, 3))


def test_too_little_is_refused():
    with pytest.raises(ValueError, match="too few items"):
        split(made(count=2))
    with pytest.raises(ValueError, match="too few labelled items"):
        split(made([0, 1, -1, -1, -1]))
    check(split(made(count=3)), 3)
    for val, test in ((0.5, 0.5), (-0.1, 0.2), (0.1, 1.0)):
        with pytest.raises(ValueError, match="val, test"):
            split(made(count=9), val=val, test=test)


def test_no_val_or_no_test_asked_for():
    parts = split(made(count=10), val=0.0, test=0.5)
    assert (len(parts.train), len(parts.val), len(parts.test)) == (5, 0, 5)


@settings(max_examples=60, deadline=None)
@draws(st.lists(st.integers(-1, 5), min_size=12, max_size=80), st.integers(0, 99))
def test_always_a_partition(labels, seed):
    if sum(label >= 0 for label in labels) < 6:
        return
    parts = split(made(labels), seed=seed)
    check(parts, len(labels))
    assert all(len(part) for part in (parts.train, parts.val, parts.test))
    assert all(labels[i] >= 0 for i in (*parts.val, *parts.test))


def test_saved_and_read_back(tmp_path):
    parts = split(made(count=50))
    parts.save(tmp_path / "splits.npz")
    again = Splits.load(tmp_path / "splits.npz")
    for name in ("train", "val", "test"):
        assert np.array_equal(getattr(parts, name), getattr(again, name))
    np.savez(tmp_path / "other.npz", train=np.zeros(3))
    with pytest.raises(ValueError, match="no train, val and test"):
        Splits.load(tmp_path / "other.npz")
    np.savez(tmp_path / "objects.npz", train=np.array([{}]), val=np.zeros(1, int), test=np.zeros(1, int))
    with pytest.raises(ValueError, match="allow_pickle"):
        Splits.load(tmp_path / "objects.npz")


def test_few_labels_are_nested_seeded_and_labelled():
    labels = np.random.default_rng(0).integers(-1, 4, 200)
    labels[5:8] = 4
    labels[np.flatnonzero(labels == 4)[2:]] = -1
    one, five = few(labels, 1, seed=7), few(labels, 5, seed=7)
    assert np.bincount(labels[one]).tolist() == [1, 1, 1, 1, 1]
    assert np.bincount(labels[five]).tolist() == [5, 5, 5, 5, 2], "a class gives what it has"
    assert set(one) <= set(five)
    assert np.array_equal(five, few(labels, 5, seed=7))
    assert not np.array_equal(five, few(labels, 5, seed=8))
    with pytest.raises(ValueError, match="per_class"):
        few(labels, 0)
    with pytest.raises(ValueError, match="labels"):
        few(np.full(3, -1), 1)
