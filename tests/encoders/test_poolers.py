"""Attentional poolers: open_clip's and lucidrains' figures, what is read by whom, and refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.encoders import AttentionalPooler, CascadePooler, build, load, pool

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "58-coca.npz")
LAYOUTS = ("cascade", "parallel", "shared")


def golden(name):
    return torch.from_numpy(GOLDEN[name])


def put(module, **values):
    """Parameters by name; all of them."""
    module.load_state_dict(values)
    return module


def attention_of(prefix, name):
    """The weights of torch's nn.MultiheadAttention under ours' names, fused or not."""
    if f"{prefix}in_proj_weight" in GOLDEN:
        q, k, v = golden(f"{prefix}in_proj_weight").chunk(3)
    else:
        q, k, v = (golden(f"{prefix}{each}_proj_weight") for each in "qkv")
    bq, bk, bv = golden(f"{prefix}in_proj_bias").chunk(3)
    made = {"query.weight": q, "key.weight": k, "value.weight": v, "query.bias": bq, "key.bias": bk, "value.bias": bv}
    made |= {f"out.{each}": golden(f"{prefix}out_proj.{each}") for each in ("weight", "bias")}
    return {f"{name}.{key}": value for key, value in made.items()}


@pytest.mark.paper(58, "parity")
def test_the_golden_pooler():
    pooler = put(
        AttentionalPooler(8, 6, int(golden("pooler.heads")), int(golden("pooler.queries"))).double(),
        queries=golden("pooler.pooler.query"),
        **{f"query_norm.{each}": golden(f"pooler.pooler.ln_q.{each}") for each in ("weight", "bias")},
        **{f"norm.{each}": golden(f"pooler.pooler.ln_k.{each}") for each in ("weight", "bias")},
        **attention_of("pooler.pooler.attn.", "attention"),
    )
    x = golden("pooler.x").requires_grad_()
    y = pooler(x)
    torch.testing.assert_close(y, golden("pooler.y"), rtol=1e-9, atol=1e-11)
    (y * golden("pooler.w")).sum().backward()
    torch.testing.assert_close(x.grad, golden("pooler.grad_x"), rtol=1e-9, atol=1e-11)


@pytest.mark.paper(58, "parity")
def test_one_pooler_for_both_is_that_of_the_other_re_implementation():
    """Its heads share their keys and values, which is every head having the same; it has no biases."""
    weight = {key.removeprefix("whole.coca."): golden(key) for key in GOLDEN if key.startswith("whole.coca.img")}
    heads = int(golden("whole.heads"))
    key, value = (part.repeat(heads, 1) for part in weight["img_attn_pool.to_kv.weight"].chunk(2))
    none = torch.zeros(8, dtype=torch.float64)
    pooler = CascadePooler(8, 6, heads, len(weight["img_queries"]) - 1, layout="shared").double()
    behind = weight["img_attn_pool_norm.gamma"]
    put(
        pooler,
        **{"generative.queries": weight["img_queries"]},
        **{"generative.query_norm.weight": weight["img_attn_pool.norm.gamma"], "generative.query_norm.bias": none},
        **{"generative.norm.weight": weight["img_attn_pool.context_norm.gamma"], "generative.norm.bias": none[:6]},
        **{f"generative.attention.{name}.bias": none for name in ("query", "key", "value", "out")},
        **{"generative.attention.query.weight": weight["img_attn_pool.to_q.weight"]},
        **{"generative.attention.key.weight": key, "generative.attention.value.weight": value},
        **{"generative.attention.out.weight": weight["img_attn_pool.to_out.weight"]},
        **{
            "vector_norm.weight": behind,
            "vector_norm.bias": none,
            "token_norm.weight": behind,
            "token_norm.bias": none,
        },
    )
    found = pooler(golden("whole.image_tokens"))
    torch.testing.assert_close(found.vector, golden("whole.image_embed"), rtol=1e-9, atol=1e-11)
    assert found.tokens.shape == (3, 3, 8)
    latent = torch.nn.functional.normalize(found.vector @ weight["img_to_latents.to_latents.weight"].T, dim=1)
    torch.testing.assert_close(latent, golden("whole.image_latent"), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_order_of_tokens_does_not_matter_and_masked_ones_do_not_count(layout):
    torch.manual_seed(0)
    pooler = CascadePooler(8, 6, 2, 3, layout).double()
    tokens = torch.randn(2, 5, 6, dtype=torch.float64)
    expected = pooler(tokens)
    assert expected.vector.shape == (2, 8)
    assert expected.tokens.shape == (2, 3, 8)
    torch.testing.assert_close(pooler(tokens[:, torch.tensor([3, 0, 4, 1, 2])]), expected)
    longer = torch.cat([tokens, torch.full((2, 2, 6), 1e3, dtype=torch.float64)], 1)
    mask = torch.arange(7).expand(2, -1) < 5
    torch.testing.assert_close(pooler(longer, mask), expected)
    assert not torch.allclose(pooler(longer).vector, expected.vector)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_who_reads_whom(layout):
    torch.manual_seed(0)
    pooler = CascadePooler(8, 6, 2, 3, layout)
    found = pooler(torch.randn(2, 5, 6))
    (seen,) = torch.autograd.grad(
        found.vector.square().sum(), pooler.generative.queries, allow_unused=True, retain_graph=True
    )
    used = [False] * (3 + (layout == "shared")) if seen is None else (seen.abs().sum(1) > 1e-7).tolist()
    assert used == {"cascade": [True] * 3, "parallel": [False] * 3, "shared": [True, False, False, False]}[layout]
    (seen,) = torch.autograd.grad(found.tokens.square().sum(), pooler.generative.queries)
    assert (seen.abs().sum(1) > 0).sum() == 3


def test_a_pooled_encoder_is_an_encoder(tmp_path):
    torch.manual_seed(0)
    inner = build("convnet", (1, 8, 16), mean=[0.3], std=[0.2], widths=(8, 12))
    encoder = pool(inner, width=16, n_queries=3).eval()
    x = torch.rand(2, 1, 8, 16)
    found = encoder.backbone.pooled(x)
    torch.testing.assert_close(encoder(x), found.vector)
    torch.testing.assert_close(encoder.tokens(x), found.tokens)
    assert encoder.features == 16
    assert found.tokens.shape == (2, 3, 16)
    torch.testing.assert_close(found, encoder.backbone.pooler(inner.tokens(x)))  # standardised once
    torch.testing.assert_close(load(encoder.save(tmp_path))(x), encoder(x))
    made = build("pooled", (1, 8, 16), mean=[0.3], std=[0.2], of={"name": "convnet", "arguments": {"widths": [8, 12]}})
    assert made.features == 12
    assert made.backbone.pooler.generative.attention.heads == 4  # of 12
    assert made.backbone.encoder.mean.item() == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: AttentionalPooler(8, heads=3), "heads"),
        (lambda: AttentionalPooler(8, heads=0), "heads"),
        (lambda: AttentionalPooler(8, heads=2, n_queries=0), "n_queries"),
        (lambda: CascadePooler(8, heads=2, layout="serial"), "layout"),
        (lambda: pool(build("mlp", (4,))), "encoder"),
        (lambda: build("pooled", (1, 8, 8), of=3), "of"),
        (lambda: AttentionalPooler(8, 6, 2)(torch.randn(2, 5, 8)), "tokens"),
        (lambda: AttentionalPooler(8, 6, 2)(torch.randn(2, 6)), "tokens"),
        (lambda: AttentionalPooler(8, 6, 2)(torch.randn(2, 0, 6)), "tokens"),
        (lambda: AttentionalPooler(8, 6, 2)(torch.randn(2, 5, 6), torch.ones(2, 4).bool()), "mask"),
        (lambda: AttentionalPooler(8, 6, 2)(torch.randn(2, 5, 6), torch.tensor([[True] * 5, [False] * 5])), "mask"),
    ],
)
def test_refusals(make, argument):
    with pytest.raises(ValueError, match=f"^{argument}: expected"):
        make()


def test_frames_of_a_clip_are_pooled_together():
    torch.manual_seed(0)
    backbone = pool(build("convnet", (1, 8, 8), widths=(8,)), n_queries=3).eval().backbone
    frames = torch.rand(2, 3, 1, 8, 8)
    one = backbone.pooled(frames[:, :1])
    torch.testing.assert_close(one.tokens, backbone.pooled(frames[:, 0]).tokens)
    clip = backbone.pooled(frames)
    assert clip.tokens.shape == one.tokens.shape
    assert not torch.allclose(clip.vector, one.vector)
    torch.testing.assert_close(backbone.pooled(frames[:, [2, 0, 1]]).vector, clip.vector)
