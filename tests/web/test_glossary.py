"""The glossary knows every score that an evaluation gives."""

from counterpoint.evaluation import DESCRIPTIONS, HIGHER_IS_BETTER
from counterpoint.web.glossary import METRICS, metric


def test_every_score_has_a_title_and_a_meaning():
    assert DESCRIPTIONS.keys() - METRICS.keys() == set()
    assert all(
        entry.title[0] != "_" and entry.title != name and entry.meaning.endswith(".") for name, entry in METRICS.items()
    )


def test_directions_are_those_of_the_evaluation():
    told = {name: METRICS[name].higher_is_better for name in DESCRIPTIONS}
    wrong = {name for name, better in told.items() if better not in (None, HIGHER_IS_BETTER[name])}
    assert wrong == set()


def test_a_score_of_one_modality_has_its_name():
    assert metric("compositional:swap").title == "Composition, swap"
    assert metric("pair_recall@1:image>text").title == "Pair recall@1, image to text"
    assert metric("val_knn").title == metric("knn").title
