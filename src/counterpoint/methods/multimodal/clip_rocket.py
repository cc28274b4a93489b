"""CLIP-rocket: Improved baselines for vision-language pre-training (Fini et al., TMLR 2023)."""

from __future__ import annotations

from counterpoint.methods.multimodal._rocket import Rocket


class CLIPRocket(Rocket):
    """CLIP with two more views of image and caption, changed much and compared among themselves by heads of their own.

    Its parts compose: without local views (``views={"rocket": {"local": 0}}``) it is CLIP, with them and
    ``separate_projectors=False`` they share CLIP's head and scale; label smoothing and the dropout of the text encoder
    (``encoders={"caption": {"dropout": 0.2}}``) act on local views alone. Which view is how much changed is up to the
    views: the first is the global one, all others are local ones. The authors' optimiser is AdamW with the second beta
    at 0.98, weight decay 0.1 and a learning rate of 3e-3 at batches of 4,096.

    Args:
        encoder, views, recipe, dim, head, freeze: see :class:`~counterpoint.methods.multimodal._multimodal.Multimodal`;
            exactly two modalities. The paper has 256 dimensions for a ResNet-50, and a linear head without bias.
        label_smoothing: of local views; 0.1.
        directions: ``"sum"``, the recipe's; ``"mean"``: see :class:`~counterpoint.objectives.rocket.MultiViewCLIP`.
        separate_projectors: whether local views have a perceptron of three layers with batch norm in place of the
            linear head, and a learned scale of their own.
        hidden: width of its hidden layers; ``None`` is twice the features, the paper's 4,096 for a ResNet's 2,048.
        temperature: where that of the global views starts, 0.07, and
        local_temperature: that of the local ones, 0.1. Both scales are kept between 1 and 100.
        score: by what pairs are scored when it is done: ``"global"``, which is all that the saved encoder needs;
            ``"local"``; or a number w from 0 to 1, w times the global similarity and 1 - w times the local one. The
            authors report all of them; a figure of the run shows them too.
        local_head: what separate heads are: ``"mlp"``, the recipe's, or ``"linear"`` like CLIP's, an option of the
            authors. The head of global views is ``head``.

    Reference: arXiv 2305.08675; official code: facebookresearch/clip-rocket, whose class is called CL2L.
    """
