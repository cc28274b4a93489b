"""NNCLR: whose neighbours are the positives, and what decoupling takes out of its denominators."""

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

import counterpoint as cp
from counterpoint.encoders import build
from counterpoint.methods.vision.nnclr import NNCLR

IMAGE = (1, 8, 8)
both = pytest.mark.parametrize("decoupled", [False, True])


def make(**options):
    torch.manual_seed(0)
    return NNCLR(build("convnet", IMAGE, widths=(8, 16)), queue_size=20, dim=6, temperature=0.3, **options)


def pair(items=8):
    return list(torch.rand(2, items, *IMAGE, generator=torch.Generator().manual_seed(1)))


def one_way(neighbours, predictions, decoupled):
    """Rows and columns of one matrix of scores."""
    scores = neighbours @ normalize(predictions, dim=1).T / 0.3
    if not decoupled:
        own = torch.arange(len(scores))
        return (cross_entropy(scores, own) + cross_entropy(scores.T, own)) / 2
    others = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool), -torch.inf)
    return ((others.logsumexp(0) + others.logsumexp(1)) / 2 - scores.diagonal()).mean()


@pytest.mark.parametrize("decoupled", [False, pytest.param(True, marks=pytest.mark.paper(12, "trains"))])
def test_learns_from_real_images(decoupled, tmp_path):
    run = cp.fit(
        "digits", "nnclr", out=str(tmp_path / "run"), epochs=4, limit=1000, batch_size=50, threads=1, seed=1,
        options={"decoupled": decoupled}, progress=False, encoder_options={"widths": [16, 32, 64]}, report=False,
        monitor=3,
    )  # fmt: skip
    losses = [row["loss"] for row in run.metrics]
    assert losses[-1] < losses[0] - 0.1
    assert run.scores["map"] > 0.55  # of the same encoder, untrained: 0.52
    assert run.metrics[-1]["collapse"] is None


@both
def test_the_loss(decoupled):
    method, views = make(decoupled=decoupled), pair()
    past = method.queue()
    z1, z2 = (method.project(view) for view in views)
    p1, p2 = method.predictor(z1), method.predictor(z2)
    n1, n2 = (past[(normalize(z, dim=1) @ past.T).argmax(1)] for z in (z1, z2))
    expected = (one_way(n1, p2, decoupled) + one_way(n2, p1, decoupled)) / 2
    loss = method.loss(views, {})
    torch.testing.assert_close(loss, expected)
    parameters = list(method.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_the_queue_takes_the_first_view_after_the_loss():
    method, views = make(), pair()
    past = method.queue()
    torch.testing.assert_close(past.norm(dim=1), torch.ones(20))
    assert torch.pdist(past).min() > 0.1
    z1 = normalize(method.project(views[0]), dim=1)
    method.loss(views, {})
    torch.testing.assert_close(method.queue(), torch.cat([z1, past[8:]]))


def test_neighbours_are_those_of_the_projection_in_the_queue():
    """With a queue of one embedding it is everybody's neighbour, and no item can be told from another by it."""
    torch.manual_seed(0)
    method = NNCLR(build("convnet", IMAGE, widths=(8, 16)), queue_size=1, dim=6)
    method.predictor = torch.nn.Identity()
    direction = method.queue()[0]
    z1, z2 = (normalize(method.project(view), dim=1) @ direction / 0.1 for view in pair())
    rows = (torch.cat([z1.log_softmax(0), z2.log_softmax(0)]).mean() - torch.tensor(8.0).log()) / 2
    torch.testing.assert_close(method.loss(pair(), {}), -rows)


@both
def test_one_item(decoupled):
    method, views = make(decoupled=decoupled).eval(), pair(1)  # batch norm alone would refuse one item
    if decoupled:
        with pytest.raises(ValueError, match=r"^views: expected at least 2 items"):
            method.loss(views, {})
    else:
        assert method.loss(views, {}).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("items", "length"), [(1_280_000, 98_304), (3000, 3000), (5, 16)])
def test_the_queue_holds_all_items_up_to_the_papers_length(items, length):
    assert NNCLR.defaults_for(items) == {"queue_size": length}


def test_a_temperature_that_cannot_be():
    with pytest.raises(ValueError, match=r"^temperature: expected"):
        NNCLR(build("convnet", IMAGE, widths=(8, 16)), temperature=0)
