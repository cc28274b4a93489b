"""SimCLR end to end, from a folder of JPEG files to a trained encoder: ours, and lightly with Lightning.

    python benchmarks/fit.py --data cifar10/test.parquet                 # speed, and where our time goes
    python benchmarks/fit.py --data cifar10/test.parquet --accuracy 5    # does bfloat16 cost accuracy? 5 paired seeds
    python benchmarks/fit.py --data photos/ --sides lightly,default      # a folder of 32x32 images, a class each

All sides train the same four-layer ConvNet (32, 64, 128, 256 channels: convolution, batch norm, ReLU, pool; then the
mean) with a projection head 256-256-128 and NT-Xent on batches of 256, two views each, on all images of the folder.

*lightly* is the program of its documentation: ``LightlyDataset``, ``SimCLRTransform``, ``NTXentLoss``,
``SimCLRProjectionHead`` in a LightningModule with plain SGD, a DataLoader with 2 workers, the Trainer's own defaults.
Of the transform's settings, the documentation recommends ``cj_strength=0.5`` for images as small as CIFAR-10's, and
its CIFAR-10 benchmark leaves out the blur; so do we. *default* is ``counterpoint.fit`` as it comes, without monitor,
evaluation and report, which lightly's program has not; the others change one setting of it.

Each run is a process of its own with a cold cache, and the sides take turns. An epoch is timed from the end of the one
before to its own end, which leaves no time out. The *first* epoch is all that remains of the time: listing the folder,
decoding images into our cache, starting workers, compiling. Importing libraries is not counted in any.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from fit_page import page, summarise
from machine import environment

SIZE, BATCH = 32, 256
RESULTS = Path(__file__).parent / "results"
OURS: dict[str, dict[str, Any]] = {
    "default": {},
    "compiled": {"compile": True},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "32-true": {"precision": "32-true"},
}
SIDES = ("lightly", *OURS)
STAGES = ("reading", "views", "encoder and head, forward", "encoder and head, backward", "loss", "optimiser", "rest")


def make_folder(data: Path, folder: Path, count: int) -> None:
    """Write the first ``count`` images of a table of images, as they are, into a sub-folder per class."""
    import pyarrow.parquet as pq

    table = pq.read_table(data).slice(0, count)
    column = next(name for name in ("image", "img") if name in table.column_names)
    for number, (image, label) in enumerate(zip(table[column].to_pylist(), table["label"].to_pylist(), strict=True)):
        place = folder / f"class{label}"
        place.mkdir(exist_ok=True)
        kind = "jpg" if image["bytes"].startswith(b"\xff\xd8") else "png"
        (place / f"{number:05d}.{kind}").write_bytes(image["bytes"])


def lightly_run(folder: str, epochs: int, count: int) -> dict[str, Any]:
    """Train by lightly and Lightning as lightly's documentation shows."""
    import pytorch_lightning as pl
    import torch
    from lightly.data import LightlyDataset
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform
    from torch.utils.data import DataLoader

    from counterpoint.encoders import ConvNet

    class SimCLR(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.backbone = ConvNet(3, SIZE)
            self.projection_head = SimCLRProjectionHead(256, 256, 128)
            self.criterion = NTXentLoss()

        def training_step(self, batch, batch_index):
            (x0, x1), _, _ = batch
            z0, z1 = (self.projection_head(self.backbone(x)) for x in (x0, x1))
            return self.criterion(z0, z1)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.06)

    class Clock(pl.Callback):
        def __init__(self):
            self.ends, self.losses = [], []

        def on_train_batch_end(self, trainer, module, outputs, *_):
            self.losses.append(float(outputs["loss"]))

        def on_train_epoch_end(self, trainer, module):
            self.ends.append(time.perf_counter())

    started, clock = time.perf_counter(), Clock()
    transform = SimCLRTransform(input_size=SIZE, cj_strength=0.5, gaussian_blur=0.0)
    dataset = LightlyDataset(folder, transform=transform)
    loader = DataLoader(dataset, batch_size=BATCH, shuffle=True, drop_last=True, num_workers=2)
    with tempfile.TemporaryDirectory() as place:
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
        trainer = pl.Trainer(
            max_epochs=epochs, devices=1, accelerator=accelerator, callbacks=[clock], default_root_dir=place
        )
        trainer.fit(model=SimCLR(), train_dataloaders=loader)
    steps = trainer.global_step
    return told(time.perf_counter() - started, clock.ends, steps, sum(clock.losses[-len(loader) :]) / len(loader))


def our_run(folder: str, epochs: int, count: int, method: Any = "simclr", **settings: Any) -> dict[str, Any]:
    """Train by ``counterpoint.fit``."""
    import numpy as np

    import counterpoint.experiments.training
    import counterpoint.methods.vision.simclr  # noqa: F401
    from counterpoint import fit
    from counterpoint.data import Splits

    everything, nothing = np.arange(count), np.arange(0)
    with tempfile.TemporaryDirectory() as place:
        started = time.perf_counter()
        run = fit(
            folder, method, out=f"{place}/run", epochs=epochs, batch_size=BATCH, views="simclr", encoder="convnet",
            splits=Splits(everything, nothing, nothing), monitor=0, evaluate=False, report=False, progress=False,
            **settings,
        )  # fmt: skip
        seconds = time.perf_counter() - started
        return told(seconds, [row["seconds"] for row in run.metrics], run.metrics[-1]["step"], run.metrics[-1]["loss"])


def told(seconds: float, ends: list[float], steps: int, loss: float) -> dict[str, Any]:
    """What a run answers: seconds of each epoch, the first being what the others leave; and that it did the work."""
    later = [after - before for before, after in itertools.pairwise(ends)]
    return {"epochs": [seconds - sum(later), *later], "steps": steps, "loss": loss}


def profile(folder: str, epochs: int, count: int) -> dict[str, Any]:
    """Seconds that each stage of our training takes, over all epochs but the first.

    A stopwatch is read between the stages; what it shows since the last reading belongs to the stage that ended.
    """
    from counterpoint.data import load
    from counterpoint.methods.vision.simclr import SimCLR

    seconds: dict[str, float] = defaultdict(float)
    last = time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds[stage] += now - last
        last = now

    class Timed(SimCLR):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                lap("rest")
                seconds.clear()

        def make_views(self, batch):
            lap("rest")
            views = super().make_views(batch)
            lap("views")
            return views

        def embed_together(self, views):
            parts = super().embed_together(views)
            lap("encoder and head, forward")
            for part in parts:  # the gradient arrives here when the loss's own backward pass is done
                part.register_hook(lambda _: lap("loss"))
            return parts

        def loss(self, views, batch):
            value = super().loss(views, batch)
            lap("loss")
            return value

        def on_before_backward(self, loss):
            lap("rest")

        def on_after_backward(self):
            lap("encoder and head, backward")

        def on_before_optimizer_step(self, optimizer):
            lap("rest")

        def after_step(self):
            super().after_step()
            lap("optimiser")

        def on_train_epoch_end(self):
            lap("rest")

    dataset = load(folder)
    kind = type(dataset)
    read = kind.__getitem__

    def timed_read(self, items):
        lap("rest")
        batch = read(self, items)
        lap("reading")
        return batch

    kind.__getitem__ = timed_read  # type: ignore[method-assign]
    run = our_run(dataset, epochs, count, method=Timed)  # type: ignore[arg-type]
    steps = run["steps"] // epochs * (epochs - 1)
    return {
        "milliseconds a batch": {stage: 1000 * seconds[stage] / steps for stage in STAGES},
        "steps": steps,
        "batch": BATCH,
    }


def accuracy(folder: str, epochs: int, seeds: int) -> dict[str, Any]:
    """kNN accuracy of bf16-mixed minus 32-true: the same seeds, the same split."""
    import numpy as np

    from counterpoint import fit
    from counterpoint.evaluation.significance import difference

    items: dict[str, list[Any]] = {"32-true": [], "bf16-mixed": []}
    with tempfile.TemporaryDirectory() as place:
        for seed in range(seeds):
            for precision, scores in items.items():
                run = fit(
                    folder, "simclr", out=f"{place}/{precision}-{seed}", epochs=epochs, seed=seed, precision=precision,
                    monitor=0, report=False, progress=False,
                )  # fmt: skip
                scores.append(run.evaluation.items["knn"])
    found = difference(np.stack(items["bf16-mixed"]), np.stack(items["32-true"]))
    means = {name: [float(np.nanmean(of)) for of in scores] for name, scores in items.items()}
    apart = {name: getattr(found, name) for name in ("mean", "low", "high", "p")}
    return {"epochs": epochs, "knn": means, "difference": apart}


def in_process(*words: str) -> dict[str, Any]:
    """Run this file with these arguments in a fresh process with an empty cache, and read what it prints last."""
    with tempfile.TemporaryDirectory() as cache:
        ran = subprocess.run(
            [sys.executable, __file__, *words],
            env={**os.environ, "XDG_CACHE_HOME": cache},
            capture_output=True,
            text=True,
        )
    if ran.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{ran.stderr[-4000:]}")
    return json.loads(ran.stdout.splitlines()[-1])


def measure(folder: Path, count: int, sides: list[str], rounds: int, epochs: int) -> dict[str, Any]:
    """Interleaved rounds of all sides."""
    runs: dict[str, list[Any]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides:
            runs[side].append(in_process("--side", side, "--data", str(folder), "--epochs", str(epochs)))
            took = ", ".join(f"{s:.1f}" for s in runs[side][-1]["epochs"])
            print(f"round {number + 1}/{rounds}  {side}: epochs of {took} s", file=sys.stderr, flush=True)
    steps = {run["steps"] for of in runs.values() for run in of}
    if steps != {epochs * (count // BATCH)}:
        raise SystemExit(f"the sides did not take the same {epochs * (count // BATCH)} steps: {sorted(steps)}")
    return runs


def answer(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a child process is asked for."""
    folder, epochs = str(arguments.data), arguments.epochs
    count = sum(path.is_file() for path in arguments.data.rglob("*"))
    if arguments.side == "lightly":
        return lightly_run(folder, epochs, count)
    if arguments.side == "profile":
        return profile(folder, epochs, count)
    if arguments.side == "accuracy":
        return accuracy(folder, epochs, arguments.accuracy)
    return our_run(folder, epochs, count, **OURS[arguments.side])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a Parquet table of images and labels, or a folder")
    parser.add_argument("--images", type=int, default=10_000, help="images written where --data is a table")
    parser.add_argument("--epochs", type=int, default=3, help="at least 2; default 3")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sides", default=",".join(SIDES), help=f"default {','.join(SIDES)}")
    parser.add_argument("--accuracy", type=int, metavar="SEEDS", help="measure this and not the speed")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of fit.json and fit.md")
    parser.add_argument("--side", choices=(*SIDES, "profile", "accuracy"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(answer(arguments)))
        return
    sides = arguments.sides.split(",")
    if arguments.epochs < 2 or set(sides) - set(SIDES):
        parser.error(f"--epochs: at least 2; --sides: of {','.join(SIDES)}")
    from counterpoint.experiments.training import fast_precision
    from counterpoint.files import atomic, write_json

    kept = arguments.out / "fit.json"
    report = json.loads(kept.read_text("utf-8")) if kept.exists() else {}
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.data
        if not folder.is_dir():
            folder = Path(made)
            make_folder(arguments.data, folder, arguments.images)
        count = sum(path.is_file() for path in folder.rglob("*"))
        words = ("--data", str(folder), "--epochs", str(arguments.epochs))
        if arguments.accuracy:
            report["accuracy"] = in_process("--side", "accuracy", *words, "--accuracy", str(arguments.accuracy))
        else:
            runs = measure(folder, count, sides, arguments.rounds, arguments.epochs)
            report["speed"] = {
                "images": count, "source": arguments.data.name, "epochs": arguments.epochs, "rounds": arguments.rounds,
                "batch": BATCH, "precision": fast_precision(), "environment": environment("lightning", "lightly"),
                "runs": runs, "result": summarise(runs, count // BATCH * BATCH),
            }  # fmt: skip
            report["profile"] = in_process("--side", "profile", *words)
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_json(kept, report)
    with atomic(arguments.out / "fit.md", "w") as file:
        file.write(page(report))
    print(page(report))


if __name__ == "__main__":
    main()
