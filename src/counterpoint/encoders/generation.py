"""Writing with a model that gives the next token's scores: greedily, by sampling, by beams.

What is written from is a function, so that any model will do::

    next_token(ids, rows) -> logits (M, V)

``ids`` (M, T) are M texts so far and ``rows`` (M,) says of which item of the batch each is one, which is how a model
finds the picture that it describes when there are several hypotheses about it. The whole text is read again for each
token: what is written here is short, and the model may be any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

NextToken = Callable[[Tensor, Tensor], Tensor]
STRATEGIES = ("greedy", "sample", "beam")


class Beams(NamedTuple):
    """Hypotheses, best first: ``ids`` (B, K, T), ``scores`` (B, K) float32; a place without one scores -inf."""

    ids: Tensor
    scores: Tensor


@torch.no_grad()
def generate(
    next_token: NextToken,
    start: Tensor,
    *,
    length: int,
    end: int,
    pad: int,
    strategy: str = "greedy",
    beams: int = 6,
    groups: int = 1,
    diversity: float = 0.5,
    length_penalty: float = 1.0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_length: int = 0,
    forbidden: Sequence[int] = (),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Go on with texts until each has ended.

    Args:
        next_token: see above.
        start: (B, S) integers, S >= 1: what the texts begin with, such as the token that begins a sentence.
        length: tokens to add at most, the one that ends a text included.
        end, pad: the token that ends a text, and the one that fills up behind it.
        strategy: ``"greedy"``, the most probable token each time; ``"sample"``, a draw; ``"beam"``, see
            :func:`beam_search`, of which the best is taken.
        beams, groups, diversity, length_penalty: of ``"beam"``. 6 beams are open_clip's, which has them in 3 groups.
        temperature: of ``"sample"``: divides the logits.
        top_k: of ``"sample"``: draw from the k most probable tokens alone (Fan et al. 2018).
        top_p: of ``"sample"``: draw from the fewest tokens that together have this probability (Holtzman et al. 2020);
            after ``top_k``.
        min_length: tokens before which a text cannot end.
        forbidden: tokens that are never written, besides ``pad``.
        generator: of the draws.

    Returns:
        (B, S + T) integers with T <= ``length``: the start, what was added, and ``pad`` behind the end.

    Raises:
        ValueError: on an argument out of its range, or logits that are not (M, V) with a finite entry in each row.

    References: Holtzman et al., "The Curious Case of Neural Text Degeneration", ICLR 2020; Fan et al., "Hierarchical
    Neural Story Generation", ACL 2018.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy: expected one of {', '.join(STRATEGIES)}, got {strategy!r}")
    if strategy == "beam":
        found = beam_search(
            next_token, start, length=length, end=end, pad=pad, beams=beams, groups=groups, diversity=diversity,
            length_penalty=length_penalty, min_length=min_length, forbidden=forbidden,
        )  # fmt: skip
        ids = found.ids[:, 0]
        longest = int((ids[:, start.shape[1] :] != pad).sum(1).max())
        return ids[:, : start.shape[1] + longest]
    _check(start, length, min_length)
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature: expected a finite number above 0, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k: expected at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p: expected a number above 0 and up to 1, got {top_p}")
    ids, rows = start, torch.arange(len(start), device=start.device)
    ended = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    for written in range(length):
        scores = _log_probabilities(next_token, ids, rows, end, pad, forbidden, written < min_length)
        if strategy == "sample":
            token = torch.multinomial(_narrowed(scores / temperature, top_k, top_p), 1, generator=generator)[:, 0]
        else:
            token = scores.argmax(1)
        token = token.masked_fill(ended, pad)
        ids, ended = torch.cat([ids, token[:, None]], 1), ended | (token == end)
        if bool(ended.all()):
            break
    return ids


@torch.no_grad()
def beam_search(
    next_token: NextToken,
    start: Tensor,
    *,
    length: int,
    end: int,
    pad: int,
    beams: int = 6,
    groups: int = 1,
    diversity: float = 0.5,
    length_penalty: float = 1.0,
    min_length: int = 0,
    forbidden: Sequence[int] = (),
) -> Beams:
    """Several hypotheses side by side; of all their continuations, the best go on.

    A text scores ``sum of log probabilities / T ** length_penalty``, T the tokens added with the end. One that ends
    leaves its beam to another and waits; what has not ended after ``length`` tokens is taken as it is. The search stops
    early only where no text that is still being written could come to score higher than all that wait.

    Args:
        next_token, start, length, end, pad, min_length, forbidden: see :func:`generate`.
        beams: K. With as many as there are texts this finds the best of all.
        groups: into which the beams are divided, with as many in each. A group chooses after those before it, each of
            whose choices at the same place makes a token less attractive by ``diversity`` (Vijayakumar et al. 2018).
        diversity: of groups; 0.5, which the authors found to do well on most tasks. At 0 all groups are the same.
        length_penalty: 1 is the mean log probability, 0 the sum, which favours short texts.

    Raises:
        ValueError: on beams that cannot be divided so, other arguments out of their ranges, and as :func:`generate`.

    Reference: Vijayakumar et al., "Diverse Beam Search for Improved Description of Complex Scenes", AAAI 2018.
    """
    _check(start, length, min_length)
    if beams < 1 or groups < 1 or beams % groups:
        raise ValueError(f"beams, groups: expected beams that {groups} groups can share alike, got {beams}")
    for name, number in (("diversity", diversity), ("length_penalty", length_penalty)):
        if not 0 <= number < math.inf:
            raise ValueError(f"{name}: expected a finite number of at least 0, got {number}")
    items, each, device = len(start), beams // groups, start.device
    rows = torch.arange(items, device=device).repeat_interleave(beams)
    ids = start[:, None].expand(-1, beams, -1)
    alive = torch.full((items, groups, each), -math.inf, device=device)
    alive[:, :, 0] = 0  # at first all beams of a group are one
    waiting = [_none_yet(items, each, start, length, pad) for _ in range(groups)]
    for written in range(length):
        scores = _log_probabilities(
            next_token, ids.reshape(items * beams, -1), rows, end, pad, forbidden, written < min_length
        ).view(items, groups, each, -1)
        vocabulary = scores.shape[3]
        parts, used = [], torch.zeros(items, vocabulary, device=device)
        for group in range(groups):
            mine = ids[:, group * each : (group + 1) * each]
            total = (alive[:, group, :, None] + scores[:, group]).flatten(1)
            wanted = total - diversity * used.repeat(1, each) if group else total
            # a beam has one continuation that ends it, so that of twice as many enough go on
            at = wanted.topk(2 * each, dim=1).indices
            value, beam, token = total.gather(1, at), at // vocabulary, at % vocabulary
            texts = torch.cat([mine.gather(1, beam[:, :, None].expand(-1, -1, mine.shape[2])), token[:, :, None]], 2)
            ends = (token == end) | (written == length - 1)
            waiting[group] = _better(waiting[group], texts, value, ends, (written + 1) ** length_penalty, each, pad)
            best = wanted.gather(1, at).masked_fill(ends, -math.inf).topk(each, dim=1).indices
            alive[:, group] = value.masked_fill(ends, -math.inf).gather(1, best)
            parts.append(texts.gather(1, best[:, :, None].expand(-1, -1, texts.shape[2])))
            used.scatter_add_(1, token.gather(1, best), (alive[:, group] > -math.inf).float())
        ids = torch.cat(parts, 1)
        # log probabilities only fall: the most that a text still being written can reach, against the worst that waits
        reach = alive.amax(2) / length**length_penalty
        if bool((reach <= torch.stack([pool.scores[:, -1] for pool in waiting], 1)).all()):
            break
    order = torch.cat([pool.scores for pool in waiting], 1).sort(dim=1, descending=True, stable=True)
    texts = torch.cat([pool.ids for pool in waiting], 1)
    return Beams(texts.gather(1, order.indices[:, :, None].expand_as(texts)), order.values)


def _check(start: Tensor, length: int, min_length: int) -> None:
    if start.ndim != 2 or not start.numel() or start.is_floating_point() or start.dtype == torch.bool:
        raise ValueError(f"start: expected (B, S) integers with S >= 1, got {tuple(start.shape)} {start.dtype}")
    if length < 1 or not 0 <= min_length < length:
        raise ValueError(f"length, min_length: expected 0 <= min_length < length, got {min_length} and {length}")


def _log_probabilities(
    next_token: NextToken, ids: Tensor, rows: Tensor, end: int, pad: int, forbidden: Sequence[int], too_short: bool
) -> Tensor:
    """Of the next token (M, V) float32, what may not be written left out."""
    logits = next_token(ids, rows)
    if logits.ndim != 2 or len(logits) != len(ids):
        raise ValueError(f"next_token: expected logits ({len(ids)}, V), got {tuple(logits.shape)}")
    barred = [pad, *forbidden, *([end] if too_short else [])]
    if not all(0 <= token < logits.shape[1] for token in (*barred, end)) or end in (pad, *forbidden):
        raise ValueError(
            f"end, pad, forbidden: expected different tokens from 0 to {logits.shape[1] - 1}, got {end}, {pad} and "
            f"{list(forbidden)}"
        )
    logits = logits.float().index_fill(1, torch.tensor(barred, device=logits.device), -math.inf)
    scores = logits.log_softmax(1)
    if bool(scores.isnan().any()):
        raise ValueError("next_token: expected finite logits, at least one for a token that may be written")
    return scores


def _narrowed(scores: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Probabilities (M, V) of the tokens that may be drawn, 0 for the others; each row sums to more than 0."""
    if top_k is not None and top_k < scores.shape[1]:
        values, order = scores.topk(top_k, dim=1)
        scores = torch.full_like(scores, -math.inf).scatter_(1, order, values)
    probabilities = scores.softmax(1)
    if top_p is not None and top_p < 1:
        ordered, order = probabilities.sort(1, descending=True)
        before = ordered.cumsum(1) - ordered
        probabilities = torch.zeros_like(ordered).scatter_(1, order, ordered.masked_fill(before >= top_p, 0.0))
    return probabilities


def _none_yet(items: int, each: int, start: Tensor, length: int, pad: int) -> Beams:
    ids = torch.full((items, each, start.shape[1] + length), pad, dtype=start.dtype, device=start.device)
    return Beams(ids, torch.full((items, each), -math.inf, device=start.device))


def _better(pool: Beams, texts: Tensor, total: Tensor, ends: Tensor, divisor: float, each: int, pad: int) -> Beams:
    """The best of those that wait and those that have just ended."""
    found = torch.nn.functional.pad(texts, (0, pool.ids.shape[2] - texts.shape[2]), value=pad)
    scores = torch.cat([pool.scores, (total / divisor).masked_fill(~ends, -math.inf)], 1)
    best = scores.topk(each, dim=1)
    ids = torch.cat([pool.ids, found], 1)
    return Beams(ids.gather(1, best.indices[:, :, None].expand(-1, -1, ids.shape[2])), best.values)
