"""The data sets with a name of their own: two that a package ships, one that most people have."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

_CIFAR10 = "uoft-cs/cifar10"


def names() -> list[str]:
    """Names that :func:`counterpoint.data.load` knows without a path."""
    return ["cifar10", "diabetes", "digits"]


def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1,797 handwritten digits as uint8 ``(N, 8, 8)``, 0..16 scaled to 0..255, and their labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return np.rint(found.images * (255 / 16)).astype(np.uint8), found.target


def diabetes() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 442 patients (Efron et al. 2004): ten baseline figures ``(N, 10)`` and the disease a year later.

    The target is a clinical measure of progression from 25 to 346; the figures are in their own units.
    """
    from sklearn.datasets import load_diabetes

    found = load_diabetes(scaled=False)
    return found.data.astype(np.float32), found.target


def cifar10(root: str | os.PathLike[str] | None) -> Path | None:
    """Where the user keeps CIFAR-10 (Krizhevsky 2009), or None.

    Looked for in ``$COUNTERPOINT_DATA/cifar10``, ``./cifar10`` and ``./data/cifar10``, unless ``root`` says where.

    Raises:
        FileNotFoundError: there is nothing at ``root``.
        ValueError: what lies there is the pickled original, which only executing it would open.
    """
    if root:
        path = Path(root).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"root: there is no {path}. {_HELP}")
        places = [path]
    else:
        shared = os.environ.get("COUNTERPOINT_DATA")
        places = [*([Path(shared, "cifar10")] if shared else []), Path("cifar10"), Path("data", "cifar10")]
    place = next((place for place in places if place.exists()), None)
    if place is None or not place.is_dir():
        return place
    pickled = [folder for folder in (place, place / "cifar-10-batches-py") if (folder / "data_batch_1").exists()]
    if pickled:
        raise ValueError(
            f"root: {pickled[0]} holds the pickled version of CIFAR-10; opening a pickle runs code from it. {_HELP}"
        )
    return place


def cifar10_on_hub(download: bool) -> str:
    """Its name on the Hugging Face hub.

    Raises:
        FileNotFoundError: it was not found and ``download`` is False.
    """
    if not download:
        raise FileNotFoundError(
            "source: cifar10 was not found in $COUNTERPOINT_DATA/cifar10, ./cifar10 or ./data/cifar10, and nothing is "
            f"downloaded unasked. {_HELP}"
        )
    return _CIFAR10


_HELP = (
    "Point to a copy as cifar10:/path (train.parquet and test.parquet, or train/ and test/ with a folder of images for "
    "each class), or pass download=True to fetch it from the Hugging Face hub (about 170 MB)."
)
