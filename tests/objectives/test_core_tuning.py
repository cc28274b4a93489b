"""Focal SupCon and Core-tuning's loss: golden figures, the equations pair by pair, limits, labels that are soft."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from counterpoint.objectives import CoreTuning, FocalSupCon, SupCon
from counterpoint.objectives.core_tuning import same_labels

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "57-core-tuning.npz")
parity = pytest.mark.paper(57, "parity")
close = {"rtol": 1e-7, "atol": 1e-9}
FORMS = {
    "focal_official": {"normalize_by": "all"},
    "focal_literal_meanN": {"normalize_by": "all"},
    "focal_paper": {},
    "focal_paper_detached_weight": {"detach_weight": True},
}


def golden(name):
    return torch.from_numpy(GOLDEN[name])


def made(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def through_unit_vectors(gradient, z):
    """The golden gradient is at unit vectors as if free; ours is through the normalisation, which projects it."""
    return gradient - z * (gradient * z).sum(1, keepdim=True)


@parity
@pytest.mark.parametrize("name", FORMS)
def test_golden_losses(name):
    z, labels = golden("z").requires_grad_(), golden("z_labels")
    loss = FocalSupCon(**FORMS[name])
    torch.testing.assert_close(loss(z, labels), golden(name), **close)
    (gradient,) = torch.autograd.grad(loss(z, labels), z)
    torch.testing.assert_close(gradient, through_unit_vectors(golden(f"{name}_grad"), z.detach()), **close)
    assert loss(z.detach().float(), labels).item() == pytest.approx(float(GOLDEN[name]), rel=2e-3)


@parity
def test_golden_loss_of_mixed_rows():
    loss = FocalSupCon(normalize_by="all")
    found = loss(golden("z_mixed"), golden("paper_mixed_labels"))
    torch.testing.assert_close(found, golden("focal_official_mixed"), **close)


@parity
def test_golden_cross_entropy():
    logits, targets = golden("paper_mixed_features") @ golden("classifier_weight").T, golden("paper_mixed_labels")
    torch.testing.assert_close(CoreTuning(eta=0)(logits, golden("z_mixed"), targets), golden("ce_paper"), **close)
    whole = CoreTuning(eta=0.3, normalize_by="all")(logits, golden("z_mixed"), targets)
    torch.testing.assert_close(whole, golden("ce_paper") + 0.3 * golden("focal_official_mixed"), **close)


def written_out(z, same, temperature, by):
    """The equation, pair by pair, with ``same`` (N, N) bool."""
    z = normalize(z, dim=1)
    terms = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        p = torch.softmax(torch.stack([z[i] @ z[j] / temperature for j in others]), 0)
        positives = [k for k, j in enumerate(others) if same[i, j]]
        if positives:
            total = -((1 - p[positives]) * p[positives].log()).sum()
            terms.append(total / (len(positives) if by == "positives" else len(z)))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("by", ["positives", "all"])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_the_equation(by, temperature):
    z, labels = made(9, 4), torch.tensor([4, 0, -1, 4, 9, -1, 0, 4, 2])
    same = (labels[:, None] == labels) & (labels >= 0)
    found = FocalSupCon(temperature, by)(z, labels)
    torch.testing.assert_close(found, written_out(z, same, temperature, by))


def test_without_the_weight_it_is_supcon(monkeypatch):
    z, labels = made(8, 4), torch.arange(8) % 3
    monkeypatch.setattr("counterpoint.objectives.core_tuning.torch.expm1", lambda x: -torch.ones_like(x))
    torch.testing.assert_close(FocalSupCon(0.1)(z, labels), SupCon(0.1)(z, labels))


def test_sure_pairs_weigh_nothing():
    """Two rows alone have p = 1: no loss, no gradient, no 0 * inf; at p near 0 the loss is SupCon's."""
    z = made(2, 3).requires_grad_()
    loss = FocalSupCon()(z, torch.zeros(2).long())
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(loss, z)[0].abs().max() < 1e-9
    many, labels = made(2000, 64), torch.arange(2000) % 2
    assert FocalSupCon(1.0)(many, labels).item() == pytest.approx(SupCon(1.0)(many, labels).item(), rel=2e-3)


def test_detached_weights_change_the_gradient_alone():
    z, labels = made(6, 3).requires_grad_(), torch.arange(6) % 2
    losses = [FocalSupCon(0.5, detach_weight=d)(z, labels) for d in (False, True)]
    torch.testing.assert_close(*losses)
    gradients = [torch.autograd.grad(loss, z)[0] for loss in losses]
    assert not torch.allclose(*gradients, rtol=1e-3)


def test_frequent_classes_weigh_more_by_all():
    """``all`` is smaller by |P| / N, class by class."""
    z, labels = made(7, 3), torch.tensor([0, 0, 0, 0, 0, 1, 1])
    by_positives, by_all = (FocalSupCon(0.5, by, reduction="none")(z, labels) for by in ("positives", "all"))
    torch.testing.assert_close(by_all, by_positives * torch.tensor([4, 4, 4, 4, 4, 1, 1]) / 7)


def test_terms():
    z, labels = made(5, 3), torch.tensor([0, 0, 1, -1, -1])
    terms = FocalSupCon(reduction="none")(z, labels)
    assert (terms[:2] > 0).all()
    assert (terms[2:] == 0).all()
    torch.testing.assert_close(FocalSupCon(reduction="sum")(z, labels), terms.sum())
    torch.testing.assert_close(FocalSupCon()(z, labels), terms.sum() / 2)


class TestSoftLabels:
    def test_hard_ones_as_rows(self):
        z, labels = made(8, 3), torch.arange(8) % 3
        rows = torch.nn.functional.one_hot(labels).double()
        torch.testing.assert_close(FocalSupCon()(z, rows), FocalSupCon()(z, labels))

    def test_rounding_does_not_part_equal_ones(self):
        share = torch.rand(50, generator=torch.Generator().manual_seed(0)) / 8
        there = torch.stack([share, 1 - share], 1)
        back = torch.stack([1 - (1 - share), 1 - share], 1)
        assert not torch.equal(there, back)  # a comparison of floats would part them
        found = same_labels(torch.cat([there, back]))
        assert torch.equal(found[:50], found[50:])
        assert len(found.unique()) == 50

    def test_mixed_ones_are_alone_unless_equal(self):
        rows = torch.tensor([[1.0, 0, 0], [0.7, 0.3, 0], [0.7, 0, 0.3], [0.3, 0.7, 0], [0.7, 0.3, 0], [1, 0, 0]])
        assert same_labels(rows).bincount().sort().values.tolist() == [1, 1, 2, 2]

    def test_many_classes(self):
        """Where ``sum_c 10^c y_c`` in float32 is the same for two labels, or infinite."""
        classes = 100
        rows = torch.eye(classes).repeat(2, 1)
        rows[0] = rows[:2].mean(0)
        expected = torch.arange(classes).repeat(2)
        expected[0] = -1
        found, expected = same_labels(rows), same_labels(expected)
        assert torch.equal(found[:, None] == found, expected[:, None] == expected)
        encoded = (rows[:, :50] * 10.0 ** torch.arange(50)).sum(1)
        assert not torch.isfinite(encoded).all()

    def test_gradient(self):
        z = made(6, 3).requires_grad_()
        rows = torch.tensor([[1.0, 0], [0.4, 0.6], [1, 0], [0, 1], [0.4, 0.6], [0, 1]])
        for options in ({}, {"normalize_by": "all"}):
            assert torch.autograd.gradcheck(lambda x, o=options: FocalSupCon(0.5, **o)(x, rows), (z,))


def test_no_positive_anywhere():
    z = made(4, 3).requires_grad_()
    with pytest.raises(ValueError, match=r"^labels: none of 4 embeddings has a positive"):
        FocalSupCon()(z, torch.arange(4))
    loss = FocalSupCon(empty="zero")(z, torch.arange(4))
    assert loss.item() == 0
    assert (torch.autograd.grad(loss, z)[0] == 0).all()
    targets = torch.eye(4, dtype=torch.float64)
    logits = made(4, 4, seed=1)
    torch.testing.assert_close(CoreTuning()(logits, z, targets), cross_entropy(logits, targets))


@pytest.mark.parametrize("change", [lambda z: z * 0, lambda z: z * 1e30, lambda z: z * 1e-30, lambda z: z[[0] * 6]])
@pytest.mark.parametrize("temperature", [0.07, 0.001])
def test_finite_for_extreme_input(change, temperature):
    z = change(made(6, 4).float()).requires_grad_()
    loss = FocalSupCon(temperature)(z, torch.arange(6) % 2)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z.grad).all()


def test_gradients_of_the_whole():
    logits, z = made(6, 3).requires_grad_(), made(6, 4, seed=1).requires_grad_()
    targets = torch.tensor([[1.0, 0, 0], [0.4, 0.6, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1]])
    assert torch.autograd.gradcheck(lambda a, b: CoreTuning(0.5, 0.5)(a, b, targets), (logits, z))


def test_bfloat16_is_computed_in_float32():
    z, labels = made(32, 8).bfloat16(), torch.arange(32) % 4
    found = FocalSupCon()(z, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), FocalSupCon()(z.double(), labels), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("labels", [torch.zeros(3).long(), torch.zeros(4), torch.zeros(4, 2).long(), [0, 1, 1, 0]])
def test_labels_that_are_none(labels):
    with pytest.raises(ValueError, match=r"^labels: expected \(4,\) integers or \(4, C\) floating point"):
        FocalSupCon()(torch.randn(4, 3), labels)


def test_what_has_no_answer():
    z, targets = torch.randn(4, 3), torch.eye(4)[:, :3].clone()
    targets[3, 0] = 1
    CoreTuning()(z, z, targets)
    for change, message in (
        ({"logits": z[:3]}, "targets: expected"),
        ({"logits": z * float("nan")}, "logits: .*NaN"),
        ({"z": z[:3]}, "z: expected 4 rows"),
        ({"z": z * float("inf")}, "z: .*NaN or infinite"),
        ({"targets": targets.long()}, "targets: expected a floating-point"),
        ({"targets": targets * 2}, "targets: expected rows"),
        ({"targets": targets - 1}, "targets: expected rows"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            CoreTuning()(**{"logits": z, "z": z, "targets": targets, **change})
    for options, message in (
        ({"normalize_by": "columns"}, "normalize_by"),
        ({"empty": "skip"}, "empty"),
        ({"reduction": "avg"}, "reduction"),
    ):
        with pytest.raises(ValueError, match=f"^{message}: expected"):
            FocalSupCon(**options)
    for eta in (-1, float("nan")):
        with pytest.raises(ValueError, match=r"^eta: expected"):
            CoreTuning(eta)
    with pytest.raises(ValueError, match=r"^z: expected at least 2"):
        FocalSupCon()(z[:1], torch.zeros(1).long())


MEMORY = """
import torch
from counterpoint.mining import generate_hard_pairs
from counterpoint.objectives import CoreTuning
from counterpoint.pairwise import partition
torch.set_num_threads(1)
partition._KEPT_BYTES = 0  # what else is kept has a fixed size
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
def run(items):
    x, classifier = torch.randn(items, 32, requires_grad=True), torch.randn(32, 100, requires_grad=True)
    rows, targets = generate_hard_pairs(x, torch.arange(items) % 100, 100)
    CoreTuning()(rows @ classifier, rows, targets).backward()
run(200)
open("/proc/self/clear_refs", "w").write("5")  # the peak starts again from here
before = peak()
run(5462)
print(round(peak() - before))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from Linux")
def test_a_step_with_mixed_rows_makes_no_matrix_of_all_pairs():
    """Mining, soft labels and loss of 16,386 rows: a matrix of their pairs has 1,024 MiB, one of their items' 114."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 160
