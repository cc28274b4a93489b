"""DeepCluster-v2: a memory by item, clusters before each epoch, prototypes without gradient."""

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

import counterpoint as cp
from counterpoint import views
from counterpoint.encoders import build
from counterpoint.experiments import training
from counterpoint.methods import Recipe
from counterpoint.methods.vision.deepcluster import DeepCluster

SHAPE, ITEMS = (3, 16, 16), 24


def make(spec="swav", **options):
    torch.manual_seed(0)
    encoder = build("convnet", SHAPE, widths=(8, 16))
    made = views.resolve(spec, modality="image", shape=SHAPE)
    options = {"items": ITEMS, "prototypes": 5, "heads": 3, "dim": 8, **options}
    return DeepCluster(encoder, made, Recipe(warmup=0.0), **options)


def crops(items=6, seed=0):
    made = torch.Generator().manual_seed(seed)
    return [torch.rand(items, 3, size, size, generator=made) for size in (16, 16, 8)]


class Watch(lightning.Callback):
    """What each batch of the training meets."""

    def __init__(self):
        self.seen, self.prototypes, self.assignments, self.memory = [], [], [], []

    def on_train_batch_start(self, trainer, module, *_):
        self.seen.append(int(module.seen.sum()))
        for name in ("memory", "assignments"):
            getattr(self, name).append(getattr(module, name).clone())
        self.prototypes.append(module.prototypes.weight.clone())


def train(method, epochs=2, shown=20):
    """Epochs of two steps of ten items; the data set has more."""
    pictures = torch.randint(0, 256, (shown, *SHAPE), dtype=torch.uint8)
    items = [{"image": x, "index": number} for number, x in enumerate(pictures)]
    watch = Watch()
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[watch],
    )  # fmt: skip
    trainer.fit(method, DataLoader(items, batch_size=10))
    return watch


def test_it_learns_from_real_images(tmp_path):
    run = cp.fit(
        "digits", "deepcluster", out=str(tmp_path / "run"), epochs=6, limit=1000, batch_size=100, threads=1, seed=1,
        progress=False, encoder_options={"widths": [16, 32, 64]}, report=False, monitor=3, evaluate=False,
    )  # fmt: skip
    knn = [row["knn"] for row in run.metrics if "knn" in row]
    assert knn[-1] > 0.7  # chance is 0.1
    assert run.metrics[-1]["loss"] < run.metrics[0]["loss"]
    assert run.metrics[-1]["collapse"] is None


@pytest.mark.filterwarnings("ignore")
def test_clusters_are_made_before_each_epoch():
    method = make()
    watch = train(method)
    assert watch.seen == [20] * 4  # a pass over the data came first
    same = [torch.equal(a, b) for a, b in zip(watch.prototypes, watch.prototypes[1:], strict=False)]
    assert same == [True, False, True]
    same = [torch.equal(a, b) for a, b in zip(watch.assignments, watch.assignments[1:], strict=False)]
    assert same == [True, False, True]
    assert ((watch.assignments[0] >= 0) == (torch.arange(ITEMS) < 20)).all()
    # each item is where its embedding, of the epoch before, is nearest
    for head in range(3):
        centroids = watch.prototypes[2].view(3, 5, 8)[head]
        nearest = (watch.memory[2][head % 2, :20] @ centroids.T).argmax(1)
        assert torch.equal(watch.assignments[2][head, :20], nearest)
    assert len({tuple(each.tolist()) for each in watch.assignments[2]}) == 3


@pytest.mark.filterwarnings("ignore")
def test_the_encoder_learns_and_no_step_moves_the_prototypes():
    method = make()
    before = torch.cat([p.detach().flatten().clone() for p in method.encoder.parameters()])
    train(method, 1)
    after = torch.cat([p.detach().flatten() for p in method.encoder.parameters()])
    assert ((after - before).abs() > 0).float().mean() > 0.5
    assert not method.prototypes.weight.requires_grad


def test_the_loss_is_a_cross_entropy_with_the_items_clusters():
    method, index = make().eval(), torch.tensor([3, 20, 7, 0, 11, 5])
    method.assignments[:] = torch.randint(0, 5, (3, ITEMS), generator=torch.Generator().manual_seed(1))
    method.assignments[:, [20, 5]] = -1  # not yet shown
    z = torch.stack([torch.nn.functional.normalize(method.project(crop), dim=1) for crop in crops()])
    logits = torch.einsum("vbd,hkd->vhbk", z, method.prototypes.weight.view(3, 5, 8)) / 0.1
    known = [0, 2, 3, 4]
    picked = torch.stack(
        [logits[v, h, b].log_softmax(0)[method.assignments[h, index[b]]]
         for v in range(3) for h in range(3) for b in known]
    )  # fmt: skip
    torch.testing.assert_close(method.loss(crops(), {"index": index}), -picked.mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(method.memory[:, index], z[:2].detach(), rtol=1e-4, atol=1e-5)
    assert torch.equal(method.seen.nonzero()[:, 0], index.sort().values)


def test_items_never_shown_have_no_loss():
    loss = make().loss(crops(), {"index": torch.arange(6)})
    assert loss.item() == 0
    loss.backward()


def test_memory_and_clusters_are_checkpointed(tmp_path, monkeypatch):
    """A run killed within an epoch, and at the seam of two, ends as one that was not."""
    settings = {
        "epochs": 3, "limit": 300, "batch_size": 64, "threads": 1, "progress": False, "report": False, "monitor": 0,
        "evaluate": False, "encoder_options": {"widths": [8, 16]}, "checkpoint_seconds": 0.0,
    }  # fmt: skip
    whole = cp.fit("digits", "deepcluster", out=str(tmp_path / "whole"), **settings)
    write = training.Checkpointer.on_train_batch_start
    for stop in (1, 5, 7):
        calls = []

        def die(self, *arguments, stop=stop, calls=calls):
            write(self, *arguments)
            calls.append(0)
            if len(calls) == stop:
                raise KeyError("killed")

        monkeypatch.setattr(training.Checkpointer, "on_train_batch_start", die)
        with pytest.raises(KeyError, match="killed"):
            cp.fit("digits", "deepcluster", out=str(tmp_path / str(stop)), **settings)
        monkeypatch.setattr(training.Checkpointer, "on_train_batch_start", write)
        resumed = cp.fit("digits", "deepcluster", out=str(tmp_path / str(stop)), resume=True, **settings)
        assert [row["loss"] for row in resumed.metrics] == [row["loss"] for row in whole.metrics]


@pytest.mark.parametrize(("items", "k"), [(24, 2), (1797, 44), (1_281_167, 3000)])
def test_prototypes_are_a_matter_of_the_data(items, k):
    assert make(items=items, prototypes=None, dim=2, n_assign=1).k == k


def test_what_has_no_answer():
    with pytest.raises(ValueError, match=r"^index: this method needs"):
        make().loss(crops(), {})
    for wrong in (ITEMS, -1):
        with pytest.raises(ValueError, match=f"^index: expected 0 to {ITEMS - 1}, got"):
            make().loss(crops(), {"index": torch.tensor([0, 1, 2, 3, 4, wrong])})
    with pytest.raises(ValueError, match=r"^views: DeepCluster needs at least 2 crops, and there are 1"):
        make().loss(crops()[:1], {"index": torch.arange(6)})
    with pytest.raises(ValueError, match=r"^prototypes: expected at most 0, the items to cluster"):
        make().cluster()
    for name, value in (("items", 0), ("heads", 0), ("temperature", -1.0), ("n_assign", 0)):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            make(**{name: value})
