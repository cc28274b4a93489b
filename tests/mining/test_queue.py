import pytest
import torch

from counterpoint.mining import Queue


def counting(start, stop, dim=2):
    return torch.arange(start, stop, dtype=torch.float32)[:, None].expand(-1, dim)


def held(queue):
    return sorted(queue()[:, 0].tolist())


def test_an_empty_queue_holds_nothing():
    assert Queue(4, 3)().shape == (0, 3)


def test_only_what_was_pushed_is_returned():
    queue = Queue(5, 2)
    queue.push(counting(1, 4))
    assert held(queue) == [1, 2, 3]
    assert (queue() == counting(1, 4)).all()


def test_the_oldest_give_way():
    queue = Queue(5, 2)
    pushed = 0
    for size in (2, 2, 2, 3, 1, 5, 4):  # past the end, in the middle, the whole
        queue.push(counting(pushed, pushed + size))
        pushed += size
        assert held(queue) == list(range(max(0, pushed - 5), pushed))


def test_of_more_than_fit_the_last_are_kept():
    queue = Queue(5, 2)
    queue.push(counting(0, 3))
    queue.push(counting(3, 15))
    assert held(queue) == [10, 11, 12, 13, 14]
    queue.push(counting(15, 17))
    assert held(queue) == [12, 13, 14, 15, 16]


def test_what_was_returned_stays_as_it_was():
    queue = Queue(2, 2)
    queue.push(counting(0, 2))
    before = queue()
    queue.push(counting(2, 4))
    assert before[:, 0].tolist() == [0, 1]


def test_no_gradient_flows_through_it():
    queue, x = Queue(4, 2), torch.ones(2, 2, requires_grad=True)
    queue.push(x * 2)
    assert not queue().requires_grad
    loss = queue().sum() * x.sum()
    queue.push(x * 3)  # must not disturb the backward pass of what was computed before
    loss.backward()
    assert (x.grad == 8).all()
    assert not list(queue.parameters())


def test_it_is_saved_and_loaded_where_it_was():
    queue, again = Queue(3, 2), Queue(3, 2)
    queue.push(counting(0, 4))
    again.load_state_dict(queue.state_dict())
    for each in (queue, again):
        each.push(counting(4, 5))
    assert held(again) == held(queue) == [2, 3, 4]


def test_other_types_are_converted():
    queue = Queue(3, 2)
    queue.push(counting(0, 2).bfloat16())
    assert queue().dtype == torch.float32
    assert queue.double()().dtype == torch.float64


@pytest.mark.parametrize("x", [torch.ones(2, 3), torch.ones(2), torch.ones(1, 2, 2)])
def test_what_does_not_fit_is_refused(x):
    with pytest.raises(ValueError, match=r"^x: expected \(B, 2\), got"):
        Queue(4, 2).push(x)


@pytest.mark.parametrize(("length", "dim", "name"), [(0, 2, "length"), (2, 0, "dim"), (-1, 2, "length")])
def test_sizes(length, dim, name):
    with pytest.raises(ValueError, match=f"^{name}: expected at least 1"):
        Queue(length, dim)


def test_classes_are_kept_with_the_rows():
    queue = Queue(4, 2, labelled=True)
    queue.push(counting(0, 4))
    assert queue.labels.tolist() == [-1] * 4
    queue.push(counting(4, 7), torch.tensor([4, 5, 6]))
    queue.push(counting(7, 13), torch.arange(7, 13))  # of which the last four stay
    assert queue.labels.tolist() == queue()[:, 0].long().tolist()
    again = Queue(4, 2, labelled=True)
    again.load_state_dict(queue.state_dict())
    assert torch.equal(again.labels, queue.labels)
    with pytest.raises(ValueError, match=r"^labels: expected \(2,\)"):
        queue.push(counting(0, 2), torch.arange(3))
    with pytest.raises(ValueError, match=r"^labels: .*labelled=True"):
        Queue(4, 2).push(counting(0, 2), torch.arange(2))
