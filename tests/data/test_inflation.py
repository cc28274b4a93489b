"""Generated items beside real ones: which is which, how often each is drawn, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from counterpoint.data import Dataset, EpochSampler, InflatedDataset, load, loader, open_generated
from counterpoint.data.dataset import Names, Rows

GOLDEN = Path(__file__).parents[1] / "golden/64-adainf.npz"


def images(count, shape=(1, 8, 8), value=None, labels=False):
    rng = np.random.default_rng(count)
    pixels = rng.integers(0, 256, (count, *shape), dtype=np.uint8) if value is None else np.full((count, *shape), value)
    names = Names.of(f"{value}/{i}" for i in range(count))
    known = np.arange(count) % 3 if labels else None
    return Dataset("some", Rows(pixels.astype(np.uint8), "chw"), ids=names, labels=known, classes=list("abc"))


@pytest.mark.paper(64, "parity")
def test_the_bookkeeping_is_that_of_the_official_code():
    golden = {name.removeprefix("a_"): value for name, value in np.load(GOLDEN).items()}
    n, m, dup = (int(golden[name]) for name in ("n_real", "n_generated", "dup"))
    inflated = InflatedDataset(images(n, labels=True), images(m, value=7), dup)
    order = inflated.order
    assert (inflated.is_generated[order] == golden["inflated_is_generated"]).all()
    assert (order - n * inflated.is_generated[order] == golden["inflated_source_index"]).all()
    assert (inflated[order]["label"].numpy() == golden["inflated_label"]).all()
    assert inflated.beta == golden["beta_real_fraction"] == pytest.approx(dup * n / (dup * n + m))
    assert len(loader(inflated, order, 6, seed=0, drop_last=True)) == golden["epoch_steps_drop_last"]


def test_a_batch_holds_the_rows_of_both():
    real, generated = images(5, labels=True), images(4)
    batch = InflatedDataset(real, generated)[[0, 8, 3, 5, 0]]
    assert batch["is_generated"].tolist() == [False, True, False, True, False]
    assert batch["index"].tolist() == [0, 8, 3, 5, 0]
    assert batch["label"].tolist() == [0, -1, 0, -1, 0]
    for row, (part, at) in enumerate([(real, 0), (generated, 3), (real, 3), (generated, 0), (real, 0)]):
        assert torch.equal(batch["image"][row], part[at]["image"][0])


def test_vectors_inflate_as_images_do():
    real, generated = load(np.random.rand(6, 4)), load(np.random.rand(9, 4))
    batch = InflatedDataset(real, generated)[np.arange(15)]
    assert batch["vector"].dtype == torch.float32
    assert torch.equal(batch["vector"], torch.cat([real[:]["vector"], generated[:]["vector"]]))
    assert "label" not in batch


def test_generated_items_have_no_target():
    real = load(np.random.rand(3, 4))
    real.targets = np.array([1.0, 2.0, np.nan])
    inflated = InflatedDataset(real, load(np.random.rand(2, 4)))
    np.testing.assert_equal(inflated[[4, 1, 2]]["target"].numpy(), np.array([np.nan, 2, np.nan], np.float32))


def test_one_sort_alone_is_legal_and_none_at_all_is_not():
    some = images(5, labels=True)
    alone = InflatedDataset(some, None)
    assert (alone.beta, alone.order.tolist(), alone.real_repeats) == (1.0, list(range(5)), 1)  # the plain data
    assert torch.equal(alone[:]["image"], some[:]["image"])
    only = InflatedDataset(None, some)
    assert (only.beta, only.order.tolist(), only.labels) == (0.0, list(range(5)), None)
    assert only[[2]]["is_generated"].all()
    with pytest.raises(ValueError, match="real, generated: both are empty"):
        InflatedDataset(None, None)
    with pytest.raises(ValueError, match="real, generated: both are empty"):
        InflatedDataset(some.subset([]), None)


@pytest.mark.parametrize("repeats", [0, -1, 1.5, True, None])
def test_repeats_are_whole_numbers(repeats):
    with pytest.raises(ValueError, match="real_repeats: expected"):
        InflatedDataset(images(5), images(5), repeats)


def test_only_training_items_are_drawn():
    inflated = InflatedDataset(images(10), images(7), 3, train=np.array([1, 4]))
    assert np.bincount(inflated.order, minlength=17).tolist() == [0, 3, 0, 0, 3, 0, 0, 0, 0, 0] + [1] * 7
    assert inflated.beta == 6 / 13
    assert len(inflated) == 17
    with pytest.raises(ValueError, match="train: expected positions of the 10 real items"):
        InflatedDataset(images(10), images(7), train=np.array([10]))


def test_names_and_files_are_those_of_the_parts(tmp_path):
    inflated = InflatedDataset(images(3, value=1), images(2, value=9))
    assert list(inflated.ids) == ["1/0", "1/1", "1/2", "9/0", "9/1"]
    assert inflated.ids[1:4] == ["1/1", "1/2", "9/0"]
    assert inflated.ids[-1] == "9/1"
    assert inflated.thumbnail(4).shape == (8, 8, 3)
    assert inflated.path(4) is None
    assert len(inflated.subset([3, 4])) == 2
    with pytest.raises(ValueError, match="indices: a part"):
        inflated.subset([2, 3])


def test_repetitions_of_an_image_keep_apart():
    """100 images ten times beside 500 others, in batches of 50: at random one row of six had a twin in its batch."""
    order = InflatedDataset(images(100), images(500), 10).order
    sampler = EpochSampler(order, 50, seed=3, drop_last=True)

    def twins(batches):
        return np.mean([len(batch) - len(np.unique(batch)) for batch in batches])

    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert (np.bincount(np.concatenate(batches)) == [10] * 100 + [1] * 500).all()
        assert twins(batches) < 0.5
        shares = [(batch < 100).mean() for batch in batches]
        assert min(shares) > 0.4  # every batch has both, about as beta = 2/3 says
        assert max(shares) < 0.9
    assert twins(np.random.default_rng(0).permutation(order).reshape(-1, 50)) > 4


def test_every_occurrence_is_drawn_once():
    order = np.array([5, 3, 3, 8, 8, 8, 8, 8, 3, 1])
    sampler = EpochSampler(order, 4, seed=0)
    sampler.set_epoch(2)
    assert sorted(np.concatenate(list(sampler))) == sorted(order)
    first, second = list(sampler), list(sampler)
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_the_order_without_repetitions_is_what_it_was():
    expected = np.random.default_rng([4, 1]).permutation(np.arange(30))
    sampler = EpochSampler(30, 8, seed=4)
    sampler.set_epoch(1)
    assert (np.concatenate(list(sampler)) == expected).all()


def test_generated_images_take_the_form_of_the_real_ones(tmp_path):
    for number in range(3):
        Image.new("RGB", (20, 16), (255, 0, 0)).save(tmp_path / f"{number}.png")
    colour = open_generated(tmp_path, images(2, (3, 8, 8)), cache=tmp_path / "cache")
    assert colour.shape == (3, 8, 8)
    assert colour[0]["image"][0, :, 4, 4].tolist() == [255, 0, 0]  # red is first
    assert colour.labels is None
    assert open_generated(tmp_path, images(2), cache=tmp_path / "cache").shape == (1, 8, 8)
    grey = open_generated(np.full((4, 12, 12), 99, np.uint8), images(2, (3, 8, 8)), cache=tmp_path / "cache")
    assert (grey[:]["image"] == 99).all()


def test_labels_that_come_along_are_left_aside(tmp_path):
    np.savez(tmp_path / "some.npz", x=np.zeros((4, 8, 8), np.uint8), y=np.arange(4))
    assert open_generated(tmp_path / "some.npz", images(2)).labels is None
    for name in ("cat", "dog"):
        (tmp_path / "made" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "made" / name / "0.png")
    assert open_generated(tmp_path / "made", images(2), cache=tmp_path / "cache").labels is None


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"generated: its items are vectors of \(5,\) and the real ones vectors of"):
        open_generated(np.random.rand(3, 5), load(np.random.rand(3, 4)))
    with pytest.raises(ValueError, match="generated: its items are vectors"):
        open_generated(np.random.rand(3, 5), images(4))
    with pytest.raises(FileNotFoundError, match="generated: source: there is no"):
        open_generated(tmp_path / "nowhere", images(4))


def test_unreadable_images_count(tmp_path):
    for number in range(4):
        Image.new("L", (8, 8)).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"generated: .*max_corrupt"):
        open_generated(tmp_path, images(2), cache=tmp_path / "cache")
    found = open_generated(tmp_path, images(2), max_corrupt=0.3, cache=tmp_path / "cache")
    assert len(found) == 3
    assert [name for name, _ in InflatedDataset(images(2), found).skipped] == ["3.png"]
