"""A claim as data: settings, arms, the check of their budgets, and the rule of the verdict."""

from __future__ import annotations

import ast
import contextlib
import difflib
import hashlib
import inspect
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from counterpoint import papers
from counterpoint.experiments.fit import fit, plain

ARMS = ("method", "baseline")
SEEDS = (0, 1, 2, 3, 4)
Arm = Mapping[str, Any] | Callable[..., Any]
# given by run_claim, the same for both arms or different by nature
_RESERVED = ("data", "seed", "out", "resume", "overwrite", "progress", "threads", "root")
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class DataMissing(FileNotFoundError):
    """Raised by a callable arm where the user's data are not on this machine: the setting is then not run."""


@dataclass(frozen=True)
class Setting:
    """A claim on one kind of data.

    An arm is either a mapping of arguments of :func:`counterpoint.fit`, with one key more, ``"score"``: the name of
    the score to take (default ``metric``), or a function ``(run) -> Evaluation`` that measures the finished
    :class:`~counterpoint.experiments.run.Run` itself. Or it is a function ``(seed, folder) -> Evaluation`` (or a dict
    of scores) that does all of it, keeps what it writes in ``folder``, and takes ``root`` too if it has a parameter of
    that name; its budget cannot be checked here and its file must say what it is.

    Args:
        name: slug, unique in the claim.
        data: as for fit, a word.
        metric: name of the score that decides.
        arms: ``{"method": ..., "baseline": ...}``.
        shared: arguments of fit for both arms. Claims leave out the report and the monitor unless asked for here.
        differs: arguments in which the arms may differ.
        seeds: at least two for a verdict.
        higher_is_better: False where a low score is good.
        at_least: the smallest effect that counts, in units of the metric and in the claimed direction; negative where
            the claim is "no worse than by so much".
        root: where the data lie, if the word alone does not say.
        needs: what the user must have, shown where it is missing.
        notes: what a reader should know about the fairness of the comparison.

    Raises:
        ValueError: arms on different budgets, an argument that fit does not have, names or numbers out of range.
    """

    name: str
    data: str
    metric: str
    arms: Mapping[str, Arm]
    shared: Mapping[str, Any] = field(default_factory=dict)
    differs: Sequence[str] = ("method",)
    seeds: Sequence[int] = SEEDS
    higher_is_better: bool = True
    at_least: float = 0.0
    root: str | None = None
    needs: str = ""
    notes: str = ""

    def __post_init__(self) -> None:
        if not _SLUG.fullmatch(self.name):
            raise ValueError(f"name: expected small letters, digits and dashes, got {self.name!r}")
        if set(self.arms) != set(ARMS):
            raise ValueError(f"arms: {self.name} has {sorted(self.arms)}; expected exactly 'method' and 'baseline'")
        if not math.isfinite(self.at_least):
            raise ValueError(f"at_least: expected a finite number, got {self.at_least}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds: expected different integers from 0, got {list(self.seeds)}")
        self._check_arguments()
        if self.budget_checked:
            self._check_budget()

    @property
    def budget_checked(self) -> bool:
        """Whether both arms are arguments of fit, so that their budgets could be compared."""
        return all(isinstance(arm, Mapping) for arm in self.arms.values())

    def arguments(self, arm: str) -> dict[str, Any]:
        """The arguments of fit of one arm, ``score`` included; empty for a callable arm."""
        given = self.arms[arm]
        quiet = {"report": False, "monitor": 0}
        return {"score": self.metric, **quiet, **self.shared, **given} if isinstance(given, Mapping) else {}

    def definition(self) -> dict[str, Any]:
        """What was measured, as plain data: two measurements belong together only if this is equal."""
        arms = {name: _described(self.arguments(name) or self.arms[name]) for name in ARMS}
        rest = {name: getattr(self, name) for name in ("data", "metric", "higher_is_better", "at_least")}
        return {**rest, "arms": arms}

    def verdict(self, low: float, high: float, seeds: int) -> str:
        """``holds``, ``fails`` or ``inconclusive``, by the rule in :mod:`counterpoint.experiments.claims`.

        Args:
            low: lower end of the interval of method minus baseline, in units of the metric.
            high: upper end.
            seeds: over how many it speaks; one is none.
        """
        if not self.higher_is_better:
            low, high = -high, -low
        if seeds < 2:
            return "inconclusive"
        if low > self.at_least:
            return "holds"
        return "fails" if high < self.at_least or (self.at_least == 0 and high <= 0) else "inconclusive"

    def _check_arguments(self) -> None:
        known = inspect.signature(fit).parameters
        for part in (self.shared, *(arm for arm in self.arms.values() if isinstance(arm, Mapping))):
            for name in part:
                if name in _RESERVED:
                    raise ValueError(f"arms: {name!r} is not for an arm to choose; it is given when the claim is run")
                if name not in known and name != "score":
                    raise ValueError(f"arms: fit has no argument {name!r}{nearest(name, known)}")

    def _check_budget(self) -> None:
        default = {name: value.default for name, value in inspect.signature(fit).parameters.items()}
        method, baseline = ({**default, **self.arguments(arm)} for arm in ARMS)
        unequal = [name for name in method if method[name] != baseline[name]]
        if not unequal:
            raise ValueError(f"arms: in {self.name}, method and baseline are the same; what is to be measured?")
        hidden = [name for name in unequal if name not in self.differs]
        if hidden:
            found = ", ".join(f"{name} ({method[name]!r} and {baseline[name]!r})" for name in hidden)
            raise ValueError(
                f"arms: in {self.name}, method and baseline differ in {found}. Tune both sides alike, or, where the "
                "claim is about just that, name it in differs."
            )


@dataclass(frozen=True)
class Claim:
    """What a paper says, and the experiment that would show it.

    Args:
        paper: number of the catalogue, 1 to 72, or the key of a baseline such as ``"B1"``.
        name: slug; that of its file.
        title: in a few words.
        statement: the paper's claim in our words.
        source: where the paper says it.
        settings: at least one.
        file: where it was read from.

    Raises:
        ValueError: a paper that the catalogue lacks, no settings, or two of one name.
    """

    paper: int | str
    name: str
    title: str
    statement: str
    source: str
    settings: Sequence[Setting]
    file: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "paper", papers.get(self.paper).key)
        if not _SLUG.fullmatch(self.name):
            raise ValueError(f"name: expected small letters, digits and dashes, got {self.name!r}")
        names = [setting.name for setting in self.settings]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"settings: expected at least one, each with a name of its own, got {names}")


def overall(verdicts: Iterable[str]) -> str:
    """Verdict of a claim from those of its settings, by the rule in :mod:`counterpoint.experiments.claims`."""
    found = list(verdicts)
    if "fails" in found:
        return "fails"
    if all(verdict == "not run" for verdict in found):
        return "not run"
    return "holds" if all(verdict == "holds" for verdict in found) else "inconclusive"


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the known name nearest to ``word``, or all there are."""
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.4)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(names) or 'none'}"


def _described(value: Any) -> Any:
    """Plain data; functions and classes by name and a digest of their code, so that a changed one is another one."""
    if isinstance(value, Mapping):
        return {str(name): _described(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_described(item) for item in value]
    if not callable(value) or hasattr(value, "to_config"):
        return plain(value)
    name = f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', type(value).__name__)}"
    try:
        code = textwrap.dedent(inspect.getsource(value))
    except (OSError, TypeError):  # a partial, or typed into a notebook
        return name
    with contextlib.suppress(SyntaxError):  # a lambda within a longer expression
        code = ast.unparse(ast.parse(code))  # comments and layout do not count
    return f"{name}@{hashlib.sha256(code.encode()).hexdigest()[:12]}"
