"""Adapters over the modality gap: golden figures, what acts when, what is estimated, refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from counterpoint.encoders import (
    CovarianceNoiseAdapter,
    GaussianNoiseAdapter,
    LinearAdapter,
    MeanShiftAdapter,
    RandomShiftAdapter,
    fit_adapters,
    make_adapter,
)
from counterpoint.encoders.adapters import ADAPTERS

GOLDEN = {
    name: torch.from_numpy(np.asarray(value))
    for name, value in np.load(Path(__file__).parents[1] / "golden" / "41-close.npz").items()
}
close = {"rtol": 1e-8, "atol": 1e-10}


def case(name):
    return {key.split(".", 1)[1]: value for key, value in GOLDEN.items() if key.startswith(f"{name}.")}


def pairs(count=60, dim=8, seed=0):
    """Texts and the images that belong to them: turned, carried away and blurred."""
    made = torch.Generator().manual_seed(seed)
    text = normalize(torch.randn(count, dim, generator=made, dtype=torch.float64), dim=1)
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=made, dtype=torch.float64))[0]
    image = text @ turn + torch.randn(dim, generator=made, dtype=torch.float64)
    return text, normalize(image + 0.1 * torch.randn(count, dim, generator=made, dtype=torch.float64), dim=1)


def fitted(name, text, image, std=0.04, **options):
    adapter = make_adapter(name, text.shape[1], std, **options).double()
    adapter.adopt(fit_adapters(text, image))
    return adapter


class TestGolden:
    pytestmark = pytest.mark.paper(41, "parity")

    def test_noise(self):
        g = case("noise")
        adapter = GaussianNoiseAdapter(float(g["scale"]), bool(g["renormalise"]))
        x = g["x"].clone().requires_grad_()
        y = adapter.perturb(x, g["noise"])
        torch.testing.assert_close(y, g["y"], **close)
        torch.testing.assert_close(torch.autograd.grad((y * g["w"]).sum(), x)[0], g["grad_x"], **close)
        torch.testing.assert_close(adapter.eval()(g["x"]), g["y_eval"], **close)
        single = adapter.perturb(g["x"].float(), g["noise"].float())
        torch.testing.assert_close(single.double(), g["y"], rtol=2e-3, atol=1e-6)

    def test_mean_shift(self):
        g = case("shift")
        adapter = MeanShiftAdapter(g["shift"], float(g["scale"]), float(g["noise_scale"]), bool(g["renorm"]))
        torch.testing.assert_close(adapter.perturb(g["x"], g["noise"]), g["y"], **close)
        torch.testing.assert_close(adapter.eval()(g["x"]), g["y_eval"], **close)

    def test_covariance(self):
        g = case("cov")
        adapter = CovarianceNoiseAdapter(g["shift"], g["cov"], float(g["cov_multiplier"]), float(g["iso_scale"]))
        assert adapter.multiplier == CovarianceNoiseAdapter(5).multiplier
        torch.testing.assert_close(adapter.perturb(g["x"], g["iso_draw"], g["cov_draw"]), g["y"], **close)
        torch.testing.assert_close(adapter.eval()(g["x"]), g["y_eval"], **close)

    def test_linear(self):
        g = case("linear")
        adapter = LinearAdapter(g["coef"], g["bias"], float(g["noise_scale"]), bool(g["renorm"]))
        torch.testing.assert_close(adapter.perturb(g["x"], g["noise"]), g["y"], **close)
        torch.testing.assert_close(adapter.eval()(g["x"]), g["y_eval"], **close)

    def test_estimation(self):
        g = case("stats")
        found = fit_adapters(g["text"], g["image"])
        for name, value in (("mean_diff", found.mu), ("cov_diff", found.cov), ("lstsq_bias", found.bias)):
            torch.testing.assert_close(value, g[name], **close)
        torch.testing.assert_close(found.weight, g["lstsq_coef"], **close)
        torch.testing.assert_close(found.mu, g["mean_image"] - g["mean_text"], **close)


class TestWhatActsWhen:
    @pytest.mark.parametrize("name", ADAPTERS)
    def test_training_gives_unit_vectors_and_evaluation_no_noise(self, name):
        text, image = pairs()
        adapter = fitted(name, text, image)
        torch.testing.assert_close(adapter(text).norm(dim=1), torch.ones(60).double())
        adapter.eval()
        assert torch.equal(adapter(text), adapter(text))
        identity = name in ("none", "noise", "covariance")
        assert torch.allclose(adapter(text), text) == identity

    @pytest.mark.parametrize("name", ADAPTERS)
    def test_length_does_not_matter_and_zero_stays_finite(self, name):
        text, image = pairs()
        adapter = fitted(name, text, image)
        made = [adapter(text * scale, torch.Generator().manual_seed(1)) for scale in (1.0, 1e-30, 1e30)]
        torch.testing.assert_close(made[0], made[1])
        torch.testing.assert_close(made[0], made[2])
        for mode in (True, False):
            assert adapter.train(mode)(torch.zeros(1, 8)).isfinite().all()

    def test_no_noise_is_the_identity(self):
        text, _ = pairs()
        for adapter in (GaussianNoiseAdapter(0.0), make_adapter("none", 8)):
            torch.testing.assert_close(adapter(text), text)
        assert adapter(text[:1]).shape == (1, 8)

    def test_a_generator_repeats_and_the_global_one_does_not(self):
        text, image = pairs()
        for name in ("noise", "covariance"):
            adapter = fitted(name, text, image)
            first, second = (adapter(text, torch.Generator().manual_seed(3)) for _ in range(2))
            assert torch.equal(first, second)
            assert not torch.equal(adapter(text), adapter(text))

    def test_noise_is_as_long_as_it_is_said_to_be(self):
        x = normalize(torch.randn(400, 768, generator=torch.Generator().manual_seed(0)), dim=1)
        moved = GaussianNoiseAdapter(0.08, renormalize=False)(x, torch.Generator().manual_seed(0))
        assert (moved - x).norm(dim=1).mean().item() == pytest.approx(0.08 * 768**0.5, rel=0.01)

    def test_half_precision_is_computed_in_float32(self):
        text, image = pairs()
        adapter = fitted("linear", text, image).float()
        found = adapter(text.bfloat16(), torch.Generator().manual_seed(0))
        assert found.dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16):
            again = adapter(text.bfloat16(), torch.Generator().manual_seed(0))
        assert torch.equal(found, again)


@pytest.mark.parametrize("name", ADAPTERS)
def test_gradients(name):
    text, image = pairs(6, 4)
    adapter = fitted(name, text, image)
    draws = adapter.draw(text[:3], torch.Generator().manual_seed(0))
    x = text[:3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: adapter.perturb(x, *draws), (x,))
    assert torch.autograd.gradcheck(adapter.eval(), (x,))


class TestEstimation:
    def test_the_linear_map_carries_texts_to_their_images(self):
        text, image = pairs(400)
        before = (text * image).sum(1).mean()
        after = (fitted("linear", text, image).eval()(text) * image).sum(1).mean()
        shifted = (normalize(fitted("mean-shift", text, image).eval()(text), dim=1) * image).sum(1).mean()
        assert before < shifted < after
        assert after > 0.97

    def test_a_shift_closes_the_gap_of_the_means(self):
        text, image = pairs()
        moved = fitted("mean-shift", text, image).eval()(text)
        torch.testing.assert_close(moved.mean(0), image.mean(0))

    def test_covariance_draws_have_the_covariance(self):
        text, image = pairs(200, 4)
        adapter = fitted("covariance", text, image)
        _, delta = adapter.draw(torch.zeros(40_000, 4, dtype=torch.float64), torch.Generator().manual_seed(0))
        torch.testing.assert_close(torch.cov(delta.T), torch.cov((image - text).T), atol=0.02, rtol=0.05)

    def test_fewer_pairs_than_dimensions(self):
        """The covariance is singular, and least squares have many solutions: no failure, and no invented directions."""
        text, image = pairs(3, 8)
        found = fit_adapters(text, image)
        adapter = CovarianceNoiseAdapter(found.mu, found.cov, std=0.0)
        _, delta = adapter.draw(torch.zeros(50, 8, dtype=torch.float64), torch.Generator().manual_seed(0))
        assert torch.linalg.matrix_rank(delta, atol=1e-6) == 2
        torch.testing.assert_close(text @ found.weight.T + found.bias, image)
        assert found.weight.norm() < 20

    def test_ridge_draws_towards_the_mean(self):
        text, image = pairs()
        plain, strong = fit_adapters(text, image), fit_adapters(text, image, ridge=1e6)
        torch.testing.assert_close(fit_adapters(text, image, ridge=1e-12).weight, plain.weight, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(
            text @ strong.weight.T + strong.bias, image.mean(0).expand(60, -1), atol=1e-4, rtol=0
        )

    def test_statistics_are_of_unit_vectors(self):
        text, image = pairs()
        for first, second in zip(fit_adapters(text, image), fit_adapters(7 * text, 0.1 * image), strict=True):
            torch.testing.assert_close(first, second)

    def test_the_control_goes_as_far_as_the_mean_shift_and_elsewhere(self):
        text, image = pairs(dim=64)
        gap, control = (fitted(name, text, image).mu for name in ("mean-shift", "random-shift"))
        torch.testing.assert_close(control.norm(), gap.norm())
        assert abs(torch.cosine_similarity(control, gap, 0)) < 0.4
        assert torch.equal(RandomShiftAdapter(5, 2.0, seed=1).mu, RandomShiftAdapter(5, 2.0, seed=1).mu)
        assert RandomShiftAdapter(5, 2.0).mu.norm().item() == pytest.approx(2)
        kept = fitted("random-shift", text, image, length=2.0)
        assert kept.mu.norm().item() == pytest.approx(2)

    @pytest.mark.parametrize("name", ADAPTERS)
    def test_what_was_estimated_is_saved(self, name):
        text, image = pairs()
        first, second = fitted(name, text, image), make_adapter(name, 8, 0.04).double()
        second.load_state_dict(first.state_dict())
        made = [adapter(text, torch.Generator().manual_seed(0)) for adapter in (first, second)]
        assert torch.equal(*made)


X = torch.randn(4, 3)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: GaussianNoiseAdapter(-0.1), "std: expected"),
        (lambda: GaussianNoiseAdapter(float("nan")), "std: expected"),
        (lambda: GaussianNoiseAdapter()(torch.full((2, 3), float("nan"))), "x: 6 of 6 values are NaN"),
        (lambda: GaussianNoiseAdapter()(torch.ones(3)), r"x: expected \(rows, D\)"),
        (lambda: GaussianNoiseAdapter()(torch.ones(2, 3, dtype=torch.long)), "x: expected a floating-point"),
        (lambda: MeanShiftAdapter(4)(X), "x: expected vectors of 4 numbers as mu has, got 3"),
        (lambda: MeanShiftAdapter(torch.ones(2, 2)), r"mu: expected \(D,\) finite numbers, got \(2, 2\)"),
        (lambda: MeanShiftAdapter(3, scale=float("inf")), "scale: expected"),
        (lambda: MeanShiftAdapter(0), "mu: expected at least 1, got 0"),
        (lambda: CovarianceNoiseAdapter(3, torch.ones(2, 2)), r"cov: expected \(3, 3\) finite numbers"),
        (lambda: CovarianceNoiseAdapter(2, torch.tensor([[1.0, 2.0], [0.0, 1.0]])), "cov: expected a symmetric"),
        (lambda: CovarianceNoiseAdapter(2, torch.diag(torch.tensor([1.0, -1.0]))), "cov: expected no negative"),
        (lambda: CovarianceNoiseAdapter(2, multiplier=float("nan")), "multiplier: expected"),
        (lambda: LinearAdapter(torch.ones(2, 3)), r"weight: expected \(D, D\) finite"),
        (lambda: LinearAdapter(torch.eye(3), torch.ones(2)), r"bias: expected \(3,\) finite"),
        (lambda: RandomShiftAdapter(3, -1.0), "length: expected"),
        (lambda: make_adapter("cov", 3), r"adapter: no adapter 'cov'; did you mean 'covariance'\?"),
        (lambda: make_adapter("noise", 3, scale=2), "adapter_options: 'noise' does not take"),
        (lambda: make_adapter("none", 3, scale=2), "adapter_options: 'none' does not take"),
        (lambda: fit_adapters(X[:1], X[:1]), "text: expected at least 2 pairs"),
        (lambda: fit_adapters(X, X[:2]), "image: expected"),
        (lambda: fit_adapters(X, X, ridge=-1), "ridge: expected"),
        (lambda: LinearAdapter(4).adopt(fit_adapters(X, X)), r"weight: expected \(4, 4\)"),
    ],
)
def test_refusals(call, told):
    with pytest.raises(ValueError, match=f"^{told}"):
        call()
