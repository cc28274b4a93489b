"""What all methods share: an encoder, views, an optimiser, and nothing that a paper would want to say itself."""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, ClassVar

import lightning
import torch
from torch import Tensor, nn

from counterpoint.encoders import Encoder
from counterpoint.findings import Finding
from counterpoint.methods.larc import LARC
from counterpoint.mining import Grouping
from counterpoint.objectives.inputs import normalize
from counterpoint.objectives.statistics import ScoreStatistics, score_statistics

Views = Callable[[Tensor], Sequence[Tensor]]
# of a step: enough for its statistics, too few to cost a fiftieth of it
_WATCHED_ANCHORS, _WATCHED_ITEMS, _WATCHED_SCORES = 64, 512, 2**18


@dataclass(frozen=True)
class Recipe:
    """How a method is optimised.

    Args:
        optimizer: ``"adamw"``, ``"sgd"`` (momentum 0.9) or ``"larc"``, SGD with a rate for each layer in proportion to
            its weights (:class:`~counterpoint.methods.larc.LARC`), by which SwAV trains, ``lr`` 0.6 for batches of 256.
        lr: peak learning rate. 1e-3 with AdamW is what PyTorch's documentation and most small-scale replications start
            from; it is the same for all methods, so that none is tuned more than another.
        weight_decay: on weights of two or more dimensions only (SimCLR leaves biases and norms out too).
        schedule: ``"cosine"`` to zero, or ``"constant"``.
        warmup: share of all steps in which the rate rises linearly (SimCLR: 10 of 100 epochs).
        encoder_lr: peak learning rate of ``module.encoder``, where it should differ from the rest's; ``None``: ``lr``.
        start_lr: learning rate of the first step of the warm-up; ``None``: one step of it above 0.
        end_lr: learning rate in which the cosine ends; 0. Both are shares of ``lr``: a rate of its own for the encoder
            starts and ends at the same shares.
        betas: of AdamW; (0.9, 0.999), PyTorch's. CLIP and its successors have 0.98 for the second, with which the
            optimiser forgets a sudden large gradient sooner.
    """

    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    warmup: float = 0.1
    encoder_lr: float | None = None
    start_lr: float | None = None
    end_lr: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        if self.optimizer not in ("adamw", "sgd", "larc"):
            raise ValueError(f"optimizer: expected 'adamw', 'sgd' or 'larc', got {self.optimizer!r}")
        if self.schedule not in ("cosine", "constant"):
            raise ValueError(f"schedule: expected 'cosine' or 'constant', got {self.schedule!r}")
        if not (0 < self.lr < math.inf and 0 <= self.weight_decay < math.inf and 0 <= self.warmup <= 1):
            raise ValueError(f"lr, weight_decay, warmup: expected lr > 0, decay >= 0, warmup in [0, 1], got {self}")
        if self.encoder_lr is not None and not 0 < self.encoder_lr < math.inf:
            raise ValueError(f"encoder_lr: expected a finite number above 0, got {self.encoder_lr}")
        for name, value in (("start_lr", self.start_lr or 0.0), ("end_lr", self.end_lr)):
            if not 0 <= value <= self.lr:
                raise ValueError(f"{name}: expected a number from 0 to lr, {self.lr}, got {value}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: expected two numbers of at least 0 and below 1, got {self.betas}")

    def factor(self, step: int, total: int) -> float:
        """The learning rate at a step as a share of ``lr``."""
        warm = round(self.warmup * total)
        if step < warm:
            if self.start_lr is None:
                return (step + 1) / warm
            start = self.start_lr / self.lr
            return start + (1 - start) * step / max(1, warm - 1)
        if self.schedule == "constant":
            return 1.0
        end = self.end_lr / self.lr
        return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

    def optimizers(
        self, module: nn.Module, total: int, starts: Sequence[int] = (0,)
    ) -> tuple[torch.optim.Optimizer, Any]:
        """Optimiser and schedule over ``total`` steps for the parameters of ``module`` that take a gradient.

        The schedule, warm-up included, begins anew at each of ``starts``, of which the first is 0.
        """
        parameters = [p for p in module.parameters() if p.requires_grad]
        encoder, apart = getattr(module, "encoder", None), self.encoder_lr is not None
        own = {id(p) for p in encoder.parameters()} if apart and isinstance(encoder, nn.Module) else set()
        groups = [
            {
                "params": [p for p in parameters if (id(p) in own) == inside and (p.ndim > 1) == wide],
                "weight_decay": self.weight_decay if wide else 0.0,
                "lr": (self.encoder_lr or self.lr) if inside else self.lr,
            }
            for inside in (False, True)
            for wide in (True, False)
        ]
        groups = [group for group in groups if group["params"]]
        optimizer: torch.optim.Optimizer
        if self.optimizer == "adamw":
            optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, foreach=True)
        elif self.optimizer == "larc":
            optimizer = LARC(groups, lr=self.lr)
        else:
            optimizer = torch.optim.SGD(groups, lr=self.lr, momentum=0.9, foreach=True)
        ends = [*starts[1:], total]

        def factor(step: int) -> float:
            part = bisect_right(starts, step) - 1
            return self.factor(step - starts[part], ends[part] - starts[part])

        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class Method(lightning.LightningModule):
    """A LightningModule that trains an encoder from views.

    A subclass builds its heads in ``__init__`` (calling this one's with ``encoder``, ``views`` and ``recipe``), sets
    ``self.projector``, and defines :meth:`loss`. One that sets ``self.classifier``, a linear layer from features to
    classes, has it saved with the run and scored.

    A batch is a dict: ``batch[modality]`` (uint8 images or float vectors) or ready-made ``batch["views"]``;
    ``batch["index"]``; ``batch["label"]`` where there are labels; ``batch["target"]``
    where there is a target.

    Args:
        encoder: module from a view to features (B, F), with the attribute ``features``.
        views: callable from a batch of items to a list of views; not needed if batches carry ``"views"``.
        recipe: how it is optimised.
    """

    needs_labels: ClassVar[bool] = False
    labelled_only: ClassVar[bool] = False  # unlabelled items would be of no use to it
    needs_target: ClassVar[bool] = False  # a number to predict; items without one are of no use to it
    learns: ClassVar[bool] = True  # False: fit does no step
    n_views: ClassVar[int | None] = 2  # None: any number
    continues: ClassVar[tuple[str, ...]] = ()  # methods of whose runs it takes the head too
    auto_views: ClassVar[str] = "auto"  # what fit's views="auto" means for it: "identity" takes items as they are
    own_classes: Sequence[str] = ()  # what a classifier names, where that is not the labels of the data
    projector: nn.Module

    def __init__(self, encoder: Encoder, views: Views | None = None, recipe: Recipe | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.views, self.recipe = views, recipe or Recipe()
        self.projector = nn.Identity()
        self.watching = False  # set by whoever wants the statistics of a step's scores
        self.watched: dict[str, ScoreStatistics] = {}
        self.told: dict[str, Tensor] = {}  # of the step, for whoever keeps the record

    @classmethod
    def defaults_for(cls, items: int) -> dict[str, Any]:
        """Defaults that depend on the number of training items, such as the length of a queue."""
        return {}

    @classmethod
    def options_from(cls, dataset: Any, train: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults that depend on the data, such as the names of classes; they are kept with the run.

        Args:
            dataset: what is trained on.
            train: int64 (N,), positions of the training items.
            options: what the user says.
        """
        return {}

    @abstractmethod
    def loss(self, views: Sequence[Any], batch: dict[str, Any]) -> Tensor:
        """The paper: a scalar from the views of a batch."""

    def forward(self, x: Tensor) -> Tensor:
        """Features ``h`` (B, F) of one view: what is evaluated and exported."""
        return self.encoder(x)

    def project(self, x: Tensor) -> Tensor:
        """The embedding ``z`` (B, D) of one view: what the objective acts on."""
        return self.projector(self.encoder(x))

    def grouping(self) -> Grouping | None:
        """Groups of items from one of which each batch of the coming epoch is to be drawn; ``None``: from all.

        :func:`counterpoint.fit` asks before each epoch, after ``on_train_epoch_start``.
        """
        return None

    def prepare(self, dataset: Any, indices: Any) -> None:
        """Look at what is to be trained on. Nothing by default.

        :func:`counterpoint.fit` calls it once, before the training or its resumption.

        Args:
            dataset: as for :meth:`findings`.
            indices: int64 (N,), positions of the training items.
        """

    def facts(self) -> dict[str, Any]:
        """Numbers and words that belong with the encoder and are none of its weights, such as a learned temperature.

        They are kept in its config, and :meth:`recall` is given them when a run is opened. None by default.
        """
        return {}

    def recall(self, facts: Mapping[str, Any]) -> None:
        """Take up what :meth:`facts` told; older runs lack some. Nothing by default."""

    def findings(self, dataset: Any, indices: Any) -> Sequence[Finding]:
        """Figures of what the method found out, for the page of its run. Nothing by default.

        Called once after training, in evaluation mode, without gradients and with torch's generator seeded.

        Args:
            dataset: what was trained on: ``dataset[indices]`` is a batch, ``dataset.classes`` the names of the labels.
            indices: int64 (N,), up to 256 positions of test items, ascending.
        """
        return ()

    def embed_together(self, views: Sequence[Tensor]) -> Sequence[Tensor]:
        """``z`` of views of one size in a single pass, batch statistics shared, as SimCLR's code does."""
        return self.project(torch.cat(list(views))).split([len(view) for view in views])

    def tell(self, **figures: Tensor) -> None:
        """Figures of this step, 0-d tensors, whose means over an epoch are to stand in the record of the run.

        Nothing waits for them: they stay on their device until the epoch ends. A trainer with loggers gets them too.
        """
        found = {name: figure.detach() for name, figure in figures.items()}
        self.told |= found
        if self.training and self._trainer is not None and self.trainer.loggers:
            self.log_dict(found, on_step=False, on_epoch=True, batch_size=1)

    def total(self, **parts: Tensor) -> Tensor:
        """The sum of the parts of a loss, each with its weight in it; of several each is told, as ``loss:name``."""
        if not parts:
            raise ValueError("parts: none given")
        if len(parts) > 1:
            self.tell(**{f"loss:{name}": part for name, part in parts.items()})
        return reduce(add, parts.values())

    @torch.no_grad()
    def watch(
        self,
        queries: Tensor,
        keys: Tensor,
        negatives: Tensor,
        own: Tensor | None = None,
        *,
        stage: str = "before",
        unit: bool = True,
    ) -> None:
        """Tell how positives and negatives score in this step; does nothing unless somebody is watching.

        A method whose negatives are not the other items of the batch calls this in its loss, before it changes
        anything, and again with ``stage="after"`` if it changes features or adds negatives: the same pairs as its loss
        sees them. Up to 64 anchors and 2^18 scores are looked at.

        Args:
            queries: (B, D).
            keys: (B, D), their positives.
            negatives: (K, D).
            own: (B, S), scores of more negatives of each query alone.
            stage: ``"before"`` or ``"after"``.
            unit: whether embeddings are normalised first.
        """
        if not self.watching:
            return
        some = max(1, min(len(queries), _WATCHED_ANCHORS, _WATCHED_SCORES // len(negatives)))
        with torch.autocast(queries.device.type, enabled=False):
            q, k, n = (x.detach().float() for x in (queries[:some], keys[:some], negatives))
            if unit:
                q, k = normalize(q), normalize(k)
            scores = q @ n.T
            if unit:
                scores /= torch.linalg.vector_norm(n, dim=1).clamp(min=torch.finfo(n.dtype).tiny)
            if own is not None:
                scores = torch.cat([scores, own[:some].detach().float()], 1)
            self.watched[stage] = score_statistics((q * k).sum(1), scores, self._temperature())

    @torch.no_grad()
    def watch_batch(self, first: Tensor, second: Tensor) -> None:
        """:meth:`watch` for two views (B, D) of a batch, where the other items are the negatives: up to 512 of them."""
        some = min(len(first), _WATCHED_ANCHORS)
        with torch.autocast(first.device.type, enabled=False):
            q, k = (normalize(x.detach().float()) for x in (first[:some], second[:_WATCHED_ITEMS]))
            scores = q @ k.T
            others = scores[~torch.eye(*scores.shape, dtype=torch.bool, device=scores.device)].view(some, -1)
            self.watched["before"] = score_statistics(scores.diagonal(), others, self._temperature())

    def _temperature(self) -> float | None:
        """The objective's, if it has one and it is a number."""
        found = getattr(getattr(self, "objective", None), "temperature", None)
        return found if isinstance(found, float | int) else None

    @property
    def progress(self) -> float:
        """How much of the training is done, from 0 to 1."""
        if self._trainer is None:
            return 0.0
        return min(1.0, self.trainer.global_step / max(1, self.trainer.estimated_stepping_batches))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        views = batch["views"] if "views" in batch else self.make_views(batch)
        if self.n_views is not None and len(views) != self.n_views:
            raise ValueError(f"views: {type(self).__name__} contrasts {self.n_views} views, and there are {len(views)}")
        self.told = {}
        loss = self.loss(views, batch)
        size = len(batch["index"]) if "index" in batch else len(views[0])
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=size)
        return loss

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        super().optimizer_step(*arguments, **named)
        self.after_step()

    def after_step(self) -> None:
        """What follows an optimiser step: a momentum teacher moves, prototypes are normalised. Nothing by default."""

    def make_views(self, batch: dict[str, Any]) -> Sequence[Tensor]:
        """The views of a batch.

        Raises:
            ValueError: this method was made without views, or the batch holds nothing to make them from.
        """
        if self.views is None:
            raise ValueError("views: this method was made without views, so batches must carry batch['views']")
        for modality in ("image", "vector"):
            if modality in batch:
                with torch.autocast(self.device.type, enabled=False):  # views are pixels, not activations
                    return self.views(batch[modality])
        raise ValueError(f"batch: expected one of the keys 'image', 'vector', 'views', got {sorted(batch)}")

    def configure_optimizers(self) -> Any:
        total = int(self.trainer.estimated_stepping_batches)
        optimizer, schedule = self.recipe.optimizers(self, max(1, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def labels_of(batch: dict[str, Any]) -> Tensor:
    """``batch["label"]``; ``ValueError`` where the data have none."""
    if "label" not in batch:
        raise ValueError("labels: this method needs labels, and the data have none; name their column with labels=")
    return batch["label"]
