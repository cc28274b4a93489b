"""Several encoders as one: their features side by side (MCL: Zhang et al., ECCV 2024, arXiv 2402.11816)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from counterpoint.encoders.encoder import Encoder


def integrate(features: Sequence[Tensor], normalize_each: bool = False) -> Tensor:
    """Features of the stages (B, F_s) side by side, (B, sum of F_s).

    Cosines of the result are those of the paper, which brings it to length 1. The stages come with the lengths they
    have, so that one of long features weighs more, as in the authors' code; ``normalize_each`` makes them weigh alike.
    """
    return torch.cat([nn.functional.normalize(h, dim=-1) if normalize_each else h for h in features], -1)


class StageEnsemble(nn.Module):
    """A backbone of encoders that all see the same view: :func:`integrate` of their features.

    Args:
        encoders: in the order of their features; each standardises the view itself.
        normalize_each: bring the features of each to length 1 first.

    ``members[k]`` is the encoder of stage k, which embeds and is saved by itself. To save all, wrap them by
    :func:`ensemble`.

    Shapes:
        (B, *shape) to (B, sum of the features).
    """

    def __init__(self, encoders: Sequence[Encoder], normalize_each: bool = False) -> None:
        super().__init__()
        self.members, self.normalize_each = nn.ModuleList(encoders), normalize_each
        self.features = sum(encoder.features for encoder in encoders)

    def forward(self, x: Tensor) -> Tensor:
        return integrate([member(x) for member in self.members], self.normalize_each)

    def compile(self, *arguments: object, **named: object) -> None:
        """Compile the members, which are trained one at a time."""
        for member in self.members:
            member.get_submodule("backbone").compile(*arguments, **named)


def ensemble(encoders: Sequence[Encoder], normalize_each: bool = False) -> Encoder:
    """Encoders of the same items as one encoder, which embeds, is saved, loaded and exported like any other.

    Args:
        encoders: at least one; each keeps its weights and becomes ``ensemble(...).backbone.members[k]``.
        normalize_each: see :class:`StageEnsemble`.

    Raises:
        ValueError: no encoders, encoders of different items, or an ensemble among them.
    """
    if not encoders:
        raise ValueError("encoders: expected at least one")
    first = encoders[0]
    for encoder in encoders:
        if (encoder.shape, encoder.modality) != (first.shape, first.modality):
            raise ValueError(f"encoders: expected all to take {first.shape}, got one for {encoder.shape}")
        if isinstance(encoder.backbone, StageEnsemble):
            raise ValueError("encoders: an ensemble cannot be a member of another; give its members")
    backbone = StageEnsemble(encoders, normalize_each)
    members = [{key: copy.deepcopy(encoder.config[key]) for key in ("name", "arguments")} for encoder in encoders]
    arguments = {"members": members, "normalize_each": normalize_each}
    config = {"name": "ensemble", "shape": list(first.shape), "modality": first.modality, "arguments": arguments}
    return Encoder(backbone, config, backbone.features).train(first.training)
