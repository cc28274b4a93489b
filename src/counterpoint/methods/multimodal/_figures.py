"""Figures of what a method of several modalities finds: pictures of a text, texts of a picture, where each lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterpoint.data import first_text
from counterpoint.findings import Captions, Finding, Pictures
from counterpoint.methods.multimodal._map import modality_map
from counterpoint.objectives.inputs import normalize

_QUERIES, _ANSWERS, _WRITTEN = 6, 5, 12
_LONGEST = 60


def figures(method: Any, dataset: Any, indices: Any) -> list[Finding]:
    """Retrieval across modalities among up to 256 test items: pictures for texts, and texts for what is no text.

    Then the map of them all.
    """
    batch = _on(dataset[indices], method.device)
    z = {name: normalize(values.float()) for name, values in method.embed(batch).items()}
    present = {name: batch["present"][name].cpu().numpy() for name in z}
    kinds = {name: dataset.kinds[name] for name in z}
    texts = [name for name, kind in kinds.items() if kind == "text"]
    found: list[Finding] = []
    for name, kind in kinds.items():
        others = [other for other in z if other != name]
        if kind == "image" and others:
            asking = next((other for other in others if other in texts), others[0])
            found += _pictures(asking, name, z, present, batch, asking in texts)
    for text in texts:
        for name in z:
            if name != text:
                found += _words(name, text, z, present, batch, kinds[name] == "image", dataset, indices)
    there = {name: torch.from_numpy(present[name])[:, None] for name in z}
    return found + modality_map({name: values.cpu().where(there[name], torch.nan) for name, values in z.items()})


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


def _nearest(query: Tensor, answers: Tensor, allowed: np.ndarray, count: int) -> np.ndarray:
    """(Q, count) positions of the allowed answers with the highest scores, best first."""
    scores = query @ answers.T
    scores[:, torch.from_numpy(~allowed).to(scores.device)] = -torch.inf
    return np.asarray(scores.topk(min(count, int(allowed.sum())), dim=1).indices.cpu())


def _pictures(
    query: str,
    answer: str,
    z: Mapping[str, Tensor],
    present: Mapping[str, np.ndarray],
    batch: Mapping[str, Any],
    is_text: bool,
) -> list[Finding]:
    asked = _queries(present[query] & present[answer])
    if len(asked) < 2:
        return []
    images = batch[answer].permute(0, 2, 3, 1).cpu().numpy()
    if images.shape[-1] not in (1, 3):
        return []
    found = _nearest(z[query][asked], z[answer], present[answer], _ANSWERS)
    rows = np.stack([images[[item, *row]] for item, row in zip(asked, found, strict=True)])
    captions = []
    for item, row in zip(asked, found, strict=True):
        told = _short(first_text(batch[query][item])) if is_text else "its own"
        captions.append([told, *("its own" if at == item else "" for at in row)])
    return [
        Pictures(
            f"From {query} to {answer}",
            f"Left, a test item's own {answer}, with its {query}; then what is nearest to that {query} among the "
            f"{answer}s of {int(present[answer].sum())} test items, nearest first.",
            rows,
            [query, *(str(at + 1) for at in range(found.shape[1]))],
            captions,
        )
    ]


def _words(
    query: str,
    answer: str,
    z: Mapping[str, Tensor],
    present: Mapping[str, np.ndarray],
    batch: Mapping[str, Any],
    is_image: bool,
    dataset: Any,
    indices: Any,
) -> list[Finding]:
    asked = _queries(present[query] & present[answer])
    if len(asked) < 2:
        return []
    texts = [first_text(value) for value in batch[answer]]
    allowed = present[answer].copy()
    seen: set[str] = set()
    for at, text in enumerate(texts):  # each text once
        allowed[at] &= text not in seen
        seen.add(text)
    found = _nearest(z[query][asked], z[answer], allowed, _ANSWERS)
    told = [[_short(texts[at]) for at in row] for row in found]
    text = (
        f"What is nearest to the {query} of a test item among the {int(allowed.sum())} different {answer}s of up to "
        "256 test items."
    )
    if not is_image:
        rows = [
            [str(dataset.ids[int(indices[item])]), _short(texts[item]), ", ".join(row)]
            for item, row in zip(asked, told, strict=True)
        ]
        return [Captions(f"From {query} to {answer}", text, rows, [query, "its own", "nearest first"])]
    images = batch[query].permute(0, 2, 3, 1).cpu().numpy()
    if images.shape[-1] not in (1, 3):
        return []
    rows = [[_short(texts[item]), "; ".join(row)] for item, row in zip(asked, told, strict=True)]
    return [Captions(f"From {query} to {answer}", text, rows, ["its own", "nearest first"], images[asked])]


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
    images = batch[image].permute(0, 2, 3, 1).cpu().numpy()
    rows = [[_short(a) or "(nothing)", _short(first_text(b))] for a, b in zip(written, batch[text], strict=True)]
    about = f"What the model writes of the {image} of test items that it has not seen, and their own {text}."
    shown = images if images.shape[-1] in (1, 3) else None
    return [Captions("Captions", about, rows, ["written", "its own"], shown)]


__all__: Sequence[str] = ["figures", "written_captions"]
