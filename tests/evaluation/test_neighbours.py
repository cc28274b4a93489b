import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoint.evaluation import Embeddings, knn, retrieval, top_k


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def labelled(count, classes, dimensions=6, seed=0):
    labels = np.random.default_rng(seed).integers(0, classes, count)
    return Embeddings(normal(count, dimensions, seed=seed) + 0.8 * normal(classes, dimensions, seed=9)[labels], labels)


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclid"])
@pytest.mark.parametrize("k", [1, 7, 40])
def test_top_k_is_the_head_of_the_full_ranking(metric, k):
    q, c = normal(23, 5), normal(40, 5, seed=1) + 2
    if metric == "euclid":
        full = -np.linalg.norm(q[:, None] - c, axis=2)
    else:
        full = q @ c.T
        if metric == "cosine":
            full = full / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(c, axis=1)
    order = np.argsort(-full, axis=1, kind="stable")[:, :k]
    values, indices = top_k(q, c, k, metric=metric, block=2)  # tiles of 2 x 16
    assert np.array_equal(indices.numpy(), order)
    np.testing.assert_allclose(values.numpy(), np.take_along_axis(full, order, 1), atol=2e-6)


@pytest.mark.parametrize("k", [1, 3, 11])
def test_an_item_is_not_its_own_neighbour(k):
    x = normal(12, 4)
    indices = top_k(x, x, k, exclude_self=True, block=1)[1]
    assert not (indices == torch.arange(12)[:, None]).any()
    assert (top_k(x, x, 1)[1][:, 0] == torch.arange(12)).all()


@pytest.mark.parametrize("block", [1, 3, 512])
def test_ties_go_to_the_lower_index(block):
    keys = torch.eye(3)[torch.tensor([2, 1, 0] * 10)]
    indices = top_k(torch.eye(3), keys, 12, block=block)[1]
    for row, first in enumerate([2, 1, 0]):
        nearest = list(range(first, 30, 3))
        others = [index for index in range(30) if index not in nearest]
        assert indices[row].tolist() == nearest + others[:2]
    assert top_k(torch.ones(2, 3), torch.ones(50, 3), 5, block=block)[1].tolist() == [[0, 1, 2, 3, 4]] * 2


def test_block_size_changes_nothing():
    q, c = normal(70, 8), normal(90, 8, seed=1)
    whole = top_k(q, c, 9)
    for block in (1, 4, 33):
        part = top_k(q, c, 9, block=block)
        assert torch.equal(part[1], whole[1])
        torch.testing.assert_close(part[0], whole[0])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"k": 0}, "k: expected 1 to 4"),
        ({"k": 5}, "k: expected 1 to 4"),
        ({"k": 4, "exclude_self": True}, "k: expected 1 to 3"),
        ({"k": 1, "metric": "manhattan"}, "metric"),
        ({"k": 1, "keys": normal(4, 2)}, "dimensions differ"),
        ({"k": 1, "keys": normal(5, 3), "exclude_self": True}, "exclude_self"),
        ({"k": 1, "keys": np.full((4, 3), np.nan)}, "keys: holds NaN"),
        ({"k": 1, "block": 0}, "block"),
    ],
)
def test_top_k_refuses(arguments, told):
    with pytest.raises(ValueError, match=told):
        top_k(**{"queries": normal(4, 3), "keys": normal(4, 3)} | arguments)


def test_knn_equals_scikit_learn_with_the_same_weights():
    from sklearn.neighbors import KNeighborsClassifier

    train, test = labelled(300, 5), labelled(80, 5, seed=1)
    scale = [part.vectors / np.linalg.norm(part.vectors, axis=1, keepdims=True) for part in (train, test)]
    model = KNeighborsClassifier(
        20, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(scale[0], train.labels)
    predicted = knn(train, test)
    assert np.array_equal(predicted, model.predict(scale[1]))
    assert 0.3 < (predicted == test.labels).mean() < 1


def test_knn_weighs_the_nearest_more_and_ignores_the_unlabelled():
    # the query lies on one item of class 3; two of class 7 are a little further; an unlabelled one is on the spot
    train = Embeddings([[1, 0], [1, 0.4], [1, 0.4], [1, 0]], [3, 7, 7, -1])
    test = Embeddings([[1, 0], [1, 0.4]])
    assert knn(train, test, temperature=0.02).tolist() == [3, 7]
    assert knn(train, test, temperature=100).tolist() == [7, 7]  # all weigh the same: the majority


def test_knn_does_not_see_scale_rotation_or_order():
    train, test = labelled(200, 4), labelled(50, 4, seed=1)
    turn = np.linalg.qr(normal(6, 6, seed=5))[0]
    order = np.random.default_rng(0).permutation(200)
    moved = Embeddings((7 * train.vectors @ turn)[order], train.labels[order])
    assert np.array_equal(knn(moved, Embeddings(0.1 * test.vectors @ turn)), knn(train, test))


def test_average_precision_equals_scikit_learn_also_with_ties():
    from sklearn.metrics import average_precision_score

    data = labelled(60, 4, dimensions=2)
    rounded = Embeddings(np.round(data.vectors), data.labels)
    for items, block in ((data, 512), (data, 2), (rounded, 512)):
        unit = items.vectors / np.linalg.norm(items.vectors, axis=1, keepdims=True).clip(1e-12)
        similarity = np.round(unit @ unit.T, 5)
        others = ~np.eye(60, dtype=bool)
        expected = [
            average_precision_score((items.labels == items.labels[i])[others[i]], similarity[i, others[i]])
            for i in range(60)
        ]
        # directions of rounded vectors that tie exactly may differ in their last digit: hence a mean, and a tolerance
        found = retrieval(items, block=block)["map"]
        assert abs(found - expected).mean() < (1e-6 if items is data else 0.02)


def test_retrieval_by_hand():
    # on a circle: 0 and 1 of class 0 close together, 2 of class 1 between them and 3 of class 0; 4 is alone in class 2
    angle = np.deg2rad([0, 10, 30, 60, 180])
    found = retrieval(Embeddings(np.stack([np.cos(angle), np.sin(angle)], 1), [0, 0, 1, 0, 2]), ks=(1, 2, 9))
    assert np.array_equal(found["recall@1"], [1, 1, np.nan, 0, np.nan], equal_nan=True)
    assert np.array_equal(found["recall@2"], [1, 1, np.nan, 1, np.nan], equal_nan=True)
    assert np.array_equal(found["recall@9"], [1, 1, np.nan, 1, np.nan], equal_nan=True)
    np.testing.assert_allclose(
        found["map"], [(1 + 2 / 3) / 2, (1 + 2 / 3) / 2, np.nan, (1 / 2 + 2 / 3) / 2, np.nan], rtol=1e-6
    )


def test_retrieval_from_a_gallery_counts_an_equal_item():
    data = labelled(40, 3)
    assert (retrieval(data, data)["recall@1"] == 1).all()
    assert retrieval(data)["recall@1"].mean() < 1
    missing = retrieval(Embeddings(normal(2, 6), [8, 0]), data)["map"]
    assert np.isnan(missing[0])
    assert np.isfinite(missing[1])


def test_collapse_scores_as_chance_and_not_as_perfection():
    labels = np.arange(100) % 5
    constant = retrieval(Embeddings(np.ones((100, 3)), labels))["map"]
    np.testing.assert_allclose(constant, 19 / 99, rtol=1e-6)


def test_retrieval_without_labels_is_refused():
    with pytest.raises(ValueError, match="queries: retrieval needs labels"):
        retrieval(Embeddings(normal(4, 2)))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 9), st.integers(1, 4), st.integers(0, 10_000), st.sampled_from([0.0, 1e-30, 1.0, 1e30]),
    st.integers(1, 5),
)  # fmt: skip
def test_answers_are_finite_whatever_the_vectors(count, dimensions, seed, scale, block):
    generator = np.random.default_rng(seed)
    items = Embeddings(scale * generator.integers(-2, 3, (count, dimensions)), generator.integers(-1, 3, count))
    values, indices = top_k(items.vectors, items.vectors, 1, block=block)
    assert values.isfinite().all()
    assert ((indices >= 0) & (indices < count)).all()
    if len(items.classes):
        assert np.isin(knn(items, items), items.classes).all()
        for scores in retrieval(items, block=block).values():
            known = scores[~np.isnan(scores)]
            assert ((known >= 0) & (known <= 1)).all()
