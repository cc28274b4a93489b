"""How good captions are, beside those that people wrote: exact matches, BLEU, CIDEr, and the accuracy word by word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from counterpoint.evaluation.evaluate import Evaluation

_WORDS = re.compile(r"\w+(?:['’]\w+)*")
References = Sequence[str | Sequence[str]]


def words(text: str) -> str:
    """A caption as the scores see it: in lower case, without punctuation, one space between words.

    The evaluation of COCO captions splits with the Penn Treebank's rules and then drops punctuation, which needs Java;
    on captions without clitics ("it's" stays one word here) this is the same.
    """
    return " ".join(_WORDS.findall(text.lower()))


def exact_match(captions: Sequence[str], references: References) -> np.ndarray:
    """Float32 (N,): 1 where a caption has the :func:`words` of one of its references, in their order."""
    pairs = _checked(captions, references)
    return np.array([caption in right for caption, right in pairs], np.float32)


def bleu(captions: Sequence[str], references: References, n: int = 4) -> float:
    """BLEU of a corpus, from 0 to 1: how many of the captions' 1- to n-grams the references have, times brevity.

    Of torchmetrics, without smoothing: where no caption shares a single n-gram with its references it is 0, as with
    ``n=4`` for captions of three words.

    Args:
        captions: N.
        references: for each a caption, or several.
        n: 4; BLEU-1 and so on for less.

    Raises:
        ValueError: another number of references than captions, none at all, or n < 1.

    Reference: Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", ACL 2002.
    """
    from torchmetrics.functional.text import bleu_score

    if n < 1:
        raise ValueError(f"n: expected at least 1, got {n}")
    pairs = _checked(captions, references)
    return float(bleu_score([caption for caption, _ in pairs], [right for _, right in pairs], n_gram=n))


def cider(captions: Sequence[str], references: References) -> np.ndarray:
    """CIDEr-D of each caption, float32 (N,), from 0 to 10: how alike its 1- to 4-grams are to its references'.

    An n-gram counts the more, the fewer items have it in their references, so that what is said of every picture counts
    nothing: the score depends on what else is scored, and of a single item it is 0. N-grams longer than the caption
    count 0: a perfect caption of one word has 2.5, of two 5, of three 7.5. The corpus' score is the mean. Papers often
    print it times 100 after dividing by 10 (COCO's 1.43 as "143").

    Of pycocoevalcap, the code of the COCO captions' evaluation.

    Args:
        captions, references: see :func:`bleu`.

    Raises:
        ValueError: as :func:`bleu`, or references without a single word.
        ImportError: without pycocoevalcap.

    Reference: Vedantam et al., "CIDEr: Consensus-based Image Description Evaluation", CVPR 2015.
    """
    try:
        from pycocoevalcap.cider.cider import Cider
    except ImportError as error:
        raise ImportError("cider: it is computed by pycocoevalcap: pip install 'counterpoint[captions]'") from error
    pairs = _checked(captions, references)
    if not any(text for _, right in pairs for text in right):
        raise ValueError("references: expected at least one word in all of them, got none")
    _, found = Cider().compute_score(
        {i: right for i, (_, right) in enumerate(pairs)}, {i: [c] for i, (c, _) in enumerate(pairs)}
    )
    return np.asarray(found, np.float32)


def token_accuracy(predictions: Any, labels: Any, pad: int = 0) -> np.ndarray:
    """Share of the right tokens in each text, the right ones so far shown: float32 (N,), NaN for a text without any.

    Args:
        predictions: (N, L) integers, the most probable tokens.
        labels: (N, L) integers; ``pad`` does not count.
        pad: see :class:`~counterpoint.objectives.CaptionLoss`.

    Raises:
        ValueError: shapes that differ.
    """
    said, right = np.asarray(predictions), np.asarray(labels)
    if said.shape != right.shape or said.ndim != 2:
        raise ValueError(f"predictions, labels: expected (N, L) both, got {said.shape} and {right.shape}")
    counts = (right != pad).sum(1)
    hits = ((said == right) & (right != pad)).sum(1)
    return np.where(counts > 0, hits / np.maximum(counts, 1), np.nan).astype(np.float32)


def captioning(captions: Sequence[str], references: References) -> Evaluation:
    """All that can be said of captions: ``caption_exact``, ``bleu_1``, ``bleu_4`` and, where installed, ``cider``.

    The first and the last are means over items and come with those.

    Args:
        captions, references: see :func:`bleu`.
    """
    exact = exact_match(captions, references)
    result = Evaluation({"caption_exact": float(exact.mean())}, {"caption_exact": exact})
    result.scores.update({f"bleu_{n}": bleu(captions, references, n) for n in (1, 4)})
    try:
        each = cider(captions, references)
    except ImportError as error:
        result.notes.append(f"cider: left out, {error}.")
    else:
        result.scores["cider"], result.items["cider"] = float(each.mean()), each
    return result


def _checked(captions: Sequence[str], references: References) -> list[tuple[str, list[str]]]:
    """Each caption with its references, as the scores see them."""
    if isinstance(captions, str) or len(captions) != len(references) or not len(captions):
        counts = f"{len(captions)} and {len(references)}"
        raise ValueError(f"captions, references: expected as many of both and at least one, got {counts}")
    pairs = []
    for at, (caption, right) in enumerate(zip(captions, references, strict=True)):
        right = [right] if isinstance(right, str) else list(right)
        if not right:
            raise ValueError(f"references: expected at least one for each caption, and item {at} has none")
        pairs.append((words(caption), [words(text) for text in right]))
    return pairs
