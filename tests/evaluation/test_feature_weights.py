"""The theory of the projection head: closed form, gradient descent, and what it says of deep layers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.encoders.two_layer import DiagonalTwoLayer, LinearTwoLayer
from counterpoint.evaluation.feature_weights import (
    class_weights,
    feature_weights,
    inequality,
    optimum,
    population_loss,
)
from counterpoint.objectives.spectral import SpectralContrastive

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "70-projection-head.npz")
SIGMA = torch.from_numpy(GOLDEN["linear_theory__sigma"])
SIGMA_POS = torch.from_numpy(GOLDEN["linear_theory__sigma_pos"])
WIDTH = int(GOLDEN["linear_theory__p"])


def descend(sigma, sigma_pos, hidden, width, scale=0.05, steps=800):
    """A linear network after gradient descent from small weights on the population's loss."""
    torch.manual_seed(0)
    model = LinearTwoLayer(len(sigma), hidden, width, scale).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        population_loss(model, sigma, sigma_pos).backward()
        optimizer.step()
    return model, *feature_weights(model, torch.eye(len(sigma), dtype=torch.float64))


@pytest.mark.paper(70, "parity")
def test_the_closed_form():
    found = optimum(SIGMA, SIGMA_POS, WIDTH)
    assert found.kept.tolist() == GOLDEN["linear_theory__kept"].tolist()
    assert found.loss == pytest.approx(float(GOLDEN["linear_theory__min_loss"]), rel=1e-7)
    for value, name in (
        (found.product, "M_diag"),
        (found.weights[1], "post_weights"),
        (found.weights[0], "pre_weights"),
    ):
        expected = torch.from_numpy(GOLDEN[f"linear_theory__{name}"])
        torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.paper(70, "parity")
def test_gradient_descent_ends_there():
    model, pre, post = descend(SIGMA, SIGMA_POS, 8, WIDTH)
    found = optimum(SIGMA, SIGMA_POS, WIDTH)
    assert population_loss(model, SIGMA, SIGMA_POS).item() == pytest.approx(found.loss, abs=1e-8)
    torch.testing.assert_close(post, torch.from_numpy(GOLDEN["linear_theory__gd_post_colnorms"]), rtol=0, atol=1e-4)
    torch.testing.assert_close(pre[found.kept], found.weights[0][found.kept], rtol=0, atol=2e-2)


def test_the_head_squares_the_ratios():
    """Logarithms of the weights before the head are half of those after it: slope 1/2."""
    sigma = torch.tensor([0.5, 0.8, 1.2, 1.8], dtype=torch.float64)
    _, pre, post = descend(sigma, torch.full_like(sigma, 0.5), 16, 8, scale=0.03)
    torch.testing.assert_close(post, 0.5**0.5 / sigma, rtol=1e-3, atol=0)
    slope = np.polyfit(post.log(), pre.log(), 1)[0]
    assert slope == pytest.approx(0.5, abs=0.02)
    assert inequality(post) == pytest.approx(2 * inequality(pre), rel=0.04)
    assert pre.max() / pre.min() < post.max() / post.min()


def test_the_loss_of_a_population_is_that_of_its_batches():
    torch.manual_seed(0)
    model = LinearTwoLayer(3, 4, 2, scale=0.7).double()
    shared = torch.randn(20_000, 3, dtype=torch.float64) * torch.tensor([1.2, 0.6, 0.3])
    x1, x2 = (shared + 0.5 * torch.randn_like(shared) for _ in range(2))
    sigma, sigma_pos = ((x1.T @ x1 + x2.T @ x2) / 40_000, (x1.T @ x2 + x2.T @ x1) / 40_000)
    batch = SpectralContrastive()(model(x1), model(x2))
    assert population_loss(model, sigma, sigma_pos).item() == pytest.approx(batch.item(), rel=0.01)
    a, b = sigma.diagonal(), sigma_pos.diagonal()
    torch.testing.assert_close(population_loss(model, torch.diag(a), torch.diag(b)), population_loss(model, a, b))


def test_any_linear_network_is_worse_than_the_optimum():
    torch.manual_seed(1)
    best = optimum(SIGMA, SIGMA_POS, 2).loss
    for _ in range(50):
        assert population_loss(LinearTwoLayer(5, 3, 2, scale=0.6).double(), SIGMA, SIGMA_POS).item() > best


def test_layers_share_the_weight_evenly():
    found = optimum(SIGMA, SIGMA_POS, 5, layers=3)
    torch.testing.assert_close(found.weights[0] ** 3, found.weights[2])
    torch.testing.assert_close(found.weights[1], found.weights[0] ** 2)
    spreads = [inequality(weights) for weights in found.weights]
    assert spreads == pytest.approx([spreads[2] / 3, 2 * spreads[2] / 3, spreads[2]])


def test_ties_useless_features_and_more_width_than_needed():
    a = torch.tensor([1.0, 2.0, 2.0, 1.0])
    tied = optimum(a, torch.tensor([0.5, 1.0, 1.0, 0.1]), 2)
    assert tied.loss == pytest.approx(-0.5)
    assert len(tied.kept) == 2
    useless = optimum(a, torch.tensor([0.5, -2.0, 0.0, 0.1]), 4)
    assert useless.kept.tolist() == [0, 3]
    assert useless.weights[:, 1:3].abs().max() == 0


@pytest.mark.parametrize(
    ("sigma", "sigma_pos", "width", "layers", "message"),
    [
        (torch.ones(3), torch.ones(2), 1, 2, "sigma, sigma_pos: expected"),
        (torch.eye(3), torch.eye(3), 1, 2, "sigma, sigma_pos: expected"),
        (torch.tensor([1.0, 0.0]), torch.ones(2), 1, 2, "sigma: expected variances above 0"),
        (torch.ones(2), torch.ones(2), 0, 2, "width, layers: expected at least 1"),
        (torch.ones(2), torch.ones(2), 1, 0, "width, layers: expected at least 1"),
    ],
)
def test_what_has_no_optimum(sigma, sigma_pos, width, layers, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        optimum(sigma, sigma_pos, width, layers)


class TestDiagonal:
    def train(self, strengths, threshold, steps=150):
        """On features that are ``+-strength``, the same in both views."""
        torch.manual_seed(0)
        model = DiagonalTwoLayer(len(strengths), scale=0.5, threshold=threshold)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(steps):
            x = strengths * torch.randint(0, 2, (64, len(strengths))).mul(2).sub(1)
            optimizer.zero_grad()
            SpectralContrastive()(model(x), model(x)).backward()
            optimizer.step()
        return model

    def test_a_weak_feature_stays_in_the_first_layer_and_never_reaches_the_second(self):
        strengths = torch.tensor([1.0, 0.3])
        model = self.train(strengths, threshold=0.2)
        pre, post = feature_weights(model, torch.diag(strengths))
        assert post[0] > 0.8
        assert pre[1] == pytest.approx(0.15)  # as it began
        assert post[1] == 0

    def test_without_a_threshold_both_arrive(self):
        strengths = torch.tensor([1.0, 0.3])
        pre, post = feature_weights(self.train(strengths, threshold=0.0), torch.diag(strengths))
        assert (post > 0.1).all()
        assert (pre > 0.15).all()


class TestClassWeights:
    def test_the_share_of_the_spread_along_each_class(self):
        """Two axes of standard deviation 3 and 1, each with two classes at its ends."""
        x = torch.tensor([[3.0, 0], [-3, 0], [0, 1], [0, -1]]).repeat(5, 1) + 7
        found = class_weights(x, torch.arange(4).repeat(5))
        torch.testing.assert_close(found, torch.tensor([0.9, 0.9, 0.1, 0.1]).double().sqrt())
        assert inequality(found) == pytest.approx(np.log(3) / 2)

    def test_shift_rotation_and_scale_change_nothing(self):
        x, labels = torch.randn(40, 6).double(), torch.arange(40) % 3
        rotation = torch.linalg.qr(torch.randn(6, 6).double())[0]
        torch.testing.assert_close(class_weights(5 * x @ rotation - 2, labels), class_weights(x, labels))

    def test_unlabelled_items_count_for_the_spread_only(self):
        x, labels = torch.randn(40, 6), torch.arange(40) % 3
        with_others = class_weights(torch.cat([x, x]), torch.cat([labels, torch.full((40,), -1)]))
        torch.testing.assert_close(with_others, class_weights(x, labels))

    def test_degenerate(self):
        labels = torch.arange(6) % 2
        assert class_weights(torch.ones(6, 3), labels).tolist() == [0, 0]
        assert class_weights(torch.full((6, 3), 1e30), labels).tolist() == [0, 0]
        assert inequality(torch.zeros(3)) == 0
        assert inequality(torch.tensor([0.0, 2.0, 2.0])) == 0

    def test_bad_input(self):
        with pytest.raises(ValueError, match=r"^x, labels: expected \(N, D\) and \(N,\)"):
            class_weights(torch.ones(6, 3), torch.zeros(5).long())
        with pytest.raises(ValueError, match=r"^labels: no item has one"):
            class_weights(torch.ones(6, 3), torch.full((6,), -1))
