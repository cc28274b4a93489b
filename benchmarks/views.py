"""Two SimCLR views of 32x32 images, from a folder of JPEG files on disk to tensors: ours, and lightly's.

    python benchmarks/views.py                                  # JPEG files cut from scikit-learn's two photographs
    python benchmarks/views.py --data cifar10/test.parquet      # the images of a table
    python benchmarks/views.py --data photos/                   # a folder that is there already

*lightly* is ``LightlyDataset`` with ``SimCLRTransform(input_size=32)`` in a DataLoader with 2 workers, as its
documentation shows (its blur is left out as ours is at this size, in lightly's favour). *ours* is
``counterpoint.data.load`` and the views "simclr" of the same strength, in one process. Both yield batches of 256, two
views each, and each round runs each side in a process of its own, one after the other.

Epochs are timed from the first request for a batch to the last batch. Ours decodes each image once, into a cache, when
the folder is opened for the first time; the *first* epoch includes that, *later* epochs read the cache. lightly decodes
in every epoch; its first includes starting the workers, and the workers persist.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SIZE, BATCH, EPOCHS = 32, 256, 4
RESULTS = Path(__file__).parent / "results"


def make_folder(data: str | None, folder: Path, count: int) -> None:
    """Write ``count`` JPEG files of 32x32, from a table of images or cut out of scikit-learn's photographs."""
    for number, image in enumerate(_images(data, count)):
        place = folder / f"class{number % 10}"
        place.mkdir(exist_ok=True)
        image.save(place / f"{number:05d}.jpg", quality=95)


def _images(data: str | None, count: int) -> Iterator:
    from PIL import Image

    if data:
        import pyarrow.parquet as pq

        table = pq.read_table(data)
        column = next(name for name in table.column_names if name in ("image", "img"))
        for item in table[column].slice(0, count).to_pylist():
            yield Image.open(io.BytesIO(item["bytes"])).convert("RGB").resize((SIZE, SIZE))
        return
    import numpy as np
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(array) for array in load_sample_images().images]
    rng = np.random.default_rng(0)
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        side = int(rng.integers(SIZE, 200))
        left, top = (int(rng.integers(0, whole - side)) for whole in photograph.size)
        yield photograph.resize((SIZE, SIZE), box=(left, top, left + side, top + side))


def lightly_epochs(folder: str) -> list[float]:
    """Seconds of each epoch of lightly's views in a DataLoader with 2 workers."""
    from lightly.data import LightlyDataset
    from lightly.transforms import SimCLRTransform
    from torch.utils.data import DataLoader

    transform = SimCLRTransform(input_size=SIZE, cj_strength=0.5, gaussian_blur=0.0)
    loader = DataLoader(
        LightlyDataset(folder, transform=transform),
        batch_size=BATCH,
        shuffle=True,
        num_workers=2,
        persistent_workers=True,
    )
    return [_timed(views for views, _, _ in loader) for _ in range(EPOCHS)]


def our_epochs(folder: str) -> list[float]:
    """Seconds of each epoch of our views; the first opens the folder and fills the cache."""
    from counterpoint.data import load, loader
    from counterpoint.views import resolve

    def epoch(number: int) -> Iterator:
        batches.sampler.set_epoch(number)
        return (views(batch["image"]) for batch in batches)

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as cache:
        dataset = load(folder, cache=cache)
        views = resolve("simclr", dataset.modality, dataset.shape)
        batches = loader(dataset, batch_size=BATCH, seed=0)
        opened = time.perf_counter() - started
        seconds = [_timed(epoch(number)) for number in range(EPOCHS)]
    return [seconds[0] + opened, *seconds[1:]]


def _timed(epoch: Iterator) -> float:
    started = time.perf_counter()
    for views in epoch:
        assert len(views) == 2
        assert views[0].shape[1:] == (3, SIZE, SIZE)
    return time.perf_counter() - started


SIDES = {"ours": our_epochs, "lightly": lightly_epochs}


def measure(folder: Path, repeats: int) -> dict[str, list[list[float]]]:
    """Seconds per epoch, ``repeats`` rounds of each side, interleaved, each in a process of its own."""
    seconds: dict[str, list[list[float]]] = {side: [] for side in SIDES}
    for _ in range(repeats):
        for side in SIDES:
            command = [sys.executable, __file__, "--side", side, "--data", str(folder)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            seconds[side].append(json.loads(answer.splitlines()[-1]))
    return seconds


def summarise(seconds: dict[str, list[list[float]]], count: int) -> dict:
    """Images per second (min, median, max) of first and later epochs, and the ratio of the medians by round."""
    from statistics import median

    def spread(values: list[float]) -> dict[str, float]:
        return {"min": min(values), "median": median(values), "max": max(values)}

    rates = {
        "first epoch": {side: [count / epochs[0] for epochs in runs] for side, runs in seconds.items()},
        "later epochs": {side: [count / median(epochs[1:]) for epochs in runs] for side, runs in seconds.items()},
    }
    result: dict = {}
    for part, sides in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(sides["ours"], sides["lightly"], strict=True)]
        result[part] = {**{side: spread(values) for side, values in sides.items()}, "ratio": spread(ratios)}
    return result


def environment() -> dict:
    """What the figures depend on."""
    from importlib.metadata import version

    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "lightly": version("lightly"),
        "pillow": version("pillow"),
        "processor": _processor(),
        "cores": os.cpu_count(),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def table(report: dict) -> str:
    """The result as Markdown."""
    lines = [
        "# Two SimCLR views of 32x32 images, from a folder of JPEG files to tensors",
        "",
        f"{report['images']:,} images from {report['source']}, batches of {BATCH}, {report['repeats']} rounds, sides "
        "in turn. Images a second (each makes two views): median (min to max).",
        "",
        "| | counterpoint, 1 process | lightly, DataLoader with 2 workers | ratio |",
        "| --- | --- | --- | --- |",
    ]
    for part, row in report["result"].items():
        cells = [f"{row[side]['median']:,.0f} ({row[side]['min']:,.0f} to {row[side]['max']:,.0f})" for side in SIDES]
        ratio = f"{row['ratio']['median']:.1f} ({row['ratio']['min']:.1f} to {row['ratio']['max']:.1f})"
        lines.append(f"| {part} | {cells[0]} | {cells[1]} | {ratio} |")
    place = ", ".join(f"{key} {value}" for key, value in report["environment"].items())
    lines += [
        "",
        "Ours decodes once: the first epoch includes it, later ones read the cache.",
        "",
        f"Measured on: {place}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a folder of 32x32 images, or a Parquet table with a column of images")
    parser.add_argument("--count", type=int, default=5000, help="images written where --data is no folder")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(SIDES[arguments.side](arguments.data)))
        return
    from counterpoint.files import atomic, write_json

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if arguments.data and Path(arguments.data).is_dir():
            folder = Path(arguments.data)
        else:
            make_folder(arguments.data, folder, arguments.count)
        count = sum(1 for path in folder.rglob("*") if path.is_file())
        seconds = measure(folder, arguments.repeats)
    report = {
        "images": count,
        "source": Path(arguments.data).name if arguments.data else "scikit-learn's sample photographs",
        "repeats": arguments.repeats,
        "environment": environment(),
        "seconds": seconds,
        "result": summarise(seconds, count),
    }
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / "views.json", report)
    with atomic(RESULTS / "views.md", "w") as file:
        file.write(table(report))
    print(table(report))


if __name__ == "__main__":
    main()
