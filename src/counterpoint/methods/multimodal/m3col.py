"""M3CoL: Harnessing Shared Relations via Multimodal Mixup Contrastive Learning (Kumar et al., TMLR 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from counterpoint.encoders import MultimodalEncoder
from counterpoint.methods.base import Recipe, labels_of
from counterpoint.methods.multimodal._multimodal import View
from counterpoint.methods.multimodal.fusion import Fusion
from counterpoint.objectives import MultimodalMixupContrastive
from counterpoint.views.features import beta, mix, mixup_embeddings


class M3CoL(Fusion):
    """Classification from several modalities, with a contrast that knows more than one match for an item.

    The loss is the cross entropy of the fusion head on all embeddings, plus that of a head on each modality, plus
    ``weight`` times :class:`~counterpoint.objectives.MultimodalMixupContrastive` of the embeddings: mixtures find both
    of their sources in the first third of the training, soft targets follow. At inference the fusion head is alone.

    Args:
        encoder, views, recipe, dim, head, freeze, classes, width, layers, dropout: see
            :class:`~counterpoint.methods.multimodal.fusion.Fusion`.
        unimodal: ``True``; the official code can leave these heads out.
        weight: of the contrast, lambda_c; 0.1.
        mode, switch, temperature, soft_temperature, detach_targets, compat: of the contrast, see
            :class:`~counterpoint.objectives.MultimodalMixupContrastive`. The official code changes phase between two
            epochs, here it may within one.
        concentration, select_prob: of mixing, 0.15 and 0.5; see :func:`~counterpoint.views.features.mixup_embeddings`.
        input_mixup: if above 0, inputs that are not text are mixed as well, with one share from Beta(input_mixup,
            input_mixup) a batch, and so are the labels: those of a modality that is mixed in its share, those of the
            fusion in the share that comes from the modalities together, (1 + lam) / 2 with one of two mixed. Off by
            default; the official code's strength where it is used is 0.2.

    The contrast of two modalities is over the items that have both.

    Reference: arXiv 2409.17777; official code: RaghavSinghal10/M3CoL. Its loops reload the best checkpoint after each
    validation, and watch the test set; that is left out here.
    """

    least_modalities = 2

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
        unimodal: bool = True,
        weight: float = 0.1,
        mode: str = "cyclic",
        switch: float = 0.33,
        temperature: float = 0.1,
        soft_temperature: float = 0.125,
        detach_targets: bool = False,
        concentration: float = 0.15,
        select_prob: float = 0.5,
        input_mixup: float = 0.0,
        compat: str | None = None,
    ) -> None:
        super().__init__(encoder, views, recipe, dim, head, freeze, classes, width, layers, dropout, unimodal)
        for name, value in (("weight", weight), ("input_mixup", input_mixup)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}: expected a finite number of at least 0, got {value}")
        mixup_embeddings(torch.zeros(2, 1), concentration, select_prob)  # refuses what cannot be drawn from
        self.objective = MultimodalMixupContrastive(mode, switch, temperature, soft_temperature, detach_targets, compat)
        self.weight, self.concentration, self.select_prob = weight, concentration, select_prob
        self.input_mixup = input_mixup

    def loss(self, views: Sequence[View], batch: dict[str, Any]) -> Tensor:
        view, labels = views[0], labels_of(batch)
        mixed = self._mixed(view, batch) if self.input_mixup and self.training else None
        z = self.embed_present(view if mixed is None else mixed[0], batch)
        there = self.there(z, batch)
        self.follow(z, there)
        mixture = () if mixed is None else mixed[1:]
        told = self._classify_mixed(z, there, labels, *mixture) if mixture else self.classify(z, there, labels)
        return self.total(**told, contrast=self.weight * self.contrast(z, there))

    def contrast(self, z: Mapping[str, Tensor], there: Tensor) -> Tensor:
        """The contrastive part, in the phase of the present progress."""
        named = [z[name] for name in self.names]
        mixes, terms = self.objective.mixes(self.progress), []
        for a, b in self.objective.ways(len(named)):
            both = there[a] & there[b]
            whole = bool(both.all())
            x, y = (named[m] if whole else named[m][both] for m in (a, b))
            if self._enough(x):
                drawn = mixup_embeddings(x, self.concentration, self.select_prob) if mixes else None
                terms.append(self.objective.pair(x, y, drawn))
        if self.watching and int((there[0] & there[1]).sum()) > 1:
            self.watch_batch(*(named[m][there[0] & there[1]] for m in (0, 1)))
        return torch.stack(terms).sum() if terms else self.nothing(z)

    def _mixed(self, view: View, batch: Mapping[str, Any]) -> tuple[dict[str, Any], list[str], Tensor, Tensor]:
        """The view with inputs mixed, the names of those, the rows they are mixed with, and the share of their own."""
        names = [name for name in self.names if isinstance(view[name], Tensor)]
        first = view[names[0]] if names else next(iter(self.parameters()))
        share = beta((), self.input_mixup, self.input_mixup, first.new_zeros((), dtype=torch.float32))
        items = len(next(iter(view.values())))
        perm = torch.randperm(items, device=first.device)
        mixed = {}
        for name in names:
            x = view[name]
            x = x.float() / 255 if x.dtype == torch.uint8 else x
            has = self.both(batch, name)
            other = x[perm] if has is None else torch.where(has[perm].view(-1, *[1] * (x.ndim - 1)), x[perm], x)
            mixed[name] = mix(x, other, share.to(x))
        return {**view, **mixed}, names, perm, share

    def _classify_mixed(
        self, z: Mapping[str, Tensor], there: Tensor, labels: Tensor, names: list[str], perm: Tensor, share: Tensor
    ) -> dict[str, Tensor]:
        """As :meth:`classify`, with the labels of both items of a mixture."""
        kept = 1 - len(names) / len(self.names) * (1 - share)  # of an item's own label, over all modalities
        shares = [("fusion", self.logits(z, there), there.any(0), kept)]
        for at, name in enumerate(self.names):
            if self.unimodal:
                own = share if name in names else torch.ones_like(share)
                shares.append((f"head_{name}", self.heads[name](z[name]), there[at], own))
        terms = {}
        for name, logits, has, own in shares:
            one, other = self.entropy(logits, labels, has), self.entropy(logits, labels[perm], has & has[perm])
            terms[name] = own * one + (1 - own) * other
        return terms
