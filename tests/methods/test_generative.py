"""cMIM, A-MIM, VAE and the plain auto-encoder: what they optimise, what they make, and that they learn."""

import json

import numpy as np
import pytest
import torch

import counterpoint as cp
from counterpoint import methods, views
from counterpoint.encoders import ImageDecoder, VectorDecoder, build, informative_embedding
from counterpoint.findings import Curves, Heatmap, Pictures
from counterpoint.methods.generative.autoencoder import Autoencoder
from counterpoint.methods.generative.cmim import CMIM
from counterpoint.methods.generative.mim import MIM
from counterpoint.methods.generative.vae import VAE
from counterpoint.objectives import ContrastiveMIMTerm

IMAGE, VECTOR = (1, 8, 8), (6,)
KINDS = (CMIM, MIM, VAE, Autoencoder)
every = pytest.mark.parametrize("kind", KINDS)


def make(kind, shape=IMAGE, encoder=None, **options):
    torch.manual_seed(0)
    encoder = encoder or ("mlp" if shape == VECTOR else "convnet")
    return kind(build(encoder, shape, widths=(8, 16), mean=torch.full(shape[:1], 0.3)), latent_dim=4, **options)


def items(count=8, shape=IMAGE, seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def loss(method, x, seed=0):
    torch.manual_seed(seed)
    return method.loss([x], {})


def fit(name, out, data="digits", **changes):
    changes = {"encoder_options": {"widths": [16, 32, 64]}, "epochs": 12, "batch_size": 50} | changes
    return cp.fit(
        data, name, out=str(out), threads=1, seed=1, progress=False, report=False, monitor=2, **changes
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return fit("cmim", tmp_path_factory.mktemp("cmim"), layer="projection")


@pytest.mark.paper(38, "trains")
def test_learns_from_real_images(trained, tmp_path):
    """The loss falls, the mean of the code beats an untrained encoder, and items come back."""
    losses = [row["loss"] for row in trained.metrics]
    assert losses[-1] < losses[0] - 50
    assert trained.metrics[-1]["collapse"] is None
    untrained = fit("untrained", tmp_path / "untrained")
    assert trained.scores["probe_1"] > untrained.scores["probe_1"] + 0.05
    assert trained.scores["knn"] > untrained.scores["knn"]
    model, x = trained.model(), cp.data.load("digits")[np.arange(100)]["image"]
    with torch.no_grad():
        error = (model.reconstruct(x) - x.float() / 255).square().mean()
        assert error < 0.6 * (x.float() / 255).var(0).mean()


@pytest.mark.paper(38, "trains")
def test_a_run_brings_its_decoder_back(trained):
    """The informative embedding of a finished run, and its figures."""
    model = trained.model()
    x = cp.data.load("digits")[trained.embeddings["index"][:20]]["image"]
    with torch.no_grad():
        mean = model.project(x)
    torch.testing.assert_close(mean, torch.from_numpy(trained.embeddings["projections"][:20]), atol=1e-3, rtol=1e-3)
    assert informative_embedding(model, x, pool=4).shape == (20, 32 * 16)
    kinds = [type(found) for found in trained.findings]
    assert kinds == [Pictures] * 4 + [Curves]
    beside, prior, _, between, dimensions = trained.findings
    assert beside.images.shape == (4, 6, 8, 8, 1)
    assert beside.columns == ["item", "reconstruction"] * 3
    gaps = np.abs(beside.images[:, 0::2].astype(float) - beside.images[:, 1::2]).mean()
    others = np.abs(beside.images[:, 0::2].astype(float) - np.roll(beside.images[:, 1::2], 1, 0)).mean()
    assert gaps < 0.8 * others
    assert prior.images.shape == (4, 6, 8, 8, 1)
    assert between.images.shape == (4, 7, 8, 8, 1)
    assert (np.diff(dimensions.series["means"]) <= 0).all()
    assert dimensions.series["posterior"].max() < 0.2  # MIM is certain of its codes


def test_views_of_auto_are_the_items_themselves(trained):
    assert trained.config["views"] == "auto"
    assert not {"alignment", "view_recall@1"} & set(trained.scores)
    assert trained.metrics[-1]["positive_similarity"] == pytest.approx(1)
    from counterpoint.experiments.reports import _reopen

    assert _reopen(trained.config)[1] == views.resolve("identity", "image", IMAGE)
    assert _reopen({**trained.config, "method": "simclr"})[1].n == 2
    assert _reopen({**trained.config, "method": "elsewhere:Mine"})[1].n == 2  # whose code is not imported


def test_tables(tmp_path):
    """Vectors in units of their own: reconstructed in them, each feature's share of variance shown."""
    draw = np.random.default_rng(0)
    hidden = draw.normal(size=(400, 2))
    table = hidden @ draw.normal(size=(2, 5)) * [1, 10, 100, 0.1, 1] + [0, 5, -1000, 3, 0]
    table = np.concatenate([table, np.full((400, 1), 7.0)], 1).astype(np.float32)
    run = fit("cmim", tmp_path / "run", table, epochs=30, encoder_options=None, options={"latent_dim": 8})
    explained, dimensions = run.findings
    assert isinstance(explained, Heatmap)
    assert isinstance(dimensions, Curves)
    assert np.nanmin(explained.values[0, :5]) > 0.7
    assert np.isnan(explained.values[0, 5])
    model = run.model()
    with torch.no_grad():
        back = model.reconstruct(torch.from_numpy(table[:50]))
    assert (back[:, 2].numpy() - table[:50, 2]).std() < 0.5 * table[:50, 2].std()
    assert model.sample(3).shape == (3, 6)
    layer = fit(
        "vae", tmp_path / "informative", table, epochs=2, encoder_options=None, layer="projection",
        options={"latent_dim": 8, "embedding": "informative", "widths": [32, 16]},
    )  # fmt: skip
    assert layer.embeddings["projections"].shape[1] == 16
    assert json.loads((layer.folder / "head" / "config.json").read_text())["options"]["embedding"] == "informative"


@every
def test_many_ways_of_reconstructing(kind):
    for shape, encoder, options, decoder in (
        (IMAGE, "convnet", {}, ImageDecoder),
        (IMAGE, "mlp", {}, VectorDecoder),
        (IMAGE, "mlp", {"decoder": "conv"}, ImageDecoder),
        (IMAGE, "convnet", {"decoder": "mlp", "widths": (5,)}, VectorDecoder),
        ((3, 16, 16), "convnet", {"likelihood": "gaussian"}, ImageDecoder),
        (VECTOR, "mlp", {}, VectorDecoder),
        (VECTOR, "mlp", {"likelihood": "bernoulli"}, VectorDecoder),
    ):
        method = make(kind, shape, encoder, **options)
        x = items(shape=shape)
        loss(method, x).backward()
        assert isinstance(method.decoder, decoder)
        assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
        with torch.no_grad():
            assert method.reconstruct(x).shape == x.shape
            assert method.interpolate(x[:2], x[2:4], 3).shape == (2, 3, *shape)
            if shape != VECTOR:
                assert 0 <= float(method.sample(4).min()) <= float(method.sample(4).max()) <= 1


def test_cmim_is_mim_with_a_term_on_the_samples():
    """The same draw: their difference is the contrastive term of the samples, not of the means."""
    x = items()
    pair = [make(kind, temperature=0.3) if kind is CMIM else make(kind) for kind in (CMIM, MIM)]
    pair[1].load_state_dict(pair[0].state_dict())
    for method in pair:
        torch.nn.init.constant_(method.projector.latent.log_scale.bias, 0.5)
    cmim, mim = (loss(method, x) for method in pair)
    torch.manual_seed(0)
    pair[0].train()
    posterior = pair[0].encode(x)
    term = ContrastiveMIMTerm(0.3)
    torch.testing.assert_close(cmim - mim, term(posterior.sample()), rtol=1e-4, atol=1e-4)
    assert (cmim - mim - term(posterior.mean)).abs() > 1e-3


def test_the_likelihood_is_of_standardised_vectors_and_of_plain_pixels():
    x = items(shape=VECTOR)
    method = make(MIM, VECTOR)
    z = torch.randn(8, 4)
    expected = method.projector.likelihood(method.decoder(z), (x - 0.3) / 1)[:, :1]
    torch.testing.assert_close(method.log_likelihood(z, x)[:, :1], expected)
    image = make(MIM)
    pixels = torch.randint(0, 256, (8, *IMAGE), dtype=torch.uint8)
    found = image.log_likelihood(z, pixels)
    torch.testing.assert_close(found, image.projector.likelihood(image.decoder(z), pixels.float() / 255))


def test_several_views_are_averaged():
    method = make(Autoencoder).eval()
    a, b = items(), items(seed=1)
    torch.testing.assert_close(method.loss([a, b], {}), (method.loss([a], {}) + method.loss([b], {})) / 2)


def test_the_prior_and_its_temperature():
    method = make(VAE).eval()
    draws = [method.sample(5, t, torch.Generator().manual_seed(0)) for t in (1.0, 0.0)]
    torch.testing.assert_close(draws[1], method.decode(torch.zeros(5, 4)))
    assert (draws[0] - draws[1]).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"^count, temperature: expected"):
        method.sample(0)


@every
def test_refusals(kind):
    for name, options in (
        ("decoder", {"decoder": "unet"}),
        ("likelihood", {"likelihood": "poisson"}),
        ("embedding", {"embedding": "both"}),
        ("pool", {"pool": "middle"}),
    ):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            make(kind, **options)
    with pytest.raises(ValueError, match=r"^decoder: 'conv' makes images, and the data are vectors"):
        make(kind, VECTOR, decoder="conv")
    with pytest.raises(ValueError, match=r"^views: this method reconstructs items of \(1, 8, 8\), got \(1, 4, 4\)"):
        make(kind).loss([torch.rand(4, 1, 4, 4)], {})
    with pytest.raises(ValueError, match=r"^x: expected values in \[0, 1\]"):
        make(kind, VECTOR, likelihood="bernoulli").loss([2 + items(shape=VECTOR)], {})


def test_options_reach_the_loss():
    x = items()
    values = [
        loss(make(CMIM, **options), x).item()
        for options in ({}, {"temperature": 1.0}, {"negatives": "sum"}, {"recon_reduction": "mean"})
    ]
    values.append(loss(make(VAE, beta=3.0), x).item())
    values.append(loss(make(VAE), x).item())
    values.append(loss(make(VAE, analytic=False), x).item())
    assert len({round(value, 5) for value in values}) == len(values)
    assert make(CMIM, min_log_scale=-1.0).projector.latent.min_log_scale == -1


def test_names():
    assert {name: methods.get(name) for name in ("cmim", "mim", "vae", "autoencoder")} == dict(
        zip(("cmim", "mim", "vae", "autoencoder"), KINDS, strict=True)
    )
