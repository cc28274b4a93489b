"""What methods of several modalities share: towers, batches with gaps, a learned scale, and figures of retrieval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from counterpoint.encoders import MultimodalEncoder
from counterpoint.methods.base import Method, Recipe
from counterpoint.objectives import pairwise_scores
from counterpoint.objectives.inputs import normalize, positive
from counterpoint.pairwise import gather_labels
from counterpoint.pairwise.distributed import is_distributed

View = Mapping[str, Any]


class LogitScale(nn.Module):
    """A learned scale of similarities, the inverse of a temperature: ``exp(s)``.

    Args:
        init: where it starts; 1/0.07, CLIP's.
        largest: it is clamped to after each step; 100, CLIP's.
        learn: ``False`` keeps it.
        smallest: it is clamped to too; 0, as CLIP has no such bound. SLIP and CLIP-rocket have 1.

    ``scale()`` gives a 0-d tensor; :meth:`clamp` is to be called after each optimiser step.
    """

    def __init__(
        self, init: float = 1 / 0.07, largest: float = 100.0, learn: bool = True, smallest: float = 0.0
    ) -> None:
        super().__init__()
        positive(init=init, largest=largest)
        if not smallest <= init <= largest:
            raise ValueError(f"init: expected a scale from {smallest} to {largest}, got {init}")
        self.log = nn.Parameter(torch.tensor(math.log(init)), requires_grad=learn)
        self.largest, self.smallest = largest, smallest

    def forward(self) -> Tensor:
        return self.log.exp()

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep the scale between ``smallest`` and ``largest``."""
        self.log.clamp_(math.log(self.smallest) if self.smallest > 0 else None, math.log(self.largest))


class Multimodal(Method):
    """A method whose batches hold several modalities, each with a tower into one space.

    A batch is a dict: an entry for each modality by its name, ``batch["present"]`` with a bool (B,) for each, and
    index, label and target as ever. :meth:`loss` is given a list of views, dicts of one input per modality.

    Args:
        encoder: the towers; heads into the common space are attached unless it has them.
        views: a callable ``views(batch, names)``; see :class:`~counterpoint.views.ModalityViews`.
        recipe: see :class:`~counterpoint.methods.base.Method`.
        dim: D of the common space; 128 here, 512 in CLIP's smallest.
        head: from features into it, see :meth:`~counterpoint.encoders.MultimodalEncoder.attach`.
        freeze: names of towers whose encoders stay as they are (a locked tower, LiT: Zhai et al. 2022); or, by name,
            ``True`` or how many stages of the encoder, from the first, stay.

    Raises:
        ValueError: a single modality where the method needs two, or a name that is no tower.
    """

    n_views: ClassVar[int | None] = 1
    multimodal: ClassVar[bool] = True
    least_modalities: ClassVar[int] = 2
    paired: ClassVar[bool] = True  # it learns from items that have two modalities or more, and from nothing else
    contrasts: bool = True  # False: nothing between modalities is trained, so that nothing of it is scored or shown
    encoder: MultimodalEncoder  # type: ignore[assignment]

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any = None,
        recipe: Recipe | None = None,
        dim: int = 128,
        head: str = "linear",
        freeze: Sequence[str] | Mapping[str, bool | int] = (),
    ) -> None:
        super().__init__(encoder, views, recipe)  # type: ignore[arg-type]
        if len(encoder.towers) < self.least_modalities:
            raise ValueError(
                f"modalities: {type(self).__name__} needs {self.least_modalities}, and there is only "
                f"{', '.join(encoder.towers)}; name columns with image, text, audio, signal or modalities"
            )
        encoder.attach(dim, head)
        asked = [freeze] if isinstance(freeze, str) else freeze
        for name, stages in (asked if isinstance(asked, Mapping) else dict.fromkeys(asked, True)).items():
            if name not in encoder.towers:
                raise ValueError(f"freeze: there is no modality {name!r}; there are {', '.join(encoder.towers)}")
            if stages is not False:
                encoder.towers[name].freeze(stages=None if stages is True else stages)

    @property
    def names(self) -> list[str]:
        """Of the modalities, in order."""
        return list(self.encoder.towers)

    @property
    def viewed(self) -> list[str]:
        """The modalities that views are made of: those with a tower, and of some methods others beside them."""
        return self.names

    def forward(self, x: Any) -> Any:
        """Embeddings of a batch, ``{name: z (B, D)}``."""
        return self.encoder(x)

    def embed(self, view: View) -> dict[str, Tensor]:
        """``{name: z (B, D)}`` of a view, raw."""
        return self.encoder(view)

    def tower(self, name: str) -> nn.Module:
        """The tower of a modality that a step trains."""
        found: nn.Module = self.encoder.towers[name]
        return found

    def embed_present(self, view: View, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """As :meth:`embed`, but an encoder sees only the items that have its modality; the rows of others are 0.

        So no placeholder enters batch statistics. Where nobody has it, or alone in a single process one item, of which
        there are no statistics, all are seen.
        """
        return {name: self.embed_one(name, view, batch) for name in self.names}

    def embed_one(self, name: str, view: View, batch: Mapping[str, Any]) -> Tensor:
        """(B, D) of one modality, as :meth:`embed_present` has it."""
        there, tower = self.both(batch, name), self.tower(name)
        if there is None or bool(there.all()):
            return tower(view[name])
        rows = there.nonzero()[:, 0]
        apart = len(rows) > (0 if is_distributed() else 1)
        z = tower(some_rows(view[name], rows) if apart else view[name])
        return z.new_zeros(len(there), z.shape[1]).index_put((rows,), z if apart else z[rows])

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        scale = getattr(self, "scale", None)
        if isinstance(scale, LogitScale) and scale.log.requires_grad:
            self.tell(temperature=1 / scale())
        return loss

    def make_views(self, batch: dict[str, Any]) -> Sequence[Any]:
        with torch.autocast(self.device.type, enabled=False):
            if self.views is None:
                return [{name: batch[name] for name in self.viewed if name in batch}]
            views: Any = self.views
            return views(batch, self.viewed)

    @staticmethod
    def both(batch: Mapping[str, Any], *names: str) -> Tensor | None:
        """Bool (B,): the items that have all of these modalities; ``None`` where the batch says nothing of it."""
        told = batch.get("present")
        if told is None:
            return None
        found: Tensor | None = None
        for name in names:
            found = told[name] if found is None else found & told[name]
        return found

    def pairs(self, z: Mapping[str, Tensor], batch: Mapping[str, Any]) -> list[tuple[str, str, Tensor, Tensor]]:
        """Every two modalities, with the embeddings of the items that have both, where at least two items do.

        Of several processes all come to the same answer, since a loss of all their items needs all of them.
        """
        found = []
        for a, b in combinations([name for name in self.names if name in z], 2):
            there = self.both(batch, a, b)
            if there is None or bool(there.all()):
                x, y = z[a], z[b]
            else:
                x, y = z[a][there], z[b][there]
            if self._enough(x):
                found.append((a, b, x, y))
        if found and self.watching:
            self.watch_batch(found[0][2], found[0][3])
        return found

    @staticmethod
    def _enough(x: Tensor) -> bool:
        """Whether there is anything to contrast: two rows, and one on each of several processes."""
        counts = _counts(len(x), x.device)
        return bool(counts.min() > 0 and counts.sum() > 1)

    @staticmethod
    def everywhere(rows: int, device: Any = None) -> bool:
        """Whether each of several processes has rows to learn from, so that all do the same."""
        return bool(_counts(rows, device).min() > 0)

    def candidate_scores(self, candidates: Tensor, queries: Mapping[str, Tensor]) -> Tensor:
        """Scores (N, C) of embeddings (C, D) of one modality, given those (N, D) of others; the largest is the guess.

        The sum of cosines here; a method that scores otherwise says so.
        """
        return pairwise_scores(candidates, queries)

    def nothing(self, z: Mapping[str, Tensor]) -> Tensor:
        """A loss of 0 that all that is trained has a part in, for a batch in which no two items can be compared."""
        parts = [*z.values(), *(weight for weight in self.parameters() if weight.requires_grad)]
        return torch.stack([part.sum() for part in parts]).sum() * 0

    @torch.no_grad()
    def similar(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Unit vectors (M, D) of the first two modalities, of the M items of a batch that have both."""
        view = self.make_views(batch)[0]
        z = self.embed(view)
        a, b = self.names[:2]
        there = self.both(batch, a, b)
        keep = slice(None) if there is None else there
        return normalize(z[a][keep].float()), normalize(z[b][keep].float())

    def facts(self) -> dict[str, Any]:
        """``{"scale": s}`` where one is learned: ``softmax(s * cosines)`` are the probabilities of classes by name."""
        scale = getattr(self, "scale", None)
        return {"scale": float(scale().detach())} if isinstance(scale, LogitScale) else {}

    def recall(self, facts: Mapping[str, Any]) -> None:
        scale = getattr(self, "scale", None)
        if isinstance(scale, LogitScale) and "scale" in facts:
            scale.log.data.fill_(math.log(facts["scale"]))

    def findings(self, dataset: Any, indices: Any) -> Sequence[Any]:
        from counterpoint.methods.multimodal._figures import figures

        return figures(self, dataset, indices)


def _counts(rows: int, device: Any) -> Tensor:
    """Rows of each process."""
    counts = gather_labels(torch.tensor([rows], device=device))
    assert counts is not None
    return counts


def some_rows(x: Any, rows: Tensor) -> Any:
    """Rows (M,) of a tensor or of a list."""
    return x[rows] if isinstance(x, Tensor) else [x[at] for at in rows.tolist()]
