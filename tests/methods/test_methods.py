"""Every method as what it is: a plain LightningModule that a user may train with a Trainer and data of their own."""

import contextlib
import inspect
import sys
import types

import lightning
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import counterpoint as cp
from counterpoint import methods, views
from counterpoint.encoders import build
from counterpoint.methods import Recipe
from counterpoint.methods.vision.byol import BYOL
from counterpoint.methods.vision.moco import MoCo
from counterpoint.methods.vision.simclr import SimCLR
from counterpoint.methods.vision.simsiam import SimSiam
from counterpoint.methods.vision.supcon import SupCon

# of one modality; untrained has nothing to train
NAMES = [name for name in methods.names() if name != "untrained" and not hasattr(methods.get(name), "multimodal")]
PAPERS = dict(zip(["simclr", "supcon", "moco", "byol", "simsiam", "barlow", "vicreg"], range(1, 8), strict=True))
every = pytest.mark.parametrize("name", NAMES)
IMAGE, VECTOR = (1, 8, 8), (6,)


class Items(Dataset):
    """A user's own data: dicts of one item."""

    def __init__(self, kind, items=16):
        made = torch.Generator().manual_seed(0)
        self.labels = torch.arange(items) % 3
        self.kind = kind
        if kind == "views":
            self.x = torch.rand(items, 2, *IMAGE, generator=made)
        elif kind == "image":
            self.x = torch.randint(0, 256, (items, *IMAGE), dtype=torch.uint8, generator=made)
        else:
            self.x = torch.randn(items, *VECTOR, generator=made)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        x = list(self.x[i]) if self.kind == "views" else self.x[i]
        return {self.kind: x, "label": self.labels[i], "target": float(i % 5), "index": i}


def make(kind, modality="image", **options):
    torch.manual_seed(0)
    shape = VECTOR if modality == "vector" else IMAGE
    encoder = build("mlp", shape, widths=(16,)) if modality == "vector" else build("convnet", shape, widths=(8, 16))
    if "items" in inspect.signature(kind).parameters:
        options.setdefault("items", 64)
    made = None if modality == "views" else views.resolve("auto", modality=modality, shape=shape)
    return kind(encoder, made, Recipe(warmup=0.0), **options)


def train(method, data, steps, **settings):
    """A Trainer as a user would make it; returns it."""
    torch.manual_seed(0)
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(method, DataLoader(data, batch_size=8))
    return trainer


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def parameters(module):
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


@every
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("modality", ["image", "vector", "views"])
def test_trains_under_a_plain_trainer(name, modality):
    method = make(methods.get(name), modality)
    before = parameters(method.encoder)
    trainer = train(method, Items(modality), 2)
    assert trainer.global_step == 2
    after = parameters(method.encoder)
    assert torch.isfinite(after).all()
    if name == "linear_probe":  # whose encoder is to stay as it is
        assert torch.equal(after, before)
    else:
        assert ((after - before).abs() > 0).float().mean() > 0.5
    x = torch.rand(4, *(VECTOR if modality == "vector" else IMAGE))
    assert method(x).shape == (4, 16)
    assert method.project(x).shape[0] == 4
    assert torch.isfinite(trainer.callback_metrics["loss"])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.paper(f"B{number}", "trains")) for name, number in PAPERS.items()]
)
def test_learns_from_real_images(name, tmp_path):
    run = cp.fit(
        "digits", name, out=str(tmp_path / name), epochs=6, limit=1000, batch_size=100, threads=1, seed=1,
        progress=False, encoder_options={"widths": [16, 32, 64]}, report=False, monitor=3, evaluate=False,
    )  # fmt: skip
    losses, knn = ([row[key] for row in run.metrics if key in row] for key in ("loss", "knn"))
    assert run.metrics[-1]["step"] >= 30
    assert losses[-1] < losses[0]
    assert losses[-1] <= min(losses) + 0.01 * (losses[0] - min(losses))  # the last steps are small
    assert knn[-1] > 0.7  # chance is 0.1
    assert run.metrics[-1]["collapse"] is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [BYOL, MoCo])
def test_the_teacher_moves_after_optimiser_steps_alone(kind):
    method, moves = make(kind), []

    class Watch(lightning.Callback):
        def on_train_batch_start(self, trainer, module, *_):
            self.before = parameters(module.teacher)

        def on_train_batch_end(self, trainer, module, *_):
            moves.append(not torch.equal(self.before, parameters(module.teacher)))

    train(method, Items("image", 32), 2, accumulate_grad_batches=2, callbacks=[Watch()])
    assert moves == [False, True, False, True]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [BYOL, MoCo])
def test_the_teacher_follows_the_student(kind):
    """One step moves it by 1 - momentum of the way to where the student then is."""
    method = make(kind, momentum=0.75)
    student = torch.nn.Sequential(method.encoder, method.projector)
    start = parameters(student)
    assert torch.equal(parameters(method.teacher), start)
    train(method, Items("image", 32), 1)
    moved, went = parameters(method.teacher) - start, parameters(student) - start
    assert went.abs().max() > 1e-4
    torch.testing.assert_close(moved, 0.25 * went, rtol=1e-3, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "expected"), [(MoCo, [0.75] * 4), (BYOL, [0.75, 0.7866117, 0.875, 0.9633883])])
def test_the_momentum_over_training(kind, expected):
    """MoCo's is constant, BYOL's is 1 - (1 - base) (cos(pi k / K) + 1) / 2 at step k of K."""
    method, momenta = make(kind, momentum=0.75), []
    method.teacher.update = lambda student, momentum: momenta.append(momentum)
    train(method, Items("image", 32), 4)
    assert momenta == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [BYOL, MoCo])
def test_the_teacher_has_no_gradient_and_no_optimiser(kind):
    method = make(kind)
    trainer = train(method, Items("image"), 1)
    assert not any(p.requires_grad or p.grad is not None for p in method.teacher.parameters())
    optimised = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert not optimised & {id(p) for p in method.teacher.parameters()}
    assert {id(p) for p in method.encoder.parameters()} <= optimised
    assert {id(p) for p in method.projector.parameters()} <= optimised


def test_moco_contrasts_with_past_keys_and_keeps_the_new_ones():
    method, seen = make(MoCo, queue_size=20, dim=4), []
    past = method.queue()
    objective = method.objective.forward
    method.objective.forward = lambda queries, keys, negatives: (
        seen.append((keys, negatives)) or objective(queries, keys, negatives)
    )
    pair = [torch.rand(8, *IMAGE) for _ in range(2)]
    method.loss(pair, {}).backward()
    keys, negatives = seen[0]
    assert torch.equal(negatives, past)  # not the keys of this batch
    assert not keys.requires_grad
    assert torch.equal(method.queue()[:8], keys)  # which the next will meet
    torch.testing.assert_close(keys.norm(dim=1), torch.ones(8))
    method.loss(pair[::-1], {})
    assert torch.equal(seen[1][1], torch.cat([keys, past[8:]]))


def test_mocos_queue_starts_with_random_unit_vectors():
    queue = make(MoCo, queue_size=20).queue()
    assert len(queue) == 20
    torch.testing.assert_close(queue.norm(dim=1), torch.ones(20))
    assert torch.pdist(queue).min() > 0.1


@pytest.mark.parametrize(("items", "length"), [(50_000, 4166), (1_280_000, 65_536), (20, 16)])
def test_mocos_queue_is_a_share_of_the_data(items, length):
    assert MoCo.defaults_for(items) == {"queue_size": length}


def test_simsiam_stops_the_gradient_of_the_target():
    """With a constant prediction, no gradient reaches anything."""
    method = make(SimSiam, dim=4)
    method.predictor = torch.nn.Module()
    method.predictor.forward = lambda z: torch.ones_like(z, requires_grad=True)
    method.loss([torch.rand(8, *IMAGE) for _ in range(2)], {}).backward()
    assert all(p.grad is None for p in method.projector.parameters())
    assert all(p.grad is None for p in method.encoder.parameters())


def test_byol_costs_nothing_where_the_prediction_is_right():
    method = make(BYOL, dim=4)
    method.predictor = torch.nn.Identity()
    x = torch.rand(8, *IMAGE)
    assert method.loss([x, x], {}).item() == pytest.approx(0, abs=1e-5)  # the teacher starts as the student
    assert 0 < method.loss([x, torch.rand(8, *IMAGE)], {}).item() < 8


@every
@pytest.mark.parametrize("count", [1, 3])
def test_number_of_views(name, count):
    kind = methods.get(name)
    method = make(kind, "views")
    method.log = lambda *_, **__: None
    batch = {"views": [torch.rand(8, *IMAGE) for _ in range(count)], "label": torch.arange(8) % 2}
    batch["index"], batch["target"] = torch.arange(8), torch.arange(8.0) % 2
    if kind.n_views is None:
        enough = count > 1 or kind.needs_labels or kind.needs_target or kind.auto_views == "identity"
        enough |= name == "hard_contrastive_bank"  # whose positive is what it remembers
        with contextlib.nullcontext() if enough else pytest.raises(ValueError, match=r"^\w+: "):
            assert torch.isfinite(method.training_step(batch, 0))
    else:
        with pytest.raises(ValueError, match=f"^views: {kind.__name__} contrasts 2 views, and there are {count}"):
            method.training_step(batch, 0)


def test_labels_that_are_not_there():
    pair = [torch.rand(8, *IMAGE) for _ in range(2)]
    for name in NAMES:
        if methods.get(name).needs_labels:
            with pytest.raises(ValueError, match=r"^labels: this method needs labels"):
                make(methods.get(name), "views").loss(pair, {})
        else:
            batch = {"index": torch.arange(8), "target": torch.arange(8.0) % 2}
            assert torch.isfinite(make(methods.get(name), "views").loss(pair, batch))


def test_supcon_uses_the_labels():
    pair = [torch.rand(8, *IMAGE) for _ in range(2)]
    losses = [make(SupCon).loss(pair, {"label": labels}) for labels in (torch.zeros(8).long(), torch.arange(8))]
    assert losses[0] != losses[1]


def test_supervised_leaves_unlabelled_items_out():
    method = make(methods.get("supervised"), classes=3).eval()
    x, labels = torch.rand(8, *IMAGE), torch.tensor([0, 1, 2, 0, -1, -1, -1, -1])
    torch.testing.assert_close(method.loss([x], {"label": labels}), method.loss([x[:4]], {"label": labels[:4]}))


def test_batches_without_what_is_needed():
    method = make(SimCLR)
    with pytest.raises(ValueError, match=r"^batch: expected one of the keys 'image', 'vector', 'views', got \['x'\]"):
        method.training_step({"x": torch.ones(2)}, 0)
    with pytest.raises(ValueError, match=r"^views: this method was made without views"):
        make(SimCLR, "views").training_step({"image": torch.ones(2)}, 0)


class TestNames:
    def test_the_file_is_the_name(self):
        assert set(PAPERS) | {"supervised"} <= set(NAMES)
        for name in NAMES:
            assert issubclass(methods.get(name), methods.Method)
            assert methods.get(name).__module__ == methods.names()[name]

    def test_a_class_is_itself(self):
        assert methods.get(SimCLR) is SimCLR

    def test_a_class_of_ones_own(self, monkeypatch):
        module = types.ModuleType("my_methods")
        module.Mine = type("Mine", (SimCLR,), {})
        module.other = 3
        monkeypatch.setitem(sys.modules, "my_methods", module)
        assert methods.get("my_methods:Mine") is module.Mine
        for name in ("my_methods:other", "my_methods:Absent", "my_methods:"):
            with pytest.raises(ValueError, match="is no subclass of"):
                methods.get(name)

    @pytest.mark.parametrize(("typed", "meant"), [("simlcr", "simclr"), ("BYOL", "byol"), ("vic-reg", "vicreg")])
    def test_the_nearest_name_is_offered(self, typed, meant):
        with pytest.raises(ValueError, match=f"^method: no method '{typed}'; did you mean '{meant}'"):
            methods.get(typed)

    @pytest.mark.parametrize("given", [3, None, int])
    def test_what_is_no_method(self, given):
        with pytest.raises(ValueError, match=r"^method: expected a name or a subclass of Method"):
            methods.get(given)


class TestRecipe:
    def test_the_rate_rises_and_falls(self):
        recipe = Recipe(warmup=0.1)
        factors = [recipe.factor(step, 100) for step in range(101)]
        assert factors[0] == pytest.approx(0.1)
        assert factors[9] == factors[10] == 1
        assert factors[55] == pytest.approx(0.5)
        assert factors[100] == pytest.approx(0, abs=1e-12)
        assert factors[10:] == sorted(factors[10:], reverse=True)
        assert {Recipe(schedule="constant", warmup=0).factor(step, 10) for step in range(10)} == {1.0}

    def test_biases_and_norms_do_not_decay(self):
        module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        module[0].weight.requires_grad_(False)
        module.append(torch.nn.Linear(4, 2))
        for kind in ("adamw", "sgd", "larc"):
            optimizer, _ = Recipe(kind, weight_decay=0.3).optimizers(module, 10)
            decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
            assert {name: decay.get(id(p)) for name, p in module.named_parameters()} == {
                **{"0.weight": None, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0},
                **{"2.weight": 0.3, "2.bias": 0.0},
            }

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("optimizer", "adam"),
            ("schedule", "linear"),
            ("lr", 0),
            ("lr", float("nan")),
            ("weight_decay", -1),
            ("warmup", 2),
        ],
    )
    def test_what_cannot_be(self, name, value):
        with pytest.raises(ValueError, match=name):
            Recipe(**{name: value})
