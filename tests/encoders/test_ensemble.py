"""Several encoders as one: their features side by side, and what survives on disk and in other formats."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import counterpoint as cp
from counterpoint.encoders import build, ensemble, integrate, load
from counterpoint.encoders.export import TOLERANCE, export, onnx_difference, to_onnx

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "14-mcl.npz")
SHAPE = (3, 16, 16)


@pytest.fixture
def three():
    torch.manual_seed(0)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.1, 0.3]
    members = [build("convnet", SHAPE, widths=(4, width), mean=mean, std=std) for width in (8, 5, 6)]
    for member in members:
        member.train()(torch.rand(32, *SHAPE))
    return [member.eval() for member in members]


@pytest.mark.paper(14, "parity")
def test_the_golden_figures():
    stages = [torch.from_numpy(GOLDEN[f"a_stage_feature{s}"]) for s in range(3)]
    for each, name in ((False, "a_integrated"), (True, "a_integrated_per_stage_normalised")):
        ours = normalize(integrate(stages, normalize_each=each), dim=1)
        torch.testing.assert_close(ours, torch.from_numpy(GOLDEN[name]), rtol=1e-9, atol=1e-12)


def test_features_stand_side_by_side(three):
    x = torch.rand(5, *SHAPE)
    whole = ensemble(three)
    assert whole.features == 19
    torch.testing.assert_close(whole.embed(x), torch.cat([member.embed(x) for member in three], 1))
    torch.testing.assert_close(whole.embed((x * 255).round().byte()), whole.embed((x * 255).round() / 255))
    alike = ensemble(three, normalize_each=True).embed(x).split([8, 5, 6], 1)
    for part, member in zip(alike, three, strict=True):
        torch.testing.assert_close(part, normalize(member.embed(x), dim=1))


def test_cosines_are_weighted_by_the_lengths_of_the_stages():
    a, b = (torch.randn(4, 3, dtype=torch.float64) for _ in range(2))
    u = normalize(integrate([a, 3 * b]), dim=1)
    expected = (a @ a.T + 9 * b @ b.T) / (a.square().sum(1) + 9 * b.square().sum(1)).sqrt().outer(
        (a.square().sum(1) + 9 * b.square().sum(1)).sqrt()
    )
    torch.testing.assert_close(u @ u.T, expected)


def test_zero_features_stay_zero():
    assert torch.isfinite(integrate([torch.zeros(2, 3), torch.ones(2, 3)], normalize_each=True)).all()


@pytest.mark.parametrize("each", [False, True])
def test_what_is_saved_opens_again(three, tmp_path, each):
    x = torch.rand(4, *SHAPE)
    whole = ensemble(three, each)
    whole.save(tmp_path / "all", method="mcl")
    again = cp.load(tmp_path / "all")
    assert torch.equal(again.embed(x), whole.embed(x))
    assert again.config["extra"] == {"method": "mcl"}
    assert again.features == 19
    for k, member in enumerate(three):  # each stage by itself
        again.backbone.members[k].save(tmp_path / str(k))
        assert torch.equal(load(tmp_path / str(k)).embed(x), member.embed(x))


def test_it_is_exported_like_any_other(three, tmp_path):
    ensemble(three).save(tmp_path / "all")
    assert "19 features" in (export(tmp_path / "all", tmp_path / "out") / "README.md").read_text()
    pytest.importorskip("onnxscript")
    for each in (False, True):
        whole = ensemble(three, each)
        assert onnx_difference(to_onnx(whole).SerializeToString(), whole) < TOLERANCE


def test_it_is_built_by_name():
    members = [{"name": "mlp", "arguments": {"widths": [4]}}, {"name": "mlp"}]
    whole = build("ensemble", (6,), members=members, mean=[1.0] * 6)
    assert whole.features == 4 + 256
    assert all((member.mean == 1).all() for member in whole.backbone.members)
    for wrong, message in (
        ([], "encoders: expected at least one"),
        ([{"name": "ensemble"}], "members: an ensemble cannot be"),
        ([{"arguments": {}}], "members: expected a name"),
        ([{"name": "mlp", "code": "x"}], "members: expected a name"),
        (["mlp"], "members: expected a name"),
        ([{"name": "mlp", "arguments": {"depth": 3}}], "encoder_options: mlp takes no 'depth'"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            build("ensemble", (6,), members=wrong)


def test_encoders_of_different_items_do_not_go_together(three):
    with pytest.raises(ValueError, match=r"^encoders: expected all to take \(3, 16, 16\), got one for \(1, 8, 8\)"):
        ensemble([*three, build("convnet", (1, 8, 8))])
    with pytest.raises(ValueError, match=r"^encoders: an ensemble cannot be a member"):
        ensemble([ensemble(three)])


@pytest.mark.parametrize("change", [{"pretrained": True}, {"checkpoint_path": "/etc/passwd"}])
def test_nothing_is_fetched_or_executed_from_a_file(three, tmp_path, change, monkeypatch):
    """What a tampered config says of its members."""
    timm = pytest.importorskip("timm")
    ensemble(three).save(tmp_path / "all")
    file = tmp_path / "all" / "config.json"
    config = json.loads(file.read_text())
    config["arguments"]["members"][0] = {"name": "resnet18", "arguments": change}
    file.write_text(json.dumps(config))
    asked = []
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: asked.append(k) or torch.nn.Identity())
    with pytest.raises((ValueError, AttributeError)):
        load(tmp_path / "all")
    assert all(not told["pretrained"] and "checkpoint_path" not in told for told in asked)
