"""Who is positive or negative of whom: the queue of past embeddings, and clusters of all of them."""

from counterpoint.mining.clusters import spherical_kmeans
from counterpoint.mining.queue import Queue

__all__ = ["Queue", "spherical_kmeans"]
