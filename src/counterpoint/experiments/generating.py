"""The steps of :func:`~counterpoint.experiments.generate.generate`: train, draw in blocks, compare, write down."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from counterpoint.data import Dataset, load
from counterpoint.data.inflation import NOTE
from counterpoint.data.packing import write_rows
from counterpoint.evaluation import frechet, nearest
from counterpoint.experiments.fit import plain
from counterpoint.experiments.preparing import load_data
from counterpoint.experiments.progress import bar
from counterpoint.experiments.run import Run, environment, now
from counterpoint.files import atomic, write_json
from counterpoint.generators import get

if TYPE_CHECKING:
    from counterpoint.encoders import Encoder

BLOCK = 256  # items drawn at a time; also what a killed drawing loses at most
_SHEET, _PAIRS, _ACROSS, _CELL = 60, 20, 10, 64
_DIMENSIONS = 32  # of the principal components that stand in for an encoder


class Generation:
    """The steps of one generation, each picking up what the one before has left in the folder."""

    def __init__(self, folder: Path, data: Any, arguments: dict[str, Any]) -> None:
        self.folder, self.data, self.a = folder, data, arguments
        self.result = Run(folder)

    def run(self) -> None:
        import torch

        if self.a["threads"]:
            torch.set_num_threads(self.a["threads"])
        self.result.set_state("running", pid=os.getpid())
        write_json(self.folder / "environment.json", environment())
        started = time.monotonic()
        try:
            # the encoder only looks at what was drawn, and says nothing of the form of the data
            settings = {"labels_per_class": None, **self.a, "method": "untrained", "encoder": "auto"}
            self.dataset, self.splits, *_ = load_data(self.data, settings)
            self.splits.save(self.folder / "splits.npz")
            self.model = self._train()
            self._draw()
            self._write_note()
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | SystemExit)
            self.result.set_state("interrupted" if stopped else "failed", why=f"{type(error).__name__}: {error}")
            if stopped:
                raise KeyboardInterrupt(f"interrupted; go on in {self.folder} with --resume true") from None
            raise
        self.result.set_state("finished", seconds=round(time.monotonic() - started, 3))

    def _train(self) -> Any:
        kind, place = get(self.a["method"]), self.folder / "generator"
        if (place / "model.safetensors").exists():  # resumed: only the drawing is left
            return kind.load(place)
        import torch

        from counterpoint.experiments.training import same_threads

        torch.manual_seed(self.a["seed"])
        try:
            model = kind(self.dataset.shape, **(self.a["options"] or {}))
        except TypeError as error:
            raise ValueError(f"options: {self.a['method']} cannot take {self.a['options']}: {error}") from error
        if kind.trains_by_steps:
            self._train_by_steps(model)
        else:
            some = np.random.default_rng(self.a["seed"]).permutation(self.splits.train)
            items = self._read(self.dataset, np.sort(some[: model.most(len(some))]))
            with same_threads():
                model.fit(items, seed=self.a["seed"])
        model.save(place)
        shutil.rmtree(self.folder / "checkpoint", ignore_errors=True)
        return model.eval() if kind.trains_by_steps else model

    def _train_by_steps(self, model: Any) -> None:
        import lightning

        from counterpoint.data import loader
        from counterpoint.experiments import training

        training.quiet()
        training.keep_memory()
        a = self.a
        size = min(model.batch_size, len(self.splits.train))
        batches = training.Batches(loader(self.dataset, self.splits.train, size, seed=a["seed"], drop_last=True))
        checkpointer = training.Checkpointer(self.folder, a["checkpoint_seconds"])
        checkpointer.path.parent.mkdir(exist_ok=True)
        callbacks = [training.SeedSteps(a["seed"], batches), training.Recorder(self.folder, None), checkpointer]
        if a["progress"]:
            callbacks.append(training.Progress(bar(self.folder.name)))
        precision: Any = training.fast_precision() if a["precision"] == "auto" else a["precision"]
        trainer = lightning.Trainer(
            max_steps=model.steps,
            max_epochs=-1,
            accelerator=a["accelerator"],
            devices=1,
            precision=precision,
            callbacks=callbacks,
            plugins=[training.AtomicCheckpoints()],
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=self.folder,
        )
        resume = str(checkpointer.path) if a["resume"] and checkpointer.path.exists() else None
        trainer.fit(model, batches, ckpt_path=resume, weights_only=True)
        if trainer.interrupted:
            raise KeyboardInterrupt

    def _draw(self) -> None:
        """Blocks of items, each a function of (seed, block) and kept when it is whole; then all of them as one."""
        parts, count = self.folder / "parts", self.a["count"]
        parts.mkdir(exist_ok=True)
        blocks = [(at, min(BLOCK, count - at)) for at in range(0, count, BLOCK)]
        for number, (at, size) in enumerate(blocks):
            path = parts / f"{number:06d}.npy"
            if not path.exists():
                x = self.model.sample(size, (self.a["seed"], number))
                if self.dataset.modality == "image":
                    x = np.rint(x * 255).astype(np.uint8)
                with atomic(path) as file:
                    np.save(file, x, allow_pickle=False)
                self._tell(at + size, count)

        def drawn() -> Iterator[np.ndarray]:
            for number in range(len(blocks)):
                yield np.load(parts / f"{number:06d}.npy", allow_pickle=False)

        image = self.dataset.modality == "image"
        if image and self.a["format"] == "png":
            self.items = "images"
            _write_pictures(self.folder / "images", drawn())
        else:
            self.items = "images.npy" if image else "vectors.npy"
            with atomic(self.folder / self.items) as file:
                write_rows(file, drawn(), self.dataset.shape, np.dtype(np.uint8 if image else np.float32))
        shutil.rmtree(parts)

    def _tell(self, done: int, count: int) -> None:
        if self.a["progress"] and (done == count or done // BLOCK % max(1, count // BLOCK // 10) == 0):
            print(f"{self.folder.name}: {done:,} of {count:,} drawn", file=sys.stderr, flush=True)

    def _write_note(self) -> None:
        drawn = load(self.folder / self.items)
        write_json(
            self.folder / NOTE,
            {
                "items": self.items,
                "count": len(drawn),
                "shape": list(drawn.shape),
                "method": self.a["method"],
                "options": {name: plain(value) for name, value in self.model.config.items() if name != "shape"},
                "data": self.dataset.name,
                "data_items": len(self.dataset),
                "trained_on": len(self.splits.train),
                "seed": self.a["seed"],
                "quality": self._quality(drawn) if self.a["check"] else None,
                "commit": environment()["commit"],
                "time": now(),
            },
        )

    def _quality(self, drawn: Dataset) -> dict[str, Any]:
        """How far the items are from the real ones and from being copies, beside what held-out real ones are."""
        draw = np.random.default_rng(self.a["seed"])
        unseen = np.sort(np.concatenate([self.splits.val, self.splits.test]))
        size = min(self.a["check"], len(drawn), len(unseen))
        if size < 2:
            return {"items": size}
        fake = self._read(drawn, np.arange(size))
        held = self._read(self.dataset, np.sort(draw.permutation(unseen)[:size]))
        seen = np.sort(draw.permutation(self.splits.train)[: 20 * self.a["check"]])
        real = self._read(self.dataset, seen)
        distance, where = nearest(fake, real)
        usual, _ = nearest(held, real)
        if drawn.modality == "image":
            self._write_sheet(drawn, seen[where])
        space, features = self._features(real)
        known = features(real)
        return {
            "items": size,
            "nearest": float(np.median(distance)),
            "nearest_held_out": float(np.median(usual)),
            "closer_than_held_out": float((distance < np.quantile(usual, 0.01)).mean()),
            "space": space,
            "frechet": frechet(features(fake), known),
            "frechet_held_out": frechet(features(held), known),
        }

    def _features(self, real: np.ndarray) -> tuple[str, Any]:
        """What items are compared by, in words and as a function."""
        if self.a["encoder"] is None:
            from sklearn.decomposition import PCA

            flat = real.reshape(len(real), -1)
            pca = PCA(min(_DIMENSIONS, len(flat) - 1, flat.shape[1]), random_state=0).fit(flat)
            what = "pixels" if self.dataset.modality == "image" else "vectors"
            return f"{pca.n_components_} principal components of the {what}", lambda x: pca.transform(
                x.reshape(len(x), -1)
            )
        from counterpoint.encoders import load as load_encoder

        found: Encoder = load_encoder(self.a["encoder"])
        if tuple(found.shape) != tuple(self.dataset.shape):
            raise ValueError(
                f"encoder: {self.a['encoder']} takes items of {tuple(found.shape)}, and these are "
                f"{tuple(self.dataset.shape)}"
            )

        def features(x: np.ndarray) -> np.ndarray:
            import torch

            return np.concatenate([found.embed(part).cpu().numpy() for part in torch.from_numpy(x).split(512)])

        return f"features of {os.fspath(self.a['encoder'])}", features

    def _write_sheet(self, drawn: Dataset, twins: np.ndarray) -> None:
        """``samples.png``: items as they were drawn, and below pairs of rows, an item above its nearest real one."""
        from PIL import Image

        from counterpoint.web.images import sheet

        longest = max(drawn.shape[1:])
        size = max(1, _CELL // longest) * longest + min(4, longest - 1)  # whole factors, and a white gap
        some = [drawn.thumbnail(i) for i in range(min(_SHEET, len(drawn)))]
        pairs = []
        for start in range(0, min(_PAIRS, len(twins)), _ACROSS):
            at = range(start, min(start + _ACROSS, len(twins)))
            pad = [None] * (_ACROSS - len(at))
            pairs += [*[drawn.thumbnail(i) for i in at], *pad, *[self.dataset.thumbnail(twins[i]) for i in at], *pad]
        rows = [sheet(some, _ACROSS, size), np.full((size // 2, _ACROSS * size, 3), 255, np.uint8)]
        picture = np.concatenate([*rows, sheet(pairs, _ACROSS, size)])
        with atomic(self.folder / "samples.png") as file:
            Image.fromarray(picture).save(file, "PNG")

    @staticmethod
    def _read(dataset: Dataset, indices: np.ndarray) -> np.ndarray:
        """Items as floats, pixels in [0, 1]."""
        x = dataset[indices][dataset.modality].numpy()
        return (x.astype(np.float32) / 255) if x.dtype == np.uint8 else x


def _write_pictures(folder: Path, blocks: Iterator[np.ndarray]) -> None:
    from PIL import Image

    folder.mkdir(exist_ok=True)
    number = 0
    for block in blocks:
        for pixels in block:
            picture = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
            Image.fromarray(picture).save(folder / f"{number:07d}.png")
            number += 1
