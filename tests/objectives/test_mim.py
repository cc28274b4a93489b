"""MIM, cMIM and the ELBO: the authors' figures, what the terms must do, limits, and refusals."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from counterpoint.objectives import ELBO, MIM, ContrastiveMIM, ContrastiveMIMTerm, InfoNCE, TokenLikelihood

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "38-cmim.npz")
parity = pytest.mark.paper(38, "parity")
both = pytest.mark.parametrize("case", ["a", "b"])
close = {"rtol": 1e-7, "atol": 1e-9}
LOSSES = (MIM, ContrastiveMIM, ELBO)


def golden(case):
    return {key[2:]: torch.from_numpy(np.asarray(GOLDEN[key])) for key in GOLDEN.files if key.startswith(case)}


def code(g):
    """The sample of a code with the gradient of mean and log scale."""
    mean, log_scale = g["mean"].clone().requires_grad_(), g["log_scale"].clone().requires_grad_()
    return mean + g["eps"] * log_scale.exp(), mean, log_scale


def made(items=5, dim=3, seed=0, dtype=torch.float64):
    """A log-likelihood and a code of items."""
    draw = torch.Generator().manual_seed(seed)
    mean, log_scale, eps = (torch.randn(items, dim, generator=draw, dtype=dtype) for _ in range(3))
    return torch.randn(items, generator=draw, dtype=dtype), mean + eps * log_scale.exp(), mean, log_scale


@parity
@both
def test_golden_contrastive_term(case):
    g = golden(case)
    z = g["z"].requires_grad_()
    loss = ContrastiveMIMTerm(float(g["temperature"]), reduction="none")
    torch.testing.assert_close(-loss(z), g["log_p_k1_given_zx"], **close)
    torch.testing.assert_close(torch.autograd.grad(-loss(z).mean(), z)[0], g["grad_z_of_mean_log_p_k1"], **close)
    torch.testing.assert_close(-loss(z.float()).double(), g["log_p_k1_given_zx"], rtol=2e-3, atol=1e-5)


@parity
@both
def test_golden_loss_and_gradient_without_reconstruction(case):
    g = golden(case)
    z, mean, log_scale = code(g)
    terms = ContrastiveMIM(float(g["temperature"]), reduction="none")(torch.zeros(len(z)), z, mean, log_scale)
    torch.testing.assert_close(terms, g["cmim_loss"], **close)
    torch.testing.assert_close(terms.mean(), g["cmim_loss_mean"], **close)
    gradients = torch.autograd.grad(terms.mean(), (mean, log_scale))
    torch.testing.assert_close(gradients, (g["grad_mean"], g["grad_log_scale"]), **close)


@parity
@both
def test_golden_totals_with_a_token_decoder(case):
    """KERMT's mean over the valid tokens, and A-MIM's sum."""
    g = golden(case)
    tokens = TokenLikelihood()(g["token_logits"], g["token_target"])
    arguments = tokens, *code(g), ~g["padding_mask"]
    total = ContrastiveMIM(float(g["temperature"]), recon_reduction="mean")(*arguments)
    torch.testing.assert_close(total, g["total"], **close)
    torch.testing.assert_close(MIM()(*arguments), g["amim_loss_mean"], **close)
    single = tuple(x.float() if x.is_floating_point() else x for x in arguments)
    assert MIM()(*single).item() == pytest.approx(g["amim_loss_mean"].item(), rel=2e-3)


@parity
@both
def test_golden_densities(case):
    g = golden(case)
    posterior, prior = MIM._densities(g["z"], g["mean"], g["log_scale"])
    torch.testing.assert_close(posterior, g["log_q_z_given_x"], **close)
    torch.testing.assert_close(prior, g["log_P_z"], **close)


def test_the_positive_has_no_gradient_so_the_term_only_repels():
    """Along the code its gradient is zero, and a small step against it lowers every cosine on average."""
    z = made()[1].requires_grad_()
    (gradient,) = torch.autograd.grad(ContrastiveMIMTerm()(z), z)
    torch.testing.assert_close((gradient * z).sum(1), torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0)
    pair = torch.tensor([[1.0, 0.2], [1.0, -0.1]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(ContrastiveMIMTerm(0.5)(pair), pair)
    units, moved = normalize(pair), normalize(pair - 1e-3 * gradient)
    assert moved[0] @ moved[1] < units[0] @ units[1]


def test_written_out():
    z, temperature = made(6, 4)[1], 0.3
    u = normalize(z)
    for negatives in ("mean", "sum"):
        found = ContrastiveMIMTerm(temperature, negatives, "none")(z)
        for i in range(6):
            others = [math.exp(float(u[i] @ u[j]) / temperature) for j in range(6) if j != i]
            own, rest = math.exp(1 / temperature), sum(others) / (5 if negatives == "mean" else 1)
            assert found[i].item() == pytest.approx(-math.log(own / (own + rest)), rel=1e-9)


def test_a_sum_over_negatives_is_info_nce_of_a_code_with_itself():
    z = made(6, 4)[1]
    terms = [InfoNCE(0.3)(z[i : i + 1], z[i : i + 1], z[[j for j in range(6) if j != i]]) for i in range(6)]
    torch.testing.assert_close(ContrastiveMIMTerm(0.3, "sum", "none")(z), torch.stack(terms))


def test_codes_in_one_direction_leave_a_coin_toss():
    for items in (2, 3, 50):
        z = torch.ones(items, 4, dtype=torch.float64) * torch.linspace(0.1, 9, items, dtype=torch.float64)[:, None]
        assert ContrastiveMIMTerm()(z).item() == pytest.approx(math.log(2))
        assert ContrastiveMIMTerm(negatives="sum")(z).item() == pytest.approx(math.log(items))


def test_the_batch_size_does_not_matter_but_to_a_sum():
    z = torch.randn(1024, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = {kind: [ContrastiveMIMTerm(0.5, kind)(z[:b]).item() for b in (64, 1024)] for kind in ("mean", "sum")}
    assert abs(values["mean"][0] - values["mean"][1]) < 0.02
    assert values["sum"][1] - values["sum"][0] == pytest.approx(math.log(1024 / 64), abs=0.3)


def test_one_code_and_two():
    alone = torch.randn(1, 3, requires_grad=True)
    loss = ContrastiveMIMTerm()(alone)
    loss.backward()
    assert loss == 0
    assert (alone.grad == 0).all()
    arguments = made(1)
    torch.testing.assert_close(ContrastiveMIM()(*arguments), MIM()(*arguments))
    z = made(2)[1]
    cosine = (normalize(z)[0] @ normalize(z)[1]).item()
    assert ContrastiveMIMTerm()(z).item() == pytest.approx(math.log1p(math.exp((cosine - 1) / 0.1)))


def test_a_code_of_zeros_has_no_direction():
    """Its cosine is 0 with all, itself included; the others see it as orthogonal."""
    z = torch.tensor([[0.0, 0], [1, 0], [0, 1]], dtype=torch.float64, requires_grad=True)
    terms = ContrastiveMIMTerm(0.5, reduction="none")(z)
    assert terms[0].item() == pytest.approx(math.log(2))
    assert terms[1].item() == pytest.approx(math.log1p(math.exp(-2)))
    (gradient,) = torch.autograd.grad(terms.sum(), z)
    assert torch.isfinite(gradient).all()


@both
def test_the_gradient_of_log_q_goes_through_the_sample(case):
    """With z made of them, d log q / d mean = 0 and d log q / d log_scale = -1; a detached z would give neither."""
    z, mean, log_scale = code(golden(case))
    posterior, _ = MIM._densities(z, mean, log_scale)
    of_mean, of_scale = torch.autograd.grad(posterior.sum(), (mean, log_scale))
    torch.testing.assert_close(of_mean, torch.zeros_like(mean), atol=1e-9, rtol=0)
    torch.testing.assert_close(of_scale, -torch.ones_like(mean))


def test_mim_shrinks_the_posterior_and_the_elbo_does_not():
    """At a reconstruction that does not care, MIM's loss falls with the scale without end; the ELBO's best is 1."""
    mean, eps = torch.zeros(4, 3), torch.randn(4, 3, generator=torch.Generator().manual_seed(0))

    def at(loss, scale):
        log_scale = torch.full((4, 3), scale)
        return loss(torch.zeros(4), mean + eps * log_scale.exp(), mean, log_scale).item()

    for low, high in ((-20.0, -6.0), (-6.0, -1.0)):
        assert at(MIM(), low) < at(MIM(), high) - 3
    assert at(MIM(), -6.0) < 0
    assert at(ELBO(), 0.0) == 0
    assert min(at(ELBO(), -1.0), at(ELBO(), 1.0)) > 0.5


def test_the_elbo_by_samples_is_the_closed_form_on_average():
    draw = torch.Generator().manual_seed(0)
    mean, log_scale = torch.tensor([[0.5, -1.0]]).double(), torch.tensor([[-0.3, 0.4]]).double()
    many = [x.expand(40_000, 2) for x in (mean, log_scale)]
    z = many[0] + torch.randn(40_000, 2, generator=draw).double() * many[1].exp()
    zeros = torch.zeros(40_000)
    expected = ELBO()(zeros, z, *many)
    assert ELBO(analytic=False)(zeros, z, *many).item() == pytest.approx(expected.item(), abs=0.03)
    distributions = torch.distributions
    q = distributions.Normal(mean, log_scale.exp())
    exact = distributions.kl_divergence(q, distributions.Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(expected, exact)
    assert ELBO(beta=3)(zeros, z, *many).item() == pytest.approx(3 * exact.item())


def test_cmim_is_mim_and_the_term():
    arguments = made()
    expected = MIM(reduction="none")(*arguments) + ContrastiveMIMTerm(0.2, reduction="none")(arguments[1])
    torch.testing.assert_close(ContrastiveMIM(0.2, reduction="none")(*arguments), expected)
    assert ContrastiveMIM(negatives="sum")(*arguments) > ContrastiveMIM()(*arguments)


def test_sum_and_mean_of_the_reconstruction():
    likelihood, z, mean, log_scale = made()
    entries = torch.stack([likelihood, 2 * likelihood, 0 * likelihood], 1)
    base = MIM()(0 * likelihood, z, mean, log_scale)
    for how, factor in (("sum", 3.0), ("mean", 1.0)):
        found = MIM(how)(entries, z, mean, log_scale) - base
        torch.testing.assert_close(found, -factor * likelihood.mean())
        torch.testing.assert_close(MIM(how)(entries.reshape(5, 1, 3), z, mean, log_scale) - base, found)
    mask = torch.tensor([[True, False, False]]).expand(5, 3)
    for how in ("sum", "mean"):  # of one entry they are the same
        torch.testing.assert_close(MIM(how)(entries, z, mean, log_scale, mask) - base, -likelihood.mean())


def test_normalised_gradients_have_the_same_value():
    likelihood, _, mean, log_scale = made()
    likelihood.requires_grad_()
    log_scale.requires_grad_()
    losses = [
        MIM(normalize_gradient=switch)(likelihood, mean + log_scale.exp(), mean, log_scale) for switch in (False, True)
    ]
    assert losses[0] == losses[1]
    plain, scaled = (torch.autograd.grad(loss, (likelihood, log_scale)) for loss in losses)
    torch.testing.assert_close(scaled[0], plain[0])
    torch.testing.assert_close(scaled[1], plain[1] / 3)


@pytest.mark.parametrize(
    "kind", [*LOSSES, lambda: ELBO(analytic=False)], ids=[*(kind.__name__ for kind in LOSSES), "drawn ELBO"]
)
def test_gradients_equal_finite_differences(kind):
    arguments = [x.requires_grad_() for x in made()]
    assert torch.autograd.gradcheck(kind(), arguments)


@pytest.mark.parametrize("kind", LOSSES)
def test_reductions_and_types(kind):
    arguments = made()
    terms = kind(reduction="none")(*arguments)
    assert terms.shape == (5,)
    torch.testing.assert_close(kind(reduction="sum")(*arguments), terms.sum())
    torch.testing.assert_close(kind()(*arguments), terms.mean())
    half = [x.bfloat16().requires_grad_() for x in arguments]
    loss = kind()(*half)
    loss.backward()
    assert loss.dtype == torch.float32
    assert half[1].grad is None or half[1].grad.dtype == torch.bfloat16
    torch.testing.assert_close(loss.double(), kind()(*(x.detach().double() for x in half)), rtol=1e-5, atol=1e-5)


def change(arguments, at, value):
    return tuple(value if i == at else x for i, x in enumerate(arguments))


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize(("at", "name"), list(enumerate(["log_likelihood", "z", "mean", "log_scale"])))
def test_bad_input(kind, at, name):
    arguments = made()
    for value in (arguments[at] * math.nan, arguments[at].long(), arguments[at][:0], arguments[at].tolist()):
        with pytest.raises(ValueError, match=rf"^{name}: |^mean: expected \(0, 3\) as z"):
            kind()(*change(arguments, at, value))
    with pytest.raises(ValueError, match=r"^(log_likelihood|mean|log_scale): expected"):
        kind()(*change(arguments, at, arguments[at][:4]))


@pytest.mark.parametrize("kind", LOSSES)
def test_masks_and_overflows(kind):
    likelihood, *rest = made()
    entries = likelihood[:, None].expand(5, 2)
    with pytest.raises(ValueError, match=r"^mask: expected \(5, 2\) as log_likelihood, got \(5, 3\)"):
        kind()(entries, *rest, torch.ones(5, 3))
    with pytest.raises(ValueError, match=r"^mask: 1 of 5 items have no entry that counts"):
        kind()(entries, *rest, torch.arange(5)[:, None].expand(5, 2) > 0)
    with pytest.raises(ValueError, match=r"^log_scale.*: .* overflows"):
        kind()(likelihood, rest[0], rest[1], torch.full((5, 3), -1000.0 if kind is not ELBO else 1000.0).double())


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: MIM("total"), "recon_reduction"),
        (lambda: MIM(reduction="avg"), "reduction"),
        (lambda: ContrastiveMIM(0.0), "temperature"),
        (lambda: ContrastiveMIM(negatives="max"), "negatives"),
        (lambda: ELBO(-1.0), "beta"),
        (lambda: ELBO(math.nan), "beta"),
    ],
)
def test_options(make, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        make()
