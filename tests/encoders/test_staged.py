"""Towers of several stages: side by side, saved, and one of them alone."""

import pytest
import torch

import counterpoint as cp
from counterpoint.encoders import MultimodalEncoder, StagedEncoder, Tokenizer, build, build_text_encoder


def towers(dim=4):
    torch.manual_seed(0)
    text = build_text_encoder("transformer", ["one two", "two three"], width=8, depth=1, heads=2)
    encoder = MultimodalEncoder({"image": build("convnet", (1, 8, 8), widths=(4, 8)), "text": text})
    encoder.attach(dim)
    return encoder


def changed(encoder, by):
    torch.manual_seed(by)
    for tower in encoder.towers.values():
        for weight in tower.last.parameters():
            weight.data += 0.3 * torch.randn_like(weight)


BATCH = {"image": torch.rand(3, 1, 8, 8), "text": ["one two", "three", "two"]}


def test_what_is_kept_stays_and_what_goes_on_is_the_same_module():
    encoder = StagedEncoder(towers()).eval()
    last = {name: tower.last for name, tower in encoder.towers.items()}
    before = encoder(BATCH)
    encoder.keep()
    assert (encoder.stages, encoder.dim) == (2, 8)
    changed(encoder, 1)
    after = encoder(BATCH)
    for name in BATCH:
        assert encoder.towers[name].last is last[name]
        torch.testing.assert_close(after[name][:, :4], before[name])
        assert not torch.allclose(after[name][:, 4:], before[name])
        assert not any(weight.requires_grad for weight in encoder.towers[name].members[0].parameters())
        assert all(weight.requires_grad for weight in encoder.towers[name].members[1].parameters())
    assert encoder.features(BATCH)["image"].shape == (3, 16)
    assert encoder.features_of["image"] == 16


@pytest.mark.parametrize("normalize_each", [False, True])
def test_it_is_saved_and_opened_like_any_other(tmp_path, normalize_each):
    encoder = StagedEncoder(towers(), normalize_each=normalize_each).eval()
    for by in (1, 2):
        encoder.keep()
        changed(encoder, by)
    opened = cp.load(encoder.save(tmp_path / "all", method="mcl_clip")).eval()
    assert isinstance(opened, StagedEncoder)
    assert (opened.stages, opened.dim, opened.extra["method"]) == (3, 12, "mcl_clip")
    assert isinstance(opened.towers["text"].encoder.tokenizer, Tokenizer)
    found, wanted = opened(BATCH), encoder(BATCH)
    for name in BATCH:
        torch.testing.assert_close(found[name], wanted[name])
        if normalize_each:
            torch.testing.assert_close(found[name].view(3, 3, 4).norm(dim=2), torch.ones(3, 3))
    alone = cp.load(encoder.stage(1).save(tmp_path / "one")).eval()
    parts = alone(BATCH)["image"], wanted["image"][:, 4:8]
    torch.testing.assert_close(*(torch.nn.functional.normalize(part, dim=1) for part in parts))


def test_heads_of_all_stages_are_exchanged_together():
    encoder = StagedEncoder(towers(), stages=3)
    heads = [member.head for member in encoder.towers["image"].members]
    encoder.attach(12, "linear")
    assert [member.head for member in encoder.towers["image"].members] == heads
    encoder.attach(9, "linear")
    assert encoder(BATCH)["image"].shape == (3, 9)
    assert encoder.config["dim"] == 9
    with pytest.raises(ValueError, match=r"^dim: expected a multiple of the 3 stages, got 8"):
        encoder.attach(8)
    with pytest.raises(ValueError, match=r"^stages: expected at least 1"):
        StagedEncoder(towers(), stages=0)


def test_a_text_encoder_is_frozen_as_a_whole_or_not():
    encoder = towers()
    with pytest.raises(ValueError, match=r"^freeze: an encoder of text"):
        encoder.towers["text"].freeze(stages=1)
    encoder.towers["image"].freeze(stages=1)
    staged = StagedEncoder(encoder)
    assert not staged.towers["image"].frozen
    staged.towers["image"].freeze(head=True)
    assert staged.towers["image"].frozen
    assert not any(weight.requires_grad for weight in staged.towers["image"].parameters())
