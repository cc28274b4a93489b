"""The diffusion model: sizes, what its loss is, what draws from it, and what it refuses."""

import sys

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
from counterpoint.generators.diffusion import Diffusion

TINY = {"widths": (8, 16), "steps": 10, "batch_size": 8, "sampling_steps": 3, "timesteps": 20}


def make(shape=(1, 8, 8), **options):
    torch.manual_seed(0)
    return Diffusion(shape, **{**TINY, **options})


@pytest.mark.parametrize(
    ("shape", "levels"), [((1, 8, 8), 2), ((3, 32, 32), 4), ((1, 28, 28), 3), ((3, 9, 13), 2), ((1, 3, 3), 1)]
)
def test_levels_follow_the_size(shape, levels):
    model = make(shape, widths=None)
    assert model.widths == (32, 64, 64, 128)[:levels]
    assert len(model.unet.down_blocks) == levels


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 13)])
def test_it_draws_images_of_the_size_of_the_data(shape):
    drawn = make(shape).eval().sample(5, (0, 0))
    assert drawn.shape == (5, *shape)
    assert drawn.min() >= 0
    assert drawn.max() <= 1


def test_the_loss_is_the_error_of_the_noise():
    """A network that says nothing is off by the noise itself, whose mean square is 1."""
    model = make()
    for parameter in model.unet.parameters():
        torch.nn.init.zeros_(parameter)
    batch = {"image": torch.randint(0, 256, (500, 1, 8, 8), dtype=torch.uint8)}
    assert model.training_step(batch, 0).item() == pytest.approx(1, abs=0.05)


def test_draws_use_the_average_of_the_weights(tmp_path):
    model = make().eval()
    before = model.sample(3, (1, 2))
    for parameter in model.unet.parameters():
        torch.nn.init.normal_(parameter)
    assert (model.sample(3, (1, 2)) == before).all()
    model.average.update(model.unet, 0.0)
    assert not (model.sample(3, (1, 2)) == before).all()
    model.save(tmp_path)
    opened = Diffusion.load(tmp_path)
    assert opened.config == model.config
    np.testing.assert_allclose(opened.sample(3, (1, 2)), model.sample(3, (1, 2)), atol=1e-6)
    assert not (opened.sample(3, (1, 3)) == opened.sample(3, (1, 2))).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("widths", widths) for widths in ((12,), (), (8, 8, 8))),
        *(("steps", 0), ("layers", 1.5), ("momentum", 1.0), ("sampling_steps", 21), ("batch_size", 0), ("lr", -1.0)),
    ],
)
def test_parameters(name, value):
    with pytest.raises(ValueError, match=name):
        make(**{name: value})


def test_vectors_have_no_pixels():
    with pytest.raises(ValueError, match=r"^data: diffusion draws images"):
        make((7,))


def test_without_diffusers_it_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"pip install 'counterpoint\[diffusion\]'"):
        make()
