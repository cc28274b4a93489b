"""MCL on pairs: CLIP in stages, by hand and on real halves of digits."""

import lightning
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.methods.test_clip import batch_of, by_hand, halves, towers
from torch.utils.data import DataLoader

import counterpoint as cp
from counterpoint.encoders import MultimodalEncoder, StagedEncoder, build
from counterpoint.experiments import training
from counterpoint.experiments.run import Run
from counterpoint.methods import Recipe
from counterpoint.methods.multimodal.mcl_clip import MCLCLIP
from counterpoint.mining import spherical_kmeans
from counterpoint.objectives import GroupInfoNCE
from counterpoint.objectives.inputs import normalize

QUICK = {"batch_size": 64, "threads": 1, "progress": False, "report": False, "monitor": 0, "evaluate": False}
NARROW = {"encoders": {side: {"name": "mlp", "widths": [16]} for side in ("left", "right")}}


def fit(tmp_path, name="run", data=None, method="mcl_clip", epochs=4, **options):
    settings = {**QUICK, **{key: options.pop(key) for key in list(options) if key in cp.fit.__kwdefaults__}}
    if "encoder" not in settings:
        settings = {**NARROW, **settings}
    data = halves() if data is None else data
    return cp.fit(data, method, out=str(tmp_path / name), epochs=epochs, options=options, **settings)


def weights(run):
    return load_file(run.folder / "encoder" / "model.safetensors")


def member(run, k):
    """Weights of stage k under the names of an encoder of one stage."""
    part = f".members.{k}."
    return {name.replace(part, "."): x for name, x in weights(run).items() if part in name}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def staged(*names, stages=2, dim=4, rows=6, **options):
    """A method between two stages, with clusters that are known."""
    method = MCLCLIP(towers(*names), None, Recipe(warmup=0.0), dim, items=rows, stages=stages, clusters=2, **options)
    for k in range(stages - 1):
        method.clusters_of[k] = torch.tensor([0, 0, 1, 1, 0, 1])[:rows]
        method.keep()
        torch.manual_seed(k + 1)
        for name in names:  # the stages differ
            for weight in method.tower(name).parameters():
                weight.data += 0.3 * torch.randn_like(weight)
    return method


@pytest.mark.paper(14, "trains")
def test_a_second_stage_learns_from_harder_pairs(tmp_path):
    run = fit(tmp_path, data=halves(1797), epochs=16, clusters=5, monitor=2, evaluate=True, seed=1, lr=3e-3)
    losses = [row["loss"] for row in run.metrics]
    assert losses[7] < losses[0]
    assert losses[-1] < losses[8]
    assert losses[8] > losses[7]
    assert [row.get("groups") for row in run.metrics] == [None] * 8 + [5] * 8
    assert run.scores["pair_recall@10"] > 0.25  # chance is 0.03
    assert [figure.title for figure in run.findings][-1] == "Labels in the clusters of stage 0"


def test_the_first_stage_is_clip(tmp_path):
    whole, plain = fit(tmp_path, clusters=4), fit(tmp_path, "plain", method="clip", epochs=2)
    assert same(member(whole, 0), weights(plain))
    assert [row["loss"] for row in whole.metrics[:2]] == [row["loss"] for row in plain.metrics]
    assert not same(member(whole, 1), member(whole, 0))


def test_the_loss_is_that_of_clip_within_groups_by_the_last_towers():
    method, batch = staged("a", "b").eval(), batch_of("a", "b")
    x, y = (method.encoder.towers[name].members[1](batch[name]) for name in ("a", "b"))
    found = method.loss([batch], batch)
    groups = torch.tensor([0, 0, 1, 1, 0, 1])
    wanted = sum(by_hand(x[groups == k], y[groups == k], method.scale()) * 3 for k in (0, 1)) / 6
    torch.testing.assert_close(found, wanted)
    drawn = method.loss([batch], {**batch, "group": torch.zeros(6, dtype=torch.int64)})
    torch.testing.assert_close(drawn, by_hand(x, y, method.scale()))
    assert not torch.isclose(drawn, wanted)
    found.backward()
    for name in ("a", "b"):
        first, last = method.encoder.towers[name].members
        assert all(weight.grad is None and not weight.requires_grad for weight in first.parameters())
        assert all(weight.grad is not None for weight in last.parameters())


def test_pairs_with_a_gap_and_their_groups():
    some = torch.tensor([True, True, False, True, True, True])
    method, batch = staged("a", "b").eval(), batch_of("a", "b", present={"b": some})
    x, y = (method.tower(name)(batch[name])[some] for name in ("a", "b"))
    wanted = GroupInfoNCE()(x, y, torch.tensor([0, 0, 1, 0, 1]), method.scale())
    torch.testing.assert_close(method.loss([batch], batch), wanted)


@pytest.mark.parametrize("normalize_each", [False, True])
def test_the_cosine_of_all_stages_is_a_weighted_mean_of_theirs(normalize_each):
    method, batch = staged("a", "b", stages=3, normalize_each=normalize_each).eval(), batch_of("a", "b")
    z = {name: x.detach() for name, x in method.embed(batch).items()}
    assert z["a"].shape == (6, 12)
    assert method.encoder.dim == 12
    parts = {name: [tower(batch[name]).detach() for tower in method.encoder.towers[name].members] for name in z}
    if normalize_each:
        parts = {name: [normalize(part) for part in some] for name, some in parts.items()}
    inner = sum(x @ y.T for x, y in zip(parts["a"], parts["b"], strict=True))
    lengths = [torch.stack([part.square().sum(1) for part in some]).sum(0).sqrt() for some in parts.values()]
    torch.testing.assert_close(normalize(z["a"]) @ normalize(z["b"]).T, inner / torch.outer(*lengths))


def test_clusters_are_of_images_and_lack_those_that_have_none():
    encoder = MultimodalEncoder(
        {"words": build("mlp", (5,), widths=(12,)), "image": build("convnet", (1, 8, 8), widths=(4,))}
    )
    method = MCLCLIP(encoder, items=9, dim=4).eval()
    assert method.by == "image"
    pictures = torch.rand(4, 1, 8, 8)
    batch = {"words": torch.randn(4, 5), "image": pictures, "index": torch.tensor([3, 8, 1, 5])}
    there = torch.tensor([True, False, True, True])
    batch["present"] = {"words": torch.ones(4, dtype=torch.bool), "image": there}
    found, index = method.vectors(batch)
    torch.testing.assert_close(found, method.tower("image")(pictures)[there])
    assert index.tolist() == [3, 1, 5]
    batch["present"]["image"] = torch.zeros(4, dtype=torch.bool)
    found, index = method.vectors(batch)
    assert found.shape == (0, 4)
    assert not len(index)
    assert MCLCLIP(towers("a", "b"), items=9).by == "a"
    assert MCLCLIP(towers("a", "b"), items=9, by="b", space="features").vectors(batch_of("a", "b"))[0].shape == (6, 12)


def test_items_without_the_clustered_modality_are_a_group(tmp_path):
    data = halves()
    data.parts["left"].at[::5] = -1
    run = fit(tmp_path, data=data, epochs=2, clusters=4, least=8)
    assert run.metrics[-1]["groups"] == 5
    assert all(torch.isfinite(value).all() for value in weights(run).values())


def test_clusters_are_those_of_the_stage_before(tmp_path, monkeypatch):
    kept, before = {}, training.SeedSteps.on_train_batch_start

    def hook(self, trainer, module, batch, batch_idx):
        before(self, trainer, module, batch, batch_idx)
        kept.setdefault(module.reached, module)

    monkeypatch.setattr(training.SeedSteps, "on_train_batch_start", hook)
    run = fit(tmp_path, epochs=2, clusters=4)
    module, train = kept[1], torch.from_numpy(np.load(run.folder / "splits.npz")["train"])
    tower = run.encoder().eval().towers["left"].members[0]
    vectors = tower(halves()[train.numpy()]["left"]).detach()
    found = spherical_kmeans(normalize(vectors), 4, 100, torch.Generator().manual_seed(0))[1]
    assert (module.clusters_of[0, train] == found).float().mean() > 0.97  # but for rounding at the borders


@pytest.mark.parametrize("options", [{}, {"init": "continue"}, {"sampling": "mask", "stage": 1}], ids=str)
def test_a_run_killed_in_any_stage_resumes_bit_for_bit(tmp_path, monkeypatch, options):
    settings = {"epochs": 3, "stages": 3, "clusters": 3, "checkpoint_seconds": 0.0, **options}
    whole = fit(tmp_path, "whole", **settings)
    write = training.Checkpointer.on_train_batch_start
    for stop in (6, 11):
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
        assert same(weights(fit(tmp_path, str(stop), resume=True, **settings)), weights(whole))


def test_a_run_opens_with_all_stages_or_one(tmp_path):
    both, one = fit(tmp_path, clusters=4), fit(tmp_path, "one", clusters=4, stage=0)
    batch = halves()[np.arange(5)]
    encoder = both.encoder().eval()
    assert isinstance(encoder, StagedEncoder)
    assert (encoder.stages, encoder.dim, encoder.features_of) == (2, 256, {"left": 32, "right": 32})
    parts = [encoder.stage(k)(batch)["left"] for k in range(2)]
    torch.testing.assert_close(encoder(batch)["left"], torch.cat(parts, 1))
    torch.testing.assert_close(one.encoder().eval()(batch)["left"], parts[0])
    opened = Run(both.folder).model()
    torch.testing.assert_close(opened.embed(batch)["right"], encoder(batch)["right"])
    assert opened.scale().item() == pytest.approx(both.encoder().extra["scale"])
    encoder.stage(1).save(tmp_path / "alone")
    torch.testing.assert_close(cp.load(tmp_path / "alone").eval()(batch)["left"], parts[1])


def test_a_first_stage_that_is_given(tmp_path):
    """The official way: stage 0 is a trained run, and its weights and temperature are where the others start."""
    clip = fit(tmp_path, "clip", method="clip")
    options = {"first": "given", "stages": 3, "clusters": 3, "freeze": ["right"]}
    run = cp.fit(
        halves(), "mcl_clip", out=str(tmp_path / "mcl"), epochs=2, encoder=str(clip.folder), options=options,
        **QUICK,
    )  # fmt: skip
    assert same(member(run, 0), weights(clip))
    assert ["groups" in row for row in run.metrics] == [True, True]
    assert run.encoder().stages == 3
    right = {name: x for name, x in member(run, 0).items() if name.startswith("towers.right.encoder")}
    for k in (1, 2):
        now = member(run, k)
        assert all(torch.equal(now[name], x) for name, x in right.items())  # locked
        assert not same(now, weights(clip))
    encoder = clip.encoder()
    method = MCLCLIP(encoder, items=400, first="given")
    assert method.scale().item() == pytest.approx(encoder.extra["scale"])
    assert method.facts()["scale"] != pytest.approx(1 / 0.07)
    with pytest.raises(ValueError, match=r"^first: 'given' needs towers that are trained"):
        MCLCLIP(towers("a", "b"), items=9, first="given")
    with pytest.raises(ValueError, match=r"^dim: expected 128"):
        MCLCLIP(clip.encoder(), dim=64, items=9, first="given")
    with pytest.raises(ValueError, match=r"^stages: expected at least 2"):
        MCLCLIP(clip.encoder(), items=9, first="given", stages=1)


def test_a_stage_that_was_kept_alone_is_trained_on(tmp_path):
    one = fit(tmp_path, "one", clusters=3, epochs=2, stage=1)
    options = {"first": "given", "clusters": 3}
    run = cp.fit(
        halves(), "mcl_clip", out=str(tmp_path / "on"), epochs=1, encoder=str(one.folder), options=options, **QUICK
    )
    assert run.encoder().stages == 2
    assert same(member(run, 0), member(one, 0))
    assert not same(member(run, 1), member(one, 0))


@pytest.mark.filterwarnings("ignore")
def test_stages_that_are_trained_share_the_epochs():
    encoder = towers("a", "b", dim=4)
    method = MCLCLIP(encoder, None, Recipe(), items=12, clusters=2, first="given", stages=3)
    batch = batch_of("a", "b", rows=12)
    items = [{"a": batch["a"][i], "b": batch["b"][i], "index": i} for i in range(12)]
    trainer = lightning.Trainer(
        max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(method, DataLoader(items, batch_size=6))
    assert method.starts == [0, 0, 2]
    assert method.reached == 2


def test_layers_of_a_tower_that_stay():
    def pictured():
        torch.manual_seed(0)
        image = build("convnet", (1, 8, 8), widths=(4, 8, 8))
        return MultimodalEncoder({"image": image, "words": build("mlp", (5,), widths=(12,))})

    method = MCLCLIP(pictured(), items=9, freeze={"image": 2, "words": True})
    learning = {name for name, p in method.tower("image").named_parameters() if p.requires_grad}
    assert learning
    assert {name for name, p in MCLCLIP(pictured(), items=9).tower("image").named_parameters()} > learning
    assert not method.tower("image").frozen
    assert method.tower("words").frozen
    batch = {"image": torch.rand(6, 1, 8, 8), "words": torch.randn(6, 5), "index": torch.arange(6)}
    method.loss([batch], batch).backward()
    assert all((p.grad is not None) == p.requires_grad for p in method.tower("image").parameters())
    with pytest.raises(ValueError, match="freeze: expected 0 to 3 stages"):
        MCLCLIP(pictured(), items=9, freeze={"image": 4})


def test_what_it_refuses():
    for name, value in (
        ("items", 0),
        ("clusters", 0),
        ("space", "x"),
        ("first", "x"),
        ("stage", 2),
        ("temperature", 0.0),
    ):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            MCLCLIP(towers("a", "b"), **{"items": 9, name: value})
    with pytest.raises(ValueError, match="by: there is no modality 'c'; there are a, b"):
        MCLCLIP(towers("a", "b"), items=9, by="c")
    with pytest.raises(ValueError, match="modalities: MCLCLIP needs 2"):
        MCLCLIP(towers("a"), items=9)
    batch = batch_of("a", "b")
    with pytest.raises(ValueError, match="index: expected 0 to 1"):
        staged("a", "b", rows=2).loss([batch], batch)
