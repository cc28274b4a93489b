"""Decoders of vectors, images and sentences: shapes, what depends on what, learning, and refusals."""

import pytest
import torch

from counterpoint.encoders import GaussianLatent, ImageDecoder, TokenDecoder, TokenEncoder, VectorDecoder


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def trained(decoder, z, x, steps=60, lr=1e-2):
    """Mean squared error after a decoder has learned to write x for z."""
    optimizer = torch.optim.Adam(decoder.parameters(), lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (decoder(z) - x).square().mean()
        loss.backward()
        optimizer.step()
    return loss.item()


class TestGaussianLatent:
    def test_samples_have_the_mean_and_the_scale(self):
        latent = GaussianLatent(4, 3)
        mean, log_scale = posterior = latent(torch.randn(1, 4))
        assert mean.shape == log_scale.shape == (1, 3)
        draws = torch.cat([posterior.sample() for _ in range(4000)])
        torch.testing.assert_close(draws.mean(0), mean[0].detach(), atol=0.1, rtol=0)
        torch.testing.assert_close(draws.std(0), log_scale[0].exp().detach(), rtol=0.1, atol=0)

    def test_the_gradient_reaches_both(self):
        latent = GaussianLatent(4, 3)
        latent(torch.randn(5, 4)).sample().sum().backward()
        assert latent.mean.weight.grad.abs().max() > 0
        assert latent.log_scale.weight.grad.abs().max() > 0

    def test_the_scale_is_clamped_from_below(self):
        latent = GaussianLatent(4, 3)
        torch.nn.init.constant_(latent.log_scale.bias, -100.0)
        found = latent(torch.randn(5, 4))
        assert (found.log_scale == -6).all()
        found.log_scale.sum().backward()
        assert (latent.log_scale.weight.grad == 0).all()
        assert (GaussianLatent(4, 3, -2.0)(torch.full((2, 4), -1e4)).log_scale >= -2).all()

    def test_it_is_float32_under_autocast_and_repeatable(self):
        latent = GaussianLatent(4, 3)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = latent(torch.randn(5, 4))
        assert {x.dtype for x in posterior} == {torch.float32}
        draws = [posterior.sample(torch.Generator().manual_seed(3)) for _ in range(2)]
        assert torch.equal(*draws)

    def test_refusal(self):
        with pytest.raises(ValueError, match=r"^latent_dim: expected at least 1, got 0"):
            GaussianLatent(4, 0)


@pytest.mark.parametrize("side", [8, 12, 16, 28, 32, 64, (8, 20)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_every_size(side, channels):
    height, width = side if isinstance(side, tuple) else (side, side)
    decoder = ImageDecoder(5, (channels, height, width))
    z = torch.randn(2, 5)
    assert decoder(z).shape == (2, channels, height, width)
    hidden = decoder.hidden(z)
    assert hidden.shape == (2, 32, height, width)
    torch.testing.assert_close(decoder.output(hidden), decoder(z))


@pytest.mark.parametrize("make", [lambda: ImageDecoder(5, (1, 8, 8)), lambda: VectorDecoder(5, (1, 8, 8), (64,))])
def test_decoders_learn_items_by_heart(make):
    z, x = torch.randn(8, 5), torch.rand(8, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert trained(make(), z, x) < 0.2 * x.var()


def test_an_item_does_not_depend_on_the_others_of_its_batch():
    z = torch.randn(4, 5)
    for decoder in (ImageDecoder(5, (3, 16, 16)), VectorDecoder(5, (7,))):
        decoder.train()
        torch.testing.assert_close(decoder(z)[:1], decoder(z[:1]))


def test_vectors():
    decoder = VectorDecoder(5, (7,), (16, 8))
    z = torch.randn(2, 5)
    assert decoder(z).shape == (2, 7)
    assert decoder.hidden(z).shape == (2, 8)
    assert VectorDecoder(5, (3, 4, 4))(z).shape == (2, 3, 4, 4)


def test_widths():
    assert ImageDecoder(5, (1, 8, 8), (12, 6)).hidden(torch.randn(2, 5)).shape == (2, 6, 8, 8)
    with pytest.raises(ValueError, match=r"^widths: expected 2 for images of 8 x 8, got 3"):
        ImageDecoder(5, (1, 8, 8), (8, 8, 8))
    with pytest.raises(ValueError, match=r"^widths: expected at least one"):
        VectorDecoder(5, (7,), ())
    with pytest.raises(ValueError, match=r"^shape: expected \(C, H, W\), got \(7,\)"):
        ImageDecoder(5, (7,))


class TestTokens:
    def test_a_word_depends_on_the_code_and_the_words_before_it_alone(self):
        decoder = TokenDecoder(6, 4, width=8, layers=2)
        z, tokens = torch.randn(3, 4), torch.randint(6, (3, 5))
        changed = tokens.clone()
        changed[:, 2] = (changed[:, 2] + 1) % 6
        before, after = decoder(z, tokens), decoder(z, changed)
        assert before.shape == (3, 5, 6)
        torch.testing.assert_close(before[:, :3], after[:, :3])
        assert (before[:, 3] - after[:, 3]).abs().amin(1).min() > 0
        assert (decoder(z + 1, tokens)[:, 0] - before[:, 0]).abs().max() > 1e-3

    def test_written_sentences_are_what_teacher_forcing_finds_most_probable(self):
        decoder = TokenDecoder(6, 4, width=8)
        z = torch.randn(3, 4)
        written = decoder.generate(z, 7)
        assert written.shape == (3, 7)
        torch.testing.assert_close(decoder(z, written).argmax(2), written)
        drawn = [decoder.generate(z, 7, 1.0, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])

    def test_padding_at_the_end_does_not_matter_to_the_encoder(self):
        encoder = TokenEncoder(6, 8, 4)
        tokens = torch.randint(6, (3, 5))
        padded = torch.cat([tokens, torch.zeros(3, 2, dtype=torch.long)], 1)
        mask = torch.arange(7).expand(3, 7) < 5
        assert encoder(tokens).shape == (3, 8)
        torch.testing.assert_close(encoder(padded, mask), encoder(tokens))
        assert (encoder(padded) - encoder(tokens)).abs().max() > 1e-3

    @pytest.mark.parametrize(
        "value", [torch.zeros(2), torch.zeros(2, 3), torch.full((2, 3), 6), torch.full((2, 3), -1)]
    )
    def test_what_are_no_tokens(self, value):
        for call in (TokenEncoder(6, 4), lambda tokens: TokenDecoder(6, 4)(torch.zeros(2, 4), tokens)):
            with pytest.raises(ValueError, match=r"^tokens: expected"):
                call(value)

    def test_refusals(self):
        tokens = torch.zeros(2, 3, dtype=torch.long)
        with pytest.raises(ValueError, match=r"^tokens: expected 5 sentences as there are codes, got 2"):
            TokenDecoder(6, 4)(torch.zeros(5, 4), tokens)
        with pytest.raises(ValueError, match=r"^mask: expected \(2, 3\) as tokens, got \(2, 4\)"):
            TokenEncoder(6, 4)(tokens, torch.ones(2, 4))
        with pytest.raises(ValueError, match=r"^mask: 2 of 2 sentences have no words"):
            TokenEncoder(6, 4)(tokens, torch.zeros(2, 3))
        with pytest.raises(ValueError, match=r"^features: expected an even number, got 5"):
            TokenEncoder(6, 5)
