"""Embeddings in a file: what is in it, how it comes to be, and when it is refused."""

import tracemalloc

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import counterpoint as cp
from counterpoint.encoders import build
from counterpoint.files import FolderInUse, claim_folder
from counterpoint.search import Store
from counterpoint.search import embedding as module


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(0)
    build("mlp", (6,), widths=(5,)).save(tmp_path / "run" / "encoder")
    return str(tmp_path / "run")


@pytest.fixture
def vectors():
    return np.random.default_rng(0).normal(size=(5000, 6)).astype(np.float32)


def test_rows_are_the_encoders_features_in_order(run, vectors, tmp_path):
    labels = np.where(np.arange(5000) % 7 == 0, -1, np.arange(5000) % 3)
    out = cp.embed((vectors, labels), run, str(tmp_path / "e.parquet"), batch_size=300, progress=False)
    store = Store(out)
    assert (len(store), store.dimension) == (5000, 5)
    found = np.concatenate(list(store.blocks()))
    np.testing.assert_allclose(found, cp.load(run).embed(torch.from_numpy(vectors)).numpy(), atol=1e-6)
    table = pq.read_table(out)
    assert table.column_names == ["id", "path", "label", "vector"]
    assert table["id"].to_pylist() == [str(i) for i in range(5000)]
    assert table["label"].to_pylist()[:4] == [None, "1", "2", "0"]
    assert table["path"].null_count == 5000


def test_rows_are_streamed(run, vectors, tmp_path, monkeypatch):
    """Row groups of bounded size, each written before the next is computed."""
    seen = []
    inner = module.vectors_of

    def counted(dataset, encoder, batch_size, start, stop):
        seen.append((start, stop))
        return inner(dataset, encoder, batch_size, start, stop)

    monkeypatch.setattr(module, "vectors_of", counted)
    out = cp.embed(vectors, run, str(tmp_path / "e.parquet"), batch_size=300, progress=False)
    sizes = [pq.ParquetFile(out).metadata.row_group(i).num_rows for i in range(pq.ParquetFile(out).num_row_groups)]
    assert sizes == [2100, 2100, 800]  # whole batches
    assert seen == [(0, 2100), (2100, 4200), (4200, 5000)]


def test_memory_does_not_grow_with_the_data(run, tmp_path):
    def peak(rows):
        np.save(tmp_path / "x.npy", np.zeros((rows, 6), np.float32))
        dataset = cp.data.load(str(tmp_path / "x.npy"))
        encoder = cp.load(run)
        tracemalloc.start()
        for _ in module._blocks(dataset, module.vectors_here(dataset, encoder, 256, 2048), True):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(4096)  # what is imported and cached at first use
    small, large = peak(4096), peak(40960)
    assert large < 1.3 * small


def test_normalize(run, vectors, tmp_path):
    plain = Store(cp.embed(vectors, run, str(tmp_path / "a.parquet"), limit=50, progress=False))
    scaled = Store(cp.embed(vectors, run, str(tmp_path / "b.parquet"), limit=50, normalize=True, progress=False))
    assert (plain.about["normalized"], scaled.about["normalized"]) == (False, True)
    raw, unit = plain.vectors(range(50)), scaled.vectors(range(50))
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(unit * np.linalg.norm(raw, axis=1, keepdims=True), raw, rtol=1e-5, atol=1e-7)


def test_images_are_brought_to_the_encoders_shape(tmp_path):
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    for i, size in enumerate([(40, 30), (9, 9), (64, 64)]):
        Image.fromarray(np.full((*size, 3), 80 * i, np.uint8)).save(tmp_path / "photos" / "cat" / f"{i}.png")
    build("convnet", (1, 12, 12), widths=(4,)).save(tmp_path / "encoder")
    out = cp.embed(str(tmp_path / "photos"), str(tmp_path / "encoder"), str(tmp_path / "e.parquet"), progress=False)
    item = Store(out).items([1])[0]
    assert (item.id, item.label) == ("cat/1.png", "cat")
    assert item.path == str(tmp_path / "photos" / "cat" / "1.png")
    assert Store(out).about["shape"] == [1, 12, 12]
    larger = cp.embed(
        str(tmp_path / "photos"), str(tmp_path / "encoder"), str(tmp_path / "l.parquet"), image_size=20, progress=False
    )
    assert Store(larger).about["shape"] == [1, 20, 20]


def test_it_is_data_again(run, vectors, tmp_path):
    out = cp.embed((vectors, np.arange(5000) % 3), run, str(tmp_path / "e.parquet"), limit=100, progress=False)
    dataset = cp.data.load(str(out), features=["vector"])
    assert (len(dataset), dataset.shape, dataset.classes) == (100, (5,), ["0", "1", "2"])


@pytest.mark.parametrize("data", [np.zeros((4, 7), np.float32), np.zeros((4, 8, 8), np.uint8)])
def test_data_that_the_encoder_does_not_take(run, tmp_path, data):
    with pytest.raises(ValueError, match=r"data: 'array' holds .* the encoder takes vectors of 6"):
        cp.embed(data, run, str(tmp_path / "e.parquet"))


def test_an_image_size_that_the_encoder_does_not_take(tmp_path):
    build("mlp", (1, 8, 8)).save(tmp_path / "encoder")
    with pytest.raises(ValueError, match="image_size: the encoder was trained at 8 x 8"):
        cp.embed("digits", str(tmp_path / "encoder"), str(tmp_path / "e.parquet"), image_size=16, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": "run"}, "out: expected a file ending in .parquet"),
        ({"batch_size": 0}, "batch_size"),
        ({"on": "slurm"}, "local, ray"),
        ({"workers": 2}, "workers"),
        ({"device": "nonsense"}, "device"),
    ],
)
def test_wrong_arguments(run, vectors, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        cp.embed(vectors, run, **{"out": str(tmp_path / "e.parquet"), "progress": False, **options})
    assert not (tmp_path / "e.parquet").exists()


def test_nothing_is_replaced_unasked(run, vectors, tmp_path):
    out = tmp_path / "e.parquet"
    out.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="overwrite"):
        cp.embed(vectors, run, str(out))
    cp.embed(vectors, run, str(out), limit=3, overwrite=True, progress=False)
    assert len(Store(out)) == 3


def test_what_stops_half_way_leaves_nothing(run, vectors, tmp_path, monkeypatch):
    inner = module.vectors_of

    def stops(dataset, encoder, batch_size, start, stop):
        if start:
            raise KeyboardInterrupt
        return inner(dataset, encoder, batch_size, start, stop)

    monkeypatch.setattr(module, "vectors_of", stops)
    with pytest.raises(KeyboardInterrupt):
        cp.embed(vectors, run, str(tmp_path / "out" / "e.parquet"), progress=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_killed_run_left_is_cleared(run, vectors, tmp_path):
    left = tmp_path / "out" / ".e.parquet.writing"
    left.mkdir(parents=True)
    (left / ".e.parquet.1234.part").write_bytes(b"half")
    cp.embed(vectors, run, str(tmp_path / "out" / "e.parquet"), limit=3, progress=False)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["e.parquet"]


def test_two_writers_of_one_file(run, vectors, tmp_path):
    with claim_folder(tmp_path / ".e.parquet.writing"), pytest.raises(FolderInUse):
        cp.embed(vectors, run, str(tmp_path / "e.parquet"), limit=3, progress=False)


def test_an_encoder_that_gives_nan(tmp_path, vectors):
    encoder = build("mlp", (6,), widths=(5,))
    with torch.no_grad():
        encoder.backbone.layers[1].weight.fill_(float("nan"))
    encoder.save(tmp_path / "encoder")
    with pytest.raises(ValueError, match="NaN or Inf, first for item '0'"):
        cp.embed(vectors, str(tmp_path / "encoder"), str(tmp_path / "e.parquet"), progress=False)


def test_digest_tells_of_other_data_and_weights(run, vectors, tmp_path):
    np.save(tmp_path / "x.npy", vectors[:10])
    encoder = cp.load(run)
    path = str(tmp_path / "x.npy")

    def made_from(data):
        return module.describe(encoder, data, cp.data.load(data))["made_from"]

    first = made_from(path)
    assert made_from(path) == first
    np.save(tmp_path / "x.npy", vectors[:10] + 1)
    assert made_from(path) != first
    assert made_from(vectors[:10]) != made_from(vectors[:10] + 1)
    assert made_from((vectors[:10], np.arange(10) % 2)) != made_from(vectors[:10])
    with torch.no_grad():
        encoder.backbone.layers[1].weight[0, 0] += 1
    assert made_from(path).split("-")[0] != first.split("-")[0]


@pytest.mark.slow
def test_ray_gives_the_same_file(run, vectors, tmp_path):
    ray = pytest.importorskip("ray")
    local = cp.embed(vectors, run, str(tmp_path / "a.parquet"), batch_size=300, progress=False)
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, logging_level="error")
    try:
        spread = cp.embed(vectors, run, str(tmp_path / "b.parquet"), batch_size=300, on="ray", progress=False)
    finally:
        ray.shutdown()
    ours, theirs = pq.read_table(local), pq.read_table(spread)
    assert ours.schema.equals(theirs.schema, check_metadata=True)
    assert ours.drop(["vector"]).equals(theirs.drop(["vector"]))
    for one, other in zip(Store(local).blocks(), Store(spread).blocks(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
