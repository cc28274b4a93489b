"""Many methods on the same data, seeds, splits and budget - and which differences are real."""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from counterpoint.experiments.fit import describe, fit, plain, word
from counterpoint.experiments.leaderboard import runs_in, write_board
from counterpoint.experiments.run import Run, environment, read_yaml, write_arrays, write_yaml
from counterpoint.experiments.workers import Ticker, Work, in_processes, in_turn, on_ray
from counterpoint.files import claim_folder, write_json
from counterpoint.methods import get

METHODS = "simclr,supcon,moco,byol,simsiam,barlow,vicreg"
BASELINES = "raw,pca,untrained,supervised"
_PCA_DIMENSIONS = 64
# of baselines where the methods start from a trained encoder: the same architecture with new weights
_FROM_SCRATCH = {"encoder_options": {"pretrained": False}, "freeze": 0, "encoder_lr": None}


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
        return runs_in(self.folder)

    def frame(self) -> Any:
        """The leaderboard as a pandas DataFrame, a row per method."""
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
    told apart is shown as a tie. All settings of fit apply, to all methods alike. Where ``encoder`` is a trained one,
    methods go on from it, and the baselines untrained and supervised have its architecture and new weights.

    Args:
        data: as for fit; with several modalities the only baseline is untrained towers.
        methods: names, separated by commas.
        seeds: how many; 3 is the least that says something about chance.
        metric: score that ranks; default accuracy where all methods train a classifier, else mae with a target, knn
            with labels, and effective_rank without either.
        baselines: of raw, pca, untrained, supervised; those that need labels are left out where there are none. With a
            target, supervised is l1_regression.
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
    from counterpoint.experiments.preparing import trained_folder
    from counterpoint.experiments.reports import write_comparison_report

    methods, baselines = _listed(methods), _listed(baselines)
    folder = Path(out or f"comparisons/{word(data)}")
    config = {
        "data": describe(data),
        "methods": [plain(method) for method in methods],
        "seeds": seeds,
        "metric": metric,
        "baselines": baselines,
        "options": plain(options),
        **{name: plain(value) for name, value in settings.items()},
    }
    _check(methods, baselines, seeds, metric, options, on, settings)

    pretrained = trained_folder({"encoder": "auto", **settings}["encoder"]) is not None
    fresh = [name for name in ("untrained", "supervised") if pretrained and name not in methods]

    def one(name: str, method: Any, seed: int, threads: int, settings: dict[str, Any] = settings) -> Run:
        if name in fresh:
            settings = settings | _FROM_SCRATCH
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
        write_board(folder, plan, metric, failures)
        comparison = Comparison(folder)
        write_comparison_report(comparison, plan.dataset)
    return comparison


class _Plan:
    """The fits of a comparison: a name, a method and a seed each."""

    def __init__(
        self, folder: Path, data: Any, settings: dict[str, Any], methods: list[Any], baselines: list[str], seeds: int
    ) -> None:
        from counterpoint.experiments.preparing import load_data

        self.folder, self.settings, self.seeds, self.baselines = folder, settings, seeds, baselines
        defaults = {name: p.default for name, p in inspect.signature(fit).parameters.items()}
        several = getattr(get(methods[0]), "multimodal", False)
        self.arguments = {**defaults, **settings, "method": "clip" if several else "simclr"}
        self.dataset, self.splits = load_data(data, self.arguments)[:2]
        labelled = self.dataset.labels is not None
        kinds = {name: get(name) for name in methods}
        unlabelled = [name for name, kind in kinds.items() if kind.needs_labels and not labelled]
        self.notes = [f"{name} needs labels, and the data have none: left out" for name in unlabelled]
        aimed = self.dataset.targets is not None
        aimless = [name for name, kind in kinds.items() if kind.needs_target and not aimed]
        self.notes += [f"{name} needs a target, and the data have none: left out" for name in aimless]
        left_out = {*unlabelled, *aimless}
        self.fits = [(_name(m), m, seed) for seed in range(seeds) for m in methods if m not in left_out]
        if self.dataset.modality == "multimodal":
            self.baselines = ["untrained_towers"] if "untrained" in baselines else []
        elif aimed:
            self.baselines = ["l1_regression" if name == "supervised" else name for name in baselines]
        for name in ("untrained", "untrained_towers", "supervised", "l1_regression"):
            if name in self.baselines and name not in methods and (labelled or not get(name).needs_labels):
                self.fits += [(name, name, seed) for seed in range(seeds)]
        if not self.fits:
            raise ValueError(f"methods: none of them can be trained on these data. {'; '.join(self.notes)}")

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
        start = {"ray": on_ray, "local": in_processes if width > 1 else in_turn}[on]
        failures = []
        with Ticker(len(work), progress) as tick:
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
    labels, targets = dataset.labels, dataset.targets
    sets = {}
    for part, x in parts.items():
        at = getattr(plan.splits, part)
        known = None if labels is None else labels[at]
        sets[part] = Embeddings(x, known, targets=None if targets is None else targets[at])
    folder = plan.folder / "runs" / f"{name}-seed0"
    folder.mkdir(parents=True, exist_ok=True)
    evaluate(sets["train"], sets["val"], sets["test"]).save(folder)
    kept = {"features": parts["test"], "projections": parts["test"], "index": plan.splits.test}
    about = {"labels": sets["test"].labels, "targets": sets["test"].targets}
    write_arrays(folder / "embeddings.npz", **kept, **{n: values for n, values in about.items() if values is not None})
    write_json(folder / "environment.json", environment())
    data_settings = {k: plain(v) for k, v in plan.arguments.items() if k not in ("data", "method", "out", "seed")}
    write_yaml(folder / "config.yaml", {"data": plan.dataset.name, "method": name, **data_settings})
    Run(folder).set_state("finished", seconds=round(time.monotonic() - started, 3))


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
    from counterpoint.evaluation import known_metrics

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
    if metric is not None:
        known_metrics(metric)
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
