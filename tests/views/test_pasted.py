"""Taking a pasted patch off again: exactly, with the right probability, by a draw for each image and each view."""

import numpy as np
import pytest
import torch

from counterpoint.data import paste
from counterpoint.views import drop_pasted


def pair(batch=64, strength=0.7, seed=0):
    rng = np.random.default_rng(seed)
    backgrounds = rng.integers(0, 256, (batch, 3, 12, 12), dtype=np.uint8)
    patches = rng.integers(0, 256, (batch, 6, 6), dtype=np.uint8)
    return torch.from_numpy(paste(backgrounds, patches, strength)), torch.from_numpy(backgrounds)


def seeded(number):
    return torch.Generator().manual_seed(number)


@pytest.mark.parametrize("strength", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("as_float", [False, True])
def test_what_is_dropped_is_the_background_bit_for_bit_and_the_rest_stays(strength, as_float):
    x, background = pair(strength=strength)
    if as_float:
        x, background = x.float() / 255, background.float() / 255
    before = x.clone()
    got = drop_pasted(x, background, 0.5, seeded(0))
    assert got.dtype == x.dtype
    gone = (got == background).flatten(1).all(1)
    assert 0 < gone.sum() < len(x)
    assert torch.equal(got[~gone], x[~gone])
    assert torch.equal(x, before)


def test_never_at_0_and_always_at_1():
    x, background = pair()
    for seed in range(20):
        assert torch.equal(drop_pasted(x, background, 0.0, seeded(seed)), x)
        assert torch.equal(drop_pasted(x, background, 1.0, seeded(seed)), background)


def test_three_of_four_by_default_and_two_views_are_drawn_apart():
    x, background = pair(batch=4000)
    generator = seeded(0)
    kept = [(drop_pasted(x, background, generator=generator) == x).flatten(1).all(1) for _ in range(2)]
    for view in kept:
        assert 0.22 < view.float().mean() < 0.28
    assert 0.045 < (kept[0] & kept[1]).float().mean() < 0.08  # 1/16, where one draw for both would give 1/4


def test_a_seed_repeats_the_draw_with_a_generator_or_without():
    x, background = pair()
    first = drop_pasted(x, background, 0.5, seeded(3))
    assert torch.equal(first, drop_pasted(x, background, 0.5, seeded(3)))
    assert not torch.equal(first, drop_pasted(x, background, 0.5, seeded(4)))
    torch.manual_seed(3)
    assert torch.equal(first, drop_pasted(x, background, 0.5))


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan"), True, "often"])
def test_what_is_no_probability_is_refused(p):
    with pytest.raises(ValueError, match=r"^p: expected a probability between 0 and 1"):
        drop_pasted(*pair(4), p)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, b: (x, b[:-1]), "background: expected the shape and type of x"),
        (lambda x, b: (x, b[:, :1]), "background: expected the shape and type of x"),
        (lambda x, b: (x.float() / 255, b), "background: expected the shape and type of x.*float32.*uint8"),
        (lambda x, b: (x[0], b[0]), r"x: expected a torch.Tensor \(B, C, H, W\), got \(3, 12, 12\)"),
        (lambda x, b: (x, b.numpy()), "background: expected a torch.Tensor .*, got ndarray"),
    ],
)
def test_tensors_that_do_not_belong_together_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        drop_pasted(*change(*pair(4)))
