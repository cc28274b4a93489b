"""Standardisation, and what survives on disk and what is refused from it."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import counterpoint as cp
from counterpoint.encoders import Encoder, build, load


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    encoder = build("convnet", (3, 16, 16), widths=(8, 8), mean=[0.4, 0.5, 0.6], std=[0.2, 0.1, 0.3])
    encoder.train()(torch.rand(32, 3, 16, 16))  # batch statistics that are not those of a fresh layer
    encoder.save(tmp_path / "encoder", method="simclr", data="noise")
    return encoder, tmp_path / "encoder"


def test_input_is_standardised_per_channel():
    encoder = Encoder(
        torch.nn.Identity(),
        {"name": "x", "shape": [2, 4, 4], "modality": "image"},
        2,
        mean=torch.tensor([0.5, 0.25]),
        std=torch.tensor([0.5, 0.125]),
    )
    x = torch.rand(3, 2, 4, 4)
    expected = torch.stack([(x[:, 0] - 0.5) * 2, (x[:, 1] - 0.25) * 8], dim=1)
    torch.testing.assert_close(encoder(x), expected)


def test_a_constant_channel_gives_no_nan():
    encoder = build("mlp", (3,), mean=[0.0, 5.0, 0.0], std=[1.0, 0.0, 1.0])
    out = encoder.embed(torch.tensor([[0.0, 5.0, 1.0], [1.0, 5.0, 2.0]]))
    assert bool(torch.isfinite(out).all())


@pytest.mark.parametrize("statistics", [{"mean": [0.0]}, {"std": [1.0, float("nan"), 1.0]}])
def test_wrong_statistics_are_refused(statistics):
    with pytest.raises(ValueError, match=next(iter(statistics))):
        build("mlp", (3,), **statistics)


def test_bytes_are_pixels(saved):
    encoder, _ = saved
    pixels = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(encoder.embed(pixels), encoder.embed(pixels.float() / 255))


def test_embed_does_not_depend_on_batches_and_restores_the_mode(saved):
    encoder, _ = saved
    encoder.train()
    x = torch.rand(7, 3, 16, 16)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    torch.testing.assert_close(encoder.embed(x, batch_size=3), encoder.embed(x))
    assert encoder.training
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())


def test_round_trip_is_bit_equal(saved):
    encoder, folder = saved
    opened = load(folder)
    assert not opened.training
    assert opened.state_dict().keys() == encoder.state_dict().keys()
    assert all(torch.equal(value, opened.state_dict()[name]) for name, value in encoder.state_dict().items())
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(opened.embed(x), encoder.embed(x))
    assert opened.config["extra"] == {"method": "simclr", "data": "noise"}
    assert torch.equal(cp.Encoder.from_pretrained(folder).embed(x), encoder.embed(x))


def test_a_run_folder_opens_too(saved):
    _, folder = saved
    assert load(folder.parent).features == 8


def test_timm_round_trip(tmp_path):
    pytest.importorskip("timm")
    torch.manual_seed(0)
    encoder = build("vit_tiny_patch16_224", (1, 32, 32), depth=2, mean=[0.3], std=[0.2])
    opened = load(encoder.save(tmp_path))
    x = torch.rand(2, 1, 32, 32)
    assert opened.features == 192
    assert torch.equal(opened.embed(x), encoder.embed(x))


def test_missing_files(saved, tmp_path):
    _, folder = saved
    with pytest.raises(FileNotFoundError, match="no encoder"):
        load(tmp_path / "nothing")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        load(folder)


def _flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: _flipped(content, 7),  # the length of the header, now absurd
        lambda content: _flipped(content, 8),  # the header's first brace
        lambda content: content[:-10],
        lambda content: content[:4],
        lambda content: b"",
        lambda content: content + b"more",
    ],
)
def test_a_damaged_weight_file_is_refused(saved, damage):
    _, folder = saved
    file = folder / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match="cannot be opened"):
        load(folder)


def test_weights_of_another_model_are_refused(saved):
    _, folder = saved
    weights = load_file(folder / "model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match="cannot be opened"):
        load(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"arguments": {"widths": [8, 9]}},
        {"arguments": {"nonsense": 1}},
        {"arguments": {"widths": "abc"}},
        {"shape": [1, 16, 16]},
        {"shape": "x"},
        {"name": "no-such-model"},
        {"format": 99},
        {"format": "x"},
        {"name": "resnet18", "arguments": {"checkpoint_path": "/etc/passwd"}},
    ],
)
def test_a_config_that_was_tampered_with_is_refused(saved, change):
    if "name" in change:
        pytest.importorskip("timm")
    _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match="cannot be opened"):
        load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
def test_a_config_that_is_none_is_refused(saved, text):
    _, folder = saved
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match="cannot be opened"):
        load(folder)


def test_a_failed_save_leaves_the_old_encoder(saved, monkeypatch):
    encoder, folder = saved
    before = (folder / "model.safetensors").read_bytes()
    with torch.no_grad():
        encoder.mean.add_(1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("counterpoint.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        encoder.save(folder)
    monkeypatch.undo()
    assert (folder / "model.safetensors").read_bytes() == before
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
