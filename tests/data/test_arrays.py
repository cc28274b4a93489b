import pickle
import tracemalloc

import numpy as np
import pytest
import torch

from counterpoint.data import batches, load, sources

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 3, 8, 10), dtype=np.uint8)


@pytest.mark.parametrize(
    "array",
    [
        PIXELS,
        PIXELS.transpose(0, 2, 3, 1),
        PIXELS.astype(np.int64),
        (PIXELS / 255).astype(np.float32),
        PIXELS / 255,
        torch.from_numpy(PIXELS),
    ],
    ids=["chw", "hwc", "int64", "float32", "float64", "torch"],
)
def test_images_in_every_layout_give_the_same_batch(array, tmp_path):
    dataset = load(array)
    assert (dataset.modality, dataset.shape, len(dataset)) == ("image", (3, 8, 10), 6)
    batch = dataset[[4, 1]]["image"]
    assert batch.dtype == torch.uint8
    assert batch.is_contiguous()
    assert np.array_equal(batch, PIXELS[[4, 1]])
    assert np.array_equal(dataset[1:4]["image"], PIXELS[1:4])
    np.save(tmp_path / "x.npy", np.asarray(array))
    assert np.array_equal(load(tmp_path / "x.npy")[[4, 1]]["image"], PIXELS[[4, 1]])


def test_grey_and_bilevel_images():
    grey = PIXELS[:, 0]
    assert np.array_equal(load(grey)[[2]]["image"], grey[[2], None])
    assert np.array_equal(load(grey > 128)[[2]]["image"], (grey[[2], None] > 128) * np.uint8(255))
    assert load(grey[..., None]).shape == load(grey[:, None]).shape == (1, 8, 10)


def test_images_are_resized_where_asked(tmp_path):
    dataset = load((PIXELS, np.arange(6)), image_size=4, cache=tmp_path)
    assert dataset.shape == (3, 4, 4)
    assert dataset.labels.tolist() == list(range(6))
    assert load(PIXELS[:, 0], channels=3, cache=tmp_path).shape == (3, 8, 10)
    other = load(255 - PIXELS, image_size=4, cache=tmp_path)
    assert (255 - other[[0]]["image"].int() - dataset[[0]]["image"].int()).abs().max() <= 1, "the cache knows contents"


def test_vectors_become_float32():
    x = RNG.normal(size=(5, 7))
    dataset = load(x)
    assert (dataset.modality, dataset.shape) == ("vector", (7,))
    assert dataset[[3]]["vector"].dtype == torch.float32
    assert np.array_equal(dataset[[3, 0]]["vector"], x[[3, 0]].astype(np.float32))
    assert load(np.arange(6).reshape(3, 2))[[1]]["vector"].tolist() == [[2.0, 3.0]]
    assert load(torch.ones(3, 2, dtype=torch.bfloat16))[[0]]["vector"].tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_what_is_not_finite_is_counted_and_located(bad, monkeypatch):
    monkeypatch.setattr("counterpoint.data.arrays._BLOCK_BYTES", 100)  # so that the rows lie in several blocks
    x = np.zeros((50, 3))
    x[[17, 30], 1] = bad
    with pytest.raises(ValueError, match=r"2 of 50 rows .* the first is row 17"):
        load(x)
    images = np.zeros((20, 4, 4), np.float32)
    images[9, 0, 0] = np.float32(np.nan)
    with pytest.raises(ValueError, match=r"1 of 20 rows .* the first is row 9"):
        load(images)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros(5), r"\(N, F\)"),
        (np.zeros((0, 5)), "at least one row"),
        (np.zeros((5, 0)), "at least one row"),
        (np.array([["a", "b"]]), "array of numbers"),
        (np.array([[{}]]), "never unpickled"),
        (np.zeros((2, 2), complex), "array of numbers"),
        (np.zeros((2, 8, 8, 4), np.uint8), "1 or 3 channels"),
        (np.full((2, 8, 8), 2.0), r"\[0, 1\], got 2 to 2"),
        (np.full((2, 8, 8), -0.5), r"\[0, 1\]"),
        (np.full((2, 8, 8), 256), r"\[0, 255\]"),
    ],
)
def test_what_is_refused(array, said):
    with pytest.raises(ValueError, match=f"source: .*{said}"):
        load(array)


def test_labels_that_come_with_an_array():
    x = np.zeros((4, 2))
    dataset = load((x, ["b", "a", "", "b"]))
    assert dataset.classes == ["a", "b"]
    assert dataset.labels.tolist() == [1, 0, -1, 1]
    assert load((torch.zeros(4, 2), torch.tensor([7, 3, -1, 7]))).labels.tolist() == [1, 0, -1, 1]
    assert load((x, None)).labels is None
    assert load((x, np.full(4, -1))).labels is None
    assert load((x, np.array([[0], [1], [0], [1]]))).labels.tolist() == [0, 1, 0, 1]
    assert load((x, np.zeros(4, int))).classes == ["0"], "one class is allowed here"
    for wrong, said in (
        (np.zeros(3, int), "each of the 4 rows"),
        (["a", 1, "b", 2], "one kind of label"),
        (np.zeros((4, 2)), "each of the 4 rows"),
    ):
        with pytest.raises(ValueError, match=f"labels: .*{said}"):
            load((x, wrong))


@pytest.mark.parametrize("in_memory", [True, False])
def test_npz(tmp_path, monkeypatch, in_memory):
    if not in_memory:
        monkeypatch.setattr(sources, "_IN_MEMORY", 0)
    x, y = RNG.normal(size=(9, 4)), np.arange(9) % 3
    np.savez_compressed(tmp_path / "a.npz", y=y, other=np.zeros((2, 2)), X=x)
    dataset = load(tmp_path / "a.npz", cache=tmp_path / "cache")
    assert np.array_equal(dataset[:]["vector"], x.astype(np.float32))
    assert dataset.labels.tolist() == y.tolist()
    assert bool(list((tmp_path / "cache").glob("*/array.npy"))) is not in_memory
    assert load(tmp_path / "a.npz", labels="none", cache=tmp_path / "cache").labels is None
    assert load(tmp_path / "a.npz", image="other", labels="none", cache=tmp_path / "cache").shape == (2,)
    with pytest.raises(ValueError, match="labels: there is no column 'Y'"):
        load(tmp_path / "a.npz", labels="Y")
    np.savez(tmp_path / "b.npz", x, y)
    assert load(tmp_path / "b.npz", labels="arr_1", cache=tmp_path / "cache").labels.tolist() == y.tolist()


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def test_pickles_are_never_opened(tmp_path):
    objects = np.array([[Trap()]], dtype=object)
    np.save(tmp_path / "x.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=objects)
    (tmp_path / "y.npy").write_bytes(pickle.dumps(Trap()))
    for name in ("x.npy", "x.npz", "y.npy"):
        with pytest.raises(ValueError, match="source"):
            load(tmp_path / name)


def test_damaged_files(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((100, 10)))
    whole = (tmp_path / "x.npy").read_bytes()
    for content in (whole[:-100], whole[:20], b"", b"text"):
        (tmp_path / "x.npy").write_bytes(content)
        with pytest.raises(ValueError, match=r"source: .*x\.npy"):
            load(tmp_path / "x.npy")
    (tmp_path / "x.npz").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"source: .*x\.npz"):
        load(tmp_path / "x.npz")


def test_reading_a_map_does_not_fill_the_memory(tmp_path):
    big = np.lib.format.open_memmap(tmp_path / "big.npy", mode="w+", dtype=np.uint8, shape=(200_000, 1, 32, 32))
    big.flush()
    del big
    tracemalloc.start()
    try:
        dataset = load(tmp_path / "big.npy")
        read = sum(len(batch["index"]) for batch in batches(dataset, batch_size=512, seed=0))
        peak = tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()
    assert read == 200_000
    assert peak < 60, f"{peak:.0f} MB, where the array has 205"


def test_a_mapped_dataset_pickles_as_a_path(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(3_000_000, dtype=np.float32).reshape(-1, 300))
    dataset = load(tmp_path / "x.npy")
    data = pickle.dumps(dataset)
    assert len(data) < 200_000
    assert torch.equal(pickle.loads(data)[[9_999]]["vector"], dataset[[9_999]]["vector"])
