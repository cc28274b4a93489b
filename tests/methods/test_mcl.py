"""MCL: stages that begin anew, batches of what earlier stages put together, and all stages as one encoder."""

import lightning
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

import counterpoint as cp
from counterpoint import views
from counterpoint.encoders import build
from counterpoint.experiments import training
from counterpoint.methods import Recipe
from counterpoint.methods.vision.mcl import MCL
from counterpoint.methods.vision.simclr import SimCLR
from counterpoint.mining import Grouping, spherical_kmeans
from counterpoint.objectives import GroupNTXent
from counterpoint.objectives.inputs import normalize

SHAPE, ITEMS = (3, 16, 16), 24
QUICK = {
    "limit": 400, "batch_size": 64, "threads": 1, "progress": False, "report": False, "monitor": 0, "evaluate": False,
    "encoder_options": {"widths": [8, 16]},
}  # fmt: skip


def make(**options):
    torch.manual_seed(0)
    encoder = build("convnet", SHAPE, widths=(8, 16))
    made = views.resolve("simclr", modality="image", shape=SHAPE)
    return MCL(encoder, made, Recipe(warmup=0.0), **{"items": ITEMS, "clusters": 3, "dim": 8, **options})


def fit(tmp_path, name="run", method="mcl", epochs=4, **options):
    settings = {**QUICK, **{key: options.pop(key) for key in list(options) if key in cp.fit.__kwdefaults__}}
    return cp.fit("digits", method, out=str(tmp_path / name), epochs=epochs, options=options, **settings)


def weights(run):
    return load_file(run.folder / "encoder" / "model.safetensors")


def member(run, k):
    prefix = f"backbone.members.{k}."
    return {name.removeprefix(prefix): x for name, x in weights(run).items() if name.startswith(prefix)}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def state(module):
    return {name: x.detach().clone() for name, x in module.state_dict().items()}


def watched(monkeypatch, look):
    """What ``look(module, batch, trainer)`` sees before each step of the fits to come."""
    seen, before = [], training.SeedSteps.on_train_batch_start

    def hook(self, trainer, module, batch, batch_idx):
        before(self, trainer, module, batch, batch_idx)
        seen.append(look(module, batch, trainer))

    monkeypatch.setattr(training.SeedSteps, "on_train_batch_start", hook)
    return seen


@pytest.mark.paper(14, "trains")
def test_it_learns_from_real_images(tmp_path):
    run = fit(
        tmp_path, epochs=8, limit=1000, batch_size=100, seed=1, encoder_options={"widths": [16, 32, 64]}, monitor=3,
        clusters=5,
    )  # fmt: skip
    untrained = fit(tmp_path, "untrained", "untrained", limit=1000, seed=1, evaluate=True)
    knn = [row["knn"] for row in run.metrics if "knn" in row]
    assert knn[-1] > max(0.7, untrained.scores["knn"])
    for rows in (run.metrics[:4], run.metrics[4:]):
        assert rows[-1]["loss"] < rows[0]["loss"]
    assert run.metrics[4]["loss"] > run.metrics[3]["loss"]  # the negatives have become harder
    assert run.metrics[-1]["collapse"] is None
    assert [row.get("groups") for row in run.metrics] == [None] * 4 + [5] * 4


def test_the_first_stage_is_simclr(tmp_path):
    whole, plain = fit(tmp_path, clusters=4), fit(tmp_path, "plain", "simclr", 2)
    assert same(member(whole, 0), weights(plain))
    assert [row["loss"] for row in whole.metrics[:2]] == [row["loss"] for row in plain.metrics]


@pytest.mark.parametrize("init", ["restart", "continue"])
def test_where_a_stage_begins(tmp_path, monkeypatch, init):
    seen = watched(
        monkeypatch,
        lambda module, batch, trainer: (
            module.reached, state(module.current()), len(trainer.optimizers[0].state),
            trainer.optimizers[0].param_groups[0]["lr"],
        ),
    )  # fmt: skip
    run = fit(tmp_path, epochs=3, stages=3, clusters=3, init=init)
    steps = len(seen) // 3
    assert [reached for reached, *_ in seen] == [0] * steps + [1] * steps + [2] * steps
    first, *later = [seen[stage * steps] for stage in range(3)]
    for before, begun in zip((seen[steps - 1], seen[2 * steps - 1]), later, strict=True):
        assert same(begun[1], first[1]) == (init == "restart")
        assert not same(begun[1], before[1])
        assert begun[2] == 0  # no momentum is left
        assert begun[3] == first[3] > before[3]  # the schedule begins again
    if init == "continue":
        kept = {name.removeprefix("encoder."): x for name, x in later[0][1].items() if name.startswith("encoder.")}
        assert same(member(run, 0), kept)


@pytest.mark.parametrize("last_stage_only", [False, True])
def test_batches_are_of_what_all_stages_put_together(tmp_path, monkeypatch, last_stage_only):
    seen = watched(
        monkeypatch,
        lambda module, batch, trainer: (
            batch.get("group"), module.clusters_of[: module.reached, batch["index"]], state(module._members[0]),
        ),
    )  # fmt: skip
    run = fit(tmp_path, epochs=3, stages=3, clusters=3, least=4, small="drop", last_stage_only=last_stage_only)
    steps = len(seen) // 3
    assert all(group is None for group, *_ in seen[:steps])
    mixed = 0
    for group, clusters, first in seen[steps:]:
        assert len(group.unique()) == 1
        assert len(clusters[-1].unique()) == 1
        mixed += len(clusters[0].unique()) > 1
        assert same(first, member(run, 0))  # a stage that is done stays as it is
    assert (mixed > 0) == last_stage_only


def test_clusters_are_those_of_the_stage_before(tmp_path, monkeypatch):
    kept = {}
    watched(monkeypatch, lambda module, batch, trainer: kept.setdefault(module.reached, module))
    for space in ("projection", "features"):
        kept.clear()
        run = fit(tmp_path, space, epochs=2, clusters=4, space=space)
        module, train = kept[1], np.load(run.folder / "splits.npz")["train"]
        x = cp.data.load("digits", limit=400)[train]["image"]
        h = run.encoder().backbone.members[0].embed(x)
        vectors = run.model().projector.heads[0](h).detach() if space == "projection" else h
        found = spherical_kmeans(normalize(vectors), 4, 100, torch.Generator().manual_seed(0))[1]
        agree = (module.clusters_of[0, torch.from_numpy(train)] == found).float().mean()
        assert agree > 0.97  # but for rounding at the borders
        others = torch.ones(400, dtype=torch.bool)
        others[torch.from_numpy(train)] = False
        assert (module.clusters_of[0, others] == -1).all()


@pytest.mark.parametrize(
    ("options", "stops"),
    [
        ({}, (3, 5, 6, 11)),  # within stage 0, at the seam, after it, within stage 2
        ({"init": "continue", "order": "random"}, (5,)),
        ({"sampling": "mask", "stage": 1}, (11,)),
    ],
    ids=str,
)
def test_a_run_killed_in_any_stage_resumes_bit_for_bit(tmp_path, monkeypatch, options, stops):
    settings = {"epochs": 3, "stages": 3, "clusters": 3, "checkpoint_seconds": 0.0, **options}
    whole = fit(tmp_path, "whole", **settings)
    write = training.Checkpointer.on_train_batch_start
    for stop in stops:
        calls = []

        def die(self, *arguments, stop=stop, calls=calls):
            write(self, *arguments)
            calls.append(0)
            if len(calls) == stop:
                raise KeyError("killed")

        monkeypatch.setattr(training.Checkpointer, "on_train_batch_start", die)
        with pytest.raises(KeyError, match="killed"):
            fit(tmp_path, str(stop), **settings)
        monkeypatch.setattr(training.Checkpointer, "on_train_batch_start", write)
        resumed = fit(tmp_path, str(stop), resume=True, **settings)
        assert same(weights(resumed), weights(whole))
        drop = {"seconds"}
        assert [{k: v for k, v in row.items() if k not in drop} for row in resumed.metrics] == [
            {k: v for k, v in row.items() if k not in drop} for row in whole.metrics
        ]
        assert resumed.status["notes"] == whole.status["notes"]


def test_an_interrupted_run_leaves_the_stages_there_are(tmp_path, monkeypatch):
    def stop(self, trainer, module, *_):
        if module.reached == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.Checkpointer, "on_train_batch_start", stop)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, epochs=3, stages=3, clusters=3)
    assert cp.load(tmp_path / "run").features == 2 * 16


def test_all_stages_are_kept_or_one(tmp_path):
    both, one = fit(tmp_path, clusters=4, evaluate=True), fit(tmp_path, "one", clusters=4, stage=0)
    x = torch.rand(5, 1, 8, 8)
    encoder, model = both.encoder(), both.model()
    assert encoder.features == 2 * 16
    parts = [encoder.backbone.members[k].embed(x) for k in range(2)]
    torch.testing.assert_close(encoder.embed(x), torch.cat(parts, 1))
    z = [head(h) for head, h in zip(model.projector.heads, parts, strict=True)]
    torch.testing.assert_close(model.project(x), torch.cat(z, 1))
    assert both.embeddings["features"].shape[1] == 2 * 16
    torch.testing.assert_close(one.encoder().embed(x), parts[0])
    torch.testing.assert_close(one.model().project(x), z[0])
    found = both.findings
    assert [figure.title for figure in found] == ["Labels in the clusters of stage 0"]
    np.testing.assert_allclose(np.asarray(found[0].values).sum(1), 1, rtol=1e-5)


def test_a_first_stage_that_is_given(tmp_path):
    """All epochs are of the later stages, which begin from its weights; a run of SimCLR, or a stage kept alone."""
    plain = fit(tmp_path, "plain", "simclr", 1)
    options = {"first": "given", "space": "features", "clusters": 4}
    settings = {name: value for name, value in QUICK.items() if name != "encoder_options"}
    for number, start in enumerate((plain, fit(tmp_path, "one", epochs=2, clusters=4, stage=0))):
        run = cp.fit(
            "digits", "mcl", out=str(tmp_path / f"on{number}"), epochs=2, encoder=str(start.folder), options=options,
            **settings,
        )  # fmt: skip
        assert [row["groups"] for row in run.metrics] == [4, 4]
        assert same(member(run, 0), weights(plain) if number == 0 else member(start, 0))
        assert not same(member(run, 1), member(run, 0))
    with pytest.raises(ValueError, match=r"^space: expected 'features' where the first stage is given"):
        make(first="given")


def test_features_of_length_one(tmp_path):
    run = fit(tmp_path, clusters=4, normalize_each=True)
    h = run.encoder().embed(torch.rand(5, 1, 8, 8)).view(5, 2, 16)
    torch.testing.assert_close(h.norm(dim=2), torch.ones(5, 2))


class WithinPatients(SimCLR):
    """As in docs/stages.md: a method of the user's own that asks for groups."""

    def __init__(self, encoder, views=None, recipe=None, *, patients):
        super().__init__(encoder, views, recipe)
        self.patients = torch.tensor(patients)

    def grouping(self):
        return Grouping(self.patients, small="merge", least=16)


def test_any_method_can_ask_for_groups(tmp_path, monkeypatch):
    patients = [i % 7 if i % 50 else 9 for i in range(400)]
    seen = watched(monkeypatch, lambda module, batch, trainer: module.patients[batch["index"]].unique().tolist())
    run = fit(tmp_path, method=WithinPatients, epochs=3, patients=patients)
    assert {len(who) for who in seen} == {1, 2}  # patient 9 has but 8 pictures
    assert {len(who) for who in seen if 9 not in who} == {1}
    assert sorted({each for who in seen for each in who}) == [0, 1, 2, 3, 4, 5, 6, 9]
    assert run.status["notes"] == [
        "epochs 0 to 2: each batch is of one of 7 groups; too small for a batch: 1 groups, merged with their neighbours"
    ]


def test_small_groups_do_not_vanish_unseen(tmp_path):
    dropped = fit(tmp_path, epochs=2, clusters=40, small="drop", least=8)
    row = dropped.metrics[-1]
    assert row["small_groups"] > 0
    assert row["unseen_items"] > 0
    assert dropped.status["notes"] == [
        f"epochs 1 to 1: each batch is of one of {row['groups']} groups; too small for a batch: {row['small_groups']} "
        f"groups, left out with {row['unseen_items']} items"
    ]
    merged = fit(tmp_path, "merged", epochs=2, clusters=40, least=8)
    assert "unseen_items" not in merged.metrics[-1]
    assert merged.status["notes"][0].endswith(" groups, merged with their neighbours")
    with pytest.raises(ValueError, match=r"^groups: none of the \d+ groups has the 64 items of a batch"):
        fit(tmp_path, "none", epochs=2, clusters=40, small="drop", least=None)


def test_clusters_that_stay_empty(tmp_path):
    """Items that are all alike make one cluster, and stage 1 is as stage 0."""
    x = np.full((100, 8, 8), 128, dtype=np.uint8)
    x[:50] = 0
    run = cp.fit(x, "mcl", out=str(tmp_path / "run"), epochs=2, options={"clusters": 7}, **{**QUICK, "batch_size": 16})
    assert run.metrics[-1]["groups"] <= 2
    assert all(torch.isfinite(value).all() for value in weights(run).values())


def test_vectors_of_zeros_are_clustered():
    method = make()
    vectors = torch.randn(ITEMS, 8)
    vectors[::3] = 0
    method.cluster(vectors, torch.arange(ITEMS))
    found = method.clusters_of[0]
    assert ((found >= 0) & (found < 3)).all()
    assert len(found[::3].unique()) == 1
    with pytest.raises(ValueError, match=r"^clusters: expected at most 2, the items to cluster, got 3"):
        method.cluster(vectors[:2], torch.arange(2))


def train(method, epochs=2, shown=20, index=True, **settings):
    """Epochs of two steps of ten items under a plain Trainer."""
    pictures = torch.randint(0, 256, (shown, *SHAPE), dtype=torch.uint8)
    items = [{"image": x, **({"index": number} if index else {})} for number, x in enumerate(pictures)]
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **settings,
    )  # fmt: skip
    trainer.fit(method, DataLoader(items, batch_size=10))
    return method


@pytest.mark.filterwarnings("ignore")
def test_a_mixed_batch_has_the_negatives_of_each_anchors_group():
    method = train(make()).eval()
    assert method.reached == 1
    crops, index = [torch.rand(6, *SHAPE) for _ in range(2)], torch.tensor([3, 19, 7, 0, 11, 5])
    z1, z2 = (method._heads[1](method._members[1](crop)) for crop in crops)
    expected = GroupNTXent(0.5)(z1, z2, method.clusters_of[0, index])
    torch.testing.assert_close(method.loss(crops, {"index": index}), expected, rtol=1e-4, atol=1e-5)
    plain = GroupNTXent(0.5)(z1, z2)
    drawn = {"index": index, "group": torch.zeros(6, dtype=torch.int64)}
    torch.testing.assert_close(method.loss(crops, drawn), plain, rtol=1e-4, atol=1e-5)
    assert not torch.isclose(plain, expected)


@pytest.mark.filterwarnings("ignore")
def test_what_is_accumulated_is_one_step():
    method = train(make(stages=3), epochs=3, accumulate_grad_batches=2)
    assert method.reached == 2


def test_stages_share_the_epochs():
    method = make()
    with pytest.warns(UserWarning, match="1 epochs are room for 1 of 2 stages"):
        train(method, epochs=1)
    assert method.reached == 0


@pytest.mark.filterwarnings("ignore")
def test_a_stage_there_is_no_time_for():
    with pytest.raises(ValueError, match=r"^stage: there will be none of number 1"):
        train(make(stage=1), epochs=1)


@pytest.mark.filterwarnings("ignore")
def test_what_has_no_answer():
    for name, value in (
        ("items", 0), ("stages", 0), ("clusters", 0), ("iterations", 0), ("temperature", -1.0), ("space", "x"),
        ("init", "x"), ("sampling", "x"), ("order", "x"), ("small", "x"), ("stage", 2), ("stage", -1), ("least", 0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            make(**{name: value})
    with pytest.raises(ValueError, match=r"^index: this method needs"):
        train(make(), index=False)
    with pytest.raises(ValueError, match=r"^index: expected 0 to 9, got"):
        train(make(items=10))
    trained = train(make())
    again = MCL(trained.encoder, trained.views, items=ITEMS, clusters=3, dim=8)
    with pytest.raises(ValueError, match=r"^encoder: its stages are trained already"):
        train(again)
