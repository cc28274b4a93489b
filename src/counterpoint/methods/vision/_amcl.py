"""What the four forms of AMCL share besides their objectives: temperatures in the log, gradients that stay finite."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from counterpoint.methods.base import Method
from counterpoint.objectives.amcl import AMCL, AMCLBarlow, AMCLSimSiam


class Adaptive(Method):
    """A method whose objective has a temperature network.

    Its loss divides by temperatures, so that gradients grow with ``1 / tau``, the network's with ``1 / tau^2``: their
    norms are clipped at ``clip``, each for itself, before every step. Mean and deviation of the temperatures are logged
    as ``tau_positive``, ``tau_positive_std`` and, where there are negatives, ``tau_negative``, ``tau_negative_std``.
    """

    objective: AMCL | AMCLBarlow | AMCLSimSiam
    clip: float | None

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log_dict(self.objective.statistics, on_step=False, on_epoch=True)
        return loss

    def configure_gradient_clipping(self, *arguments: Any, **named: Any) -> None:
        super().configure_gradient_clipping(*arguments, **named)
        if self.clip is not None:
            network = list(self.objective.parameters())
            ours = {id(p) for p in network}
            for part in (network, [p for p in self.parameters() if id(p) not in ours]):
                clip_grad_norm_(part, self.clip)
