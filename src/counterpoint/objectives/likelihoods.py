"""How probable data are under a decoder: log-likelihoods of pixels, numbers and tokens, entry by entry.

A decoder puts out parameters; a likelihood says what they mean. Called with parameters and data it gives the
log-likelihood of each entry, in nats and in the shape of the data, which an objective such as
:class:`~counterpoint.objectives.ContrastiveMIM` sums; ``mean`` gives the data that the parameters stand for.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from counterpoint.objectives.inputs import embeddings

_ANY = tuple(range(2, 7))


def log_normal(x: Tensor, mean: Tensor | float = 0.0, log_scale: Tensor | float = 0.0) -> Tensor:
    """Log density of a normal distribution, entry by entry, its constant included.

    ``- (log(2 pi) + ((x - mean) / exp(log_scale))^2) / 2 - log_scale``, in the shape to which the arguments broadcast.
    It has no upper bound: at ``x = mean`` it grows as the scale falls.
    """
    scaled = (x - mean) * torch.exp(-torch.as_tensor(log_scale))
    return -0.5 * (math.log(2 * math.pi) + scaled.square()) - log_scale


class BernoulliLikelihood(nn.Module):
    """Pixels in [0, 1] as probabilities of being white: ``x log p + (1 - x) log(1 - p)``, where p = sigmoid(logits).

    What papers on auto-encoders use for digits. For grey values it is a cross entropy whose best value is not 0 but the
    entropy of the pixel, so that only differences mean anything.

    Shapes:
        ``likelihood(parameters, x)``: both (B, ...); parameters are logits.

    Raises:
        ValueError: on values outside [0, 1], shapes that differ, non-finite values.
    """

    def forward(self, parameters: Tensor, x: Tensor) -> Tensor:
        parameters, x = embeddings(_ANY, parameters=parameters, x=x)
        low, high = x.detach().aminmax()
        if float(low) < 0 or float(high) > 1:
            raise ValueError(f"x: expected values in [0, 1], got {float(low):.3g} to {float(high):.3g}")
        return -nn.functional.binary_cross_entropy_with_logits(parameters, x, reduction="none")

    def mean(self, parameters: Tensor) -> Tensor:
        """The probabilities, in the shape of the parameters."""
        return torch.sigmoid(parameters.float())


class GaussianLikelihood(nn.Module):
    """Real numbers around the decoder's means, with a scale for each feature (or channel) that is learned.

    The scale settles at the size of the error that remains, and so balances reconstruction against the terms on the
    code, whatever the units of the data. (The papers leave the scale open; a learned one is our choice.)

    Args:
        features: F, entries of dimension 1 of the data: features of vectors, channels of images.
        min_log_scale: where the log of the scale is clamped, since what can be reconstructed exactly, such as a
            constant feature, would drive it to minus infinity. -3, a twentieth of the data's spread; ours.

    Shapes:
        ``likelihood(parameters, x)``: both (B, F, ...); parameters are means.

    Raises:
        ValueError: on shapes that differ, non-finite values.
    """

    def __init__(self, features: int, min_log_scale: float = -3.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.min_log_scale = float(min_log_scale)

    def forward(self, parameters: Tensor, x: Tensor) -> Tensor:
        parameters, x = embeddings(_ANY, parameters=parameters, x=x)
        if x.shape[1] != len(self.log_scale):
            raise ValueError(f"x: expected (B, {len(self.log_scale)}, ...), got {tuple(x.shape)}")
        log_scale = self.log_scale.to(x).clamp(min=self.min_log_scale)
        return log_normal(x, parameters, log_scale.reshape(-1, *[1] * (x.ndim - 2)))

    def mean(self, parameters: Tensor) -> Tensor:
        """The parameters themselves."""
        return parameters.float()


class TokenLikelihood(nn.Module):
    """Tokens under a decoder that gives a score to each word of the vocabulary: the logarithm of a softmax.

    Shapes:
        ``likelihood(parameters, tokens)``: (B, T, V) logits and (B, T) integers, also where there is padding, which a
        mask then leaves out of the sum.

    Raises:
        ValueError: on tokens outside the vocabulary, shapes that do not match, non-finite logits.
    """

    def forward(self, parameters: Tensor, tokens: Tensor) -> Tensor:
        (parameters,) = embeddings((3,), parameters=parameters)
        words = parameters.shape[2]
        if tokens.shape != parameters.shape[:2] or tokens.is_floating_point():
            raise ValueError(
                f"tokens: expected {tuple(parameters.shape[:2])} integers, got {tuple(tokens.shape)} {tokens.dtype}"
            )
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= words:
            raise ValueError(f"tokens: expected 0 to {words - 1}, got {low} to {high}")
        return parameters.log_softmax(2).gather(2, tokens.long()[:, :, None])[:, :, 0]

    def mean(self, parameters: Tensor) -> Tensor:
        """The most probable tokens (B, T)."""
        return parameters.argmax(2)
