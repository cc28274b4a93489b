"""Arithmetic with pictures and words: spaces where it works by construction, the equation, what is refused."""

import numpy as np
import pytest
import torch

from counterpoint.evaluation import arithmetic

THINGS, COLOURS = 3, 4  # of each pair of them two pictures


def world(seed=0, noise=0.0):
    """Pictures that are a thing plus a colour, a direction for each colour, and every change of a colour."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(12, THINGS + COLOURS)))[0].T
    things, colours = directions[:THINGS], directions[THINGS:]
    which = np.array([(t, c) for t in range(THINGS) for c in range(COLOURS) for _ in range(2)])
    images = things[which[:, 0]] + colours[which[:, 1]] + noise * rng.normal(size=(len(which), 12))
    asked = [(row, c) for row in range(len(which)) for c in range(COLOURS) if c != which[row, 1]]
    rows, after = np.array(asked).T
    contents = which @ [COLOURS, 1]
    wanted = which[rows, 0] * COLOURS + after
    return images, colours[which[rows, 1]], colours[after], rows, contents, wanted


def test_a_space_that_adds_is_right_and_blind_it_is_not():
    images, before, after, rows, contents, wanted = world()
    found = arithmetic(images, before, after, rows, contents, wanted)
    assert found.scores["arithmetic"] == 1
    assert found.scores["arithmetic_blind"] == 0  # the other picture of the same caption is nearest
    assert found.nearest.shape == (len(rows), 5)
    assert (contents[found.nearest[:, :2]] == wanted[:, None]).all()  # both pictures of the caption asked for
    assert not (found.nearest == rows[:, None]).any()
    backwards = arithmetic(images, after, before, rows, contents, wanted)
    assert backwards.scores["arithmetic"] < 0.1


def test_it_is_the_equation():
    images, before, after, rows, contents, wanted = world(noise=0.6)
    before, after = before + 0.3, after * 7
    x, b, a = (torch.nn.functional.normalize(torch.from_numpy(z), dim=1) for z in (images, before, after))
    for scale in (0.4, 1.0):
        right = []
        for m, row in enumerate(rows):
            cosines = torch.cosine_similarity(x, (x[row] + scale * (a[m] - b[m]))[None])
            cosines[row] = -2
            right.append(bool(contents[cosines.argmax()] == wanted[m]))
        found = arithmetic(images, before, after, rows, contents, wanted, scale=scale)
        assert found.right.tolist() == right
    assert 0 < np.mean(right) < 1


def test_images_count_alike_however_many_questions_each_has():
    images, before, after, rows, contents, wanted = world()
    keep = np.flatnonzero((rows > 0) | (np.arange(len(rows)) == 0))  # one question of the first image
    wanted = np.where(rows == 0, -1, wanted)  # which is answered wrongly
    found = arithmetic(images, before[keep], after[keep], rows[keep], contents, wanted[keep])
    assert found.scores["arithmetic"] == pytest.approx(1 - 1 / len(images))
    item = found.per_item(len(images) + 1)
    assert item[0] == 0
    assert (item[1:-1] == 1).all()
    assert np.isnan(item[-1])


def test_lengths_do_not_count_and_zeros_are_allowed():
    images, before, after, rows, contents, wanted = world(noise=0.3)
    expected = arithmetic(images, before, after, rows, contents, wanted).nearest
    found = arithmetic(images * 1e30, before * 1e-30, after, rows, contents, wanted).nearest
    assert (found == expected).all()
    nothing = arithmetic(images * 0, before * 0, after * 0, rows, contents, wanted)
    assert all(np.isfinite(value) for value in nothing.scores.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.ones((1, 12))}, "images: expected at least 2"),
        ({"images": np.full((24, 12), np.nan)}, "images: 288 of 288 values are NaN"),
        ({"before": np.zeros((0, 12))}, "before: expected at least one question"),
        ({"after": np.ones((3, 12))}, r"after: expected \(72, 12\)"),
        ({"rows": np.full(72, 24)}, "rows: expected integers from 0 to 23"),
        ({"rows": np.ones(72)}, "rows: expected 72 integers"),
        ({"contents": np.zeros(3, int)}, "contents: expected 24 integers"),
        ({"wanted": np.zeros(3, int)}, "wanted: expected 72 integers"),
    ],
)
def test_refusals(change, message):
    names = ("images", "before", "after", "rows", "contents", "wanted")
    with pytest.raises(ValueError, match=f"^{message}"):
        arithmetic(**{**dict(zip(names, world(), strict=True)), **change})
