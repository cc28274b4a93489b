"""The assignment of many to many: the best of all, noise, rows that stay alone, refusals."""

from itertools import permutations

import pytest
import torch

from counterpoint.mining import match


def test_it_is_the_best_of_all_assignments():
    for seed in range(5):
        scores = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed))
        best = max(permutations(range(5), 3), key=lambda columns: scores[range(3), columns].sum())
        assert match(scores).tolist() == list(best)


def test_a_greedy_choice_would_be_worse():
    scores = torch.tensor([[0.9, 0.8], [0.85, 0.0]])
    assert match(scores).tolist() == [1, 0]


def test_rows_without_a_column():
    assert match(torch.tensor([[0.1], [0.9]])).tolist() == [-1, 0]
    # the row numbers are those of all rows, also where some are left out before
    assert match(torch.tensor([[-0.1, -0.2], [0.1, 0.9], [0.8, 0.9]]), least=0).tolist() == [-1, 1, 0]
    assert match(torch.zeros(2, 0)).tolist() == [-1, -1]
    assert match(torch.full((2, 2), -1.0), least=0).tolist() == [-1, -1]


def test_noise_is_small_clipped_and_follows_its_generator():
    far, near = torch.tensor([[0.5, 0.4], [0.4, 0.5]]), torch.zeros(2, 2)
    found = [match(near, 0.02, generator=torch.Generator().manual_seed(seed)).tolist() for seed in range(20)]
    assert {tuple(each) for each in found} == {(0, 1), (1, 0)}
    again = match(near, 0.02, generator=torch.Generator().manual_seed(0)).tolist()
    assert again == found[0]
    for seed in range(20):  # four scores moved by up to 0.04 each cannot make up for 0.2
        assert match(far, 0.02, generator=torch.Generator().manual_seed(seed)).tolist() == [0, 1]


@pytest.mark.parametrize("scores", [torch.zeros(3), torch.zeros(2, 2).long(), torch.full((2, 2), float("nan"))])
def test_what_are_no_scores(scores):
    with pytest.raises(ValueError, match=r"^scores: expected \(R, C\) finite numbers"):
        match(scores)


def test_noise_below_nothing():
    with pytest.raises(ValueError, match=r"^noise: "):
        match(torch.zeros(2, 2), noise=-0.1)
