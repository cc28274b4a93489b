"""scikit-learn's face: ``fit`` and ``transform``, so that an encoder can stand in a pipeline or a grid search."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

if TYPE_CHECKING:
    from counterpoint.data import Dataset
    from counterpoint.experiments.run import Run


class ContrastiveEncoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Learn features of vectors or images without labels (or with labels or targets, for methods that use them).

    Args:
        method: name of a method.
        encoder: ``"auto"``, or as for :func:`counterpoint.fit`.
        epochs: passes over the data.
        batch_size: items a step; default 256 or all there are.
        lr: peak learning rate.
        views: as for :func:`counterpoint.fit`.
        options: the method's own parameters.
        random_state: seed.

    Attributes:
        encoder_: the trained :class:`~counterpoint.encoders.Encoder`.
        history_: a dict per epoch: epoch, step, loss, seconds.
        n_features_in_: F of vectors; for images, pixels times channels.

    ``fit(X, y)`` takes X (N, F) floats, standardised inside, or images as :func:`counterpoint.data.load` takes them:
    (N, H, W), (N, C, H, W) or (N, H, W, C), uint8 or floats in [0, 1]. ``transform`` gives (N, features) float32. Needs
    two samples at least: one has nothing to be contrasted with.
    """

    def __init__(
        self,
        method: str = "simclr",
        *,
        encoder: str = "auto",
        epochs: int = 20,
        batch_size: int | None = None,
        lr: float = 1e-3,
        views: Any = "auto",
        options: dict[str, Any] | None = None,
        random_state: int = 0,
    ) -> None:
        self.method = method
        self.encoder = encoder
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.views = views
        self.options = options
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> ContrastiveEncoder:
        """Train on X and, for methods that use it, y: labels, or a target if fractions or needed by the method.

        Raises:
            ValueError: fewer than two samples, or a y that the method cannot use.
        """
        X = self._checked(X, reset=True)
        if len(X) < 2:
            raise ValueError(f"X: {len(X)} sample, and a single one has nothing to be contrasted with; give 2 or more")
        with tempfile.TemporaryDirectory() as folder:
            run = self._train(self._data(X, y), folder)
            self.encoder_ = run.encoder()
            self.history_ = run.metrics
        self._n_features_out = self.encoder_.features
        return self

    def _data(self, X: np.ndarray, y: Any) -> Dataset:
        from counterpoint.data import load
        from counterpoint.data.targets import fractional
        from counterpoint.methods import get

        if y is None:
            return load(X)
        y = np.asarray(y).reshape(-1)
        if get(self.method).needs_target:
            return load((X, y), target="label", labels="none")
        if fractional(y) and np.ptp(y) > 0:
            return load((X, y))
        return load((X, np.unique(y, return_inverse=True)[1].reshape(-1)))

    def _train(self, dataset: Dataset, folder: str) -> Run:
        from counterpoint.data import Splits
        from counterpoint.experiments.fit import fit

        everything = np.arange(len(dataset))
        return fit(
            dataset,
            self.method,
            out=folder,
            encoder=self.encoder,
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            views=self.views,
            options=self.options,
            seed=self.random_state,
            splits=Splits(everything, everything[:0], everything[:0]),
            monitor=0,
            evaluate=False,
            report=False,
            progress=False,
            overwrite=True,
        )

    def transform(self, X: Any) -> np.ndarray:
        """Features (N, F') float32 of X."""
        import torch

        check_is_fitted(self, "encoder_")
        from counterpoint.data import load

        X = self._checked(X, reset=False)
        dataset = load(X)
        if dataset.shape != self.encoder_.shape:
            raise ValueError(f"X: items of shape {dataset.shape}, but this encoder was fitted on {self.encoder_.shape}")
        x = dataset[np.arange(len(dataset))][dataset.modality]
        with torch.inference_mode():
            return np.asarray(self.encoder_.embed(x))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # features are float32 whatever comes in
        return tags

    def _checked(self, X: Any, reset: bool) -> np.ndarray:
        dtype = None if getattr(X, "dtype", None) == np.uint8 and np.ndim(X) > 2 else np.float32
        return np.asarray(validate_data(self, X, reset=reset, dtype=dtype, allow_nd=True))
