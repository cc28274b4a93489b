"""SwALIP: CLIP with SwAV between image and text (Fini et al., TMLR 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from counterpoint.encoders import MultimodalEncoder, Prototypes
from counterpoint.methods.base import Recipe
from counterpoint.methods.multimodal._multimodal import View
from counterpoint.methods.multimodal._rocket import Features, WithTeacher
from counterpoint.objectives import CrossModalSwAV, SwAV


class SwALIP(WithTeacher):
    """CLIP-rocket, and the assignment that one modality would make is predicted from the other.

    In the form ``"batch"``, items are assigned to the items of the other modality in the batch, and the assignment of
    one pair of local views is predicted from another; there must be at least two local views. In the form
    ``"prototypes"``, the global views of both modalities are assigned to learned directions, and each predicts the
    assignment of the other.

    Args:
        encoder, views, recipe, dim, head, freeze, directions, separate_projectors, hidden,
            temperature, local_temperature, score, local_head: see
            :class:`~counterpoint.methods.multimodal.clip_rocket.CLIPRocket`; with
            prototypes it needs no local views.
        label_smoothing: 0; the authors allow nothing else here, as the companion has soft targets of its own.
        form: ``"batch"``, the authors' current one, or ``"prototypes"``, their first.
        weight: of the companion; ``None`` is 0.2 with the batch and 1 with prototypes, the authors'.
        epsilon, iterations: of Sinkhorn, 0.05 and 3.
        companion_dim, companion_hidden: of the projector before prototypes, 128 and 2,048; ``None`` is as many as
            features.
        prototypes: K, 3,000. :func:`counterpoint.fit` takes one for 40 items where that is fewer, as for SwAV.
        swap_temperature: of the predictions over prototypes, 0.1.
        freeze_steps: first steps in which the prototypes stay as they were drawn, 100.
        momentum: of a teacher that makes the codes over prototypes, an option of the authors; ``None``: there is none.

    Reference: arXiv 2305.08675; official code: facebookresearch/clip-rocket.

    Relations: :class:`~counterpoint.methods.vision.swav.SwAV` swaps between crops of one image.
    """

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any = None,
        recipe: Recipe | None = None,
        dim: int = 128,
        head: str = "linear",
        freeze: Sequence[str] = (),
        label_smoothing: float = 0.0,
        directions: str = "sum",
        separate_projectors: bool = True,
        hidden: int | None = None,
        temperature: float = 0.07,
        local_temperature: float = 0.1,
        score: str | float = "global",
        local_head: str = "mlp",
        form: str = "batch",
        weight: float | None = None,
        epsilon: float = 0.05,
        iterations: int = 3,
        companion_dim: int = 128,
        companion_hidden: int | None = None,
        prototypes: int = 3000,
        swap_temperature: float = 0.1,
        freeze_steps: int = 100,
        momentum: float | None = None,
    ) -> None:
        if form not in ("batch", "prototypes"):
            raise ValueError(f"form: expected 'batch' or 'prototypes', got {form!r}")
        if label_smoothing != 0 and form == "batch":
            raise ValueError(
                f"label_smoothing: expected 0, as the authors have it for this form, got {label_smoothing}"
            )
        if momentum is not None and form == "batch":
            raise ValueError("momentum: only of form 'prototypes'; codes over the batch have no teacher")
        super().__init__(
            encoder, views, recipe, dim, head, freeze, label_smoothing, directions, separate_projectors, hidden,
            temperature, local_temperature, score, local_head,
        )  # fmt: skip
        self.form, self.freeze_steps = form, freeze_steps
        self.weight = (0.2 if form == "batch" else 1.0) if weight is None else weight
        if form == "batch":
            self.swap: Any = CrossModalSwAV(local_temperature, epsilon, iterations)
            return
        self.swap = SwAV(swap_temperature, epsilon, iterations)
        for name in self.names:
            self.projector[f"swav_{name}"] = self.new_head(name, companion_hidden or self.width, companion_dim, 2)
        self.projector["prototypes"] = Prototypes(companion_dim, prototypes)
        if momentum is not None:
            self.teach("swav_", "prototypes", momentum=momentum)

    @classmethod
    def defaults_for(cls, items: int) -> dict[str, Any]:
        return {"prototypes": min(3000, max(8, items // 40))}

    def companion(self, h: Features, local: Features, views: Sequence[View]) -> Tensor:
        if self.form == "batch":
            if len(views) < 3:
                raise ValueError(
                    f"views: SwALIP needs at least 2 local views beside the global one, and there are {len(views)} "
                    "views in all; take views=rocket, or the form 'prototypes'"
                )
            a, b = self.names
            scale = self.scale if self.local_scale is None else self.local_scale
            return self.weight * self.swap(local[a], local[b], scale())
        codes = None
        if self.teacher is not None:
            taught, model = self.targets(views[:1])
            codes = self._scores(model.heads, taught)
        return self.weight * self.swap(self._scores(self.projector, h), code_scores=codes)

    def _scores(self, heads: Any, h: Features) -> list[Tensor]:
        """Cosines (B, K) of the global view of each modality with the prototypes."""
        return [heads["prototypes"](heads[f"swav_{name}"](h[name][0])) for name in self.names]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.form == "prototypes" and self.global_step < self.freeze_steps:
            self._prototypes().hold()

    def after_step(self) -> None:
        if self.form == "prototypes":
            self._prototypes().normalize_()
        super().after_step()

    def _prototypes(self) -> Prototypes:
        found = self.projector["prototypes"]
        assert isinstance(found, Prototypes)
        return found
