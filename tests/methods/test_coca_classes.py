"""A learned query on a frozen encoder: images and videos, what learns and what stays, what is missing, refusals."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits

import counterpoint as cp
from counterpoint.data import pair
from counterpoint.encoders import MultimodalEncoder, build, build_text_encoder
from counterpoint.encoders.poolers import pool, tokens_of
from counterpoint.methods.multimodal.coca_classes import CoCaClasses

QUIET = {"progress": False, "report": False, "monitor": 0, "threads": 1, "batch_size": 64, "lr": 3e-3}
DIGITS = load_digits()
IMAGES = (DIGITS.images * 15.9).astype(np.uint8)
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def make(pooled=False, **options):
    torch.manual_seed(0)
    own = build("convnet", (1, 8, 8), widths=(8,))
    return CoCaClasses(
        MultimodalEncoder({"image": pool(own, n_queries=3) if pooled else own}), **{"classes": 3, **options}
    )


def batch(*shape):
    x = torch.rand(4, *shape, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return {"image": x, "label": torch.tensor([0, 1, 2, 0]), "present": {"image": torch.ones(4, dtype=torch.bool)}}


@pytest.mark.paper(58, "trains")
def test_a_video_is_classified_by_a_frozen_image_encoder(tmp_path):
    texts = [WORDS[d] for d in DIGITS.target[:1000]]
    coca = cp.fit(
        pair({"image": IMAGES[:1000], "text": texts}), "coca", out=str(tmp_path / "coca"), steps=120, evaluate=False,
        encoders={"image": {"widths": [16, 32]}, "text": {"width": 32, "depth": 1}},
        options={"n_queries": 4, "dim": 32, "pool_width": 48}, **QUIET,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    first, second = rng.integers(1000, size=(2, 1500))
    digits = DIGITS.target[first], DIGITS.target[second]
    labels = ((digits[0] == 7) | (digits[1] == 7)).astype(int)  # a seven in either frame
    data = pair({"clip": np.stack([IMAGES[first], IMAGES[second]], 1)}, labels, kinds={"clip": "video"})
    run = cp.fit(data, "coca_classes", out=str(tmp_path / "run"), encoders={"clip": str(coca.folder)}, steps=250,
                 metrics=["accuracy", "knn"], **QUIET)  # fmt: skip
    assert run.scores["accuracy"] > max(0.9, 1 - labels.mean() + 0.05)
    before, after = (load_file(each / "encoder" / "model.safetensors") for each in (coca.folder, run.folder))
    name = "encoder.backbone.encoder.backbone"
    for key, value in after.items():
        if name in key:
            torch.testing.assert_close(value, before[key.replace("towers.clip", "towers.image")])
    test = data[np.load(run.folder / "splits.npz")["test"]]
    right = (run.model().predict(test).argmax(1) == test["label"]).float().mean()
    assert right == pytest.approx(run.scores["accuracy"])


def test_the_tokens_of_all_frames_are_read():
    method, given = make().eval(), batch(5)
    own = method.encoder.towers["image"].encoder
    frames = torch.cat([own.tokens(given["image"][:, at]) for at in range(5)], 1)
    torch.testing.assert_close(tokens_of(own, given["image"]), frames)
    expected = method.projector["norm"](method.projector["pooler"](frames)[:, 0])
    torch.testing.assert_close(method.read(given["image"]), expected)


@pytest.mark.parametrize("pooled", [False, True])
def test_what_learns(pooled):
    for freeze in (True, False):
        method = make(pooled, freeze=freeze).train()
        method.loss([batch()], batch()).backward()
        learned = {name for name, p in method.named_parameters() if p.grad is not None}
        assert learned == {name for name, p in method.named_parameters() if p.requires_grad}
        assert any("backbone" in name for name in learned) is not freeze
        assert {"classifier.weight", "projector.pooler.queries"} <= learned
        assert method.reader.training is not freeze


def test_items_that_lack_something():
    method, given = make().eval(), batch()
    there = torch.ones(2, dtype=torch.bool)
    kept = {"image": given["image"][1:3], "label": given["label"][1:3], "present": {"image": there}}
    expected = method.loss([kept], kept)
    given["present"]["image"][0] = False
    given["label"][3] = -1
    torch.testing.assert_close(method.loss([given], given), expected)
    assert (method.fused(given, {})[0] == 0).all()
    given["present"]["image"][:] = False
    assert method.loss([given], given) == 0


def test_refusals():
    with pytest.raises(ValueError, match=r"^classes: expected at least 2, got 1"):
        make(classes=1)
    towers = {"image": build("convnet", (1, 8, 8), widths=(8,)), "text": build_text_encoder("transformer", ["a"])}
    with pytest.raises(ValueError, match=r"^modalities: 'coca_classes' takes one, .* leave out text"):
        CoCaClasses(MultimodalEncoder(towers))
    with pytest.raises(ValueError, match=r"^n_queries: expected at least 1, got 0"):
        make(n_queries=0)


def test_data_without_names_of_modalities_are_refused_with_what_to_say(tmp_path):
    with pytest.raises(ValueError, match=r"'coca_classes' reads data by .* give modalities=\{\"image\": \"image:"):
        cp.fit("digits", "coca_classes", out=str(tmp_path / "run"), progress=False)
