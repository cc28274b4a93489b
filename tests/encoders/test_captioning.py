"""The text decoder's two halves: open_clip's figures, who sees whom, padding, the shifted mask, and refusals."""

import pytest
import torch
from tests.encoders.test_poolers import attention_of, golden, put

from counterpoint.encoders import MultimodalDecoder, Tokenizer, UnimodalTextDecoder, build_text_encoder
from counterpoint.encoders.captioning import shifted

MLP = {"norm2": "ln_2", "mlp.0": "mlp.c_fc", "mlp.2": "mlp.c_proj"}
TEXTS = torch.tensor([[3, 5, 4, 0, 0], [3, 6, 7, 8, 4]])
MASK = TEXTS != 0


def text_half(depth=2, seed=0, **options):
    torch.manual_seed(seed)
    made = UnimodalTextDecoder(9, 7, 8, depth, 2, **options).double()
    torch.nn.init.normal_(made.token.weight)  # at 0.02 nothing is far from anything
    return made


def read(half, ids):
    return half.both(ids, ids != 0)


def named(prefix, name, names):
    return {
        f"{name}.{ours}.{each}": golden(f"{prefix}.{theirs}.{each}")
        for ours, theirs in names.items()
        for each in ("weight", "bias")
    }


@pytest.mark.paper(58, "parity")
def test_the_golden_decoder():
    depth, heads, ratio = (int(golden(f"decoder.{name}")) for name in ("layers", "heads", "mlp_ratio"))
    decoder = MultimodalDecoder(9, 8, depth, heads)
    for block in (*decoder.blocks, *decoder.cross):
        block.mlp = torch.nn.Sequential(torch.nn.Linear(8, 8 * ratio), torch.nn.GELU(), torch.nn.Linear(8 * ratio, 8))
    decoder.double()
    weights = named("decoder.decoder", "norm", {"": "ln_final"})
    weights = {name.replace("..", "."): value for name, value in weights.items()}
    for i in range(depth):
        own, cross = f"decoder.decoder.resblocks.{i}", f"decoder.decoder.cross_attn.{i}"
        weights |= named(own, f"blocks.{i}", {"norm1": "ln_1", "out": "attn.out_proj", **MLP})
        weights |= {f"blocks.{i}.qkv.{each}": golden(f"{own}.attn.in_proj_{each}") for each in ("weight", "bias")}
        weights |= named(cross, f"cross.{i}", {"norm1": "ln_1", "context_norm": "ln_1_kv", **MLP})
        weights |= attention_of(f"{cross}.attn.", f"cross.{i}.attention")
    put(decoder, **weights, **{"output.weight": golden("decoder.decoder.text_projection").T})
    text, image = (golden(f"decoder.{name}_tokens").requires_grad_() for name in ("text", "image"))
    logits = decoder(text, image)
    torch.testing.assert_close(logits, golden("decoder.logits"), rtol=1e-9, atol=1e-11)
    (logits * golden("decoder.w")).sum().backward()
    torch.testing.assert_close(text.grad, golden("decoder.grad_text_tokens"), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(image.grad, golden("decoder.grad_image_tokens"), rtol=1e-9, atol=1e-11)


def test_padding_changes_neither_the_vector_nor_the_states():
    half = text_half()
    vector, states = read(half, TEXTS)
    torch.testing.assert_close(half(TEXTS, MASK), vector)
    torch.testing.assert_close(half.states(TEXTS, MASK), states)
    for row, length in ((0, 3), (1, 5)):
        alone, own = read(half, TEXTS[row : row + 1, :length])
        torch.testing.assert_close(alone, vector[row : row + 1])
        torch.testing.assert_close(own, states[row : row + 1, :length])
    longer = torch.cat([TEXTS, torch.zeros(2, 2, dtype=torch.int64)], 1)
    torch.testing.assert_close(read(half, longer)[0], vector)


def test_the_states_have_not_seen_the_token_at_the_end():
    half = text_half()
    vector, states = read(half, TEXTS)
    (grad,) = torch.autograd.grad(states.square().sum(), half.last, allow_unused=True)
    assert grad is None or not grad.any()
    vector, _ = read(half, TEXTS)
    assert torch.autograd.grad(vector.square().sum(), half.last)[0].abs().max() > 0


def test_it_is_causal_and_the_vector_sees_all():
    half, changed = text_half(), TEXTS.clone()
    changed[1, 3] = 1
    (vector, states), (other, moved) = read(half, TEXTS), read(half, changed)
    torch.testing.assert_close(moved[:, :3], states[:, :3])
    assert not torch.allclose(moved[1, 3:], states[1, 3:])
    assert not torch.allclose(other[1], vector[1])
    torch.testing.assert_close(other[0], vector[0])


@pytest.mark.parametrize("compat", [None, "open_clip"])
def test_what_the_token_at_the_end_sees(compat):
    """The shifted mask lets it see the first place of padding, and itself only behind a text that has none."""
    half = text_half(depth=1, compat=compat)
    vector, _ = read(half, TEXTS[:1])
    vector.square().sum().backward()
    seen = half.position.grad[:5].abs().sum(1) > 0
    assert seen.tolist() == [True, True, True, compat is not None, False]
    without = text_half(depth=1, compat=compat)
    block, value = without.blocks[0], []
    block.qkv.register_forward_hook(lambda module, given, out: value.append(out.retain_grad() or out))
    read(without, TEXTS[:1])[0].square().sum().backward()
    of_values = value[0].grad[0, :, 16:].abs().sum(1) > 0  # whose values are read by the one at the end
    assert of_values.tolist() == [True, True, True, compat is not None, False, compat is None]


def test_the_shifted_mask_is_right_where_nothing_is_padded():
    right, wrong = text_half(), text_half(compat="open_clip")
    torch.testing.assert_close(read(wrong, TEXTS[1:])[0], read(right, TEXTS[1:])[0])
    assert not torch.allclose(read(wrong, TEXTS[:1])[0], read(right, TEXTS[:1])[0])
    torch.testing.assert_close(read(wrong, TEXTS)[1][MASK], read(right, TEXTS)[1][MASK])


@pytest.mark.parametrize("compat", [None, "open_clip"])
def test_padding_alone_is_finite(compat):
    half = text_half(compat=compat)
    vector, states = read(half, torch.zeros(2, 4, dtype=torch.int64))
    (vector.sum() + states.sum()).backward()
    assert torch.isfinite(vector).all()
    assert all(torch.isfinite(p.grad).all() for p in half.parameters() if p.grad is not None)


def test_the_second_half_is_causal_and_sees_the_image():
    torch.manual_seed(0)
    decoder = MultimodalDecoder(9, 8, 2, 2, context_dim=6).double()
    states, image = torch.randn(2, 4, 8, dtype=torch.float64), torch.randn(2, 3, 6, dtype=torch.float64)
    logits, changed = decoder(states, image), states.clone()
    assert logits.shape == (2, 4, 9)
    changed[:, 2] = 0
    torch.testing.assert_close(decoder(changed, image)[:, :2], logits[:, :2])
    assert not torch.allclose(decoder(changed, image)[:, 3], logits[:, 3])
    assert not torch.allclose(decoder(states, image.flip(0)), logits)
    torch.testing.assert_close(decoder.output(decoder.hidden(states, image)), logits)


def test_it_is_an_encoder_of_texts_by_name():
    texts = ["a red dog", "two cats"]
    tokenizer = Tokenizer.train(texts)
    encoder = build_text_encoder("unimodal", tokenizer=tokenizer, width=8, depth=1, heads=2, compat="open_clip")
    assert isinstance(encoder.backbone, UnimodalTextDecoder)
    assert encoder.backbone.compat == "open_clip"
    ids, mask = encoder.tokenize(texts)
    torch.testing.assert_close(encoder(texts), encoder.backbone.both(ids, mask)[0])
    torch.testing.assert_close(encoder.tokens(texts), encoder.backbone.both(ids, mask)[1])
    with pytest.raises(ValueError, match=r"^encoders: the transformer of texts"):
        build_text_encoder("transformer", tokenizer=tokenizer, compat="open_clip")


def test_texts_are_shifted_once():
    inputs, labels = shifted(TEXTS)
    assert inputs.tolist() == [[3, 5, 4, 0], [3, 6, 7, 8]]
    assert labels.tolist() == [[5, 4, 0, 0], [6, 7, 8, 4]]


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: UnimodalTextDecoder(9, 7, 8, 1, 2, compat="official"), "compat"),
        (lambda: UnimodalTextDecoder(9, 7, 8, 1, 3), "heads"),
        (lambda: read(text_half(), torch.ones(1, 8, dtype=torch.int64)), "ids"),
        (lambda: MultimodalDecoder(9, 8, 1, 3), "heads"),
        (lambda: MultimodalDecoder(9, 8, 1, 2)(torch.randn(2, 3, 8), torch.randn(1, 3, 8)), "states, image_tokens"),
        (lambda: MultimodalDecoder(9, 8, 1, 2)(torch.randn(2, 8), torch.randn(2, 3, 8)), "states, image_tokens"),
        (lambda: shifted(torch.zeros(2, 1, dtype=torch.int64)), "ids"),
    ],
)
def test_refusals(make, argument):
    with pytest.raises(ValueError, match=f"^{argument}: "):
        make()
