import numpy as np
import pytest

from counterpoint.data.labels import encode


@pytest.mark.parametrize(
    ("values", "numbers", "classes"),
    [
        (["b", "a", "b"], [1, 0, 1], ["a", "b"]),
        (["b", None, "", float("nan")], [0, -1, -1, -1], ["b"]),
        ([10, 9, -1], [1, 0, -1], ["9", "10"]),
        ([2.0, float("nan"), 1.0], [1, -1, 0], ["1", "2"]),
        (np.array([3, 1], np.uint8), [1, 0], ["1", "3"]),
        (np.array([True, False]), [1, 0], ["0", "1"]),
        (np.array([b"x", b"y"]), [0, 1], ["x", "y"]),
        (np.array(["x", "y"], object), [0, 1], ["x", "y"]),
    ],
)
def test_classes_are_numbered_in_their_natural_order(values, numbers, classes):
    labels, names = encode(values)
    assert labels.dtype == np.int64
    assert labels.tolist() == numbers
    assert names == classes


@pytest.mark.parametrize("values", [[None, None], ["", ""], [-1, -1], [float("nan")], []])
def test_none_at_all(values):
    assert encode(values) == (None, None)


@pytest.mark.parametrize("values", [["a", 1], [1, 0.5], [0.5], [(1, 2), (3, 4)], [{"a": 1}]])
def test_what_is_not_a_class(values):
    with pytest.raises(ValueError, match="species: "):
        encode(values, "species")
