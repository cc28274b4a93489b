"""iSogCLR: Not All Semantics are Created Equal, or Automatic Temperature Individualization (Qiu et al., ICML 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from counterpoint.encoders import Encoder, mlp_head
from counterpoint.findings import Finding
from counterpoint.methods.base import Method, Recipe, Views
from counterpoint.methods.temperatures import temperature_findings
from counterpoint.objectives.sogclr import ISogCLR as Objective


class ISogCLR(Method):
    """SogCLR whose items each learn a temperature: large for frequent semantics, small for rare ones.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        items: of the data set; :func:`counterpoint.fit` knows. Batches must carry ``batch["index"]``, positions in it.
        temperature: at which all items start, 0.1 (as all that follow: the authors' runs on CIFAR-100).
        gamma: share of the batch in the moving average of each denominator, 0.8.
        rho: KL radius, 0.4. It must stay below log(2 batch_size - 2), or all temperatures fall to ``tau_min``.
        eta: step size of the temperatures, 0.03; with few items 0.01, LibAUC's, is safer.
        beta: share of the new gradient in their momentum, 0.5.
        tau_min, tau_max: bounds of the temperatures, 0.05 and 1 (the official class).
        clip: bound of their gradient, 3.
        schedule: of eta: ``"constant"`` (the authors' runs), ``"cosine"`` or ``"exponential"``.
        compat: see :class:`~counterpoint.objectives.sogclr.SogCLR`.
        dim: D of the projection, 128.

    After training ``objective.state.tau`` holds the temperatures, by position in the data set; the page of the run
    shows them. They step with each batch of the training, and are saved in its checkpoints.

    Reference: arXiv 2305.11965.
    """

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        *,
        items: int,
        temperature: float = 0.1,
        gamma: float = 0.8,
        rho: float = 0.4,
        eta: float = 0.03,
        beta: float = 0.5,
        tau_min: float = 0.05,
        tau_max: float = 1.0,
        clip: float = 3.0,
        schedule: str = "constant",
        compat: str | None = None,
        dim: int = 128,
    ) -> None:
        super().__init__(encoder, views, recipe)
        self.projector = mlp_head(encoder.features, encoder.features, dim)
        self.objective = Objective(
            items, gamma, temperature, rho, eta, beta, tau_min, tau_max, clip, schedule, compat=compat
        )

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        return self.objective(*self.embed_together(views), batch.get("index"), self.current_epoch, self.progress)

    def findings(self, dataset: Any, indices: Any) -> Sequence[Finding]:
        return temperature_findings({"temperature": self.objective.state}, dataset)
