"""DCL in its three settings: on the batch, weighted, and on a queue."""

import pytest
import torch

import counterpoint as cp
from counterpoint.encoders import build
from counterpoint.methods import get
from counterpoint.objectives import NTXent
from counterpoint.objectives.dcl import DCL, DCLW

IMAGE = (1, 8, 8)


def make(name, **options):
    torch.manual_seed(0)
    return get(name)(build("convnet", IMAGE, widths=(8, 16)), **options)


def pair(items=8):
    return list(torch.rand(2, items, *IMAGE, generator=torch.Generator().manual_seed(1)))


@pytest.mark.paper(12, "trains")
@pytest.mark.parametrize("name", ["dcl", "dclw", "dcl_moco"])
def test_learns_from_real_images(name, tmp_path):
    run = cp.fit(
        "digits", name, out=str(tmp_path / name), epochs=4, limit=1000, batch_size=50, threads=1, seed=1,
        progress=False, encoder_options={"widths": [16, 32, 64]}, report=False, monitor=3,
    )  # fmt: skip
    losses = [row["loss"] for row in run.metrics]
    assert losses[-1] < losses[0] - 0.1
    assert run.scores["map"] > 0.55  # of the same encoder, untrained: 0.52
    assert run.metrics[-1]["collapse"] is None


@pytest.mark.parametrize(
    ("name", "options", "objective"),
    [
        ("dcl", {}, DCL(0.1)),
        ("dcl", {"temperature": 0.3, "dim": 7}, DCL(0.3)),
        ("dclw", {}, DCLW(0.1, 0.5)),
        ("dclw", {"temperature": 0.3, "sigma": 0.2, "clamp_weight": True}, DCLW(0.3, 0.2, clamp_weight=True)),
    ],
)
def test_the_loss_is_that_of_the_projections(name, options, objective):
    method, views = make(name, **options), pair()
    z = method.projector(method.encoder(torch.cat(views)))
    assert z.shape[1] == options.get("dim", 128)
    torch.testing.assert_close(method.loss(views, {}), objective(z[:8], z[8:]))
    assert not torch.isclose(method.loss(views, {}), NTXent(objective.temperature)(z[:8], z[8:]))


def test_weights_can_be_trained_through():
    """The gradient, not the value, tells whether the weights are held constant."""
    gradients = []
    for detach in (True, False):
        method = make("dclw", detach_weight=detach)
        method.loss(pair(), {}).backward()
        gradients.append(method.projector[-1].weight.grad)
    assert not torch.allclose(*gradients)


def test_on_a_queue_the_own_key_is_not_in_the_denominator():
    method, views = make("dcl_moco", queue_size=20, temperature=0.3), pair()
    past = method.queue()
    queries = torch.nn.functional.normalize(method.project(views[0]), dim=1)
    keys = torch.nn.functional.normalize(method.teacher(views[1]), dim=1)
    expected = (queries @ past.T / 0.3).logsumexp(1) - (queries * keys).sum(1) / 0.3
    torch.testing.assert_close(method.loss(views, {}), expected.mean())
    torch.testing.assert_close(method.queue()[:8], keys)  # MoCo's queue goes on as ever
