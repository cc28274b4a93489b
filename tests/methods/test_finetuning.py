"""Fine-tuning: what each method trains and how, and from which weights a run goes on."""

import copy

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import counterpoint as cp
from counterpoint.encoders import build
from counterpoint.methods import Recipe, get
from counterpoint.methods.finetuning.core_tuning import CoreTuning
from counterpoint.methods.finetuning.finetune_ce import FinetuneCE
from counterpoint.methods.finetuning.finetune_supcon import FinetuneSupCon
from counterpoint.methods.finetuning.linear_probe import LinearProbe
from counterpoint.mining import generate_hard_pairs
from counterpoint.objectives import FocalSupCon, SupCon

IMAGE = (1, 8, 8)
KINDS = [CoreTuning, FinetuneCE, FinetuneSupCon, LinearProbe]
every = pytest.mark.parametrize("kind", KINDS)


def make(kind, **options):
    torch.manual_seed(0)
    return kind(build("convnet", IMAGE, widths=(8, 16)), classes=3, **options).train()


def batch(items=12, seed=0):
    made = torch.Generator().manual_seed(seed)
    return [torch.rand(items, *IMAGE, generator=made) for _ in range(2)], torch.arange(items) % 3


def loss(method, views, labels):
    torch.manual_seed(1)
    return method.loss(views, {"label": labels})


def gradients(method):
    """Which parts get a gradient that is not 0."""
    parts = {"encoder": method.encoder, "classifier": method.classifier, "head": method.projector}
    return {
        name for name, part in parts.items()
        if any(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())
    }  # fmt: skip


@every
def test_what_is_trained(kind):
    method = make(kind)
    loss(method, *batch()).backward()
    expected = {"encoder", "classifier", "head"}
    expected -= {"encoder"} if kind is LinearProbe else set()
    expected -= {"head"} if kind in (FinetuneCE, LinearProbe) else set()
    assert gradients(method) == expected
    assert method.classifier.bias is None
    assert method.classifier.out_features == 3


@every
def test_unlabelled_items_are_left_out(kind):
    views, labels = batch(8)
    hidden = torch.cat([labels, torch.full((4,), -1)])
    more = [torch.cat([view, torch.rand(4, *IMAGE)]) for view in views]
    torch.testing.assert_close(loss(make(kind), more, hidden), loss(make(kind), views, labels))
    with pytest.raises(ValueError, match=r"^labels: none of the 12 items"):
        loss(make(kind), more, torch.full((12,), -1))


def test_cross_entropy_and_its_companions():
    views, labels = batch()
    plain, contrast = make(FinetuneCE), make(FinetuneSupCon, eta=0.3)
    features = plain.encoder(torch.cat(views))
    expected = cross_entropy(features @ plain.classifier.weight.T, labels.repeat(2))
    torch.testing.assert_close(loss(plain, views, labels), expected)
    contrast.classifier.load_state_dict(plain.classifier.state_dict())
    more = SupCon(0.07)(contrast.projector(features), labels.repeat(2))
    torch.testing.assert_close(loss(contrast, views, labels), expected + 0.3 * more)
    alone = [views[0][:3]]  # no label twice
    torch.testing.assert_close(loss(contrast, alone, labels[:3]), loss(plain, alone, labels[:3]))


def test_core_tuning_step_by_step():
    views, labels = batch()
    method = make(CoreTuning, eta=0.4, alpha=0.5, temperature=0.2)
    found = loss(method, views, labels)
    features = method.encoder(torch.cat(views))
    torch.manual_seed(1)
    rows, targets = generate_hard_pairs(features, labels.repeat(2), 3, alpha=0.5)
    assert len(rows) == 3 * 2 * 12
    expected = cross_entropy(method.classifier(rows), targets)
    expected = expected + 0.4 * FocalSupCon(0.2)(method.projector(rows), targets)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "options",
    [{"eta": 0.5}, {"alpha": 0.1}, {"neg_min_lambda": 0.1}, {"temperature": 1.0}, {"compat": "official"},
     {"normalize_by": "all"}],
)  # fmt: skip
def test_options_reach_the_loss(options):
    assert loss(make(CoreTuning, **options), *batch()) != loss(make(CoreTuning), *batch())


def test_options_that_change_gradients_alone():
    given = batch()
    plain = make(CoreTuning)
    loss(plain, *given).backward()
    for options in ({"detach_weight": True}, {"official_detach": True}):
        other = make(CoreTuning, **options)
        value = loss(other, *given)
        torch.testing.assert_close(value, loss(plain, *given))
        value.backward()
        assert not torch.allclose(
            other.encoder.backbone.layers[0].weight.grad, plain.encoder.backbone.layers[0].weight.grad
        )
    torch.testing.assert_close(other.classifier.weight.grad, plain.classifier.weight.grad)  # it sees all rows


def test_batches_of_one_class_and_of_two_items():
    views, _ = batch(2)
    for labels in (torch.zeros(2).long(), torch.tensor([0, 1])):
        for given in (views, views[:1]):
            method = make(CoreTuning)
            value = loss(method, given, labels)
            value.backward()
            assert torch.isfinite(value)
            assert torch.isfinite(method.encoder.backbone.layers[0].weight.grad).all()


def test_views_of_two_sizes():
    method, labels = make(CoreTuning), torch.arange(6) % 3
    views = [torch.rand(6, *IMAGE), torch.rand(6, 1, 6, 6), torch.rand(6, *IMAGE)]
    assert torch.isfinite(loss(method, views, labels))


class TestFreezing:
    def test_a_probe_leaves_its_encoder_alone(self):
        method = make(LinearProbe)
        before = copy.deepcopy(method.encoder.state_dict())
        loss(method.train(), *batch()).backward()
        assert not any(p.requires_grad for p in method.encoder.parameters())
        after = method.encoder.state_dict()
        assert all(torch.equal(after[name], before[name]) for name in before)  # running statistics too

    @pytest.mark.parametrize(
        ("name", "options"), [("convnet", {"widths": (8, 16, 16)}), ("mlp", {"widths": (9, 9, 9)})]
    )
    def test_the_first_stages(self, name, options):
        torch.manual_seed(0)
        encoder = build(name, IMAGE, **options)
        encoder.freeze(2)
        encoder.train()
        before = copy.deepcopy(encoder.state_dict())
        encoder(torch.rand(8, *IMAGE)).sum().backward()
        learns = [p.requires_grad for p in encoder.parameters()]
        assert learns == [False] * 6 + [True] * 3
        moved = [n for n, v in encoder.state_dict().items() if not torch.equal(v, before[n])]
        assert len({n.rpartition(".")[0] for n in moved}) == 1  # the third norm's statistics
        assert encoder.eval() is encoder
        with pytest.raises(ValueError, match=r"^freeze: expected 0 to 3 stages"):
            encoder.freeze(4)

    def test_nothing(self):
        encoder = build("convnet", IMAGE)
        encoder.freeze(0)
        assert all(p.requires_grad for p in encoder.parameters())

    def test_stages_of_a_timm_model(self):
        pytest.importorskip("timm")
        encoder = build("resnet18", (3, 32, 32))
        encoder.freeze(2)
        learns = {name.split(".")[1]: p.requires_grad for name, p in encoder.named_parameters()}
        assert learns == {"conv1": False, "bn1": False, "layer1": False, "layer2": True, "layer3": True, "layer4": True}


def test_the_encoder_has_a_rate_of_its_own():
    method = make(CoreTuning)
    optimizer, schedule = Recipe(lr=1e-2, encoder_lr=1e-4, warmup=0, weight_decay=0.3).optimizers(method, 10)
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert rates[id(method.classifier.weight)] == (1e-2, 0.3)
    assert rates[id(method.projector[0].bias)] == (1e-2, 0.0)
    assert rates[id(method.encoder.backbone.layers[0].weight)] == (1e-4, 0.3)
    assert len(rates) == len(list(method.parameters()))
    for _ in range(5):
        optimizer.step()
        schedule.step()
    assert {round(g["lr"], 9) for g in optimizer.param_groups} == {5e-3, 5e-5}
    with pytest.raises(ValueError, match=r"^encoder_lr: expected"):
        Recipe(encoder_lr=0.0)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return cp.fit(
        "digits", "simclr", out=str(tmp_path_factory.mktemp("pre") / "simclr"), epochs=8, limit=1000, batch_size=100,
        threads=1, seed=1, progress=False, encoder_options={"widths": [16, 32, 64]}, report=False, monitor=0,
        evaluate=False,
    )  # fmt: skip


FEW = {"labels_per_class": 10, "threads": 1, "progress": False, "report": False, "monitor": 0, "limit": 1000,
       "evaluate": False}  # fmt: skip


def accuracy(run):
    """Of the classifier on the test part."""
    dataset = cp.data.load("digits", limit=1000)
    batch = dataset[np.load(run.folder / "splits.npz")["test"]]
    names = run.classifier().predict(batch["image"]).names
    return sum(dataset.classes[c] == name for c, name in zip(batch["label"], names, strict=True)) / len(names)


@pytest.mark.paper(57, "trains")
@pytest.mark.parametrize("name", ["core_tuning", "finetune_ce", "finetune_supcon", "linear_probe"])
def test_learns_from_real_images(name, pretrained, tmp_path):
    """Ten labels a class on a pre-trained encoder: better than the same from scratch, and far better than chance."""
    run = cp.finetune(str(pretrained.folder), method=name, out=str(tmp_path / name), epochs=40, **FEW)
    losses = [row["loss"] for row in run.metrics]
    assert losses[-1] < losses[0]
    assert accuracy(run) > (0.5 if name == "linear_probe" else 0.75)  # chance is 0.1
    if name == "core_tuning":
        scratch = cp.fit(
            "digits", "finetune_ce", out=str(tmp_path / "scratch"), epochs=40,
            encoder=str(pretrained.folder), encoder_options={"pretrained": False}, **FEW,
        )  # fmt: skip
        assert accuracy(run) > accuracy(scratch) + 0.02


def test_names():
    assert [get(name) for name in ("core_tuning", "finetune_ce", "finetune_supcon", "linear_probe")] == KINDS
