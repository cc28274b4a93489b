import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

import counterpoint as cp


def test_scikit_learn_accepts_it():
    outcomes = check_estimator(cp.ContrastiveEncoder(epochs=1), on_fail=None)
    failed = {o["check_name"]: repr(o["exception"]) for o in outcomes if o["status"] == "failed"}
    assert failed == {}
    assert sum(o["status"] == "passed" for o in outcomes) > 40


def test_it_stands_in_a_pipeline_on_images():
    digits = load_digits()
    images, labels = (digits.images * 255 / 16).astype(np.uint8)[:600], digits.target[:600]
    pipeline = make_pipeline(cp.ContrastiveEncoder(epochs=5), LogisticRegression(max_iter=500))
    assert pipeline.fit(images[:400], labels[:400]).score(images[400:], labels[400:]) > 0.7


def test_labels_are_used_where_the_method_can():
    digits = load_digits()
    x, y = digits.data[:300].astype(np.float32), np.array([f"class {k}" for k in digits.target[:300]])
    encoder = cp.ContrastiveEncoder("supcon", epochs=3).fit(x, y)
    assert encoder.transform(x).shape == (300, 256)
    assert encoder.get_feature_names_out()[0] == "contrastiveencoder0"
    with pytest.raises(ValueError, match="needs labels"):
        cp.ContrastiveEncoder("supcon", epochs=1).fit(x)


def test_other_shapes_are_refused():
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8), dtype=np.uint8)
    encoder = cp.ContrastiveEncoder(epochs=1).fit(images)
    with pytest.raises(ValueError, match="fitted on"):
        encoder.transform(np.zeros((3, 8, 9), np.uint8))
