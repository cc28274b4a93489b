"""Who is positive or negative of whom: a queue, clusters and groups of them, partner classes, hard pairs."""

from counterpoint.mining.clusters import spherical_kmeans
from counterpoint.mining.groups import Grouping, cluster_pseudo_labels
from counterpoint.mining.hard_pairs import HardPairs, generate_hard_pairs, hardest_pairs, random_negatives
from counterpoint.mining.partners import partner_classes
from counterpoint.mining.queue import Queue

__all__ = [
    "Grouping",
    "HardPairs",
    "Queue",
    "cluster_pseudo_labels",
    "generate_hard_pairs",
    "hardest_pairs",
    "partner_classes",
    "random_negatives",
    "spherical_kmeans",
]
