"""Who is positive or negative of whom: the queue of past embeddings, clusters of all of them, partner classes."""

from counterpoint.mining.clusters import spherical_kmeans
from counterpoint.mining.partners import partner_classes
from counterpoint.mining.queue import Queue

__all__ = ["Queue", "partner_classes", "spherical_kmeans"]
