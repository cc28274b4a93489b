"""Who is positive or negative of whom. So far: the queue of past embeddings that MoCo takes its negatives from."""

from counterpoint.mining.queue import Queue

__all__ = ["Queue"]
