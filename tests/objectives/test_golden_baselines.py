"""Parity with official code: values and gradients of tests/golden/00-baselines.npz."""

from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.mining import Queue
from counterpoint.objectives import BarlowTwins, InfoNCE, NegativeCosine, NTXent, SupCon, VICReg

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "00-baselines.npz")


def golden(case, *names, grad=()):
    tensors = [torch.from_numpy(GOLDEN[f"{case}__{name}"]) for name in names]
    return [tensor.requires_grad_() if name in grad else tensor for name, tensor in zip(names, tensors, strict=True)]


def check(case, loss, inputs, expected="loss"):
    torch.testing.assert_close(loss, torch.from_numpy(GOLDEN[f"{case}__{expected}"]), rtol=1e-7, atol=1e-9)
    gradients = torch.autograd.grad(loss, list(inputs.values()))
    for name, gradient in zip(inputs, gradients, strict=True):
        torch.testing.assert_close(gradient, torch.from_numpy(GOLDEN[f"{case}__{name}"]), rtol=1e-7, atol=1e-9)


@pytest.mark.paper("B1", "parity")
@pytest.mark.parametrize("case", ["ntxent_a", "ntxent_b"])
def test_ntxent(case):
    z1, z2, temperature = golden(case, "z1", "z2", "temperature", grad=("z1", "z2"))
    check(case, NTXent(float(temperature))(z1, z2), {"grad_z1": z1, "grad_z2": z2})


@pytest.mark.paper("B1", "parity")
def test_ntxent_float32():
    z1, z2, temperature = golden("ntxent_a", "z1", "z2", "temperature")
    loss = NTXent(float(temperature))(z1.float(), z2.float())
    assert loss.item() == pytest.approx(float(GOLDEN["ntxent_a__loss"]), rel=2e-3)


@pytest.mark.paper("B2", "parity")
@pytest.mark.parametrize(
    ("case", "anchors"),
    [("supcon_sup", "all"), ("supcon_plain", "all"), ("supcon_unsup", "all"), ("supcon_one", "first")],
)
def test_supcon(case, anchors):
    features, temperature, base = golden(case, "features", "temperature", "base_temperature", grad=("features",))
    labels = torch.from_numpy(GOLDEN[f"{case}__labels"]) if f"{case}__labels" in GOLDEN else None
    loss = SupCon(float(temperature), float(base), anchors=anchors, empty="zero")(features.transpose(0, 1), labels)
    check(case, loss, {"grad_features": features})


@pytest.mark.paper("B3", "parity")
def test_moco():
    q, k, queue, temperature = golden("moco", "q", "k", "queue", "temperature", grad=("q",))
    check("moco", InfoNCE(float(temperature))(q, k, queue), {"grad_q": q})


@pytest.mark.paper("B3", "parity")
def test_moco_queue():
    k, rows = golden("moco", "k", "queue")
    queue = Queue(*rows.shape).double()
    queue.rows.copy_(rows)
    queue.filled.fill_(len(rows))
    queue.push(torch.nn.functional.normalize(k, dim=1))
    expected = torch.from_numpy(GOLDEN["moco__queue_after_fifo_enqueue_at_0"])
    torch.testing.assert_close(queue.rows, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.paper("B4", "parity")
def test_byol():
    p1, p2, z1, z2 = golden("byol_simsiam", "p1", "p2", "z1", "z2", grad=("p1", "p2"))
    distance = NegativeCosine()
    loss = (2 + 2 * distance(p1, z2)) + (2 + 2 * distance(p2, z1))
    check("byol_simsiam", loss, {"byol_grad_p1": p1, "byol_grad_p2": p2}, "byol_loss")


@pytest.mark.paper("B5", "parity")
def test_simsiam():
    p1, p2, z1, z2 = golden("byol_simsiam", "p1", "p2", "z1", "z2", grad=("p1", "p2"))
    distance = NegativeCosine()
    loss = (distance(p1, z2) + distance(p2, z1)) / 2
    check("byol_simsiam", loss, {"simsiam_grad_p1": p1, "simsiam_grad_p2": p2}, "simsiam_loss")


@pytest.mark.paper("B6", "parity")
def test_barlow():
    z1, z2, lambda_, correlation = golden("barlow", "z1", "z2", "lambda_", "cross_corr", grad=("z1", "z2"))
    loss = BarlowTwins(float(lambda_))
    torch.testing.assert_close(loss.cross_correlation(z1, z2), correlation, rtol=1e-7, atol=1e-9)
    check("barlow", loss(z1, z2), {"grad_z1": z1, "grad_z2": z2})


@pytest.mark.paper("B7", "parity")
def test_vicreg():
    z1, z2, *coefficients = golden("vicreg", "z1", "z2", "sim_coeff", "std_coeff", "cov_coeff", grad=("z1", "z2"))
    loss = VICReg(*map(float, coefficients))
    for name, term in loss.terms(z1, z2).items():
        assert term.item() == pytest.approx(float(GOLDEN[f"vicreg__{name}"]), rel=1e-7)
    check("vicreg", loss(z1, z2), {"grad_z1": z1, "grad_z2": z2})
