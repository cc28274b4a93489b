"""The resampler and the query pool of CosMo: golden figures, what sees what, masks, refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.encoders import PerceiverAttention, PerceiverResampler, QueryPool

GOLDEN = {
    name: torch.from_numpy(np.asarray(value))
    for name, value in np.load(Path(__file__).parents[1] / "golden" / "30-cosmo.npz").items()
}
close = {"rtol": 1e-7, "atol": 1e-10}
NORMS = {"norm_media": "norm_x", "norm_latents": "norm_queries"}


def renamed(prefix, layout):
    """The official weights under our names."""
    state = {}
    for name, value in GOLDEN.items():
        if name.startswith(prefix):
            own = layout(name[len(prefix) :])
            for theirs, ours in NORMS.items():
                own = own.replace(theirs, ours)
            state[own] = value
    return state


def official_resampler():
    def layout(name):
        for layer in range(2):
            name = name.replace(f"layers.{layer}.0.", f"attentions.{layer}.")
            name = name.replace(f"layers.{layer}.1.", f"feed_forwards.{layer}.")
        return name

    resampler = PerceiverResampler(8, depth=2, num_latents=3, heads=2, dim_head=4, ff_mult=2).double()
    resampler.load_state_dict(renamed("resampler.resampler.", layout))
    return resampler


def official_pool():
    pool = QueryPool(8, heads=2, dim_head=4, ff_mult=2).double()
    state = renamed("contrast.text_attn.", "attention.{}".format)
    state |= renamed("contrast.text_ff.", "feed_forward.{}".format)
    state |= {"norm.weight": GOLDEN["contrast.text_norm.gamma"], "query": GOLDEN["contrast.query"]}
    pool.load_state_dict(state)
    return pool


@pytest.mark.paper(30, "parity")
def test_golden_resampler():
    x = GOLDEN["resampler.x"].clone().requires_grad_()
    y = official_resampler()(x)
    torch.testing.assert_close(y, GOLDEN["resampler.y"], **close)
    (y * GOLDEN["resampler.w"]).sum().backward()
    torch.testing.assert_close(x.grad, GOLDEN["resampler.grad_x"], **close)
    single = official_resampler().float()(x.detach().float())
    torch.testing.assert_close(single.double(), y.detach(), rtol=2e-3, atol=1e-5)


@pytest.mark.paper(30, "parity")
def test_golden_text_vector():
    """Without a mask, as the official code has it."""
    pooled = official_pool()(GOLDEN["contrast.text_hidden"])
    torch.testing.assert_close(pooled, GOLDEN["contrast.text_embed"], **close)


def small(**options):
    torch.manual_seed(0)
    return PerceiverResampler(6, **{"depth": 2, "num_latents": 3, "heads": 2, "dim_head": 4, **options}).double()


def test_without_the_extra_query_there_is_one_token_less():
    x = torch.randn(2, 3, 2, 5, 6, dtype=torch.float64)
    assert small()(x).shape == (2, 3, 4, 6)
    assert small(extra_query=False)(x).shape == (2, 3, 3, 6)


def test_pictures_do_not_see_each_other_and_frames_are_one_sequence():
    resampler, x = small(), torch.randn(2, 3, 2, 5, 6, dtype=torch.float64)
    y = resampler(x)
    torch.testing.assert_close(resampler(x[:, 1:2])[:, 0], y[:, 1])
    frames = x[:, :, [1, 0]]
    torch.testing.assert_close(resampler(frames), y)  # a set of patches, whichever frame has them
    torch.testing.assert_close(resampler(x.reshape(2, 3, 1, 10, 6)), y)
    other = x.clone()
    other[0, 0, 0, 0, 0] += 1
    assert not torch.allclose(resampler(other)[0, 0], y[0, 0])


def test_keys_are_normalised_over_all_heads_together():
    attention = PerceiverAttention(6, heads=2, dim_head=4, qk_norm=True)
    assert attention.q_norm.normalized_shape == attention.k_norm.normalized_shape == (8,)
    x, queries = torch.randn(2, 5, 6), torch.randn(2, 1, 6)
    before = attention(x, queries)
    with torch.no_grad():
        attention.to_q.weight *= 7  # has no effect on what is normalised afterwards
    torch.testing.assert_close(attention(x, queries), before, rtol=1e-4, atol=1e-5)


def test_a_mask_leaves_out_padding_and_without_it_padding_counts():
    pool, hidden = official_pool(), torch.randn(2, 7, 8, dtype=torch.float64)
    mask = torch.ones(2, 7, dtype=torch.bool)
    torch.testing.assert_close(pool(hidden, mask), pool(hidden))
    mask[0, 4:] = False
    torch.testing.assert_close(pool(hidden, mask)[0], pool(hidden[:1, :4])[0])
    changed = hidden.clone()
    changed[0, 4:] = 9
    torch.testing.assert_close(pool(changed, mask), pool(hidden, mask))
    assert not torch.allclose(pool(changed), pool(hidden))


def test_a_text_that_is_all_masked_reads_the_query_alone():
    pool = official_pool()
    hidden = torch.randn(2, 3, 8, dtype=torch.float64)
    found = pool(hidden, torch.zeros(2, 3, dtype=torch.bool))
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[0], found[1])


def test_gradients():
    resampler = small(depth=1, num_latents=2)
    x = torch.randn(1, 1, 1, 3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(resampler, (x,))
    pool = official_pool()
    hidden = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert torch.autograd.gradcheck(lambda h: pool(h, mask), (hidden,))


@pytest.mark.parametrize("shape", [(2, 3, 5, 6), (2, 3, 1, 5, 7), (2, 0, 1, 5, 6), (2, 3, 1, 0, 6)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"^x: expected \(B, T, F, v, 6\), got"):
        small()(torch.randn(shape))


def test_what_the_pool_refuses():
    pool = official_pool()
    with pytest.raises(ValueError, match=r"^hidden: expected \(B, L, 8\), got \(2, 3, 7\)"):
        pool(torch.randn(2, 3, 7))
    with pytest.raises(ValueError, match=r"^mask: expected \(2, 3\) as hidden, got \(2, 4\)"):
        pool(torch.randn(2, 3, 8), torch.ones(2, 4))


@pytest.mark.parametrize("name", ["dim", "depth", "num_latents", "heads", "dim_head", "ff_mult"])
def test_options_are_named(name):
    with pytest.raises(ValueError, match=f"^{name}: expected at least 1, got 0"):
        PerceiverResampler(**{"dim": 6, name: 0})
