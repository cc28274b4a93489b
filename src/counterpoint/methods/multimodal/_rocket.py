"""CLIP on global and local views of pairs, and the place where a companion across modalities joins it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from counterpoint.encoders import EMA, MultimodalEncoder, mlp_head
from counterpoint.methods.base import Recipe
from counterpoint.methods.multimodal._multimodal import LogitScale, Multimodal, View, some_rows
from counterpoint.objectives import MultiViewCLIP
from counterpoint.objectives.inputs import normalize

Features = dict[str, list[Tensor]]
SHARES = np.linspace(0, 1, 11)
LOCAL_HEADS = ("mlp", "linear")


class Rocket(Multimodal):
    """What CLIP-rocket and its companions share; see :class:`~counterpoint.methods.multimodal.clip_rocket.CLIPRocket`.

    The first view of a pair is the global one, all others are local. A companion overrides :meth:`companion`.
    """

    auto_views = "rocket"
    n_views = None
    projector: nn.ModuleDict

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any = None,
        recipe: Recipe | None = None,
        dim: int = 128,
        head: str = "linear",
        freeze: Sequence[str] = (),
        label_smoothing: float = 0.1,
        directions: str = "sum",
        separate_projectors: bool = True,
        hidden: int | None = None,
        temperature: float = 0.07,
        local_temperature: float = 0.1,
        score: str | float = "global",
        local_head: str = "mlp",
    ) -> None:
        super().__init__(encoder, views, recipe, dim, head, freeze)
        if len(self.names) != 2:
            raise ValueError(f"modalities: {type(self).__name__} takes two, and there are {', '.join(self.names)}")
        number = isinstance(score, int | float) and not isinstance(score, bool)
        if score not in ("global", "local") and not (number and 0 <= float(score) <= 1):
            raise ValueError(f"score: expected 'global', 'local' or a number from 0 to 1, got {score!r}")
        if local_head not in LOCAL_HEADS:
            raise ValueError(f"local_head: expected 'mlp' or 'linear', got {local_head!r}")
        self.score, self.separate = score, separate_projectors
        self.teacher: EMA | None = None
        self.width = max(encoder.features_of.values())
        self.objective = MultiViewCLIP(label_smoothing, directions, temperature, local_temperature)
        self.scale = _scale(temperature)
        self.local_scale = _scale(local_temperature) if separate_projectors else None
        self.projector = nn.ModuleDict()  # the heads of a run that its encoder does not hold
        for name in self.names if separate_projectors else ():
            if local_head == "mlp":
                self.projector[f"local_{name}"] = self.new_head(name, hidden or 2 * self.width, dim, 3)
            else:
                self.projector[f"local_{name}"] = nn.Linear(self.encoder.features_of[name], dim, bias=False)

    def new_head(self, name: str, hidden: int, dim: int, layers: int, **options: Any) -> nn.Module:
        """A perceptron with batch norm from the features of a modality."""
        return mlp_head(self.encoder.features_of[name], hidden, dim, layers=layers, **options)

    def add_companion(self, part: str, name: str, make: Callable[[], nn.Module], separate: bool) -> None:
        """Keep a companion's head for a modality, and another one for its local views where they are separate."""
        self.projector[f"{part}_{name}"] = make()
        if separate:
            self.projector[f"{part}_of_local_{name}"] = make()

    def through(self, part: str, h: Mapping[str, Sequence[Tensor]], heads: Any = None) -> Features:
        """Of each modality every view through its head: the first, which is global, and the local ones.

        Args:
            part: as in :meth:`add_companion`.
            h: of each modality what goes in, (B', F) for each view.
            heads: by default this model's; a teacher's.
        """
        heads = self.projector if heads is None else heads
        found: Features = {}
        for name in self.names:
            first, other = f"{part}_{name}", f"{part}_of_local_{name}"
            local = heads[other if other in heads else first]
            found[name] = [(local if at else heads[first])(each) for at, each in enumerate(h[name])]
        return found

    def local(self, name: str, h: Tensor) -> Tensor:
        """The local embedding of features (B, F)."""
        head = self.projector[f"local_{name}"] if self.separate else self.encoder.towers[name].head
        return head(h)

    def embed(self, view: View) -> dict[str, Tensor]:
        """``{name: z}`` by which pairs are scored: global (B, D), local (B, D), or both side by side (B, 2 D).

        Both are of unit length and weighted so that their cosine is the mixture of the two cosines.
        """
        return {name: self._scored(name, h, self.score) for name, h in self.encoder.features(view).items()}

    def _scored(self, name: str, h: Tensor, score: str | float) -> Tensor:
        tower = self.encoder.towers[name]
        if isinstance(score, str):
            return tower.head(h) if score == "global" else self.local(name, h)
        parts = [normalize(z.float()) for z in (tower.head(h), self.local(name, h))]
        return torch.cat([weight**0.5 * z for weight, z in zip((score, 1 - score), parts, strict=True)], 1)

    def look(self, encoder: MultimodalEncoder, views: Sequence[View]) -> Features:
        """Features of each modality in each view; in the global one without dropout and stochastic depth."""
        found: Features = {name: [] for name in self.names}
        for at, view in enumerate(views):
            for name in self.names:
                tower = encoder.towers[name]
                with calm(tower.encoder, at == 0):
                    found[name].append(tower.features(view[name]))
        return found

    def loss(self, views: Sequence[View], batch: dict[str, Any]) -> Tensor:
        there, items = self.both(batch, *self.names), len(views[0][self.names[0]])
        rows = torch.arange(items, device=self.device) if there is None else there.nonzero()[:, 0]
        if not self._enough(rows):
            return self.nothing({})
        if len(rows) < items:  # so that no placeholder enters the statistics of a batch
            views = [{name: some_rows(view[name], rows) for name in self.names} for view in views]
        h = self.look(self.encoder, views)
        a, b = self.names
        z = {name: self.encoder.towers[name].head(h[name][0]) for name in self.names}
        local = {name: [self.local(name, each) for each in h[name][1:]] for name in self.names}
        if self.watching:
            self.watch_batch(z[a], z[b])
        second = self.scale if self.local_scale is None else self.local_scale
        clip = self.objective(z[a], z[b], local[a], local[b], self.scale(), second())
        extra = self.companion(h, local, views)
        return clip if extra is None else self.total(clip=clip, companion=extra)

    def companion(self, h: Features, local: Features, views: Sequence[View]) -> Tensor | None:
        """What is added to the loss: of features and local embeddings of the pairs that are complete. Nothing here.

        Args:
            h: of each modality the features (B', F) of each view.
            local: of each modality the local embeddings (B', D) of each local view.
            views: of those pairs alone.
        """
        return None

    def after_step(self) -> None:
        self.scale.clamp()
        if self.local_scale is not None:
            self.local_scale.clamp()

    def findings(self, dataset: Any, indices: Any) -> Sequence[Any]:
        from counterpoint.findings import Curves
        from counterpoint.methods.multimodal._figures import _on

        found = list(super().findings(dataset, indices))
        batch = _on(dataset[indices], self.device)
        there = self.both(batch, *self.names)
        features = self.encoder.features(batch)
        h = {name: [each if there is None else each[there]] for name, each in features.items()}
        if len(h[self.names[0]][0]) < 2:
            return found
        lines = {name: [] for name in self.names}  # type: dict[str, list[float]]
        for share in SHARES:
            z = {name: normalize(self._scored(name, h[name][0], float(share)).float()) for name in self.names}
            for name, other in zip(self.names, reversed(self.names), strict=True):
                scores = z[name] @ z[other].T
                lines[name].append(float((scores.diagonal() >= scores.amax(1)).float().mean()))
        items = len(h[self.names[0]][0])
        told = {f"from {name}": np.array(values) for name, values in lines.items()}
        text = f"Share of {items} test pairs that find their partner among these, by which score: left by the local "
        text += "one, right by the global one, between them by a mixture of the two."
        found.append(Curves("Global, local, or both", text, SHARES, told, "share of the global score", "R@1"))
        return found


class WithTeacher(Rocket):
    """A companion whose targets may come from a slow copy of the model, in training mode as it is."""

    def teach(self, *parts: str, momentum: float) -> None:
        """Make the teacher: a copy of the encoder and of the heads whose names begin with one of these.

        Raises:
            ValueError: a momentum that is not in [0, 1].
        """
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum: expected a number from 0 to 1, got {momentum}")
        self.momentum, self._taught = momentum, [name for name in self.projector if name.startswith(parts)]
        self.teacher = EMA(self._student())

    def _student(self) -> _Model:
        return _Model(self.encoder, nn.ModuleDict({name: self.projector[name] for name in self._taught}))

    @torch.no_grad()
    def targets(self, views: Sequence[View]) -> tuple[Features, Any]:
        """The teacher's features of the complete pairs in each view, and the teacher itself."""
        assert self.teacher is not None
        model: Any = self.teacher.teacher
        return self.look(model.encoder, views), model

    def after_step(self) -> None:
        super().after_step()
        if self.teacher is not None:
            self.teacher.update(self._student(), self.momentum)


class _Model(nn.Module):
    def __init__(self, encoder: MultimodalEncoder, heads: nn.ModuleDict) -> None:
        super().__init__()
        self.encoder, self.heads = encoder, heads


def _scale(temperature: float) -> LogitScale:
    """Learned, from the authors' 1 to 100; a warmer start is its own lower bound."""
    return LogitScale(1 / temperature, smallest=min(1.0, 1 / temperature))


@contextmanager
def calm(module: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Where wanted, whatever is random in a module rests for the while; batch norm goes on as it was.

    The official code has dropout and stochastic depth in the local stream of texts alone.
    """
    if not wanted or not module.training:
        yield
        return
    norms = nn.modules.batchnorm._BatchNorm
    resting = [part for part in module.modules() if part.training and not isinstance(part, norms)]
    for part in resting:
        part.training = False
    try:
        yield
    finally:
        for part in resting:
            part.training = True
