"""The map of a space that modalities share, as findings: where each lies, which are pairs, how many axes are used."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from counterpoint.findings import Curves, Finding, Scatter
from counterpoint.objectives.inputs import normalize

_LINES = 60  # pairs joined by a line: enough to see a shift, few enough to see the points
_AXES = 32


def modality_map(embedded: Mapping[str, Tensor]) -> list[Finding]:
    """Principal axes of all modalities together, with lines between pairs, and the variance along the axes of each.

    The plane is that of the largest variance of the unit vectors; distances in it are on one scale. A gap between
    modalities is a shift along its first axis.

    Args:
        embedded: for each modality (N, D), raw; row i of each is the same item. A row that is missing somewhere holds
            NaN and is left out.

    Returns:
        A :class:`~counterpoint.findings.Scatter` and :class:`~counterpoint.findings.Curves`; nothing where fewer than
        two modalities or three whole rows are there.
    """
    if len(embedded) < 2:
        return []
    whole = torch.stack([torch.isfinite(z).all(1) for z in embedded.values()]).all(0)
    if int(whole.sum()) < 3:
        return []
    unit = {name: normalize(z[whole].detach().double().cpu()) for name, z in embedded.items()}
    together = torch.cat(list(unit.values()))
    mean = together.mean(0)
    axes = torch.linalg.svd(together - mean, full_matrices=False).Vh[:2].T
    plane = {name: _plane((z - mean) @ axes) for name, z in unit.items()}
    shares = {name: _shares(z) for name, z in {**unit, "all together": together}.items()}
    depth = min(_AXES, *(len(values) for values in shares.values()))
    listed = " and ".join(unit)
    return [
        Scatter(
            f"Where {listed} lie",
            f"Unit vectors of {int(whole.sum())} test items on the two principal axes of all of them together; lines "
            "join the modalities of an item. Two clusters with parallel lines between them are a modality gap.",
            plane,
            min(_LINES, int(whole.sum())),
        ),
        Curves(
            "Variance along principal axes",
            "Share of the variance of the unit vectors along each principal axis, of each modality and of all "
            "together. The flatter, the more of the space is used; a gap between modalities is an axis of its own.",
            np.arange(1, depth + 1),
            {name: values[:depth] for name, values in shares.items()},
            "principal axis",
            "share of variance",
        ),
    ]


def _plane(xy: Tensor) -> np.ndarray:
    """(N, 2), also where the space has one dimension."""
    return torch.nn.functional.pad(xy, (0, 2 - xy.shape[1])).numpy()


def _shares(z: Tensor) -> np.ndarray:
    variances = torch.linalg.svdvals(z - z.mean(0)).square()
    total = variances.sum()
    return (variances / total if total > 1e-24 else torch.zeros_like(variances)).numpy()
