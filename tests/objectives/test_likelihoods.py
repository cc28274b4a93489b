"""Log-likelihoods of pixels, numbers and tokens: golden figures, torch's own distributions, and refusals."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributions

from counterpoint.objectives import BernoulliLikelihood, GaussianLikelihood, TokenLikelihood, log_normal

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "38-cmim.npz")


def made(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.paper(38, "parity")
@pytest.mark.parametrize("case", ["a", "b"])
def test_golden(case):
    g = {key[2:]: torch.from_numpy(np.asarray(GOLDEN[key])) for key in GOLDEN.files if key.startswith(case)}
    pixels = BernoulliLikelihood()(g["x_logits"], g["x_image"])
    torch.testing.assert_close(-pixels.sum(1), g["bernoulli_nll_per_sample"], rtol=1e-7, atol=1e-9)
    valid = ~g["padding_mask"]
    tokens = -TokenLikelihood()(g["token_logits"], g["token_target"]) * valid
    torch.testing.assert_close(tokens.sum(1), g["recon_per_sample_sum_over_tokens"], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(
        tokens.sum(1) / valid.sum(1), g["recon_per_sample_mean_over_tokens"], rtol=1e-7, atol=1e-9
    )
    right = (TokenLikelihood().mean(g["token_logits"]) == g["token_target"]) & valid
    torch.testing.assert_close((right.sum(1) / valid.sum(1)).float(), g["token_accuracy"])


def test_log_normal_is_torchs():
    x, mean, log_scale = made(4, 3), made(4, 3, seed=1), made(4, 3, seed=2)
    torch.testing.assert_close(log_normal(x, mean, log_scale), distributions.Normal(mean, log_scale.exp()).log_prob(x))
    torch.testing.assert_close(log_normal(x), distributions.Normal(0.0, 1.0).log_prob(x))


def test_bernoulli_is_torchs_on_black_and_white():
    logits, x = made(4, 1, 3, 3), (made(4, 1, 3, 3, seed=1) > 0).double()
    expected = distributions.Bernoulli(logits=logits).log_prob(x)
    torch.testing.assert_close(BernoulliLikelihood()(logits, x), expected)
    torch.testing.assert_close(BernoulliLikelihood().mean(logits).double(), logits.sigmoid(), rtol=1e-5, atol=1e-6)
    grey = torch.full((1, 1), 0.3)
    best = BernoulliLikelihood()(torch.logit(grey), grey)
    assert best.item() == pytest.approx(0.3 * math.log(0.3) + 0.7 * math.log(0.7), rel=1e-5)
    assert (BernoulliLikelihood()(torch.tensor([[1e4, -1e4]]), torch.tensor([[1.0, 0.0]])) == 0).all()


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 2, 2)])
def test_the_gaussian_learns_the_size_of_the_error(shape):
    likelihood = GaussianLikelihood(3)
    scales = torch.tensor([0.3, 1.0, 2.0])
    draw = made(4000, *shape[1:], seed=3).float()
    x = draw * scales.reshape(-1, *[1] * (len(shape) - 2))
    optimizer = torch.optim.Adam(likelihood.parameters(), 0.1)
    for _ in range(100):
        optimizer.zero_grad()
        (-likelihood(torch.zeros_like(x), x).mean()).backward()
        optimizer.step()
    torch.testing.assert_close(likelihood.log_scale.exp().detach(), scales, rtol=0.05, atol=0.0)


def test_the_gaussian_is_clamped():
    """What is reconstructed exactly stops paying at exp(-3)."""
    likelihood = GaussianLikelihood(2)
    x = torch.ones(4, 2)
    with torch.no_grad():
        likelihood.log_scale.fill_(-50.0)
    expected = 3 - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(likelihood(x, x), torch.full((4, 2), expected))
    likelihood(x, x).sum().backward()
    assert (likelihood.log_scale.grad == 0).all()


@pytest.mark.parametrize("kind", [BernoulliLikelihood, lambda: GaussianLikelihood(3)], ids=["bernoulli", "gaussian"])
def test_refusals(kind):
    x = torch.rand(4, 3)
    for parameters, data, name in (
        (x * math.nan, x, "parameters"),
        (x, x * math.inf, "x"),
        (x, x[:, :2], "x"),
        (x[0], x[0], "parameters"),
        (x, x.long(), "x"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: "):
            kind()(parameters, data)


def test_refusals_of_one_kind():
    with pytest.raises(ValueError, match=r"^x: expected values in \[0, 1\], got -1 to 1"):
        BernoulliLikelihood()(torch.zeros(2, 1), torch.tensor([[-1.0], [1.0]]))
    with pytest.raises(ValueError, match=r"^x: expected \(B, 2, ...\), got \(4, 3\)"):
        GaussianLikelihood(2)(torch.zeros(4, 3), torch.zeros(4, 3))
    logits = torch.zeros(2, 3, 5)
    for tokens in (torch.zeros(2, 4).long(), torch.zeros(2, 3), torch.full((2, 3), 5), torch.full((2, 3), -100)):
        with pytest.raises(ValueError, match=r"^tokens: expected"):
            TokenLikelihood()(logits, tokens)
