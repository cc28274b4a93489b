"""The steps of a fit, from the data to the evaluated encoder."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterpoint.experiments.fit import plain, rank
from counterpoint.experiments.preparing import (
    batch_size,
    load_data,
    make_encoder,
    method_options,
    take_head,
    trained_folder,
    views_for,
)
from counterpoint.experiments.run import Run, environment, now
from counterpoint.files import atomic, write_json
from counterpoint.methods import get

if TYPE_CHECKING:
    import numpy as np

    from counterpoint.methods import Method

_MONITOR_ITEMS = 512
_MONITOR_GALLERY = 2048
_FINDINGS_ITEMS = 256


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
        from counterpoint.experiments.training import keep_memory, quiet, same_threads

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
            self.method.prepare(self.shown, self.train)
            seconds = self._train()
            if self.main:
                with same_threads():
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

        a, dataset = self.a, self.dataset
        torch.manual_seed(a["seed"])
        encoder = make_encoder(dataset, self.train, a)
        if a["freeze"]:
            encoder.freeze(a["freeze"])
        told = ("optimizer", "lr", "weight_decay", "schedule", "warmup", "encoder_lr", "start_lr", "end_lr")
        recipe = Recipe(**{name: a[name] for name in told}, betas=tuple(a["betas"]))
        asked = get(a["method"]).auto_views if a["views"] == "auto" else a["views"]
        views = views_for(dataset, asked)
        kind, self.options = method_options(a["method"], a["options"], self._distinct, self.shown, self.train)
        method = kind(encoder, views, recipe, **self.options)
        take_head(method, trained_folder(a["encoder"]))
        return method

    @property
    def several(self) -> bool:
        """Whether the data have several modalities."""
        return self.dataset.modality == "multimodal"

    @property
    def _distinct(self) -> int:
        """How many items are drawn from, however often each is."""
        import numpy as np

        return len(np.unique(self.order))

    def _train(self) -> float:
        import lightning
        import torch

        from counterpoint.data import loader
        from counterpoint.experiments import monitoring, training
        from counterpoint.pairwise import synchronize_batchnorm

        a = self.a
        size = batch_size(a["batch_size"], self._distinct)
        epochs = a["epochs"] if a["steps"] is None else -(-a["steps"] // (len(self.order) // size))
        epochs = epochs if self.method.learns else 0
        if a["compile"]:
            encoder: Any = self.method.encoder
            for one in [tower.encoder for tower in encoder.towers.values()] if self.several else [encoder]:
                one.backbone.compile()
        if self.several or self.dataset.modality == "image":
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
            *([monitoring.ScoreCurves(self.folder)] if a["monitor"] else []),
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

        from counterpoint.experiments.monitoring import Monitor, PairMonitor

        times = np.unique(np.linspace(0, max(0, epochs - 1), min(epochs, self.a["monitor"])).round())
        draw = np.random.default_rng(self.a["seed"])
        items = np.sort(draw.choice(self.train, min(_MONITOR_ITEMS, len(self.train)), replace=False))
        if len(items) < 2 or not getattr(self.method, "contrasts", True):
            return None
        if self.several:
            held = self.splits.val if len(self.splits.val) > 1 else items
            pairs: Any = self.dataset[np.sort(draw.choice(held, min(_MONITOR_ITEMS, len(held)), replace=False))]
            return PairMonitor(self.folder, set(map(int, times)), pairs, None, None, self.a["seed"], self._warn)
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
        from counterpoint.experiments.progress import bar
        from counterpoint.experiments.training import Progress

        wanted = self.a["progress"]
        if callable(wanted):  # compare listens in
            return [Progress(wanted)]
        return [Progress(bar(self.folder.name))] if wanted and self.main else []

    def _finish(self, seconds: float) -> None:
        self._save_model()
        if self.a["evaluate"]:
            metrics = self.a.get("metrics")
            evaluation = self._with_classifier(self._evaluation(metrics), metrics)
            evaluation.notes.extend(self.notes)
            evaluation.save(self.folder)
        self._keep_findings()
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

    def _evaluation(self, metrics: list[str] | None) -> Any:
        from counterpoint.experiments.measuring import evaluate_encoder
        from counterpoint.experiments.towers import evaluate_towers

        seed = self.a["seed"]
        if not self.several:
            return evaluate_encoder(self.method, self.dataset, self.splits, self.folder, seed, self.a["layer"], metrics)
        prompts = self.a.get("prompts")
        evaluation, found = evaluate_towers(self.method, self.dataset, self.splits, self.folder, seed, prompts, metrics)  # type: ignore[arg-type]
        self.found += found
        return evaluation

    def _with_classifier(self, evaluation: Any, metrics: list[str] | None) -> Any:
        """Scores of the classifier, where the method has one, before those of the encoder."""
        import torch

        from counterpoint.evaluation import OF_A_CLASSIFIER, Embeddings, Evaluation, classification, known_metrics

        classifier, labels = getattr(self.method, "classifier", None), self.dataset.labels
        wanted = known_metrics(metrics) & set(OF_A_CLASSIFIER)
        if classifier is None or labels is None or self.shown.labels is None or self.method.own_classes:
            missing = sorted(wanted - set(evaluation.scores)) if metrics is not None else []
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
            **self.method.facts(),
            **self._origin(),
        )
        head = self.folder / "head"
        head.mkdir(exist_ok=True)
        state = self.method.projector.state_dict()  # cloned, since safetensors refuses what shares memory
        with atomic(head / "model.safetensors") as file:
            file.write(save({name: value.detach().cpu().contiguous().clone() for name, value in state.items()}))
        write_json(head / "config.json", {"method": plain(self.a["method"]), "options": plain(self.options)})
        classifier = getattr(self.method, "classifier", None)
        classes = self.method.own_classes or self.dataset.classes
        if isinstance(classifier, nn.Linear) and classes is not None:
            save_classifier(classifier, classes, self.folder / "classifier")

    def _origin(self) -> dict[str, Any]:
        """What the encoder was before this training, if it was trained already."""
        extra = self.method.encoder.config.get("extra")
        return {"start": {"folder": os.fspath(self.a["encoder"]), **extra}} if extra else {}

    def _leave_usable(self, state: str, error: BaseException) -> None:
        """Record how it ended; keep encoder and head as they are. The last checkpoint stays where it was."""
        if hasattr(self, "method") and state == "interrupted":
            self._save_model()
        self.result.set_state(state, why=f"{type(error).__name__}: {error}".strip(": "))
