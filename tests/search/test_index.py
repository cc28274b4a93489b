"""The index against arithmetic."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from counterpoint.search import Index, Item, Store, build_index
from counterpoint.search.store import write


def stored(path, vectors, block=700, made_from="x"):
    items = [Item(i, f"item-{i}", None, str(i % 3)) for i in range(len(vectors))]
    blocks = ((items[i : i + block], vectors[i : i + block]) for i in range(0, len(vectors), block))
    write(path, blocks, vectors.shape[1], {"made_from": made_from})
    return path


@pytest.fixture(scope="module")
def digits():
    """Real data: 1,797 digits as vectors of 64 pixels, about their mean."""
    from sklearn.datasets import load_digits

    values = load_digits().data
    return (values - values.mean(axis=0)).astype(np.float32)


@pytest.fixture(scope="module")
def embeddings(digits, tmp_path_factory):
    return stored(tmp_path_factory.mktemp("digits") / "e.parquet", digits)


def cosine(queries, vectors):
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries.astype(np.float64), vectors.astype(float))]
    return unit[0] @ unit[1].T


def test_exact_is_cosine_whatever_the_lengths(embeddings, digits):
    queries = digits[::40] * 17
    scores, rows = build_index(embeddings).search(queries, 8)
    expected = cosine(queries, digits)
    assert (scores.shape, rows.shape, scores.dtype, rows.dtype) == ((45, 8), (45, 8), np.float32, np.int64)
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1)[:, :8], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(expected, rows, 1), scores, atol=1e-5)
    assert (rows[:, 0] == np.arange(0, 1797, 40)).all()


@pytest.mark.parametrize(("kind", "least"), [("ivf", 0.9), ("hnsw", 0.97)])
def test_approximate_kinds_find_nearly_all(embeddings, digits, kind, least):
    _, exact = build_index(embeddings).search(digits[::5], 10)
    _, found = build_index(embeddings, kind).search(digits[::5], 10)
    recall = np.mean([len(set(one) & set(other)) / 10 for one, other in zip(exact, found, strict=True)])
    assert recall >= least


def test_options_reach_the_index(embeddings, digits):
    def recall(**options):
        _, found = build_index(embeddings, "ivf", **options).search(digits[::5], 10)
        _, exact = build_index(embeddings).search(digits[::5], 10)
        return np.mean([len(set(one) & set(other)) / 10 for one, other in zip(exact, found, strict=True)])

    assert recall(nlist=40, nprobe=1) < 0.9 < recall(nlist=40, nprobe=20)
    assert recall(nlist=40, nprobe=40) > 0.999
    assert build_index(embeddings, "ivf")._native.nlist == 46  # 1797 // 39, less than 4 sqrt(1797)
    assert build_index(embeddings, "hnsw", M=8, ef_search=20)._native.hnsw.efSearch == 20


def test_ivf_is_a_function_of_its_seed(embeddings, digits):
    one, other = (build_index(embeddings, "ivf", seed=3).search(digits[:200], 10) for _ in range(2))
    np.testing.assert_array_equal(one[1], other[1])


def test_a_cell_with_too_few_answers_says_so(embeddings, digits):
    scores, rows = build_index(embeddings, "ivf", nlist=46, nprobe=1).search(digits[:5], 1000)
    assert (rows == -1).any()
    assert np.isneginf(scores[rows == -1]).all()
    assert np.isfinite(scores[rows >= 0]).all()


def test_k_is_limited_and_one_query_needs_no_axis(embeddings, digits):
    index = build_index(embeddings)
    assert index.search(digits[0], 5000)[1].shape == (1, 1797)


def test_a_zero_vector_is_like_nothing(tmp_path):
    vectors = np.array([[1, 0], [0, 0], [0, 2]], np.float32)
    scores, rows = build_index(stored(tmp_path / "e.parquet", vectors)).search([[0.0, 3.0]], 3)
    assert rows[0, 0] == 2
    np.testing.assert_allclose(scores, [[1, 0, 0]])


@pytest.mark.parametrize("kind", ["exact", "ivf", "hnsw"])
def test_saved_and_opened(tmp_path, digits, kind):
    index = build_index(stored(tmp_path / "e.parquet", digits), kind)
    opened = Index.load(index.save(tmp_path / "index"))
    np.testing.assert_array_equal(opened.search(digits[:50], 10)[1], index.search(digits[:50], 10)[1])
    assert (opened.kind, len(opened)) == (kind, 1797)
    assert opened.items([1300, 4]) == [Item(1300, "item-1300", None, "1"), Item(4, "item-4", None, "1")]


def test_an_index_of_other_embeddings_is_refused(tmp_path, digits):
    folder = build_index(stored(tmp_path / "e.parquet", digits)).save(tmp_path / "index")
    stored(tmp_path / "e.parquet", digits, made_from="y")
    with pytest.raises(ValueError, match="other embeddings"):
        Index.load(folder)
    (tmp_path / "e.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"e\.parquet"):
        Index.load(folder)


@pytest.mark.parametrize("change", [lambda b: b[:100], lambda b: b[:-1] + b"!", lambda b: b""])
def test_a_damaged_index_is_refused(tmp_path, digits, change):
    folder = build_index(stored(tmp_path / "e.parquet", digits)).save(tmp_path / "index")
    file = folder / "index.faiss"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(ValueError, match="cannot be opened"):
        Index.load(folder)


@pytest.mark.parametrize("change", [{"format": 9}, {"digest": None}, {"embeddings": 3}, {"options": None}])
def test_a_changed_description_is_refused(tmp_path, digits, change):
    folder = build_index(stored(tmp_path / "e.parquet", digits)).save(tmp_path / "index")
    told = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**told, **change}))
    with pytest.raises(ValueError, match="cannot be opened"):
        Index.load(folder)


def test_no_index(tmp_path):
    with pytest.raises(FileNotFoundError, match="no index"):
        Index.load(tmp_path)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("lsh", {}, "exact, ivf, hnsw"),
        ("exact", {"nlist": 3}, "exact takes no 'nlist', only none"),
        ("ivf", {"M": 3}, "only nlist, nprobe, seed"),
        ("ivf", {"nlist": 0}, "nlist"),
        ("ivf", {"nlist": 5000}, "5000 cells"),
        ("hnsw", {"M": 2.5}, "M: expected a positive integer"),
    ],
)
def test_wrong_options(embeddings, kind, options, message):
    with pytest.raises(ValueError, match=message):
        build_index(embeddings, kind, **options)


@pytest.mark.parametrize(
    ("vectors", "k", "message"),
    [
        (np.zeros((2, 63)), 3, r"\(Q, 64\), got \(2, 63\)"),
        (np.zeros((2, 2, 64)), 3, "expected"),
        (np.full((1, 64), np.nan), 3, "NaN"),
        (np.ones((1, 64)), 0, "k: expected"),
    ],
)
def test_wrong_queries(embeddings, vectors, k, message):
    with pytest.raises(ValueError, match=message):
        build_index(embeddings).search(vectors, k)


def test_embeddings_with_nan_are_refused(tmp_path, digits):
    bad = digits.copy()
    bad[1234, 5] = np.nan
    with pytest.raises(ValueError, match="first in row 1234"):
        build_index(stored(tmp_path / "e.parquet", bad))


def test_store_reads_rows_across_groups_in_the_order_asked(embeddings, digits):
    store = Store(embeddings)
    rows = [1796, 0, 700, 699, 0]
    np.testing.assert_array_equal(store.vectors(rows), digits[rows])
    assert [item.id for item in store.items(rows)] == [f"item-{i}" for i in rows]
    assert store.find("item-1500") == 1500
    assert store.find("item-1797") is None
    with pytest.raises(IndexError, match="1797"):
        store.vectors([1797])


def test_files_that_are_no_embeddings(tmp_path):
    with pytest.raises(FileNotFoundError, match="counterpoint embed"):
        Store(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        Store(tmp_path / "text.parquet")
    pq.write_table(pa.table({"id": ["a"], "vector": [[1.0, 2.0]]}), tmp_path / "lists.parquet")
    with pytest.raises(ValueError, match="fixed-size lists of float32"):
        Store(tmp_path / "lists.parquet")


def test_a_row_without_a_vector(tmp_path):
    column = pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"id": ["a", "b"], "vector": column}), tmp_path / "e.parquet")
    with pytest.raises(ValueError, match="without a vector"):
        build_index(tmp_path / "e.parquet")


def test_a_file_cut_inside(tmp_path, digits):
    path = stored(tmp_path / "e.parquet", digits)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        Store(path)
