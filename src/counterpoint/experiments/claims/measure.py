"""Running a claim: every arm with every seed, each in a folder of its own, and what comes of it."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterpoint.experiments.claims.define import ARMS, Claim, DataMissing, Setting, nearest
from counterpoint.experiments.claims.files import find, load_claim
from counterpoint.experiments.claims.ledger import merge, setting_lines
from counterpoint.experiments.fit import fit
from counterpoint.experiments.run import Run, environment, read_arrays
from counterpoint.files import claim_folder, write_json

if TYPE_CHECKING:
    from counterpoint.data import Dataset
    from counterpoint.evaluation import Evaluation

_LOADING = ("labels", "target", "image", "features", "image_size", "download", "limit", "max_corrupt")


@dataclass(frozen=True)
class ClaimResult:
    """What a claim came to.

    Attributes:
        value: the content of the result file, settings that were measured earlier included.
        file: where it was written; None where nothing could be run.
        counts: whether that is among the results of the claims, and not a trial.
    """

    value: dict[str, Any]
    file: Path | None
    counts: bool = False

    @property
    def verdict(self) -> str:
        """``holds``, ``fails``, ``inconclusive`` or ``not run``."""
        return str(self.value["verdict"])

    @property
    def settings(self) -> list[dict[str, Any]]:
        """The result of each setting."""
        return list(self.value["settings"])

    def __str__(self) -> str:
        lines = [f"{self.value['name']} ({self.value['paper']}): {self.verdict}", *setting_lines(self.value)]
        return "\n".join([*lines, f"written to {self.file}" if self.file else "nothing was written"])


@dataclass(frozen=True)
class _Job:
    """One arm with one seed."""

    setting: Setting
    arm: str
    seed: int
    folder: Path
    root: str | None
    resume: bool
    progress: bool
    threads: int | None = None


@dataclass(frozen=True)
class _Outcome:
    evaluation: Evaluation
    budget: dict[str, Any]
    environment: dict[str, Any]  # of the run itself, which may be older than the measurement


def run_claim(
    key: int | str | Claim,
    *,
    seeds: int | list[int] | None = None,
    out: str | None = None,
    only: str | list[str] | None = None,
    root: str | None = None,
    resume: bool = True,
    progress: bool = True,
    jobs: int | None = None,
    results: str | None = None,
) -> ClaimResult:
    """Measure a paper's claim here and now: its method against its baseline, with an interval and a verdict.

    The result counts, and goes to ``claims/results/<name>.json``, if it has all the seeds that the claim asks for. A
    trial with fewer stays in ``out``. Settings that are not run this time keep the result they have there, as long as
    what they measure has not been changed since.

    Args:
        key: number of the paper, key of a baseline (B1), name of the claim, or path of a claim's file.
        seeds: how many, or which; default those of the claim.
        out: folder of the runs; default ``runs/claims/<name>``.
        only: names of the settings to run; default all.
        root: where the data lie on this machine, for settings whose data are yours.
        resume: keep the runs that are finished and go on with those that are not; false starts them all again.
        progress: show how far each run is.
        jobs: runs at a time, each on its share of the cores; default one.
        results: folder of the result file.

    Returns:
        the :class:`ClaimResult`.

    Raises:
        ValueError: unknown claim or setting; arms that were tested on different items or lack the score; runs in
            ``out`` with other settings.
        FileNotFoundError: there are no claims here.
        FolderInUse: another process is writing into ``out``.
    """
    claim = key if isinstance(key, Claim) else find(key)
    chosen = _chosen(claim, only)
    folder = Path(out or f"runs/claims/{claim.name}")
    which = {setting.name: _seeds(setting, seeds) for setting in chosen}
    with claim_folder(folder):
        entries = []
        for setting in chosen:
            jobs_here = [
                _Job(setting, arm, seed, folder / setting.name / f"{arm}-seed{seed}", root, resume, progress)
                for seed in which[setting.name]
                for arm in ARMS
            ]
            entries.append(_setting(claim, jobs_here, jobs or 1, root))
        whole = all(set(setting.seeds) <= set(which[setting.name]) for setting in chosen)
        ledger = Path(results) if results else claim.file.parent / "results" if claim.file and whole else None
        return ClaimResult(*merge(claim, entries, ledger or folder), counts=ledger is not None)


def _chosen(claim: Claim, only: str | list[str] | None) -> list[Setting]:
    known = {setting.name: setting for setting in claim.settings}
    names = list(known) if only is None else only.split(",") if isinstance(only, str) else only
    for name in names:
        if name not in known:
            raise ValueError(f"only: {claim.name} has no setting {name!r}{nearest(name, known)}")
    return [known[name] for name in dict.fromkeys(names)]


def _seeds(setting: Setting, seeds: int | Sequence[int] | None) -> list[int]:
    chosen = setting.seeds if seeds is None else range(seeds) if isinstance(seeds, int) else seeds
    if not chosen or min(chosen) < 0 or len(set(chosen)) < len(chosen):
        raise ValueError(f"seeds: expected at least one, or different integers from 0, got {seeds!r}")
    return list(chosen)


def _setting(claim: Claim, jobs: list[_Job], width: int, root: str | None) -> dict[str, Any]:
    """Run all arms of a setting and sum them up; ``not run`` where its data are missing."""
    setting = jobs[0].setting
    start: dict[str, Any] = {"name": setting.name, "verdict": "not run", "definition": setting.definition()}
    start |= {"data": setting.data, "metric": setting.metric, "higher_is_better": setting.higher_is_better}
    start |= {"at_least": setting.at_least, "notes": setting.notes, "budget_checked": setting.budget_checked}
    try:
        dataset = _open(setting, root)
        found = _run_all(jobs, width, claim.file)
    except DataMissing as error:
        return {**start, "reason": " ".join(filter(None, [str(error), setting.needs]))}
    outcomes: dict[str, list[_Outcome]] = {arm: [] for arm in ARMS}
    for job, outcome in zip(jobs, found, strict=True):
        outcomes[job.arm].append(outcome)
    last = max((outcome.environment for outcome in found), key=lambda about: str(about["time"]))
    return {
        **start,
        **_compare(setting, outcomes),
        "seeds": list(dict.fromkeys(job.seed for job in jobs)),
        "budget": {arm: _budget(outcomes[arm]) for arm in ARMS},
        "description": _description(dataset, jobs[0].folder) if dataset is not None else setting.data,
        "date": last["time"][:10],
        "commit": ", ".join(sorted({outcome.environment["commit"] or "unknown" for outcome in found})),
        "environment": {name: value for name, value in last.items() if name != "command"},  # it names private paths
        "command": f"counterpoint claim {claim.name} --only {setting.name}",
    }


def _open(setting: Setting, root: str | None) -> Dataset | None:
    """The data of a setting whose arms are fits.

    Raises:
        DataMissing: they, or the package that reads them, are not here.
    """
    arguments = next((setting.arguments(arm) for arm in ARMS if setting.arguments(arm)), None)
    if arguments is None:
        return None
    from counterpoint.data import load

    how = {name: arguments[name] for name in _LOADING if name in arguments}
    try:
        return load(setting.data, root=root or setting.root, **how)
    except (FileNotFoundError, ImportError) as error:
        raise DataMissing(str(error)) from error


def _run_all(jobs: list[_Job], width: int, file: Path | None) -> list[_Outcome]:
    if width < 1:
        raise ValueError(f"jobs: expected at least 1, got {width}")
    if width == 1:
        return [_told(job) for job in jobs]
    from dataclasses import replace
    from functools import partial

    from counterpoint.experiments.workers import process_pool

    threads = max(1, (os.cpu_count() or 1) // width)
    jobs = [replace(job, threads=threads, progress=False) for job in jobs]
    # what a claim's file defines is found in the other process by the name of its module, so it is loaded there first
    with process_pool(width, partial(load_claim, file) if file else None) as pool:
        return list(pool.map(_run_one, jobs))


def _told(job: _Job) -> _Outcome:
    if job.progress:
        print(f"{job.setting.name}: {job.arm}, seed {job.seed}", file=sys.stderr)
    return _run_one(job)


def _run_one(job: _Job) -> _Outcome:
    arguments = job.setting.arguments(job.arm)
    try:
        return _run_fit(job, arguments) if arguments else _run_callable(job)
    except Exception as error:
        error.add_note(f"in {job.setting.name}, {job.arm}, seed {job.seed}")
        raise


def _run_fit(job: _Job, arguments: dict[str, Any]) -> _Outcome:
    score = arguments.pop("score")
    arguments.setdefault("evaluate", not callable(score))
    if not callable(score):
        arguments.setdefault("metrics", [score])
    arguments |= {"seed": job.seed, "root": job.root or job.setting.root, "out": os.fspath(job.folder)}
    arguments |= {"resume": job.resume, "overwrite": not job.resume, "threads": job.threads, "progress": job.progress}
    run = fit(job.setting.data, **arguments)
    evaluation = score(run) if callable(score) else _renamed(run, score, job.setting.metric)
    last = run.metrics[-1] if run.metrics else {"epoch": -1, "step": 0}
    budget = {"epochs": last["epoch"] + 1, "steps": last["step"], "batch_size": run.config["batch_size"]}
    return _Outcome(evaluation, {**budget, "seconds": run.status.get("seconds")}, run.environment)


def _renamed(run: Run, score: str, metric: str) -> Evaluation:
    """The run's evaluation, the score that an arm takes standing under the name of the setting's metric."""
    from counterpoint.evaluation import Evaluation

    found = run.evaluation or Evaluation()
    if score not in found.scores:
        raise ValueError(f"score: {run.folder} has no score {score!r}{nearest(score, found.scores)}")
    items = {**found.items, metric: found.items[score]} if score in found.items else {}
    return Evaluation({**found.scores, metric: found.scores[score]}, items)


def _run_callable(job: _Job) -> _Outcome:
    """An arm that does everything itself; what it returned is kept in its folder, and taken from there on resume."""
    import inspect

    from counterpoint.evaluation import Evaluation

    arm, note = job.setting.arms[job.arm], job.folder / "arm.json"
    definition = job.setting.definition()["arms"][job.arm]
    if not job.resume:
        shutil.rmtree(job.folder, ignore_errors=True)
    if note.exists():
        kept = json.loads(note.read_text("utf-8"))
        if kept["definition"] != definition:
            raise ValueError(
                f"resume: {job.folder} was measured by {kept['definition']}, now {definition}; take resume=False"
            )
        return _Outcome(Evaluation.load(job.folder), {"seconds": kept["seconds"]}, kept["environment"])
    job.folder.mkdir(parents=True, exist_ok=True)
    about, started = environment(), time.monotonic()
    assert not isinstance(arm, Mapping)
    where = {"root": job.root or job.setting.root} if "root" in inspect.signature(arm).parameters else {}
    found = arm(job.seed, job.folder, **where)
    evaluation = found if isinstance(found, Evaluation) else Evaluation({k: float(v) for k, v in found.items()})
    evaluation.save(job.folder)
    seconds = round(time.monotonic() - started, 3)
    write_json(note, {"definition": definition, "seconds": seconds, "environment": about})
    return _Outcome(evaluation, {"seconds": seconds}, about)


def _compare(setting: Setting, outcomes: dict[str, list[_Outcome]]) -> dict[str, Any]:
    """Effect, interval and verdict; over items too where both arms scored each item."""
    import numpy as np

    from counterpoint.evaluation.significance import difference

    metric = setting.metric
    evaluations = {arm: [outcome.evaluation for outcome in found] for arm, found in outcomes.items()}
    for arm, found in evaluations.items():
        for one in found:
            if not math.isfinite(one.scores.get(metric, math.nan)):
                raise ValueError(f"metric: the {arm} of {setting.name} gave no score {metric!r}, only {one.scores}")
    scores = {arm: [float(one.scores[metric]) for one in found] for arm, found in evaluations.items()}
    values: dict[str, Any] = scores
    if all(metric in one.items for found in evaluations.values() for one in found):
        items = {arm: [one.items[metric] for one in found] for arm, found in evaluations.items()}
        if len({len(one) for found in items.values() for one in found}) > 1:
            raise ValueError(f"arms: those of {setting.name} were tested on different items; use one split")
        values = {arm: np.stack(found) for arm, found in items.items()}
    effect = difference(values["method"], values["baseline"])
    others = {
        arm: {name: [one.scores.get(name) for one in each] for name in each[0].scores if name != metric}
        for arm, each in evaluations.items()
    }
    return {
        "verdict": setting.verdict(effect.low, effect.high, effect.seeds),
        "effect": effect.mean,
        "low": effect.low,
        "high": effect.high,
        "p": effect.p,
        "items": effect.items,
        "scores": scores,
        "other_scores": others,
    }


def _budget(outcomes: list[_Outcome]) -> dict[str, Any]:
    """Epochs, steps and batch size, which are those of every seed, and the seconds of each."""
    first = {name: value for name, value in outcomes[0].budget.items() if name != "seconds"}
    return {**first, "seconds": [outcome.budget["seconds"] for outcome in outcomes]}


def _description(dataset: Dataset, run: Path) -> str:
    sizes = {part: len(indices) for part, indices in read_arrays(run / "splits.npz").items()}
    classes = f", {len(dataset.classes)} classes" if dataset.classes else ""
    shape = " x ".join(map(str, dataset.shape))
    parts = ", ".join(f"{sizes[part]:,} {part}" for part in ("train", "val", "test") if part in sizes)
    return f"{dataset.name}: {len(dataset):,} items of {shape}{classes}; {parts}"
