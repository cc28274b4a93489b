import numpy as np
import pytest

from counterpoint.evaluation import Embeddings, few_label_probe, linear_probe, probes
from counterpoint.evaluation.probes import FEW_LABELS_C, GRID, standardise


def blobs(count, seed, dimensions=12, classes=4, apart=0.9):
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((classes, dimensions))
    labels = generator.integers(0, classes, count)
    return Embeddings(apart * centres[labels] + generator.standard_normal((count, dimensions)), labels)


TRAIN, VAL, TEST = blobs(300, 0), blobs(120, 1), blobs(200, 2)


def test_each_value_of_the_grid_scores_as_scikit_learn_fitted_afresh():
    from sklearn.linear_model import LogisticRegression

    scaled = [(part.vectors - TRAIN.vectors.mean(0)) / TRAIN.vectors.std(0) / 12**0.5 for part in (TRAIN, VAL, TEST)]
    probe = linear_probe(TRAIN, VAL, TEST)
    for c, accuracy in probe.validation.items():
        model = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(scaled[0], TRAIN.labels)
        assert abs(model.score(scaled[1], VAL.labels) - accuracy) <= 1 / 120 + 1e-9
        if c == probe.c:
            assert (model.predict(scaled[2]) == probe.predictions).mean() >= 0.99
    assert probe.validation[probe.c] == max(probe.validation.values())
    assert (probe.predictions == TEST.labels).mean() > 0.75


def test_the_strongest_of_equally_good_penalties_is_taken():
    easy = blobs(80, 3, apart=20)
    probe = linear_probe(easy, easy, easy)
    assert probe.c == min(c for c, accuracy in probe.validation.items() if accuracy == 1)
    tried = sorted(probe.validation)
    assert tried == sorted(GRID)[: tried.index(probe.c) + 3]  # two further values without a gain end the path


def test_the_test_set_has_no_say_in_the_choice():
    noisy = Embeddings(TRAIN.vectors, np.random.default_rng(0).permutation(TRAIN.labels))
    chosen = linear_probe(noisy, VAL, TEST)
    other = linear_probe(noisy, VAL, Embeddings(-5 * TEST.vectors, 3 - TEST.labels))
    assert (other.c, other.validation) == (chosen.c, chosen.validation)
    flipped = linear_probe(noisy, Embeddings(VAL.vectors, (VAL.labels + 1) % 4), TEST)
    assert flipped.validation != chosen.validation  # whereas the validation labels do


def test_without_validation_labels_the_penalty_is_fixed():
    for val in (None, Embeddings(VAL.vectors), Embeddings(VAL.vectors, np.full(120, -1))):
        probe = linear_probe(TRAIN, val, TEST)
        assert (probe.c, probe.validation) == (FEW_LABELS_C, {})


def test_more_dimensions_than_items_gives_the_same_classifier():
    """Fitted within the span of the training rows, it must equal the one fitted on all dimensions."""
    from sklearn.linear_model import LogisticRegression

    train, test = blobs(30, 0, dimensions=90), blobs(100, 1, dimensions=90)
    x, x_test = standardise(train, train, test)
    model = LogisticRegression(C=FEW_LABELS_C, tol=1e-8, max_iter=5000).fit(x, train.labels)
    assert (linear_probe(train, None, test).predictions == model.predict(x_test)).mean() >= 0.99


def test_scale_and_offset_of_a_dimension_do_not_matter():
    stretch, shift = np.geomspace(1e-3, 1e3, 12), np.linspace(-3, 3, 12)
    moved = [Embeddings(part.vectors * stretch + shift * stretch, part.labels) for part in (TRAIN, VAL, TEST)]
    assert (linear_probe(*moved).predictions == linear_probe(TRAIN, VAL, TEST).predictions).mean() > 0.98


def test_a_constant_dimension_carries_nothing():
    def widened(part, value):
        return Embeddings(np.column_stack([part.vectors, np.full(len(part), value)]), part.labels)

    x, x_test = standardise(widened(TRAIN, 0.1), widened(TRAIN, 0.1), widened(TEST, 1e6))
    assert (x[:, -1] == 0).all()
    assert (x_test[:, -1] == 0).all()


def test_few_labels_are_drawn_per_class_from_the_seed():
    """A classifier of one label a class knows exactly those items: leave the others' labels wrong, nothing changes."""
    first = few_label_probe(TRAIN, TEST, 1, seed=4)
    assert first.shape == (5, 200)
    assert np.array_equal(first, few_label_probe(TRAIN, TEST, 1, seed=4))
    assert not np.array_equal(first, few_label_probe(TRAIN, TEST, 1, seed=5))
    assert not np.array_equal(first[0], first[1])
    accuracy = [(few_label_probe(TRAIN, TEST, k) == TEST.labels).mean() for k in (1, 5, 50)]
    assert accuracy[0] < accuracy[1] < accuracy[2]
    everything = few_label_probe(TRAIN, TEST, 1000, draws=1)[0]  # more than a class has: all of it
    assert (everything == linear_probe(TRAIN, None, TEST).predictions).mean() > 0.97  # but for the scaling


def test_few_label_probes_do_not_see_rotation_scale_or_offset():
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((12, 12)))[0]
    stretched = [Embeddings(part.vectors * np.geomspace(1, 30, 12), part.labels) for part in (TRAIN, TEST)]
    moved = [Embeddings(9 * part.vectors @ turn + 5, part.labels) for part in stretched]
    assert (few_label_probe(*moved, 3) == few_label_probe(*stretched, 3)).mean() > 0.99


def test_the_draws_are_the_same_for_every_embedding_of_the_items(monkeypatch):
    """Each item is embedded as its number, or as minus three times it: what is fitted tells which were drawn."""
    fitted = []
    plain = probes._fit
    monkeypatch.setattr(probes, "_fit", lambda model, x, labels: fitted.append(x) or plain(model, x, labels))
    number, labels = np.arange(40.0)[:, None], np.arange(40) % 4
    for embedded, seed in ((number, 0), (-3 * number, 0), (number, 1)):
        few_label_probe(Embeddings(embedded, labels), Embeddings(embedded), 2, seed=seed)
    drawn, again, elsewhere = np.reshape(fitted, (3, 5, 8))
    np.testing.assert_allclose(again, -drawn, rtol=1e-5, atol=1e-6)
    assert not np.allclose(elsewhere, drawn)
    assert len(np.unique(drawn.round(4))) > 20  # five different draws of 8


def test_unlabelled_items_are_not_fitted():
    hidden = TRAIN.labels.copy()
    hidden[:100] = -1
    probe = linear_probe(Embeddings(TRAIN.vectors, hidden), VAL, TEST)
    assert not (probe.predictions == -1).any()
    assert not (few_label_probe(Embeddings(TRAIN.vectors, hidden), TEST, 1000, draws=1) == -1).any()


def test_refusals():
    one = Embeddings(TRAIN.vectors, np.zeros(300))
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        linear_probe(one, VAL, TEST)
    with pytest.raises(ValueError, match="at least 2 classes, got 0"):
        few_label_probe(Embeddings(TRAIN.vectors), TEST, 1)
    with pytest.raises(ValueError, match="grid"):
        linear_probe(TRAIN, VAL, TEST, grid=())
    with pytest.raises(ValueError, match="shots"):
        few_label_probe(TRAIN, TEST, 0)
    with pytest.raises(ValueError, match="11 dimensions where train has 12"):
        linear_probe(TRAIN, VAL, Embeddings(TEST.vectors[:, 1:]))
