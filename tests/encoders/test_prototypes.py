import pytest
import torch

from counterpoint.encoders.prototypes import Prototypes


def test_scores_are_cosines():
    prototypes, z = Prototypes(6, 4), torch.randn(3, 6)
    torch.testing.assert_close(prototypes.weight.norm(dim=1), torch.ones(4))
    expected = torch.nn.functional.cosine_similarity(z[:, None], prototypes.weight[None], dim=2)
    torch.testing.assert_close(prototypes(z), expected)
    torch.testing.assert_close(prototypes(7 * z), expected)
    assert torch.equal(prototypes(torch.zeros(2, 6)), torch.zeros(2, 4))


def test_they_are_computed_in_single_precision():
    prototypes, z = Prototypes(6, 4), torch.randn(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(prototypes(z), prototypes(z))
        inside = prototypes(z)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, prototypes(z))
    assert prototypes(z.bfloat16()).dtype == torch.float32


def test_normalize_brings_a_step_back_to_the_sphere():
    prototypes = Prototypes(6, 4)
    direction = prototypes.weight.detach().clone()
    with torch.no_grad():
        prototypes.weight.mul_(3)
    prototypes.normalize_()
    torch.testing.assert_close(prototypes.weight.detach(), direction)
    assert prototypes.weight.requires_grad


@pytest.mark.parametrize(
    "optimizer",
    [lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1), lambda p: torch.optim.AdamW(p, 0.1)],
)
def test_held_they_stay_where_they_are(optimizer):
    prototypes = Prototypes(6, 4)
    optimizer = optimizer(prototypes.parameters())
    for held in (False, True):
        before = prototypes.weight.detach().clone()
        prototypes(torch.randn(3, 6)).square().sum().backward()
        if held:
            prototypes.hold()
        optimizer.step()
        optimizer.zero_grad()
        assert torch.equal(prototypes.weight, before) == held


@pytest.mark.parametrize(("dim", "k", "name"), [(0, 3, "dim"), (3, 0, "k")])
def test_sizes(dim, k, name):
    with pytest.raises(ValueError, match=f"^{name}: expected at least 1"):
        Prototypes(dim, k)
