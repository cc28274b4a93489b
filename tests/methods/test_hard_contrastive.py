"""The methods of Wang & Liu 2021: hard and simple contrastive losses over the batch or a queue."""

import pytest
import torch

import counterpoint as cp
from counterpoint.encoders import build
from counterpoint.methods.vision.hard_contrastive import HardContrastive
from counterpoint.methods.vision.moco import MoCo
from counterpoint.methods.vision.simclr import SimCLR
from counterpoint.methods.vision.simple_contrastive import SimpleContrastive

IMAGE = (1, 8, 8)
both = pytest.mark.parametrize("kind", [HardContrastive, SimpleContrastive])


def make(kind, **options):
    torch.manual_seed(0)
    return kind(build("convnet", IMAGE, widths=(8, 16)), **options)


def pair(seed=0):
    made = torch.Generator().manual_seed(seed)
    return [torch.rand(8, *IMAGE, generator=made) for _ in range(2)]


def fit(name, out, options=None):
    return cp.fit(
        "digits", name, out=str(out), epochs=6, limit=1000, batch_size=100, threads=1, seed=1, progress=False,
        encoder_options={"widths": [16, 32, 64]}, report=False, monitor=3, options=options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    return fit("untrained", tmp_path_factory.mktemp("untrained")).evaluation.scores["probe_5"]


@pytest.mark.paper(18, "trains")
@pytest.mark.parametrize(
    ("name", "options", "gain"),
    [
        ("hard_contrastive", {}, 0.05),
        ("hard_contrastive", {"queue_size": 64, "temperature": 0.3}, 0.05),
        ("simple_contrastive", {"fraction": 0.0819}, 0.05),
        ("simple_contrastive", {}, 0.02),
    ],
)
def test_learns_from_real_images(name, options, gain, untrained, tmp_path):
    run = fit(name, tmp_path / "run", options)
    losses = [row["loss"] for row in run.metrics]
    assert losses[-1] < losses[0]
    assert run.metrics[-1]["collapse"] is None
    assert run.evaluation.scores["probe_5"] > untrained + gain


def test_all_negatives_are_simclr_and_moco():
    expected = make(SimCLR, temperature=0.3).loss(pair(), {})
    torch.testing.assert_close(make(HardContrastive, temperature=0.3, fraction=1.0).loss(pair(), {}), expected)
    assert make(HardContrastive, temperature=0.3).loss(pair(), {}) < expected - 0.5
    moco = make(MoCo, temperature=0.3, queue_size=20, dim=4)
    hard = make(HardContrastive, temperature=0.3, fraction=1.0, queue_size=20, dim=4)
    hard.queue.load_state_dict(moco.queue.state_dict())
    for step in range(2):  # the second meets the keys of the first
        torch.testing.assert_close(hard.loss(pair(step), {}), moco.loss(pair(step), {}))
    torch.testing.assert_close(hard.queue(), moco.queue())


@both
def test_options_reach_the_loss(kind):
    losses = [make(kind, **options).loss(pair(), {}).item() for options in ({}, {"count": 2}, {"fraction": 0.5})]
    assert len(set(losses)) == 3
    assert make(kind, count=7).loss(pair(), {}) == make(kind, fraction=0.5).loss(pair(), {})
    own = {"temperature": 0.1} if kind is HardContrastive else {"lambda_": 0.1}
    assert make(kind, **own).loss(pair(), {}) != losses[0]


@both
def test_the_teacher_of_the_queue(kind):
    """It follows the student, has no gradient, and is not there without a queue."""
    method = make(kind, queue_size=20, momentum=0.75)
    teacher, student = (m[0].backbone.layers[0].weight for m in (method.teacher.teacher, [method.encoder]))
    method.loss(pair(), {}).backward()
    assert student.grad.abs().max() > 0
    assert not any(p.requires_grad for p in method.teacher.parameters())
    with torch.no_grad():
        before = teacher.clone()
        student.add_(1)
    method.after_step()
    torch.testing.assert_close(teacher - before, torch.full_like(before, 0.25))
    alone = make(kind)
    alone.after_step()
    assert not any("teacher" in name or "queue" in name for name in alone.state_dict())
