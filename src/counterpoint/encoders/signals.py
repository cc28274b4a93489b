"""Backbones for signals and sound: convolutions over time, or over the log-mel spectrogram."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from counterpoint.encoders.backbones import ConvNet


class SignalNet(nn.Module):
    """A convolutional network for signals: strided convolution, batch norm, ReLU; then the mean over time.

    Args:
        channels: of the input.
        length: T, samples; a stage halves it while it is longer than 4.
        widths: channels of the stages; the last is the number of features. 32, 64, 128, 128 are ours.
        kernel: samples that a convolution sees.

    Shapes:
        (B, channels, T) to (B, widths[-1]).
    """

    def __init__(self, channels: int, length: int, widths: Sequence[int] = (32, 64, 128, 128), kernel: int = 7) -> None:
        super().__init__()
        self.widths, self.features = widths, widths[-1]
        layers: list[nn.Module] = []
        for width in widths:
            stride = 2 if length > 4 else 1
            layers += [
                nn.Conv1d(channels, width, kernel, stride, kernel // 2, bias=False),
                nn.BatchNorm1d(width),
                nn.ReLU(),
            ]
            channels, length = width, -(-length // stride)
        self.layers = nn.Sequential(*layers)

    def maps(self, x: Tensor) -> Tensor:
        """(B, F, T'), before the mean over time."""
        return self.layers(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x).mean(2)


class LogMelNet(nn.Module):
    """A :class:`ConvNet` on the log-mel spectrogram of a recording.

    Args:
        channels: 1; more are averaged.
        length: T, samples.
        rate: samples a second.
        mels: bands of the mel scale; 40 is usual for speech.
        window: seconds of a frame; 0.025, and a hop of 0.01, are usual for speech.
        hop: seconds between frames.
        widths: of the network.

    Shapes:
        (B, channels, T) to (B, widths[-1]). Silence is finite: powers are floored at 1e-6 before the logarithm.
    """

    filters: Tensor
    window: Tensor

    def __init__(
        self,
        channels: int,
        length: int,
        rate: int = 16_000,
        mels: int = 40,
        window: float = 0.025,
        hop: float = 0.01,
        widths: Sequence[int] = (32, 64, 128, 128),
    ) -> None:
        super().__init__()
        self.size = 1 << max(4, math.ceil(math.log2(window * rate)))
        self.hop = max(1, round(hop * rate))
        self.register_buffer("window", torch.hann_window(self.size))
        self.register_buffer("filters", mel_filters(mels, self.size // 2 + 1, rate))
        self.network = ConvNet(1, mels, widths)
        self.widths, self.features = widths, self.network.features

    def spectrogram(self, x: Tensor) -> Tensor:
        """Log-mel power (B, 1, mels, frames), centred for each recording."""
        with torch.autocast(x.device.type, enabled=False):
            found = torch.stft(x.float().mean(1), self.size, self.hop, window=self.window, return_complex=True)
            power = (self.filters @ found.abs().square()).clamp(min=1e-6).log()
            return (power - power.mean((1, 2), keepdim=True))[:, None]

    def maps(self, x: Tensor) -> Tensor:
        """(B, F, H, W), before the mean."""
        return self.network.layers[:-2](self.spectrogram(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.spectrogram(x))


def mel_filters(mels: int, bins: int, rate: int) -> Tensor:
    """Triangular filters (mels, bins) between 0 Hz and half the rate, evenly spaced in mel (O'Shaughnessy's formula).

    Neighbours overlap by half, and each peaks at 1. A band that is narrower than a bin takes the nearest bin.
    """
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, mels + 2) / 2595) - 1)
    frequencies = torch.linspace(0, rate / 2, bins)
    low, middle, high = (edges[at : at + mels, None] for at in range(3))
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    filters = torch.minimum(rising, falling).clamp(min=0)
    empty = filters.sum(1) == 0
    nearest = (frequencies - middle).abs().argmin(1)
    filters[empty, nearest[empty]] = 1.0
    return filters
