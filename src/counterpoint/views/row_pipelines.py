"""The papers' pipelines of vectors and texts; those of images are :mod:`~counterpoint.views.pipelines`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from counterpoint.views.pipeline import Pipeline, Views
from counterpoint.views.text import OneOf, RandomDeletion, RandomSwap, StopWords, Synonyms
from counterpoint.views.vector import FeatureCorruption


def scarf(rate: float = 0.6) -> Views:
    """SCARF's views of vectors (Bahri et al. 2022): the row as it is, and with a fraction ``rate`` corrupted."""
    return Views([Pipeline(), Pipeline([FeatureCorruption(rate)])])


def adainf_vectors(rate: float = 0.3) -> Views:
    """:func:`scarf` with half its corruption: what ``adainf`` is for vectors, by the rule of its paper; ours."""
    return scarf(rate)


def rocket_vectors(local: int = 2, rate: float = 0.3) -> Views:
    """:func:`~counterpoint.views.pipelines.rocket` for vectors: the row as it is, and ``local`` times corrupted at
    ``rate``; ours."""
    return Views([Pipeline(), *[Pipeline([FeatureCorruption(rate)])] * local])


def eda(p: float = 0.8, table: Any = "captions", weights: Sequence[float] = (0.4, 0.4, 0.2)) -> Views:
    """Two views of texts: without stop words, then a synonym, a swap or a deletion (Wei & Zou 2019; Fini et al. 2023).

    Args:
        p: probability that a text loses its stop words; 0.8, as CLIP-rocket.
        table: of synonyms, see :class:`~counterpoint.views.text.Synonyms`.
        weights: of a synonym, of a swap, of deletions, one of which each text gets; CLIP-rocket's.
    """
    change = OneOf((Synonyms(table=table), RandomSwap(), RandomDeletion()), tuple(weights))
    return Views([Pipeline([StopWords(p), change])] * 2)


def rocket_texts(local: int = 2, p: float = 0.8, table: Any = "captions") -> Views:
    """CLIP-rocket's views of captions: one perhaps without its stop words, and ``local`` by :func:`eda`.

    Args:
        local: number of local views, A; 2, the paper's.
        p: probability that a caption loses its stop words; 0.8, or 0.9 for a ResNet-50 on YFCC, the paper's.
        table: of synonyms, see :class:`~counterpoint.views.text.Synonyms`.
    """
    return Views([Pipeline([StopWords(p)]), *(eda(p, table).pipelines[:1] * local)])
