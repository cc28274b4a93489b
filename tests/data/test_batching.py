import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from counterpoint.data import EpochSampler, batches, load, loader


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [40, 43])
def test_the_processes_share_the_batches_of_one(world, size):
    options = {"batch_size": 12, "seed": 5}
    single = EpochSampler(size, **options)
    ranks = [EpochSampler(size, **options, rank=rank, world=world) for rank in range(world)]
    for epoch in (0, 3):
        for sampler in (single, *ranks):
            sampler.set_epoch(epoch)
        assert [len(sampler) for sampler in ranks] == [len(list(sampler)) for sampler in ranks]
        for whole, *parts in zip(single, *ranks, strict=True):
            assert sum(map(len, parts)) == len(whole)
            for rank, part in enumerate(parts):
                assert np.array_equal(part, whole[rank::world])


def test_no_process_is_left_without_rows():
    assert [len(batch) for batch in EpochSampler(25, 12, world=2, rank=1)] == [6, 6], "1 row is too few for 2"
    assert [len(batch) for batch in EpochSampler(26, 12, world=2, rank=1)] == [6, 6, 1]
    assert [len(batch) for batch in EpochSampler(26, 12, drop_last=True)] == [12, 12]
    assert [len(batch) for batch in EpochSampler(5, 12)] == [5]


def test_order_is_a_function_of_seed_and_epoch():
    def order(sampler, epoch):
        sampler.set_epoch(epoch)
        return np.concatenate(list(sampler)).tolist()

    one, resumed = EpochSampler(50, 8, seed=1), EpochSampler(50, 8, seed=1)
    for epoch in range(4):
        order(one, epoch)
    assert order(one, 4) == order(resumed, 4), "a resumed run has not seen the earlier epochs"
    assert order(one, 4) != order(one, 5)
    assert order(one, 4) != order(EpochSampler(50, 8, seed=2), 4)
    assert sorted(order(one, 4)) == list(range(50))
    assert next(iter(one)).tolist() == next(iter(one)).tolist(), "iterating twice gives one order"


def test_skipping_goes_on_from_the_middle():
    sampler = EpochSampler(50, 8, seed=1)
    sampler.set_epoch(2)
    whole = list(sampler)
    sampler.set_epoch(2, skip=3)
    rest = list(sampler)
    assert len(rest) == len(sampler) == len(whole) - 3
    assert all(np.array_equal(a, b) for a, b in zip(rest, whole[3:], strict=True))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"indices": 0, "batch_size": 4}, "indices"),
        ({"indices": 10, "batch_size": 11, "drop_last": True}, "batch_size: 11 is larger than the 10"),
        ({"indices": 10, "batch_size": 1, "world": 2}, "batch_size"),
        ({"indices": 10, "batch_size": 4, "world": 2, "rank": 2}, "rank"),
        ({"indices": 10, "batch_size": 4, "seed": -1}, "seed"),
    ],
)
def test_what_is_refused(options, named):
    with pytest.raises(ValueError, match=named):
        EpochSampler(**options)


def test_batches_and_loader_read_the_same():
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    dataset = load((x, np.arange(50) % 3))
    some = np.arange(10, 40)
    read = list(batches(dataset, some, 8, seed=3, epoch=2))
    through = loader(dataset, some, 8, seed=3)
    through.sampler.set_epoch(2)
    assert isinstance(through, DataLoader)
    assert len(read) == len(through) == 4
    for a, b in zip(read, through, strict=True):
        assert a.keys() == b.keys() == {"vector", "index", "label"}
        assert all(torch.equal(a[key], b[key]) for key in a)
        assert np.array_equal(a["vector"], x[a["index"]])
    assert torch.cat([batch["index"] for batch in batches(dataset, batch_size=7)]).tolist() == list(range(50))


def test_workers_read_what_this_process_reads(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(60, dtype=np.float32).reshape(20, 3))
    dataset = load(tmp_path / "x.npy")
    through = loader(dataset, batch_size=6, seed=1, workers=1)
    for a, b in zip(through, batches(dataset, batch_size=6, seed=1), strict=True):
        assert torch.equal(a["vector"], b["vector"])
