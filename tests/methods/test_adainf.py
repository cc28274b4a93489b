"""AdaInf: the losses of its study are the objectives that there are, and its method is SimCLR with what it says."""

from pathlib import Path

import numpy as np
import pytest
import torch

import counterpoint as cp
from counterpoint.encoders import build
from counterpoint.evaluation import Embeddings, knn
from counterpoint.experiments.measuring import embed_items
from counterpoint.experiments.preparing import load_data
from counterpoint.methods.vision.adainf import AdaInf
from counterpoint.objectives import BarlowTwins, InfoNCE, NegativeCosine, NTXent

GOLDEN = {
    name.removeprefix("a_"): torch.from_numpy(np.asarray(value))
    for name, value in np.load(Path(__file__).parents[1] / "golden/64-adainf.npz").items()
}


def simclr(z):
    """Rows of one image are its two views."""
    first, second = (torch.stack([z[GOLDEN["indexes"] == i][view] for i in range(6)]) for view in (0, 1))
    return NTXent(float(GOLDEN["temperature"]))(first, second)


CASES = {
    "simclr": (simclr, ("z",), ("simclr_grad",)),
    "moco": (
        lambda query: InfoNCE(float(GOLDEN["temperature"]), normalize=False)(
            query, GOLDEN["key"].to(query), GOLDEN["queue_DK"].T.to(query)
        ),
        ("query",),
        ("moco_grad_query",),
    ),
    "byol": (lambda p: 2 + 2 * NegativeCosine()(p, GOLDEN["byol_z"].to(p)), ("byol_p",), ("byol_grad_p",)),
    "barlow": (
        lambda z1, z2: 0.1 * BarlowTwins(5e-3)(z1, z2),
        ("byol_p", "byol_z"),
        ("barlow_grad_z1", "barlow_grad_z2"),
    ),
}


@pytest.mark.paper(64, "parity")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-4)])
@pytest.mark.parametrize("name", CASES)
def test_the_losses_are_those_of_the_official_code(name, dtype, tolerance):
    loss, given, gradients = CASES[name]
    inputs = [GOLDEN[key].to(dtype).requires_grad_() for key in given]
    value = loss(*inputs)
    expected = GOLDEN[f"{name}_loss"].to(dtype)
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)
    for found, key in zip(torch.autograd.grad(value, inputs), gradients, strict=True):
        torch.testing.assert_close(found, GOLDEN[key].to(dtype), rtol=tolerance, atol=tolerance)


def test_the_loss_is_finite_where_the_official_one_overflows():
    z = GOLDEN["z"].float()
    assert torch.isfinite(NTXent(0.01)(z[:6], z[:6]))  # exp(1 / 0.01) is beyond float32


def test_the_head_is_the_papers():
    method = AdaInf(build("convnet", (3, 32, 32), widths=(8, 16)))
    sizes = [layer.weight.shape for layer in method.projector if isinstance(layer, torch.nn.Linear)]
    assert sizes == [(2048, 16), (256, 2048)]
    assert not any(isinstance(layer, torch.nn.BatchNorm1d) for layer in method.projector)
    assert method.objective.temperature == 0.2


def test_auto_views_are_its_own(tmp_path):
    settings = {"limit": 300, "steps": 1, "threads": 1, "progress": False, "report": False, "evaluate": False}
    weights = []
    for name, views in (("a", "auto"), ("b", "adainf"), ("c", "digits")):
        run = cp.fit("digits", "adainf", out=str(tmp_path / name), views=views, monitor=0, **settings)
        weights.append(torch.cat([p.flatten() for p in run.encoder().parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert cp.views.resolve("adainf", "vector", (5,)) == cp.views.resolve({"scarf": {"rate": 0.3}}, "vector", (5,))


def neighbours(run):
    """Accuracy of nearest neighbours of the projection, among training items."""
    dataset, splits, *_ = load_data("digits", run.config)
    parts = [
        Embeddings(embed_items(run.model(), dataset, part)[1].numpy(), dataset.labels[part])
        for part in (splits.train, splits.test)
    ]
    return float((knn(*parts) == parts[1].labels).mean())


@pytest.mark.paper(64, "trains")
def test_it_learns_from_real_and_generated_images(tmp_path):
    """Better neighbours than before training, on data of which half are generated."""
    settings = {"limit": 600, "seed": 1, "threads": 1, "progress": False, "report": False, "monitor": 0}
    settings |= {"encoder": "mlp", "evaluate": False}
    untrained = cp.fit("digits", "adainf", out=str(tmp_path / "before"), steps=1, lr=1e-9, **settings)
    made = {"gmm": {"count": 4000}}
    run = cp.fit("digits", "adainf", out=str(tmp_path / "run"), steps=60, generated=made, **settings)
    assert run.metrics[-1]["step"] == 60
    assert neighbours(run) > neighbours(untrained) + 0.03
    assert run.status["inflation"]["beta"] == pytest.approx(0.49, abs=0.01)
