"""A mixture of Gaussians in the space of the principal components: the cheapest generator that is worth the name."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from counterpoint.files import atomic, write_json

_MOST_ITEMS = 20_000  # that it is fitted to: enough for a covariance in 64 dimensions, and bounded memory
_MOST_DIMENSIONS, _MOST_COMPONENTS = 64, 100
_ITEMS_EACH = 50  # items for each component
_KEPT = 0.95  # share of the variance that the principal components keep
_FLOOR = 0.01  # of a covariance's diagonal, as a share of the mean variance: a component of few items stays a body


class Mixture:
    """Principal components, and in their space a mixture of Gaussians with full covariances.

    What the components leave out is lost, so images come out smooth; and where there are few components they come out
    as blends of things that are not alike. With ``components=1`` it knows mean and covariance only, which makes it a
    poor generator to measure others against.

    Args:
        shape: of an item, (C, H, W) or (F,).
        components: of the mixture; ``None`` is one for 50 items, up to 100.
        dimensions: principal components; ``None`` keeps 95 % of the variance, up to 64 of them.

    All defaults are ours.

    Raises:
        ValueError: a number below 1.
    """

    trains_by_steps = False

    def __init__(self, shape: Sequence[int], components: int | None = None, dimensions: int | None = None) -> None:
        for name, value in (("components", components), ("dimensions", dimensions)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        self.shape, self.components, self.dimensions = tuple(shape), components, dimensions
        self.arrays: dict[str, np.ndarray] = {}

    @property
    def config(self) -> dict[str, Any]:
        """What makes it anew."""
        return {"shape": list(self.shape), "components": self.components, "dimensions": self.dimensions}

    @staticmethod
    def most(items: int) -> int:
        """How many of so many items it is fitted to."""
        return min(items, _MOST_ITEMS)

    def fit(self, x: np.ndarray, seed: int = 0) -> Mixture:
        """Fit to items ``(N, *shape)``, floats; pixels in [0, 1].

        Raises:
            ValueError: fewer than two items, or fewer than there are components.
        """
        from sklearn.decomposition import PCA
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        flat = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
        most = min(len(flat) - 1, flat.shape[1])
        components = self.components or int(np.clip(len(flat) // _ITEMS_EACH, 1, _MOST_COMPONENTS))
        if most < 1 or components > len(flat):
            raise ValueError(
                f"data: a mixture of {components} needs at least {max(2, components)} items, not {len(flat)}"
            )
        with np.errstate(invalid="ignore"):  # the shares of no variance at all
            pca = PCA(min(most, self.dimensions or _MOST_DIMENSIONS), random_state=seed).fit(flat)
        kept = int(pca.n_components_)
        if self.dimensions is None:
            enough = _KEPT * float(flat.var(0, ddof=1).sum())
            kept = min(kept, 1 + int(np.searchsorted(np.cumsum(pca.explained_variance_), enough)))
        z = pca.transform(flat)[:, :kept]
        floor = _FLOOR * float(z.var(0).mean()) or 1e-6
        mixture = GaussianMixture(components, reg_covar=floor, max_iter=50, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fifty rounds are near enough
            mixture.fit(z)
        self.components, self.dimensions = components, kept
        self.arrays = {
            "mean": pca.mean_,
            "basis": pca.components_[:kept],
            "weights": mixture.weights_ / mixture.weights_.sum(),
            "centres": mixture.means_,
            "factors": np.linalg.cholesky(mixture.covariances_),
        }
        return self

    def sample(self, count: int, seed: Sequence[int]) -> np.ndarray:
        """``count`` new items ``(count, *shape)`` as float32; pixels are cut to [0, 1]. A function of ``seed``."""
        rng, a = np.random.default_rng(list(seed)), self.arrays
        which = rng.choice(len(a["weights"]), count, p=a["weights"])
        noise = rng.standard_normal((count, a["centres"].shape[1]))
        z = a["centres"][which] + np.einsum("nij,nj->ni", a["factors"][which], noise)
        x = (z @ a["basis"] + a["mean"]).reshape(count, *self.shape)
        drawn: np.ndarray = (x.clip(0, 1) if len(self.shape) == 3 else x).astype(np.float32)
        return drawn

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        from safetensors.numpy import save

        folder.mkdir(parents=True, exist_ok=True)
        with atomic(folder / "model.safetensors") as file:
            file.write(save({name: np.ascontiguousarray(value) for name, value in self.arrays.items()}))
        write_json(folder / "config.json", {"method": "gmm", **self.config})

    @classmethod
    def load(cls, folder: Path) -> Mixture:
        """Read what :meth:`save` wrote."""
        from safetensors.numpy import load

        config = json.loads((folder / "config.json").read_text("utf-8"))
        made = cls(config["shape"], config["components"], config["dimensions"])
        made.arrays = load((folder / "model.safetensors").read_bytes())
        return made
