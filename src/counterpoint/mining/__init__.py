"""Who is positive or negative of whom: a queue, clusters and their groups, partners, hard pairs, mixtures, matches."""

from counterpoint.mining.clusters import spherical_kmeans
from counterpoint.mining.groups import Grouping, cluster_pseudo_labels
from counterpoint.mining.hard_pairs import HardPairs, generate_hard_pairs, hardest_pairs, random_negatives
from counterpoint.mining.matching import match
from counterpoint.mining.mixing import Mixtures, draw_mixtures
from counterpoint.mining.partners import partner_classes
from counterpoint.mining.queue import Queue

__all__ = [
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
    "spherical_kmeans",
]
