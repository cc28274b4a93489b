"""Informative embeddings: of our decoders, of any pair of modules, and of Hugging Face's encoder-decoders."""

import json
import random
import textwrap

import pytest
import torch
from torch import nn

from counterpoint.encoders import (
    GaussianLatent,
    ImageDecoder,
    InformativeEncoder,
    TokenDecoder,
    TokenEncoder,
    VectorDecoder,
    build,
    informative_embedding,
)
from counterpoint.encoders.informative import pool_states
from counterpoint.methods.generative.cmim import CMIM
from counterpoint.objectives import ContrastiveMIM, TokenLikelihood


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def method(shape=(1, 8, 8), encoder="convnet", **options):
    return CMIM(build(encoder, shape, widths=(8, 16)), latent_dim=4, **options)


class Noisy(nn.Module):
    """An encoder with dropout whose code is a pair."""

    def __init__(self):
        super().__init__()
        self.layer, self.dropout = nn.Linear(3, 2), nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.layer(x)), torch.full((len(x), 2), torch.nan)


class TestMethods:
    def test_of_images_it_is_the_last_map(self):
        model, x = method().eval(), torch.rand(3, 1, 8, 8)
        maps = model.decoder.hidden(model.encode(x).mean)
        found = {pool: informative_embedding(model, x, pool=pool) for pool in ("mean", "max", "flatten", 4)}
        torch.testing.assert_close(found["mean"], maps.mean((2, 3)))
        torch.testing.assert_close(found["max"], maps.amax((2, 3)))
        torch.testing.assert_close(found["flatten"], maps.flatten(1))
        torch.testing.assert_close(found[4], maps.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean((3, 5)).flatten(1))

    def test_of_vectors_it_is_the_last_hidden_layer(self):
        model, x = method((6,), "mlp", widths=(7, 5)).eval(), torch.randn(3, 6)
        found = informative_embedding(model, x)
        torch.testing.assert_close(found, model.decoder.hidden(model.encode(x).mean))
        torch.testing.assert_close(informative_embedding(model, x, layer="states.1").shape, torch.Size([3, 7]))

    def test_it_is_what_the_option_projects_and_what_the_encoder_gives(self):
        model = method(embedding="informative").eval()
        x = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
        encoder = InformativeEncoder(model, pool=4)
        assert (encoder.features, encoder.shape, encoder.modality) == (32 * 16, (1, 8, 8), "image")
        torch.testing.assert_close(encoder.embed(x, batch_size=2), model.project(x))
        assert encoder.mean.device == x.device

    def test_it_uses_the_mean_in_evaluation_mode_and_leaves_the_mode_as_it_was(self):
        model, x = method().train(), torch.rand(4, 1, 8, 8)
        model.projector.decoder.eval()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        first, second = (informative_embedding(model, x) for _ in range(2))
        assert torch.equal(first, second)  # nothing is drawn
        assert not first.requires_grad
        torch.testing.assert_close(informative_embedding(model, x[:1]), first[:1])  # no statistics of the batch
        assert model.encoder.training
        assert not model.projector.decoder.training
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class TestPairs:
    def test_the_first_of_a_pair_is_the_code(self):
        encoder, decoder = Noisy().train(), VectorDecoder(2, (3,), (5,))
        x = torch.randn(4, 3)
        found = informative_embedding((encoder, decoder), x)
        torch.testing.assert_close(found, decoder.hidden(encoder.layer(x)).detach())
        assert encoder.dropout.training

    def test_any_decoder_of_torchs_layers(self):
        """The states are what the last layer with weights is given, whatever it is called."""
        decoder = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 3), nn.Sigmoid())
        encoder, x = nn.Linear(3, 2), torch.randn(4, 3)
        expected = decoder[:2](encoder(x)).detach()
        torch.testing.assert_close(informative_embedding((encoder, decoder), x), expected)
        torch.testing.assert_close(informative_embedding((encoder, decoder), x, layer="1"), expected)
        torch.testing.assert_close(informative_embedding((encoder, decoder), x, layer=decoder[1]), expected)

    def test_two_output_layers(self):
        class Two(VectorDecoder):
            def forward(self, z):
                states = self.hidden(z)
                return self.output(states), self.output(states).exp()

        encoder, decoder, x = nn.Linear(3, 2), Two(2, (3,), (5,)), torch.randn(4, 3)
        expected = decoder.hidden(encoder(x)).detach()
        torch.testing.assert_close(informative_embedding([encoder, decoder], x), expected)

    def test_an_autoregressive_decoder_is_shown_the_item_and_padding_is_left_out(self):
        encoder, decoder = TokenEncoder(9, 4), TokenDecoder(9, 4, width=6)
        tokens = torch.randint(1, 9, (3, 5))
        states = decoder.hidden(encoder(tokens), tokens).detach()
        found = informative_embedding((encoder, decoder), tokens)
        torch.testing.assert_close(found, states.mean(1))
        padded = torch.cat([tokens, torch.zeros(3, 4, dtype=torch.long)], 1)
        mask = torch.arange(9).expand(3, 9) < 5
        for pool in ("mean", "max", "last", "first"):
            torch.testing.assert_close(
                informative_embedding((encoder, decoder), padded, pool=pool, mask=mask),
                informative_embedding((encoder, decoder), tokens, pool=pool),
            )
        torch.testing.assert_close(informative_embedding((encoder, decoder), tokens, pool="last"), states[:, -1])
        other = tokens.flip(0)
        assert (informative_embedding((encoder, decoder), tokens, targets=other) - found).abs().max() > 1e-3


TEXTS = [
    line.strip().ljust(16)[:16].lower()
    for module in (json, random, textwrap)
    for item in vars(module).values()
    for line in (getattr(item, "__doc__", None) or "").splitlines()
    if callable(item) and len(line.strip()) > 12
]


def test_cmim_of_real_sentences_learns_and_its_decoder_knows_them():
    """Teacher forcing on docstrings: better than the best guess without context, and a code that is used."""
    letters = sorted(set("".join(TEXTS)))
    tokens = torch.tensor([[letters.index(c) for c in text] for text in TEXTS])
    assert len(tokens) > 60
    mask = tokens != letters.index(" ")
    encoder, latent = TokenEncoder(len(letters), 64, 32), GaussianLatent(64, 16)
    decoder, likelihood, loss = TokenDecoder(len(letters), 16, 64), TokenLikelihood(), ContrastiveMIM()
    modules = nn.ModuleList([encoder, latent, decoder])
    optimizer = torch.optim.Adam(modules.parameters(), 1e-2)
    for step in range(150):
        some = torch.arange(32) + 32 * (step % (len(tokens) // 32))
        posterior = latent(encoder(tokens[some], mask[some]))
        z = posterior.sample()
        optimizer.zero_grad()
        loss(likelihood(decoder(z, tokens[some]), tokens[some]), z, *posterior, mask[some]).backward()
        optimizer.step()

    def surprise(z):
        return -(likelihood(decoder(z, tokens), tokens) * mask).sum() / mask.sum()

    counts = torch.bincount(tokens[mask], minlength=len(letters)).double()
    best_guess = torch.distributions.Categorical(counts).entropy().item()
    with torch.no_grad():
        z = latent(encoder(tokens, mask)).mean
        assert surprise(z) < best_guess - 1
        assert surprise(z) < surprise(z.roll(1, 0)) - 0.05  # another sentence's code is worse
    found = informative_embedding((lambda x, m: latent(encoder(x, m)), decoder), tokens, mask=mask)
    assert found.shape == (len(tokens), 64)
    nearest = torch.cdist(found, found).fill_diagonal_(torch.inf).argmin(1)
    overlap = (tokens == tokens[nearest])[mask].double().mean()
    assert overlap > (tokens == tokens.roll(7, 0))[mask].double().mean() + 0.05  # neighbours share letters


transformers = pytest.importorskip("transformers")
SHARED = {"vocab_size": 40, "d_model": 16, "decoder_start_token_id": 2, "dropout": 0.5}
KINDS = {
    "t5": lambda head: (transformers.T5ForConditionalGeneration if head else transformers.T5Model)(
        transformers.T5Config(
            vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.5,
            decoder_start_token_id=0, pad_token_id=0,
        )
    ),
    "bart": lambda head: (transformers.BartForConditionalGeneration if head else transformers.BartModel)(
        transformers.BartConfig(
            vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=32, dropout=0.5,
        )
    ),
}  # fmt: skip
each = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    """A tiny model that has copied for a few steps."""
    torch.manual_seed(0)
    made = KINDS[request.param](True).train()
    optimizer = torch.optim.Adam(made.parameters(), 1e-2)
    losses = []
    for _ in range(12):
        x = torch.randint(4, 40, (16, 6))
        loss = made(input_ids=x, labels=x).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    return made


class TestHuggingFace:
    def test_it_is_what_the_language_head_is_given(self, model):
        """Logits of the model under teacher forcing are the head's of the states."""
        x = torch.randint(4, 40, (3, 6))
        states = informative_embedding(model, x, pool="flatten").unflatten(1, (6, -1))
        torch.testing.assert_close(informative_embedding(model, x), states.mean(1))
        assert model.training
        model.eval()
        with torch.no_grad():
            logits = model.get_output_embeddings()(states) + getattr(model, "final_logits_bias", 0)
            torch.testing.assert_close(logits, model(input_ids=x, labels=x).logits)
        model.train()

    def test_padding_changes_nothing_under_a_mask(self, model):
        x, pad = torch.randint(4, 40, (3, 6)), model.config.pad_token_id
        padded = torch.cat([x, torch.full((3, 4), pad)], 1)
        mask = (torch.arange(10) < 6).expand(3, 10)
        expected = informative_embedding(model, x)
        for given in ({"input_ids": padded, "attention_mask": mask.long()}, padded):
            found = informative_embedding(model, given, mask=None if isinstance(given, dict) else mask)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        with pytest.raises(ValueError, match=rf"^mask: the items hold the padding token {pad}; give .*attention_mask"):
            informative_embedding(model, padded)
        with pytest.raises(ValueError, match=r"^mask: expected \(3, 10\) as the tokens, got \(3, 6\)"):
            informative_embedding(model, padded, mask=mask[:, :6])

    def test_the_decoder_is_shown_the_item(self, model):
        """Its last word does not reach the decoder before the end, the others do."""
        x = torch.randint(4, 40, (3, 6))
        other = x.clone()
        other[:, -1] = (other[:, -1] - 3) % 36 + 4
        found = [informative_embedding(model, x, pool="flatten", targets=t) for t in (x, other, x.flip(1))]
        torch.testing.assert_close(found[0], found[1])
        assert (found[0] - found[2]).abs().max() > 1e-3

    def test_another_layer(self, model):
        names = [name for name, _ in model.named_modules() if name.endswith(("decoder.block.0", "decoder.layers.0"))]
        x = torch.randint(4, 40, (3, 6))
        assert informative_embedding(model, x, layer=names[0]).shape == (3, 16)
        with pytest.raises(ValueError, match=r"^layer: no layer 'decodr' in the decoder"):
            informative_embedding(model, x, layer="decodr")

    @each
    def test_without_a_head_it_is_the_last_state(self, kind):
        bare, x = KINDS[kind](False), torch.randint(4, 40, (3, 6))
        found = informative_embedding(bare, x, pool="last")
        bare.eval()
        shown = torch.cat([torch.full((3, 1), bare.config.decoder_start_token_id), x[:, :-1]], 1)
        with torch.no_grad():
            expected = bare(input_ids=x, decoder_input_ids=shown).last_hidden_state[:, -1]
        torch.testing.assert_close(found, expected)

    def test_a_config_without_a_start(self, model, monkeypatch):
        for name in ("decoder_start_token_id", "bos_token_id"):
            monkeypatch.setattr(model.config, name, None, raising=False)
        with pytest.raises(ValueError, match=r"^model: its config has no decoder_start_token_id"):
            informative_embedding(model, torch.randint(4, 40, (3, 6)))


class TestRefusals:
    @pytest.mark.parametrize("pool", ["middle", 0, -1, True, None, 2.5])
    def test_pools(self, pool):
        with pytest.raises(ValueError, match=r"^pool: expected a number above 0 or one of mean"):
            informative_embedding(method(), torch.rand(2, 1, 8, 8), pool=pool)

    def test_states_that_cannot_be_pooled_so(self):
        for states, pool, name in (
            (torch.rand(2, 3, 4, 4), "last", "pool"),
            (torch.rand(2, 5, 3), 4, "pool"),
            (torch.rand(2, 5, 3, 3, 3), "mean", "layer"),
        ):
            with pytest.raises(ValueError, match=f"^{name}: "):
                pool_states(states, pool)

    def test_masks(self):
        states = torch.rand(2, 5, 3)
        with pytest.raises(ValueError, match=r"^mask: expected one entry for each place of states \(2, 5, 3\)"):
            pool_states(states, mask=torch.ones(2, 4))
        with pytest.raises(ValueError, match=r"^mask: 1 of 2 rows hold nothing but padding"):
            pool_states(states, mask=torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]))
        with pytest.raises(ValueError, match=r"^mask: expected one entry for each place"):
            informative_embedding(method(), torch.rand(2, 1, 8, 8), mask=torch.ones(2, 8))

    def test_models_and_layers(self):
        with pytest.raises(ValueError, match=r"^model: expected a method with a decoder, .*, got Linear"):
            informative_embedding(nn.Linear(2, 2), torch.rand(2, 2))
        with pytest.raises(ValueError, match=r"^layer: no layer with weights ran"):
            informative_embedding((nn.Linear(2, 2), nn.ReLU()), torch.rand(2, 2))
        unused = ImageDecoder(2, (1, 8, 8))
        unused.spare = nn.Linear(2, 2)
        with pytest.raises(ValueError, match=r"^layer: 'spare' did not run"):
            informative_embedding((nn.Linear(2, 2), unused), torch.rand(2, 2), layer="spare")

        class Transposed(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 2)

            def forward(self, z):
                return self.layer(z.T)

        with pytest.raises(ValueError, match=r"^layer: its states are \(2, 4\), and there are 4 items"):
            informative_embedding((nn.Linear(2, 2), Transposed()), torch.rand(4, 2))
