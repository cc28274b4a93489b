import pickle

import numpy as np
import pytest
import torch

from counterpoint.data import Names, load

X = np.arange(40, dtype=np.float32).reshape(20, 2)
Y = np.arange(20) % 4


@pytest.fixture
def dataset():
    return load((X, Y))


@pytest.mark.parametrize(
    "indices",
    [
        [3, 0, 3],
        (3, 0, 3),
        np.array([3, 0, 3]),
        np.array([3, 0, 3], np.uint8),
        torch.tensor([3, 0, 3]),
        [-17, -20, 3],
    ],
)
def test_a_batch_holds_the_rows_asked_for_in_their_order(dataset, indices):
    batch = dataset[indices]
    assert batch["index"].tolist() == [3, 0, 3]
    assert batch["index"].dtype == batch["label"].dtype == torch.int64
    assert np.array_equal(batch["vector"], X[[3, 0, 3]])
    assert batch["label"].tolist() == Y[[3, 0, 3]].tolist()


def test_slices_masks_single_and_empty(dataset):
    assert dataset[5:9]["index"].tolist() == [5, 6, 7, 8]
    assert dataset[::-7]["index"].tolist() == [19, 12, 5]
    assert np.array_equal(dataset[::-7]["vector"], X[::-7])
    assert dataset[Y == 1]["label"].tolist() == [1] * 5
    assert dataset[7]["vector"].shape == (1, 2)
    assert dataset[[]]["vector"].shape == (0, 2)


@pytest.mark.parametrize("indices", [[20], [-21], [0.5], [[1, 2]], [True, False]])
def test_wrong_indices(dataset, indices):
    with pytest.raises(IndexError, match="indices"):
        dataset[indices]


def test_a_batch_can_be_changed_without_changing_the_data(dataset):
    for indices in ([1, 2], slice(1, 3), [5, 1]):
        dataset[indices]["vector"].zero_()
        dataset[indices]["label"].fill_(9)
    assert np.array_equal(dataset[:]["vector"], np.arange(40).reshape(20, 2))
    assert dataset.labels.max() == 3


def test_a_subset_has_its_own_positions(dataset):
    dataset.given = np.array(["train"] * 10 + ["test"] * 10)
    part = dataset.subset([15, 4, 9]).subset([2, 0])
    assert len(part) == 2
    assert part[[0, 1]]["index"].tolist() == [0, 1]
    assert np.array_equal(part[[0, 1]]["vector"], X[[9, 15]])
    assert part.labels.tolist() == Y[[9, 15]].tolist()
    assert list(part.ids) == ["9", "15"]
    assert part.given.tolist() == ["train", "test"]
    again = pickle.loads(pickle.dumps(part))
    assert torch.equal(again[:]["vector"], part[:]["vector"])


def test_thumbnails_are_colour_pictures():
    grey = np.arange(2 * 16, dtype=np.uint8).reshape(2, 4, 4)
    thumbnail = load(grey).thumbnail(1)
    assert thumbnail.shape == (4, 4, 3)
    assert np.array_equal(thumbnail, np.repeat(grey[1][..., None], 3, axis=2))
    with pytest.raises(ValueError, match="thumbnail"):
        load(X).thumbnail(0)
    assert load(X).path(0) is None


def test_the_representation_says_what_it_is(dataset):
    assert repr(dataset) == "<Dataset array: 20 vectors of 2, 4 classes>"


def test_names(tmp_path):
    words = ["", "a", "naïve", "b/c.png", ""]
    names = Names.of(words)
    assert list(names) == words
    assert (names[-2], names[1:3], len(names)) == ("b/c.png", ["a", "naïve"], 5)
    assert list(names.take(np.array([3, 1]))) == ["b/c.png", "a"]
    with pytest.raises(IndexError):
        names[5]
    names.save(tmp_path / "ids.npy")
    again = pickle.loads(pickle.dumps(Names.open(tmp_path / "ids.npy")))
    assert list(again) == words
    assert len(Names.of([])) == 0
