"""What leaves the house opens elsewhere and gives the same features."""

import json
import sys

import numpy as np
import pytest
import torch

from counterpoint.encoders import Encoder, build, load
from counterpoint.encoders.export import TOLERANCE, export, model_card, onnx_difference


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(0)
    encoder = build("convnet", (3, 16, 16), widths=(8, 12), mean=[0.4, 0.5, 0.6], std=[0.2, 0.1, 0.3])
    encoder.train()(torch.rand(32, 3, 16, 16))
    encoder.save(tmp_path / "run" / "encoder", method="simclr", data="photos | mine", seed=3)
    (tmp_path / "run" / "evaluation.json").write_text(json.dumps({"scores": {"knn": 0.75, "probe": None}}))
    return tmp_path / "run"


def test_the_folder_opens_again(run, tmp_path):
    out = export(run, tmp_path / "handed-on")
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(Encoder.from_pretrained(out).embed(x), load(run).embed(x))
    assert load(out).config == load(run).config


def test_the_card_tells_what_it_is(run, tmp_path):
    card = (export(run, tmp_path / "out") / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: counterpoint\n")
    for told in ("simclr", "photos \\| mine", "12 features", "3 x 16 x 16", "| knn | 0.7500 |"):
        assert told in card
    assert "probe" not in card  # it has no number


def test_the_code_on_the_card_runs(run, tmp_path):
    card = (export(run, tmp_path / "out") / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].replace("path/to/this/folder", str(tmp_path / "out"))
    names: dict = {}
    exec(code, names)
    assert names["features"].shape == (4, 12)


def test_a_card_without_facts():
    card = model_card(build("mlp", (5,), widths=(4,)), {})
    assert "# mlp\n" in card
    assert "score" not in card


@pytest.mark.parametrize("format", ["safetensors", "onnx"])
def test_nothing_is_replaced_unasked(run, tmp_path, format):
    out = tmp_path / ("x.onnx" if format == "onnx" else "x")
    if format == "onnx":
        out.write_bytes(b"mine")
    else:
        out.mkdir()
        (out / "mine").touch()
    with pytest.raises(FileExistsError, match="overwrite"):
        export(run, out, format=format)


@pytest.mark.parametrize(
    ("format", "out", "message"), [("tflite", "x", "safetensors, onnx"), ("onnx", "x.bin", r"\.onnx")]
)
def test_wrong_arguments(run, tmp_path, format, out, message):
    with pytest.raises(ValueError, match=message):
        export(run, tmp_path / out, format=format)


def test_no_encoder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no encoder"):
        export(tmp_path, tmp_path / "x")


@pytest.mark.parametrize("shape", [(3, 16, 16), (6,)])
def test_onnx_gives_the_same_features_at_any_batch(tmp_path, shape):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    name, options = ("convnet", {"widths": (8, 12)}) if len(shape) == 3 else ("mlp", {"widths": (8, 12)})
    encoder = build(name, shape, mean=[0.4] * shape[0], std=[0.2] * shape[0], **options)
    encoder.train()(torch.rand(32, *shape))
    encoder.save(tmp_path / "encoder")
    out = export(tmp_path, tmp_path / "deep" / "model.onnx", format="onnx")
    assert [file.name for file in out.parent.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(out)
    (given,) = session.get_inputs()
    assert given.name == ("pixels" if len(shape) == 3 else "vectors")
    for batch in (1, 3, 64):
        x = torch.rand(batch, *shape)
        (features,) = session.run(["features"], {given.name: x.numpy()})
        np.testing.assert_allclose(features, encoder.embed(x).numpy(), atol=1e-5)


def test_a_file_that_differs_is_not_written(run, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from counterpoint.encoders.export import to_onnx

    encoder = load(run)
    content = to_onnx(encoder).SerializeToString()
    assert onnx_difference(content, encoder) < TOLERANCE
    with torch.no_grad():
        encoder.mean.add_(0.01)
    assert onnx_difference(content, encoder) > TOLERANCE
    monkeypatch.setattr("counterpoint.encoders.export.onnx_difference", lambda *_: float("nan"))
    with pytest.raises(ArithmeticError, match="differ"):
        export(run, tmp_path / "x.onnx", format="onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_a_missing_package_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'counterpoint\[onnx\]'"):
        export(run, tmp_path / "x.onnx", format="onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_timm_models_as_onnx(tmp_path, name):
    pytest.importorskip("timm")
    pytest.importorskip("onnxruntime")
    build(name, (3, 64, 64)).save(tmp_path / "encoder")
    assert export(tmp_path, tmp_path / "x.onnx", format="onnx").stat().st_size > 1_000_000
