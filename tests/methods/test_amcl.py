"""AMCL's four methods: what they hand to their objectives, and that they learn."""

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

import counterpoint as cp
from counterpoint import methods
from counterpoint.encoders import build
from counterpoint.methods import Recipe
from counterpoint.methods.vision.amcl import AMCL
from counterpoint.methods.vision.amcl_barlow import AMCLBarlow
from counterpoint.methods.vision.amcl_moco import AMCLMoCo
from counterpoint.methods.vision.amcl_simsiam import AMCLSimSiam

KINDS = {"amcl": AMCL, "amcl_moco": AMCLMoCo, "amcl_simsiam": AMCLSimSiam, "amcl_barlow": AMCLBarlow}
every = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
IMAGE = (1, 8, 8)


def make(kind, **options):
    torch.manual_seed(0)
    return kind(build("convnet", IMAGE, widths=(8, 16)), None, Recipe(warmup=0.0), **options)


def pair(items=8, seed=0):
    made = torch.Generator().manual_seed(seed)
    return [torch.rand(items, *IMAGE, generator=made) for _ in range(2)]


def seen_by(method, views):
    """What the objective is given, and the loss."""
    given, objective = [], method.objective.forward
    method.objective.forward = lambda *z: given.extend(z) or objective(*z)
    return given, method.loss(views, {})


def train(method, steps=2, **settings):
    items = [{"views": [a, b], "label": 0} for a, b in zip(*pair(16), strict=True)]
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **settings,
    )  # fmt: skip
    trainer.fit(method, DataLoader(items, batch_size=8))
    return trainer


@pytest.mark.paper(16, "trains")
@pytest.mark.parametrize("name", KINDS)
def test_learns_from_real_images(name, tmp_path):
    """Views of an item come closer together than to others: at the start all are alike, within 0.02."""
    run = cp.fit(
        "digits", name, out=str(tmp_path / name), epochs=6, limit=1000, batch_size=100, threads=1, seed=1,
        progress=False, encoder_options={"widths": [16, 32, 64]}, options={"dim": 32}, report=False, monitor=3,
        evaluate=False,
    )  # fmt: skip
    losses = [row["loss"] for row in run.metrics]
    gap = [row["positive_similarity"] - row["negative_similarity"] for row in run.metrics if "knn" in row]
    assert losses[-1] < losses[1]
    assert gap[0] < 0.02
    assert gap[-1] > 0.1
    assert run.metrics[-1]["knn"] > 0.7  # chance is 0.1
    assert run.metrics[-1]["collapse"] is None


@pytest.mark.filterwarnings("ignore")
@every
def test_all_of_it_is_trained(kind):
    method = make(kind)
    before = {name: p.detach().clone() for name, p in method.named_parameters() if p.requires_grad}
    train(method)
    moved = {name for name, p in method.named_parameters() if name in before and not torch.equal(p, before[name])}
    assert moved == set(before)
    assert {f"objective.temperature.{part}.{c}.weight" for part in ("first", "last") for c in range(3)} <= moved


@pytest.mark.filterwarnings("ignore")
@every
def test_temperatures_are_logged(kind):
    found = train(make(kind), limit_train_batches=1, steps=1).callback_metrics
    kinds = ("positive",) if kind is AMCLSimSiam else ("positive", "negative")
    for name in kinds:
        assert 0.05 <= found[f"tau_{name}"] <= 2
        assert found[f"tau_{name}_std"] > 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("clip", [0.01, None])
def test_gradients_are_clipped_the_networks_for_themselves(clip):
    method, norms = make(AMCL, clip=clip, tau_min=1e-5), []  # the code's bound
    with torch.no_grad():
        for last in method.objective.temperature.last:
            last.bias.fill_(-8.0)

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            network = list(module.objective.parameters())
            rest = [*module.encoder.parameters(), *module.projector.parameters()]
            norms.extend(torch.nn.utils.get_total_norm([p.grad for p in part]).item() for part in (network, rest))

    train(method, steps=1, callbacks=[Watch()])
    if clip is None:
        assert min(norms) > 1
    else:
        assert norms == pytest.approx([clip, clip], rel=1e-3)


@pytest.mark.parametrize("kind", [AMCL, AMCLMoCo, AMCLBarlow])
def test_the_projection_is_all_heads_side_by_side(kind):
    method = make(kind, heads=2, dim=5).eval()
    x = pair()[0]
    z = method.project(x)
    assert z.shape == (8, 10)
    given, _ = seen_by(method, [x, x])
    torch.testing.assert_close(given[0].transpose(0, 1).flatten(1), z)


def test_options_reach_the_objective():
    options = {"heads": 2, "beta": 0.3, "negative": "logsumexp", "positive_in_denominator": True}
    bounds = {"tau_min": 0.1, "tau_max": 0.7, "temperature_hidden": 9}
    for kind in (AMCL, AMCLMoCo):
        objective = make(kind, **options, **bounds).objective
        assert (objective.beta, objective.negative, objective.positive_in_denominator) == (0.3, "logsumexp", True)
        assert (objective.temperature.tau_min, objective.temperature.tau_max) == (0.1, 0.7)
        assert [tuple(first.weight.shape) for first in objective.temperature.first] == [(9, 256)] * 2
    assert make(AMCLBarlow, lambda_=0.2).objective.twins.lambda_ == 0.2


def test_both_views_go_through_the_encoder_together():
    given, loss = seen_by(make(AMCL, dim=4), pair())
    assert [z.shape for z in given] == [(3, 8, 4)] * 2
    assert torch.isfinite(loss)


class TestMoCo:
    def test_each_head_has_its_bank_of_past_keys(self):
        method = make(AMCLMoCo, queue_size=20, dim=4)
        past = method.queue()
        (queries, keys, bank), loss = seen_by(method, pair())
        loss.backward()
        assert queries.shape == keys.shape == (3, 8, 4)
        assert torch.equal(bank, past.view(20, 3, 4).transpose(0, 1))  # not the keys of this batch
        assert torch.equal(method.queue()[:8].view(8, 3, 4).transpose(0, 1), keys)  # which the next will meet
        assert not keys.requires_grad
        torch.testing.assert_close(keys.norm(dim=2), torch.ones(3, 8))

    def test_the_queue_starts_with_random_unit_vectors_in_each_head(self):
        rows = make(AMCLMoCo, queue_size=20).queue().view(20, 3, 128)
        torch.testing.assert_close(rows.norm(dim=2), torch.ones(20, 3))
        assert all(torch.pdist(rows[:, head]).min() > 0.1 for head in range(3))

    def test_the_queue_is_a_share_of_the_data(self):
        assert AMCLMoCo.defaults_for(50_000) == {"queue_size": 4166}

    @pytest.mark.filterwarnings("ignore")
    def test_the_teacher_follows_the_student(self):
        method = make(AMCLMoCo, momentum=0.75)
        student = torch.nn.Sequential(method.encoder, method.projector)
        start = torch.nn.utils.parameters_to_vector(student.parameters()).detach()
        train(method, steps=1)
        went, moved = (
            torch.nn.utils.parameters_to_vector(network.parameters()).detach() - start
            for network in (student, method.teacher)
        )
        assert went.abs().max() > 1e-4
        torch.testing.assert_close(moved, 0.25 * went, rtol=1e-3, atol=1e-6)


class TestSimSiam:
    def test_all_heads_predict_the_projection_of_the_other_view(self):
        method = make(AMCLSimSiam, dim=6).eval()
        views = pair()
        (z1, z2, h1, h2), _ = seen_by(method, views)
        torch.testing.assert_close(h1, method.project(views[0]))
        torch.testing.assert_close(h2, method.project(views[1]))
        for z, h in ((z1, h1), (z2, h2)):
            torch.testing.assert_close(z, torch.stack([head(h) for head in method.predictors.heads]))

    def test_the_target_gets_no_gradient(self):
        """With a constant prediction, no gradient reaches anything."""
        method = make(AMCLSimSiam, dim=4)
        method.predictors.forward = lambda h: torch.ones(len(h), 12, requires_grad=True)
        method.loss(pair(), {}).backward()
        assert all(p.grad is None for p in [*method.projector.parameters(), *method.encoder.parameters()])


def test_names():
    assert {name: methods.get(name) for name in KINDS} == KINDS
