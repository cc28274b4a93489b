"""CoCa as a method: both losses from one pass, gaps, towers that are made or kept, captions from a saved run."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import counterpoint as cp
from counterpoint.data import pair
from counterpoint.encoders import MultimodalEncoder, UnimodalTextDecoder, build, build_text_encoder
from counterpoint.findings import Captions
from counterpoint.methods.multimodal._figures import pictures_of
from counterpoint.methods.multimodal.coca import CoCa
from counterpoint.objectives import CaptionLoss, GroupInfoNCE

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEXTS = ["a small one", "the number seven", "two", "a large four", "three", "nine of them"]
SMALL = {
    "photo": {"name": "convnet", "widths": [16, 32]},
    "caption": {"name": "transformer", "width": 32, "depth": 1, "heads": 4},
}


def digits(items=600):
    images, labels = load_digits(return_X_y=True)
    images = (images[:items].reshape(-1, 8, 8) / 16 * 255).astype(np.uint8)
    captions = [f"a photo of a {WORDS[label]}" for label in labels[:items]]
    return pair({"photo": images, "caption": captions}, labels[:items], classes=WORDS, name="digits")


def towers(causal=False):
    torch.manual_seed(0)
    text = build_text_encoder("transformer", TEXTS, width=16, depth=2, heads=2, causal=causal)
    return MultimodalEncoder({"photo": build("convnet", (1, 8, 8), widths=(8, 12)), "caption": text})


def make(encoder=None, **options):
    torch.manual_seed(0)
    return CoCa(encoder or towers(), **{"n_queries": 3, "dim": 8, **options})


def batch(items=6, seed=0):
    made = torch.Generator().manual_seed(seed)
    return {"photo": torch.rand(items, 1, 8, 8, generator=made), "caption": TEXTS[:items]}


def step(method, given):
    return method.loss([{name: given[name] for name in ("photo", "caption")}], given)


@pytest.mark.paper(58, "trains")
def test_it_learns_to_find_and_to_write(tmp_path):
    def fit(steps):
        return cp.fit(
            digits(), "coca", out=str(tmp_path / str(steps)), steps=steps, batch_size=64, encoders=SMALL, threads=1,
            seed=0, lr=3e-3, prompts=["a photo of a {}"], progress=False, report=False, monitor=0,
            options={"n_queries": 4, "dim": 32},
            metrics=["zero_shot", "pair_recall@1", "caption_exact", "caption_tokens", "bleu_1", "bleu_4", "cider"],
        )  # fmt: skip

    untrained, run = fit(1), fit(120)
    assert run.scores["zero_shot"] > max(0.8, untrained.scores["zero_shot"] + 0.4)
    assert run.scores["caption_exact"] > max(0.8, untrained.scores["caption_exact"] + 0.4)
    assert run.scores["caption_tokens"] > run.scores["caption_exact"]  # all but one of them are the same
    assert run.scores["bleu_4"] > 0.8
    exact = run.evaluation.items["caption_exact"]
    assert run.scores["caption_exact"] == pytest.approx(float(exact.mean()))
    shown = [one for one in run.findings if isinstance(one, Captions) and one.columns == ["written", "its own"]]
    assert "a photo of a" in shown[0].lines[0][0]
    # a saved run writes, and what it writes are the captions that were scored
    test = digits()[np.load(run.folder / "splits.npz")["test"]]
    model = run.model()
    written = model.generate(test["photo"])
    assert [a == b for a, b in zip(written, test["caption"], strict=True)] == exact.astype(bool).tolist()
    greedy = model.generate(test["photo"][:8], "greedy")
    assert greedy == [model.generate(one[None], "greedy")[0] for one in test["photo"][:8]]


def test_the_loss_is_that_of_its_parts():
    method, given = make(), batch()
    z = method.encoder(given)
    text = method.encoder.towers["caption"].encoder
    ids, mask = text.tokenize(TEXTS)
    logits = method.projector(text.backbone.states(ids, mask), method.see(given["photo"]).tokens)
    caption = CaptionLoss()(logits[:, :-1], ids[:, 1:])
    contrast = GroupInfoNCE(0.07)(z["photo"], z["caption"])
    torch.testing.assert_close(step(method, given), contrast + 2 * caption)
    torch.testing.assert_close(step(make(w_caption=0), given), contrast)
    torch.testing.assert_close(step(make(w_caption=1, w_contrastive=0), given), caption)


def test_items_that_lack_one_of_the_two_do_not_count():
    method, given = make(), batch()
    expected = step(method, {"photo": given["photo"][1:5], "caption": TEXTS[1:5]})
    gaps = {
        "photo": torch.tensor([False, True, True, True, True, True]), "caption": torch.tensor([True] * 5 + [False]),
    }  # fmt: skip
    torch.testing.assert_close(step(method, {**given, "present": gaps}), expected)
    nobody = {name: torch.zeros(6, dtype=torch.bool) for name in gaps}
    nothing = step(method, {**given, "present": nobody})
    assert nothing.item() == 0
    nothing.backward()
    one = {name: torch.arange(6) == 2 for name in gaps}
    assert torch.isfinite(step(method, {**given, "present": one}))


def test_writing_agrees_with_reading():
    """The scores of the next word are the same, whether texts are read word by word or at once, padded."""
    method = make().eval()
    ids, mask = method.encoder.towers["caption"].encoder.tokenize(TEXTS)
    tokens = method.see(batch()["photo"]).tokens
    states = method.encoder.towers["caption"].encoder.backbone.states(ids, mask)
    logits = method.projector(states, tokens)
    for item in range(len(TEXTS)):
        for length in range(1, int(mask[item].sum())):
            alone = method._next(tokens, ids[item : item + 1, :length], torch.tensor([item]))
            torch.testing.assert_close(alone[0], logits[item, length - 1], rtol=1e-4, atol=1e-5)


def test_vectors_of_texts_know_nothing_of_images():
    method = make()
    vector = method.encoder(batch())["caption"]
    (grad,) = torch.autograd.grad(vector.sum(), method.encoder.towers["photo"].head.weight, allow_unused=True)
    assert grad is None
    torch.testing.assert_close(method.encoder({"caption": TEXTS})["caption"], vector)


def test_the_towers_it_needs_are_made_and_those_it_has_are_kept():
    method = make(compat="open_clip", layout="shared", pool_width=16)
    half, image = (method.encoder.towers[name].encoder for name in ("caption", "photo"))
    assert isinstance(half.backbone, UnimodalTextDecoder)
    assert (half.features, len(half.backbone.blocks), half.backbone.blocks[0].heads) == (16, 2, 2)
    assert half.backbone.compat == "open_clip"
    assert (image.backbone.pooler.layout, image.features) == ("shared", 16)
    again = make(method.encoder)
    assert again.encoder.towers["caption"].encoder is half
    assert again.encoder.towers["photo"].encoder is image
    assert len(make(depth=1).projector.blocks) == 1


def test_trained_towers_get_new_heads_and_a_warning():
    trained = towers()
    trained.attach(8, "linear")
    trained.extra = {"trained": "before"}
    convolution = trained.towers["photo"].encoder.backbone.layers[0].weight.clone()
    with pytest.warns(UserWarning, match="caption: CoCa's tower of texts is causal"):
        method = make(trained, pool_width=16)
    image = method.encoder.towers["photo"].encoder
    assert torch.equal(image.backbone.encoder.backbone.layers[0].weight, convolution)
    assert {name: z.shape for name, z in method(batch()).items()} == {"photo": (6, 8), "caption": (6, 8)}
    heads = [tower.head for tower in method.encoder.towers.values()]
    again = make(method.encoder)
    assert [tower.head for tower in again.encoder.towers.values()] == heads


def test_what_a_weight_of_0_leaves_out_is_not_trained():
    for options, still in ((("w_caption",), {"projector"}), (("w_contrastive",), {"head", "scale", "contrastive"})):
        method = make(**dict.fromkeys(options, 0.0))
        step(method, batch()).backward()
        without = {name for name, p in method.named_parameters() if p.grad is None}
        assert without == {name for name, p in method.named_parameters() if not p.requires_grad}
        assert all(any(part in name for name in without) for part in still)


@pytest.mark.parametrize("how", ["option", "tower"])
def test_a_frozen_image_encoder_gets_new_poolers_that_learn(how):
    encoder = towers()
    if how == "tower":
        encoder.towers["photo"].freeze()
    method = make(encoder, **({"freeze": "photo"} if how == "option" else {})).train()
    image = method.encoder.towers["photo"].encoder.backbone
    before = {name: value.clone() for name, value in image.encoder.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.1)
    pooled = image.pooler.generative.queries.detach().clone()
    step(method, batch()).backward()
    optimizer.step()
    for name, value in image.encoder.state_dict().items():  # running statistics too
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert not torch.equal(image.pooler.generative.queries, pooled)


def test_a_model_without_captions_cannot_write():
    method = make(w_caption=0)
    assert method.write(batch()) is None
    with pytest.raises(ValueError, match=r"^w_caption: "):
        method.generate(batch()["photo"])


def test_special_tokens_are_never_written():
    method = make()
    tokenizer = method.encoder.towers["caption"].encoder.tokenizer
    with torch.no_grad():
        method.projector.output.weight.zero_()
    for strategy in ("greedy", "beam", "sample"):
        for text in method.generate(batch()["photo"], strategy, length=4):
            assert "[" not in text
    assert method.training
    assert len(tokenizer.encode(method.generate(batch()["photo"], "greedy", length=1))[0]) <= 3


class Other(torch.nn.Module):
    features, causal = 16, False


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"freeze": "caption"}, "freeze"),
        ({"layout": "serial"}, "layout"),
        ({"w_caption": -1.0}, "w_caption"),
        ({"w_caption": 0.0, "w_contrastive": 0.0}, "w_caption, w_contrastive"),
        ({"compat": "official"}, "compat"),
    ],
)
def test_refusals(change, argument):
    with pytest.raises(ValueError, match=f"^{argument}: "):
        make(**change)


def test_modalities_it_does_not_take():
    encoder = towers()
    text, image = (encoder.towers[name].encoder for name in ("caption", "photo"))
    with pytest.raises(ValueError, match=r"^modalities: .*'text'"):
        make(MultimodalEncoder({"photo": image, "left": build("mlp", (4,))}))
    with pytest.raises(ValueError, match=r"^modalities: CoCa takes an image and a text; leave out left"):
        make(MultimodalEncoder({"photo": image, "caption": text, "left": build("mlp", (4,))}))
    text.backbone = Other()
    with pytest.raises(ValueError, match=r"^encoders: CoCa trains the text's tower from scratch"):
        make(MultimodalEncoder({"photo": image, "caption": text}))


def moving(items=1000):
    """Clips of two digits, one after the other, and a caption that names both: no single frame knows it."""
    found, rng = load_digits(), np.random.default_rng(0)
    first, second = (rng.integers(len(found.target), size=items) for _ in range(2))
    x = (found.images * 15.9).astype(np.uint8)
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    low, high = (f(found.target[first], found.target[second]) for f in (np.minimum, np.maximum))
    texts = [f"{words[a]} and {words[b]}" for a, b in zip(low, high, strict=True)]
    return cp.data.pair({"clip": np.stack([x[first], x[second]], 1), "text": texts}, kinds={"clip": "video"})


def test_a_clip_is_shown_by_four_frames():
    clip = torch.arange(8).view(1, 8, 1, 1, 1).expand(1, 8, 1, 2, 2).to(torch.uint8)
    assert pictures_of(clip)[0, ::2, ::2, 0].tolist() == [[1, 3], [5, 7]]
    assert pictures_of(clip[:, :3])[0, ::2, ::2, 0].tolist() == [[0, 1], [2, 255]]
    assert pictures_of(clip[:, :1]).shape == (1, 2, 2, 1)
    assert pictures_of(clip[:, 0]).shape == (1, 2, 2, 1)


def test_videos_are_captioned(tmp_path):
    data = moving()
    run = cp.fit(
        data, "coca", out=str(tmp_path / "run"), steps=250, batch_size=64, lr=3e-3, metrics=["caption_tokens"],
        encoders={"clip": {"widths": [16, 32]}, "text": {"width": 32, "depth": 1}}, progress=False, report=True,
        monitor=2, threads=1, options={"n_queries": 4, "dim": 32},
    )  # fmt: skip
    assert run.scores["caption_tokens"] > 0.6  # "and" and the end are two of the four tokens
    model, clips = run.model(), data[:4]["clip"]
    torch.testing.assert_close(model.see(clips).vector, model.see(clips.flip(1)).vector)  # order is not seen
    assert len(model.generate(clips)) == 4
    assert run.encoder().embed("clip", clips).shape == (4, 32)
    assert (run.folder / "report.html").exists()
