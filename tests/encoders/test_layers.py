"""Looking into backbones and heads."""

import pytest
import torch
from torch import nn

from counterpoint.encoders import build
from counterpoint.encoders.heads import ReweightingHead, make_head
from counterpoint.encoders.layers import head_layers, recorded, stages


def test_our_backbones_name_their_stages():
    convnet = build("convnet", (1, 8, 8), widths=(4, 6))
    with recorded(stages(convnet.backbone)) as seen:
        h = convnet(torch.rand(3, 1, 8, 8))
    assert {name: tuple(x.shape) for name, x in seen.items()} == {"stage 1": (3, 4), "stage 2": (3, 6)}
    torch.testing.assert_close(seen["stage 2"], h)
    assert list(stages(build("mlp", (5,), widths=(4, 4, 4)).backbone)) == ["stage 1", "stage 2", "stage 3"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet10t", {"act1": 64, "layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}),
        ("vit_tiny_patch16_224", {f"blocks.{i}": 192 for i in range(12)}),
        ("swin_tiny_patch4_window7_224", {f"layers.{i}": 96 * 2**i for i in range(4)}),
    ],
)
def test_timm_names_its_own(name, expected):
    pytest.importorskip("timm")
    encoder = build(name, (3, 64, 64), **({"window_size": 2} if "swin" in name else {})).eval()
    with recorded(stages(encoder.backbone)) as seen, torch.inference_mode():
        encoder(torch.rand(2, 3, 64, 64))
    assert {name: tuple(x.shape) for name, x in seen.items()} == {name: (2, wide) for name, wide in expected.items()}


def test_of_others_nothing_is_known():
    assert stages(nn.Sequential(nn.Linear(3, 3), nn.ReLU())) == {}


def test_layers_of_heads():
    assert list(head_layers(make_head("mlp", 4, 3))) == ["head 1: Linear", "head 2: ReLU", "head 3: Linear"]
    assert list(head_layers(make_head("identity", 4, 3))) == [
        "head 1: Linear", "head 2: SymmetricReLU", "head 3: Linear",
    ]  # fmt: skip
    assert list(head_layers(ReweightingHead(4))) == ["head 1: ReweightingHead"]
    assert head_layers(make_head("none", 4, 3)) == {}


def test_what_is_recorded_is_not_changed_by_what_follows():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True))
    x = torch.randn(5, 3)
    with recorded({"linear": net[0]}) as seen:
        net(x)
    assert (seen["linear"] < 0).any()
    torch.testing.assert_close(seen["linear"], net[0](x))


def test_hooks_are_gone_afterwards():
    net = nn.Linear(3, 4)
    with pytest.raises(RuntimeError), recorded({"net": net}) as seen:
        net(torch.ones(2, 2))
    net(torch.ones(2, 3))
    assert seen == {}


@pytest.mark.parametrize("shape", [(2, 6, 3, 3), (2, 3, 3, 6), (2, 9, 6), (2, 6)])
def test_places_and_tokens_are_averaged(shape):
    class Made(nn.Module):
        def forward(self, x):
            return x

    made, x = Made(), torch.rand(shape)
    with recorded({"made": made}) as seen:
        made(x)
    assert seen["made"].shape == (2, 6)
    torch.testing.assert_close(seen["made"].mean(), x.mean())
