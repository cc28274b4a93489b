import json

import pytest
import torch

from counterpoint.encoders import MultimodalEncoder, build, build_text_encoder, load

TEXTS = ["a red apple", "two dogs", "the dog and the apple"]


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    made = MultimodalEncoder(
        {
            "image": build("convnet", (1, 8, 8), widths=(8, 16)),
            "text": build_text_encoder("transformer", TEXTS, width=16, depth=1, heads=2),
            "sound": build("logmel", (1, 800), rate=8000, mels=16, widths=(8, 16)),
            "v": build("mlp", (5,), widths=(12,)),
        }
    )
    made.attach(6)
    return made.eval()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return {
        "image": torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8),
        "text": TEXTS,
        "sound": torch.randn(3, 1, 800),
        "v": torch.randn(3, 5),
    }


def test_all_towers_end_in_one_space(encoder, batch):
    z = encoder(batch)
    assert {name: tuple(values.shape) for name, values in z.items()} == dict.fromkeys(batch, (3, 6))
    assert list(encoder({"text": TEXTS[:1]})) == ["text"]
    assert {name: h.shape[1] for name, h in encoder.features(batch).items()} == encoder.features_of
    unit = encoder.embed("text", TEXTS, batch_size=2)
    torch.testing.assert_close(unit, torch.nn.functional.normalize(z["text"], dim=1), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="modality: there is no 'smell'"):
        encoder.embed("smell", TEXTS)


def test_saved_and_opened_again_without_executing_anything(encoder, batch, tmp_path):
    encoder.save(tmp_path, method="clip")
    again = load(tmp_path)
    for name, z in again(batch).items():
        torch.testing.assert_close(z, encoder(batch)[name])
    assert again.extra["method"] == "clip"
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".json", ".safetensors"]
    config = json.loads((tmp_path / "config.json").read_text())
    config["towers"]["v"]["arguments"]["widths"] = [13]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="cannot be opened"):
        load(tmp_path)


def test_heads_that_are_there_stay(encoder):
    head = encoder.towers["v"].head
    encoder.attach(6)
    assert encoder.towers["v"].head is head
    encoder.attach(7)
    assert encoder.towers["v"].head is not head


def test_a_frozen_tower_keeps_weights_and_statistics(encoder, batch):
    tower = encoder.towers["image"]
    tower.freeze()
    before = {name: value.clone() for name, value in tower.encoder.state_dict().items()}
    encoder.train()
    z = encoder(batch)
    torch.stack([part.square().sum() for part in z.values()]).sum().backward()
    assert all(parameter.grad is None for parameter in tower.encoder.parameters())
    assert tower.head.weight.grad is not None
    assert encoder.towers["v"].encoder.backbone.layers[1].weight.grad is not None
    for name, value in tower.encoder.state_dict().items():
        assert torch.equal(value, before[name])


def test_towers_by_kind(encoder):
    assert (encoder.named("text"), encoder.named("signal")) == ("text", "sound")
    with pytest.raises(ValueError, match=r"needs one of kind 'image'.*v \(vector\)"):
        MultimodalEncoder({"v": build("mlp", (5,))}).named("image")
    with pytest.raises(ValueError, match="none given"):
        MultimodalEncoder({})


def test_a_clip_is_the_mean_of_its_frames():
    towers = MultimodalEncoder({"clip": build("convnet", (1, 8, 8), widths=(8,))}).eval()
    clips = torch.rand(3, 4, 1, 8, 8)
    frames = torch.stack([towers.features({"clip": clips[:, at]})["clip"] for at in range(4)])
    torch.testing.assert_close(towers.features({"clip": clips})["clip"], frames.mean(0))
