"""A language model that reads a vector: what it reads and writes, padding, several targets, learning, refusals."""

import pytest
import torch

from counterpoint.encoders import TextGenerator, small_t5, with_words
from counterpoint.encoders.tokenizer import SPECIAL, Tokenizer

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

WORDS = ["zero", "one", "two", "three", "four", "five", "a", "photo", "of", "the", "digit", "is", "it", "yes", "no"]


def spelling():
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate([*SPECIAL, *WORDS])}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens([AddedToken(each, special=True) for each in SPECIAL])
    return made


def make(dim=6, dropout=0.0, model=None, **options):
    torch.manual_seed(0)
    model = model or small_t5(len(SPECIAL) + len(WORDS), width=32, layers=1, heads=4, dropout=dropout)
    return TextGenerator(model, Tokenizer(spelling(), length=3), dim, **options)


def vectors(count, dim=6):
    return torch.nn.functional.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(1)), dim=1)


@pytest.fixture(scope="module")
def learned():
    """A generator that has learned by heart whether a vector is of a digit, and to name it."""
    generator, x = make(), vectors(4)
    optimizer = torch.optim.Adam(generator.parameters(), 1e-2)
    names = ["zero", "one", "two", "three"]
    questions = [f"is it {name}" for name in ("zero", "two", "two", "one")]
    for _ in range(60):
        optimizer.zero_grad()
        loss = generator(x, [f"a photo of the digit {name}" for name in names])
        loss = loss + generator(x, ["yes", "no", "yes", "no"], questions)
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    return generator, x, names, questions


class TestWriting:
    @pytest.mark.parametrize("beams", [1, 5])
    def test_what_was_learned_is_written(self, learned, beams):
        generator, x, names, questions = learned
        assert generator.generate(x, beams=beams) == [f"a photo of the digit {name}" for name in names]
        assert generator.generate(x, questions, beams=beams, length=8) == ["yes", "no", "yes", "no"]

    def test_it_stops_where_it_is_told_to(self, learned):
        generator, x, *_ = learned
        assert generator.generate(x, length=3) == ["a photo of"] * 4

    def test_the_mode_is_restored_and_dropout_is_off(self):
        generator = make(dropout=0.5).train()
        x = vectors(3)
        assert generator.generate(x, length=6) == generator.generate(x, length=6)
        assert generator.training
        assert generator.model.training

    def test_what_no_text_should_hold_is_not_written(self, monkeypatch):
        generator, x = make(), vectors(3)
        optimizer = torch.optim.Adam(generator.parameters(), 1e-2)
        for _ in range(15):
            optimizer.zero_grad()
            generator(x, ["elephants", "giraffes", "zero"]).backward()
            optimizer.step()
        seen, decode = [], generator.tokenizer.decode
        monkeypatch.setattr(generator.tokenizer, "decode", lambda ids: [seen.append(ids), *decode(ids)][1:])
        generator.generate(x, beams=1, length=4, suppress_tokens=None)
        generator.generate(x, beams=1, length=4)
        assert (seen[0] == generator.tokenizer.unk).any()
        assert not (seen[1] == generator.tokenizer.unk).any()

    def test_sampling(self, learned):
        generator, x, *_ = learned
        torch.manual_seed(0)
        hot = {tuple(generator.generate(x, beams=1, do_sample=True, temperature=50.0, length=5)) for _ in range(3)}
        assert len(hot) > 1


class TestLoss:
    def test_it_is_the_mean_over_tokens_of_the_log_likelihood(self):
        generator, x = make().eval(), vectors(2)
        texts = ["zero", "a photo of the digit one"]
        found = generator.log_likelihood(x, texts)
        assert found.shape == (2,)
        assert generator(x, texts).item() == pytest.approx(-found.sum().item() / (2 + 7), rel=1e-5)
        alone = torch.cat([generator.log_likelihood(x[i : i + 1], texts[i : i + 1]) for i in range(2)])
        torch.testing.assert_close(found, alone)

    def test_new_weights_find_all_tokens_likely(self):
        loss = make().eval()(vectors(8), [WORDS[i] for i in range(8)])
        assert 0.5 * torch.tensor(20.0).log() < loss < 3 * torch.tensor(20.0).log()

    def test_several_targets_are_as_many_items(self):
        generator, x = make().eval(), vectors(2)
        several = generator(x, [["zero", "the digit zero"], ["one"]])
        torch.testing.assert_close(several, generator(x[[0, 0, 1]], ["zero", "the digit zero", "one"]))
        without = generator(x, [[], ["one"]])
        torch.testing.assert_close(without, generator(x[1:], ["one"]))

    def test_padding_of_the_task_matters_to_the_official_code_alone(self):
        x, tasks = vectors(2), ["is it zero", "is it the digit of a photo of one"]
        ours, official = make().eval(), make(compat="official").eval()
        for generator, same in ((ours, True), (official, False)):
            both = generator.log_likelihood(x, ["yes", "no"], tasks)[:1]
            alone = generator.log_likelihood(x[:1], ["yes"], tasks[:1])
            assert torch.allclose(both, alone, atol=1e-5) == same
        torch.testing.assert_close(  # nothing is padded in a task alone
            ours.log_likelihood(x[:1], ["yes"], tasks[:1]), official.log_likelihood(x[:1], ["yes"], tasks[:1])
        )

    def test_the_vector_and_the_task_both_count(self):
        generator, x = make().eval(), vectors(2)
        plain = generator.log_likelihood(x, ["yes", "yes"], ["is it one"] * 2)
        assert plain[0] != plain[1]
        assert (generator.log_likelihood(x, ["yes", "yes"], ["is it two"] * 2) - plain).abs().min() > 1e-6

    def test_targets_are_lower_case_and_cut(self):
        generator, x = make(length=3).eval(), vectors(1)
        torch.testing.assert_close(generator(x, ["ZERO One"]), generator(x, ["zero one"]))
        torch.testing.assert_close(generator(x, ["zero one two three"]), generator(x, ["zero one"]))
        upper = make(lowercase=False).eval()
        assert upper(x, ["ZERO"]) != upper(x, ["zero"])

    def test_all_weights_are_trained(self):
        generator = make(constants=2)
        generator(vectors(3), ["zero", "one", "two"], ["is it", "it", "is"]).backward()
        assert [name for name, p in generator.named_parameters() if p.grad is None] == []


class TestWords:
    def test_words_that_cannot_be_spelled_become_tokens(self):
        few = Tokenizer.train(["a photo of one", "a photo of two"])
        more = with_words(few, ["photo", "yes", "kexp", "yes"])
        assert few.unk in few.encode(["yes kexp"])[0]
        assert few.encode(["a photo of two"]) == more.encode(["a photo of two"])
        rows = more.encode(["Yes, kexp a photo of one"])
        assert more.decode(rows)[0].split()[:1] == ["yes"]
        assert len(more) == len(few) + 2
        assert more.decode(more.encode(["yes kexp photo"])) == ["yes kexp photo"]
        assert Tokenizer.from_state(more.state()).encode(["yes kexp"]) == more.encode(["yes kexp"])

    def test_nothing_new(self):
        few = Tokenizer.train(["a photo of one", "a photo of two"])
        assert with_words(few, ["photo", "one"]) is few


def test_a_model_with_weights_from_a_folder(tmp_path):
    small_t5(20, width=32, layers=1, heads=4).save_pretrained(tmp_path)
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=spelling(), pad_token="[PAD]", eos_token="[EOS]", unk_token="[UNK]"
    )
    wrapped.save_pretrained(tmp_path)
    generator = TextGenerator.from_pretrained(tmp_path, 6).eval()
    own = make(model=generator.model)
    own.soft = generator.soft
    x = vectors(2)
    arguments = (x, ["zero", "a photo of one"], ["is it", "the digit is"])
    torch.testing.assert_close(own.eval()(*arguments), generator(*arguments))
    assert own.generate(x, length=5) == generator.generate(x, length=5)


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^path: no model .*fetched with download=True"):
        TextGenerator.from_pretrained("nobody/has-this-model", 6)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "vocab_size": 20}')
    with pytest.raises(ValueError, match=r"^path: expected an encoder-decoder such as T5"):
        TextGenerator.from_pretrained(tmp_path, 6)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: make(compat="theirs"), "compat: expected None or 'official'"),
        (lambda: make(length=1), "length: expected at least 2"),
        (lambda: make(model=small_t5(8, 32, 1)), "tokenizer: it has 20 tokens, and the model 8"),
        (lambda: small_t5(20, width=30), "heads: expected a divisor of the width 30, got 4"),
        (lambda: small_t5(0), "vocabulary: expected at least 1"),
        (lambda: make()(vectors(2), ["zero"]), "targets: expected 2 texts or lists of texts, got 1 entries"),
        (lambda: make()(vectors(2), "no"), "targets: expected 2 texts or lists of texts, got a string"),
        (lambda: make()(vectors(2), ["zero", " "]), "targets: 1 of 2 texts are empty"),
        (lambda: make()(vectors(2), [[], []]), "targets: expected at least one text"),
        (lambda: make()(vectors(2), ["zero", "one"], ["is it"]), "task: expected 2 texts, got 1 entries"),
        (lambda: make()(vectors(2), ["zero", "one"], ["", "is it"]), "task: 1 of 2 texts are empty"),
        (lambda: make().generate(vectors(2, 5)), r"x: expected \(B, 6\), got \(2, 5\)"),
    ],
)
def test_refusals(call, told):
    with pytest.raises(ValueError, match=f"^{told}"):
        call()
