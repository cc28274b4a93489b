"""Views: what is contrasted.

A contrastive method learns that two *views* of one item belong together, and so everything that differs between them
is what the representation learns to ignore: crops teach that a part stands for the whole, changes of colour that the
light does not matter, corrupted columns that no single feature does. The choice of views is the choice of invariances,
and the part of a method that depends most on the data.

- **Transforms** are frozen dataclasses that act on batches, each sample by a draw of its own:
  :mod:`~counterpoint.views.image` for images (B, C, H, W) in [0, 1], :mod:`~counterpoint.views.vector` for
  vectors (B, F), :mod:`~counterpoint.views.text` for texts, lists of B strings.
- Views of embeddings: :mod:`~counterpoint.views.features` mixes and extrapolates them, :class:`FeatureHallucinator`
  learns to invent one.
- :func:`drop_pasted` takes a pasted patch off an image whose background is known.
- A :class:`Pipeline` is a list of transforms, :class:`Views` a list of pipelines: data, with ``to_config`` and
  ``from_config``.
- The papers' pipelines have names (:func:`names`), and :func:`resolve` turns a word or a configuration into views for
  data of a given shape.

    >>> views = resolve("simclr", modality="image", shape=(3, 32, 32))
    >>> first, second = views(torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8))
    >>> first.shape, first.dtype
    (torch.Size([64, 3, 32, 32]), torch.float32)

Speed comes from algebra, not from processes: crop, resize, flip and blur of a batch are two batched matrix products
(:mod:`~counterpoint.views.separable`), all changes of colour one 3x4 matrix per sample
(:mod:`~counterpoint.views.color`).
"""

from counterpoint.views.hallucination import FeatureHallucinator
from counterpoint.views.image import (
    Affine,
    CenterCrop,
    CenterSuppressedCrop,
    ColorJitter,
    GaussianBlur,
    GaussianNoise,
    Grayscale,
    HorizontalFlip,
    RandomErasing,
    RandomResizedCrop,
    Resize,
    Rotation,
    Solarize,
    VerticalFlip,
)
from counterpoint.views.modalities import ModalityViews, resolve_each
from counterpoint.views.named import names, resolve
from counterpoint.views.pasted import drop_pasted
from counterpoint.views.pipeline import Pipeline, Views
from counterpoint.views.text import (
    Caption,
    Clean,
    OneOf,
    Prompt,
    RandomDeletion,
    RandomSwap,
    StopWords,
    Synonyms,
)
from counterpoint.views.transform import Transform
from counterpoint.views.vector import FeatureCorruption, FeatureDropout, FeatureNoise, FeatureScale

__all__ = [
    "Affine",
    "Caption",
    "CenterCrop",
    "CenterSuppressedCrop",
    "Clean",
    "ColorJitter",
    "FeatureCorruption",
    "FeatureDropout",
    "FeatureHallucinator",
    "FeatureNoise",
    "FeatureScale",
    "GaussianBlur",
    "GaussianNoise",
    "Grayscale",
    "HorizontalFlip",
    "ModalityViews",
    "OneOf",
    "Pipeline",
    "Prompt",
    "RandomDeletion",
    "RandomErasing",
    "RandomResizedCrop",
    "RandomSwap",
    "Resize",
    "Rotation",
    "Solarize",
    "StopWords",
    "Synonyms",
    "Transform",
    "VerticalFlip",
    "Views",
    "drop_pasted",
    "names",
    "resolve",
    "resolve_each",
]
