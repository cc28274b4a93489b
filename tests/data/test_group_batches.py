"""Batches of a single group: the authors' order, nothing that vanishes unseen, and one order on all processes."""

from pathlib import Path

import numpy as np
import pytest

from counterpoint.data import GroupSampler

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "14-mcl.npz")
SIZES = (7, 3, 24, 1, 10, 2)
GROUPS = np.repeat(np.arange(6) * 10, SIZES)  # the numbers have gaps
LEAST = {"least": 4}


def sampler(batch_size=8, groups=GROUPS, **options):
    return GroupSampler(len(groups), groups, batch_size, **{"seed": 3, **options})


def drawn(one, *epochs):
    found = []
    for epoch in epochs:
        one.set_epoch(epoch)
        found += list(one)
    return found


@pytest.mark.paper(14, "parity")
def test_the_authors_sampler():
    labels, size = GOLDEN["a_pseudo_label"], int(GOLDEN["a_batch_size"])
    ours = GroupSampler(len(labels), labels, size)
    assert len(ours) == int(GOLDEN["a_sampler_len"])
    batches = list(ours)
    assert len(batches) == int(GOLDEN["a_sampler_num_batches"])
    assert [set(labels[batch]) for batch in batches] == [{group} for group in GOLDEN["a_sampler_cluster_order"]]
    assert {len(batch) for batch in batches} == {size}
    sizes = GOLDEN["a_cluster_sizes"]
    assert ours.unseen == sizes[sizes < size].sum()
    assert ours.left == (sizes % size).sum()


@pytest.mark.parametrize("options", [{}, LEAST, {**LEAST, "small": "merge"}, {**LEAST, "order": "random"}], ids=str)
def test_batches_are_of_one_group_and_no_item_is_drawn_twice_in_a_pass(options):
    one = sampler(**options)
    for epoch in range(3):
        batches = drawn(one, epoch)
        together = np.concatenate(batches)
        assert len(batches) == len(one) == one.batches_in_pass
        assert len(np.unique(together)) == len(together) == len(GROUPS) - one.left
        assert all(len(np.unique(one.pool[batch])) == 1 for batch in batches)
        assert all(one.least <= len(batch) <= 8 for batch in batches)


def test_dropped_items_are_counted():
    """Of 7, 3, 24, 1, 10 and 2 items in batches of 8: two groups have a batch, and 2 of 10 wait for another pass."""
    one = sampler()
    assert (one.small, one.unseen, one.left, len(one)) == (4, 13, 15, 4)
    seen = np.unique(np.concatenate(drawn(one, *range(30))))
    assert sorted(set(GROUPS[seen])) == [20, 40]
    assert len(seen) == len(GROUPS) - one.unseen


def test_a_smaller_batch_brings_small_groups_back():
    one = sampler(**LEAST)
    assert (one.small, one.unseen, one.left, len(one)) == (3, 6, 8, 5)
    assert sorted(set(GROUPS[np.concatenate(drawn(one, 0))])) == [0, 20, 40]


def test_merging_leaves_nobody_out():
    one = sampler(**LEAST, small="merge")
    assert one.unseen == 0
    assert one.sizes.sum() == len(GROUPS)
    assert [one.pool[group == GROUPS][0] for group in (0, 20, 40)] == [0, 1, 3]  # those that suffice stand alone
    assert len({int(one.pool[group == GROUPS][0]) for group in (10, 30)}) == 1  # 3 + 1 make a batch of 4
    assert one.pool[GROUPS == 50][0] == one.pool[GROUPS == 40][0]  # 2 remain, and join the group before
    seen = np.concatenate(drawn(one, *range(20)))
    assert len(np.unique(seen)) == len(GROUPS)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((1, 1, 1), [0, 0, 0]), ((1, 9, 9), [0, 0, 1]), ((2, 9, 2, 9), [1, 0, 1, 2]), ((9, 1, 9), [0, 0, 1])],
)
def test_neighbours_are_merged(sizes, expected):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    pool = sampler(3, groups, small="merge").pool
    assert [int(pool[groups == group][0]) for group in range(len(sizes))] == expected


def test_groups_take_turns():
    order = [GROUPS[batch[0]] for batch in drawn(sampler(5, least=5), 0)]
    assert order == [0, 20, 40, 20, 40, 20, 20]
    shuffled = [GROUPS[batch[0]] for batch in drawn(sampler(5, least=5, order="random"), 0)]
    assert sorted(shuffled) == sorted(order)
    assert shuffled != order


@pytest.mark.parametrize("length", [1, 3, 4, 11])
def test_an_epoch_of_any_length_leaves_no_group_out(length):
    one = sampler(**LEAST, length=length)
    assert [len(drawn(one, epoch)) for epoch in range(3)] == [length] * 3
    stream, free = drawn(one, *range(20)), drawn(sampler(**LEAST), *range(20 * length // 5 + 1))
    assert [batch.tolist() for batch in stream] == [batch.tolist() for batch in free[: 20 * length]]


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("order", ["round_robin", "random"])
def test_the_processes_share_the_batches_of_one(world, order):
    single = sampler(**LEAST, order=order)
    ranks = [sampler(**LEAST, order=order, rank=rank, world=world) for rank in range(world)]
    for whole, *parts in zip(drawn(single, 2), *(drawn(each, 2) for each in ranks), strict=True):
        for rank, part in enumerate(parts):
            assert np.array_equal(part, whole[rank::world])


def test_order_is_a_function_of_seed_and_epoch():
    one, resumed = sampler(**LEAST, length=4), sampler(**LEAST, length=4)
    drawn(one, *range(5))
    whole = drawn(one, 5)
    assert [b.tolist() for b in whole] == [b.tolist() for b in drawn(resumed, 5)]
    resumed.set_epoch(5, skip=3)
    assert [b.tolist() for b in resumed] == [b.tolist() for b in whole[3:]]
    assert len(resumed) == 1
    assert [b.tolist() for b in whole] != [b.tolist() for b in drawn(sampler(**LEAST, length=4, seed=4), 5)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": GROUPS.astype(float)}, r"groups: expected \(47,\) integers, got \(47,\) of type float64"),
        ({"batch_size": 25}, "groups: none of the 6 groups has the 25 items of a batch, the largest has 24"),
        ({"least": 9}, "least: expected 2 to batch_size = 8, got 9"),
        ({"least": 1}, "least: expected 2 to"),
        ({"least": 2, "world": 3}, "least: expected 3 to"),
        ({"small": "keep"}, "small: expected 'drop' or 'merge', got 'keep'"),
        ({"order": "sorted"}, "order: expected 'round_robin' or 'random'"),
        ({"length": 0}, "length: expected at least 1 batch"),
        ({"rank": 1}, "rank: expected 0 to"),
    ],
    ids=str,
)
def test_what_has_no_answer(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        sampler(**options)
    with pytest.raises(ValueError, match=r"^groups: expected \(2,\) integers"):
        GroupSampler(2, GROUPS, 2)


WEIGHTED = {"weights": {20: 3, 40: 2, 0: 5}}  # a group of 7 has no batch, and leaves its turns to the others


class TestWeights:
    """Groups that take turns by weight: 24 items of the group 20, 10 of the group 40, in batches of 8."""

    def test_every_stretch_has_as_many_batches_of_a_group_as_it_weighs(self):
        one = sampler(**WEIGHTED, length=7)
        batches = drawn(one, *range(5))  # stretches do not end where epochs do
        kinds = [int(GROUPS[batch[0]]) for batch in batches]
        assert all({int(GROUPS[i]) for i in batch} == {kind} for batch, kind in zip(batches, kinds, strict=True))
        assert all(sorted(kinds[at : at + 5]) == [20, 20, 20, 40, 40] for at in range(0, 35, 5))
        assert len({tuple(kinds[at : at + 5]) for at in range(0, 35, 5)}) > 1

    def test_a_group_goes_through_passes_of_its_own(self):
        batches = [batch for batch in drawn(sampler(**WEIGHTED, length=10), 0, 1) if GROUPS[batch[0]] == 20]
        for at in range(0, len(batches), 3):  # three batches hold all 24
            assert len(np.unique(np.concatenate(batches[at : at + 3]))) == 24
        assert not np.array_equal(batches[0], batches[3])

    def test_it_goes_on_within_an_epoch_and_on_all_processes(self):
        whole = drawn(sampler(**WEIGHTED, length=7), 2)
        resumed = sampler(**WEIGHTED, length=7)
        resumed.set_epoch(2, skip=3)
        assert [batch.tolist() for batch in resumed] == [batch.tolist() for batch in whole[3:]]
        parts = [drawn(sampler(**WEIGHTED, length=7, rank=rank, world=2), 2) for rank in range(2)]
        assert all(set(a) | set(b) == set(batch) for a, b, batch in zip(*parts, whole, strict=True))

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"weights": {20: 1}, "small": "merge"}, "merged"), ({"weights": {20: -1}}, "integers from 0"),
         ({"weights": {0: 1}}, "above 0 for a group")],
    )  # fmt: skip
    def test_refusals(self, options, message):
        with pytest.raises(ValueError, match=f"^weights: .*{message}"):
            sampler(**options)
