"""Soft tokens, means of several texts, a head that is trained on texts and used on images; golden figures, refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from counterpoint.encoders import (
    CrossModalTransfer,
    EmbeddingToTokens,
    GaussianNoiseAdapter,
    MeanShiftAdapter,
    mean_of_texts,
)
from counterpoint.encoders.transfer import before_words

GOLDEN = {
    name.removeprefix("tokens."): torch.from_numpy(np.asarray(value))
    for name, value in np.load(Path(__file__).parents[1] / "golden" / "41-close.npz").items()
    if name.startswith("tokens.")
}
close = {"rtol": 1e-8, "atol": 1e-10}


@pytest.mark.paper(41, "parity")
def test_golden_soft_tokens():
    g = GOLDEN
    soft = EmbeddingToTokens(6, 5).double()
    soft.linear.load_state_dict({"weight": g["weight"], "bias": g["bias"]})
    torch.testing.assert_close(soft(g["x"]), g["tokens"], **close)
    inputs, mask = before_words(soft(g["x"]), g["text_embed"], g["text_mask"])
    torch.testing.assert_close(inputs, g["inputs"], **close)
    assert torch.equal(mask, g["mask"])


@pytest.mark.paper(41, "parity")
def test_golden_mean_of_captions():
    g = GOLDEN
    found = mean_of_texts(g["captions"], g["segments"])
    torch.testing.assert_close(found, g["caption_mean"], **close)
    torch.testing.assert_close(GaussianNoiseAdapter().eval()(found), g["caption_mean_unit"], **close)
    order = torch.tensor([3, 0, 4, 2, 1])  # the official mean needs them item by item
    torch.testing.assert_close(mean_of_texts(g["captions"][order], g["segments"][order]), found, **close)


class TestTokens:
    def test_constants_come_first_and_are_the_same_for_all(self):
        soft = EmbeddingToTokens(6, 5, tokens=2, constants=3)
        nn.init.normal_(soft.constants)
        made = soft(torch.randn(4, 6))
        assert made.shape == (4, 5, 5)
        assert torch.equal(made[0, :3], made[1, :3])
        assert not torch.equal(made[0, 3:], made[1, 3:])
        made.sum().backward()
        assert (soft.constants.grad == 4).all()


class TestTransfer:
    def make(self, adapter=None):
        torch.manual_seed(0)
        text, image = nn.Sequential(nn.Linear(3, 8), nn.Dropout()), nn.Linear(5, 8)
        return CrossModalTransfer(text, image, adapter, nn.Linear(8, 2))

    def test_images_are_never_adapted(self):
        transfer = self.make(MeanShiftAdapter(torch.ones(8), std=0.1))
        x = torch.randn(4, 5)
        expected = transfer.head(normalize(transfer.image_encoder(x), dim=1))
        for mode in (True, False):
            torch.testing.assert_close(transfer.train(mode)(image=x), expected)

    def test_texts_are_adapted_in_both_modes_and_blurred_in_training(self):
        transfer, x = self.make(MeanShiftAdapter(torch.ones(8), std=0.1)), torch.randn(4, 3)
        assert not torch.equal(transfer(text=x), transfer(text=x))
        transfer.eval()
        unit = normalize(transfer.text_encoder(x), dim=1)
        torch.testing.assert_close(transfer(text=x), transfer.head(unit + 1))

    def test_encoders_are_frozen(self):
        transfer = self.make().train()
        assert not transfer.text_encoder[1].training
        transfer(text=torch.randn(4, 3)).sum().backward()
        assert [name for name, p in transfer.named_parameters() if p.grad is not None] == ["head.weight", "head.bias"]

    def test_one_of_the_two(self):
        with pytest.raises(ValueError, match=r"^text, image: expected one"):
            self.make()()


X = torch.randn(4, 3)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: EmbeddingToTokens(3, 4)(torch.ones(2, 4)), r"x: expected \(B, 3\)"),
        (lambda: EmbeddingToTokens(3, 4, tokens=0), "tokens: expected at least 1, got 0"),
        (lambda: EmbeddingToTokens(3, 4, constants=-1), "constants: expected at least 0, got -1"),
        (lambda: before_words(torch.ones(2, 4, 5), torch.ones(3, 1, 5), torch.ones(3, 1)), "words, mask: expected"),
        (lambda: before_words(torch.ones(2, 4, 5), torch.ones(2, 1, 5), torch.ones(2, 2)), "words, mask: expected"),
        (lambda: mean_of_texts(X, torch.tensor([0, 0, 2, 2])), "owner: 1 of 3 items have no text"),
        (lambda: mean_of_texts(X, torch.tensor([0, 0, 1, 2]), 2), "owner: expected 0 to 1, got 0 to 2"),
        (lambda: mean_of_texts(X, torch.tensor([0, 0])), r"owner: expected \(4,\) integers"),
    ],
)
def test_refusals(call, told):
    with pytest.raises(ValueError, match=f"^{told}"):
        call()
