"""The plain backbones of the house; everything larger comes from timm."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class ConvNet(nn.Module):
    """A plain convolutional network for images of 8 to 64 pixels: convolution, batch norm, pool, ReLU; then the mean.

    Each width is a stage of one 3x3 convolution; a stage halves the image while it is larger than 2 pixels. On a 32x32
    image the default has 0.4 million weights and 15 million multiply-adds.

    Args:
        channels: of the input.
        size: side of the input in pixels; decides how many stages pool.
        widths: channels of the stages; the last is the number of features. ``None``: 32, 64, 128, 256, of which a
            smaller image gets as many as it can be halved, 8 pixels three.

    Shapes:
        (B, channels, H, W) to (B, widths[-1]).
    """

    def __init__(self, channels: int, size: int, widths: Sequence[int] | None = None) -> None:
        super().__init__()
        widths = self.widths = widths or (32, 64, 128, 256)[: max(1, min(size, 16).bit_length() - 1)]
        self.features = widths[-1]
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
            if size > 2:
                layers.append(nn.MaxPool2d(2))  # before the ReLU: the same output from a quarter of the work
                size //= 2
            layers.append(nn.ReLU())
            channels = width
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class MLP(nn.Module):
    """Fully connected layers with batch norm and ReLU, for vectors or small images taken as vectors.

    Args:
        inputs: F, entries of one item.
        widths: of the layers; the last is the number of features.

    Shapes:
        (B, ...) with F entries an item to (B, widths[-1]).
    """

    def __init__(self, inputs: int, widths: Sequence[int] = (256, 256)) -> None:
        super().__init__()
        self.features, self.widths = widths[-1], widths
        layers: list[nn.Module] = [nn.Flatten()]
        for width in widths:
            layers += [nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
            inputs = width
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Given(nn.Module):
    """Vectors as they are: what another model made of the items, such as a sentence encoder that nobody trains here.

    Args:
        inputs: F.

    Shapes:
        (B, F) to itself. Nothing is standardised: what is alike stays alike.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.features = inputs

    def forward(self, x: Tensor) -> Tensor:
        return x
