"""Hallucinator on MoCo, SimCLR and SimSiam: golden losses and gradients, its control, what is logged, training."""

from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from torch import nn

import counterpoint as cp
from counterpoint.encoders import build
from counterpoint.methods.vision._hallucinating import PARTS
from counterpoint.methods.vision.hallucinator_moco import HallucinatorMoCo
from counterpoint.methods.vision.hallucinator_simclr import HallucinatorSimCLR
from counterpoint.methods.vision.hallucinator_simsiam import HallucinatorSimSiam
from counterpoint.methods.vision.moco import MoCo
from counterpoint.methods.vision.simclr import SimCLR
from counterpoint.methods.vision.simsiam import SimSiam
from counterpoint.views import FeatureHallucinator

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "35-hallucinator.npz")
IMAGE = (1, 8, 8)
PARENTS = {HallucinatorMoCo: MoCo, HallucinatorSimCLR: SimCLR, HallucinatorSimSiam: SimSiam}
every = pytest.mark.parametrize("kind", PARENTS)
parity = pytest.mark.paper(35, "parity")
close = {"rtol": 1e-8, "atol": 1e-10}


def golden(name):
    return torch.from_numpy(GOLDEN[f"a_{name}"])


def make(kind, **options):
    torch.manual_seed(0)
    return kind(build("convnet", IMAGE, widths=(8, 16)), **options)


def pair(items=8):
    drawn = torch.Generator().manual_seed(0)
    return [torch.rand(items, *IMAGE, generator=drawn) for _ in range(2)]


class Given(FeatureHallucinator):
    """The golden generator, with the ratios of the golden calls."""

    def __init__(self, *ratios):
        super().__init__(6)
        self.ratios = list(ratios)
        with torch.no_grad():
            for number, layer in enumerate(self.layers[::2], 1):
                layer.weight = nn.Parameter(golden(f"fc{number}_weight"))
                layer.bias = nn.Parameter(golden(f"fc{number}_bias"))

    def forward(self, x, k, ratio=None):
        return super().forward(x, k, self.ratios.pop(0))


class Exact(nn.Module):
    """Keeps float64 where a method takes float32."""

    def doubled(self, x, k, target=None):
        return self.generator(x, k)


def exact(kind, *ratios, **options):
    method = make(type("Exact", (Exact, kind), {}), **options).double()
    method.generator = Given(*ratios)
    return method


@parity
def test_golden_moco():
    method = exact(HallucinatorMoCo, golden("ratio"), temperature=float(golden("temperature")), dim=6, queue_size=10)
    method.queue.rows.copy_(golden("queue"))
    x, keys = golden("x").requires_grad_(), nn.functional.normalize(golden("k_raw"), dim=1)
    loss = method.contrast(x, keys, {})
    torch.testing.assert_close(loss, golden("moco_loss"), **close)
    first, _, last = method.generator.layers[::2]
    found = torch.autograd.grad(loss, (x, first.weight, last.weight))
    for gradient, name in zip(found, ("x", "fc1", "fc3"), strict=True):
        torch.testing.assert_close(gradient, golden(f"moco_grad_{name}"), **close)


@parity
def test_golden_simclr():
    method = exact(HallucinatorSimCLR, golden("ratio"), temperature=float(golden("temperature")), dim=6)
    x, k = golden("x").requires_grad_(), golden("k_raw").requires_grad_()
    loss = method.objective(*method.doubled(x, k).chunk(2), k)
    torch.testing.assert_close(loss, golden("simclr_loss"), **close)
    for gradient, name in zip(torch.autograd.grad(loss, (x, k)), "xk", strict=True):
        torch.testing.assert_close(gradient, golden(f"simclr_grad_{name}"), **close)


@parity
def test_golden_simsiam():
    method = exact(HallucinatorSimSiam, golden("ratio"), golden("simsiam_ratio2"))
    p1, p2 = golden("x").requires_grad_(), golden("k_raw").requires_grad_()
    z1, z2 = (golden(name).requires_grad_() for name in ("simsiam_z1", "simsiam_z2"))
    loss = method.agree(p1, p2, z1, z2)
    torch.testing.assert_close(loss, golden("simsiam_loss"), **close)
    for gradient, name in zip(torch.autograd.grad(loss, (p1, p2), retain_graph=True), ("p1", "p2"), strict=True):
        torch.testing.assert_close(gradient, golden(f"simsiam_grad_{name}"), **close)
    assert torch.autograd.grad(loss, (z1, z2), allow_unused=True) == (None, None)  # targets are constant


@every
def test_the_control_is_the_method_without_a_generator(kind):
    """A doubled batch has the mean of a single one; SimCLR's counts every other point twice."""
    control = make(kind, hallucinate=False)
    plain = make(PARENTS[kind])
    assert len(list(control.parameters())) == len(list(plain.parameters()))
    if kind is HallucinatorMoCo:
        control.queue.load_state_dict(plain.queue.state_dict())
    loss, expected = control.loss(pair(), {}), plain.loss(pair(), {})
    if kind is HallucinatorSimCLR:
        assert loss > expected + 0.5
        masked = make(kind, hallucinate=False, mask_duplicates=True).loss(pair(), {})
        assert expected < masked < loss
    else:
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


@every
def test_a_generator_changes_the_loss_and_learns(kind):
    method = make(kind)
    loss = method.loss(pair(), {})
    loss.backward()
    assert loss != make(PARENTS[kind]).loss(pair(), {})
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in method.generator.parameters())
    assert method.encoder.backbone.layers[0].weight.grad.abs().max() > 0


@every
def test_order_of_normalising(kind):
    """Normalised first, the generator's input does not change with the length of the anchors; by default it does."""
    x, k = torch.randn(8, 16), torch.randn(8, 16)
    for first in (False, True):
        method = make(kind, dim=16, normalize_first=first, ratio=(0.05, 0.05))
        short, long = (nn.functional.normalize(method.doubled(x * scale, k), dim=1) for scale in (1, 100))
        torch.testing.assert_close(short[:8], long[:8])
        assert torch.allclose(short[8:], long[8:], atol=1e-5) == first


def test_both_directions_of_simsiam_start_from_the_predictors_outputs():
    method, seen = make(HallucinatorSimSiam), []
    generator = method.generator.forward
    method.generator.forward = lambda x, k, ratio=None: seen.append((x, k)) or generator(x, k, ratio)
    method.loss(pair(), {})
    (p1, k1), (p2, k2) = seen
    assert p1.shape == p2.shape == (8, 16)
    assert torch.equal(p1, k2)
    assert torch.equal(p2, k1)


def test_a_key_takes_one_place_in_the_queue():
    method = make(HallucinatorMoCo, queue_size=20, dim=4)
    past = method.queue()
    method.loss(pair(), {})
    assert torch.equal(method.queue()[8:], past[8:])
    assert not torch.isclose(method.queue()[:8], past[:8]).any()


def test_the_watched_scores_after_are_those_of_hallucinated_queries():
    method = make(HallucinatorMoCo, queue_size=20, dim=4)
    method.watching, seen = True, []
    generator = method.generator.forward
    method.generator.forward = lambda x, k, ratio=None: seen.append((generator(x, k, ratio), k)) or seen[0][0]
    method.loss(pair(), {})
    ((both, keys),) = seen
    for stage, queries in zip(("before", "after"), both.chunk(2), strict=True):
        expected = nn.functional.cosine_similarity(queries, keys).mean().item()
        assert method.watched[stage].positive.mean().item() == pytest.approx(expected, abs=1e-5)


def test_moco_version_1_has_a_linear_head():
    for kind in (MoCo, HallucinatorMoCo):
        linear = make(kind, head="linear", dim=4).projector
        assert [type(layer) for layer in linear] == [nn.Linear]
        plain = make(kind, head="mlp-plain", dim=4).projector
        assert [type(layer) for layer in plain] == [nn.Linear, nn.ReLU, nn.Linear]
        with pytest.raises(ValueError, match=r"^head: expected 'mlp', 'mlp-plain' or 'linear', got 'none'"):
            make(kind, head="none")


def fit(name, out, **options):
    settings = {"epochs": 6, "limit": 1000, "batch_size": 100, "monitor": 3, "report": False, **options}
    return cp.fit(
        "digits", name, out=str(out), threads=1, seed=1, progress=False, encoder_options={"widths": [16, 32, 64]},
        **settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    return fit("untrained", tmp_path_factory.mktemp("untrained")).evaluation.scores["probe_5"]


@pytest.mark.paper(35, "trains")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hallucinator_moco", {"head": "linear", "temperature": 0.07}),
        ("hallucinator_simclr", {"mask_duplicates": True}),
        ("hallucinator_simsiam", {}),
    ],
)
def test_learns_from_real_images(name, options, untrained, tmp_path):
    run = fit(name, tmp_path / "run", options=options)
    losses = [row["loss"] for row in run.metrics]
    assert losses[-1] < losses[0]
    assert run.metrics[-1]["collapse"] is None
    assert run.evaluation.scores["probe_5"] > untrained + 0.02
    (curves,) = run.findings
    assert list(curves.series) == ["real", "hallucinated"]
    assert all((np.abs(line) <= 1).all() for line in curves.series.values())
    assert (curves.series["real"] > curves.series["hallucinated"]).any()


def test_trains_with_the_papers_views(tmp_path):
    run = fit("hallucinator_moco", tmp_path / "run", epochs=1, views="hallucinator", monitor=0, evaluate=False)
    assert run.metrics[-1]["step"] == 6


def test_a_control_has_no_figure(tmp_path):
    run = fit("hallucinator_simsiam", tmp_path / "run", epochs=1, options={"hallucinate": False}, evaluate=False)
    assert run.findings == []


@every
@pytest.mark.filterwarnings("ignore")
def test_similarities_are_logged_and_averaged_over_the_epoch(kind):
    """Both means against the same computed by hand, and the history of the whole training."""
    method = make(kind, dim=4)
    x, k = torch.randn(8, 4), torch.randn(8, 4)
    both, target = torch.cat([x, -k]), torch.randn(8, 4)
    method._look(both, target)
    cosine = nn.functional.cosine_similarity
    expected = torch.stack([cosine(x, target).mean(), cosine(-k, target).mean(), torch.tensor(1.0)])
    torch.testing.assert_close(method.similarities[:, 0], expected)
    method.eval().doubled(x, k)
    assert method.similarities[2].sum() == 1  # only training counts
    method.train().similarities.zero_()
    trainer = lightning.Trainer(
        max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    views = pair(16)
    trainer.fit(method, torch.utils.data.DataLoader([{"views": [a, b]} for a, b in zip(*views, strict=True)], 8))
    sums = method.similarities.sum(1)
    assert sums[2] == (8 if kind is HallucinatorSimSiam else 4)
    last = [trainer.callback_metrics[f"{name}_similarity"] for name in ("real", "hallucinated")]
    late = method.similarities[:, -PARTS // 2 :].sum(1)
    torch.testing.assert_close(torch.stack(last), late[:2] / late[2])
