import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoint.evaluation import (
    DESCRIPTIONS,
    HIGHER_IS_BETTER,
    OF_A_CLASSIFIER,
    OF_CAPTIONS,
    OF_MODALITIES,
    Embeddings,
    Evaluation,
    evaluate,
)

LABELLED = {"knn", "probe", "probe_1", "probe_5", "probe_10", "recall@1", "recall@5", "recall@10", "map"}
CLUSTERED = {"nmi", "ari", "cluster_accuracy"}
GEOMETRY = {"uniformity", "effective_rank"}
VIEWS = {"alignment", "view_recall@1"}
OF_TARGETS = {name for name in DESCRIPTIONS if "mae" in name} | {"rmse", "r2", "pearson", "gm_error", "spearman"}


def blobs(count, seed, classes=4, dimensions=8, apart=1.0):
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(99).standard_normal((classes, dimensions))
    return Embeddings(apart * centres[labels] + generator.standard_normal((count, dimensions)), labels)


TRAIN, VAL, TEST = blobs(120, 0), blobs(60, 1), blobs(80, 2)
PAIRS = (TEST.vectors, TEST.vectors + 0.1 * blobs(80, 3).vectors)


def stripped(part):
    return Embeddings(part.vectors)


@pytest.fixture(scope="module")
def full():
    return evaluate(TRAIN, VAL, TEST, pairs=PAIRS)


def test_every_score_is_described_and_given(full):
    assert list(DESCRIPTIONS) == list(HIGHER_IS_BETTER)
    left_out = {*OF_TARGETS, *OF_A_CLASSIFIER, *OF_CAPTIONS, *OF_MODALITIES}
    assert list(full.scores) == [name for name in DESCRIPTIONS if name not in left_out]
    assert full.notes == []
    lower = {name for name, better in HIGHER_IS_BETTER.items() if not better}
    assert lower - OF_TARGETS == {
        "scatter",
        "alignment",
        "uniformity",
        "gap_distance",
        "gap_separability",
        "compositional_blind",
        "arithmetic_blind",
    }


def test_scores_are_the_means_of_their_items(full):
    assert set(full.items) == LABELLED | {"view_recall@1"}
    for name, values in full.items.items():
        assert values.dtype == np.float32
        assert values.shape == (80,)
        assert full.scores[name] == pytest.approx(np.nanmean(values), abs=1e-6)


def test_arrays_agree_with_the_scores(full):
    confusion = full.arrays["confusion"]
    assert confusion.shape == (4, 4)
    assert confusion.sum(axis=1).tolist() == [20] * 4  # rows are the true classes
    assert np.trace(confusion) / 80 == pytest.approx(full.scores["knn"])
    assert np.array_equal(full.arrays["classes"], [0, 1, 2, 3])
    assert (full.arrays["predictions"] == TEST.labels).mean() == pytest.approx(full.scores["knn"])
    assert (full.arrays["probe_predictions"] == TEST.labels).mean() == pytest.approx(full.scores["probe"])
    assert full.arrays["spectrum"].shape == (8,)


def test_better_embeddings_score_better(full):
    far = evaluate(*(blobs(len(part), seed, apart=4) for seed, part in enumerate((TRAIN, VAL, TEST))))
    for name in LABELLED | CLUSTERED | {"tolerance"}:
        assert far.scores[name] >= full.scores[name]
    assert far.scores["knn"] > 0.97 > full.scores["knn"]


def test_the_seed_decides():
    first, again = (evaluate(TRAIN, VAL, TEST, seed=1) for _ in range(2))
    assert first.scores == again.scores
    assert first.scores["probe_1"] != evaluate(TRAIN, VAL, TEST, seed=2).scores["probe_1"]


def test_labels_of_the_test_set_do_not_move_predictions(full):
    other = evaluate(TRAIN, VAL, Embeddings(TEST.vectors, 3 - TEST.labels), metrics=["knn", "probe"])
    for name in ("predictions", "probe_predictions"):
        assert np.array_equal(other.arrays[name], full.arrays[name])


def test_only_what_is_asked_for_is_measured():
    found = evaluate(TRAIN, VAL, TEST, metrics=["recall@5", "effective_rank"])
    assert set(found.scores) == {"recall@5", "effective_rank"}
    assert set(found.items) == {"recall@5"}
    assert "predictions" not in found.arrays
    assert "alignment" in evaluate(TRAIN, VAL, TEST, metrics="alignment").notes[0]
    with pytest.raises(ValueError, match="did you mean 'effective_rank'"):
        evaluate(TRAIN, VAL, TEST, metrics=["efective_rank"])


def test_without_labels_there_is_geometry():
    found = evaluate(stripped(TRAIN), stripped(VAL), stripped(TEST), pairs=PAIRS)
    assert set(found.scores) == GEOMETRY | VIEWS
    assert found.notes == ["No labels: only the geometry is measured."]


def test_partly_labelled_data_scores_the_labelled(full):
    def hide(part, every):
        return Embeddings(part.vectors, np.where(np.arange(len(part)) % every == 0, -1, part.labels))

    found = evaluate(hide(TRAIN, 3), hide(VAL, 3), hide(TEST, 5))
    assert set(found.scores) == LABELLED | CLUSTERED | GEOMETRY | {"tolerance"}
    for name in LABELLED:
        assert np.array_equal(np.isnan(found.items[name]), np.arange(80) % 5 == 0)
    assert found.notes[:2] == [
        "40 of 120 training items have no label and count only for the geometry.",
        "16 of 80 test items have no label and count only for the geometry.",
    ]
    unlabelled_train = evaluate(stripped(TRAIN), VAL, TEST)
    ranked = {"recall@1", "recall@5", "recall@10", "map"}
    assert set(unlabelled_train.scores) == ranked | {"tolerance"} | CLUSTERED | GEOMETRY
    unlabelled_test = evaluate(TRAIN, VAL, stripped(TEST))
    assert set(unlabelled_test.scores) == GEOMETRY
    assert "No test item has a label" in unlabelled_test.notes[0]


def test_one_class_is_no_task():
    one = [Embeddings(part.vectors, np.zeros(len(part))) for part in (TRAIN, VAL, TEST)]
    found = evaluate(*one)
    assert set(found.scores) == GEOMETRY | {"tolerance"}
    assert found.notes == [
        "Only one class in the training set: kNN and probes are left out.",
        "Only one class in the test set: retrieval and clustering are left out.",
    ]


def test_a_class_with_one_item_and_classes_not_seen_in_training():
    labels = TEST.labels.copy()
    labels[0], labels[1:5] = 17, 30
    train_labels = TRAIN.labels.copy()
    train_labels[0] = 17
    found = evaluate(Embeddings(TRAIN.vectors, train_labels), VAL, Embeddings(TEST.vectors, labels))
    assert np.isnan(found.items["map"][0])
    assert not np.isnan(found.items["map"][1:]).any()
    assert found.items["knn"][1:5].tolist() == [0, 0, 0, 0]
    assert found.arrays["confusion"].shape == (6, 6)
    assert any("1 of 6 test classes do not occur" in note and "their 4 items" in note for note in found.notes)
    assert any(note.startswith("probe_5: the smallest training class has 1") for note in found.notes)


def test_no_class_twice_in_the_test_set():
    found = evaluate(TRAIN, VAL, Embeddings(TEST.vectors[:4], np.arange(4)))
    assert not {"map", "recall@1", "tolerance"} & set(found.scores)
    assert "map: left out, no class has two test items." in found.notes


def test_constant_embeddings_are_scored_and_named():
    parts = [Embeddings(np.full((len(part), 8), 0.3), part.labels) for part in (TRAIN, VAL, TEST)]
    found = evaluate(*parts, pairs=(parts[2].vectors, parts[2].vectors))
    assert set(found.scores) == set(DESCRIPTIONS) - OF_TARGETS - {*OF_A_CLASSIFIER, *OF_CAPTIONS, *OF_MODALITIES}
    assert np.isfinite(list(found.scores.values())).all()
    assert found.scores["knn"] == pytest.approx(0.25)
    assert found.scores["map"] < 0.3
    assert found.scores["effective_rank"] == 0
    assert any("Complete collapse" in note for note in found.notes)


def test_saved_and_loaded_it_is_the_same(full, tmp_path):
    full.save(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["evaluation.json", "evaluation.npz"]
    back = Evaluation.load(tmp_path / "run")
    assert (back.scores, back.notes) == (full.scores, full.notes)
    for kind in ("items", "arrays"):
        saved, loaded = getattr(full, kind), getattr(back, kind)
        assert list(saved) == list(loaded)
        for name in saved:
            assert saved[name].dtype == loaded[name].dtype
            assert np.array_equal(saved[name], loaded[name], equal_nan=True)


def test_what_cannot_be_loaded_is_told(full, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"evaluation\.json"):
        Evaluation.load(tmp_path)
    full.save(tmp_path)
    whole = (tmp_path / "evaluation.npz").read_bytes()
    (tmp_path / "evaluation.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        Evaluation.load(tmp_path)
    np.savez(tmp_path / "evaluation.npz", **{"items/knn": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(ValueError, match="cannot be read"):
        Evaluation.load(tmp_path)


@pytest.mark.parametrize(
    ("vectors", "labels", "told"),
    [
        (np.ones(3), None, r"\(N, D\)"),
        (np.ones((1, 3)), None, "N >= 2"),
        (np.ones((3, 0)), None, "D >= 1"),
        ([[1.0], [np.nan], [np.inf]], None, "2 of 3 rows hold NaN or Inf .* row 1"),
        ([[1e60], [1.0]], None, "NaN or Inf"),
        ([["a"], ["b"]], None, "real numbers"),
        (np.ones((3, 2)), [0, 1], r"labels: expected shape \(3,\)"),
        (np.ones((2, 2)), [0.5, 1], "whole numbers"),
        (np.ones((2, 2)), ["cat", "dog"], "whole numbers"),
        (np.ones((2, 2)), [-2, 1], "smallest is -2"),
    ],
)
def test_embeddings_refuse(vectors, labels, told):
    with pytest.raises(ValueError, match=told):
        Embeddings(vectors, labels)


def test_embeddings_take_tensors_and_refuse_unequal_parts():
    taken = Embeddings(torch.ones(3, 2, dtype=torch.bfloat16, requires_grad=True), torch.tensor([2, -1, 0]), ids="abc")
    assert taken.vectors.dtype == np.float32
    assert taken.labels.dtype == np.int64
    assert (taken.labelled.tolist(), taken.classes.tolist()) == ([True, False, True], [0, 2])
    with pytest.raises(ValueError, match="ids: 2 names for 3"):
        Embeddings(np.ones((3, 2)), ids=["a", "b"])
    with pytest.raises(ValueError, match=r"one dimension D, got \[8, 8, 7\]"):
        evaluate(TRAIN, VAL, Embeddings(TEST.vectors[:, 1:]))
    with pytest.raises(ValueError, match="pairs"):
        evaluate(TRAIN, VAL, TEST, pairs=(PAIRS[0], PAIRS[1][1:]))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 12), st.integers(2, 8), st.integers(1, 3), st.integers(0, 10_000),
    st.sampled_from([0.0, 1e-30, 1.0, 1e30]),
)  # fmt: skip
def test_small_and_odd_data_give_finite_scores(train, test, dimensions, seed, scale):
    generator = np.random.default_rng(seed)

    def part(count):
        vectors = scale * generator.integers(-2, 3, (count, dimensions))
        return Embeddings(vectors, generator.integers(-1, 3, count) if generator.random() < 0.9 else None)

    data = part(train), part(4), part(test)
    found = evaluate(*data, pairs=(data[2].vectors, data[2].vectors))
    assert np.isfinite(list(found.scores.values())).all()
    assert set(found.scores) >= GEOMETRY | VIEWS
