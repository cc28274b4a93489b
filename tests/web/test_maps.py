"""Maps and neighbours."""

import subprocess
import sys

import numpy as np
import pytest

from counterpoint.web.maps import embedding_map, neighbour_grid


def test_umap_keeps_groups_together_and_repeats_itself():
    random = np.random.default_rng(0)
    group = np.repeat([0, 1, 2], 20)
    vectors = random.normal(size=(3, 8))[group] * 5 + random.normal(size=(60, 8)) * 0.1
    index, xy = embedding_map(vectors, seed=3)
    assert index.tolist() == list(range(60))
    assert xy.shape == (60, 2)
    assert xy.dtype == np.float32
    distances = np.linalg.norm(xy[:, None] - xy[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (group[distances.argmin(1)] == group).mean() > 0.95
    assert np.array_equal(embedding_map(vectors, seed=3)[1], xy)


@pytest.mark.parametrize(
    "vectors",
    [
        np.zeros((50, 8)),
        np.ones((50, 8)),
        np.random.default_rng(0).normal(size=(4, 8)),
        np.random.default_rng(0).normal(size=(50, 2)),
        np.random.default_rng(0).normal(size=(50, 1)),
        np.zeros((1, 3)),
        np.zeros((0, 3)),
        np.full((20, 4), np.nan),
    ],
)
def test_degenerate_embeddings_still_have_a_map(vectors):
    index, xy = embedding_map(vectors)
    assert xy.shape == (len(vectors), 2)
    assert len(index) == len(vectors)
    assert np.isfinite(xy).all()
    assert xy.size == 0 or (xy.min() >= 0 and xy.max() <= 1)


def test_two_dimensions_are_shown_as_they_are_up_to_rotation():
    vectors = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    _, xy = embedding_map(vectors)
    before = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    after = np.linalg.norm(xy[:, None] - xy[None], axis=-1)
    ratio = after[before > 0] / before[before > 0]
    assert ratio.std() / ratio.mean() < 1e-4


def test_sample_is_stratified_sorted_and_seeded():
    labels = np.repeat([0, 1], [900, 100])
    vectors = np.random.default_rng(0).normal(size=(1000, 2))
    index, xy = embedding_map(vectors, max_points=100, labels=labels)
    assert len(index) == len(xy) == len(set(index.tolist())) == 100
    assert (np.diff(index) > 0).all()
    assert abs((labels[index] == 1).sum() - 10) <= 1
    assert np.array_equal(embedding_map(vectors, max_points=100, labels=labels)[0], index)
    assert not np.array_equal(embedding_map(vectors, seed=1, max_points=100, labels=labels)[0], index)


def test_shape_is_checked():
    with pytest.raises(ValueError, match="vectors: got shape"):
        embedding_map(np.zeros(5))


def test_neighbours_are_the_nearest_by_cosine_and_never_the_query():
    angles = np.array([0.0, 0.1, 0.25, 2.0, 2.1])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1) * np.array([[1], [9], [2], [1], [5]])
    queries, indices, same = neighbour_grid(vectors, np.array([0, 0, 1, 1, 1]), queries=5, k=2)
    found = dict(zip(queries.tolist(), indices.tolist(), strict=True))
    assert found == {0: [1, 2], 1: [0, 2], 2: [1, 0], 3: [4, 2], 4: [3, 2]}
    agreement = dict(zip(queries.tolist(), same.tolist(), strict=True))
    assert agreement[0] == [True, False]
    assert agreement[2] == [False, False]


def test_queries_cover_the_classes_and_do_not_depend_on_the_vectors():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 30)
    first, indices, _ = neighbour_grid(random.normal(size=(180, 4)), labels, queries=12, k=8, seed=2)
    second, _, _ = neighbour_grid(random.normal(size=(180, 9)), labels, queries=12, k=8, seed=2)
    assert np.array_equal(first, second)
    assert np.bincount(labels[first]).tolist() == [2] * 6
    assert indices.shape == (12, 8)


def test_neighbours_without_labels_and_with_few_items():
    queries, indices, same = neighbour_grid(np.eye(3), None, queries=12, k=8)
    assert queries.tolist() == [0, 1, 2]
    assert indices.shape == (3, 2)
    assert same is None
    with pytest.raises(ValueError, match="2 to 5000"):
        neighbour_grid(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="2 to 5000"):
        neighbour_grid(np.zeros((5001, 3)))


def test_importing_the_pages_imports_nothing_heavy():
    heavy = "torch umap matplotlib sklearn pandas lightning PIL"
    code = f"import sys, counterpoint.web; print([m for m in {heavy.split()!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
