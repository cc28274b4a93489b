"""Evaluation: how good is an embedding, and is it better than another?

    evaluation = evaluate(train, val, test)
    evaluation.scores["knn"], evaluation.scores["effective_rank"]

Ways to look at embeddings: by their neighbours (:mod:`~counterpoint.evaluation.neighbours`), through linear
probes (:mod:`~counterpoint.evaluation.probes`), by the clusters they form
(:mod:`~counterpoint.evaluation.clustering`), by how they serve the worst of several groups
(:mod:`~counterpoint.evaluation.groups`), where the target is a number by regressions
(:mod:`~counterpoint.evaluation.regression`) and, with no labels at all, by their geometry
(:mod:`~counterpoint.evaluation.geometry`). :func:`evaluate` does all of it; of a space that several modalities share
:func:`evaluate_modalities` also says how well one finds the other, and :func:`modality_gap` how far apart they lie;
written captions are compared with those of people (:mod:`~counterpoint.evaluation.captions`), and what is done to a
caption with what it does to the picture (:func:`compositional`, :func:`arithmetic`), and pairs of images that differ in
a detail (:func:`pair_accuracy`);
:mod:`~counterpoint.evaluation.significance` says which differences between methods are more than luck.
"""

from counterpoint.evaluation.arithmetic import Arithmetic, arithmetic
from counterpoint.evaluation.captions import bleu, captioning, cider, exact_match, token_accuracy
from counterpoint.evaluation.classification import classification
from counterpoint.evaluation.clustering import cluster, cluster_accuracy, clustering
from counterpoint.evaluation.compositional import (
    Compositional,
    CompositionalItem,
    compositional,
    compositional_items,
)
from counterpoint.evaluation.embeddings import UNLABELLED, Embeddings
from counterpoint.evaluation.evaluate import Evaluation, evaluate
from counterpoint.evaluation.feature_weights import (
    class_weights,
    feature_weights,
    inequality,
    optimum,
    population_loss,
)
from counterpoint.evaluation.gap import ModalityGap, linear_separability, modality_gap
from counterpoint.evaluation.generated import frechet, nearest
from counterpoint.evaluation.geometry import (
    Collapse,
    alignment,
    collapse,
    effective_rank,
    scatter,
    spectrum,
    tolerance,
    uniformity,
)
from counterpoint.evaluation.groups import GroupScores, group_accuracy, retrain_last_layer
from counterpoint.evaluation.metrics import (
    DESCRIPTIONS,
    HIGHER_IS_BETTER,
    OF_A_CLASSIFIER,
    OF_CAPTIONS,
    OF_MODALITIES,
    description,
    higher_is_better,
    known_metrics,
)
from counterpoint.evaluation.multimodal import SharedSpace, completion, cross_ranks, evaluate_modalities, missing_curve
from counterpoint.evaluation.neighbours import knn, retrieval, top_k
from counterpoint.evaluation.pairs import PairAccuracy, pair_accuracy
from counterpoint.evaluation.probes import Probe, few_label_probe, linear_probe
from counterpoint.evaluation.regression import few_target_ridge, knn_regression, order_agreement, ridge
from counterpoint.evaluation.significance import (
    Difference,
    Row,
    difference,
    holm,
    interval,
    leaderboard,
    share_interval,
)
from counterpoint.evaluation.zero_shot import ZeroShot, class_ranks, zero_shot_scores

__all__ = [
    "DESCRIPTIONS",
    "HIGHER_IS_BETTER",
    "OF_A_CLASSIFIER",
    "OF_CAPTIONS",
    "OF_MODALITIES",
    "UNLABELLED",
    "Arithmetic",
    "Collapse",
    "Compositional",
    "CompositionalItem",
    "Difference",
    "Embeddings",
    "Evaluation",
    "GroupScores",
    "ModalityGap",
    "PairAccuracy",
    "Probe",
    "Row",
    "SharedSpace",
    "ZeroShot",
    "alignment",
    "arithmetic",
    "bleu",
    "captioning",
    "cider",
    "class_ranks",
    "class_weights",
    "classification",
    "cluster",
    "cluster_accuracy",
    "clustering",
    "collapse",
    "completion",
    "compositional",
    "compositional_items",
    "cross_ranks",
    "description",
    "difference",
    "effective_rank",
    "evaluate",
    "evaluate_modalities",
    "exact_match",
    "feature_weights",
    "few_label_probe",
    "few_target_ridge",
    "frechet",
    "group_accuracy",
    "higher_is_better",
    "holm",
    "inequality",
    "interval",
    "knn",
    "knn_regression",
    "known_metrics",
    "leaderboard",
    "linear_probe",
    "linear_separability",
    "missing_curve",
    "modality_gap",
    "nearest",
    "optimum",
    "order_agreement",
    "pair_accuracy",
    "population_loss",
    "retrain_last_layer",
    "retrieval",
    "ridge",
    "scatter",
    "share_interval",
    "spectrum",
    "token_accuracy",
    "tolerance",
    "top_k",
    "uniformity",
    "zero_shot_scores",
]
