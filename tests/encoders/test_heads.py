"""Projection heads and what stands in their place."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from counterpoint.encoders.heads import HEADS, ReweightingHead, SymmetricReLU, identity_head, make_head, mlp_head
from counterpoint.objectives import NTXent

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "70-projection-head.npz")


def golden(name):
    return torch.from_numpy(GOLDEN[name])


def close(found, name):
    torch.testing.assert_close(found, golden(name), rtol=1e-7, atol=1e-9)


@pytest.mark.paper(70, "parity")
def test_reweighting_under_ntxent():
    head = ReweightingHead(12, float(golden("reweight__kappa")), dtype=torch.float64)
    h1, h2 = (golden(f"reweight__{name}").requires_grad_() for name in ("h1", "h2"))
    close(head.weights, "reweight__weights")
    close(head(h1), "reweight__projected1")
    close(head(h2), "reweight__projected2")
    loss = NTXent(float(golden("reweight__temperature")))(head(h1), head(h2))
    close(loss, "reweight__ntxent_loss")
    for gradient, name in zip(torch.autograd.grad(loss, (h1, h2)), ("grad_h1", "grad_h2"), strict=True):
        close(gradient, f"reweight__{name}")


@pytest.mark.paper(70, "parity")
def test_symmetric_relu():
    x = golden("symrelu__x").requires_grad_()
    activation = SymmetricReLU(float(golden("symrelu__b"))).double()
    activation.threshold.data = golden("symrelu__b")
    y = activation(x)
    close(y, "symrelu__y")
    grad_x, grad_b = torch.autograd.grad(y, (x, activation.threshold), golden("symrelu__cotangent"))
    close(grad_x, "symrelu__grad_x")
    close(grad_b, "symrelu__grad_b")


class TestReweightingHead:
    def test_there_is_nothing_to_learn_and_it_is_saved(self):
        head = ReweightingHead(4, 2.0)
        assert list(head.parameters()) == []
        assert head.state_dict()["weights"].tolist() == [1, 0.5, 0.25, 0.125]

    def test_kappa_one_is_no_head_and_below_one_the_order_turns(self):
        h = torch.randn(3, 5)
        assert torch.equal(ReweightingHead(5, 1.0)(h), h)
        assert ReweightingHead(3, 0.5).weights.tolist() == [1, 2, 4]

    def test_underflow_is_told_and_leaves_no_denormal_numbers(self):
        with pytest.warns(UserWarning, match=r"^kappa: 1.5 \*\* -i underflows from coordinate 216 on: the last 296 of"):
            head = ReweightingHead(512, 1.5)
        assert (head.weights[:216] >= torch.finfo(torch.float32).tiny).all()
        assert (head.weights[216:] == 0).all()

    def test_the_bound_in_the_warning_is_one(self):
        with pytest.warns(UserWarning, match=r"Below 1\.186 none"):
            ReweightingHead(512, 1.5)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert (ReweightingHead(512, 1.186).weights > 0).all()

    @pytest.mark.parametrize("kappa", [0.0, -1.0, float("nan"), float("inf")])
    def test_kappa_out_of_range(self, kappa):
        with pytest.raises(ValueError, match=r"^kappa: expected a finite number above 0"):
            ReweightingHead(4, kappa)

    def test_overflow(self):
        with pytest.raises(ValueError, match=r"^kappa: 0.5 .* overflows torch.float32"):
            ReweightingHead(512, 0.5)


class TestSymmetricReLU:
    def test_zero_is_the_identity(self):
        x = torch.randn(4, 3)
        assert torch.equal(SymmetricReLU()(x), x)

    def test_what_is_weak_is_gone_and_so_is_its_gradient(self):
        x = torch.tensor([[-2.0, -0.2, 0.0, 0.2, 2.0]], requires_grad=True)
        y = SymmetricReLU(0.5, 5)(x)
        torch.testing.assert_close(y, torch.tensor([[-1.5, 0, 0, 0, 1.5]]))
        y.sum().backward()
        assert x.grad.tolist() == [[1, 0, 0, 0, 1]]


class TestMakeHead:
    def test_the_mlp_is_the_one_that_methods_had(self):
        torch.manual_seed(0)
        expected = mlp_head(6, 6, 4).state_dict()
        torch.manual_seed(0)
        found = make_head("mlp", 6, 4).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)

    def test_without_batch_norm_it_has_biases(self):
        kinds = [type(layer) for layer in make_head("mlp-plain", 6, 4)]
        assert kinds == [nn.Linear, nn.ReLU, nn.Linear]
        assert make_head("mlp-plain", 6, 4)[0].bias is not None

    def test_identity_does_nothing_yet_and_can_learn(self):
        h = torch.randn(5, 6)
        assert torch.equal(identity_head(6)(h), h)
        assert sum(p.numel() for p in make_head("identity", 6, 4).parameters()) == 2 * (36 + 6) + 1

    @pytest.mark.parametrize("name", [*HEADS, "reweighting:1.2"])
    def test_shapes(self, name):
        keeps = name.partition(":")[0] in ("identity", "reweighting", "none")
        assert make_head(name, 6, 4)(torch.randn(3, 6)).shape == (3, 6 if keeps else 4)

    def test_kappa(self):
        assert make_head("reweighting", 6, 4).kappa == 1.05
        assert make_head("reweighting:1.2", 6, 4).kappa == 1.2

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("mpl", "no head 'mpl'; did you mean 'mlp'"),
            ("reweigting:1.2", "did you mean 'reweighting'"),
            ("mlp:3", "no head 'mlp:3'"),
            ("reweighting:", "could not convert"),
            ("reweighting:much", "could not convert"),
            ("reweighting:-1", "kappa: expected a finite number above 0"),
        ],
    )
    def test_bad_names(self, name, message):
        with pytest.raises(ValueError, match=f"^head: .*{message}"):
            make_head(name, 6, 4)
