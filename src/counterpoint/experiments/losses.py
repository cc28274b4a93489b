"""Objectives by name, and how each is called: for looking at losses without training anything."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations, permutations
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from counterpoint import objectives

_EITHER = (("z1", "z2"), ("image", "text"), ("x", "y"))  # two views of equal standing
_ORDERED = (("frozen", "trained"), ("anchors", "keys"))  # of two kinds, which all rows take in turn
_ROLES = (("predictions", "targets"), ("queries", "keys"))  # of which the first alone learns, and there may be a bank
_ALONE = (["x"], ["codes"])  # rows that know of no positives


@dataclass(frozen=True)
class Chosen:
    """A loss as the user named it."""

    name: str
    kind: type[nn.Module]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def has_temperature(self) -> bool:
        """Whether a temperature can be set that the user has not set."""
        return "temperature" in inspect.signature(self.kind).parameters and "temperature" not in self.options

    def make(self, temperature: float, items: int) -> nn.Module:
        """The objective, in evaluation mode, where the ones that remember leave their state alone."""
        known = inspect.signature(self.kind).parameters
        options = {"temperature": temperature} if self.has_temperature else {}
        options |= {"items": items} if "items" in known else {}
        return self.kind(**{**options, **self.options}).double().eval()


@cache
def known_losses() -> dict[str, type[nn.Module]]:
    """The objectives that can be explained, by name."""
    kinds = {name: getattr(objectives, name) for name in objectives.__all__}
    return {name: kind for name, kind in kinds.items() if _is_module(kind) and refusal(kind) is None}


def _is_module(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, nn.Module)


def refusal(kind: type[nn.Module]) -> str | None:
    """Why an objective cannot be explained; ``None`` for one that can."""
    names = list(inspect.signature(kind.forward).parameters)[1:]
    if names[:1] == ["global_scores"]:
        return "it acts on scores of prototypes, not on pairs of embeddings"
    if names not in _ALONE and tuple(names[:2]) not in (*_EITHER, *_ORDERED, *_ROLES) and names[:1] != ["z"]:
        return f"it is called with {', '.join(names)}, which are not embeddings of views"
    after = list(inspect.signature(kind.forward).parameters.values())[2:] if names[:1] == ["z"] else []
    more = [p.name for p in after if p.default is p.empty and p.name not in ("index", "labels")]
    more += [name for name in names if name in ("neg_text", "logits")]  # of captions: rewrites, and a decoder's output
    if more:
        return f"it is called with {', '.join(more)} too, which views alone do not have"
    given = inspect.signature(kind).parameters.items()
    needed = [name for name, p in given if p.default is p.empty and p.kind is not p.VAR_KEYWORD and name != "items"]
    if needed:
        return f"it needs {', '.join(needed)}, which only a training has"
    return None


def chosen(losses: str) -> list[Chosen]:
    """``ntxent,cacr:tau_neg=2:weights=none`` as objectives.

    Raises:
        ValueError: an unknown name or option, with those that are meant; one that cannot be explained, and why.
    """
    found: dict[str, Chosen] = {}
    for word in (word.strip() for word in losses.split(",")):
        if word:
            one = _one(word)
            if one.name in found:
                raise ValueError(f"losses: {one.name!r} is named twice")
            found[one.name] = one
    if not found:
        raise ValueError(f"losses: none given; there are {', '.join(known_losses())}")
    return list(found.values())


def _one(word: str) -> Chosen:
    name, *pairs = word.split(":")
    every = {name.lower(): name for name in objectives.__all__ if _is_module(getattr(objectives, name))}
    simple = name.strip().lower().replace("-", "").replace("_", "")
    if simple not in every:
        near = difflib.get_close_matches(simple, every, n=1)
        hint = f"did you mean {every[near[0]]!r}?" if near else f"there are {', '.join(known_losses())}"
        raise ValueError(f"losses: no objective {name!r}; {hint}")
    kind = getattr(objectives, every[simple])
    why = refusal(kind)
    if why is not None:
        raise ValueError(f"losses: {every[simple]!r} cannot be explained: {why}")
    parameters = [p for p in inspect.signature(kind).parameters if p not in ("items", "reduction")]
    options = {}
    for pair in pairs:
        key, equals, given = (part.strip() for part in pair.partition("="))
        if not equals or key not in parameters:
            raise ValueError(f"losses: {every[simple]} has no option {pair!r}; it has {', '.join(parameters)}")
        options[key] = yaml.safe_load(given)
    label = every[simple] + (f" ({', '.join(f'{k}={v}' for k, v in options.items())})" if options else "")
    made = Chosen(label, kind, options)
    try:
        made.make(0.1, 2)
    except (TypeError, ValueError) as error:
        raise ValueError(f"losses: {word!r}: {error}") from error
    return made


@dataclass(frozen=True)
class Call:
    """A loss of embeddings alone: ``function(*inputs)``, the item of each row, and how many inputs learn."""

    function: Callable[..., Tensor]
    inputs: list[Tensor]
    groups: list[Tensor]
    anchors: int | None = None


def call(objective: nn.Module, z: Tensor, bank: Tensor, labels: Tensor | None = None) -> Call:
    """How an objective is called with views ``z`` (V, B, D), a bank (K, D) of other items, and labels (B,).

    Losses of two views are averaged over all pairs of views, those that tell one from the other in both orders; losses
    that know of no positives, over the views. One that asks for labels and rows gets all views as its rows, labelled by
    their items where there are no other labels.
    """
    parameters = inspect.signature(objective.forward).parameters
    names, number, count = list(parameters), *z.shape[:2]
    items = torch.arange(count)
    known = {"index": items} if "index" in names else {}
    if labels is not None and "labels" in names:
        known["labels"], items = labels, labels
    groups = items.expand(number, count)
    if names == ["z", "labels"] and parameters["labels"].default is inspect.Parameter.empty:
        return Call(lambda x: objective(x.flatten(0, 1), groups.flatten()), [z], [groups])
    if names[0] == "z":
        return Call(lambda x: objective(x, **known), [z], [groups])
    if names in _ALONE:
        return Call(lambda x: _mean(objective(view) for view in x), [z], [groups])
    if tuple(names[:2]) in (*_EITHER, *_ORDERED):
        ways = combinations if tuple(names[:2]) in _EITHER else permutations
        return Call(lambda x: _mean(objective(a, b, **known) for a, b in ways(x, 2)), [z], [groups])
    banks, banked = ([bank], [count + torch.arange(len(bank))]) if "negatives" in names else ([], [])

    def pairs(q: Tensor, k: Tensor, *n: Tensor) -> Tensor:
        return _mean(objective(q[a], k[b], *n) for a, b in permutations(range(number), 2))

    function = pairs if _takes_matrices(objective, z, banks) else objective
    return Call(function, [z, z, *banks], [groups, groups, *banked], 1)


def _takes_matrices(objective: nn.Module, z: Tensor, banks: list[Tensor]) -> bool:
    """Whether queries and keys are (B, D); they are (V, B, D) else."""
    try:
        objective(z[0], z[1], *banks)
    except ValueError as error:
        if "(V, rows, D)" not in str(error):
            raise
        return False
    return True


def _mean(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()
