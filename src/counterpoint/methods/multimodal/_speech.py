"""Figures of what a language model says about images that it has only read about (CLOSE)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from counterpoint.findings import Captions, Curves, Finding
from counterpoint.objectives.inputs import normalize

_NOISE = (0.0, 0.02, 0.04, 0.08, 0.12, 0.16, 0.24, 0.32, 0.48)
_SHOWN = 16


def speech(method: Any, images: Any, texts: Any, targets: Any, questions: list[str] | None) -> list[Finding]:
    """What is written about test items, and how much noise the writer stands.

    Args:
        method: a :class:`~counterpoint.methods.multimodal.close.CLOSE`.
        images, texts: of M items, as their towers take them.
        targets: M tuples of right texts.
        questions: M, or ``None`` for a task without.
    """
    return [_said(method, images, texts, targets, questions), _curve(method, images, texts, targets, questions)]


def _said(method: Any, images: Any, texts: Any, targets: Any, questions: list[str] | None) -> Captions:
    seen, read = method.say(images, questions), method.say(texts, questions, "text")
    right = [set(map(method.spelled, each)) for each in targets]
    shares = [np.mean([text in each for text, each in zip(said, right, strict=True)]) for said in (seen, read)]
    some = np.linspace(0, len(seen) - 1, min(len(seen), _SHOWN)).round().astype(int)
    columns = {"about the image": seen, "about its text": read, "right": [each[0] for each in targets]}
    columns = columns if questions is None else {"question": questions, **columns}
    drawn = images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1] in (1, 3)
    return Captions(
        "What it writes",
        f"Test items. The language model was trained on vectors of {method.task.source}s alone. Word for word right "
        f"of {len(seen)}: {shares[0]:.0%} of what it writes about images, {shares[1]:.0%} about their texts.",
        [[column[at] for column in columns.values()] for at in some],
        list(columns),
        images[some].permute(0, 2, 3, 1).cpu().numpy() if drawn else None,
    )


def _curve(method: Any, images: Any, texts: Any, targets: Any, questions: list[str] | None) -> Curves:
    """How surprised the language model is by the right words, the more the vector of the text is blurred."""
    unit = normalize(method.of_texts(texts))
    eps = torch.randn_like(unit)
    blurred = [float(method.writer(normalize(unit + w * eps), targets, questions)) for w in _NOISE]
    about = float(method.writer(method.of_images(images), targets, questions))
    return Curves(
        "How much noise it stands",
        "Cross entropy of the right words of test items, in nats a token, when the vector of the text is blurred by "
        f"noise of w in each of its {unit.shape[1]} coordinates, and when it is the vector of the image. Noise in "
        f"training was {method.adapter.std:g}. Where the lines cross, noise is to it as the gap between texts and "
        "images is.",
        np.array(_NOISE),
        {"blurred text": np.array(blurred), "image": np.full(len(_NOISE), about)},
        "noise w",
        "nats a token",
    )
