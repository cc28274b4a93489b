"""GroCo as a method: its head, its views of one or two sizes, and that it learns."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import counterpoint as cp
from counterpoint import data, views
from counterpoint.encoders import build
from counterpoint.methods.vision.groco import GroCo
from counterpoint.objectives.groco import GroCo as Objective

IMAGE = (1, 16, 16)


def make(**options):
    torch.manual_seed(0)
    return GroCo(build("convnet", IMAGE, widths=(8, 16)), **options)


def crops(*sides, items=12):
    made = torch.Generator().manual_seed(1)
    return [torch.rand(items, 1, side, side, generator=made) for side in sides]


@pytest.mark.paper(48, "trains")
@pytest.mark.parametrize("pipeline", ["auto", {"auto": {"count": 4}}])
def test_learns_from_real_images(pipeline, tmp_path):
    run = cp.fit(
        "digits", "groco", out=str(tmp_path / "run"), epochs=6, limit=1000, batch_size=50, threads=1, seed=1,
        progress=False, encoder_options={"widths": [16, 32, 64]}, report=False, monitor=3,
        views=pipeline,
    )  # fmt: skip
    first, *_, last = run.metrics
    assert last["loss"] < first["loss"]  # of bounded cosines and soft swaps: it cannot come near 0
    assert last["positive_similarity"] - last["negative_similarity"] > 0.55  # 0.14 after an epoch of two views
    assert run.scores["probe_1"] > 0.62  # of one label a class; 0.52 untrained
    assert run.scores["map"] > 0.6  # 0.52 untrained
    assert last["collapse"] is None


def test_the_loss_is_that_of_the_projections_of_one_view_at_a_time():
    method, pair = make(negatives=3, steepness=2.0), crops(16, 16)
    z = torch.stack([method.project(view) for view in pair])
    torch.testing.assert_close(method.loss(pair, {}), Objective(3, 2.0)(z))
    torch.testing.assert_close(z.mean(1), torch.zeros(2, 16), atol=1e-5, rtol=0)  # statistics of its own
    together = torch.stack(list(method.embed_together(pair)))
    assert not torch.isclose(method.loss(pair, {}), Objective(3, 2.0)(together))


def test_small_crops_are_no_positives():
    method, images = make(negatives=3), crops(16, 16, 8, 8, 8)
    z = torch.stack([method.project(view) for view in images])
    torch.testing.assert_close(method.loss(images, {}), Objective(3, positive_views=2)(z))
    chosen = make(negatives=3, positive_views=3)
    torch.testing.assert_close(chosen.loss(images, {}), Objective(3, positive_views=3)(z))


def test_multi_crop_views():
    made = views.resolve("swav", modality="image", shape=IMAGE)
    method = GroCo(build("convnet", IMAGE, widths=(8, 16)), made)
    images = method.make_views({"image": torch.randint(0, 256, (12, *IMAGE), dtype=torch.uint8)})
    assert [view.shape[-1] for view in images] == [16] * 2 + [8] * 6
    assert torch.isfinite(method.loss(images, {}))


def test_the_head():
    linear = [layer for layer in make(dim=24).projector if isinstance(layer, torch.nn.Linear)]
    norms = [layer for layer in make(dim=24).projector if isinstance(layer, torch.nn.BatchNorm1d)]
    assert [tuple(layer.weight.shape) for layer in linear] == [(16, 16), (16, 16), (24, 16)]
    assert [layer.affine for layer in norms] == [True, True, False]
    assert all(layer.bias is None for layer in linear)
    assert make().projector[-1].num_features == 16
    assert isinstance(make(last_norm=False).projector[-1], torch.nn.Linear)


def test_options_reach_the_objective():
    options = {"steepness": 3.0, "network": "bitonic", "relaxation": "logistic"}
    objective = make(negatives=5, stop_gradient=False, positive_views=2, **options).objective
    assert (objective.negatives, objective.stop_gradient, objective.positive_views) == (5, False, 2)
    assert objective.sorter == options


def test_the_papers_evaluation_is_the_score_knn(tmp_path):
    """k = 20, votes weighted by exp(cosine / 0.07), on the encoder's features."""
    run = cp.fit(
        "digits", "groco", out=str(tmp_path / "run"), epochs=1, limit=400, threads=1, progress=False, report=False,
        monitor=0, encoder_options={"widths": [8, 16]},
    )  # fmt: skip
    dataset, splits = data.load("digits", limit=400), np.load(run.folder / "splits.npz")
    sets = {part: dataset[splits[part]] for part in ("train", "test")}
    train, test = (normalize(run.encoder().embed(batch["image"])) for batch in sets.values())
    nearest = (test @ train.T).topk(20)
    votes = torch.zeros(len(test), 10)
    votes.scatter_add_(1, sets["train"]["label"][nearest.indices], (nearest.values / 0.07).exp())
    accuracy = (votes.argmax(1) == sets["test"]["label"]).float().mean().item()
    assert run.scores["knn"] == pytest.approx(accuracy, abs=0.02)
