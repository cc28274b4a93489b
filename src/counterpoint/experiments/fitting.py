"""The steps of a fit, from the data to the evaluated encoder."""

from __future__ import annotations

import copy
import inspect
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterpoint.experiments.fit import plain, rank
from counterpoint.experiments.run import Run, environment, now, write_arrays
from counterpoint.files import atomic, write_json
from counterpoint.methods import get

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from counterpoint.data import Dataset, Splits
    from counterpoint.encoders import Encoder
    from counterpoint.methods import Method

_STATISTICS_ITEMS = 10_000  # enough for a mean and a standard deviation to three digits
_MONITOR_ITEMS = 512
_MONITOR_GALLERY = 2048
_FINDINGS_ITEMS = 256
Tell = Callable[[float, float, float], None]


class Fit:
    """The steps of one fit, each a method that fills in what the next needs."""

    def __init__(self, folder: Path, data: Any, arguments: dict[str, Any]) -> None:
        self.folder, self.data, self.a = folder, data, arguments
        self.result = Run(folder)
        self.notes: list[str] = []
        self.told: dict[str, Any] = {}  # what else the status says
        self.found: list[Any] = []  # figures for the page, besides those of the method
        self.main = rank() == 0

    def run(self) -> Run:
        import torch

        from counterpoint.evaluation import known_metrics
        from counterpoint.experiments.training import keep_memory, quiet

        quiet()
        keep_memory()
        known_metrics(self.a.get("metrics"))  # a misspelt one is found out before the training, not after
        if self.a["threads"]:
            torch.set_num_threads(self.a["threads"])
        if self.main:
            self.result.set_state("running", pid=os.getpid())
            write_json(self.folder / "environment.json", environment())
        try:
            self.dataset, self.splits, self.shown, self.train = load_data(self.data, self.a)
            if self.main:
                self.splits.save(self.folder / "splits.npz")
            self.order = self._inflate()
            self.method = self._method()
            seconds = self._train()
            if self.main:
                self._finish(seconds)
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | SystemExit)
            if self.main:
                self._leave_usable("interrupted" if stopped else "failed", error)
            if stopped:
                raise KeyboardInterrupt(
                    f"interrupted; the encoder as far as it got is in {self.folder}; go on with --resume true"
                ) from None
            raise
        return self.result

    def _inflate(self) -> np.ndarray:
        """Positions that an epoch draws; with generated data, :attr:`shown` then holds them too."""
        if self.a["generated"] is None:
            return self.train
        from counterpoint.data import InflatedDataset
        from counterpoint.experiments.inflating import inflate, pictures, summary

        self.shown, order = inflate(self.shown, self.splits, self.train, self.folder, self.a, self.notes.append)
        if isinstance(self.shown, InflatedDataset):
            self.found += pictures(self.shown)
            self.told["inflation"] = summary(self.shown)
        return order

    def _method(self) -> Method:
        import torch

        from counterpoint.methods import Recipe
        from counterpoint.views import resolve

        a, dataset = self.a, self.dataset
        torch.manual_seed(a["seed"])
        encoder = make_encoder(dataset, self.train, a)
        if a["freeze"]:
            encoder.freeze(a["freeze"])
        recipe = Recipe(a["optimizer"], a["lr"], a["weight_decay"], a["schedule"], a["warmup"], a["encoder_lr"])
        asked = get(a["method"]).auto_views if a["views"] == "auto" else a["views"]
        views = resolve(asked, modality=dataset.modality, shape=dataset.shape)
        kind, self.options = method_options(a["method"], a["options"], self._distinct, self.shown, self.train)
        return kind(encoder, views, recipe, **self.options)

    @property
    def _distinct(self) -> int:
        """How many items are drawn from, however often each is."""
        import numpy as np

        return len(np.unique(self.order))

    def _train(self) -> float:
        import lightning
        import torch

        from counterpoint.data import loader
        from counterpoint.experiments import training
        from counterpoint.pairwise import synchronize_batchnorm

        a = self.a
        size = batch_size(a["batch_size"], self._distinct)
        epochs = a["epochs"] if a["steps"] is None else -(-a["steps"] // (len(self.order) // size))
        epochs = epochs if self.method.learns else 0
        if a["compile"]:
            self.method.encoder.backbone.compile()
        if self.dataset.modality == "image":
            self.method.to(memory_format=torch.channels_last)
        precision: Any
        precision = self.precision = training.fast_precision() if a["precision"] == "auto" else a["precision"]
        together = "LOCAL_WORLD_SIZE" in os.environ or int(os.environ.get("SLURM_NTASKS", 1)) > 1
        world = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", 1))) if together else 1
        batches = training.Batches(
            loader(self.shown, self.order, size, seed=a["seed"], drop_last=True, rank=rank(), world=world),
            self.method.grouping,
        )
        checkpointer = training.Checkpointer(self.folder, a["checkpoint_seconds"])
        callbacks = [
            training.SeedSteps(a["seed"], batches),
            training.Recorder(self.folder, self._monitor(epochs) if a["monitor"] else None, lambda: batches.facts),
            *([training.ScoreCurves(self.folder)] if a["monitor"] else []),
            checkpointer,
        ]
        trainer = lightning.Trainer(
            max_epochs=epochs,
            max_steps=a["steps"] if a["steps"] is not None else -1,
            accelerator=a["accelerator"],
            devices=os.environ.get("LOCAL_WORLD_SIZE", "auto") if a["devices"] == "auto" else a["devices"],
            strategy="ddp" if together else "auto",
            num_nodes=a["nodes"],
            precision=precision,
            callbacks=[*callbacks, *self._progress()],
            plugins=[training.AtomicCheckpoints()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            sync_batchnorm=torch.cuda.is_available(),
            default_root_dir=self.folder,
        )
        if trainer.world_size > 1 and not torch.cuda.is_available():  # torch's own needs CUDA
            synchronize_batchnorm(self.method)
        if trainer.is_global_zero:
            checkpointer.path.parent.mkdir(exist_ok=True)
        started = time.monotonic()
        resume = str(checkpointer.path) if a["resume"] and checkpointer.path.exists() else None
        if epochs:
            trainer.fit(self.method, batches, ckpt_path=resume, weights_only=True)
        if trainer.interrupted:
            raise KeyboardInterrupt
        history = self.result.metrics
        for note in training.group_notes(history) if self.main else []:
            self._warn(note)
        return history[-1]["seconds"] if history else time.monotonic() - started

    def _monitor(self, epochs: int) -> Any:
        import numpy as np
        import torch

        from counterpoint.experiments.training import Monitor

        times = np.unique(np.linspace(0, max(0, epochs - 1), min(epochs, self.a["monitor"])).round())
        draw = np.random.default_rng(self.a["seed"])
        items = np.sort(draw.choice(self.train, min(_MONITOR_ITEMS, len(self.train)), replace=False))
        if len(items) < 2:
            return None
        parts = []
        for indices in (self.splits.train, self.splits.val):
            some = np.sort(draw.choice(indices, min(_MONITOR_GALLERY, len(indices)), replace=False))
            known = some[self.dataset.labels[some] >= 0] if self.dataset.labels is not None else some[:0]
            batch = self.dataset[known] if len(known) > 1 else None
            parts.append((batch[self.dataset.modality], batch["label"].numpy()) if batch else None)
        inputs = self.dataset[items][self.dataset.modality]
        return Monitor(
            self.folder, set(map(int, times)), torch.as_tensor(inputs), parts[0], parts[1], self.a["seed"], self._warn
        )

    def _warn(self, sentence: str) -> None:
        self.notes.append(sentence)
        print(f"{self.folder.name}: {sentence}", file=sys.stderr)

    def _progress(self) -> list[Any]:
        from counterpoint.experiments.training import Progress

        wanted = self.a["progress"]
        if callable(wanted):  # compare listens in
            return [Progress(wanted)]
        return [Progress(bar(self.folder.name))] if wanted and self.main else []

    def _finish(self, seconds: float) -> None:
        self._save_model()
        self._keep_findings()
        if self.a["evaluate"]:
            layer, seed = self.a["layer"], self.a["seed"]
            metrics = self.a.get("metrics")
            evaluation = evaluate_encoder(self.method, self.dataset, self.splits, self.folder, seed, layer, metrics)
            evaluation = self._with_classifier(evaluation, metrics)
            evaluation.notes.extend(self.notes)
            evaluation.save(self.folder)
        self.result.set_state(
            "finished",
            seconds=round(seconds, 3),
            skipped=self.dataset.skipped,
            notes=self.notes,
            precision=self.precision,
            **self.told,
        )
        if self.a["report"]:
            from counterpoint.experiments.reports import write_run_report

            write_run_report(self.result, self.dataset, self.method.views)
        shutil.rmtree(self.folder / "checkpoint", ignore_errors=True)

    def _with_classifier(self, evaluation: Any, metrics: list[str] | None) -> Any:
        """Scores of the classifier, where the method has one, before those of the encoder."""
        import torch

        from counterpoint.evaluation import OF_A_CLASSIFIER, Embeddings, Evaluation, classification, known_metrics

        classifier, labels = getattr(self.method, "classifier", None), self.dataset.labels
        wanted = known_metrics(metrics) & set(OF_A_CLASSIFIER)
        if classifier is None or labels is None or self.shown.labels is None:
            missing = sorted(wanted) if metrics is not None else []
            evaluation.notes.extend(f"{name}: left out, the method trains no classifier." for name in missing)
            return evaluation
        if not wanted:
            return evaluation
        features = self.result.embeddings["features"]
        with torch.inference_mode():
            logits = classifier(torch.from_numpy(features).to(self.method.device)).float().cpu()
        own = classification(
            logits.argmax(1).numpy(),
            Embeddings(features, labels[self.splits.test]),
            classifier.out_features,
            self.shown.labels[self.train],
        )
        scores = {name: value for name, value in own.scores.items() if name in wanted}
        return Evaluation(
            scores | evaluation.scores, own.items | evaluation.items, own.arrays | evaluation.arrays,
            own.notes + evaluation.notes,
        )  # fmt: skip

    def _keep_findings(self) -> None:
        """What the method found out; a figure that fails is noted and costs no training."""
        import numpy as np
        import torch

        from counterpoint import findings

        some = np.random.default_rng(self.a["seed"]).permutation(self.splits.test)[:_FINDINGS_ITEMS]
        self.method.eval()
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.a["seed"])
                found = self.method.findings(self.dataset, np.sort(some))
            findings.save(self.folder, [*self.found, *found])
        except (ValueError, RuntimeError) as error:
            self._warn(f"the method's own figures could not be made: {error}")

    def _save_model(self) -> None:
        """The encoder, which opens by itself, and what :meth:`Run.model` needs to put the head back on it."""
        from safetensors.torch import save
        from torch import nn

        from counterpoint.encoders import save_classifier

        self.method.encoder.save(
            self.folder / "encoder",
            method=plain(self.a["method"]),
            data=self.dataset.name,
            seed=self.a["seed"],
            classes=self.dataset.classes,
            trained=now(),
            **self._origin(),
        )
        head = self.folder / "head"
        head.mkdir(exist_ok=True)
        state = self.method.projector.state_dict()  # cloned, since safetensors refuses what shares memory
        with atomic(head / "model.safetensors") as file:
            file.write(save({name: value.detach().cpu().contiguous().clone() for name, value in state.items()}))
        write_json(head / "config.json", {"method": plain(self.a["method"]), "options": plain(self.options)})
        classifier = getattr(self.method, "classifier", None)
        if isinstance(classifier, nn.Linear) and self.dataset.classes is not None:
            save_classifier(classifier, self.dataset.classes, self.folder / "classifier")

    def _origin(self) -> dict[str, Any]:
        """What the encoder was before this training, if it was trained already."""
        extra = self.method.encoder.config.get("extra")
        return {"start": {"folder": os.fspath(self.a["encoder"]), **extra}} if extra else {}

    def _leave_usable(self, state: str, error: BaseException) -> None:
        """Record how it ended; keep encoder and head as they are. The last checkpoint stays where it was."""
        if hasattr(self, "method") and state == "interrupted":
            self._save_model()
        self.result.set_state(state, why=f"{type(error).__name__}: {error}".strip(": "))


def load_data(data: Any, a: dict[str, Any]) -> tuple[Dataset, Splits, Dataset, np.ndarray]:
    """Data set, splits, the data set as the method sees it, and the positions to train on.

    With ``labels_per_class``, the other training labels are hidden from the method (-1), not from the evaluation.
    Training positions leave out items without a label, or without a target, for a method that can do nothing with them.
    """
    import numpy as np

    from counterpoint.data import Splits, load, split

    names = ("labels", "target", "image", "features", "image_size", "root", "download", "limit", "max_corrupt")
    how = {name: a[name] for name in names if name in a}  # older runs know no target
    start = trained_folder(a.get("encoder", "auto"))
    dataset = load(data, **how) if start is None else _load_for(start, data, how)
    given = a.get("splits")
    if given is None:
        splits = split(dataset, seed=a["split_seed"], val=a["val"], test=a["test"])
    else:
        splits = given if isinstance(given, Splits) else Splits.load(given)
    kind, train = get(a["method"]), splits.train
    if kind.needs_labels and dataset.labels is None:
        raise ValueError(f"method: {a['method']!r} needs labels, and {dataset.name!r} has none; name them with labels")
    if kind.needs_target and dataset.targets is None:
        raise ValueError(
            f"method: {a['method']!r} needs a target, and {dataset.name!r} has none; name its column with target, or "
            "give target=label to take its labels as numbers"
        )
    if kind.needs_target and a.get("generated") is not None:
        raise ValueError(f"generated: generated items have no target, which {a['method']!r} needs")
    shown = dataset if a["labels_per_class"] is None else _hide_labels(dataset, splits, a)
    if kind.labelled_only and shown.labels is not None:
        train = train[shown.labels[train] >= 0]
    if kind.needs_target and dataset.targets is not None:
        train = train[~np.isnan(dataset.targets[train])]
    return dataset, splits, shown, np.asarray(train)


def trained_folder(encoder: Any) -> Path | None:
    """The folder of a trained encoder that the argument ``encoder`` of :func:`fit` names; ``None`` where it is a name.

    Raises:
        FileNotFoundError: a path where there is no encoder.
        ValueError: the folder of a run that is not finished.
    """
    if not isinstance(encoder, str | os.PathLike):
        raise ValueError(f"encoder: expected a name or the folder of a trained encoder, got {encoder!r}")
    folder, is_path = Path(encoder), os.sep in os.fspath(encoder)
    if not is_path and not any((folder / name).exists() for name in ("config.json", "config.yaml")):
        return None
    if (folder / "config.yaml").exists() and (state := Run(folder).state) != "finished":
        raise ValueError(
            f"encoder: the run in {folder} is {state}, not finished; go on with it with resume, or give "
            f"{folder / 'encoder'} to start from what there is"
        )
    if not any((folder / name).exists() for name in ("config.json", "encoder/config.json")):
        raise FileNotFoundError(f"encoder: no trained encoder in {folder}: expected the folder of a run or an encoder")
    return folder


def _load_for(start: Path, data: Any, how: dict[str, Any]) -> Dataset:
    """The data in the shape that a trained encoder takes."""
    from counterpoint.encoders import load
    from counterpoint.search.embedding import dataset_for

    encoder = load(start)
    if how["image_size"] is not None and (how["image_size"],) * 2 != encoder.shape[1:]:
        raise ValueError(f"image_size: the encoder takes {encoder.shape[1:]} and not {how['image_size']}; leave it out")
    return dataset_for(encoder, data, **how)


def _hide_labels(dataset: Dataset, splits: Splits, a: dict[str, Any]) -> Dataset:
    import numpy as np

    from counterpoint.data import few

    if dataset.labels is None:
        raise ValueError("labels_per_class: the data have no labels")
    kept = splits.train[few(dataset.labels[splits.train], a["labels_per_class"], seed=a["seed"])]
    shown = copy.copy(dataset)
    shown.labels = np.full_like(dataset.labels, -1)
    shown.labels[kept] = dataset.labels[kept]
    return shown


def make_encoder(dataset: Dataset, train: np.ndarray, a: dict[str, Any]) -> Encoder:
    """The encoder that the arguments of :func:`fit` name.

    A new one standardises by the training data; a trained one goes on as it is, with the statistics it has.
    """
    import numpy as np
    import torch

    from counterpoint.encoders import build, load

    name, options, start = a["encoder"], a["encoder_options"] or {}, trained_folder(a["encoder"])
    if start is not None:
        trained = load(start)
        if options not in ({}, {"pretrained": True}, {"pretrained": False}):
            raise ValueError(f"encoder_options: {start} has its own; only pretrained=false is possible, got {options}")
        if options.get("pretrained", True):
            return trained.train()
        name, options = trained.config["name"], trained.config["arguments"]
    some = np.sort(np.random.default_rng(0).permutation(train)[:_STATISTICS_ITEMS])
    x = dataset[some][dataset.modality]
    x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    std, mean = torch.std_mean(x, dim=(0, 2, 3) if dataset.modality == "image" else 0)
    if name == "auto":
        name = "convnet" if dataset.modality == "image" else "mlp"
    return build(name, dataset.shape, mean=mean, std=torch.nan_to_num(std, nan=1.0), **options)


def method_options(
    method: Any, options: dict[str, Any] | None, items: int, dataset: Dataset, train: np.ndarray | None = None
) -> tuple[Any, dict[str, Any]]:
    """The class of a method and its parameters: what depends on the data, then what the user says.

    Raises:
        ValueError: an option that the method does not have, with those it has.
    """
    kind = get(method)
    known = list(inspect.signature(kind).parameters)[3:]
    for name in options or {}:
        if name not in known:
            raise ValueError(f"options: {method} has no parameter {name!r}; it has {', '.join(known) or 'none'}")
    chosen = kind.defaults_for(items)
    if "classes" in known and dataset.classes is not None:
        chosen["classes"] = len(dataset.classes)
    if "items" in known:
        chosen["items"] = len(dataset)  # generated ones too: state per item is found by its index in the data set
    if kind.needs_target and train is not None and dataset.targets is not None:
        seen = dataset.targets[train]
        moments = {"center": float(seen.mean()), "scale": float(seen.std()) or 1.0}
        chosen |= {name: value for name, value in moments.items() if name in known}
    return kind, {**chosen, **(options or {})}


def batch_size(wanted: int | None, items: int) -> int:
    """256 or all the items where nothing is asked for; what is asked for where the data suffice."""
    if wanted is None:
        return min(256, items)
    if wanted > items:
        raise ValueError(f"batch_size: {wanted} is larger than the {items} training items; take at most {items}")
    if wanted < 2:
        raise ValueError(f"batch_size: {wanted} leaves nothing to contrast with; take at least 2")
    return wanted


def embed_items(module: Any, dataset: Dataset, indices: np.ndarray, batch: int = 512) -> tuple[Tensor, Tensor]:
    """Features (N, F) and projections (N, D) of items as they are, without augmentation, in evaluation mode."""
    import torch

    training, features, projections = module.training, [], []
    module.eval()
    with torch.inference_mode():
        for start in range(0, len(indices), batch):
            x = dataset[indices[start : start + batch]][dataset.modality].to(module.device)
            h = module.encoder(x.float() / 255 if x.dtype == torch.uint8 else x)
            features.append(h.float().cpu())
            projections.append(module.projector(h).float().cpu())
    module.train(training)
    return torch.cat(features), torch.cat(projections)


def evaluate_encoder(
    method: Method,
    dataset: Dataset,
    splits: Splits,
    folder: Path,
    seed: int,
    layer: str = "features",
    metrics: list[str] | None = None,
) -> Any:
    """Score a layer of the frozen model, features or projection; keep the test part's embeddings for the report."""
    import torch

    from counterpoint.evaluation import Embeddings, evaluate

    labels, targets = dataset.labels, dataset.targets
    sets, kept = {}, {}
    for part in ("train", "val", "test"):
        indices = getattr(splits, part)
        features, projections = embed_items(method, dataset, indices)
        scored = features if layer == "features" else projections
        aims = None if targets is None else targets[indices]
        sets[part] = Embeddings(scored.numpy(), None if labels is None else labels[indices], targets=aims)
        kept = {"features": features.numpy(), "projections": projections.numpy(), "index": indices}
    if labels is not None:
        kept["labels"] = labels[splits.test]
    if targets is not None:
        kept["targets"] = targets[splits.test]
    write_arrays(folder / "embeddings.npz", **kept)
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)
        x = dataset[splits.test[:2048]][dataset.modality].to(method.device)
        assert method.views is not None
        look: Any = method.eval().encoder if layer == "features" else method.eval().project
        pairs: Any = tuple(look(view).float().cpu().numpy() for view in list(method.views(x))[:2])
    pairs = pairs if len(pairs) == 2 else None  # of one view there is nothing to compare
    return evaluate(sets["train"], sets["val"], sets["test"], seed=seed, pairs=pairs, metrics=metrics)


def bar(title: str) -> Tell:
    """A progress bar on a terminal, a line every tenth of the way elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        return _lines(title)
    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %  loss {task.fields[loss]:.4f}  {task.fields[speed]:,.0f} items/s"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    task = shown.add_task(title, total=1.0, loss=float("nan"), speed=0.0)
    shown.start()

    def tell(done: float, loss: float, speed: float) -> None:
        shown.update(task, completed=done, loss=loss, speed=speed)
        if done >= 1:
            shown.stop()

    return tell


def _lines(title: str) -> Tell:
    told = 0.0

    def tell(done: float, loss: float, speed: float) -> None:
        nonlocal told
        if done >= told:
            print(f"{title}: {done:4.0%}  loss {loss:.4f}  {speed:,.0f} items/s", file=sys.stderr, flush=True)
            told = done + 0.1

    return tell
