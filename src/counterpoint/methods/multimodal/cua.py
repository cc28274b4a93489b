"""CUA: It's Not a Modality Gap: Characterizing and Addressing the Contrastive Gap (Fahim, Murphy, Fyshe 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from counterpoint.encoders import MultimodalEncoder, gap_map, turn
from counterpoint.methods.base import Recipe
from counterpoint.methods.multimodal._multimodal import LogitScale, Multimodal, View
from counterpoint.objectives import CLIPUniformAlignLoss
from counterpoint.pairwise import gather

TOWERS = ("separate", "copied", "shared")
_MAPPED_ITEMS = 2048  # the authors'


class CUA(Multimodal):
    """CLIP with alignment of the pairs and uniformity of each modality, which close the gap between its two clusters.

    With more than two modalities it is the sum over all pairs of them, each over the items that have both.

    The authors' experiments on where the gap comes from are options: with ``w_align=0, w_uniform=0`` the method is CLIP
    at a fixed temperature, and it can be run on two modalities that are the same (name one column twice), with towers
    that start alike or are one, and from a gap of any size.

    Args:
        encoder, views, recipe, dim, head, freeze: see :class:`~counterpoint.methods.multimodal._multimodal.Multimodal`.
            The authors compare D = 32, 64, 128; the gap is the larger, the larger D.
        temperature: 0.01, the authors'. At small scale 0.07 is a better start.
        learn_temperature: the authors do not.
        w_clip, w_align, w_uniform, w_cross, t: see :class:`~counterpoint.objectives.CLIPUniformAlignLoss`. With
            ``w_cross=1`` it is CUAXU.
        towers: ``"separate"``; ``"copied"``: all start with the weights of the first; ``"shared"``: they are one. The
            last two need encoders of one kind, shape and architecture, and take the standardisation of the first.
        initial_gap: between the two modalities before training, from 0, none, to 1, what it is by chance: the second
            tower's head is turned by :func:`~counterpoint.encoders.gap_map` of the first 2,048 training pairs. (The
            authors keep this rotation as a layer of its own behind the head; here the head takes it in, which starts at
            the same place and can reach the same ones.) ``None`` leaves the towers as they are drawn.

    Raises:
        ValueError: towers that cannot be alike, an initial gap of other than two modalities, of shared towers or out of
            range, and as the objective says.

    Reference: arXiv 2405.18570; official code: abrar-fahim/contrastive-gap.
    """

    mapped: Tensor

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any = None,
        recipe: Recipe | None = None,
        dim: int = 128,
        head: str = "linear",
        freeze: Sequence[str] = (),
        temperature: float = 0.01,
        learn_temperature: bool = False,
        w_clip: float = 1.0,
        w_align: float = 1.0,
        w_uniform: float = 1.0,
        w_cross: float = 0.0,
        t: float = 2.0,
        towers: str = "separate",
        initial_gap: float | None = None,
    ) -> None:
        super().__init__(encoder, views, recipe, dim, head, freeze)
        self.objective = CLIPUniformAlignLoss(temperature, w_clip, w_align, w_uniform, w_cross, t)
        self.scale = LogitScale(1 / temperature, largest=max(100.0, 1 / temperature), learn=learn_temperature)
        _make_alike(encoder, towers)
        if initial_gap is not None and (len(encoder.towers) != 2 or towers == "shared" or not 0 <= initial_gap <= 1):
            raise ValueError(
                "initial_gap: expected a number from 0 to 1, with two modalities whose towers are not shared, got "
                f"{initial_gap} with {len(encoder.towers)} modalities and towers={towers!r}"
            )
        self.initial_gap = initial_gap
        self.register_buffer("mapped", torch.tensor(initial_gap is None))

    def loss(self, views: Sequence[View], batch: dict[str, Any]) -> Tensor:
        z = self.embed_present(views[0], batch)
        parts: dict[str, Tensor] = {}
        for _, _, x, y in self.pairs(z, batch):
            for name, part in self.objective.parts(x, y, self.scale()).items():
                parts[name] = parts.get(name, part.new_zeros(())) + self.objective.weights[name] * part
        return self.total(**parts) if parts else self.nothing(z)

    def after_step(self) -> None:
        self.scale.clamp()

    def on_train_start(self) -> None:
        if not bool(self.mapped):
            self.set_initial_gap(self.trainer.train_dataloader or ())

    @torch.no_grad()
    def set_initial_gap(self, batches: Any) -> None:
        """Turn the second tower's head so that the two modalities are ``initial_gap`` apart on these batches."""
        training, found = self.training, []
        self.train()  # batch statistics as the first step will see them: running ones mean nothing yet
        for batch in batches:
            batch = self.transfer_batch_to_device(batch, self.device, 0)
            pairs = self.pairs(self.embed_present({name: batch[name] for name in self.names}, batch), batch)
            found += [(gather(x.float()), gather(y.float())) for _, _, x, y in pairs]
            if sum(len(x) for x, _ in found) >= _MAPPED_ITEMS:
                break
        self.train(training)
        if not found:
            raise ValueError("initial_gap: no training item has both modalities")
        x, y = (torch.cat(parts) for parts in zip(*found, strict=True))
        turn(self.encoder.towers[self.names[1]].head, gap_map(x, y, self.initial_gap or 0.0))
        self.mapped.fill_(True)


def _make_alike(encoder: MultimodalEncoder, how: str) -> None:
    if how not in TOWERS:
        raise ValueError(f"towers: expected one of {', '.join(TOWERS)}, got {how!r}")
    if how == "separate":
        return
    first, *others = encoder.towers
    source = encoder.towers[first]
    for name in others:
        tower = encoder.towers[name]
        if (tower.kind, tuple(tower.encoder.shape)) != (source.kind, tuple(source.encoder.shape)):
            raise ValueError(
                f"towers: {how!r} needs modalities of one kind and shape, and {first} is {source.kind} "
                f"{tuple(source.encoder.shape)}, {name} {tower.kind} {tuple(tower.encoder.shape)}"
            )
        try:
            tower.load_state_dict(source.state_dict())
        except RuntimeError as error:
            raise ValueError(f"towers: {how!r} needs one architecture, and {name}'s is not {first}'s") from error
        if how == "shared":
            encoder.towers[name] = source
