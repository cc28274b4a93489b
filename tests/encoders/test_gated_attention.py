"""Gated cross attention: golden figures of both modes, closed gates, which word sees which picture, refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.encoders import GatedCrossAttention
from counterpoint.encoders.gated_attention import visible_media

GOLDEN = {
    name: torch.from_numpy(np.asarray(value))
    for name, value in np.load(Path(__file__).parents[1] / "golden" / "30-cosmo.npz").items()
}
NAMES = {"attn_gate": "attention_gate", "ff_gate": "feed_forward_gate", "attn.": "", "ff.": "feed_forward."}
close = {"rtol": 1e-7, "atol": 1e-10}


def official(case):
    block = GatedCrossAttention(
        8, 6, heads=2, dim_head=4, only_immediate=case == "gated_immediate",
        compress_ratio=int(GOLDEN[f"{case}.compress_ratio"]), qk_norm=bool(GOLDEN[f"{case}.qk_norm"]),
    ).double()  # fmt: skip
    state = {}
    for name, value in GOLDEN.items():
        if name.startswith(f"{case}.block."):
            own = name[len(f"{case}.block.") :]
            for theirs, ours in NAMES.items():
                if own.startswith(theirs):
                    own = ours + own[len(theirs) :]
                    break
            state[own] = value
    block.load_state_dict(state)
    return block


def made(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small(**options):
    torch.manual_seed(0)
    block = GatedCrossAttention(8, 6, **{"heads": 2, "dim_head": 4, "compress_ratio": 1, **options}).double()
    with torch.no_grad():
        block.attention_gate.fill_(0.8)
    return block


LOCATIONS = torch.tensor([[0, 0, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0, 0]]).bool()
TEXT, MEDIA = made(2, 7, 8), made(2, 3, 4, 6, seed=1)


@pytest.mark.paper(30, "parity")
@pytest.mark.parametrize("case", ["gated_immediate", "gated_all"])
def test_golden(case):
    x, media = (GOLDEN[f"{case}.{name}"].clone().requires_grad_() for name in ("x", "media"))
    locations = GOLDEN[f"{case}.media_locations"]
    y = official(case)(x, media, locations)
    torch.testing.assert_close(y, GOLDEN[f"{case}.y"], **close)
    (y * GOLDEN[f"{case}.w"]).sum().backward()
    torch.testing.assert_close(x.grad, GOLDEN[f"{case}.grad_x"], **close)
    torch.testing.assert_close(media.grad, GOLDEN[f"{case}.grad_media"], **close)
    single = official(case).float()(x.detach().float(), media.detach().float(), locations)
    torch.testing.assert_close(single.double(), y.detach(), rtol=2e-3, atol=1e-5)


def test_closed_gates_change_nothing_and_can_open():
    block = GatedCrossAttention(8, 6, heads=2, dim_head=4).double()
    y = block(TEXT, MEDIA, LOCATIONS)
    assert torch.equal(y, TEXT)
    (y * made(2, 7, 8, seed=2)).sum().backward()
    assert block.attention_gate.grad.abs() > 1e-3
    assert block.feed_forward_gate.grad.abs() > 1e-3
    assert block.to_q.weight.grad.abs().sum() == 0


def test_which_pictures_a_word_may_look_at():
    last = visible_media(LOCATIONS, 3)
    assert last[0].int().tolist() == [[0, 0, 0]] * 2 + [[1, 0, 0]] * 3 + [[0, 1, 0]] * 2
    every = visible_media(LOCATIONS, 3, only_immediate=False)
    assert every[0].int().tolist() == [[0, 0, 0]] * 2 + [[1, 0, 0]] * 3 + [[1, 1, 0]] * 2
    assert every[1].int().tolist() == [[1, 0, 0]] * 7


@pytest.mark.parametrize("immediate", [True, False])
def test_a_word_changes_with_the_pictures_it_sees_and_no_others(immediate):
    block = small(only_immediate=immediate)
    y = block(TEXT, MEDIA, LOCATIONS)
    for picture in range(3):
        media = MEDIA.clone()
        media[:, picture] += made(2, 4, 6, seed=3)
        changed = (block(TEXT, media, LOCATIONS) - y).abs().sum(2) > 1e-9
        assert torch.equal(changed, visible_media(LOCATIONS, 3, immediate)[:, :, picture])


@pytest.mark.parametrize("immediate", [True, False])
def test_words_without_a_picture_get_nothing_from_the_attention(immediate):
    """In the mode of all pictures the official code gives them an even look at every picture, later ones too."""
    block = small(only_immediate=immediate)
    none = torch.zeros_like(LOCATIONS)
    assert torch.equal(block(TEXT, MEDIA, none), TEXT)  # the gate of the feed-forward part is closed
    with torch.no_grad():
        block.feed_forward_gate.fill_(0.5)
    torch.testing.assert_close(
        block(TEXT, MEDIA, none), TEXT + torch.tanh(torch.tensor(0.5)).double() * block.feed_forward(TEXT)
    )
    before = block(TEXT, MEDIA, LOCATIONS)[0, :2]
    torch.testing.assert_close(before, block(TEXT, -MEDIA, LOCATIONS)[0, :2], rtol=0, atol=0)


def test_more_slots_than_pictures_see_nothing_of_those_that_are_missing():
    block, locations = small(), torch.ones(2, 7, dtype=torch.bool)
    y = block(TEXT, MEDIA, locations)
    assert torch.isfinite(y).all()
    assert torch.equal(y[:, 3:], TEXT[:, 3:])


def test_compression_narrows_everything_but_the_heads_and_the_scale():
    wide, narrow = (GatedCrossAttention(16, 6, heads=2, dim_head=8, compress_ratio=r) for r in (1, 4))
    assert (wide.to_q.out_features, narrow.to_q.out_features) == (16, 4)
    assert (wide.feed_forward[1].out_features, narrow.feed_forward[1].out_features) == (64, 16)
    assert wide.scale == narrow.scale == 8**-0.5
    assert wide.heads == narrow.heads == 2


def test_gradients():
    block = small(qk_norm=True, compress_ratio=2)
    h, media = TEXT[:, :4].clone().requires_grad_(), MEDIA[:, :2, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: block(a, b, LOCATIONS[:, :4]), (h, media))


def test_half_precision():
    block = small().to(torch.bfloat16)
    y = block(TEXT.bfloat16(), MEDIA.bfloat16(), LOCATIONS)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), small()(TEXT, MEDIA, LOCATIONS), rtol=0.1, atol=0.1)


def test_what_is_refused():
    block = small()
    for changed, name in (
        ((TEXT[0], MEDIA, LOCATIONS), "h"),
        ((TEXT[:, :, :7], MEDIA, LOCATIONS), "h"),
        ((TEXT, MEDIA[:1], LOCATIONS), "media"),
        ((TEXT, MEDIA[:, :, :, :5], LOCATIONS), "media"),
        ((TEXT, MEDIA[:, :0], LOCATIONS), "media"),
        ((TEXT, MEDIA, LOCATIONS[:, 1:]), "media_locations"),
        ((TEXT, MEDIA, LOCATIONS.long()), "media_locations"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            block(*changed)
    with pytest.raises(ValueError, match=r"^compress_ratio: 8 heads of 4 divided by 3 are 10 dimensions"):
        GatedCrossAttention(8, 6, heads=8, dim_head=4, compress_ratio=3)
    with pytest.raises(ValueError, match=r"^dim_visual: expected at least 1"):
        GatedCrossAttention(8, 0)
