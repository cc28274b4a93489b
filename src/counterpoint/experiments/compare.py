"""Many methods on the same data, seeds, splits and budget - and which differences are real."""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterpoint.experiments.fit import _describe, _plain, _word, fit
from counterpoint.experiments.run import Run, environment, read_yaml, write_arrays, write_yaml
from counterpoint.files import atomic, claim_folder, write_json
from counterpoint.methods import get

if TYPE_CHECKING:
    import numpy as np
    import pandas

METHODS = "simclr,supcon,moco,byol,simsiam,barlow,vicreg"
BASELINES = "raw,pca,untrained,supervised"
_PCA_DIMENSIONS = 64


class Comparison:
    """An opened comparison folder.

    Args:
        folder: as written by :func:`compare`.

    Raises:
        FileNotFoundError: there is no finished comparison in it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if not (self.folder / "leaderboard.json").exists():
            raise FileNotFoundError(f"comparison: {self.folder} has no leaderboard.json; run compare with resume")

    def __repr__(self) -> str:
        rows = self.board["rows"]
        best = ", ".join(row["name"] for row in rows if row["rank"] == 1)
        return f"Comparison({str(self.folder)!r}, best by {self.board['metric']}: {best})"

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of the comparison."""
        return read_yaml(self.folder / "config.yaml")

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, processor, threads and commit."""
        import json

        return json.loads((self.folder / "environment.json").read_text("utf-8"))

    @property
    def board(self) -> dict[str, Any]:
        """The content of ``leaderboard.json``: ``metric``, ``rows`` (best first), ``metrics``, ``seconds``, ..."""
        import json

        return json.loads((self.folder / "leaderboard.json").read_text("utf-8"))

    @property
    def runs(self) -> dict[str, list[Run]]:
        """The finished runs of each method, by seed."""
        return _runs(self.folder)

    def frame(self) -> pandas.DataFrame:
        """The leaderboard as a table, a row per method."""
        import pandas

        return pandas.read_csv(self.folder / "leaderboard.csv")


def compare(
    data: Any,
    methods: str | list[str] = METHODS,
    *,
    seeds: int = 3,
    metric: str | None = None,
    baselines: str | list[str] = BASELINES,
    options: dict[str, Any] | None = None,
    out: str | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    on: str = "local",
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    **settings: Any,
) -> Comparison:
    """Train several methods under the same conditions and say which is best, and whether that is real.

    Seeds are pairs: seed k gives every method the same first weights of the encoder, order of the data and split.
    Differences come with a 95 % interval over seeds and test items, corrected for the number of pairs; what cannot be
    told apart is shown as a tie. All settings of fit apply, to all methods alike.

    Args:
        data: as for fit.
        methods: names, separated by commas.
        seeds: how many; 3 is the least that says something about chance.
        metric: score that ranks; default knn with labels, effective_rank without.
        baselines: of raw, pca, untrained, supervised; those that need labels are left out where there are none.
        options: parameters of single methods, e.g. {"simclr": {"temperature": 0.2}}.
        out: folder; default ``comparisons/<data>``.
        jobs: fits at a time, each on its share of the cores; default one a core, or one alone on a GPU.
        threads: processor threads of each fit; default its share of the cores.
        on: local, or ray: spread the fits over a Ray cluster that shares this file system.
        resume: keep the runs that are finished, go on with those that are not.
        overwrite: delete what is in ``out`` first.
        progress: show which fits are done.
        settings: of fit.

    Returns:
        the :class:`Comparison`.

    Raises:
        ValueError: an unknown method, metric or baseline; fewer than one seed; every fit failed.
        FileExistsError: ``out`` holds a comparison already and neither resume nor overwrite is given.
    """
    from counterpoint.experiments.reports import write_comparison_report

    methods, baselines = _listed(methods), _listed(baselines)
    folder = Path(out or f"comparisons/{_word(data)}")
    config = {
        "data": _describe(data),
        "methods": [_plain(method) for method in methods],
        "seeds": seeds,
        "metric": metric,
        "baselines": baselines,
        "options": _plain(options),
        **{name: _plain(value) for name, value in settings.items()},
    }
    _check(methods, baselines, seeds, metric, options, on, settings)

    def one(name: str, method: Any, seed: int, threads: int) -> Run:
        return fit(
            data,
            method,
            seed=seed,
            threads=threads,
            options=(options or {}).get(name),
            out=os.fspath(folder / "runs" / f"{name}-seed{seed}"),
            resume=True,
            report=False,
            progress=False,
            **settings,
        )

    with claim_folder(folder):
        _prepare(folder, config, resume, overwrite)
        write_json(folder / "environment.json", environment())
        plan = _Plan(folder, data, settings, methods, baselines, seeds)
        failures = plan.train(one, jobs, threads, on, progress)
        plan.evaluate_fixed(progress)
        _write_board(folder, plan, metric, failures)
        comparison = Comparison(folder)
        write_comparison_report(comparison, plan.dataset)
    return comparison


class _Plan:
    """The fits of a comparison: a name, a method and a seed each."""

    def __init__(
        self, folder: Path, data: Any, settings: dict[str, Any], methods: list[Any], baselines: list[str], seeds: int
    ) -> None:
        from counterpoint.experiments.fit import load_data

        self.folder, self.settings, self.seeds, self.baselines = folder, settings, seeds, baselines
        defaults = {name: p.default for name, p in inspect.signature(fit).parameters.items()}
        self.arguments = {**defaults, **settings, "method": "simclr"}
        self.dataset, self.splits = load_data(data, self.arguments)[:2]
        labelled = self.dataset.labels is not None
        kinds = {name: get(name) for name in methods}
        unlabelled = [name for name, kind in kinds.items() if kind.needs_labels and not labelled]
        self.notes = [f"{name} needs labels, and the data have none: left out" for name in unlabelled]
        self.fits = [(_name(m), m, seed) for seed in range(seeds) for m in methods if m not in unlabelled]
        for name in ("untrained", "supervised"):
            if name in baselines and name not in methods and (labelled or not get(name).needs_labels):
                self.fits += [(name, name, seed) for seed in range(seeds)]
        if not self.fits:
            raise ValueError("methods: none of them can be trained on data without labels")

    def train(
        self, one: Callable[..., Run], jobs: int | None, threads: int | None, on: str, progress: bool
    ) -> list[tuple[str, str]]:
        """Run all fits, ``jobs`` at a time; returns the names of those that failed, and why."""
        import torch

        cores = os.cpu_count() or 1
        alone = torch.cuda.is_available() and self.arguments["accelerator"] != "cpu" and on == "local"
        width = max(1, min(jobs or (1 if alone else cores), len(self.fits)))
        threads = threads or max(1, cores // width)
        work: Work = [
            (f"{name}-seed{seed}", functools.partial(one, name, method, seed, threads))
            for name, method, seed in self.fits
        ]
        start = {"ray": _on_ray, "local": _in_processes if width > 1 else _in_turn}[on]
        failures = []
        with _Ticker(len(work), progress) as tick:
            for label, error in start(work, width, threads):
                tick(label, error)
                if error is not None:
                    failures.append((label, f"{type(error).__name__}: {error}"))
        if len(failures) == len(work):
            raise ValueError(f"methods: every fit failed, the first with {failures[0][1]}")
        return failures

    def evaluate_fixed(self, progress: bool) -> None:
        """Score the baselines that are computed, not trained: the raw input and its principal components.

        They have no seed; one evaluation stands for all, so their interval is over test items.
        """
        for name in ("raw", "pca"):
            if name in self.baselines and not (self.folder / "runs" / f"{name}-seed0" / "evaluation.json").exists():
                _evaluate_fixed(name, self)


def _evaluate_fixed(name: str, plan: _Plan) -> None:
    import numpy as np

    from counterpoint.evaluation import Embeddings, evaluate

    started, dataset = time.monotonic(), plan.dataset
    parts = {}
    for part in ("train", "val", "test"):
        x = dataset[getattr(plan.splits, part)][dataset.modality].numpy()
        parts[part] = x.reshape(len(x), -1).astype(np.float32) / (255 if x.dtype == np.uint8 else 1)
    if name == "pca":
        from sklearn.decomposition import PCA

        width = min(_PCA_DIMENSIONS, *parts["train"].shape)
        pca = PCA(width, random_state=0).fit(parts["train"])
        parts = {part: pca.transform(x).astype(np.float32) for part, x in parts.items()}
    labels = dataset.labels
    sets = {
        part: Embeddings(x, None if labels is None else labels[getattr(plan.splits, part)])
        for part, x in parts.items()
    }
    folder = plan.folder / "runs" / f"{name}-seed0"
    folder.mkdir(parents=True, exist_ok=True)
    evaluate(sets["train"], sets["val"], sets["test"]).save(folder)
    kept = {"features": parts["test"], "projections": parts["test"], "index": plan.splits.test}
    write_arrays(folder / "embeddings.npz", **kept, **({} if labels is None else {"labels": sets["test"].labels}))
    write_json(folder / "environment.json", environment())
    data_settings = {k: _plain(v) for k, v in plan.arguments.items() if k not in ("data", "method", "out", "seed")}
    write_yaml(folder / "config.yaml", {"data": plan.dataset.name, "method": name, **data_settings})
    Run(folder).set_state("finished", seconds=round(time.monotonic() - started, 3))


Outcome = tuple[str, BaseException | None]
Work = list[tuple[str, Callable[[], Run]]]


def _in_turn(work: Work, width: int, threads: int) -> Iterator[Outcome]:
    for label, call in work:
        yield label, _attempt(call)


def _attempt(call: Callable[[], Run]) -> BaseException | None:
    try:
        call()
    except Exception as error:  # one method's failure must not cost the others their result
        return error
    return None


def _in_processes(work: Work, width: int, threads: int) -> Iterator[Outcome]:
    """In fresh processes, so that no state of one fit reaches another."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed

    import cloudpickle

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(width, mp_context=context, initializer=_end_with_parent) as pool:
        running = {pool.submit(_unpack, cloudpickle.dumps(call)): label for label, call in work}
        try:
            for done in as_completed(running):
                yield running[done], done.exception() or done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """Ask Linux to end this worker when the process that started it dies, even by kill -9."""
    import contextlib
    import ctypes
    import signal

    pr_set_pdeathsig = 1  # linux/prctl.h
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").prctl(pr_set_pdeathsig, signal.SIGKILL)


def _unpack(packed: bytes) -> BaseException | None:
    import cloudpickle

    return _attempt(cloudpickle.loads(packed))


def _on_ray(work: Work, width: int, threads: int) -> Iterator[Outcome]:
    try:
        import ray
    except ImportError as error:
        raise ImportError("on: 'ray' needs: pip install 'counterpoint[ray]'") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False)  # joins the cluster of RAY_ADDRESS where there is one
    remote = ray.remote(num_cpus=threads)(_attempt)
    running = {remote.remote(call): label for label, call in work}
    while running:
        (done,), _ = ray.wait(list(running), num_returns=1)
        label = running.pop(done)
        try:
            yield label, ray.get(done)
        except ray.exceptions.RayError as error:
            yield label, error


class _Ticker:
    """A bar on a terminal, a line per fit elsewhere."""

    def __init__(self, total: int, wanted: bool) -> None:
        self.total, self.wanted, self.done, self.started = total, wanted, 0, time.monotonic()

    def __enter__(self) -> Callable[[str, BaseException | None], None]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self.bar = None
        if self.wanted and console.is_terminal:
            columns = [TextColumn("fits"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
            self.bar = Progress(*columns, console=console, transient=True)
            self.task = self.bar.add_task("", total=self.total)
            self.bar.start()
        return self.tick

    def tick(self, label: str, error: BaseException | None) -> None:
        self.done += 1
        outcome = "done" if error is None else f"failed: {type(error).__name__}: {error}"
        if self.bar is not None:
            self.bar.console.print(f"{label}: {outcome}", highlight=False)
            self.bar.advance(self.task)
        elif self.wanted:
            seconds = time.monotonic() - self.started
            print(f"{self.done:3d}/{self.total}  {seconds:6.1f} s  {label}: {outcome}", file=sys.stderr, flush=True)

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.stop()


def _listed(value: str | list[str]) -> list[Any]:
    names = value.split(",") if isinstance(value, str) else list(value)
    return list(dict.fromkeys(name.strip() if isinstance(name, str) else name for name in names if name))


def _name(method: Any) -> str:
    return method.rpartition(":")[2] if isinstance(method, str) else method.__name__


def _check(
    methods: list[Any],
    baselines: list[str],
    seeds: int,
    metric: str | None,
    options: Any,
    on: str,
    settings: dict[str, Any],
) -> None:
    from counterpoint.evaluation import DESCRIPTIONS

    if not methods:
        raise ValueError("methods: none given")
    names = [_name(method) for method in methods]
    for method in methods:
        get(method)
    if seeds < 1:
        raise ValueError(f"seeds: expected at least 1, got {seeds}")
    for baseline in baselines:
        if baseline not in BASELINES.split(","):
            raise ValueError(f"baselines: expected some of {BASELINES}, got {baseline!r}")
    if metric is not None and metric not in DESCRIPTIONS:
        near = difflib.get_close_matches(metric, DESCRIPTIONS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"metric: no score {metric!r}{hint} There are: {', '.join(DESCRIPTIONS)}")
    for name in options or {}:
        if name not in names:
            raise ValueError(f"options: {name!r} is not among the methods; write options.METHOD.PARAMETER")
    known = inspect.signature(fit).parameters
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise TypeError(f"{name}: fit has no such setting" + (f"; did you mean {near[0]!r}?" if near else ""))
    if on not in ("local", "ray"):
        raise ValueError(f"on: expected 'local' or 'ray', got {on!r}")


def _prepare(folder: Path, config: dict[str, Any], resume: bool, overwrite: bool) -> None:
    path = folder / "config.yaml"
    if path.exists() and overwrite and not resume:
        for entry in folder.iterdir():
            if entry.name != ".lock":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    if path.exists() and not resume:
        raise FileExistsError(
            f"out: {folder} holds a comparison already; continue it with resume, replace it with overwrite, "
            "or name another folder"
        )
    write_yaml(path, config)


def _runs(folder: Path) -> dict[str, list[Run]]:
    found: dict[str, list[tuple[int, Run]]] = {}
    for path in (folder / "runs").glob("*-seed*"):
        name, _, seed = path.name.rpartition("-seed")
        if (path / "evaluation.json").exists():
            found.setdefault(name, []).append((int(seed), Run(path)))
    return {name: [run for _, run in sorted(runs, key=lambda pair: pair[0])] for name, runs in sorted(found.items())}


def _write_board(folder: Path, plan: _Plan, metric: str | None, failures: list[tuple[str, str]]) -> None:
    """Rank the methods whose every seed is there, and write ``leaderboard.json`` and ``leaderboard.csv``."""
    from counterpoint.evaluation import DESCRIPTIONS

    wanted = {name for name, _, _ in plan.fits} | {"raw", "pca"} & set(plan.baselines)
    runs = {name: found for name, found in _runs(folder).items() if name in wanted}
    notes = list(plan.notes)
    for name in wanted - {"raw", "pca"}:
        if len(runs.get(name, [])) < plan.seeds:
            notes.append(f"{name} is not ranked: {len(runs.pop(name, []))} of {plan.seeds} seeds finished")
    if not runs:
        raise ValueError("methods: no method finished all its seeds; see the failures above, and go on with resume")
    evaluations: dict[str, list[Any]] = {name: [run.evaluation for run in found] for name, found in runs.items()}
    labelled = any("knn" in e.scores for found in evaluations.values() for e in found)
    metric = metric or ("knn" if labelled else "effective_rank")
    table = {m: _intervals(evaluations, m, plan.seeds) for m in DESCRIPTIONS}
    if not table[metric]:
        raise ValueError(f"metric: no method has a {metric}: the data lack the labels or items for it")
    rows = _rows(evaluations, metric, plan.seeds)
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


def _rows(evaluations: dict[str, list[Any]], metric: str, seeds: int) -> list[dict[str, Any]]:
    from counterpoint.evaluation import HIGHER_IS_BETTER
    from counterpoint.evaluation.significance import leaderboard

    scores = {name: _stack(found, metric, seeds) for name, found in evaluations.items()}
    known = {name: values for name, values in scores.items() if values is not None}
    ranked = leaderboard(known, higher_is_better=HIGHER_IS_BETTER[metric])
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
                "baseline": row.name in BASELINES.split(","),
            }
        )
    return rows


def _about(plan: _Plan) -> dict[str, Any]:
    dataset, splits = plan.dataset, plan.splits
    return {
        "items": len(dataset),
        "shape": " x ".join(map(str, dataset.shape)),
        **({"classes": len(dataset.classes)} if dataset.classes else {}),
        "train": len(splits.train),
        "val": len(splits.val),
        "test": len(splits.test),
        "seeds": plan.seeds,
    }


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
