"""What the backbones, heads and the teacher promise."""

import pytest
import torch
from torch import nn

from counterpoint.encoders import EMA, MLP, ConvNet, build, load, mlp_head
from counterpoint.encoders.ema import cosine_momentum


@pytest.mark.parametrize("size", [8, 16, 28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_convnet_gives_its_features_at_every_size(size, channels):
    net = ConvNet(channels, size)
    out = net(torch.rand(2, channels, size, size))
    assert out.shape == (2, net.features)


def test_convnet_takes_images_that_are_not_square_and_custom_widths():
    net = ConvNet(3, 20, widths=(8, 12))
    assert net.features == 12
    assert net(torch.rand(2, 3, 20, 31)).shape == (2, 12)


def test_given_vectors_stay_as_they_are(tmp_path):
    x = torch.randn(6, 5) * 3 + 1
    encoder = build("given", (5,), mean=x.mean(0), std=x.std(0))
    torch.testing.assert_close(encoder(x), x, rtol=0, atol=0)
    encoder.save(tmp_path)
    assert load(tmp_path).features == 5
    with pytest.raises(ValueError, match="given takes no 'widths'"):
        build("given", (5,), widths=[3])


@pytest.mark.parametrize("net", [ConvNet(1, 8), MLP(64)])
def test_gradients_reach_every_weight_and_the_input(net):
    x = torch.rand(4, 1, 8, 8, requires_grad=True)
    net(x).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.parameters())
    assert bool(x.grad.abs().sum() > 0)


def test_mlp_flattens_images():
    assert MLP(48, widths=(7,))(torch.rand(2, 3, 4, 4)).shape == (2, 7)


def test_head_is_as_the_papers_draw_it():
    head = mlp_head(8, 16, 4, layers=3)
    kinds = [type(layer) for layer in head]
    block = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert kinds == [*block, *block, nn.Linear]
    assert head(torch.rand(5, 8)).shape == (5, 4)
    assert [type(layer) for layer in mlp_head(8, 16, 4, layers=1)] == [nn.Linear]


def test_last_norm_centres_the_output():
    out = mlp_head(8, 16, 4, last_norm=True)(torch.randn(64, 8) + 3)
    torch.testing.assert_close(out.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std(0, unbiased=False), torch.ones(4), atol=1e-2, rtol=0)


def test_head_without_layers_is_refused():
    with pytest.raises(ValueError, match="layers"):
        mlp_head(8, 16, 4, layers=0)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 1.0])
def test_teacher_moves_by_one_minus_momentum(momentum):
    student = nn.Linear(3, 2)
    teacher = EMA(student)
    before = teacher.teacher.weight.clone()
    assert torch.equal(before, student.weight)
    with torch.no_grad():
        student.weight += torch.randn(2, 3)
    teacher.update(student, momentum)
    torch.testing.assert_close(teacher.teacher.weight, momentum * before + (1 - momentum) * student.weight)


def test_teacher_needs_no_gradient_and_is_no_alias():
    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    teacher = EMA(student)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher(torch.rand(5, 3, requires_grad=True)).requires_grad
    student(torch.rand(5, 3) + 10)
    assert not torch.equal(student[1].running_mean, teacher.teacher[1].running_mean)


@pytest.mark.parametrize("momentum", [-0.1, 1.1, float("nan")])
def test_momentum_outside_its_range_is_refused(momentum):
    with pytest.raises(ValueError, match="momentum"):
        EMA(nn.Linear(2, 2)).update(nn.Linear(2, 2), momentum)


def test_cosine_momentum_rises_from_base_to_one():
    assert cosine_momentum(0.99, 0) == pytest.approx(0.99)
    assert cosine_momentum(0.99, 0.5) == pytest.approx(0.995)
    assert cosine_momentum(0.99, 1) == cosine_momentum(0.99, 2) == 1


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("convnett", (3, 32, 32), {}, "convnet"),
        ("resnet81", (3, 32, 32), {}, "resnet18"),
        ("convnet", (64,), {}, "use 'mlp'"),
        ("resnet18", (64,), {}, "use 'mlp'"),
        ("convnet", (3, 32, 32), {"depth": 3}, "'depth', only widths"),
        ("mlp", (64,), {"inputs": 3}, "inputs"),
        ("convnet", (3, 32), {}, "takes no signals"),
        ("convnet", (3, 32, 32, 32), {}, "shape"),
        ("mlp", (0,), {}, "shape"),
        ("resnet18", (3, 32, 32), {"checkpoint_path": "x.pth"}, "checkpoint_path"),
    ],
)
def test_what_cannot_be_built_says_why(name, shape, options, message):
    if name.startswith(("resnet", "convnett")) and len(shape) == 3:
        pytest.importorskip("timm")
    with pytest.raises(ValueError, match=message):
        build(name, shape, **options)
