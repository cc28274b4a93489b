"""The engine: exact reductions over all pairs of embeddings, in tiles, on one process or many.

Every softmax contrastive loss is a *positive term* minus a *log partition*::

    loss_i  =  - s(i, positives of i)  +  log sum_{j in D(i)} exp s(i, j)

The positive term touches few pairs and is cheap. The log partition touches all of them: as a matrix it costs
``O(N * M)`` memory and, because exponentials of a matrix that has left the cache are slow, most of the time. Here it
exists once, without the matrix: :func:`log_partition` (rows) and :func:`log_partitions` (rows and columns) walk over
tiles that stay in cache, keep running sums, and recompute the tiles in the backward pass. When the two sides are the
same rows, only half of the tiles is computed.

What is no softmax - hinges, sigmoids, thresholds, weighted means - is a sum over pairs of some function of their score:
:func:`pair_sum` walks over the same tiles with any function. :func:`nearest` finds each query's highest scores.
:func:`log_mean_kernel`, how evenly rows are spread, is a log partition again; :func:`matched_distances` goes with it.

Which pairs count is given by group numbers instead of a mask: ``exclude`` leaves out every pair whose two groups are
equal - "all but myself" with ``arange``, "all but my class" with labels, "all but my own views" with item numbers.

:func:`sinkhorn` assigns rows to columns so that all columns are used alike.

:func:`gather` brings the rows of all processes together so that value and gradient are those of one big batch;
for batches whose activations do not fit, :func:`embed_in_chunks` does for the encoder what the tiles do for the matrix;
:func:`synchronize_batchnorm` does for the statistics inside a network what it does for the loss.
"""

from counterpoint.pairwise.assignment import sinkhorn
from counterpoint.pairwise.batchnorm import synchronize_batchnorm
from counterpoint.pairwise.chunks import embed_in_chunks
from counterpoint.pairwise.distributed import gather, gather_labels
from counterpoint.pairwise.kernels import log_mean_kernel, matched_distances
from counterpoint.pairwise.partition import log_partition, log_partitions
from counterpoint.pairwise.ranking import nearest
from counterpoint.pairwise.reduction import pair_sum

__all__ = [
    "embed_in_chunks",
    "gather",
    "gather_labels",
    "log_mean_kernel",
    "log_partition",
    "log_partitions",
    "matched_distances",
    "nearest",
    "pair_sum",
    "sinkhorn",
    "synchronize_batchnorm",
]
