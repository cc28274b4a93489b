"""Figures of what a method of several modalities finds: pictures of a text, texts of a picture, where each lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterpoint.data import first_text
from counterpoint.data.clips import spread
from counterpoint.findings import Captions, Finding, Pictures
from counterpoint.methods.multimodal._map import modality_map
from counterpoint.objectives.inputs import normalize

_QUERIES, _ANSWERS, _WRITTEN = 6, 5, 12
_LONGEST = 60
_SEEN = ("image", "video")


def figures(method: Any, dataset: Any, indices: Any) -> list[Finding]:
    """Retrieval across modalities among up to 256 test items: pictures for texts, and texts for what is no text.

    Of three modalities or more, first what the method guesses of one from all others together. Then the map of them.
    """
    batch = _on(dataset[indices], method.device)
    z = {name: normalize(values.float()) for name, values in method.embed(batch).items()}
    present = {name: batch["present"][name].cpu().numpy() for name in z}
    kinds = {name: dataset.kinds[name] for name in z}
    texts = [name for name, kind in kinds.items() if kind == "text"]
    found: list[Finding] = []
    if len(z) > 2:
        for name, kind in kinds.items():
            if kind in (*_SEEN, "text"):
                found += _completed(method, name, z, present, batch, kinds, dataset, indices)
    for name, kind in kinds.items():
        others = [other for other in z if other != name]
        if kind in _SEEN and others:
            asking = next((other for other in others if other in texts), others[0])
            asked = _queries(present[asking] & present[name])
            told = batch[asking] if asking in texts else None
            found += _pictures(asking, name, asked, z[asking][asked] @ z[name].T, present, batch, told)
    for text in texts:
        for name in z:
            if name != text:
                asked, seen = _queries(present[name] & present[text]), name if kinds[name] in _SEEN else None
                found += _words(name, text, asked, z[name][asked] @ z[text].T, present, batch, seen, dataset, indices)
    there = {name: torch.from_numpy(present[name])[:, None] for name in z}
    return found + modality_map({name: values.cpu().where(there[name], torch.nan) for name, values in z.items()})


def _completed(
    method: Any,
    answer: str,
    z: Mapping[str, Tensor],
    present: Mapping[str, np.ndarray],
    batch: Mapping[str, Any],
    kinds: Mapping[str, str],
    dataset: Any,
    indices: Any,
) -> list[Finding]:
    """What the method guesses of a modality, given all others."""
    others = [name for name in z if name != answer]
    asked = _queries(np.logical_and.reduce(list(present.values())))
    if not len(asked):
        return []
    scores = method.candidate_scores(z[answer], {name: z[name][asked] for name in others})
    together = " and ".join(others)
    if kinds[answer] in _SEEN:
        told = next((batch[name] for name in others if kinds[name] == "text"), None)
        return _pictures(together, answer, asked, scores, present, batch, told)
    seen = next((name for name in others if kinds[name] in _SEEN), None)
    return _words(together, answer, asked, scores, present, batch, seen, dataset, indices)


def _on(batch: Mapping[str, Any], device: Any) -> dict[str, Any]:
    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device)
        return {key: moved(each) for key, each in value.items()} if isinstance(value, dict) else value

    return {key: moved(value) for key, value in batch.items()}


def _queries(there: np.ndarray) -> np.ndarray:
    """Up to six of the items, evenly spread."""
    some = np.flatnonzero(there)
    return some[np.unique(np.linspace(0, len(some) - 1, min(_QUERIES, len(some))).round().astype(int))]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1].rstrip() + "…"


def _best(scores: Tensor, allowed: np.ndarray) -> np.ndarray:
    """(Q, 5) positions of the allowed answers with the highest scores (Q, N), best first."""
    scores = scores.masked_fill(torch.from_numpy(~allowed).to(scores.device), -torch.inf)
    return np.asarray(scores.topk(min(_ANSWERS, int(allowed.sum())), dim=1).indices.cpu())


def _pictures(
    query: str,
    answer: str,
    asked: np.ndarray,
    scores: Tensor,
    present: Mapping[str, np.ndarray],
    batch: Mapping[str, Any],
    texts: Any,
) -> list[Finding]:
    """Items (Q,), their own pictures, and those with the highest scores (Q, N); ``texts`` stand under their own."""
    if len(asked) < 2:
        return []
    images = pictures_of(batch[answer])
    if images is None:
        return []
    found = _best(scores, present[answer])
    rows = np.stack([images[[item, *row]] for item, row in zip(asked, found, strict=True)])
    captions = []
    for item, row in zip(asked, found, strict=True):
        told = "its own" if texts is None else _short(first_text(texts[item]))
        captions.append([told, *("its own" if at == item else "" for at in row)])
    return [
        Pictures(
            f"From {query} to {answer}",
            f"Left, a test item's own {answer}; then what fits its {query} best among the {answer}s of "
            f"{int(present[answer].sum())} test items, the best first.",
            rows,
            [query, *(str(at + 1) for at in range(found.shape[1]))],
            captions,
        )
    ]


def _words(
    query: str,
    answer: str,
    asked: np.ndarray,
    scores: Tensor,
    present: Mapping[str, np.ndarray],
    batch: Mapping[str, Any],
    seen: str | None,
    dataset: Any,
    indices: Any,
) -> list[Finding]:
    """The texts with the highest scores (Q, N) for items (Q,), beside the picture ``seen`` of each, if there is one."""
    if len(asked) < 2:
        return []
    texts = [first_text(value) for value in batch[answer]]
    allowed = present[answer].copy()
    known: set[str] = set()
    for at, text in enumerate(texts):  # each text once
        allowed[at] &= text not in known
        known.add(text)
    told = [[_short(texts[at]) for at in row] for row in _best(scores, allowed)]
    text = (
        f"What fits the {query} of a test item best among the {int(allowed.sum())} different {answer}s of up to 256 "
        "test items."
    )
    if seen is None:
        rows = [
            [str(dataset.ids[int(indices[item])]), _short(texts[item]), ", ".join(row)]
            for item, row in zip(asked, told, strict=True)
        ]
        return [Captions(f"From {query} to {answer}", text, rows, [query, "its own", "best first"])]
    images = pictures_of(batch[seen])
    if images is None:
        return []
    rows = [[_short(texts[item]), "; ".join(row)] for item, row in zip(asked, told, strict=True)]
    return [Captions(f"From {query} to {answer}", text, rows, ["its own", "best first"], images[asked])]


def written_captions(method: Any, dataset: Any, indices: Any, image: str, text: str) -> list[Finding]:
    """Captions that a method writes of a few test images, beside their own.

    Args:
        method: whose ``write(batch)`` gives a caption for each item of a batch, or ``None``.
        dataset, indices: as for :meth:`~counterpoint.methods.base.Method.findings`.
        image, text: names of the modalities.
    """
    some = np.asarray(indices)[np.flatnonzero(dataset.present(image)[indices])]
    some = some[np.unique(np.linspace(0, len(some) - 1, min(_WRITTEN, len(some))).round().astype(int))]
    batch = _on(dataset[some], method.device) if len(some) else {}
    written = method.write(batch) if len(some) else None
    if not written:
        return []
    rows = [[_short(a) or "(nothing)", _short(first_text(b))] for a, b in zip(written, batch[text], strict=True)]
    about = f"What the model writes of the {image} of test items that it has not seen, and their own {text}."
    return [Captions("Captions", about, rows, ["written", "its own"], pictures_of(batch[image]))]


def pictures_of(images: Tensor) -> np.ndarray | None:
    """Images (B, C, H, W) as a figure takes them, (B, H, W, C); ``None`` where they are neither grey nor RGB.

    Of clips (B, T, C, H, W) up to four frames, evenly spread, in two rows.
    """
    if images.ndim == 5:
        count = min(4, images.shape[1])
        some = images[:, spread(images.shape[1], count)]
        blank = torch.full_like(some[:, :1], 255)
        some = torch.cat([some, *[blank] * (count == 3)], 1)
        images = torch.cat([torch.cat([*row.unbind(1)], -1) for row in some.split(2, 1)], -2)
    pictures = images.permute(0, 2, 3, 1).cpu().numpy()
    return pictures if pictures.shape[-1] in (1, 3) else None


def beside_each_other(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Pictures (B, H, W, C) of the same items in one row, with a white line between them."""
    given = [part for part in parts if part is not None]
    if len(given) < 2:
        return given[0] if given else None
    line = np.full_like(given[0][:, :, :1], 255)
    return np.concatenate([each for part in given for each in (line, part)][1:], axis=2)


__all__: Sequence[str] = ["beside_each_other", "figures", "pictures_of", "written_captions"]
