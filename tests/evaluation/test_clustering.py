import itertools

import numpy as np
import pytest

from counterpoint.evaluation import Embeddings, cluster, cluster_accuracy, clustering


def rays(count=90, noise=0.05, seed=0):
    """Three directions, at any distance from the origin."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    vectors = np.eye(3)[labels] + noise * generator.standard_normal((count, 3))
    return Embeddings(vectors * generator.uniform(0.1, 50, (count, 1)), labels + 4)


def test_clear_classes_are_found_whatever_the_length_of_vectors():
    assert clustering(rays()) == {"nmi": pytest.approx(1), "ari": pytest.approx(1), "cluster_accuracy": 1}


def test_unrelated_labels_score_as_chance():
    data = rays(300)
    scores = clustering(Embeddings(data.vectors, np.random.default_rng(0).integers(0, 3, 300)))
    assert scores["nmi"] < 0.05
    assert abs(scores["ari"]) < 0.05
    assert 1 / 3 <= scores["cluster_accuracy"] < 0.45


def test_the_best_naming_is_found():
    labels, clusters = np.random.default_rng(0).integers(0, 4, (2, 60))
    best = max((np.array(naming)[clusters] == labels).mean() for naming in itertools.permutations(range(4)))
    assert cluster_accuracy(labels, clusters) == pytest.approx(best)
    assert cluster_accuracy([0, 0, 1], [5, 5, 5]) == pytest.approx(2 / 3)  # fewer clusters than classes


def test_the_same_seed_gives_the_same_clusters():
    data = Embeddings(np.random.default_rng(0).standard_normal((80, 5)))
    assert np.array_equal(cluster(data, 6, seed=3), cluster(data, 6, seed=3))
    assert not np.array_equal(cluster(data, 6, seed=3, restarts=1), cluster(data, 6, seed=4, restarts=1))


def test_unlabelled_items_and_constant_embeddings():
    data = rays()
    hidden = np.where(np.arange(90) < 30, -1, data.labels)
    assert clustering(Embeddings(data.vectors, hidden))["nmi"] == pytest.approx(1)
    assert clustering(Embeddings(np.ones((90, 3)), data.labels)) == {
        "nmi": 0, "ari": 0, "cluster_accuracy": pytest.approx(1 / 3)
    }  # fmt: skip


def test_refusals():
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        clustering(Embeddings(np.eye(3), [1, 1, 1]))
    with pytest.raises(ValueError, match="clusters: expected 1 to 3"):
        cluster(Embeddings(np.eye(3)), 4)
    with pytest.raises(ValueError, match="equal shapes"):
        cluster_accuracy([0, 1], [0])
