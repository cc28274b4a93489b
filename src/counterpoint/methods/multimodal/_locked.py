"""One tower that knows something already and stays as it is, and others that learn to meet it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from counterpoint.encoders import MultimodalEncoder
from counterpoint.methods.base import Recipe
from counterpoint.methods.multimodal._multimodal import LogitScale, Multimodal, View
from counterpoint.objectives.inputs import positive


class Meeting(NamedTuple):
    """Items that have the locked modality and one other.

    Attributes:
        locked: (N, D) of the locked tower, raw.
        trained: (N, D) of the other one, raw.
        features: (N, F) of the locked encoder below its head.
    """

    locked: Tensor
    trained: Tensor
    features: Tensor


class Locked(Multimodal):
    """Locked-tower training: the encoder of one modality is frozen, the towers of all others are trained towards it.

    Args:
        encoder, views, recipe, head: see :class:`~counterpoint.methods.multimodal._multimodal.Multimodal`. Give the
            locked modality an encoder that is trained: ``encoders={"image": "runs/mine"}``.
        dim: D of the common space. ``None``, or as many as the locked encoder's features: that encoder's own space, and
            the locked tower has no head. Otherwise it has one, which is trained. Towers that come with heads into a
            space, those of a trained run, keep them, and the locked one's is locked too.
        locked: name of the locked modality; by default the first that is frozen already (``"freeze": true`` among its
            options), or else the first.
        temperature: where the learned one starts.
        learn_temperature: ``False`` keeps it.

    Raises:
        ValueError: a name that is no modality.
    """

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any = None,
        recipe: Recipe | None = None,
        dim: int | None = None,
        head: str = "linear",
        locked: str = "",
        temperature: float = 0.07,
        learn_temperature: bool = True,
    ) -> None:
        frozen = [name for name, tower in encoder.towers.items() if tower.frozen]
        name = locked or (frozen or list(encoder.towers))[0]
        if name not in encoder.towers:
            raise ValueError(f"locked: there is no modality {name!r}; there are {', '.join(encoder.towers)}")
        tower = encoder.towers[name]
        width = tower.encoder.features
        before, dim = (encoder.dim, encoder.head), dim or encoder.dim or width
        super().__init__(encoder, views, recipe, dim, head, [name])
        if before == (dim, head):
            tower.freeze(head=True)
        elif dim == width and isinstance(tower.head, nn.Linear):
            tower.freeze(head=True)
            with torch.no_grad():  # the identity as a layer, which is saved and opened like any other head
                tower.head.weight.copy_(torch.eye(width))
        self.locked = name
        positive(temperature=temperature)
        self.scale = LogitScale(1 / temperature, largest=max(100.0, 1 / temperature), learn=learn_temperature)

    def meetings(self, view: View, batch: dict[str, Any]) -> Iterator[Meeting]:
        """The locked modality and each other one, of the items that have both.

        Where there are too few to be told from each other, no locked rows and all trained ones.
        """
        tower = self.encoder.towers[self.locked]
        features = tower.features(view[self.locked])
        for name in self.names:
            if name == self.locked or name not in view:
                continue
            trained, there = self.embed_one(name, view, batch), self.both(batch, self.locked, name)
            keep: Any = slice(None) if there is None or bool(there.all()) else there
            if self._enough(trained[keep]):  # a head with batch norm sees no placeholder either
                found = Meeting(tower.head(features[keep]), trained[keep], features[keep])
                if self.watching:
                    self.watch_batch(found.locked, found.trained)
                yield found
            else:
                yield Meeting(features[:0], trained, features[:0])

    def loss(self, views: Sequence[View], batch: dict[str, Any]) -> Tensor:
        terms = []
        for pairs in self.meetings(views[0], batch):
            # a loss of 0 that all that is trained has a part in: the tower, the scale, the head of the locked one
            terms.append(self.meet(pairs) if len(pairs.locked) else self.nothing({"": pairs.trained}))
        return torch.stack(terms).sum()

    def meet(self, pairs: Meeting) -> Tensor:
        """The paper: a scalar of the items of two modalities."""
        raise NotImplementedError

    def after_step(self) -> None:
        self.scale.clamp()
