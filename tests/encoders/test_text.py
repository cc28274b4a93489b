import pytest
import torch

from counterpoint.encoders import TextTransformer, Tokenizer, build_text_encoder
from counterpoint.encoders.text import Block, mean_over_tokens, text_encoder_of

TEXTS = ["a red apple", "a green apple on a table", "two dogs", "the dog and the apple", "tables, chairs"]


@pytest.fixture
def tokenizer():
    return Tokenizer.train(TEXTS)


def test_texts_come_back_from_their_tokens(tokenizer):
    ids, mask = tokenizer(TEXTS)
    assert tokenizer.decode(ids) == TEXTS
    assert (ids[:, 0] == tokenizer.bos).all()
    assert ((ids == tokenizer.eos).sum(1) == 1).all()
    assert (ids[~mask] == tokenizer.pad).all()
    assert mask.sum(1).max() == ids.shape[1] <= tokenizer.length


def test_an_unknown_letter_a_long_and_an_empty_text(tokenizer):
    ids, mask = tokenizer(["Ω apple", "", "apple " * 100])
    assert ids[0, 1] == tokenizer.unk
    assert mask[1].sum() == 2
    assert mask[2].sum() == tokenizer.length
    assert ids[2, tokenizer.length - 1] == tokenizer.eos
    assert tokenizer.losses(["Ω apple", "apple"]) == (0, pytest.approx(1 / 3))
    assert tokenizer.losses(["apple " * 100, "apple"])[0] == 1


def test_special_tokens_stand_for_themselves():
    tokenizer = Tokenizer.train(TEXTS, special=["<visual>"])
    ids, _ = tokenizer(["<visual> a dog"])
    assert tokenizer.id_of("<visual>") == 5 == ids[0, 1]
    with pytest.raises(ValueError, match="no '<audio>'"):
        tokenizer.id_of("<audio>")


def test_state_makes_the_same_tokenizer(tokenizer):
    again = Tokenizer.from_state(tokenizer.state())
    assert torch.equal(again(TEXTS)[0], tokenizer(TEXTS)[0])
    assert (len(again), again.length) == (len(tokenizer), tokenizer.length)


def test_the_same_texts_make_the_same_vocabulary_each_time():
    """Or a run that is resumed would give its words other numbers than those that its weights know."""
    texts = [f"{a}{b} {b}{a}{c}" for a in ("pe", "to", "qu") for b in ("ra", "ni", "lo") for c in ("s", "x", "ette")]
    states = [Tokenizer.train(texts, vocabulary).state() for vocabulary in (60, 8192) for _ in range(5)]
    assert all(state == states[0] for state in states[:5])
    assert all(state == states[5] for state in states[5:])
    assert len(states[0]["backend"]["model"]["vocab"]) == 60


def test_nothing_to_learn_from():
    with pytest.raises(ValueError, match="texts: there is none"):
        Tokenizer.train(["", " "])


@pytest.mark.parametrize("causal", [False, True])
def test_padding_changes_nothing(causal):
    torch.manual_seed(0)
    model = TextTransformer(50, 12, width=16, depth=2, heads=2, causal=causal).eval()
    ids = torch.randint(5, 50, (1, 5))
    alone = model(ids, torch.ones(1, 5, dtype=torch.bool))
    padded = torch.cat([ids, torch.zeros(1, 4, dtype=torch.int64)], 1)
    mask = torch.arange(9)[None] < 5
    torch.testing.assert_close(model(padded, mask), alone)


def test_a_causal_transformer_sees_the_past_alone():
    torch.manual_seed(0)
    ids, mask = torch.randint(5, 50, (1, 6)), torch.ones(1, 6, dtype=torch.bool)
    other = ids.clone()
    other[0, 4] = 5 if ids[0, 4] != 5 else 6
    for causal in (True, False):
        model = TextTransformer(50, 12, width=16, depth=2, heads=2, causal=causal).eval()
        same = torch.isclose(model.states(ids, mask), model.states(other, mask)).all(2)[0]
        assert same[:4].all() == causal
        assert not same[4:].any()


def test_words_in_another_order_are_another_text():
    torch.manual_seed(0)
    encoder = build_text_encoder("transformer", TEXTS).eval()
    z = encoder(["the dog and the apple", "the apple and the dog"])
    assert not torch.allclose(z[0], z[1], atol=1e-4)


def test_blocks_leave_out_in_training_alone():
    torch.manual_seed(0)
    block, x = Block(16, 2, dropout=0.5, drop_path=0.5), torch.randn(4, 5, 16)
    block.eval()
    assert torch.equal(block(x), block(x))
    block.train()
    assert not torch.equal(block(x), block(x))
    with pytest.raises(ValueError, match="heads: 3 do not divide"):
        Block(16, 3)


def test_an_encoder_takes_texts_tuples_and_tokens():
    torch.manual_seed(0)
    encoder = build_text_encoder("transformer", TEXTS, width=32, depth=1).eval()
    z = encoder(["a red apple", "two dogs"])
    torch.testing.assert_close(encoder([("a red apple", "x"), ("two dogs",)]), z)
    torch.testing.assert_close(encoder(encoder.tokenize(["a red apple", "two dogs"])), z)
    assert encoder([()]).shape == (1, 32)
    assert encoder.tokens(["two dogs"]).shape == (1, 4, 32)
    torch.testing.assert_close(encoder.embed(["a red apple", "two dogs"], 1), z)
    with pytest.raises(ValueError, match="a list of them"):
        encoder("two dogs")
    again = text_encoder_of(encoder.config, encoder.tokenizer)
    again.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(again.eval()(["two dogs"]), z[1:])


def test_a_hugging_face_model_from_a_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    words = Tokenizer.train(TEXTS)
    kept = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words.backend, pad_token="[PAD]", unk_token="[UNK]", bos_token="[BOS]", eos_token="[EOS]"
    )
    kept.save_pretrained(tmp_path)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=40,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(tmp_path)
    encoder = build_text_encoder(f"hf:{tmp_path}").eval()
    assert (encoder.features, encoder.tokenizer.length) == (32, 40)
    z = encoder(TEXTS)
    ids, mask = encoder.tokenize(TEXTS)
    wanted = encoder.backbone.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(z, mean_over_tokens(wanted, mask))
    again = text_encoder_of(encoder.config, Tokenizer.from_state(encoder.tokenizer.state()))
    again.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(again.eval()(TEXTS), z)


def test_a_model_that_is_not_there():
    pytest.importorskip("transformers")
    with pytest.raises(FileNotFoundError, match="no text model 'nobody/nothing'"):
        build_text_encoder("hf:nobody/nothing")
    with pytest.raises(ValueError, match="there are transformer, unimodal and hf:NAME"):
        build_text_encoder("lstm", TEXTS)
    with pytest.raises(ValueError, match="wdith"):
        build_text_encoder("transformer", TEXTS, wdith=3)
