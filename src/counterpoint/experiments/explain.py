"""Put losses under the microscope, side by side."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterpoint.files import write_json


@dataclass(frozen=True)
class Explanation:
    """What losses do to the pairs of a batch.

    Attributes:
        value: the content of the JSON beside the page.
        page: where the page was written; ``None`` where it was not asked for.
    """

    value: dict[str, Any]
    page: Path | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A dict for each loss at the settings that all share: ``name``, and what :func:`explain` says of it:
        ``negatives`` of an anchor, ``effective`` ones, ``hardest_1`` and ``hardest_10`` (shares of the push),
        ``multiplier`` and ``multiplier_least``, ``pull`` (weight of the positives), ``direction``, ``gradient``, and
        ``split``. What a loss does not have is ``None``.
        """
        return [
            {"name": loss["name"], "split": loss["split"]} | {name: (loss["base"] or {}).get(name) for name in SCORES}
            for loss in self.value["losses"]
        ]

    def __getitem__(self, name: str) -> dict[str, Any]:
        return next(row for row in self.rows if row["name"] == name)


SCORES = (
    "negatives", "effective", "hardest_1", "hardest_10", "multiplier", "multiplier_least", "pull", "direction",
    "gradient",
)  # fmt: skip


def explain(
    losses: str,
    *,
    temperatures: str = "0.05,0.1,0.5",
    batch_sizes: str = "16,64,256",
    views: str = "2,4",
    labels: bool = False,
    run: str | None = None,
    root: str | None = None,
    dim: int = 64,
    noise: float = 0.5,
    seed: int = 0,
    out: str = "explain.html",
    report: bool = True,
) -> Explanation:
    """Say what losses do to each pair of embeddings, side by side: why do two of them behave differently?

    For any objective and from its gradient, not from a formula: the weight of a negative and of a positive by their
    similarity; how it moves with temperature, batch size and number of views; the multiplier that couples negatives
    and positives; the share of the hardest negatives; CACR's conditional weights; where the gradient points. Written as
    one page, and as JSON beside it.

    Args:
        losses: names of objectives, separated by commas, each with options of its own: ``ntxent,cacr:tau_neg=2``. A
            temperature given so is kept to, in all figures.
        temperatures: separated by commas; the middle one is that of the figures which show something else.
        batch_sizes: items in a batch, likewise. Memory grows with the square of batch size times views: 0.5 GB for
            1,024 items in 2 views.
        views: of each item; the first is that of the other figures. From three on, a loss for two views is averaged
            over all pairs of them.
        labels: give labels to losses that can use them; items of one class are positives then.
        run: folder of a finished run: look at its embeddings of the test part. Default: clusters on the unit sphere.
        root: where the data of the run lie on this machine, if not where they lay.
        dim: dimensions of the clusters' space.
        noise: how far views lie from their item there; at 0.5, positives have a cosine of about 0.8.
        seed: of the clusters, or of the views of the run.
        out: the page; its JSON has the same name with another ending.
        report: write page and JSON.

    Returns:
        an :class:`Explanation`.

    Raises:
        ValueError: an unknown loss or option, named, a number that cannot be used, or no loss that can be explained.
        FileNotFoundError: no finished run there, or no folder to write into.
    """
    from counterpoint.experiments import explaining
    from counterpoint.experiments.losses import chosen

    page = Path(out)
    if page.suffix != ".html":
        raise ValueError(f"out: expected the name of a page, such as explain.html, got {out!r}")
    if report and not page.parent.is_dir():
        raise FileNotFoundError(f"out: there is no folder {page.parent}")
    sweep = {
        "temperature": _numbers("temperatures", temperatures, float, 0.0),
        "batch_size": _numbers("batch_sizes", batch_sizes, int, 1),
        "views": _numbers("views", views, int, 1),
    }
    if not 0 < noise < float("inf"):
        raise ValueError(f"noise: expected a finite number above 0, got {noise}")
    if dim < 2:
        raise ValueError(f"dim: expected at least 2, got {dim}")
    named = chosen(losses)
    items = (1 + max(sweep["views"])) * max(sweep["batch_size"])  # a batch, and a bank for the losses that have one
    if run is None:
        cloud = explaining.clusters(items, max(sweep["views"]), dim, noise, seed)
    else:
        cloud = explaining.of_run(run, items, max(sweep["views"]), root, seed)
    value = explaining.measure(named, cloud, sweep, labels)
    if not report:
        return Explanation(value)
    from counterpoint.experiments.run import environment
    from counterpoint.web import write
    from counterpoint.web.explain import explain_page

    settings: dict[str, Any] = {
        "losses": losses,
        "temperatures": temperatures,
        "batch_sizes": batch_sizes,
        "views": views,
    }
    settings |= {"labels": labels, "run": run, "dim": dim, "noise": noise, "seed": seed}
    write_json(page.with_suffix(".json"), {**value, "settings": settings})
    words = ["counterpoint", "explain", losses]
    for name, given in settings.items():
        if name != "losses" and given is not None:
            words += [f"--{name}", str(given).lower() if isinstance(given, bool) else str(given)]
    write(page, explain_page(value, settings, environment(), shlex.join(words)))
    return Explanation(value, page)


def _numbers(name: str, given: str | Sequence[Any], kind: Any, above: float) -> list[Any]:
    """Different numbers in rising order from a word like ``16,64``; from Python also a list."""
    words = given.split(",") if isinstance(given, str) else list(given)
    try:
        values = sorted({kind(word) for word in words})
    except (ValueError, TypeError):
        values = []
    if not values or not all(above < value < float("inf") for value in values):
        what = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"{name}: expected {what} above {above:g}, separated by commas, got {given!r}")
    return values
