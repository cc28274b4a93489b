"""Figures of temperatures that items have of their own: how they are spread, of which classes, of which pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from counterpoint.findings import Curves, Finding, Pictures
from counterpoint.objectives.item_state import ItemState

_BINS, _SHOWN = 24, 8


def temperature_findings(states: Mapping[str, ItemState], dataset: Any) -> list[Finding]:
    """What the items of a training have learned, for the page of its run.

    Args:
        states: by the name of what has them, such as a modality.
        dataset: whose items they are, in order.

    Returns:
        Shares of the items by temperature; mean temperatures of classes by their number of items, where classes differ
        in size; and the pictures of the highest and lowest temperatures. Items that no step has seen, and generated
        ones, are left out; nothing where that leaves fewer than two.
    """
    tau = {name: state.tau.double().cpu().numpy() for name, state in states.items()}
    seen = {
        name: np.flatnonzero(~state.log_s[: len(dataset)].isneginf().cpu().numpy()) for name, state in states.items()
    }
    if min(map(len, seen.values())) < 2:
        return []
    learned = {name: tau[name][rows] for name, rows in seen.items()}
    low, high = (pick(pick(values) for values in learned.values()) for pick in (min, max))
    if not high > low:
        return []
    edges = np.linspace(low, high, _BINS + 1)
    shares = {name: np.histogram(values, edges)[0] / len(values) for name, values in learned.items()}
    found: list[Finding] = [
        Curves(
            "Temperatures of the items",
            "How the temperatures that the training items learned are spread. All at one end means that the radius rho "
            "is too large (or small) for so many items.",
            (edges[:-1] + edges[1:]) / 2,
            shares,
            "temperature",
            "share of items",
        )
    ]
    found += _by_class(learned, seen, dataset)
    named = getattr(dataset, "named", None)  # of several modalities
    key = named("image") if named else dataset.modality
    if key is not None and (named or key == "image"):
        name = key if key in seen else next(iter(seen))
        found += _pictures(seen[name][np.argsort(learned[name], kind="stable")], dataset, key)
    return found


def _by_class(learned: Mapping[str, np.ndarray], seen: Mapping[str, np.ndarray], dataset: Any) -> list[Finding]:
    """Frequent semantics should have the larger ones."""
    if dataset.labels is None:
        return []
    series, counts = {}, None
    for name, rows in seen.items():
        labels = dataset.labels[rows]
        count = np.bincount(labels[labels >= 0])
        sums = np.bincount(labels[labels >= 0], learned[name][labels >= 0], len(count))
        some = np.flatnonzero(count)
        order = some[np.argsort(count[some], kind="stable")]
        if counts is None:
            counts = count[order]
        if len(order) != len(counts) or not (count[order] == counts).all():
            return []  # modalities that different items have share no axis
        series[name] = sums[order] / count[order]
    if counts is None or len(counts) < 2 or counts[-1] < 1.5 * counts[0]:
        return []
    text = "Mean temperature of each class, by its number of training items, the rarest at the left."
    return [Curves("Temperatures by frequency", text, counts, series, "items of the class", "mean temperature")]


def _pictures(order: np.ndarray, dataset: Any, key: str) -> list[Finding]:
    """Those of the lowest and of the highest temperatures, from items in rising order."""
    shown = min(_SHOWN, len(order) // 2)
    images = dataset[np.concatenate([order[:shown], order[::-1][:shown]])][key].movedim(1, -1)
    if images.shape[-1] not in (1, 3):
        return []
    text = (
        "Training items of the lowest temperatures, which are told apart from others most sharply, above those of the "
        "highest, which may stay near the items like them."
    )
    rows = images.numpy().reshape(2, shown, *images.shape[1:])
    captions = [[f"{place} {at + 1}" for at in range(shown)] for place in ("lowest", "highest")]
    return [Pictures("Lowest and highest temperatures", text, rows, captions=captions)]
