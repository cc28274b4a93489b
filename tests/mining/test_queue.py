import pytest
import torch

from counterpoint.mining import Queue


def rows(*values):
    return torch.tensor(values, dtype=torch.float32)[:, None]


def test_it_starts_empty_and_fills():
    queue = Queue(4, 1)
    assert queue().shape == (0, 1)
    queue.push(rows(1, 2, 3))
    assert sorted(queue()[:, 0].tolist()) == [1, 2, 3]


def test_the_oldest_rows_go_first():
    queue = Queue(4, 1)
    for batch in (rows(1, 2, 3), rows(4, 5), rows(6)):
        queue.push(batch)
    assert sorted(queue()[:, 0].tolist()) == [3, 4, 5, 6]


def test_of_a_batch_longer_than_the_queue_the_last_rows_stay():
    queue = Queue(3, 1)
    queue.push(rows(*range(10)))
    assert sorted(queue()[:, 0].tolist()) == [7, 8, 9]


def test_it_gives_out_copies_without_gradient():
    queue = Queue(2, 1)
    x = rows(1, 2).requires_grad_()
    queue.push(x)
    held = queue()
    queue.push(rows(3, 4))
    assert held[:, 0].tolist() == [1, 2]
    assert not held.requires_grad


def test_its_state_is_saved():
    queue, other = Queue(3, 1), Queue(3, 1)
    queue.push(rows(1, 2))
    other.load_state_dict(queue.state_dict())
    for one in (queue, other):
        one.push(rows(5, 6))
    assert torch.equal(queue(), other())


@pytest.mark.parametrize(
    ("call", "argument"),
    [(lambda: Queue(0, 1), "length"), (lambda: Queue(1, 0), "dim"), (lambda: Queue(4, 2).push(rows(1)), "x")],
)
def test_what_it_refuses(call, argument):
    with pytest.raises(ValueError, match=f"^{argument}:"):
        call()
