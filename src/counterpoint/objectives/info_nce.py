"""InfoNCE of queries, their keys and a bank of negatives (van den Oord et al. 2018; MoCo, He et al., CVPR 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings, known_reduction, normalize, positive, reduce
from counterpoint.pairwise import gather, gather_labels, log_partition


class InfoNCE(nn.Module):
    """Each query must find its own key among a bank of negatives.

    With unit vectors::

        l_i = - <q_i, k_i>/temperature + log( exp(<q_i, k_i>/temperature) + sum_j exp(<q_i, n_j>/temperature) )

    Args:
        temperature: 0.07, MoCo's (v2 uses 0.2).
        positive_in_denominator: ``False`` drops the first term of the sum (decoupled, as in DCL's MoCo form).
        normalize: ``False`` takes lengths as they are, for papers that transform unit vectors and leave it at that.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the B terms.

    Shapes:
        ``loss(queries, keys, negatives, own)``: (B, D), (B, D), (K, D), all raw. Keys and negatives usually carry no
        gradient (MoCo), but may. ``own`` (B, S, D), optional: S more negatives of each query alone, such as synthetic
        ones; or (B, S), their inner products with the query where these can be had without them, taken as they are.
        ``exclude`` (B,) and ``exclude_negatives`` (K,), optional integers: a negative whose number is the query's does
        not count, such as one of its class. Memory O((B + K + B S) D).

    Raises:
        ValueError: on an empty bank, shapes that differ, non-finite values, temperature <= 0.

    Relations: :class:`NTXent` uses the other rows of the batch as its bank, in both directions.
    """

    def __init__(
        self,
        temperature: float = 0.07,
        positive_in_denominator: bool = True,
        reduction: str = "mean",
        normalize: bool = True,
    ) -> None:
        super().__init__()
        positive(temperature=temperature)
        self.temperature, self.reduction = temperature, known_reduction(reduction)
        self.positive_in_denominator, self.normalize = positive_in_denominator, normalize

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        negatives: Tensor,
        own: Tensor | None = None,
        exclude: Tensor | None = None,
        exclude_negatives: Tensor | None = None,
    ) -> Tensor:
        queries, keys = (self._scaled(x) for x in embeddings(queries=queries, keys=keys))
        (negatives,) = embeddings(negatives=negatives)
        if negatives.shape[1:] != queries.shape[1:]:
            raise ValueError(f"negatives: expected (K, {queries.shape[1]}), got {tuple(negatives.shape)}")
        mine = None if own is None else gather(self._own_partition(queries, own))
        queries, keys = gather(queries), gather(keys)
        attraction = (queries * keys).sum(1) / self.temperature
        groups, scale = gather_labels(exclude), 1 / self.temperature
        negatives = self._scaled(negatives)
        partition = log_partition(queries, negatives, scale=scale, exclude=groups, exclude_keys=exclude_negatives)
        if mine is not None:
            partition = torch.logaddexp(partition, mine)
        if self.positive_in_denominator:
            partition = torch.logaddexp(partition, attraction)
        return reduce(partition - attraction, self.reduction)

    def _scaled(self, x: Tensor) -> Tensor:
        return normalize(x) if self.normalize else x

    def _own_partition(self, queries: Tensor, own: Tensor) -> Tensor:
        (own,) = embeddings((2, 3), own=own)
        if len(own) != len(queries) or own.shape[2:] not in ((), queries.shape[1:]):
            expected = f"({len(queries)}, S, {queries.shape[1]}) or ({len(queries)}, S)"
            raise ValueError(f"own: expected {expected}, got {tuple(own.shape)}")
        if own.ndim == 3:
            with torch.autocast(queries.device.type, enabled=False):
                own = torch.bmm(self._scaled(own), queries[:, :, None])[:, :, 0]
        return torch.logsumexp(own / self.temperature, 1)
