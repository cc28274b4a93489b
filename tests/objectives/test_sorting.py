"""Differentiable sorting networks: the package's figures, what a relaxed permutation must be, and refusals."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.objectives.sorting import RELAXATIONS, DifferentiableSort

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "48-groco.npz")
CASES = {"cauchy7": ("odd_even", "cauchy"), "logistic6": ("odd_even", "logistic"), "bitonic8": ("bitonic", "cauchy")}
every = pytest.mark.parametrize("relaxation", RELAXATIONS)
networks = pytest.mark.parametrize("network", ["odd_even", "bitonic"])


def golden(case, name):
    return torch.from_numpy(np.asarray(GOLDEN[f"sort_{case}__{name}"]))


def rows(items, size, seed=0):
    return torch.randn(items, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.paper(48, "parity")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, (1e-7, 1e-9)), (torch.float32, (2e-3, 1e-5))])
def test_the_packages_figures(case, dtype, close):
    x = golden(case, "x").to(dtype).requires_grad_()
    values, shares = DifferentiableSort(x.shape[1], *CASES[case], float(golden(case, "steepness")))(x)
    total = (shares * golden(case, "cotangent_permutation").to(dtype)).sum() + values.square().sum()
    for found, name in (
        (values, "sorted"),
        (shares, "permutation"),
        (torch.autograd.grad(total, x)[0], "grad_of_sumPc_plus_sumsq"),
    ):
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), golden(case, name), rtol=close[0], atol=close[1])


@pytest.mark.parametrize(
    ("relaxation", "expected"),
    [  # F(2 * 0.1) and F(2 * -1.5)
        ("cauchy", (0.5 + math.atan(0.2) / math.pi, 0.5 - math.atan(3) / math.pi)),
        ("logistic", (1 / (1 + math.exp(-0.2)), 1 / (1 + math.exp(3)))),
        ("logistic_phi", (1 / (1 + math.exp(-0.2 / 0.1**0.25)), 1 / (1 + math.exp(3 / 1.5**0.25)))),
        ("gaussian", ((1 + math.erf(0.2 / math.sqrt(2))) / 2, (1 + math.erf(-3 / math.sqrt(2))) / 2)),
        ("reciprocal", ((0.2 / 2.2 + 1) / 2, (-3 / 5 + 1) / 2)),
        ("optimal", (0.7, 1 / 48)),
    ],
)
def test_one_swap(relaxation, expected):
    """Of two values, the first is the smaller one with probability F(steepness (second - first))."""
    x = torch.tensor([[0.3, 0.4], [2.0, 0.5]], dtype=torch.float64)
    values, shares = DifferentiableSort(2, relaxation=relaxation, steepness=2)(x)
    alpha = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(shares[:, 0, 0], alpha)
    torch.testing.assert_close(shares[:, 1, 0], 1 - alpha)
    torch.testing.assert_close(values[:, 0], alpha * x[:, 0] + (1 - alpha) * x[:, 1])


@every
@networks
@pytest.mark.parametrize("size", [1, 2, 5, 8, 11])
def test_a_relaxed_permutation(network, relaxation, size):
    x = rows(4, size)
    sort = DifferentiableSort(size, network, relaxation, 3.0)
    values, shares = sort(x)
    assert shares.min() >= 0
    for axis in (1, 2):
        torch.testing.assert_close(shares.sum(axis), torch.ones(4, size, dtype=torch.float64))
    torch.testing.assert_close(values, torch.einsum("bi,bij->bj", x, shares))
    for k in range(size + 1):
        torch.testing.assert_close(sort.lowest(x, k), shares[:, :, :k].sum(2))


@pytest.mark.parametrize(
    ("network", "size"), [*(("odd_even", n) for n in range(1, 25)), *(("bitonic", n) for n in [*range(1, 22), 32, 64])]
)
def test_a_steep_network_sorts(network, size):
    x = rows(200, size)
    values, shares = DifferentiableSort(size, network, "logistic", 1e12)(x)
    expected = x.sort(dim=1)
    torch.testing.assert_close(values, expected.values)
    torch.testing.assert_close(shares, torch.nn.functional.one_hot(expected.indices, size).mT.double())


def test_bitonic_needs_fewer_layers():
    assert len(DifferentiableSort(32, "bitonic").partners) == 15 < len(DifferentiableSort(32).partners) == 32


@every
@networks
def test_gradients_equal_finite_differences(network, relaxation):
    sort = DifferentiableSort(5, network, relaxation, 2.0)
    x = rows(2, 5, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sort(x), (x,), atol=1e-4)
    assert torch.autograd.gradcheck(lambda x: sort.lowest(x, 2), (x,), atol=1e-4)


@every
@networks
def test_equal_values_have_equal_chances_at_every_swap(network, relaxation):
    x = torch.ones(1, 4, dtype=torch.float64, requires_grad=True)
    values, shares = DifferentiableSort(4, network, relaxation)(x)
    torch.testing.assert_close(values, x)
    first = torch.tensor([0.25] * 4 if network == "bitonic" else [0.375, 0.25, 0.25, 0.125], dtype=torch.float64)
    torch.testing.assert_close(shares[0, 0], first)
    (gradient,) = torch.autograd.grad(shares[0, 0, 0], x)
    assert torch.isfinite(gradient).all()
    assert gradient[0, 0] < 0  # also where two values are equal, the sorter can tell them which way to go


@every
@pytest.mark.parametrize("steepness", [1.0, 1e30])
@pytest.mark.parametrize("scale", [1.0, 1e30, 1e-30, 0.0])
def test_finite_input_gives_finite_output(relaxation, steepness, scale):
    x = (rows(3, 6).float() * scale).requires_grad_()
    values, shares = DifferentiableSort(6, relaxation=relaxation, steepness=steepness)(x)
    (gradient,) = torch.autograd.grad((values / max(scale, 1)).sum() + shares[..., 0].square().sum(), x)
    assert torch.isfinite(values).all()
    assert torch.isfinite(shares).all()
    assert torch.isfinite(gradient).all() or steepness > 1  # a slope of 1e30 may well be infinite
    assert not gradient.isnan().any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    x = rows(3, 6).to(dtype)
    for found, expected in zip(DifferentiableSort(6)(x), DifferentiableSort(6)(x.float()), strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size: expected at least 1, got 0"),
        ({"network": "bubble"}, "network: expected 'odd_even' or 'bitonic', got 'bubble'"),
        ({"network": "bitonic", "size": 22}, "network: 'bitonic' sorts up to 21 values or a power of two, got 22"),
        ({"relaxation": "linear"}, "relaxation: expected one of cauchy, .*, got 'linear'"),
        ({"steepness": 0}, "steepness: expected a finite number above 0"),
        ({"steepness": float("nan")}, "steepness: expected a finite number above 0"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        DifferentiableSort(**{"size": 4, **options})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(2, 5), r"expected \(2, 4\), got \(2, 5\)"),
        (torch.ones(4), r"expected \(rows, D\)"),
        (torch.ones(2, 4).long(), "expected a floating-point tensor"),
        (torch.tensor([[1.0, 2, float("nan"), 3]]), "1 of 4 values are NaN or infinite"),
    ],
)
def test_rows_are_checked(x, message):
    sort = DifferentiableSort(4)
    for call in (sort, lambda x: sort.lowest(x, 2)):
        with pytest.raises(ValueError, match=f"^x: {message}"):
            call(x)
