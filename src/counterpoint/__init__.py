"""Counterpoint: contrastive representation learning on your own data.

    import counterpoint as cp

    run = cp.fit("photos/", method="simclr")        # train an encoder; run.folder holds everything, a report included
    cp.compare("photos/", methods=["simclr", "moco", "vicreg"], seeds=3)   # which is best here, and is that real?
    encoder = cp.load(run.folder)                   # a torch module from images to embeddings

Importing this package imports nothing heavy; each name below is loaded when it is first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "fit": "counterpoint.experiments.fit",
    "finetune": "counterpoint.experiments.finetune",
    "classify": "counterpoint.experiments.classify",
    "compare": "counterpoint.experiments.compare",
    "zero_shot": "counterpoint.experiments.zero_shot",
    "generate": "counterpoint.experiments.generate",
    "Run": "counterpoint.experiments.run",
    "Comparison": "counterpoint.experiments.compare",
    "ContrastiveEncoder": "counterpoint.experiments.estimator",
    "load": "counterpoint.encoders",
    "Encoder": "counterpoint.encoders",
    "embed": "counterpoint.search",
    "export": "counterpoint.encoders.export",
}
_FLOORS = (
    "data",
    "encoders",
    "evaluation",
    "experiments",
    "generators",
    "methods",
    "mining",
    "objectives",
    "pairwise",
    "papers",
    "search",
    "views",
    "web",
)

__all__ = ["__version__", *_NAMES, *_FLOORS]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    if name in _FLOORS:
        return import_module(f"counterpoint.{name}")
    raise AttributeError(f"module 'counterpoint' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
