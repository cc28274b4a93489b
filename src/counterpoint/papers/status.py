"""Status is computed, never written.

A paper's status comes from two kinds of files and from nothing else:

* ``evidence.json`` beside the catalogue, written by ``pytest --record-evidence``
  (:mod:`counterpoint.papers.evidence`): which tests of *parity* with the authors' figures, of *training* on real data
  and of its *documentation* ran, when, on which commit, and how they ended;
* results of claims, ``claims/results/*.json``: the paper's claim measured against its baseline, with a verdict.

A paper without evidence is planned. A claim that failed is shown as failed; that is worth as much as one that held.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from counterpoint.papers import Paper, baselines, papers

__all__ = ["KINDS", "STAGES", "VERDICTS", "Check", "Claim", "Status", "status", "statuses"]

KINDS = ("parity", "trains", "docs")
STAGES = ("planned", "parity", "trains", "claim")
VERDICTS = ("holds", "fails", "inconclusive")
HERE = Path(__file__).parent
EVIDENCE = HERE / "evidence.json"


@dataclass(frozen=True)
class Check:
    """Tests of one kind for one paper."""

    passed: int
    failed: tuple[str, ...]
    date: str | None = None
    commit: str | None = None

    @property
    def ok(self) -> bool:
        """At least one test passed and none failed."""
        return self.passed > 0 and not self.failed


@dataclass(frozen=True)
class Claim:
    """A measured claim: ``effect`` is method minus baseline in ``metric``, with its interval ``low`` to ``high``."""

    name: str
    title: str
    verdict: str
    effect: float | None
    low: float | None
    high: float | None
    metric: str | None
    seeds: int | None
    data: str | None
    date: str | None
    commit: str | None
    settings: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Status:
    """What is known about one paper."""

    key: str
    checks: dict[str, Check]
    claims: tuple[Claim, ...]

    @property
    def stage(self) -> str:
        """How far it got, one of :data:`STAGES`: a measured claim, else passing tests, else planned."""
        if self.claims:
            return "claim"
        for kind in ("trains", "parity"):
            if kind in self.checks and self.checks[kind].ok:
                return kind
        return "planned"

    @property
    def verdict(self) -> str | None:
        """Of all its claims together: one that fails decides, then one that is inconclusive."""
        found = {claim.verdict for claim in self.claims}
        return next((verdict for verdict in ("fails", "inconclusive", "holds") if verdict in found), None)

    @property
    def failing(self) -> tuple[str, ...]:
        """Kinds of evidence with a failing test."""
        return tuple(kind for kind, check in self.checks.items() if check.failed)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "status": self.stage,
            "verdict": self.verdict,
            "failing": list(self.failing),
            "checks": {kind: {**asdict(check), "ok": check.ok} for kind, check in self.checks.items()},
            "claims": [asdict(claim) for claim in self.claims],
        }


def results_folder() -> Path:
    """Where claim results lie: in the checkout, else in the copy that the package carries."""
    checkout = HERE.parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "claims").is_dir():
        return checkout / "claims" / "results"
    return HERE / "claims"


def status(paper: Paper, evidence: Path | None = None, results: Path | None = None) -> Status:
    """Status of one paper; see :func:`statuses`."""
    return statuses([paper], evidence, results)[paper.key]


def statuses(
    of: Iterable[Paper] | None = None, evidence: Path | None = None, results: Path | None = None
) -> dict[str, Status]:
    """Status of papers by key.

    Args:
        of: papers; all of the catalogue by default.
        evidence: file written by ``pytest --record-evidence``.
        results: folder of claim results.

    Raises:
        ValueError: a file that is not what it should be, named.
    """
    recorded = read_json(evidence or EVIDENCE) if (evidence or EVIDENCE).is_file() else {}
    folder = results or results_folder()
    measured: dict[str, list[Claim]] = {}
    for file in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        key, claim = _claim(file)
        measured.setdefault(key, []).append(claim)
    return {
        paper.key: Status(paper.key, _checks(recorded.get(paper.key, {})), tuple(measured.get(paper.key, ())))
        for paper in (papers() + baselines() if of is None else of)
    }


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ValueError: not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); delete it or record it again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _checks(recorded: dict[str, Any]) -> dict[str, Check]:
    checks = {}
    for kind in KINDS:
        if tests := recorded.get(kind, {}).get("tests"):
            failed = tuple(sorted(test for test, outcome in tests.items() if outcome != "passed"))
            entry = recorded[kind]
            checks[kind] = Check(len(tests) - len(failed), failed, entry.get("date"), entry.get("commit"))
    return checks


def _claim(file: Path) -> tuple[str, Claim]:
    value = read_json(file)
    if value.get("verdict") not in VERDICTS:
        raise ValueError(f"{file}: verdict: expected one of {', '.join(VERDICTS)}, got {value.get('verdict')!r}")
    if "paper" not in value:
        raise ValueError(f"{file}: no key 'paper'; expected a number of the catalogue or a baseline such as 'B1'")
    optional = ("effect", "low", "high", "metric", "seeds", "data", "date", "commit")
    return str(value["paper"]), Claim(
        name=value.get("name", file.stem),
        title=value.get("title", file.stem),
        verdict=value["verdict"],
        settings=tuple(value.get("settings", ())),
        **{name: value.get(name) for name in optional},
    )
