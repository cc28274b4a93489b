"""A pytest plugin that turns test runs into evidence for the catalogue.

A test says which paper it speaks for and what it shows::

    @pytest.mark.paper(12, "parity")        # the authors' figures are reproduced
    @pytest.mark.paper("B1", "trains")      # it trains on real data
    @pytest.mark.paper(12, "docs")          # its documentation runs

``pytest --record-evidence`` merges the outcomes into ``evidence.json`` beside the catalogue. Only papers whose tests
ran are touched; a failing test is recorded as failed; a skipped one shows nothing. Tests that a file no longer holds
disappear when that file runs whole, and those of a deleted file when anything is recorded.
"""

from __future__ import annotations

import datetime
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from counterpoint.files import write_json
from counterpoint.papers import get
from counterpoint.papers.status import EVIDENCE, KINDS, read_json

PROPERTY = "counterpoint-paper"


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--record-evidence`` and, for tests of this plugin, ``--evidence-file``."""
    group = parser.getgroup("counterpoint")
    group.addoption("--record-evidence", action="store_true", help="record outcomes of paper tests in the catalogue")
    group.addoption("--evidence-file", default=str(EVIDENCE), help="where to record them")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker; start a recorder where asked, in the controlling process only."""
    config.addinivalue_line("markers", f"paper(key, kind): evidence for a paper; kind is one of {', '.join(KINDS)}")
    if config.getoption("record_evidence") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(config), "counterpoint-evidence")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Attach to each marked test the papers it speaks for; refuse marks that name none."""
    for item in items:
        for mark in item.iter_markers("paper"):
            item.user_properties.append((PROPERTY, _read_mark(item, mark)))
    collected = {item.nodeid for item in items}
    if recorder := config.pluginmanager.get_plugin("counterpoint-evidence"):
        recorder.collected = collected
    elif hasattr(config, "workeroutput"):
        config.workeroutput[PROPERTY] = sorted(collected)


def _read_mark(item: pytest.Item, mark: pytest.Mark) -> list[str]:
    if len(mark.args) != 2 or mark.kwargs or mark.args[1] not in KINDS:
        raise pytest.UsageError(
            f"{item.nodeid}: expected pytest.mark.paper(key, kind) with kind one of {', '.join(KINDS)}, got {mark.args}"
        )
    try:
        return [get(mark.args[0]).key, mark.args[1]]
    except ValueError as error:
        raise pytest.UsageError(f"{item.nodeid}: {error}") from error


class Recorder:
    """Collects outcomes during a session and merges them into the file at its end."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.file = Path(config.getoption("evidence_file"))
        self.collected: set[str] = set()
        self.outcomes: dict[tuple[str, str], dict[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test passed if its call did; it failed if any of its phases did."""
        if not (report.failed or (report.passed and report.when == "call")):
            return
        for name, value in report.user_properties:
            if name == PROPERTY and isinstance(value, list):
                tests = self.outcomes.setdefault((value[0], value[1]), {})
                tests[report.nodeid] = "failed" if report.failed or tests.get(report.nodeid) == "failed" else "passed"

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Where tests run in several processes (pytest-xdist), each of them collects all, and this one none."""
        self.collected |= set(getattr(node, "workeroutput", {}).get(PROPERTY, ()))

    def pytest_sessionfinish(self) -> None:
        """Merge and write, atomically."""
        if not self.outcomes and not self.file.is_file():
            return
        recorded = self._forget(read_json(self.file) if self.file.is_file() else {})
        for (key, kind), tests in self.outcomes.items():
            entry = recorded.setdefault(key, {}).setdefault(kind, {"tests": {}})
            entry["tests"] = dict(sorted({**entry["tests"], **tests}.items()))
            entry.update(date=datetime.date.today().isoformat(), commit=_commit(self.config.rootpath))
            entry["versions"] = _versions()
        write_json(self.file, {key: recorded[key] for key in sorted(recorded, key=_order)})

    def _forget(self, recorded: dict[str, Any]) -> dict[str, Any]:
        """Leave out tests that no longer exist, and whatever then has none."""
        whole = not any("::" in argument for argument in self.config.args)
        files = {test.split("::")[0] for test in self.collected} if whole else set()

        def exists(test: str) -> bool:
            file = test.split("::")[0]
            return (self.config.rootpath / file).is_file() and (file not in files or test in self.collected)

        kept: dict[str, Any] = {}
        for key, kinds in recorded.items():
            for kind, entry in kinds.items():
                if tests := {test: outcome for test, outcome in entry["tests"].items() if exists(test)}:
                    kept.setdefault(key, {})[kind] = {**entry, "tests": tests}
        return kept


def _order(key: str) -> tuple[bool, int]:
    return (key.startswith("B"), int(key.lstrip("B")))


def _commit(folder: Path) -> str | None:
    command = ["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("counterpoint", "torch", "lightning", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
