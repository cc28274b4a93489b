"""Writing text: against all texts there are, against one text at a time, ends, draws and refusals."""

import itertools

import pytest
import torch

from counterpoint.encoders import beam_search, generate

PAD, END, V = 0, 1, 5
SPECIAL = {"end": END, "pad": PAD}


class Table:
    """The next token depends on the last two and on the item: scores drawn once."""

    def __init__(self, items=3, spread=1.5, seed=0):
        made = torch.Generator().manual_seed(seed)
        self.logits = torch.randn(items, V, V, V, generator=made) * spread
        self.calls = 0

    def __call__(self, ids, rows):
        self.calls += 1
        before = ids[:, -2] if ids.shape[1] > 1 else torch.zeros_like(ids[:, -1])
        return self.logits[rows, before, ids[:, -1]]

    def log_probability(self, item, text, start):
        """Of a whole text, padding never being written."""
        total, ids = 0.0, list(start)
        for token in text:
            before = ids[-2] if len(ids) > 1 else 0
            logits = self.logits[item, before, ids[-1]].clone()
            logits[PAD] = -torch.inf
            total += float(logits.log_softmax(0)[token])
            ids.append(token)
        return total


START = torch.tensor([[2], [3], [2]])


def without_padding(row):
    return [token for token in row.tolist() if token != PAD]


def texts(length):
    """All that end within a length, and those that are cut off there."""
    words = range(2, V)
    for n in range(1, length + 1):
        for body in itertools.product(words, repeat=n - 1):
            yield (*body, END)
    yield from itertools.product(words, repeat=length)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_enough_beams_find_the_best_of_all_texts(penalty, seed):
    table = Table(seed=seed)
    found = beam_search(table, START, length=4, beams=81, length_penalty=penalty, **SPECIAL)
    for item in range(3):
        start = START[item].tolist()
        scores = {text: table.log_probability(item, text, start) / len(text) ** penalty for text in texts(4)}
        ranked = sorted(scores, key=scores.get, reverse=True)
        for place in range(5):
            assert tuple(without_padding(found.ids[item, place])[1:]) == ranked[place]
            assert found.scores[item, place].item() == pytest.approx(scores[ranked[place]], abs=1e-5)


def test_the_scores_of_few_beams_are_those_of_their_texts():
    table = Table()
    found = beam_search(table, START, length=6, beams=4, **SPECIAL)
    assert found.ids.shape == (3, 4, 7)
    for item in range(3):
        told = [tuple(without_padding(row)[1:]) for row in found.ids[item]]
        assert len(set(told)) == 4
        expected = [table.log_probability(item, text, START[item].tolist()) / len(text) for text in told]
        torch.testing.assert_close(found.scores[item], torch.tensor(expected), rtol=1e-4, atol=1e-5)
        assert expected == sorted(expected, reverse=True)


def test_greedy_takes_the_most_probable_token_each_time():
    table = Table()
    ids = generate(table, START, length=6, **SPECIAL)
    for item, row in enumerate(ids.tolist()):
        expected = [START[item, 0].item()]
        while len(expected) < 7 and expected[-1] != END:
            logits = table.logits[item, expected[-2] if len(expected) > 1 else 0, expected[-1]].clone()
            logits[PAD] = -torch.inf
            expected.append(int(logits.argmax()))
        assert row == expected + [PAD] * (ids.shape[1] - len(expected))


@pytest.mark.parametrize(
    "options", [{}, {"strategy": "beam", "beams": 3}, {"strategy": "beam", "beams": 4, "groups": 2}]
)
def test_a_batch_is_its_items_one_by_one(options):
    table = Table()
    together = generate(table, START, length=6, **SPECIAL, **options)
    for item in range(3):
        alone = generate(
            lambda ids, rows, i=item: table(ids, rows + i), START[item : item + 1], length=6, **SPECIAL, **options
        )
        assert without_padding(alone[0]) == without_padding(together[item])
    assert (together[:, 1:] != PAD).any(0).all()  # nothing behind the longest


def test_a_search_stops_when_nothing_better_can_come():
    sure = Table()
    sure.logits[:] = 0.0
    sure.logits[..., END] = 12.0
    best = generate(sure, START, length=50, strategy="beam", beams=2, length_penalty=0.0, **SPECIAL)
    assert best.tolist() == [[2, END], [3, END], [2, END]]
    assert sure.calls < 5
    sure.calls = 0
    generate(sure, START, length=50, **SPECIAL)
    assert sure.calls == 1


def test_groups_differ_by_their_diversity():
    flat = Table(spread=0.3)
    same = beam_search(flat, START, length=3, beams=6, groups=3, diversity=0.0, **SPECIAL)
    assert len({tuple(row.tolist()) for row in same.ids[0]}) == 2  # three times two
    apart = beam_search(flat, START, length=3, beams=3, groups=3, diversity=50.0, **SPECIAL)
    assert len(set(apart.ids[0, :, 1].tolist())) == 3
    plain = beam_search(flat, START, length=3, beams=2, **SPECIAL)
    assert torch.equal(same.ids[:, 0], plain.ids[:, 0])


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}])
def test_narrow_draws_are_greedy(options):
    table = Table()
    drawn = generate(table, START, length=6, strategy="sample", **SPECIAL, **options)
    assert torch.equal(drawn, generate(table, START, length=6, **SPECIAL))


def draws(table, **options):
    """Shares of the first token in 4,000 draws."""
    made = torch.Generator().manual_seed(0)
    start = torch.full((4000, 1), 2)
    ids = generate(
        lambda ids, rows: table(ids, rows * 0), start, length=1, strategy="sample", generator=made, **SPECIAL, **options
    )
    return torch.bincount(ids[:, 1], minlength=V) / 4000


def test_draws_follow_the_probabilities():
    table = Table()
    logits = table.logits[0, 0, 2].clone()
    logits[PAD] = -torch.inf
    for temperature in (0.5, 1.0, 3.0):
        expected = (logits / temperature).softmax(0)
        torch.testing.assert_close(draws(table, temperature=temperature), expected, atol=0.03, rtol=0)
    ordered, order = logits.softmax(0).sort(descending=True)
    two = torch.zeros(V).scatter_(0, order[:2], ordered[:2] / ordered[:2].sum())
    torch.testing.assert_close(draws(table, top_k=2), two, atol=0.03, rtol=0)
    # the fewest tokens that reach a little more than the first two have together
    three = torch.zeros(V).scatter_(0, order[:3], ordered[:3] / ordered[:3].sum())
    torch.testing.assert_close(draws(table, top_p=float(ordered[:2].sum()) + 1e-4), three, atol=0.03, rtol=0)
    torch.testing.assert_close(draws(table, top_p=float(ordered[:2].sum()) - 1e-4), two, atol=0.03, rtol=0)


def test_draws_are_repeatable():
    table = Table()
    one, two = (
        generate(table, START, length=6, strategy="sample", generator=torch.Generator().manual_seed(4), **SPECIAL)
        for _ in range(2)
    )
    assert torch.equal(one, two)


@pytest.mark.parametrize("strategy", ["greedy", "sample", "beam"])
def test_forbidden_tokens_and_short_texts_are_not_written(strategy):
    table = Table()
    table.logits[..., END] = 20.0
    table.logits[..., PAD] = 30.0
    table.logits[..., 4] = 10.0
    ids = generate(table, START, length=5, strategy=strategy, min_length=3, forbidden=[4], **SPECIAL)
    for row in ids[:, 1:]:
        written = without_padding(row)
        assert 4 not in written
        assert written.index(END) >= 3
        assert PAD not in row[: len(written)]


def nothing(ids, rows):
    return torch.full((len(ids), V), float("nan"))


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"strategy": "best"}, "strategy"),
        ({"length": 0}, "length, min_length"),
        ({"min_length": 6}, "length, min_length"),
        ({"strategy": "sample", "temperature": 0.0}, "temperature"),
        ({"strategy": "sample", "top_k": 0}, "top_k"),
        ({"strategy": "sample", "top_p": 0.0}, "top_p"),
        ({"strategy": "sample", "top_p": 1.1}, "top_p"),
        ({"strategy": "beam", "beams": 0}, "beams, groups"),
        ({"strategy": "beam", "beams": 4, "groups": 3}, "beams, groups"),
        ({"strategy": "beam", "diversity": -1.0}, "diversity"),
        ({"strategy": "beam", "length_penalty": float("nan")}, "length_penalty"),
        ({"end": PAD}, "end, pad, forbidden"),
        ({"end": V}, "end, pad, forbidden"),
        ({"forbidden": [END]}, "end, pad, forbidden"),
        ({"start": torch.zeros(2, 0).long()}, "start"),
        ({"start": torch.zeros(2, 1)}, "start"),
        ({"next_token": nothing}, "next_token"),
        ({"next_token": lambda ids, rows: torch.zeros(1, 2, V)}, "next_token"),
    ],
)
def test_refusals(options, argument):
    given = {"next_token": Table(), "start": START, "length": 6, **SPECIAL, **options}
    with pytest.raises(ValueError, match=f"^{argument}: expected"):
        generate(**given)
