"""What auto-encoders share: a code of each item, a decoder of it, and what the two can do once they are trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from counterpoint.encoders import Encoder, Gaussian, GaussianLatent, ImageDecoder, VectorDecoder
from counterpoint.encoders.informative import Pool, known_pool, pool_states
from counterpoint.findings import Curves, Finding, Heatmap, Pictures
from counterpoint.methods.base import Method, Recipe, Views
from counterpoint.objectives import BernoulliLikelihood, GaussianLikelihood

_ROWS, _PAIRS, _STEPS, _FEATURES = 4, 3, 7, 24


class Codec(nn.Module):
    """All that is trained beside the encoder, as one head: what a run keeps of it brings the decoder back too.

    Shapes:
        features (B, F) to the mean of the code (B, L), or to the informative embedding (B, D).
    """

    def __init__(self, latent: GaussianLatent, decoder: Any, likelihood: nn.Module, embedding: str, pool: Pool) -> None:
        super().__init__()
        self.latent, self.decoder, self.likelihood = latent, decoder, likelihood
        self.embedding, self.pool = embedding, pool

    def forward(self, h: Tensor) -> Tensor:
        mean = self.latent.mean(h).float()
        return mean if self.embedding == "latent" else pool_states(self.decoder.hidden(mean), self.pool)


class LatentVariable(Method):
    """An encoder, a code and a decoder, trained on items as they are; a subclass says by which ``criterion``.

    The criterion takes the log-likelihood (B, *shape) and the samples, means and log scales (B, L) of the codes.

    ``views="auto"`` are the items themselves. Several views are encoded and decoded each by itself, and their losses
    averaged. Reconstructed is what the encoder was shown: pixels in [0, 1], or vectors standardised as the encoder
    standardises them.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        latent_dim: L.
        min_log_scale: see :class:`~counterpoint.encoders.GaussianLatent`.
        decoder: ``"conv"`` (:class:`~counterpoint.encoders.ImageDecoder`), ``"mlp"``
            (:class:`~counterpoint.encoders.VectorDecoder`), or ``"auto"``: an MLP where the encoder is one.
        widths: of the decoder; ``None`` for its own.
        likelihood: ``"bernoulli"``, ``"gaussian"``, or ``"auto"``: Bernoulli for images, Gaussian for vectors.
        embedding: what :meth:`project` gives: ``"latent"``, the mean of the code; or ``"informative"``, the decoder's
            last hidden states, see :func:`~counterpoint.encoders.informative_embedding`.
        pool: of these states where they are maps; ``None`` averages them over 4 x 4 parts.
    """

    n_views = None
    auto_views = "identity"
    projector: Codec
    criterion: nn.Module

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None,
        recipe: Recipe | None,
        latent_dim: int,
        min_log_scale: float,
        decoder: str,
        widths: Sequence[int] | None,
        likelihood: str,
        embedding: str,
        pool: Pool | None,
    ) -> None:
        super().__init__(encoder, views, recipe)
        image = len(encoder.shape) == 3
        for name, value, known in (
            ("decoder", decoder, ("auto", "conv", "mlp")),
            ("likelihood", likelihood, ("auto", "bernoulli", "gaussian")),
            ("embedding", embedding, ("latent", "informative")),
        ):
            if value not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
        if decoder == "auto":
            decoder = "mlp" if not image or encoder.config["name"] == "mlp" else "conv"
        if decoder == "conv" and not image:
            raise ValueError("decoder: 'conv' makes images, and the data are vectors; use 'mlp'")
        bernoulli = image if likelihood == "auto" else likelihood == "bernoulli"
        given = {} if widths is None else {"widths": tuple(widths)}
        kind = ImageDecoder if decoder == "conv" else VectorDecoder
        self.projector = Codec(
            GaussianLatent(encoder.features, latent_dim, min_log_scale),
            kind(latent_dim, encoder.shape, **given),
            BernoulliLikelihood() if bernoulli else GaussianLikelihood(encoder.shape[0]),
            embedding,
            known_pool((4 if decoder == "conv" else "mean") if pool is None else pool),
        )
        self.bernoulli = bernoulli

    @property
    def decoder(self) -> Any:
        """From codes (B, L) to the parameters of the likelihood, (B, *shape)."""
        return self.projector.decoder

    def encode(self, x: Tensor) -> Gaussian:
        """The distribution of the code of items (B, *shape)."""
        posterior: Gaussian = self.projector.latent(self.encoder(x))
        return posterior

    def decode(self, z: Tensor) -> Tensor:
        """Items (B, *shape) from codes (B, L): pixels in [0, 1], or vectors in the units of the data."""
        mean: Tensor = self.projector.likelihood.mean(self.decoder(z))  # type: ignore[operator]
        if self.bernoulli:
            return mean
        x = mean * self.encoder.std + self.encoder.mean
        return x.clamp(0, 1) if x.ndim == 4 else x

    def reconstruct(self, x: Tensor) -> Tensor:
        """Items (B, *shape) from the means of their codes."""
        return self.decode(self.encode(x).mean)

    def sample(self, count: int, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """New items (count, *shape) from the prior, whose standard deviation a temperature below 1 shrinks.

        Raises:
            ValueError: a count below 1, a negative temperature.
        """
        if count < 1 or temperature < 0:
            raise ValueError(f"count, temperature: expected at least 1 and at least 0, got {count} and {temperature}")
        z = torch.randn(count, self.projector.latent.mean.out_features, generator=generator)
        return self.decode(temperature * z.to(self.encoder.mean.device))

    def interpolate(self, first: Tensor, second: Tensor, steps: int = _STEPS) -> Tensor:
        """Items (B, steps, *shape) on the straight lines between the codes of items of two batches (B, *shape)."""
        a, b = self.encode(first).mean, self.encode(second).mean
        z = torch.stack([torch.lerp(a, b, at) for at in torch.linspace(0, 1, steps).tolist()], 1)
        return self.decode(z.flatten(0, 1)).unflatten(0, (len(a), steps))

    def log_likelihood(self, z: Tensor, x: Tensor) -> Tensor:
        """``log p(x|z)`` (B, *shape) entry by entry, in nats; of vectors, in standardised units."""
        x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        if x.shape[1:] != torch.Size(self.encoder.shape):
            raise ValueError(f"views: this method reconstructs items of {self.encoder.shape}, got {tuple(x.shape[1:])}")
        target = x if self.bernoulli else (x - self.encoder.mean) / self.encoder.std
        found: Tensor = self.projector.likelihood(self.decoder(z).float(), target)
        return found

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        return torch.stack([self._loss(view) for view in views]).mean()

    def _loss(self, x: Tensor) -> Tensor:
        posterior = self.encode(x)
        z = posterior.sample()
        likelihood = self.log_likelihood(z, x)
        found: Tensor = self.criterion(likelihood, z, *posterior)
        entries = -likelihood.detach().flatten(1)
        rebuilt = (entries.sum(1) if self.criterion.recon_reduction == "sum" else entries.mean(1)).mean()
        self.tell(**{"loss:reconstruction": rebuilt, "loss:code": found - rebuilt})
        return found

    def findings(self, dataset: Any, indices: Any) -> Sequence[Finding]:
        x = dataset[indices][dataset.modality].to(self.encoder.mean.device)
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        if x.ndim == 4:
            return [*(self._pictures(x) if x.shape[1] in (1, 3) else ()), self._dimensions(x)]
        return [self._explained(x), self._dimensions(x)]

    def _pictures(self, x: Tensor) -> list[Finding]:
        """Reconstructions, samples and interpolations of the first items, spread over those that there are."""
        some = x[np.linspace(0, len(x) - 1, min(len(x), _ROWS * _PAIRS)).round().astype(int)]
        rows = max(1, len(some) // _PAIRS)
        some = some[: rows * _PAIRS]
        beside = torch.stack([some, self.reconstruct(some)], 1).unflatten(0, (rows, -1)).flatten(1, 2)
        pairs = len(some) // 2
        found = [
            Pictures(
                "Items and reconstructions",
                "Test items, and to the right of each what the decoder makes of the mean of its code.",
                _pixels(beside),
                ["item", "reconstruction"] * (beside.shape[1] // 2),
            ),
            Pictures(
                "Samples from the prior",
                "Codes drawn from the standard normal distribution, decoded.",
                _pixels(self.sample(_ROWS * 2 * _PAIRS).unflatten(0, (_ROWS, -1))),
            ),
            Pictures(
                "Samples from where the codes lie",
                "Codes drawn from a normal distribution with mean and covariance of the test items' codes. Where "
                "these samples are better than the prior's, the codes do not fill the prior: a mutual information "
                "machine presses them together, a variational auto-encoder spreads them.",
                _pixels(self.decode(_alike(self.encode(x).mean, _ROWS * 2 * _PAIRS)).unflatten(0, (_ROWS, -1))),
            ),
        ]
        if pairs:
            between = self.interpolate(some[:pairs], some[pairs : 2 * pairs])[:_ROWS]
            told = "Each row decodes codes on the straight line between those of two test items."
            found.append(Pictures("Between two items", told, _pixels(between)))
        return list(found)

    def _dimensions(self, x: Tensor) -> Curves:
        mean, log_scale = self.encode(x)
        spread, scale = mean.std(0, unbiased=False), log_scale.exp().mean(0)
        order = spread.argsort(descending=True)
        return Curves(
            "Dimensions of the code",
            "For each dimension, most used first: how far the means of the test items spread, and the mean scale of "
            "the posterior. A dimension whose means do not spread says nothing of the item; the prior's spread is 1.",
            np.arange(1, len(order) + 1),
            {"means": spread[order].cpu().numpy(), "posterior": scale[order].cpu().numpy()},
            "dimension",
            "standard deviation",
        )

    def _explained(self, x: Tensor) -> Heatmap:
        """How much of the variance of each feature of vectors the reconstruction explains."""
        error = (self.reconstruct(x) - x).square().mean(0)
        share = 1 - error / x.var(0, unbiased=False).clamp(min=1e-12)
        constant = x.std(0, unbiased=False) < 1e-6
        shown = torch.where(constant, torch.nan, share.clamp(min=-1))[:_FEATURES]
        return Heatmap(
            "What the reconstruction explains",
            f"Share of each feature's variance over the test items (of {x.shape[1]} features the first {len(shown)}): "
            "1 is exact, 0 no better than the mean. Constant features are empty.",
            shown.double().cpu().numpy()[None],
            ["explained"],
            [str(at) for at in range(1, len(shown) + 1)],
        )


def _alike(codes: Tensor, count: int) -> Tensor:
    """Draws (count, L) from a normal distribution with the mean and the covariance of codes (N, L)."""
    mean = codes.mean(0)
    return mean + torch.randn(count, len(codes), device=codes.device) @ (codes - mean) / len(codes) ** 0.5


def _pixels(x: Tensor) -> np.ndarray:
    """(R, C, channels, H, W) in [0, 1] to uint8 (R, C, H, W, channels)."""
    return np.asarray(x.clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).cpu())
