"""Decoders: from a code back to a vector, an image or a sentence; and the Gaussian code that they are trained on.

A decoder is ``hidden``, which makes states of a code, and ``output``, the layer that maps the states to the parameters
of a likelihood (logits, means). :func:`~counterpoint.encoders.informative.informative_embedding` takes the states just
before that layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

MIN_LOG_SCALE = -6.0


class Gaussian(NamedTuple):
    """A normal distribution over codes for each item: ``mean`` and ``log_scale``, both (B, L) float32."""

    mean: Tensor
    log_scale: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """``mean + noise * exp(log_scale)``, with the gradient of both."""
        noise = torch.randn(self.mean.shape, dtype=self.mean.dtype, device=self.mean.device, generator=generator)
        return self.mean + noise * self.log_scale.exp()


class GaussianLatent(nn.Module):
    """Features to a normal distribution over codes: a linear layer for the mean, one for the log of the scale.

    Args:
        in_dim: F.
        latent_dim: L.
        min_log_scale: where the log of the standard deviation is clamped; -6, KERMT's. MIM drives it there and, without
            the clamp, further. Below it the clamp passes no gradient.

    Shapes:
        (B, F) to a :class:`Gaussian` of (B, L); computed in float32 also under autocast.
    """

    def __init__(self, in_dim: int, latent_dim: int, min_log_scale: float = MIN_LOG_SCALE) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim: expected at least 1, got {latent_dim}")
        self.mean, self.log_scale = nn.Linear(in_dim, latent_dim), nn.Linear(in_dim, latent_dim)
        self.min_log_scale = float(min_log_scale)

    def forward(self, h: Tensor) -> Gaussian:
        return Gaussian(self.mean(h).float(), self.log_scale(h).float().clamp(min=self.min_log_scale))


class VectorDecoder(nn.Module):
    """Fully connected layers with ReLU from a code to a vector, or to an image taken as a vector.

    Args:
        latent_dim: L.
        shape: of an item: (F,) or (C, H, W).
        widths: of the hidden layers.

    Shapes:
        (B, L) to (B, *shape); ``hidden`` gives (B, widths[-1]).
    """

    def __init__(self, latent_dim: int, shape: Sequence[int], widths: Sequence[int] = (256, 256)) -> None:
        super().__init__()
        if not widths:
            raise ValueError("widths: expected at least one hidden layer, got none")
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Linear(latent_dim, width), nn.ReLU()]
            latent_dim = width
        self.shape, self.states = torch.Size(shape), nn.Sequential(*layers)
        self.output = nn.Linear(latent_dim, self.shape.numel())

    def hidden(self, z: Tensor) -> Tensor:
        """The states (B, W) just before the output layer."""
        return self.states(z)

    def forward(self, z: Tensor) -> Tensor:
        return self.output(self.hidden(z)).unflatten(1, self.shape)


class ImageDecoder(nn.Module):
    """A small image from a code: a linear layer to a 4 pixel map, then upsampling, convolution, group norm, ReLU.

    As many doublings as lead from about 4 pixels to the side of the image, for images of 8 to 64 pixels. Pixels are
    repeated and then convolved, which leaves no checkerboard as transposed convolutions do. Nothing in it depends on
    the other items of the batch.

    Args:
        latent_dim: L.
        shape: (C, H, W), any number of channels.
        widths: channels of the first map and after each doubling; ``None``: 32 at the end, twice as many a doubling
            before, and at most 128.

    Shapes:
        (B, L) to (B, C, H, W); ``hidden`` gives (B, widths[-1], H, W).

    Raises:
        ValueError: a shape that is no image, or another number of widths than of doublings and one.
    """

    def __init__(self, latent_dim: int, shape: Sequence[int], widths: Sequence[int] | None = None) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape: expected (C, H, W), got {tuple(shape)}")
        channels, *side = shape
        sizes = [tuple(side)]
        while max(sizes[0]) > 4 or len(sizes) < 2:
            sizes.insert(0, tuple(-(-length // 2) for length in sizes[0]))
        if widths is None:
            widths = [min(128, 32 << (len(sizes) - 1 - at)) for at in range(len(sizes))]
        if len(widths) != len(sizes):
            raise ValueError(f"widths: expected {len(sizes)} for images of {side[0]} x {side[1]}, got {len(widths)}")
        layers: list[nn.Module] = [
            nn.Linear(latent_dim, widths[0] * math.prod(sizes[0])),
            nn.ReLU(),
            nn.Unflatten(1, (widths[0], *sizes[0])),
        ]
        for size, before, width in zip(sizes[1:], widths, widths[1:], strict=False):
            layers += [nn.Upsample(size=size), nn.Conv2d(before, width, 3, padding=1, bias=False)]
            layers += [nn.GroupNorm(math.gcd(8, width), width), nn.ReLU()]
        self.states = nn.Sequential(*layers)
        self.output = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def hidden(self, z: Tensor) -> Tensor:
        """The maps (B, W, H, W) just before the output layer."""
        return self.states(z)

    def forward(self, z: Tensor) -> Tensor:
        return self.output(self.hidden(z))


class TokenDecoder(nn.Module):
    """A recurrent decoder of sentences that reads the code, and each word before it writes the next.

    A gated recurrent network starts from the code and sees it again with each word. Training and the informative
    embedding show it the right words so far (teacher forcing); :meth:`generate` shows it its own.

    Args:
        vocabulary: V, tokens 0 to V - 1; there is one more inside, which begins a sentence.
        latent_dim: L.
        width: of the states and of the words.
        layers: of the recurrent network.

    Shapes:
        ``decoder(z, tokens)``: (B, L) and (B, T) integers to logits (B, T, V), where those at t depend on the code and
        the tokens before t alone; ``hidden(z, tokens)`` gives (B, T, width).

    Raises:
        ValueError: on tokens outside the vocabulary, or shapes that do not match.
    """

    def __init__(self, vocabulary: int, latent_dim: int, width: int = 256, layers: int = 1) -> None:
        super().__init__()
        self.vocabulary, self.layers = vocabulary, layers
        self.words = nn.Embedding(vocabulary + 1, width)
        self.start = nn.Linear(latent_dim, layers * width)
        self.states = nn.GRU(width + latent_dim, width, layers, batch_first=True)
        self.output = nn.Linear(width, vocabulary)

    def hidden(self, z: Tensor, tokens: Tensor) -> Tensor:
        """The states (B, T, width) just before the output layer, the right words shown."""
        check_tokens(tokens, self.vocabulary)
        if len(tokens) != len(z):
            raise ValueError(f"tokens: expected {len(z)} sentences as there are codes, got {len(tokens)}")
        shown = torch.cat([tokens.new_full((len(tokens), 1), self.vocabulary), tokens[:, :-1]], 1)
        return self._run(z, shown, self._begin(z))[0]

    def forward(self, z: Tensor, tokens: Tensor) -> Tensor:
        return self.output(self.hidden(z, tokens))

    def _begin(self, z: Tensor) -> Tensor:
        return torch.tanh(self.start(z)).unflatten(1, (self.layers, -1)).transpose(0, 1).contiguous()

    def _run(self, z: Tensor, shown: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        seen = torch.cat([self.words(shown), z[:, None].expand(-1, shown.shape[1], -1)], 2)
        found: tuple[Tensor, Tensor] = self.states(seen, state)
        return found

    @torch.no_grad()
    def generate(
        self, z: Tensor, length: int, temperature: float = 0.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Sentences (B, length) from codes (B, L): the most probable word each time, or, at a temperature, a draw."""
        shown, state = torch.full((len(z), 1), self.vocabulary, device=z.device), self._begin(z)
        written = []
        for _ in range(length):
            states, state = self._run(z, shown, state)
            scores = self.output(states[:, 0])
            if temperature > 0:
                shown = torch.multinomial((scores / temperature).softmax(1), 1, generator=generator)
            else:
                shown = scores.argmax(1, keepdim=True)
            written.append(shown)
        return torch.cat(written, 1)


class TokenEncoder(nn.Module):
    """Features of a sentence: a recurrent network in both directions, its states averaged over the words that count.

    Args:
        vocabulary: V, tokens 0 to V - 1.
        features: F of the output, even.
        width: of the words.

    Shapes:
        ``encoder(tokens, mask)``: (B, T) integers, and (B, T) true where a word counts (default all) to (B, F). Padding
        at the end changes nothing.

    Raises:
        ValueError: on tokens outside the vocabulary, a mask of another shape, a sentence without words.
    """

    def __init__(self, vocabulary: int, features: int = 256, width: int = 128) -> None:
        super().__init__()
        if features % 2:
            raise ValueError(f"features: expected an even number, got {features}")
        self.vocabulary, self.features = vocabulary, features
        self.words = nn.Embedding(vocabulary, width)
        self.states = nn.GRU(width, features // 2, batch_first=True, bidirectional=True)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        check_tokens(tokens, self.vocabulary)
        mask = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.bool()
        if mask.shape != tokens.shape:
            raise ValueError(f"mask: expected {tuple(tokens.shape)} as tokens, got {tuple(mask.shape)}")
        counts = mask.sum(1)
        if not bool(counts.all()):
            raise ValueError(f"mask: {int((counts == 0).sum())} of {len(mask)} sentences have no words")
        lengths = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1)
        packed = nn.utils.rnn.pack_padded_sequence(
            self.words(tokens), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = nn.utils.rnn.pad_packed_sequence(self.states(packed)[0], batch_first=True, total_length=len(mask.T))
        return (states * mask[:, :, None]).sum(1) / counts[:, None]


def check_tokens(tokens: Tensor, vocabulary: int) -> None:
    """``ValueError`` for what are no sentences over a vocabulary."""
    if tokens.ndim != 2 or tokens.is_floating_point() or not tokens.numel():
        raise ValueError(f"tokens: expected (B, T) integers, got {tuple(tokens.shape)} {tokens.dtype}")
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= vocabulary:
        raise ValueError(f"tokens: expected 0 to {vocabulary - 1}, got {low} to {high}")
