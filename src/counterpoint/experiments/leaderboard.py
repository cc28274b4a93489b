"""From the runs of a comparison to its leaderboard, with ties shown as ties."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterpoint.experiments.run import Run
from counterpoint.files import atomic, write_json

if TYPE_CHECKING:
    import numpy as np


def runs_in(folder: Path) -> dict[str, list[Run]]:
    """The evaluated runs of a comparison, by method and in the order of their seeds."""
    found: dict[str, list[tuple[int, Run]]] = {}
    for path in (folder / "runs").glob("*-seed*"):
        name, _, seed = path.name.rpartition("-seed")
        if (path / "evaluation.json").exists():
            found.setdefault(name, []).append((int(seed), Run(path)))
    return {name: [run for _, run in sorted(runs, key=lambda pair: pair[0])] for name, runs in sorted(found.items())}


def write_board(folder: Path, plan: Any, metric: str | None, failures: list[tuple[str, str]]) -> None:
    """Rank the methods whose every seed is there, and write ``leaderboard.json`` and ``leaderboard.csv``."""
    wanted = {name for name, _, _ in plan.fits} | {"raw", "pca"} & set(plan.baselines)
    runs = {name: found for name, found in runs_in(folder).items() if name in wanted}
    notes = list(plan.notes)
    for name in wanted - {"raw", "pca"}:
        if len(runs.get(name, [])) < plan.seeds:
            notes.append(f"{name} is not ranked: {len(runs.pop(name, []))} of {plan.seeds} seeds finished")
    if not runs:
        raise ValueError("methods: no method finished all its seeds; see the failures above, and go on with resume")
    evaluations: dict[str, list[Any]] = {name: [run.evaluation for run in found] for name, found in runs.items()}
    measured = {score for found in evaluations.values() for e in found for score in e.scores}
    if metric is None:
        own = [e for name, found in evaluations.items() if name not in plan.baselines for e in found]
        classify = bool(own) and all("accuracy" in e.scores for e in own)
        usual = next((name for name in ("mae", "knn", "pair_recall@1") if name in measured), "effective_rank")
        metric = "accuracy" if classify else usual
    listed = dict.fromkeys(score for found in evaluations.values() for e in found for score in e.scores)
    table = {m: _intervals(evaluations, m, plan.seeds) for m in listed}
    if not table.get(metric):
        raise ValueError(f"metric: no method has a {metric}: the data lack the labels, the target or the items for it")
    rows = _rows(evaluations, metric, plan.seeds, plan.baselines)
    without = [name for name in runs if name not in table[metric]]
    if without:
        notes.append(f"not ranked, since they have no {metric}: {', '.join(without)}")
    for row in rows:
        row["scores"] = {m: of[row["name"]][0] for m, of in table.items() if row["name"] in of}
    seconds = {name: sum(run.status.get("seconds") or 0 for run in found) / len(found) for name, found in runs.items()}
    board = {
        "metric": metric,
        "rows": rows,
        "metrics": {name: {m: of[name] for m, of in table.items() if name in of} for name in runs},
        "seconds": seconds,
        "failures": failures,
        "notes": notes,
        "data": _about(plan),
    }
    _write_csv(folder / "leaderboard.csv", board)
    write_json(folder / "leaderboard.json", board)


def _stack(evaluations: list[Any], metric: str, seeds: int) -> np.ndarray | None:
    """Scores (S, n) per seed and test item where there are items, else (S,); a baseline without seeds is repeated."""
    import numpy as np

    if any(metric not in e.scores for e in evaluations):
        return None
    if all(metric in e.items for e in evaluations):
        values = np.stack([e.items[metric] for e in evaluations]).astype(np.float64)
    else:
        values = np.array([e.scores[metric] for e in evaluations], dtype=np.float64)
    return np.repeat(values, seeds, axis=0) if len(values) == 1 else values


def _per_seed(evaluations: list[Any], metric: str, seeds: int) -> list[float]:
    scores = [e.scores[metric] for e in evaluations]
    return scores * seeds if len(scores) == 1 else scores


def _intervals(evaluations: dict[str, list[Any]], metric: str, seeds: int) -> dict[str, tuple[float, float, float]]:
    from counterpoint.evaluation.significance import interval

    table = {}
    for name, found in evaluations.items():
        values = _stack(found, metric, seeds)
        if values is not None:
            of = interval(values)
            table[name] = (of.mean, of.low, of.high)
    return table


def _rows(evaluations: dict[str, list[Any]], metric: str, seeds: int, baselines: list[str]) -> list[dict[str, Any]]:
    from counterpoint.evaluation import higher_is_better
    from counterpoint.evaluation.significance import leaderboard

    scores = {name: _stack(found, metric, seeds) for name, found in evaluations.items()}
    known = {name: values for name, values in scores.items() if values is not None}
    ranked = leaderboard(known, higher_is_better=higher_is_better(metric))
    ranks = [row.rank for row in ranked]
    rows = []
    for row in ranked:
        d = row.difference
        rows.append(
            {
                "name": row.name,
                "mean": row.mean,
                "low": row.low,
                "high": row.high,
                "rank": row.rank,
                "tied": ranks.count(row.rank) > 1,
                "difference": d and d.mean,
                "difference_low": d and d.low,
                "difference_high": d and d.high,
                "p": d and d.p,
                "seeds": _per_seed(evaluations[row.name], metric, seeds),
                "baseline": row.name in baselines,
            }
        )
    return rows


def _about(plan: Any) -> dict[str, Any]:
    dataset, splits = plan.dataset, plan.splits
    return {
        "items": len(dataset),
        "shape": " x ".join(map(str, dataset.shape)),
        **({"classes": len(dataset.classes)} if dataset.classes else {}),
        **({"target": _span(dataset.targets)} if dataset.targets is not None else {}),
        "train": len(splits.train),
        "val": len(splits.val),
        "test": len(splits.test),
        "seeds": plan.seeds,
    }


def _span(targets: np.ndarray) -> str:
    import numpy as np

    return f"{np.nanmin(targets):g} to {np.nanmax(targets):g}"


def _write_csv(path: Path, board: dict[str, Any]) -> None:
    import csv

    names = sorted({m for of in board["metrics"].values() for m in of})
    columns = ["rank", "name", "mean", "low", "high", "difference", "difference_low", "difference_high", "p"]
    with atomic(path, "w") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "seconds", *names])
        for row in board["rows"]:
            values = [row[column] for column in columns]
            writer.writerow([*values, board["seconds"][row["name"]], *(row["scores"].get(m) for m in names)])
