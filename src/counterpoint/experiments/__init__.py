"""What the command line and the notebook both call: fit one method, compare many, measure a paper's claim.

A :class:`~counterpoint.experiments.run.Run` is a folder that holds everything to use or repeat one training;
:func:`~counterpoint.experiments.fit.fit` makes one, :func:`~counterpoint.experiments.compare.compare` makes many on the
same footing and says which differences are real.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_NAMES = {
    "Comparison": "compare",
    "ContrastiveEncoder": "estimator",
    "Run": "run",
    "classify": "classify",
    "compare": "compare",
    "finetune": "finetune",
    "fit": "fit",
    "zero_shot": "zero_shot",
}
__all__ = ["Comparison", "ContrastiveEncoder", "Run", "classify", "compare", "finetune", "fit", "zero_shot"]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(f"counterpoint.experiments.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'counterpoint.experiments' has no attribute {name!r}")
