"""iSogCLR for pairs of modalities: Not All Semantics are Created Equal (Qiu et al., ICML 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from counterpoint.encoders import MultimodalEncoder
from counterpoint.findings import Finding
from counterpoint.methods.base import Recipe
from counterpoint.methods.multimodal.bimodal_sogclr import BimodalSogCLR
from counterpoint.methods.temperatures import temperature_findings
from counterpoint.objectives.sogclr import BimodalISogCLR as Objective


class BimodalISogCLR(BimodalSogCLR):
    """CLIP in which each image and each text learns a temperature: large for frequent semantics, small for rare ones.

    Args:
        encoder, views, recipe, dim, head, freeze, items, compat: see
            :class:`~counterpoint.methods.multimodal.bimodal_sogclr.BimodalSogCLR`.
        gamma: 0.8, the official README's; 0.9 in LibAUC.
        temperature: at which all items start, 0.07, where CLIP's does; the authors' 0.01 is for three million pairs.
        rho: KL radius. 6 is the authors' for CC3M, of whose items log is 15. More than the log of the number of items
            pulls every temperature to ``tau_min``, so :func:`counterpoint.fit` takes two fifths of that log, up to 6;
            the share is theirs on CC3M.
        eta: step size of the temperatures, 0.03, as there; with few items 0.01 is safer.
        beta: share of the new gradient in their momentum, 0.9.
        tau_min, tau_max: bounds of the temperatures, 0.005 and 1; LibAUC has 0.05 as the largest.
        clip: bound of their gradient, 5.
        schedule: of eta: ``"constant"`` (the authors' runs), ``"cosine"`` or ``"exponential"``.

    After training ``objectives["0 1"].image_state.tau`` and ``.text_state.tau`` hold the temperatures of the first and
    the second modality, by position in the data set; the page of the run shows them. They are saved in checkpoints.

    Reference: arXiv 2305.11965; code zhqiu/contrastive-learning-iSogCLR, ``bimodal_exps``.
    """

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any = None,
        recipe: Recipe | None = None,
        dim: int = 128,
        head: str = "linear",
        freeze: Sequence[str] = (),
        *,
        items: int,
        gamma: float = 0.8,
        temperature: float = 0.07,
        rho: float = 6.0,
        eta: float = 0.03,
        beta: float = 0.9,
        tau_min: float = 0.005,
        tau_max: float = 1.0,
        clip: float = 5.0,
        schedule: str = "constant",
        compat: str | None = None,
    ) -> None:
        super().__init__(encoder, views, recipe, dim, head, freeze, items=items)
        self.remember(
            lambda: Objective(
                items, gamma, temperature, None, rho, eta, beta, tau_min, tau_max, clip, schedule, compat=compat
            )
        )

    @classmethod
    def defaults_for(cls, items: int) -> dict[str, Any]:
        return {"rho": min(6.0, round(0.4 * math.log(max(items, 2)), 2))}

    def findings(self, dataset: Any, indices: Any) -> Sequence[Finding]:
        first = self.objectives["0 1"]
        assert isinstance(first, Objective)
        states = {self.names[0]: first.image_state, self.names[1]: first.text_state}
        return [*super().findings(dataset, indices), *temperature_findings(states, dataset)]
