import numpy as np
import pytest

from counterpoint.evaluation import (
    HIGHER_IS_BETTER,
    SharedSpace,
    completion,
    cross_ranks,
    description,
    evaluate_modalities,
    higher_is_better,
    known_metrics,
    missing_curve,
)


def space(count=60, dim=8, noise=0.3, seed=0, **more):
    """Two modalities of four classes; item i of one lies near item i of the other."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    centres = np.eye(4, dim) * 3
    x = centres[labels] + rng.normal(size=(count, dim))
    y = x + noise * rng.normal(size=(count, dim))
    there = np.ones(count, bool)
    return SharedSpace({"image": x, "text": y}, {"image": there, "text": there.copy()}, labels, **more)


def brute_rank(test, query, answer, i):
    x, y = test.vectors[query], test.vectors[answer]
    scores = [float(x[i] @ y[j]) for j in range(len(y)) if test.present[answer][j]]
    return sum(score > float(x[i] @ y[i]) for score in scores)


def test_ranks_are_those_of_sorting():
    test = space(noise=1.0)
    test.present["text"][7] = False
    ranks = cross_ranks(test, "image", "text")
    assert np.isnan(ranks[7])
    for i in (0, 5, 30, 59):
        assert ranks[i] == brute_rank(test, "image", "text", i)
    assert np.nanmean(ranks) > 0


def test_equal_captions_count_as_one_and_all_their_images_are_right():
    x = np.array([[1.0, 0], [0, 1], [0.9, 0.1]])
    y = np.array([[1.0, 0], [0, 1], [1.0, 0]])
    there = {"image": np.ones(3, bool), "text": np.ones(3, bool)}
    plain = SharedSpace({"image": x, "text": y}, there)
    assert cross_ranks(plain, "image", "text").tolist() == [1, 0, 1]  # a twin beside one's own counts against it
    known = SharedSpace({"image": x, "text": y}, there, contents={"text": np.array([5, 6, 5])})
    assert cross_ranks(known, "image", "text").tolist() == [0, 0, 0]
    assert cross_ranks(known, "text", "image").tolist() == [0, 0, 0]  # either image of the caption will do


def test_a_collapsed_space_finds_nothing():
    flat = space()
    flat = SharedSpace({name: np.ones((60, 8)) for name in flat.vectors}, flat.present, flat.labels)
    assert cross_ranks(flat, "image", "text").tolist() == [59] * 60
    classes = {"text": np.ones((4, 8))}
    scores = evaluate_modalities(flat, flat, flat, classes=classes, metrics=["pair_recall@1", "zero_shot"]).scores
    assert scores["pair_recall@1"] == scores["zero_shot"] == 0
    assert {name.partition(":")[0] for name in scores} == {"pair_recall@1", "zero_shot"}


def test_scores_of_a_good_space_and_their_parts():
    train, test = space(seed=1, count=100), space(noise=0.2)
    classes = {"text": np.eye(4, 8)}
    found = evaluate_modalities(train, train, test, classes=classes)
    scores = found.scores
    assert next(iter(scores)) == "pair_recall@1"
    assert scores["zero_shot"] == scores["zero_shot:image"] > 0.8
    assert scores["transfer"] == pytest.approx((scores["transfer:image>text"] + scores["transfer:text>image"]) / 2)
    both = (scores["pair_recall@1:image>text"] + scores["pair_recall@1:text>image"]) / 2
    assert scores["pair_recall@1"] == pytest.approx(both)
    assert scores["pair_recall@1"] <= scores["pair_recall@5"] <= scores["pair_recall@10"]
    assert {"knn", "knn:image", "probe:text", "gap_distance", "gap_separability", "pair_cosine"} <= set(scores)
    assert all(np.isfinite(value) for value in scores.values())
    assert all(len(values) == 60 for values in found.items.values())
    assert found.items["pair_recall@1"].mean() == pytest.approx(scores["pair_recall@1"])


def test_what_is_missing_is_not_judged():
    train, test = space(seed=1, count=100), space()
    test.present["text"][:10] = False
    test.present["image"][50:] = False
    test.present["image"][0] = False  # has neither
    found = evaluate_modalities(train, train, test, classes={"text": np.eye(4, 8)})
    assert np.isnan(found.items["pair_recall@1"][:10]).all()
    assert np.isnan(found.items["zero_shot"][50:]).all()
    assert np.isnan(found.items["knn:image"][50:]).all()
    assert np.isnan(found.items["knn"][0])
    assert np.isfinite(found.items["knn"][1:]).all()
    fused = test.fused()
    np.testing.assert_allclose(fused[55], test.vectors["text"][55], atol=1e-6)
    assert not fused[0].any()


def test_scale_and_rotation_change_nothing():
    train, test = space(seed=1, count=100), space()
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(8, 8)))[0]
    names = ["pair_recall@1", "transfer", "knn", "gap_distance", "pair_cosine"]
    first = evaluate_modalities(train, train, test, metrics=names).scores
    moved = [
        SharedSpace({n: 7 * v @ turn for n, v in part.vectors.items()}, part.present, part.labels)
        for part in (train, test)
    ]
    second = evaluate_modalities(moved[0], moved[0], moved[1], metrics=names).scores
    assert {name.partition(":")[0] for name in first} == set(names)
    assert second == pytest.approx(first, abs=1e-5)


def test_losing_modalities_costs_accuracy():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 4
    good, bad = np.eye(4, 8)[labels] + 0.1 * rng.normal(size=(200, 8)), rng.normal(size=(200, 8)) * 0.3
    there = np.ones(200, bool)
    parts = [
        SharedSpace({"good": good[at], "bad": bad[at]}, {"good": there[at], "bad": there[at]}, labels[at])
        for at in (slice(0, 120), slice(120, None))
    ]
    curve = missing_curve(*parts)
    assert curve["share"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curve["good"][0] == curve["bad"][0] == curve["any"][0]
    assert curve["good"][-1] < curve["any"][-1] < curve["any"][0]
    assert curve["bad"][-1] >= curve["bad"][0]
    assert missing_curve(SharedSpace(parts[0].vectors, parts[0].present), parts[1]) == {}


def test_names_of_parts():
    assert known_metrics("pair_recall@1:image>text") == {"pair_recall@1:image>text"}
    with pytest.raises(ValueError, match="no metric is called 'zro_shot:image'"):
        known_metrics(["zro_shot:image"])
    assert description("knn:image").endswith("Of image alone.")
    assert "From image into text." in description("transfer:image>text")
    assert description("zero_shot:image+audio").endswith("Of image and audio together.")
    assert description("completion:audio").endswith("Here audio.")
    assert higher_is_better("knn:image")
    assert not higher_is_better("gap_distance")
    assert not HIGHER_IS_BETTER["gap_separability"]


def test_completion_asks_for_the_one_modality_that_fits_all_others():
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], size=(40, 2))
    codes = {"a": signs[:, 0], "b": signs[:, 1], "c": signs[:, 0] * signs[:, 1]}
    vectors = {name: np.stack([np.ones(40), sign], 1) for name, sign in codes.items()}
    there = {name: np.ones(40, bool) for name in codes}
    there["b"][3] = False
    contents = {name: (sign > 0).astype(int) for name, sign in codes.items()}
    test = SharedSpace(vectors, there, contents=contents)

    def product(candidates, queries):
        return np.prod([values[:, 1] for values in queries.values()], axis=0)[:, None] * candidates[:, 1]

    hits = completion(test, "c", product)
    assert np.isnan(hits[3])
    assert np.nanmean(hits) == 1
    scores = evaluate_modalities(test, test, test, score=product, metrics=["completion"]).scores
    assert scores == dict.fromkeys(["completion", "completion:a", "completion:b", "completion:c"], 1.0)
    assert np.nanmean(completion(test, "c", lambda c, q: np.zeros((len(q["a"]), len(c))))) == 0  # a tie is wrong
    assert not evaluate_modalities(test, test, test, metrics=["completion"]).scores


def test_a_class_is_guessed_from_all_modalities_together():
    """One that any of them alone leaves open: the product of two signs."""
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], size=(40, 2))
    vectors = {name: np.stack([np.ones(40), sign], 1) for name, sign in zip("ab", signs.T, strict=True)}
    vectors["text"] = np.ones((40, 2))
    there = {name: np.ones(40, bool) for name in vectors}
    there["b"][3] = there["text"][4] = False  # the text is not looked at
    test = SharedSpace(vectors, there, (signs.prod(1) > 0).astype(np.int64))

    def product(candidates, queries):
        assert set(queries) == {"a", "b"} or len(candidates) > 2  # or it completes an item
        return np.prod([values[:, 1] for values in queries.values()], axis=0)[:, None] * candidates[:, 1]

    classes = {"text": np.array([[1.0, -1.0], [1.0, 1.0]])}
    found = evaluate_modalities(test, test, test, classes=classes, score=product, metrics=["zero_shot"])
    assert found.scores["zero_shot:a+b"] == 1
    assert found.scores["zero_shot"] < 0.7
    assert np.flatnonzero(np.isnan(found.items["zero_shot:a+b"])).tolist() == [3]
