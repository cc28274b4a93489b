"""AdaInf: Do Generated Data Always Help Contrastive Learning? (Wang, Zhang & Wang, ICLR 2024)."""

from __future__ import annotations

from counterpoint.encoders import Encoder, mlp_head
from counterpoint.methods.base import Recipe, Views
from counterpoint.methods.vision.simclr import SimCLR


class AdaInf(SimCLR):
    """SimCLR on real and generated images together, the real ones repeated and the views weak.

    Adaptive inflation is a way to choose data and views, and goes with any method that needs no labels:
    ``--views adainf --generated FOLDER --real_repeats 10``, the last being the default. This class is the paper's main
    setting in one word: ``--views auto`` are :func:`~counterpoint.views.pipelines.adainf`, and head and temperature are
    its SimCLR's. The generated items are not its own to make: give ``--generated`` a folder, or a generator's name
    (``--generated gmm``) to have one trained on the run's training part. Without any it is SimCLR with weak views,
    which the paper advises against: what few data want is strong views.

    To tell what generated items bring, compare at equal ``steps``. The paper has 100,000 of 512 images with LARS; here
    the optimiser is that of the run, as for all methods.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`.
        temperature: 0.2, the official configuration's.
        hidden: width of the head's hidden layer, 2,048; there is no batch norm in it.
        dim: D of the projection, 256.

    Reference: arXiv 2403.12448.
    """

    auto_views = "adainf"

    def __init__(
        self,
        encoder: Encoder,
        views: Views | None = None,
        recipe: Recipe | None = None,
        temperature: float = 0.2,
        hidden: int = 2048,
        dim: int = 256,
    ) -> None:
        super().__init__(encoder, views, recipe, temperature, dim)
        self.projector = mlp_head(encoder.features, hidden, dim, norm=False)
