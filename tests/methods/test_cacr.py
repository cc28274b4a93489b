"""CACR as methods: they learn, and each passes to its loss what its paper's code does."""

import pytest
import torch

import counterpoint as cp
from counterpoint.encoders import build
from counterpoint.methods.vision.cacr import CACR
from counterpoint.methods.vision.cacr_moco import CACRMoCo
from counterpoint.methods.vision.cacr_mocov3 import CACRMoCoV3

IMAGE = (1, 8, 8)


def make(kind, **options):
    torch.manual_seed(0)
    return kind(build("convnet", IMAGE, widths=(8, 16)), **options)


def pictures(count, size=8):
    return [torch.rand(6, 1, size, size) for _ in range(count)]


def listen(method):
    """What the loss is given, call after call."""
    seen, objective = [], method.objective.forward
    method.objective.forward = lambda *given: seen.append(given) or objective(*given)
    return seen


def weights(module):
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


@pytest.mark.paper(10, "trains")
@pytest.mark.parametrize(("method", "views"), [("cacr", 4), ("cacr_moco", 3), ("cacr_mocov3", 2)])
def test_learns_from_real_images(method, views, tmp_path):
    run = cp.fit(
        "digits", method, out=str(tmp_path / method), epochs=6, limit=1000, batch_size=100, threads=1, seed=1,
        progress=False, encoder_options={"widths": [16, 32, 64]}, report=False, monitor=3, evaluate=False,
        views={"auto": {"count": views}},
    )  # fmt: skip
    losses, knn = ([row[key] for row in run.metrics if key in row] for key in ("loss", "knn"))
    assert losses[-1] == min(losses) < losses[0]
    assert knn[-1] > 0.8  # chance is 0.1
    assert run.metrics[-1]["collapse"] is None


@pytest.mark.parametrize("kind", [CACR, CACRMoCo, CACRMoCoV3])
def test_any_number_of_views_but_one(kind):
    method = make(kind)
    for count in (2, 3, 5):
        assert torch.isfinite(method.loss(pictures(count), {}))
    with pytest.raises(ValueError, match=r"expected at least 2 views"):
        method.loss(pictures(1), {})


def test_options_reach_the_loss():
    shared = {"alpha": 2.0, "beta": 3.0, "tau_pos": 4.0, "tau_neg": 5.0}
    batch = {"detach_weights": True, "rbf_t": 6.0, "tau_plus": 0.2}
    assert (shared | batch).items() <= vars(make(CACR, **shared, **batch).objective).items()
    assert make(CACR, cost="rbf").objective.cost == "rbf"
    queue = {"intra_batch": False, "detach_weights": True}
    assert (shared | queue).items() <= vars(make(CACRMoCo, **shared, **queue).objective).items()
    for kind in (CACR, CACRMoCo):
        none = make(kind, weights="none").objective
        assert (none.tau_pos, none.tau_neg) == (0, 0)
    found = make(CACRMoCoV3, temperature=0.2, cost="euclidean").objective
    assert (found.temperature, found.cost, found.reduction) == (0.2, "euclidean", "sum")


def test_the_queue_gets_the_last_views_keys_after_the_loss():
    method = make(CACRMoCo, queue_size=10, dim=4)
    past, seen = method.queue(), listen(method)
    method.loss(pictures(3), {}).backward()
    queries, keys, negatives = seen[0]
    assert queries.shape == keys.shape == (3, 6, 4)
    assert queries.requires_grad
    assert not keys.requires_grad
    assert torch.equal(negatives, past)
    assert torch.equal(method.queue()[:6], keys[-1])
    assert torch.equal(method.queue()[6:], past[6:])
    torch.testing.assert_close(keys.norm(dim=2), torch.ones(3, 6))


def test_the_queue_is_a_share_of_the_data():
    assert CACRMoCo.defaults_for(1_280_000) == {"queue_size": 65_536}
    assert CACRMoCo.defaults_for(1200) == {"queue_size": 100}


@pytest.mark.parametrize(("local", "keys"), [("light", 2), ("full", 5)])
def test_local_crops_are_queries_and_in_full_mode_keys(local, keys):
    method = make(CACRMoCoV3, local=local, dim=4)
    seen = listen(method)
    method.loss([*pictures(2, 16), *pictures(3, 8)], {}).backward()
    assert [tuple(x.shape) for x in seen[0]] == [(5, 6, 4), (keys, 6, 4)]
    assert seen[0][0].requires_grad
    assert not seen[0][1].requires_grad
    assert all(p.grad is not None for p in (*method.predictor.parameters(), *method.projector.parameters()))


def test_moco_v3_heads():
    """The predictor stands on the student's side alone; for a ViT the projector is deeper and the predictor normed."""
    resnet, vit = make(CACRMoCoV3), make(CACRMoCoV3, projector_layers=3, predictor_norm=True)

    def layers(head):
        return [type(layer).__name__ for layer in head]

    assert layers(resnet.projector) == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    assert layers(resnet.predictor) == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert layers(vit.projector) == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear", "BatchNorm1d"]
    assert layers(vit.predictor) == layers(resnet.projector)
    assert weights(resnet.teacher).numel() == weights(resnet.encoder).numel() + weights(resnet.projector).numel()
    with pytest.raises(ValueError, match=r"^local: expected 'light' or 'full'"):
        make(CACRMoCoV3, local="heavy")


@pytest.mark.parametrize(("kind", "momenta"), [(CACRMoCo, [0.75] * 3), (CACRMoCoV3, [0.75, 0.875, 1.0])])
def test_the_teacher_follows_by_its_schedule(kind, momenta, monkeypatch):
    """MoCo v2's momentum is constant, MoCo v3's rises to 1 by half a cosine."""
    method = make(kind, momentum=0.75)
    for progress, momentum in zip((0.0, 0.5, 1.0), momenta, strict=True):
        monkeypatch.setattr(kind, "progress", progress)
        with torch.no_grad():
            for parameter in (*method.encoder.parameters(), *method.projector.parameters()):
                parameter.add_(torch.randn_like(parameter))
        student = torch.cat([weights(method.encoder), weights(method.projector)])
        before = weights(method.teacher)
        method.after_step()
        torch.testing.assert_close(weights(method.teacher), momentum * before + (1 - momentum) * student)
    assert not any(p.requires_grad for p in method.teacher.parameters())
