"""The generator of Hallucinator: golden figures, its limits, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.views import FeatureHallucinator

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "35-hallucinator.npz")


def golden(name):
    return torch.from_numpy(GOLDEN[f"a_{name}"])


def official():
    generator = FeatureHallucinator(6).double()
    linear = [layer for layer in generator.layers if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        for number, layer in enumerate(linear, 1):
            layer.weight.copy_(golden(f"fc{number}_weight"))
            layer.bias.copy_(golden(f"fc{number}_bias"))
    return generator


@pytest.mark.paper(35, "parity")
def test_golden_generator():
    made = official()(golden("x"), golden("k_raw"), golden("ratio"))
    torch.testing.assert_close(made, golden("generator_out"), rtol=1e-8, atol=1e-10)
    single = official().float()(golden("x").float(), golden("k_raw").float(), float(golden("ratio")))
    torch.testing.assert_close(single.double(), golden("generator_out"), rtol=2e-3, atol=1e-5)


def test_no_distance_is_not_the_identity():
    """With r = 0 the key plays no part, and the network still changes the anchor."""
    x, k = golden("x"), golden("k_raw")
    made = official()(x, k, 0.0)
    torch.testing.assert_close(made, official()(x, -3 * k, 0.0))
    torch.testing.assert_close(made[:5], x)
    assert (made[5:] - x).abs().max() > 0.1
    assert not torch.allclose(made, official()(x, k, 0.07))


def test_one_ratio_for_the_batch_new_at_every_call_and_by_the_global_seed():
    generator = FeatureHallucinator(4, ratio_range=(0.5, 2.0))
    generator.layers = torch.nn.Linear(8, 4, bias=False)
    with torch.no_grad():  # passes the extrapolated half on
        generator.layers.weight.copy_(torch.eye(8)[4:])
    x, k = torch.zeros(6, 4), torch.ones(6, 4)
    ratios = []
    for _ in range(300):
        made = generator(x, k)[6:]
        assert made.unique().numel() == 1
        ratios.append(-made[0, 0].item())
    assert 0.5 < min(ratios) < 0.55
    assert 1.95 < max(ratios) < 2
    torch.manual_seed(3)
    first = generator(x, k)
    torch.manual_seed(3)
    assert torch.equal(first, generator(x, k))


@pytest.mark.parametrize(
    ("depth", "shapes"), [(1, [(4, 8)]), (2, [(16, 8), (4, 16)]), (3, [(16, 8), (16, 16), (4, 16)])]
)
def test_depth_and_width(depth, shapes):
    generator = FeatureHallucinator(4, hidden=16, depth=depth)
    assert [tuple(p.shape) for p in generator.parameters() if p.ndim > 1] == shapes
    x, k = (torch.randn(3, 4, requires_grad=True) for _ in range(2))
    generator(x, k)[3:].sum().backward()
    assert x.grad.abs().max() > 0
    assert k.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: FeatureHallucinator(0), "dim: expected at least 1"),
        (lambda: FeatureHallucinator(4, hidden=0), "hidden: expected at least 1"),
        (lambda: FeatureHallucinator(4, depth=0), "depth: expected at least 1"),
        (lambda: FeatureHallucinator(4, ratio_range=(0.2, 0.1)), "ratio_range: expected"),
        (lambda: FeatureHallucinator(4, ratio_range=(0, float("nan"))), "ratio_range: expected"),
        (lambda: FeatureHallucinator(4)(torch.ones(2, 3), torch.ones(2, 3)), r"x: expected \(B, 4\), got \(2, 3\)"),
        (lambda: FeatureHallucinator(4)(torch.ones(2, 4), torch.ones(3, 4)), r"k: expected \(2, 4\) as x"),
        (lambda: FeatureHallucinator(4)(torch.ones(2, 4), torch.ones(2, 4), float("inf")), "weight: expected"),
    ],
)
def test_refusals(make, told):
    with pytest.raises(ValueError, match=f"^{told}"):
        make()
