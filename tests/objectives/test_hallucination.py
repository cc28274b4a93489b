"""NT-Xent of hallucinated pairs: golden figures, the doubled batch, and what masking leaves out."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from counterpoint.objectives import HallucinatedNTXent, NTXent

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "35-hallucinator.npz")
close = {"rtol": 1e-9, "atol": 1e-12}


def made(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def triple(items=6, dim=4):
    return [made(items, dim, seed=seed).requires_grad_() for seed in range(3)]


@pytest.mark.paper(35, "parity")
def test_golden_loss():
    rows, k = torch.from_numpy(GOLDEN["a_generator_out"]), torch.from_numpy(GOLDEN["a_k_raw"])
    loss = HallucinatedNTXent(float(GOLDEN["a_temperature"]))
    assert loss(*rows.chunk(2), k).item() == pytest.approx(float(GOLDEN["a_simclr_loss"]), rel=1e-9)
    single = loss(*rows.float().chunk(2), k.float())
    assert single.item() == pytest.approx(float(GOLDEN["a_simclr_loss"]), rel=2e-3)


def written_out(x, h, k, temperature, masked, copies):
    """All 4B points, pair by pair; ``masked`` leaves out what is a mere copy."""
    items = len(x)
    points = normalize(torch.cat([x, h, k, k]), dim=1)
    scores = points @ points.T / temperature
    partner = [*range(2 * items, 4 * items), *range(2 * items)]
    source = [
        *range(items),
        *(range(items) if copies else range(items, 2 * items)),
        *[*range(2 * items, 3 * items)] * 2,
    ]
    terms = []
    for i in range(4 * items):
        kept = [
            j
            for j in range(4 * items)
            if j != i and not (masked and j != partner[i] and source[j] in (source[i], source[partner[i]]))
        ]
        terms.append(scores[i, kept].logsumexp(0) - scores[i, partner[i]])
    return torch.stack(terms)


@pytest.mark.parametrize("temperature", [0.05, 1.0])
@pytest.mark.parametrize(("masked", "copies"), [(False, False), (True, False), (True, True)])
def test_terms_and_gradients_of_the_equation(masked, copies, temperature):
    x, h, k = triple()
    h = x if copies else h
    inputs = [x, k] if copies else [x, h, k]
    loss = HallucinatedNTXent(temperature, masked, copies, reduction="none")
    found, expected = loss(x, h, k), written_out(x, h, k, temperature, masked, copies)
    torch.testing.assert_close(found, expected, **close)
    weight = made(len(found), seed=9)
    torch.testing.assert_close(*(torch.autograd.grad(value @ weight, inputs) for value in (found, expected)), **close)
    torch.testing.assert_close(HallucinatedNTXent(temperature, masked, copies)(x, h, k), found.mean(), **close)
    torch.testing.assert_close(
        HallucinatedNTXent(temperature, masked, copies, reduction="sum")(x, h, k), found.sum(), **close
    )


def test_without_masking_it_is_ntxent_of_the_doubled_batch():
    x, h, k = triple()
    assert HallucinatedNTXent(0.3)(x, h, k) == NTXent(0.3)(torch.cat([x, h]), torch.cat([k, k]))


def test_a_copy_cannot_be_told_from_the_positive():
    """The embedding that is perfect with masking still costs log 2 where the copies are negatives."""
    z = torch.eye(4, dtype=torch.float64)
    assert HallucinatedNTXent(0.01, mask_duplicates=True, copies=True)(z, z, z).item() == pytest.approx(0, abs=1e-9)
    assert HallucinatedNTXent(0.01, mask_duplicates=True)(z, z, z).item() == pytest.approx(math.log(2))
    assert HallucinatedNTXent(0.01)(z, z, z).item() == pytest.approx(math.log(3))


@pytest.mark.parametrize(("masked", "copies"), [(False, False), (True, False), (True, True)])
def test_order_and_lengths(masked, copies):
    x, h, k = triple()
    h = x if copies else h
    loss, order = HallucinatedNTXent(0.4, masked, copies), torch.tensor([3, 1, 5, 0, 4, 2])
    expected = loss(x, h, k)
    torch.testing.assert_close(loss(x[order], h[order], k[order]), expected)
    torch.testing.assert_close(loss(x * 1e90, h * 1e90, k * torch.logspace(-9, 9, 6)[:, None]), expected)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_equal_finite_differences(masked):
    assert torch.autograd.gradcheck(HallucinatedNTXent(0.5, masked), triple(4, 3))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "change", [lambda z: z * 0, lambda z: z * 1e30, lambda z: z * 1e-30, lambda z: z[[0] * 6], lambda z: z[:1]]
)
def test_finite_embeddings_give_finite_losses(change, masked):
    inputs = [change(made(6, 4, seed=seed, dtype=torch.float32)).requires_grad_() for seed in range(3)]
    for copies in (False, True):
        loss = HallucinatedNTXent(0.01, masked, copies)(*inputs)
        assert loss.isfinite()
        gradients = torch.autograd.grad(loss, inputs, materialize_grads=True)
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("masked", [False, True])
def test_half_precision_is_computed_in_float32(masked):
    inputs = [made(20, 8, seed=seed).bfloat16() for seed in range(3)]
    loss = HallucinatedNTXent(0.5, masked)(*inputs)
    assert loss.dtype == torch.float32
    wide = HallucinatedNTXent(0.5, masked)(*(x.double() for x in inputs))
    torch.testing.assert_close(loss.double(), wide, rtol=1e-5, atol=1e-6)
