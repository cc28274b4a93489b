"""Who is positive or negative of whom.

A queue of embeddings, clusters and groups of them, partner classes, hard pairs, mixtures and matches; and for captions,
rewrites that are not true, :class:`CaptionNegatives`, and which differ in a word, :func:`word_changes`.
"""

from counterpoint.mining.caption_files import read_negatives
from counterpoint.mining.captions import CaptionNegatives, Foil
from counterpoint.mining.changes import Change, word_changes
from counterpoint.mining.clusters import spherical_kmeans
from counterpoint.mining.groups import Grouping, cluster_pseudo_labels
from counterpoint.mining.hard_pairs import HardPairs, generate_hard_pairs, hardest_pairs, random_negatives
from counterpoint.mining.matching import match
from counterpoint.mining.mixing import Mixtures, draw_mixtures
from counterpoint.mining.partners import partner_classes
from counterpoint.mining.queue import Queue

__all__ = [
    "CaptionNegatives",
    "Change",
    "Foil",
    "Grouping",
    "HardPairs",
    "Mixtures",
    "Queue",
    "cluster_pseudo_labels",
    "draw_mixtures",
    "generate_hard_pairs",
    "hardest_pairs",
    "match",
    "partner_classes",
    "random_negatives",
    "read_negatives",
    "spherical_kmeans",
    "word_changes",
]
