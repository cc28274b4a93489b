"""Towers of several stages: embeddings of all stages side by side (MCL: Zhang et al., ECCV 2024, arXiv 2402.11816)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from counterpoint.encoders.ensemble import integrate
from counterpoint.encoders.multimodal import MultimodalEncoder, Tower


class StagedTower(nn.Module):
    """Towers of one modality that stages of a training left, as one: :func:`integrate` of what they give.

    Args:
        towers: stage 0 first; the last is the one in training, if any is.
        normalize_each: bring the vector of each to length 1 first; the official code leaves them as they are.

    ``members[k]`` is the tower of stage k.

    Shapes:
        a batch of the modality to (B, sum of D).
    """

    def __init__(self, towers: Sequence[Tower], normalize_each: bool = False) -> None:
        super().__init__()
        self.members, self.normalize_each = nn.ModuleList(towers), normalize_each

    @property
    def last(self) -> Tower:
        """The tower of the last stage."""
        return self.members[-1]  # type: ignore[return-value]

    @property
    def encoder(self) -> Any:
        """Of the last stage: all take the same."""
        return self.last.encoder

    @property
    def kind(self) -> str:
        """What it takes."""
        return self.last.kind

    @property
    def frozen(self) -> bool:
        """Whether the last encoder stays as it is."""
        return self.last.frozen

    def freeze(self, head: bool = False, stages: int | None = None) -> None:
        """As of a :class:`Tower`, of all stages."""
        for member in self.members:
            member.freeze(head, stages)  # type: ignore[operator]

    def keep(self) -> None:
        """Put a frozen copy of the last stage before it."""
        kept = copy.deepcopy(self.last).requires_grad_(False)
        self.members.insert(len(self.members) - 1, kept)

    def features(self, x: Any) -> Tensor:
        """(B, sum of F) of the encoders."""
        return integrate([member.features(x) for member in self.members], self.normalize_each)  # type: ignore[operator]

    def forward(self, x: Any) -> Tensor:
        return integrate([member(x) for member in self.members], self.normalize_each)


class StagedEncoder(MultimodalEncoder):
    """Towers of several stages, embedded, saved and opened like any :class:`MultimodalEncoder`.

    The cosine of two modalities is that of the stages' vectors side by side: a mean of the stages' inner products in
    which a stage of long vectors weighs more, as in the authors' code.

    Args:
        encoder: with heads; its towers become the first stage.
        stages: how many there are to be; more than one are copies, to be filled with saved weights.
        normalize_each: see :class:`StagedTower`.

    Attributes:
        dim: of all stages together.

    Raises:
        ValueError: fewer than one stage.
    """

    def __init__(self, encoder: MultimodalEncoder, stages: int = 1, normalize_each: bool = False) -> None:
        if stages < 1:
            raise ValueError(f"stages: expected at least 1, got {stages}")
        super().__init__({name: tower.encoder for name, tower in encoder.towers.items()})
        self.normalize_each, self.extra = normalize_each, encoder.extra
        self.towers = nn.ModuleDict(
            {
                name: StagedTower([tower, *(copy.deepcopy(tower) for _ in range(stages - 1))], normalize_each)
                for name, tower in encoder.towers.items()
            }
        )
        self.head = encoder.head
        self.dim = None if encoder.dim is None else encoder.dim * stages

    @property
    def stages(self) -> int:
        """How many there are."""
        return len(next(iter(self.towers.values())).members)

    @property
    def features_of(self) -> dict[str, int]:
        """F of all encoders of each tower."""
        return {name: tower.encoder.features * self.stages for name, tower in self.towers.items()}

    @property
    def config(self) -> dict[str, Any]:
        """What makes it again."""
        options = {"stages": self.stages, "normalize_each": self.normalize_each}
        return {**super().config, "model": {"name": "staged", "options": options}}

    def attach(self, dim: int = 128, head: str = "linear") -> None:
        """As of any, with ``dim`` shared out to the stages in equal parts."""
        if (self.dim, self.head) == (dim, head):
            return
        if dim % self.stages:
            raise ValueError(f"dim: expected a multiple of the {self.stages} stages, got {dim}")
        for k in range(self.stages):
            self.stage(k).attach(dim // self.stages, head)
        self.dim, self.head = dim, head

    def keep(self) -> None:
        """Put frozen copies of the towers of the last stage before them."""
        each = 0 if self.dim is None else self.dim // self.stages
        for tower in self.towers.values():
            tower.keep()
        self.dim = self.dim and self.dim + each

    def stage(self, k: int) -> MultimodalEncoder:
        """The towers of stage k as an encoder of their own, which shares their weights."""
        alone = MultimodalEncoder({name: tower.members[k].encoder for name, tower in self.towers.items()})
        alone.towers = nn.ModuleDict({name: tower.members[k] for name, tower in self.towers.items()})
        alone.head, alone.dim = self.head, self.dim and self.dim // self.stages
        alone.extra = self.extra
        return alone.train(self.training)
