"""The spectral method, and the heads that SimCLR and SupCon may have."""

import pytest
import torch

import counterpoint as cp
from counterpoint.encoders import build
from counterpoint.encoders.heads import HEADS, ReweightingHead
from counterpoint.methods.vision.simclr import SimCLR
from counterpoint.methods.vision.spectral import Spectral
from counterpoint.methods.vision.supcon import SupCon
from counterpoint.objectives import NTXent

SMALL = {
    "epochs": 6, "limit": 1000, "batch_size": 100, "threads": 1, "seed": 1, "progress": False, "report": False,
    "encoder_options": {"widths": [16, 32, 64]}, "monitor": 3, "evaluate": False,
}  # fmt: skip


@pytest.mark.paper(70, "trains")
@pytest.mark.parametrize(
    ("method", "options"), [("simclr", {"head": "reweighting:1.2"}), ("spectral", {}), ("spectral", {"clip_mu": 1.0})]
)
def test_learns_from_real_images(method, options, tmp_path):
    run = cp.fit("digits", method, out=str(tmp_path / "run"), options=options, **SMALL)
    losses, knn = ([row[key] for row in run.metrics if key in row] for key in ("loss", "knn"))
    assert losses[-1] < losses[0]
    assert knn[-1] > 0.7  # chance is 0.1
    assert run.metrics[-1]["collapse"] is None


@pytest.mark.parametrize("kind", [SimCLR, SupCon, Spectral])
@pytest.mark.parametrize("head", HEADS)
def test_every_head_takes_a_gradient_to_the_encoder(kind, head):
    torch.manual_seed(0)
    method = kind(build("convnet", (1, 8, 8), widths=(8, 16)), head=head)
    method.loss([torch.rand(8, 1, 8, 8) for _ in range(2)], {"label": torch.arange(8) % 3}).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.encoder.parameters())
    assert all(p.grad is not None for p in method.projector.parameters())


def test_the_loss_acts_on_the_reweighted_features_and_what_is_used_are_the_features():
    method = SimCLR(build("convnet", (1, 8, 8), widths=(8, 16)), head="reweighting:1.3").eval()
    x1, x2 = torch.rand(2, 6, 1, 8, 8)
    weights = 1.3 ** -torch.arange(16.0)
    torch.testing.assert_close(method.loss([x1, x2], {}), NTXent()(method(x1) * weights, method(x2) * weights))
    assert torch.equal(method(x1), method.encoder(x1))
    assert isinstance(method.projector, ReweightingHead)


def test_the_default_is_the_mlp_with_its_first_weights():
    """The option changes nothing for those who do not use it."""
    from counterpoint.encoders import mlp_head

    for kind in (SimCLR, SupCon):
        encoder = build("convnet", (1, 8, 8), widths=(8, 16))
        torch.manual_seed(3)
        found = kind(encoder).projector.state_dict()
        torch.manual_seed(3)
        expected = mlp_head(16, 16, 128).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_unknown_head_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^head: no head 'mpl'; did you mean 'mlp'"):
        cp.fit("digits", out=str(tmp_path / "run"), options={"head": "mpl"}, **SMALL)
