"""SwAV as a method: crops of several sizes, prototypes that wait, a queue that waits to be full."""

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

import counterpoint as cp
from counterpoint import views
from counterpoint.encoders import build
from counterpoint.methods import Recipe
from counterpoint.methods.vision.swav import SwAV
from counterpoint.pairwise.assignment import sinkhorn

SHAPE = (3, 16, 16)


def make(spec="swav", **options):
    torch.manual_seed(0)
    made = None if spec is None else views.resolve(spec, modality="image", shape=SHAPE)
    encoder = build("convnet", SHAPE, widths=(8, 16))
    return SwAV(encoder, made, Recipe(warmup=0.0), **{"prototypes": 6, "dim": 8, **options})


def crops(count=2, local=0, items=10, seed=0):
    made = torch.Generator().manual_seed(seed)
    sizes = [16] * count + [8] * local
    return [torch.rand(items, 3, size, size, generator=made) for size in sizes]


class Watch(lightning.Callback):
    """The prototypes after each step."""

    def __init__(self):
        self.prototypes = []

    def on_train_start(self, trainer, module):
        self.prototypes.append(module.prototypes.weight.detach().clone())

    def on_train_batch_end(self, trainer, module, *_):
        self.prototypes.append(module.prototypes.weight.detach().clone())


def train(method, epochs, **settings):
    """Epochs of two steps."""
    items = [{"image": x} for x in torch.randint(0, 256, (20, *SHAPE), dtype=torch.uint8)]
    watch = Watch()
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[watch], **settings,
    )  # fmt: skip
    trainer.fit(method, DataLoader(items, batch_size=10))
    return watch.prototypes


@pytest.mark.paper(62, "trains")
def test_it_learns_from_real_images(tmp_path):
    run = cp.fit(
        "digits", "swav", out=str(tmp_path / "run"), epochs=6, limit=1000, batch_size=100, threads=1, seed=1,
        progress=False, encoder_options={"widths": [16, 32, 64]}, report=False, monitor=3, evaluate=False,
    )  # fmt: skip
    losses, knn = ([row[key] for row in run.metrics if key in row] for key in ("loss", "knn"))
    assert losses[-1] == min(losses) < losses[0]
    assert knn[-1] > 0.7  # chance is 0.1
    assert run.metrics[-1]["collapse"] is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spec", ["swav", "simclr", {"simclr": {"count": 3}}])
def test_it_trains_with_any_number_of_crops(spec):
    method = make(spec, queue_size=10, queue_start=0.0, freeze_epochs=0)
    before = torch.cat([p.detach().flatten().clone() for p in method.encoder.parameters()])
    prototypes = train(method, 2)
    after = torch.cat([p.detach().flatten() for p in method.encoder.parameters()])
    assert ((after - before).abs() > 0).float().mean() > 0.5
    assert torch.isfinite(after).all()
    assert not torch.equal(prototypes[0], prototypes[1])


def test_crops_of_one_size_pass_together():
    method, passes = make(), {"encoder": [], "projector": []}
    for name, seen in passes.items():
        getattr(method, name).register_forward_pre_hook(lambda _, x, seen=seen: seen.append(tuple(x[0].shape)))
    method.loss(crops(2, local=3), {})
    assert passes == {"encoder": [(20, 3, 16, 16), (30, 3, 8, 8)], "projector": [(50, 16)]}


def test_crops_keep_their_places():
    """In evaluation mode, where batches have no say, each crop has the embedding it has alone."""
    method = make().eval()
    given = crops(2, local=2)
    for crop, z in zip(given, method.embed_by_size(given, least=2), strict=True):
        torch.testing.assert_close(z, torch.nn.functional.normalize(method.project(crop), dim=1), rtol=1e-4, atol=1e-5)


def test_codes_are_of_the_first_crops_and_predictions_of_all():
    method, seen = make(n_assign=1).eval(), []
    forward = method.objective.forward
    method.objective.forward = lambda *scores: seen.append(scores) or forward(*scores)
    given = crops(2, local=2)
    loss = method.loss(given, {})
    (assigned, others, past), expected = seen[0], [method.prototypes(method.project(crop)) for crop in given]
    assert past is None
    torch.testing.assert_close([*assigned, *others], expected, rtol=1e-4, atol=1e-5)
    assert (len(assigned), len(others)) == (1, 3)
    code = sinkhorn(expected[0])
    by_hand = -torch.stack([(code * torch.log_softmax(s / 0.1, 1)).sum(1) for s in expected[1:]]).mean()
    torch.testing.assert_close(loss, by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_prototypes_wait_an_epoch_and_stay_on_the_sphere():
    before, *after = train(make("simclr", freeze_epochs=1), 2)
    assert [torch.allclose(before, prototypes, atol=1e-6) for prototypes in after] == [True, True, False, False]
    for prototypes in after:
        torch.testing.assert_close(prototypes.norm(dim=1), torch.ones(6))


@pytest.mark.filterwarnings("ignore")
def test_prototypes_wait_while_gradients_accumulate():
    before, *after = train(make("simclr", freeze_epochs=1), 2, accumulate_grad_batches=2)
    assert [torch.allclose(before, prototypes, atol=1e-6) for prototypes in after] == [True, True, True, False]


def test_the_queue_is_used_when_it_is_full():
    method, seen = make(queue_size=20, queue_start=0.0).eval(), []
    forward = method.objective.forward
    method.objective.forward = lambda *scores: seen.append(scores[2]) or forward(*scores)
    batches = [crops(seed=seed) for seed in range(4)]
    for batch in batches[:3]:
        method.loss(batch, {})
    assert seen[:2] == [None, None]
    with torch.no_grad():
        method.prototypes.weight.copy_(method.prototypes.weight.flip(0))  # old embeddings, today's prototypes
    method.loss(batches[3], {})
    assert not any(scores.requires_grad for scores in seen[3])
    for crop, scores in enumerate(seen[3]):
        # the oldest batch has given way to the third, and the fourth is not yet there
        z = torch.cat([method.project(batches[number][crop]) for number in (2, 1)])
        torch.testing.assert_close(scores, method.prototypes(z).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("start", "filled"), [(0.0, 40), (0.5, 20), (1.0, 0)])
def test_the_queue_begins_to_fill_when_it_should(start, filled):
    method = make("simclr", queue_size=100, queue_start=start)
    train(method, 2)
    assert int(method.queue.filled) == filled
    assert {"queue.rows", "queue.filled", "queue.position"} <= set(method.state_dict())


def test_without_a_queue_there_is_none():
    assert make().queue is None


def test_plain_softmax_codes_end_in_one_prototype(tmp_path):
    """What Sinkhorn is there for, in a training of seconds."""
    losses = {}
    for iterations in (0, 3):
        run = cp.fit(
            "digits", "swav", out=str(tmp_path / str(iterations)), epochs=2, limit=1000, batch_size=50, threads=1,
            options={"iterations": iterations}, encoder="mlp", progress=False, report=False, monitor=0, evaluate=False,
        )  # fmt: skip
        losses[iterations] = run.metrics[-1]["loss"]
    assert losses[0] < 0.3
    assert losses[3] > 1


@pytest.mark.parametrize(
    ("items", "expected"), [(100, (8, 0)), (1168, (29, 0)), (33_000, (825, 3840)), (1_280_000, (3000, 3840))]
)
def test_prototypes_and_queue_are_a_matter_of_the_data(items, expected):
    assert tuple(SwAV.defaults_for(items).values()) == expected
    assert list(SwAV.defaults_for(items)) == ["prototypes", "queue_size"]


@pytest.mark.parametrize(("options", "count"), [({}, 1), ({"n_assign": 1}, 1), ({"n_assign": 3}, 2)])
def test_too_few_crops(options, count):
    with pytest.raises(ValueError, match=r"^views: SwAV needs at least [23] crops, and there are [12]"):
        make(**options).loss(crops(count), {})


@pytest.mark.parametrize(
    ("name", "value"), [("n_assign", 0), ("queue_size", -1), ("temperature", 0.0), ("iterations", -1)]
)
def test_options(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        make(**{name: value})
