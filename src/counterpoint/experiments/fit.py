"""Train one encoder: from a word for the data to a run folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

from counterpoint.experiments.run import Run, read_yaml, write_yaml
from counterpoint.files import claim_folder
from counterpoint.methods import get


def fit(
    data: Any,
    method: str = "simclr",
    *,
    out: str | None = None,
    epochs: int = 50,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float = 1e-3,
    encoder_lr: float | None = None,
    weight_decay: float = 1e-4,
    optimizer: str = "adamw",
    schedule: str = "cosine",
    warmup: float = 0.1,
    start_lr: float | None = None,
    end_lr: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    encoder: str = "auto",
    encoder_options: dict[str, Any] | None = None,
    freeze: int = 0,
    views: Any = "auto",
    options: dict[str, Any] | None = None,
    seed: int = 0,
    labels: str | None = None,
    target: str | None = None,
    image: str | None = None,
    text: str | None = None,
    audio: str | None = None,
    signal: str | None = None,
    features: list[str] | None = None,
    modalities: dict[str, Any] | None = None,
    encoders: dict[str, Any] | None = None,
    prompts: list[str] | None = None,
    image_size: int | None = None,
    root: str | None = None,
    download: bool = False,
    limit: int | None = None,
    max_corrupt: float = 0.01,
    val: float = 0.15,
    test: float = 0.2,
    split_seed: int = 0,
    labels_per_class: int | None = None,
    splits: Any = None,
    generated: Any = None,
    real_repeats: int = 10,
    precision: str = "auto",
    compile: bool = False,
    accelerator: str = "auto",
    devices: str = "auto",
    nodes: int = 1,
    threads: int | None = None,
    monitor: int = 10,
    checkpoint_seconds: float = 30.0,
    evaluate: bool = True,
    metrics: list[str] | None = None,
    layer: str = "features",
    report: bool = True,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Run:
    """Train an encoder on your data by one method, evaluate it, and leave a folder with everything.

    Args:
        data: digits, diabetes, cifar10, a folder of images, a table (CSV, JSONL, Parquet), .npy or .npz arrays, a
            Hugging Face data set; from Python also an array, an (X, y) pair or a Dataset.
        method: name of a method (``counterpoint papers`` lists them), or ``module:Class`` for one of your own.
        out: run folder; default ``runs/<data>-<method>-seed<seed>``.
        epochs: passes over the training part.
        steps: optimiser steps instead of epochs.
        batch_size: items a step, over all processes; default 256 or all there are.
        lr: peak learning rate; 1e-3 suits AdamW on small models.
        encoder_lr: peak learning rate of the encoder, where it should differ from that of the heads.
        weight_decay: on matrices and kernels, not on biases and norms.
        optimizer: adamw, sgd, or larc, by which SwAV trains (lr 0.6 for batches of 256).
        schedule: cosine or constant.
        warmup: share of the steps in which the rate rises.
        start_lr: learning rate of the first of these steps; default one step of the rise above 0.
        end_lr: learning rate in which the cosine ends.
        betas: of adamw; CLIP and its successors have 0.98 for the second: [0.9, 0.98].
        encoder: convnet, mlp, a timm model such as resnet18, or auto (convnet for images, mlp for vectors); or the
            folder of a finished run, or of an exported encoder, to go on from its weights.
        encoder_options: arguments of the encoder, e.g. widths; for a folder, pretrained=false takes its architecture
            with new weights.
        freeze: stages of the encoder, from the first, that stay as they are.
        views: auto, the name of a pipeline (simclr, mocov2, byol, swav, groco, adainf, digits, scarf, none), or lists
            of transforms.
        options: the method's own parameters, e.g. temperature.
        seed: of weights, order and views.
        labels: column, key or file of the labels where the data do not say.
        target: column or key of a number to predict; label takes the labels as numbers.
        image: column of images in a table.
        text: column of texts in a table; with it, or one of the next three, the data have several modalities.
        audio: column of recordings in a table.
        signal: column of signals, lists of numbers, in a table.
        features: columns of numbers in a table.
        modalities: more modalities, or several of one kind, by name: {"left": "image:left_photo"}; the kinds are image,
            text, audio, signal, vector and video.
        encoders: of several modalities, that of each by name, e.g. {"image": "resnet18", "text": {"name":
            "transformer", "width": 256}}; also the folder of a trained one, hf:NAME for a text model of Hugging Face,
            ``given`` for vectors that another model made, and ``freeze: true`` for one that stays as it is.
        prompts: sentences that name a class, with {} for its name, for zero-shot scores; default the name alone.
        image_size: side to which images are brought; default their own up to 64.
        root: where a data set named by a word lies on this machine.
        download: allow fetching the data from the hub.
        limit: use at most so many items, drawn evenly.
        max_corrupt: share of unreadable images that is tolerated.
        val: share of the data to choose settings on, where no split is given.
        test: share of the data to measure on, where no split is given.
        split_seed: of the split; the same for all methods that are compared.
        labels_per_class: hide all training labels but so many per class.
        splits: a .npz of train, val and test positions, such as a run's splits.npz; from Python also a Splits.
        generated: more training items, which a generator made: a folder that ``counterpoint generate`` wrote, or images
            or vectors in any form that data may have; or gmm or diffusion, or {gmm: {count: 5000}}, to train one first
            on this run's training part. They have no labels, and nothing is ever measured on them.
        real_repeats: with generated items, how often an epoch draws each real one while it draws each generated one
            once. 10, as in AdaInf. An epoch is longer with generated items: compare at equal ``steps``.
        precision: auto (bfloat16 where the hardware has it), 32-true, bf16-mixed, 16-mixed, 64-true.
        compile: compile the encoder; pays off after some minutes of training.
        accelerator: auto, cpu, gpu, ...: Lightning's.
        devices: auto, or how many: Lightning's.
        nodes: machines; start with torchrun or Slurm.
        threads: processor threads; default all cores.
        monitor: how many times during training to look at similarities, collapse and kNN accuracy; 0 also leaves out
            the scores of positives and negatives that are kept for every step.
        checkpoint_seconds: time between checkpoints.
        evaluate: score the encoder when it is trained.
        metrics: which scores to measure, e.g. knn and probe; default all that the data allow.
        layer: what is scored: features, the encoder's output that is saved and used; or projection, the head's output
            on which the loss acts, which it always is of several modalities.
        report: write report.html.
        resume: go on with the run in ``out`` where it was killed.
        overwrite: delete what is in ``out`` first.
        progress: show a progress bar.

    Returns:
        the :class:`~counterpoint.experiments.run.Run`.

    Raises:
        ValueError: an argument that cannot be used, named, with what to do.
        FileExistsError: ``out`` holds a run already and neither resume nor overwrite is given.
        FolderInUse: another process is writing into ``out``.
    """
    arguments = {name: value for name, value in locals().items() if name != "data"}
    folder = Path(out or f"runs/{word(data)}-{method if isinstance(method, str) else method.__name__}-seed{seed}")
    config = {"data": describe(data), **{k: plain(v) for k, v in arguments.items() if k not in _TRANSIENT}}
    get(method)  # before anything is written
    if layer not in ("features", "projection"):
        raise ValueError(f"layer: expected 'features' or 'projection', got {layer!r}")
    if not (folder / "config.yaml").exists():
        from counterpoint.experiments.preparing import trained_folder

        trained_folder(encoder)  # what is resumed need not have it any more
    with _claimed(folder):
        done = _prepare(folder, config, resume, overwrite)
        if done is not None:
            return done
        from counterpoint.experiments.fitting import Fit

        return Fit(folder, data, arguments).run()


_TRANSIENT = ("resume", "overwrite", "progress", "out")  # they do not change what is trained


def _claimed(folder: Path) -> Any:
    """The lock of the run folder; of several processes of one training, the first holds it for all."""
    return claim_folder(folder) if rank() == 0 else contextlib.nullcontext(folder)


def _prepare(folder: Path, config: dict[str, Any], resume: bool, overwrite: bool) -> Run | None:
    """Make ``folder`` ready; a finished run that is resumed is returned as it is."""
    if rank() != 0:
        while not (folder / "config.yaml").exists():
            time.sleep(0.1)
        return Run(folder) if resume and _done(folder) else None
    exists = (folder / "config.yaml").exists()
    if exists and overwrite and not resume:
        for entry in folder.iterdir():
            if entry.name != ".lock":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        exists = False
    if exists and not resume:
        raise FileExistsError(
            f"out: {folder} holds a run already; continue it with resume, replace it with overwrite, or name another"
        )
    if exists:
        old = read_yaml(folder / "config.yaml")
        changed = [k for k in config if k in old and old[k] != config[k] and k not in ("checkpoint_seconds", "threads")]
        if changed:
            raise ValueError(
                f"resume: {folder} was started with other settings: "
                + ", ".join(f"{k}={old[k]!r}, now {config[k]!r}" for k in changed)
            )
        if _done(folder):
            return Run(folder)
    write_yaml(folder / "config.yaml", config)
    return None


def _done(folder: Path) -> bool:
    """Whether nothing of a run is left to do: its report, if any, is written after the rest and before this goes."""
    return Run(folder).state == "finished" and not (folder / "checkpoint").exists()


def rank() -> int:
    """Which process of a distributed training this is, as torchrun, Slurm or Lightning's launcher say; 0 if alone."""
    return int(next((os.environ[name] for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ), 0))


def word(data: Any) -> str:
    """A short name for the data, for the name of a folder."""
    if isinstance(data, str | os.PathLike):
        return Path(os.fspath(data).rstrip("/")).name.split(".")[0] or "data"
    return getattr(data, "name", "array")


def describe(data: Any) -> str:
    """What a config says of the data: the words given, or a name for what came from Python."""
    if isinstance(data, str | os.PathLike):
        return os.fspath(data)
    return getattr(data, "name", f"<{type(data).__name__} given from Python>")


def plain(value: Any) -> Any:
    """What YAML can hold."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, type):
        return f"{value.__module__}:{value.__qualname__}"
    if hasattr(value, "to_config"):
        return value.to_config()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value if isinstance(value, str | int | float | bool | None) else f"<{type(value).__name__} from Python>"
