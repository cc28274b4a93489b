"""Who is positive or negative of whom: the queue, clusters of all items, groups of clusters, partner classes."""

from counterpoint.mining.clusters import spherical_kmeans
from counterpoint.mining.groups import Grouping, cluster_pseudo_labels
from counterpoint.mining.partners import partner_classes
from counterpoint.mining.queue import Queue

__all__ = ["Grouping", "Queue", "cluster_pseudo_labels", "partner_classes", "spherical_kmeans"]
