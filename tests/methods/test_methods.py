"""Every method as a plain LightningModule in a user's own loop, and by fit on real data."""

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

import counterpoint as cp
from counterpoint.encoders import build
from counterpoint.methods import Method, get, names
from counterpoint.methods.vision.byol import BYOL
from counterpoint.methods.vision.moco import MoCo
from counterpoint.methods.vision.simclr import SimCLR
from counterpoint.methods.vision.simsiam import SimSiam

KEYS = {"simclr": "B1", "supcon": "B2", "moco": "B3", "byol": "B4", "simsiam": "B5", "barlow": "B6", "vicreg": "B7"}
LEARNING = [*KEYS, "supervised"]


@pytest.fixture(scope="module")
def digits():
    dataset = cp.data.load("digits", limit=256)
    return dataset[range(256)]


def items(digits):
    return [{name: value[i] for name, value in digits.items()} for i in range(len(digits["index"]))]


def train(method, digits, steps=4, **trainer):
    loader = DataLoader(items(digits), batch_size=32, shuffle=False)
    lightning.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **trainer,
    ).fit(method, loader)  # fmt: skip


def test_the_names_are_the_files():
    assert set(names()) == {*LEARNING, "untrained"}
    for name in names():
        assert issubclass(get(name), Method)


@pytest.mark.parametrize("name", LEARNING)
def test_trains_in_a_loop_of_the_users_own(name, digits):
    torch.manual_seed(0)
    encoder = build("convnet", (1, 8, 8))
    before = {key: value.clone() for key, value in encoder.named_parameters()}
    method = get(name)(encoder, cp.views.resolve("auto", modality="image", shape=(1, 8, 8)))
    train(method, digits)
    moved = [key for key, value in encoder.named_parameters() if not torch.equal(value, before[key])]
    assert len(moved) == len(before)
    assert method.project(digits["image"][:5].float() / 255).isfinite().all()


@pytest.mark.parametrize(
    "name", ["supervised", *(pytest.param(name, marks=pytest.mark.paper(key, "trains")) for name, key in KEYS.items())]
)
def test_fits_digits(name, tmp_path):
    run = cp.fit(
        "digits", name, out=str(tmp_path / "run"), epochs=8, limit=600, batch_size=64, monitor=0, progress=False,
        report=False, threads=1,
    )  # fmt: skip
    losses = [row["loss"] for row in run.metrics]
    assert losses[-1] < losses[0]
    assert run.scores["knn"] > 0.7  # chance is 0.1


def test_ready_made_views_need_no_pipeline(digits):
    x = digits["image"].float() / 255
    loader = DataLoader([{"views": [x[i], x[i].flip(-1)]} for i in range(64)], batch_size=32)
    method = SimCLR(build("convnet", (1, 8, 8)))
    lightning.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    ).fit(method, loader)
    assert method.trainer.callback_metrics["loss"].isfinite()


@pytest.mark.parametrize("kind", [MoCo, BYOL])
def test_the_teacher_moves_after_optimiser_steps_only(kind, digits):
    method = kind(build("mlp", (64,)), None, momentum=0.5)
    seen = []
    update = method.teacher.update
    method.teacher.update = lambda *a: (seen.append(method.trainer.global_step), update(*a))
    x = digits["image"].flatten(1).float() / 255
    loader = DataLoader([{"views": [row, row * 0.9]} for row in x[:128]], batch_size=16)
    lightning.Trainer(
        max_steps=3, accumulate_grad_batches=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False,
    ).fit(method, loader)  # fmt: skip
    assert len(seen) == 3
    assert all(p.grad is None for p in method.teacher.parameters())


def test_moco_never_shows_a_query_its_own_key():
    torch.manual_seed(0)
    method = MoCo(build("mlp", (6,)), None, queue_size=8)
    views = [torch.randn(4, 6), torch.randn(4, 6)]
    shown = []
    objective = method.objective.forward
    method.objective.forward = lambda q, k, negatives: shown.append((k, negatives)) or objective(q, k, negatives)
    for _ in range(2):
        method.loss(views, {})
    (_, first), (keys, second) = shown
    assert len(first) == 4
    assert len(second) == 8  # the stand-ins of the first step, then its own keys
    assert torch.cdist(keys, method.queue()).min(1).values.max() < 1e-4  # pushed after the loss


def test_simsiam_stops_the_gradient_at_its_target():
    torch.manual_seed(0)
    method = SimSiam(build("mlp", (6,)))
    z = [torch.randn(8, 256, requires_grad=True) for _ in range(2)]
    method.project = lambda view: view
    method.predictor = torch.nn.Identity()
    method.loss(z, {}).backward()
    p, target = (z[0].detach().requires_grad_(), z[1].detach())
    (-torch.nn.functional.cosine_similarity(p, target).mean() / 2).backward()
    torch.testing.assert_close(z[0].grad, p.grad)


def test_wrong_numbers_of_views_are_named(digits):
    views = cp.views.resolve("swav", modality="image", shape=(1, 32, 32))
    method = SimCLR(build("convnet", (1, 32, 32)), views)
    with pytest.raises(ValueError, match="views: SimCLR contrasts 2 views, and there are 8"):
        method.training_step({"image": torch.zeros(4, 1, 32, 32, dtype=torch.uint8)}, 0)
    with pytest.raises(ValueError, match="views: this method was made without"):
        SimCLR(build("convnet", (1, 8, 8))).training_step({"image": digits["image"]}, 0)
    with pytest.raises(ValueError, match="batch: expected one of"):
        method.training_step({"sound": torch.zeros(2)}, 0)


@pytest.mark.parametrize("name", ["supcon", "supervised"])
def test_missing_labels_are_named(name):
    method = get(name)(build("mlp", (6,)))
    with pytest.raises(ValueError, match="labels: this method needs labels"):
        method.loss([torch.randn(4, 6), torch.randn(4, 6)], {})


def test_get():
    assert get("simclr") is SimCLR
    assert get("counterpoint.methods.vision.simclr:SimCLR") is SimCLR
    assert get(SimCLR) is SimCLR
    with pytest.raises(ValueError, match="did you mean 'simsiam'"):
        get("simsam")
    with pytest.raises(ValueError, match="no subclass"):
        get("counterpoint.files:atomic")
    with pytest.raises(ValueError, match="expected a name"):
        get(3)
