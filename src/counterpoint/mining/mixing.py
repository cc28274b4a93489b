"""Negatives that are made: mixtures of the hardest keys of a bank, and of them with the query (Kalantidis et al. 2020).

MoCHi adds to each query's negatives points that no encoder has made: convex mixtures of two of the bank's hardest keys
for that query (type 1), and of one of these with the query itself (type 2), brought back to unit length. They live for
one step, and are constants: a gradient reaches the query that they are compared with, and nothing else.

What is drawn (:func:`draw_mixtures`, a few thousand integers a query) is apart from what is made of it: the points
(:meth:`Mixtures.points`) or, much cheaper, their scores with the query (:meth:`Mixtures.scores`), which is all that a
loss needs. At a batch of 256, 1,152 mixtures and 128 dimensions the points would take 150 MB and be read several times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from counterpoint.objectives.inputs import embeddings, normalize
from counterpoint.pairwise import nearest
from counterpoint.views.features import mix

_EPS = 1e-6  # shortest length that is divided by: antipodal vectors may cancel
_CACHED = 1 << 20  # numbers of mixtures made at a time on the processor: 4 MB of float32 stay in its cache
_ON_GPU = 1 << 26


@dataclass(frozen=True)
class Mixtures:
    """Which keys of a bank are mixed, and in what shares, for each of B queries.

    Attributes:
        hardest: int64 (B, N), positions in the bank of the keys with the largest cosines, in any order.
        first, second: int64 (B, s), which two of the N are mixed: type 1.
        alpha: (B, s), the first one's weight, in [0, 1].
        third: int64 (B, s'), which of the N is mixed with the query: type 2.
        beta: (B, s'), the query's weight, below 1/2.
        cosines: (B, N), those of the hardest keys; ``None`` where they are not known yet.
    """

    hardest: Tensor
    first: Tensor
    second: Tensor
    alpha: Tensor
    third: Tensor
    beta: Tensor
    cosines: Tensor | None = None

    def points(self, queries: Tensor, negatives: Tensor) -> Tensor:
        """The mixtures (B, s + s', D), unit vectors without a gradient, type 1 first; B (s + s') D numbers.

        Args:
            queries: (B, D), raw.
            negatives: (K, D), raw.
        """
        q, keys = _unit(queries, negatives)
        first, second, third = (keys[self.hardest.gather(1, which)] for which in (self.first, self.second, self.third))
        pairs = mix(first, second, self.alpha.to(q)[:, :, None])
        mixed = mix(q.detach()[:, None], third, self.beta.to(q)[:, :, None])
        return torch.nn.functional.normalize(torch.cat([pairs, mixed], 1), dim=2, eps=_EPS)

    def scores(self, queries: Tensor, negatives: Tensor) -> Tensor:
        """Cosines (B, s + s') of each query with its mixtures, as with :meth:`points`, which are not made.

        The product with a mixture is the mixture of the products with its keys, which are known once these are found;
        only lengths remain to be had. The gradient is the query's, as of the left factor of the product; the mixtures
        are constants, also where the query is a part of them. Memory O((B + K) D + B (N + s + s')).

        Args:
            queries: (B, D), raw.
            negatives: (K, D), raw.
        """
        q, keys = _unit(queries, negatives)
        with torch.autocast(q.device.type, enabled=False):
            alpha, beta = self.alpha.to(q), self.beta.to(q)
            products = _Products.apply(q, keys, self.hardest, self.cosines)
            pairs = mix(products.gather(1, self.first), products.gather(1, self.second), alpha)
            parts = [self.hardest.gather(1, which) for which in (self.first, self.second)]
            lengths = _lengths(keys, torch.stack(parts, 2), torch.stack([alpha, 1 - alpha], 2))
            # type 2: the length of the sum follows from that of its parts and their product
            product, own = products.gather(1, self.third), (q * q.detach()).sum(1, keepdim=True)
            length = torch.linalg.vector_norm(keys, dim=1)[self.hardest.gather(1, self.third)]
            square = mix(beta * own + 2 * (1 - beta) * product, (1 - beta) * length.square(), beta).detach()
            mixed = mix(own, product, beta) / square.clamp(min=_EPS**2).sqrt()
            return torch.cat([pairs / lengths.clamp(min=_EPS), mixed], 1)


def draw_mixtures(
    queries: Tensor,
    negatives: Tensor,
    n_hard: int = 1024,
    n_pair: int = 1024,
    n_query: int = 128,
    *,
    beta_max: float = 0.5,
    exclude: Tensor | None = None,
    exclude_negatives: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Mixtures:
    """Find each query's hardest keys and draw what is mixed of them.

    Type 1, ``alpha n_a + (1 - alpha) n_b``: both keys uniformly, with replacement, from the N hardest, alpha from
    U(0, 1). Type 2, ``beta q + (1 - beta) n_c``: the key likewise, beta from U(0, ``beta_max``). Type 2 is at least as
    near to the query as its key. Written (N, s, s') in the paper, which finds (1024, 1024, 128), (1024, 256, 512),
    (512, 1024, 512) and (256, 512, 0) good with banks of 16,384 and 65,536.

    Args:
        queries: (B, D), raw.
        negatives: (K, D), raw: past keys, none of them a query's own.
        n_hard: N. Many of a query's hardest keys may be of its own class: N should be far above their number.
        n_pair: s, type 1 mixtures of each query; 0 for none.
        n_query: s', type 2 mixtures; 0 for none.
        beta_max: bound of the query's share, 1/2: above it a mixture would be more of the positive than of a negative.
        exclude, exclude_negatives: (B,) and (K,) integers: a key whose number is the query's is not among its hardest,
            such as one of the same class (the paper's oracle) or image. Where fewer than N are left, N is the fewest
            left for a query of the batch.
        generator: of the draws, on the device of the queries; torch's global one by default.

    Raises:
        ValueError: what is no (rows, D), not finite, or no count; N above K; a query for which no key is left.

    Under autocast to bfloat16 the hardest are found by products in bfloat16: ``half`` of
    :func:`~counterpoint.pairwise.nearest`.

    Reference: arXiv 2010.01028, section 3.3. No official code is public; what is drawn, and the order of mixing and
    normalising, follow two independent implementations that agree.
    """
    q, keys = _unit(queries, negatives)
    if not 1 <= n_hard <= len(keys):
        raise ValueError(f"n_hard: expected 1 to {len(keys)}, the keys of the bank, got {n_hard}")
    for name, count in (("n_pair", n_pair), ("n_query", n_query)):
        if count < 0:
            raise ValueError(f"{name}: expected at least 0, got {count}")
    if not 0 <= beta_max <= 0.5:
        raise ValueError(f"beta_max: expected a number from 0 to 0.5, got {beta_max}")
    if exclude is not None:
        if exclude_negatives is None:
            raise ValueError("exclude_negatives: numbers of the queries were given, and none of the keys")
        left = int((exclude[:, None] != exclude_negatives).sum(1).min())
        if not left:
            raise ValueError("exclude: a query has no key left: all of the bank have its number")
        n_hard = min(n_hard, left)
    kind = q.device.type
    half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16
    cosines, hardest = nearest(
        q.detach(), keys, n_hard, exclude=exclude, exclude_keys=exclude_negatives, ordered=False, half=half
    )

    def drawn(count: int) -> Tensor:
        return torch.randint(n_hard, (len(q), count), generator=generator, device=q.device)

    def uniform(count: int) -> Tensor:
        return torch.rand(len(q), count, generator=generator, device=q.device, dtype=q.dtype)

    first, second, alpha = drawn(n_pair), drawn(n_pair), uniform(n_pair)
    return Mixtures(hardest, first, second, alpha, drawn(n_query), beta_max * uniform(n_query), cosines.to(q.dtype))


def _unit(queries: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    (queries,), (negatives,) = embeddings(queries=queries), embeddings(negatives=negatives)
    if negatives.shape[1] != queries.shape[1]:
        raise ValueError(f"negatives: expected (K, {queries.shape[1]}), got {tuple(negatives.shape)}")
    return normalize(queries), normalize(negatives.detach().to(queries.dtype))


class _Products(torch.autograd.Function):
    """Products (B, N) of queries with rows of a table, as they are where known; the gradient is one bag of rows."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, table: Tensor, index: Tensor, known: Tensor | None) -> Tensor:
        ctx.save_for_backward(table, index)
        if known is not None:
            return known.to(q)
        rows = max(1, _room(q) // (index.shape[1] * q.shape[1]))
        each = zip(q.split(rows), index.split(rows), strict=True)
        return torch.cat([(table[some] @ part[:, :, None])[:, :, 0] for part, some in each])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        table, index = ctx.saved_tensors
        return embedding_bag(index, table, mode="sum", per_sample_weights=grad.contiguous()), None, None, None


def _lengths(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Lengths (B, S) of weighted sums of rows (B, S, parts) of a table, which are made a cacheful at a time."""
    rows, count, parts = index.shape
    bags = index.reshape(-1, parts), weight.reshape(-1, parts)
    some = max(1, _room(table) // table.shape[1])
    sums = (
        embedding_bag(one, table, mode="sum", per_sample_weights=share)
        for one, share in zip(*(part.split(some) for part in bags), strict=True)
    )
    lengths = [torch.linalg.vector_norm(vectors, dim=1) for vectors in sums]
    return torch.cat(lengths).view(rows, count) if rows * count else table.new_zeros(rows, count)


def _room(x: Tensor) -> int:
    return _CACHED if x.device.type == "cpu" else _ON_GPU
