"""Accuracy by group, and last-layer retraining on data whose background gives the class away in training."""

import numpy as np
import pytest

from counterpoint.evaluation import Embeddings, group_accuracy, linear_probe, retrain_last_layer


def spurious(count, seed, share, dimensions=6):
    """A weak dimension that is the class and a strong one that is the background, which agree in ``share`` of items."""
    made = np.random.default_rng(seed)
    labels = made.integers(0, 2, count)
    background = np.where(made.random(count) < share, labels, 1 - labels)
    x = made.standard_normal((count, dimensions))
    x[:, 0] += 1.8 * (2 * labels - 1)
    x[:, 1] = 4 * (2 * background - 1) + 0.3 * made.standard_normal(count)
    return Embeddings(x, labels), 2 * labels + background


HELD, GROUPS = spurious(2000, 0, 0.99)
TEST, TEST_GROUPS = spurious(2000, 1, 0.5)


class TestAccuracy:
    def test_by_group_and_the_worst(self):
        test = Embeddings(np.zeros((6, 1)), np.array([0, 0, 0, 1, 1, -1]))
        scores = group_accuracy(np.array([0, 0, 1, 1, 0, 0]), test, np.array([7, 7, 2, 2, 2, 2]))
        assert scores.accuracy == {2: pytest.approx(1 / 3), 7: 1.0}
        assert scores.count == {2: 3, 7: 2}
        assert scores.worst == pytest.approx(1 / 3)
        assert scores.mean == pytest.approx(3 / 5)

    @pytest.mark.parametrize(
        ("predictions", "labels", "groups", "message"),
        [
            ([0, 0], [0, 1, 1], [0, 0, 0], "predictions: expected"),
            ([0, 0, 0], [0, 1, 1], [0, 0], "groups: expected 3 integers"),
            ([0, 0, 0], [0, 1, 1], [0.5, 0, 0], "groups: expected 3 integers"),
            ([0, 0, 0], [-1, -1, -1], [0, 0, 0], "test: no item has a label"),
        ],
    )
    def test_what_cannot_be_measured(self, predictions, labels, groups, message):
        test = Embeddings(np.zeros((3, 1)), np.array(labels))
        with pytest.raises(ValueError, match=f"^{message}"):
            group_accuracy(np.array(predictions), test, np.array(groups))


class TestRetraining:
    def test_the_worst_group_is_served_where_a_plain_probe_fails_it(self):
        plain = group_accuracy(linear_probe(HELD, None, TEST).predictions, TEST, TEST_GROUPS)
        again = group_accuracy(retrain_last_layer(HELD, GROUPS, TEST), TEST, TEST_GROUPS)
        assert plain.worst < 0.85
        assert again.worst > 0.92
        assert again.mean > plain.mean

    def test_features_without_the_class_cannot_be_helped(self):
        blind = [Embeddings(part.vectors[:, 1:], part.labels) for part in (HELD, TEST)]
        found = group_accuracy(retrain_last_layer(blind[0], GROUPS, blind[1]), TEST, TEST_GROUPS)
        assert found.mean < 0.6

    def test_groups_of_one_size_all_take_part(self):
        """Where nothing is left to draw, one draw is as good as many, but for where the fits stop."""
        rows = np.concatenate([np.flatnonzero(np.equal(GROUPS, name))[:8] for name in range(4)])
        even = Embeddings(HELD.vectors[rows], HELD.labels[rows])
        one = retrain_last_layer(even, GROUPS[rows], TEST, draws=1)
        assert (one == retrain_last_layer(even, GROUPS[rows], TEST, draws=3)).mean() > 0.97
        assert (one == linear_probe(even, None, TEST).predictions).mean() > 0.97

    def test_draws_follow_the_seed_and_unlabelled_items_are_left_out(self):
        found = retrain_last_layer(HELD, GROUPS, TEST, draws=2)
        assert np.array_equal(found, retrain_last_layer(HELD, GROUPS, TEST, draws=2))
        labels = np.concatenate([HELD.labels, np.full(500, -1)])
        more = Embeddings(np.concatenate([HELD.vectors, HELD.vectors[:500]]), labels)
        groups = np.concatenate([GROUPS, np.full(500, 9)])  # a group that nobody knows the labels of
        assert (found == retrain_last_layer(more, groups, TEST, draws=2)).mean() > 0.99

    def test_labels_keep_their_numbers(self):
        shifted = Embeddings(HELD.vectors, 5 + 10 * HELD.labels)
        found = retrain_last_layer(shifted, GROUPS, TEST, draws=2)
        assert np.array_equal(found, 5 + 10 * retrain_last_layer(HELD, GROUPS, TEST, draws=2))

    @pytest.mark.parametrize(
        ("held", "groups", "options", "message"),
        [
            (Embeddings(HELD.vectors, np.zeros(2000, int)), GROUPS, {}, "train: a probe needs labels of at least 2"),
            (HELD, GROUPS[:5], {}, "groups: expected 2000 integers"),
            (HELD, GROUPS, {"draws": 0}, "draws: expected at least 1"),
            (HELD, np.arange(2000) == np.flatnonzero(HELD.labels == 1)[0], {}, "groups: expected"),
        ],
    )
    def test_what_cannot_be_fitted(self, held, groups, options, message):
        with pytest.raises(ValueError, match=f"^{message}"):
            retrain_last_layer(held, groups, TEST, **options)

    def test_groups_that_leave_one_class(self):
        held = Embeddings(np.eye(4), np.array([0, 0, 0, 1]))
        for seed in range(20):  # one item of each of two groups: mostly both of class 0
            try:
                retrain_last_layer(held, np.array([0, 1, 1, 1]), held, draws=1, seed=seed)
            except ValueError as error:
                assert str(error).startswith("groups: the smallest has 1 items")  # noqa: PT017
                break
        else:
            pytest.fail("a draw of one class was fitted")
