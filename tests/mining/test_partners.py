import pytest
import torch

from counterpoint.mining import partner_classes

LABELS = torch.tensor([0, 0, 0, 1, 2, 2, 5])


def test_arbitrary_targets_are_the_classes_of_the_batch_in_another_order():
    torch.manual_seed(0)
    drawn = [partner_classes(LABELS) for _ in range(50)]
    assert all(torch.equal(targets.sort().values, LABELS) for targets in drawn)
    assert any((targets == LABELS).any() for targets in drawn)  # the own class may be one
    assert len({tuple(targets.tolist()) for targets in drawn}) > 30
    torch.manual_seed(0)
    assert torch.equal(partner_classes(LABELS), drawn[0])


def test_identical_targets_are_the_own_class():
    assert torch.equal(partner_classes(LABELS, "identical"), LABELS)


def test_distinct_targets_are_all_others_alike():
    labels = torch.arange(6).repeat(4000)
    targets = partner_classes(labels, "distinct", 6)
    assert (targets != labels).all()
    counts = torch.zeros(6, 6).index_put_((labels, targets), torch.ones(len(labels)), accumulate=True)
    assert counts.diagonal().max() == 0
    torch.testing.assert_close(counts + 800 * torch.eye(6), torch.full((6, 6), 800.0), atol=120, rtol=0)


def test_weights_decide():
    weights = torch.tensor([[0.0, 3, 1], [0, 0, 1], [1, 0, 0]])
    targets = partner_classes(torch.tensor([0] * 4000 + [1] * 9 + [2] * 9), weights=weights)
    assert (targets[:4000] == 1).float().mean() == pytest.approx(0.75, abs=0.03)
    assert (targets[4000:4009] == 2).all()
    assert (targets[4009:] == 0).all()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((LABELS, "same"), "mode: expected one of arbitrary"),
        ((LABELS.float(),), r"labels: expected integers \(B,\)"),
        ((torch.tensor([0, -1]),), r"labels: expected integers \(B,\)"),
        ((LABELS, "distinct"), "classes: expected at least 2"),
        ((LABELS, "distinct", 1), "classes: expected at least 2"),
        ((LABELS, "distinct", 4), "labels: expected classes 0 to 3, got 5"),
        ((LABELS, "arbitrary", None, torch.ones(6, 5)), "weights: expected floating point"),
        ((LABELS, "arbitrary", None, torch.ones(4, 4)), "labels: expected classes 0 to 3"),
        ((LABELS, "arbitrary", None, torch.zeros(6, 6)), "weights: expected finite numbers"),
        ((LABELS, "arbitrary", None, -torch.ones(6, 6)), "weights: expected finite numbers"),
    ],
)
def test_refusals(arguments, told):
    with pytest.raises(ValueError, match=f"^{told}"):
        partner_classes(*arguments)
