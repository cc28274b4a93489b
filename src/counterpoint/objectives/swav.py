"""Swapped prediction of cluster codes: SwAV (Caron et al., NeurIPS 2020, arXiv 2006.09882)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings, known_reduction, positive, reduce
from counterpoint.pairwise import gather
from counterpoint.pairwise.assignment import sinkhorn


class SwAV(nn.Module):
    """The code of one crop of an item must be predicted from each other crop of it.

    With scores ``s`` of crops against K prototypes, codes ``q_i = sinkhorn(s_i)`` of the global crops, without
    gradient, and predictions ``p_v = softmax(s_v / temperature)`` of all crops::

        l(i -> v) = - mean_b sum_k q_i[b, k] log p_v[b, k],    loss = mean_i mean_{v != i} l(i -> v)

    Args:
        temperature: 0.1, the paper's.
        epsilon: of Sinkhorn: 0.05, the paper's; lower it where the loss stays at log K.
        iterations: of Sinkhorn: 3, the paper's. With 0 the codes are plain softmaxes, and everything ends in one
            prototype.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` for the B items, each averaged over its pairs of crops.

    Shapes:
        ``loss(global_scores, local_scores, queue_scores, code_scores)``: lists of (B, K): cosines of unit embeddings
        and unit prototypes (:class:`~counterpoint.encoders.prototypes.Prototypes`). Codes are made from the global ones
        alone, or from ``code_scores`` in their place, such as a teacher's. ``queue_scores`` holds (L, K) for each
        global crop, those of past embeddings with today's prototypes: they take part in Sinkhorn, have no loss, and are
        the same on every process. Memory O(crops B K).

    Raises:
        ValueError: on a single crop in all, shapes that differ, queue or code scores not one to a global crop,
            non-finite values, temperature or epsilon <= 0.

    The loss may lie above log K, and says little about quality. Codes over a batch far smaller than K cannot be
    balanced: take fewer prototypes, or a queue.

    Relations: the prediction is a cross entropy as in :class:`InfoNCE`, over prototypes instead of negatives; nothing
    is contrasted with other items but through the balance of the codes.
    """

    def __init__(
        self, temperature: float = 0.1, epsilon: float = 0.05, iterations: int = 3, reduction: str = "mean"
    ) -> None:
        super().__init__()
        positive(temperature=temperature, epsilon=epsilon)
        if iterations < 0:
            raise ValueError(f"iterations: expected at least 0, got {iterations}")
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.reduction = known_reduction(reduction)

    def forward(
        self,
        global_scores: Sequence[Tensor],
        local_scores: Sequence[Tensor] = (),
        queue_scores: Sequence[Tensor] | None = None,
        code_scores: Sequence[Tensor] | None = None,
    ) -> Tensor:
        if len(global_scores) < 1 or len(global_scores) + len(local_scores) < 2:
            raise ValueError(
                "global_scores: expected at least 1 crop, and 2 with the local ones: one crop has no other to predict "
                f"it from; got {len(global_scores)} and {len(local_scores)}"
            )
        scores = embeddings((2,), **_named("global_scores", global_scores), **_named("local_scores", local_scores))
        sources = scores[: len(global_scores)] if code_scores is None else _sources(code_scores, scores, global_scores)
        banks = [None] * len(global_scores) if queue_scores is None else _banks(queue_scores, global_scores)
        codes = [
            sinkhorn(score, self.epsilon, self.iterations, bank) for score, bank in zip(sources, banks, strict=True)
        ]
        terms = scores[0].new_zeros(len(scores[0]))
        for crop, score in enumerate(scores):
            others = [code for i, code in enumerate(codes) if i != crop]
            if others:
                logits = (score / self.temperature).clamp(-1e30, 1e30)
                terms = terms + nn.functional.cross_entropy(logits, sum(others[1:], others[0]), reduction="none")
        return reduce(gather(terms / (len(codes) * (len(scores) - 1))), self.reduction)


def _named(name: str, scores: Sequence[Tensor]) -> dict[str, Tensor]:
    return {f"{name}[{i}]": score for i, score in enumerate(scores)}


def _sources(code_scores: Sequence[Tensor], scores: list[Tensor], global_scores: Sequence[Tensor]) -> list[Tensor]:
    if len(code_scores) != len(global_scores):
        raise ValueError(f"code_scores: expected one of each of {len(global_scores)} crops, got {len(code_scores)}")
    sources = embeddings((2,), **_named("code_scores", code_scores))
    if sources[0].shape != scores[0].shape:
        raise ValueError(f"code_scores: expected {tuple(scores[0].shape)}, got {tuple(sources[0].shape)}")
    return sources


def _banks(queue_scores: Sequence[Tensor], global_scores: Sequence[Tensor]) -> list[Tensor]:
    k = global_scores[0].shape[1]
    if len(queue_scores) != len(global_scores):
        raise ValueError(f"queue_scores: expected one of each of {len(global_scores)} crops, got {len(queue_scores)}")
    banks = embeddings((2,), **_named("queue_scores", queue_scores))
    if banks[0].shape[1] != k:
        raise ValueError(f"queue_scores: expected (L, {k}), got {tuple(banks[0].shape)}")
    return banks
