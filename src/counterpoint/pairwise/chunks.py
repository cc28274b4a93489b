"""Embeddings of a batch whose activations do not fit, chunk by chunk, with the gradient of the whole batch.

A contrastive loss needs all embeddings of a batch at once, but the encoder does not: the gradient of its parameters is

    dL/dw  =  sum_i  dL/dz_i  dz_i/dw

whose first factors come from the loss alone and whose second are each item's own. Gradient caching (Gao, Zhang, Han,
Callan, 2021) therefore embeds all chunks without keeping activations, computes the loss and its gradient for the
embeddings, and then goes through the chunks again, each with its activations and its part of that gradient. That is
what checkpointing each chunk does when autograd reaches it, and so it is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Inputs = Tensor | Mapping[str, Tensor]


def embed_in_chunks(encode: Callable[[Any], Tensor], inputs: Inputs, chunk: int) -> Tensor:
    """``encode(inputs)`` in memory for the activations of ``chunk`` items, at the price of a second forward pass.

    For any batch size and any loss on the result, which gets the gradient of the whole batch when it is
    differentiated::

        z1, z2 = (embed_in_chunks(encoder, view, 64) for view in (view1, view2))      # or an encoder a modality
        loss = objective(z1, z2)
        loss.backward()

    Args:
        encode: from a chunk of the inputs to its embeddings, a row an item: a module, or any function of one.
        inputs: (N, ...), or a dict of such (token ids and their mask), cut along the first dimension.
        chunk: items at a time, 1 or more. With N or more nothing is computed twice.

    Returns:
        Embeddings (N, ...), attached to the parameters and, where they require a gradient, to the inputs.

    Raises:
        ValueError: no items, inputs of different lengths, chunk < 1, or not a row an item.

    The gradient is exact but for the order of its sums. Random numbers (dropout) and autocast are the same the second
    time; each chunk draws its own, where the whole batch would draw once. What an encoder does beside embedding happens
    twice, and what looks at the batch sees a chunk: *batch norm* takes its statistics from the chunk, so that the value
    differs from the whole batch's, and moves its running statistics twice. Put such layers in evaluation mode, or use
    layer or group norm, for the result of the whole batch.

    Across processes nothing changes: each embeds its own items, in as many chunks as it needs, the objective gathers,
    and ``DistributedDataParallel`` around the whole step, as Lightning puts it, still exchanges gradients once.

    Reference: Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, arXiv 2101.06983. Its other
    half, the loss without a matrix of all pairs, is :func:`~counterpoint.pairwise.log_partition`.
    """
    if chunk < 1:
        raise ValueError(f"chunk: expected at least 1, got {chunk}")
    parts = [inputs] if isinstance(inputs, Tensor) else list(inputs.values())
    lengths = sorted({len(part) if part.ndim else 0 for part in parts})
    if len(lengths) != 1 or lengths[0] == 0:
        raise ValueError(f"inputs: expected tensors of one length, 1 or more, got lengths {lengths}")
    if lengths[0] <= chunk:
        return _rows(encode(inputs), lengths[0])
    embedded = []
    for start in range(0, lengths[0], chunk):
        part = _cut(inputs, slice(start, start + chunk))
        z = checkpoint(encode, part, use_reentrant=False) if torch.is_grad_enabled() else encode(part)
        embedded.append(_rows(z, min(chunk, lengths[0] - start)))
    return torch.cat(embedded)


def _cut(inputs: Inputs, items: slice) -> Inputs:
    return inputs[items] if isinstance(inputs, Tensor) else {name: part[items] for name, part in inputs.items()}


def _rows(z: Tensor, items: int) -> Tensor:
    if z.ndim == 0 or len(z) != items:
        raise ValueError(f"encode: expected {items} rows for as many items, got shape {tuple(z.shape)}")
    return z
