"""A run: the folder of one training, and what can be read from it without executing anything in it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterpoint.files import atomic, write_json

if TYPE_CHECKING:
    import numpy as np

    from counterpoint.encoders import Classifier, Encoder, MultimodalClassifier
    from counterpoint.evaluation import Evaluation
    from counterpoint.findings import Finding
    from counterpoint.methods import Method

STATES = ("running", "interrupted", "failed", "finished")
_PACKAGES = ("counterpoint", "torch", "lightning", "numpy", "scikit-learn", "scipy")


class Run:
    """An opened run folder.

    Args:
        folder: as written by :func:`counterpoint.fit`.

    Raises:
        FileNotFoundError: there is no run in it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if not (self.folder / "config.yaml").exists():
            raise FileNotFoundError(f"run: no run in {self.folder}: it has no config.yaml")

    def __repr__(self) -> str:
        knn = self.scores.get("knn")
        score = f", knn={knn:.3f}" if knn is not None else ""
        return f"Run({str(self.folder)!r}, {self.state}{score})"

    @property
    def state(self) -> str:
        """``running``, ``interrupted``, ``failed`` or ``finished``."""
        return str(self.status.get("state", "interrupted"))

    @property
    def status(self) -> dict[str, Any]:
        """The content of ``status.json``."""
        return read_json(self.folder / "status.json")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The arguments of the fit."""
        return read_yaml(self.folder / "config.yaml")

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, processor, threads and commit."""
        return read_json(self.folder / "environment.json")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """A dict per epoch: ``epoch``, ``step``, ``loss``, ``seconds``, and what the monitor saw."""
        return read_lines(self.folder / "metrics.jsonl")

    @property
    def evaluation(self) -> Evaluation | None:
        """Scores on the test part, or ``None`` before they are there."""
        from counterpoint.evaluation import Evaluation

        return Evaluation.load(self.folder) if (self.folder / "evaluation.json").exists() else None

    @property
    def scores(self) -> dict[str, float]:
        """The scores of the evaluation by name; empty before they are there."""
        evaluation = self.evaluation
        return dict(evaluation.scores) if evaluation else {}

    @property
    def embeddings(self) -> dict[str, np.ndarray]:
        """``features`` (N_test, F), ``projections`` (N_test, D), ``index`` and, with labels, ``labels``."""
        return read_arrays(self.folder / "embeddings.npz")

    @property
    def histograms(self) -> dict[str, np.ndarray]:
        """Similarities of pairs over training: ``edges``, ``epochs``, ``positive`` and ``negative`` counts."""
        return read_arrays(self.folder / "histograms.npz")

    @property
    def score_curves(self) -> dict[str, np.ndarray]:
        """How positives and negatives scored over training: ``step`` (S,), and (S,) for each ``stage/statistic``.

        Stages are ``before`` and, of methods that change features or add negatives, ``after``: as the loss sees them.
        Statistics are those of :class:`counterpoint.objectives.ScoreStatistics`, averaged over anchors.
        """
        return read_arrays(self.folder / "score_curves.npz")

    @property
    def findings(self) -> list[Finding]:
        """What the method found out, as figures in plain data; empty for most methods."""
        from counterpoint import findings

        return findings.load(self.folder)

    def encoder(self) -> Encoder:
        """The trained encoder, in evaluation mode."""
        from counterpoint.encoders import load

        return load(self.folder)

    def classifier(self) -> Classifier | MultimodalClassifier:
        """The trained encoder with its classifier, in evaluation mode: of a run whose method has one.

        ``run.classifier().predict(x)`` names the classes of items and gives their probabilities; of several modalities
        x is a batch, ``dataset[indices]``, or a dict of those modalities that the items have.

        Raises:
            FileNotFoundError: the method has no classifier, or the run is not finished.
        """
        from counterpoint.encoders import MultimodalClassifier, load_classifier

        told = read_json(self.folder / "classifier" / "config.json")
        if told and read_json(self.folder / "encoder" / "config.json").get("modality") == "multimodal":
            return MultimodalClassifier(self.model(), told["classes"]).eval()
        return load_classifier(self.folder)

    def model(self, method: type[Method] | None = None) -> Method:
        """The method made anew with the trained encoder, projection head and classifier in it, in evaluation mode.

        ``model(x)`` gives features and ``model.project(x)`` the embedding on which the objective acted. What else a
        method may hold (a teacher, a queue, a predictor) is as new. Nothing in the files is executed.

        Args:
            method: its class, for one that is not the package's own: code that a file names is not imported.

        Raises:
            FileNotFoundError: the run is not finished, or older than heads are kept.
            ValueError: a method that is not the package's own, or files that do not belong together.
        """
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from counterpoint.methods import get, names

        folder = self.folder / "head"
        if not (folder / "config.json").exists():
            raise FileNotFoundError(f"run: no head in {folder}; it is written when a run finishes: fit it again")
        config = read_json(folder / "config.json")
        if method is None and config["method"] not in names():
            raise ValueError(f"method: the run is of {config['method']!r}, not one of ours; give model() its class")
        try:
            with torch.random.fork_rng(devices=[]):
                made = get(method or config["method"])(self.encoder(), **config["options"])
            made.projector.load_state_dict(load_file(folder / "model.safetensors"))
            if (self.folder / "classifier").exists():
                classifier: Any = made.classifier
                classifier.load_state_dict(load_file(self.folder / "classifier" / "model.safetensors"))
            made.recall(made.encoder.config.get("extra") or {})
        except (SafetensorError, RuntimeError, KeyError, TypeError) as error:
            raise ValueError(f"run: the head in {folder} cannot be opened: {error}") from error
        return made.eval()

    def set_state(self, state: str, why: str | None = None, **more: Any) -> None:
        """Record in ``status.json`` where the run stands."""
        assert state in STATES
        write_json(self.folder / "status.json", {**self.status, "state": state, "why": why, "time": now(), **more})


def now() -> str:
    """The time, to the second, with its zone."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def environment() -> dict[str, Any]:
    """What may matter for the figures: versions, processor, threads, commit."""
    import torch

    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "time": now(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "commit": _commit(),
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _commit() -> str | None:
    """The commit of the checkout this code runs from, marked when code has been changed since; results are no code."""
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    code = (":(top)src", ":(top)claims", ":(top)benchmarks", ":(top,exclude)claims/results")
    try:
        told = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=5)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *code], capture_output=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    commit = told.stdout.strip()
    return commit + ("-dirty" if changed.returncode else "") if told.returncode == 0 and commit else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no file."""
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSON-lines file; a last line that a kill cut short is left out."""
    rows = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file, never unpickled; empty where there is no file."""
    import numpy as np

    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def write_arrays(path: Path, **arrays: Any) -> None:
    """Write an ``.npz`` file, atomically."""
    import numpy as np

    with atomic(path) as file:
        np.savez_compressed(file, **arrays)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, read safely."""
    import yaml

    return yaml.safe_load(path.read_text("utf-8")) or {}


def write_yaml(path: Path, value: dict[str, Any]) -> None:
    """Write a YAML mapping in the order it has, atomically."""
    import yaml

    with atomic(path, "w") as file:
        yaml.safe_dump(value, file, sort_keys=False, allow_unicode=True)
