"""CosMo's model: a language model left as it was, who sees what, whence vectors come, writing, saving, refusals."""

import json

import pytest
import torch

from counterpoint.encoders import MultimodalEncoder, Tokenizer, build, build_text_encoder, load
from counterpoint.encoders.causal import blocks_of
from counterpoint.encoders.cosmo import CosMoEncoder
from counterpoint.encoders.interleaved import END_OF_CHUNK, VISUAL, few_shot, plain_text

TEXTS = ["a photo of a seven", "a photo of a two", "one", "nine on the left and four on the right"]


def towers(depth=4, **text):
    torch.manual_seed(0)
    reader = build_text_encoder("transformer", TEXTS, width=16, depth=depth, heads=2, **text)
    return MultimodalEncoder({"image": build("convnet", (1, 8, 8), widths=[8, 16]), "text": reader})


def make(encoder=None, **options):
    encoder = encoder or towers()
    torch.manual_seed(1)
    made = CosMoEncoder(encoder, **{"length": 40, "num_latents": 3, "heads": 2, "dim_head": 8, **options})
    made.attach(6)
    torch.manual_seed(2)
    return made.eval()


def open_gates(encoder):
    with torch.no_grad():
        for gated in encoder.language.gated.values():
            gated.attention_gate.fill_(1.0)
    return encoder


def pictures(*shape, seed=0):
    return torch.rand(*shape, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def run(encoder, texts, seen):
    documents = encoder.language.documents(texts)
    return documents, encoder.read_and_write(documents, seen)


def test_gated_blocks_stand_before_every_second_of_the_later_ones():
    assert list(make(towers(6)).language.gated) == ["3", "5"]
    assert list(make(towers(6), interval=1, unimodal_depth=2).language.gated) == ["2", "3", "4", "5"]
    assert list(make(towers(2)).language.gated) == ["1"]


def test_at_first_the_language_model_is_as_it_was():
    encoder = make()
    documents, found = run(encoder, [f"{VISUAL} {text}" for text in TEXTS], pictures(4, 1))
    ids, mask = documents.input_ids, documents.attention_mask
    states = encoder.language.encoder.backbone.states(ids, mask)
    torch.testing.assert_close(found["logits"], states @ encoder.language.encoder.backbone.token.weight.T)
    alone, _ = encoder.language.write(ids, mask)
    torch.testing.assert_close(alone, found["logits"])
    open_gates(encoder)
    again = encoder.read_and_write(documents, pictures(4, 1))
    assert not torch.allclose(again["logits"], found["logits"])
    torch.testing.assert_close(again["text"], found["text"])  # the half that reads text alone


def test_words_see_the_picture_before_them_alone():
    encoder = open_gates(make())
    texts, seen = [f"one {VISUAL} a photo {VISUAL} two"], pictures(1, 2)
    documents, found = run(encoder, texts, seen)
    first, second = documents.media_locations[0].nonzero()[:, 0].tolist()
    other = seen.clone()
    other[0, 1] = pictures(1, seed=5)[0]
    changed = (encoder.read_and_write(documents, other)["logits"] - found["logits"]).abs().sum(2)[0] > 1e-6
    assert not changed[:second].any()
    assert changed[second:].all()
    other = seen.clone()
    other[0, 0] = pictures(1, seed=6)[0]
    changed = (encoder.read_and_write(documents, other)["logits"] - found["logits"]).abs().sum(2)[0] > 1e-6
    assert not changed[:first].any()
    assert changed[first:].all()  # those after the second by way of the words between


def test_a_document_without_a_picture_is_text():
    encoder = open_gates(make())
    documents = encoder.language.documents(["a photo of a two"])
    found = encoder.read_and_write(documents, pictures(1, 1))
    alone, _ = encoder.language.write(documents.input_ids, documents.attention_mask)
    torch.testing.assert_close(found["logits"], alone)
    assert (found["image"] == 0).all()


def test_vectors_are_those_of_the_towers():
    encoder, seen = open_gates(make()), pictures(4)
    _, found = run(encoder, [f"{VISUAL} {text}" for text in TEXTS], seen[:, None])
    z = encoder({"image": seen, "text": TEXTS})
    torch.testing.assert_close(z["image"], found["image"])
    torch.testing.assert_close(z["text"], found["text"])
    torch.testing.assert_close(encoder({"text": TEXTS[2:3]})["text"], z["text"][2:3])  # padding changes nothing
    torch.testing.assert_close(encoder({"text": [(TEXTS[2], "x")]})["text"], z["text"][2:3])
    torch.testing.assert_close(
        encoder({"image": (seen * 255).round().byte()})["image"], z["image"], atol=0.05, rtol=0.1
    )


def test_the_image_vector_is_the_mean_of_the_pictures_that_are_there():
    encoder, seen = make(), pictures(1, 3)
    each = encoder.seeing.head(encoder.seeing.features(seen[0]))
    for count in (1, 2, 3):
        text = " ".join([f"{VISUAL} one"] * count)
        _, found = run(encoder, [text], seen)
        torch.testing.assert_close(found["image"][0], each[:count].mean(0))


def test_pictures_that_are_not_there_move_no_running_statistics():
    encoder = make().train()
    there = torch.tensor([[True, False], [True, True]])
    seen = pictures(2, 2)
    other = seen.clone()
    other[0, 1] = 100.0
    states = []
    for given in (seen, other):
        fresh = make().train()
        tokens = fresh.seeing.read(given, there)
        assert (tokens[0, 1] == 0).all()
        states.append(fresh.seeing.encoder.backbone.state_dict())
    for name in states[0]:
        torch.testing.assert_close(states[0][name], states[1][name])
    assert encoder.seeing.read(seen, torch.zeros_like(there)).shape == (2, 2, 4, 16)


def test_frames_of_a_clip_are_read_together():
    encoder = make()
    clips = pictures(2, 1, 3)
    assert encoder.seeing.read(clips).shape == (2, 1, 4, 16)
    assert not torch.allclose(encoder.seeing.read(clips), encoder.seeing.read(clips[:, :, 0]))
    torch.testing.assert_close(encoder.seeing.read(clips[:, :, :1]), encoder.seeing.read(clips[:, :, 0]))


def test_the_text_vector_comes_from_the_last_block_of_the_first_half():
    """The official code takes one block less, and reads padding."""
    encoder, official = make(unimodal_depth=3), make(unimodal_depth=3, compat="official")
    documents = encoder.language.documents([f"{VISUAL} {text}" for text in TEXTS])
    ids, mask = documents.input_ids, documents.attention_mask
    backbone = encoder.language.encoder.backbone
    x = backbone.token(ids) + backbone.position[: ids.shape[1]]
    states = [x]
    for block in backbone.blocks:
        states.append(block(states[-1], mask))
    torch.testing.assert_close(encoder.language.hidden(ids, mask), states[3])
    torch.testing.assert_close(official.language.hidden(ids, mask), states[2])
    torch.testing.assert_close(official.language.write(ids, mask)[1], states[2])
    z = [model({"text": TEXTS})["text"][2] for model in (encoder, official)]
    alone = [model({"text": TEXTS[2:3]})["text"][0] for model in (encoder, official)]
    torch.testing.assert_close(z[0], alone[0])
    assert not torch.allclose(z[1], alone[1])


def test_hooks_leave_nothing_behind():
    encoder = make()
    run(encoder, [f"{VISUAL} one"], pictures(1, 1))
    encoder({"text": TEXTS})
    with pytest.raises(ValueError, match="media"):
        encoder.language.write(*encoder.language.documents(["one"])[:2], torch.zeros(1, 2, 3))
    assert all(not block._forward_pre_hooks for block in blocks_of(encoder.language.encoder.backbone))


def test_a_new_language_model_is_made_causal_and_keeps_its_weights():
    given = towers()
    before = {name: x.clone() for name, x in given.towers["text"].encoder.backbone.state_dict().items()}
    tokenizer = given.towers["text"].encoder.tokenizer
    encoder = make(given)
    reader = encoder.language.encoder
    assert reader.backbone.causal
    assert all(block.causal for block in reader.backbone.blocks)
    assert reader.tokenizer is not tokenizer
    assert tokenizer.backend.token_to_id(VISUAL) is None
    assert len(reader.backbone.token.weight) == len(reader.tokenizer) == len(tokenizer) + 2
    assert len(reader.backbone.position) == 40
    for name, x in before.items():
        torch.testing.assert_close(reader.backbone.state_dict()[name][: len(x)], x)
    ids, mask = encoder.language.documents([f"{VISUAL} a photo of a two"])[:2]
    other = ids.clone()
    other[0, -1] = 7
    one, two = (encoder.language.write(x, mask)[0] for x in (ids, other))
    torch.testing.assert_close(one[:, :-1], two[:, :-1])


def test_it_is_saved_and_opened(tmp_path):
    encoder, seen = (
        open_gates(make(compress_ratio=1, qk_norm=True, only_immediate=False, unimodal_depth=1)),
        pictures(3),
    )
    encoder.save(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    assert told["model"]["name"] == "cosmo"
    again = load(tmp_path)
    assert isinstance(again, CosMoEncoder)
    for name, z in encoder({"image": seen, "text": TEXTS[:3]}).items():
        torch.testing.assert_close(again({"image": seen, "text": TEXTS[:3]})[name], z)
    assert again.generate(seen, length=5) == encoder.generate(seen, length=5)
    told["model"]["name"] = "os"
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match="'os' is not known"):
        load(tmp_path)


def taught():
    """A model that has learned which of four texts to write about which of four pictures."""
    encoder, seen = open_gates(make()).train(), torch.zeros(4, 1, 8, 8)
    for at in range(4):
        seen[at, 0, (at // 2) * 4 : (at // 2) * 4 + 4, (at % 2) * 4 : (at % 2) * 4 + 4] = 1
    optimizer = torch.optim.AdamW(encoder.parameters(), 1e-2)
    documents = encoder.language.documents([f"{VISUAL} {text}" for text in TEXTS])
    for _ in range(150):
        logits = encoder.read_and_write(documents, seen[:, None])["logits"]
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), documents.labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return encoder.eval(), seen


def test_writing():
    encoder, seen = taught()
    assert encoder.generate(seen) == TEXTS
    assert encoder.generate(seen[[2, 0]], strategy="beam", beams=2) == [TEXTS[2], TEXTS[0]]
    assert encoder.generate(seen, strategy="sample", top_k=1, batch_size=3) == TEXTS
    assert encoder.generate(seen[:2], ["<visual> a photo", "<visual> a"]) == [
        x.split(" ", n)[-1] for x, n in zip(TEXTS[:2], (2, 1), strict=True)
    ]
    assert encoder.generate(seen[:1], length=2) == ["a photo"]
    assert not encoder.training
    with_context = encoder.generate(torch.stack([seen[:2], seen[2:]], 1), [few_shot([TEXTS[0]]), VISUAL])
    assert with_context[1] == TEXTS[1]  # a shorter prompt beside a longer one, and a picture that is not asked for
    alone = encoder.generate(torch.stack([seen[:1], seen[2:3]], 1), [few_shot([TEXTS[0]])])
    assert with_context[0] == alone[0]


def test_what_cannot_be_written():
    encoder = make()
    with pytest.raises(ValueError, match=r"^prompts: expected 2 as there are pictures, got 1"):
        encoder.generate(pictures(2), [VISUAL])
    with pytest.raises(ValueError, match=r"^prompts: one of them has 2 pictures, and 1 are given"):
        encoder.generate(pictures(1), [few_shot(["one"])])
    with pytest.raises(ValueError, match=r"^length: 39 tokens find no place behind a prompt of 2; the model has 40"):
        encoder.generate(pictures(1), length=39)
    with pytest.raises(ValueError, match=r"^pictures: expected \(B, T, C, H, W\)"):
        encoder.seeing.read(pictures(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unimodal_depth": 4}, r"^unimodal_depth: expected 1 to 3 of the 4 blocks"),
        ({"unimodal_depth": 0}, r"^unimodal_depth: expected"),
        ({"interval": 0}, r"^interval: expected at least 1"),
        ({"compat": "paper"}, r"^compat: expected 'official'"),
        ({"length": 10}, r"^length: 3 pictures need 11 tokens"),
        ({"compress_ratio": 3}, r"^compress_ratio: "),
        ({"num_latents": 0}, r"^num_latents: expected at least 1"),
    ],
)
def test_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_a_single_block_and_missing_kinds_are_refused():
    with pytest.raises(ValueError, match=r"^depth: expected a language model of at least 2 blocks"):
        make(towers(1))
    only = MultimodalEncoder({"left": build("mlp", (4,)), "text": towers().towers["text"].encoder})
    with pytest.raises(ValueError, match="needs one of kind 'image'"):
        make(only)


def test_a_caption_may_not_bring_pictures_of_its_own():
    assert plain_text(f"a {VISUAL} b {END_OF_CHUNK}") == "a   b"
    assert plain_text(("first", "second")) == "first"
    assert plain_text(()) == ""


def hugging_face(folder, kind="GPT2", **options):
    transformers = pytest.importorskip("transformers")
    words = Tokenizer.train(TEXTS)
    kept = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words.backend, pad_token="[PAD]", unk_token="[UNK]", bos_token="[BOS]", eos_token="[EOS]"
    )
    kept.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {
        "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48},
        "OPT": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 32,
                "max_position_embeddings": 48, "word_embed_proj_dim": 16},
        "Llama": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
                  "max_position_embeddings": 48, "tie_word_embeddings": True},
        "Bert": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
                 "max_position_embeddings": 48},
    }[kind]  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(words), **{**sizes, **options})
    getattr(transformers, "BertModel" if kind == "Bert" else f"{kind}Model")(config).save_pretrained(folder)
    return MultimodalEncoder(
        {"image": build("convnet", (1, 8, 8), widths=[8]), "text": build_text_encoder(f"hf:{folder}")}
    )


@pytest.mark.parametrize("kind", ["GPT2", "OPT", "Llama"])
def test_language_models_of_hugging_face(kind, tmp_path):
    encoder = make(hugging_face(tmp_path / "lm", kind))
    documents, found = run(encoder, [f"{VISUAL} {text}" for text in TEXTS], pictures(4, 1))
    ids, mask = documents.input_ids, documents.attention_mask
    model = encoder.language.encoder.backbone.model
    states = model(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True)
    weight = model.get_input_embeddings().weight
    assert len(weight) >= len(encoder.language.encoder.tokenizer)
    torch.testing.assert_close(found["logits"], states.last_hidden_state @ weight.T)
    torch.testing.assert_close(encoder.language.hidden(ids, mask), states.hidden_states[1])
    open_gates(encoder)
    again = encoder.read_and_write(documents, pictures(4, 1))
    assert not torch.allclose(again["logits"], found["logits"])
    encoder.save(tmp_path / "saved")
    opened = load(tmp_path / "saved")
    assert opened.generate(pictures(2), length=4) == encoder.generate(pictures(2), length=4)


def test_what_are_no_language_models_of_ours(tmp_path):
    with pytest.raises(ValueError, match=r"^text: BertModel is no language model"):
        make(hugging_face(tmp_path / "bert", "Bert"))
    with pytest.raises(ValueError, match=r"^text: LlamaModel has an output layer of its own"):
        make(hugging_face(tmp_path / "llama", "Llama", tie_word_embeddings=False))
    with pytest.raises(ValueError, match=r"^length: GPT2Model has 48 places, and 64 are asked for"):
        make(hugging_face(tmp_path / "gpt2"), length=64)
