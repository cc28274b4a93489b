"""From the folders of runs and comparisons to the plain data that the pages are drawn from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterpoint.experiments.run import Run

if TYPE_CHECKING:
    import numpy as np

    from counterpoint.data import Dataset
    from counterpoint.evaluation import Evaluation
    from counterpoint.experiments.compare import Comparison
    from counterpoint.web.content import LeaderboardRow, Prediction, RunData

_EXAMPLES = 6
_QUERIES, _NEIGHBOURS = 12, 8


def report(path: str) -> str:
    """Write the page of a run or a comparison again, e.g. after an interruption.

    Args:
        path: folder of a run or of a comparison.

    Returns:
        the path of ``report.html``.
    """
    from counterpoint.experiments.compare import Comparison

    if (Path(path) / "runs").is_dir():
        return os.fspath(write_comparison_report(Comparison(path)))
    run = Run(path)
    dataset, views = _reopen(run.config)
    return os.fspath(write_run_report(run, dataset, views))


def _reopen(config: dict[str, Any], dataset: Dataset | None = None) -> tuple[Dataset, Any]:
    """The data of a config, and its views; what a config leaves out is as :func:`fit` has it."""
    import inspect

    from counterpoint.experiments.fit import fit
    from counterpoint.experiments.preparing import load_data, views_for
    from counterpoint.methods import get, names

    config = {name: p.default for name, p in inspect.signature(fit).parameters.items()} | config
    known = config["method"] in names()  # a class that a file names is not imported
    if dataset is None:
        told = any(config.get(name) for name in ("text", "audio", "signal", "modalities"))
        several = told or (known and getattr(get(config["method"]), "multimodal", False))
        dataset = load_data(config["data"], {**config, "method": "untrained_towers" if several else "untrained"})[0]
    asked = get(config["method"]).auto_views if config["views"] == "auto" and known else config["views"]
    return dataset, views_for(dataset, asked)


def write_run_report(run: Run, dataset: Dataset, views: Any) -> Path:
    """Write ``report.html`` into the folder of a run."""
    from counterpoint.web import run_page, write

    path = run.folder / "report.html"
    write(path, run_page(run_data(run, dataset, views)))
    return path


def run_data(run: Run, dataset: Dataset, views: Any = None) -> RunData:
    """What the page shows of a run; ``views`` adds examples of what was contrasted."""
    from counterpoint.evaluation import description
    from counterpoint.web import RunData

    evaluation, kept = run.evaluation, run.embeddings
    index, vectors = kept.get("index"), kept.get("features")
    histograms = run.histograms
    return RunData(
        name=run.folder.name,
        method=str(run.config["method"]),
        config=run.config,
        environment=run.environment,
        summary=_summary(run),
        scores=run.scores,
        descriptions={name: description(name) for name in run.scores},
        notes=list(evaluation.notes) if evaluation else [],
        skipped=[tuple(pair) for pair in run.status.get("skipped", [])],
        history=run.metrics,
        histograms=histograms or None,
        score_curves=run.score_curves or None,
        spectrum=evaluation.arrays.get("spectrum") if evaluation else None,
        embeddings=vectors,
        labels=kept.get("labels"),
        targets=kept.get("targets"),
        prediction=prediction(evaluation),
        classes=dataset.classes,
        thumbnails=_thumbnails(dataset, index),
        neighbours=_neighbours(vectors, kept.get("labels")),
        views=example_views(dataset, index, views),
        confusion=_confusion(evaluation),
        findings=run.findings,
        seconds=run.status.get("seconds"),
        command=f"counterpoint fit --config {run.folder / 'config.yaml'}",
    )


def prediction(evaluation: Evaluation | None) -> Prediction | None:
    """True and predicted targets for the page."""
    from counterpoint.web import Prediction

    arrays = evaluation.arrays if evaluation else {}
    names = ("targets", "target_predictions", "target_edges", "target_counts")
    return Prediction(*(arrays[name] for name in names)) if set(names) <= set(arrays) else None


def _summary(run: Run) -> str:
    from counterpoint.web.markup import number

    scores = run.scores
    if run.state != "finished":
        return f"This run is {run.state}: {run.status.get('why') or 'it has not finished yet'}"
    evaluation = run.evaluation
    if evaluation and "accuracy" in scores:
        from counterpoint.evaluation import interval

        of = interval(evaluation.items["accuracy"][None])
        low, high = max(0.0, of.low), min(1.0, of.high)
        told = (
            f"The classifier is right for {of.mean:.1%} of the {of.items:,} test items (95 % interval {low:.1%} to "
            f"{high:.1%}, over the choice of items)."
        )
        if "probe" in scores:
            told += f" A logistic regression on its features, with all training labels: {scores['probe']:.1%}."
        return told
    if "vqa" in scores:
        return (
            f"The answers to test questions are worth {number(scores['vqa'])} on average; 1 is what three people say."
        )
    if "mae" in scores:
        explained = f" and explains {scores['r2']:.0%} of its variance" if scores.get("r2", 0) > 0 else ""
        missed = number(scores["mae"])
        return f"A linear regression on the frozen embeddings misses the target by {missed} on average{explained}."
    guessed = {name.partition(":")[2]: scores[name] for name in scores if name.startswith("completion:")}
    if guessed and max(guessed.values()) > scores.get("pair_recall@1", 0.0):  # pairs are not all that it sees
        name = max(guessed, key=lambda one: guessed[one])
        others = "two" if len(guessed) == 3 else str(len(guessed) - 1)
        return f"For {guessed[name]:.1%} of the test items, {name} is guessed right from the other {others} modalities."
    if "pair_recall@1" in scores:
        told = f"{scores['pair_recall@1']:.1%} of the test items find their own in another modality as the nearest"
        if "zero_shot" in scores:
            told += f"; {scores['zero_shot']:.1%} are nearest to the sentence that names their class"
        elif "knn" in scores:
            told += f"; {scores['knn']:.1%} are classified rightly by the nearest neighbours of their fused vectors"
        return f"{told}."
    if "knn" in scores:
        return (
            f"{scores['knn']:.1%} of the test items are classified rightly by their nearest neighbours, "
            f"{scores.get('probe', float('nan')):.1%} by a linear classifier on the frozen embeddings."
        )
    if "caption_exact" in scores:
        exact, tokens = scores["caption_exact"], scores.get("caption_tokens", float("nan"))
        return f"{exact:.1%} of the captions written of test items are their own, and {tokens:.1%} of their tokens."
    return "The data have no labels, so the scores describe the geometry of the embeddings."


def _confusion(evaluation: Evaluation | None) -> np.ndarray | None:
    """The classifier's where there is one, else that of nearest neighbours."""
    arrays = evaluation.arrays if evaluation else {}
    return arrays.get("classifier_confusion", arrays.get("confusion"))


def _thumbnails(dataset: Dataset, index: np.ndarray | None) -> Any:
    has = dataset.modality == "image" or not {"image", "video"}.isdisjoint(getattr(dataset, "kinds", {}).values())
    if index is None or not has:
        return None
    return lambda item: dataset.thumbnail(int(index[item]))


def _neighbours(vectors: np.ndarray | None, labels: np.ndarray | None) -> Any:
    """Neighbours in sets that are too large for the page to compare all pairs by itself."""
    import numpy as np

    from counterpoint.evaluation.neighbours import top_k
    from counterpoint.web.maps import NEIGHBOUR_LIMIT

    if vectors is None or len(vectors) <= NEIGHBOUR_LIMIT:
        return None
    queries = np.sort(np.random.default_rng(0).choice(len(vectors), _QUERIES, replace=False))
    found = np.asarray(top_k(vectors[queries], vectors, _NEIGHBOURS + 1)[1])
    indices = np.array([row[row != query][:_NEIGHBOURS] for row, query in zip(found, queries, strict=True)])
    return queries, indices, None if labels is None else labels[indices] == labels[queries][:, None]


def example_views(dataset: Dataset, index: np.ndarray | None, views: Any) -> np.ndarray | None:
    """(n, V, H, W, C) uint8: a few items' views, of those views that have the size of the first."""
    import numpy as np
    import torch

    if views is None or dataset.modality != "image":
        return None
    some = np.arange(min(_EXAMPLES, len(dataset))) if index is None else np.asarray(index[:_EXAMPLES])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = views(dataset[some]["image"])
    same = [view for view in made if view.shape == made[0].shape]
    stacked = torch.stack(same, 1).clamp(0, 1).mul(255).round().to(torch.uint8)
    return np.asarray(stacked.permute(0, 1, 3, 4, 2))


def write_comparison_report(comparison: Comparison, dataset: Dataset | None = None) -> Path:
    """Write ``report.html`` into the folder of a comparison; without ``dataset`` it is opened again."""
    from counterpoint.evaluation import description
    from counterpoint.web import ComparisonData, comparison_page, write

    config, board = comparison.config, comparison.board
    first = {name: runs[0] for name, runs in comparison.runs.items() if runs}
    dataset, views = _reopen(config, dataset)
    trained = [name for name in first if first[name].metrics]
    shown = {
        name: run_data(run, dataset, views if trained and name == trained[0] else None) for name, run in first.items()
    }
    for name, data in shown.items():
        data.name = name
    page = comparison_page(
        ComparisonData(
            name=dataset.name,
            metric=board["metric"],
            rows=[_row(row) for row in board["rows"]],
            data=board["data"],
            metrics={name: {m: tuple(v) for m, v in of.items()} for name, of in board["metrics"].items()},
            descriptions={m: description(m) for of in board["metrics"].values() for m in of},
            runs=shown,
            settings=config,
            environment=comparison.environment,
            seconds=board["seconds"],
            failures=[tuple(pair) for pair in board["failures"]],
            command=f"counterpoint compare --config {comparison.folder / 'config.yaml'}",
            notes=board["notes"],
        )
    )
    path = comparison.folder / "report.html"
    write(path, page)
    return path


def _row(row: dict[str, Any]) -> LeaderboardRow:
    from counterpoint.web import LeaderboardRow

    return LeaderboardRow(**row)
