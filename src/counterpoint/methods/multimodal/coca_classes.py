"""CoCa adapted to classes of images or videos: a pooler of its own on a frozen encoder (Yu et al., TMLR 2022)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor, nn

from counterpoint.encoders import AttentionalPooler, MultimodalEncoder
from counterpoint.encoders.poolers import tokens_of
from counterpoint.methods.base import Recipe, labels_of
from counterpoint.methods.multimodal._multimodal import Multimodal, View
from counterpoint.pairwise import gather


class CoCaClasses(Multimodal):
    """A learned query reads the tokens of an image, or of all frames of a video, and a linear layer names the class.

    The encoder stays as it is; only the pooler and the classifier learn, so that many tasks can share one encoder. With
    ``freeze=False`` all of it learns, the paper's fine-tuning. The encoder of images is that of a ``coca`` run, named
    in ``encoders``, or any other that has tokens; poolers that it brings are passed over.

    Args:
        encoder, views, recipe: see :class:`~counterpoint.methods.base.Method`. The data have one modality, of images or
            of videos.
        classes: C; :func:`counterpoint.fit` knows.
        n_queries: of the pooler; 1, the paper's for a vector. The states of several are averaged.
        freeze: whether the encoder stays as it is.

    An item is trained on where it has the image and a label. One without an image later has a state of zeros.

    Raises:
        ValueError: fewer than two classes, several modalities, or none of images.

    Reference: arXiv 2205.01917, sections 3.3 and 4.2.1, as far as is known: the paper released no code.

    Relations: ``finetune`` with ``linear_probe`` reads the mean of the tokens.
    """

    needs_labels = True
    labelled_only = True
    least_modalities = 1
    contrasts = False
    paired = False

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any = None,
        recipe: Recipe | None = None,
        classes: int = 10,
        n_queries: int = 1,
        freeze: bool = True,
    ) -> None:
        if classes < 2:
            raise ValueError(f"classes: expected at least 2, got {classes}")
        self.image = encoder.named("image")
        others = [name for name in encoder.towers if name != self.image]
        if others:
            raise ValueError(
                f"modalities: 'coca_classes' takes one, of images or videos; leave out {', '.join(others)}"
            )
        super().__init__(encoder, views, recipe, encoder.dim or 128, encoder.head or "linear")
        tower = encoder.towers[self.image]
        tower.head.requires_grad_(False)
        own = tower.encoder
        self.pools = hasattr(own.backbone, "pooled")
        if self.pools:
            own.backbone.pooler.requires_grad_(False)
        if freeze:
            tower.freeze()
        with torch.no_grad():
            width = tokens_of(self.reader.eval(), torch.zeros(1, *own.shape)).shape[2]
        self.reader.train(not tower.frozen)
        pooler = AttentionalPooler(width, heads=math.gcd(8, width), n_queries=n_queries)
        self.projector = nn.ModuleDict({"pooler": pooler, "norm": nn.LayerNorm(width)})
        self.classifier = nn.Linear(width, classes)

    @property
    def reader(self) -> Any:
        """The encoder whose tokens are read, without poolers of its own."""
        own: Any = self.encoder.towers[self.image].encoder
        return own.backbone.encoder if self.pools else own

    def read(self, images: Tensor) -> Tensor:
        """(B, W), what the classifier sees of images (B, C, H, W) or clips (B, T, C, H, W), uint8 or in [0, 1]."""
        x = images if images.is_floating_point() else images.float() / 255
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder.towers[self.image].frozen):
            tokens = tokens_of(self.reader, x)
        parts: Any = self.projector
        return parts["norm"](parts["pooler"](tokens).mean(1))

    def loss(self, views: Sequence[View], batch: dict[str, Any]) -> Tensor:
        labels, there = labels_of(batch), self.both(batch, self.image)
        known = labels >= 0 if there is None else (labels >= 0) & there.to(labels.device)
        if not self.everywhere(int(known.sum()), self.device):
            return self.nothing({})
        logits = self.classifier(self.read(views[0][self.image][known])).float()
        return gather(nn.functional.cross_entropy(logits, labels[known], reduction="none")).mean()

    def fused(self, batch: Mapping[str, Any], z: Mapping[str, Tensor]) -> Tensor:
        """(B, W), what the classifier sees of the items of a batch; zeros for those that lack the image."""
        images, there = batch[self.image], self.both(batch, self.image)
        if there is None or bool(there.all()):
            return self.read(images)
        found = torch.zeros(len(images), self.classifier.in_features, device=self.device)
        if bool(there.any()):
            found[there] = self.read(images[there]).to(found)
        return found

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Any]) -> Tensor:
        """Logits (B, C) of a batch as it is, in evaluation mode; the mode is restored."""
        training = self.training
        self.eval()
        try:
            return self.classifier(self.fused(move_data_to_device(batch, self.device), {})).float()
        finally:
            self.train(training)

    def findings(self, dataset: Any, indices: Any) -> Sequence[Any]:
        return ()
