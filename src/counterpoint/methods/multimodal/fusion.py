"""Classification from several modalities: their embeddings side by side, and a head on them. M3CoL's rival."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor, nn

from counterpoint.encoders import MultimodalEncoder
from counterpoint.findings import Curves
from counterpoint.methods.base import Recipe, labels_of
from counterpoint.methods.multimodal._multimodal import Multimodal, View
from counterpoint.pairwise import gather

_MOMENTUM = 0.1  # of the mean embeddings, as of batch norm
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


class Fusion(Multimodal):
    """Cross entropy of a head on the embeddings of all modalities, and, if wanted, of a head on each by itself.

    The heads of single modalities see to it that none of them is neglected while another suffices, and serve where
    modalities are missing. Nothing here is contrastive, which ``m3col`` adds.

    Args:
        encoder, views, recipe, dim, head, freeze: see :class:`~counterpoint.methods.multimodal._multimodal.Multimodal`.
        classes: C.
        width: of the hidden layers of all heads; 256, M3CoL's for images and texts.
        layers: linear layers of the heads; 3, M3CoL's for images and texts; 2 in its heads for omics.
        dropout: after the first hidden layer; 0.
        unimodal: whether each modality has a head of its own, in training; their losses are added with weight 1.

    Where an item lacks a modality, in training or later, the modality's mean embedding stands in its place: our choice,
    as the paper has no such items.

    An item is trained on where it has a label and any modality.

    Reference: the networks of M3CoL without contrast, arXiv 2409.17777.
    """

    needs_labels = True
    labelled_only = True
    least_modalities = 1
    paired = False

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any = None,
        recipe: Recipe | None = None,
        dim: int = 128,
        head: str = "linear",
        freeze: Sequence[str] = (),
        classes: int = 10,
        width: int = 256,
        layers: int = 3,
        dropout: float = 0.0,
        unimodal: bool = False,
    ) -> None:
        super().__init__(encoder, views, recipe, dim, head, freeze)
        for name, value, least in (("classes", classes, 2), ("width", width, 1), ("layers", layers, 1)):
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a share from 0 to below 1, got {dropout}")
        self.unimodal = unimodal
        self.below, self.classifier = _head(dim * len(self.names), width, classes, layers, dropout)
        alone = self.names if unimodal else []
        heads = {name: nn.Sequential(*_head(dim, width, classes, layers, dropout)) for name in alone}
        self.heads = nn.ModuleDict(heads)
        self.means = _Means(len(self.names), dim)
        # kept with the run, beside the classifier
        self.projector = nn.ModuleDict({"hidden": self.below, "heads": self.heads, "means": self.means})

    def loss(self, views: Sequence[View], batch: dict[str, Any]) -> Tensor:
        z = self.embed_present(views[0], batch)
        labels, there = labels_of(batch), self.there(z, batch)
        self.follow(z, there)
        return self.total(**self.classify(z, there, labels))

    def classify(self, z: Mapping[str, Tensor], there: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross entropy of the fusion head and of those of modalities, each over the items that have what it sees."""
        terms = {"fusion": self.entropy(self.logits(z, there), labels, there.any(0))}
        for at, name in enumerate(self.names):
            if self.unimodal:
                terms[f"head_{name}"] = self.entropy(self.heads[name](z[name]), labels, there[at])
        return terms

    def hidden(self, z: Mapping[str, Tensor], there: Tensor) -> Tensor:
        """(B, width), what the classifier sees of embeddings and bool (M, B), which of them are there."""
        parts = [torch.where(has[:, None], z[name], self.means(at, z[name]))
                 for at, (name, has) in enumerate(zip(self.names, there, strict=True))]  # fmt: skip
        return self.below(torch.cat(parts, 1))

    def fused(self, batch: Mapping[str, Any], z: Mapping[str, Tensor]) -> Tensor:
        """The same for the items of a batch and their embeddings."""
        return self.hidden(z, self.there(z, batch))

    def logits(self, z: Mapping[str, Tensor], there: Tensor) -> Tensor:
        """(B, C) of the fusion head."""
        return self.classifier(self.hidden(z, there))

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Any]) -> Tensor:
        """Logits (B, C) of a batch as it is, from the modalities that its items have, in evaluation mode.

        A modality that none of them has may be absent from the batch.

        Raises:
            ValueError: all are absent.
        """
        training = self.training
        self.eval()
        try:
            z = self.embed({name: batch[name] for name in self.names if name in batch})
            if not z:
                raise ValueError(f"batch: expected some of {', '.join(self.names)}, got {', '.join(batch) or 'none'}")
            there = self.there(z, batch)
            whole = next(iter(z.values()))
            return self.logits({name: z.get(name, torch.zeros_like(whole)) for name in self.names}, there).float()
        finally:
            self.train(training)

    def there(self, z: Mapping[str, Tensor], batch: Mapping[str, Any]) -> Tensor:
        """Bool (M, B): which modalities the items have."""
        first = next(iter(z.values()))
        all_of_them, found = torch.ones(len(first), dtype=torch.bool, device=first.device), []
        for name in self.names:
            has = self.both(batch, name) if name in z else ~all_of_them
            found.append(all_of_them if has is None else has.to(first.device))
        return torch.stack(found)

    @staticmethod
    def entropy(logits: Tensor, labels: Tensor, has: Tensor) -> Tensor:
        """Cross entropy over the items, of all processes, that have a label and what is looked at; 0 without any."""
        judged = has & (labels >= 0)
        terms = nn.functional.cross_entropy(logits.float(), labels.where(judged, -1), ignore_index=-1, reduction="none")
        return gather(terms).sum() / gather(judged.float()).sum().clamp(min=1)

    def follow(self, z: Mapping[str, Tensor], there: Tensor) -> None:
        """Let the mean embeddings, over all processes, follow, in training."""
        if self.training:
            for at, name in enumerate(self.names):
                self.means.follow(at, gather(z[name].detach()[there[at]]))

    def findings(self, dataset: Any, indices: Any) -> Sequence[Any]:
        batch = move_data_to_device(dataset[indices], self.device)
        found = super().findings(dataset, indices)
        if len(self.names) < 2 or "label" not in batch or not bool((batch["label"] >= 0).any()):
            return found
        z = self.embed({name: batch[name] for name in self.names})
        return [_curves(self, z, self.there(z, batch), batch["label"]), *found]


class _Means(nn.Module):
    """Running mean embeddings (M, D), which start at the first batch's."""

    values: Tensor
    seen: Tensor

    def __init__(self, modalities: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(modalities, dim))
        self.register_buffer("seen", torch.zeros(modalities, dtype=torch.bool))

    def forward(self, at: int, like: Tensor) -> Tensor:
        return self.values[at].to(like)

    @torch.no_grad()
    def follow(self, at: int, z: Tensor) -> None:
        """Move a tenth of the way to the mean of these."""
        if len(z):
            mean = z.mean(0).to(self.values)
            self.values[at] = torch.where(self.seen[at], torch.lerp(self.values[at], mean, _MOMENTUM), mean)
            self.seen[at] = True


def _head(inputs: int, width: int, classes: int, layers: int, dropout: float) -> tuple[nn.Sequential, nn.Linear]:
    """The hidden layers of a head, with ReLU after each, and its last, started as the official code does: Xavier."""
    parts: list[nn.Module] = []
    for at in range(layers - 1):
        parts += [nn.Linear(inputs, width), nn.ReLU(), *([nn.Dropout(dropout)] if dropout and at == 0 else [])]
        inputs = width
    last = nn.Linear(inputs, classes)
    for part in [*parts, last]:
        if isinstance(part, nn.Linear):
            nn.init.xavier_normal_(part.weight)
            nn.init.zeros_(part.bias)
    return nn.Sequential(*parts), last


def _curves(method: Fusion, z: Mapping[str, Tensor], there: Tensor, labels: Tensor) -> Curves:
    """Accuracy when a share of the items loses one modality, or any, of which one stays."""

    def accuracy(has: Tensor) -> float:
        judged = has.any(0) & (labels >= 0)
        right = method.logits(z, has).argmax(1) == labels
        return float(right[judged].float().mean()) if bool(judged.any()) else float("nan")

    lost = torch.rand(there.shape, device=there.device)
    stays = torch.rand(there.shape, device=there.device).masked_fill(~there, -1).argmax(0)
    series: dict[str, np.ndarray] = {}
    for at, name in enumerate(("any", *method.names)):
        line = []
        for share in _SHARES:
            gone = lost < share
            if name == "any":
                gone[stays, torch.arange(len(stays))] = False
            else:
                gone[torch.arange(len(gone), device=gone.device) != at - 1] = False
            line.append(accuracy(there & ~gone))
        series[f"losing {name}"] = np.array(line)
    return Curves(
        "When modalities are missing",
        f"Accuracy of the classifier on {int((labels >= 0).sum())} test items when that share of them loses one "
        "modality, or any (but at least one stays). The modality's mean embedding stands in its place.",
        np.array(_SHARES),
        series,
        "share missing",
        "accuracy",
    )
