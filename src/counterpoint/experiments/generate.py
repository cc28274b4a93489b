"""Train a generator on the training part of some data, and keep what it draws: data for ``fit --generated``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterpoint.experiments.fit import _claimed, _prepare, describe, plain, word
from counterpoint.experiments.run import Run, read_json
from counterpoint.generators import get

if TYPE_CHECKING:
    from counterpoint.data import Dataset

FORMATS = ("npy", "png")
_TRANSIENT = ("resume", "overwrite", "progress", "out")


@dataclass(frozen=True)
class Generated:
    """An opened folder of generated items.

    Attributes:
        folder: as written by :func:`generate`.
    """

    folder: Path

    @property
    def about(self) -> dict[str, Any]:
        """The content of ``generated.json``: what was drawn, by what, from which data, and how good it is."""
        return read_json(self.folder / "generated.json")

    @property
    def items(self) -> Path:
        """The ``.npy`` file or the folder of PNG files."""
        return self.folder / str(self.about["items"])

    def dataset(self) -> Dataset:
        """The items as a data set."""
        from counterpoint.data import load

        return load(self.items)


def generate(
    data: Any,
    method: str = "gmm",
    *,
    count: int = 5000,
    out: str | None = None,
    options: dict[str, Any] | None = None,
    format: str = "npy",
    encoder: str | None = None,
    check: int = 1000,
    seed: int = 0,
    labels: str | None = None,
    image: str | None = None,
    features: list[str] | None = None,
    image_size: int | None = None,
    root: str | None = None,
    download: bool = False,
    limit: int | None = None,
    max_corrupt: float = 0.01,
    val: float = 0.15,
    test: float = 0.2,
    split_seed: int = 0,
    splits: Any = None,
    precision: str = "auto",
    accelerator: str = "auto",
    threads: int | None = None,
    checkpoint_seconds: float = 30.0,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Generated:
    """Train a generator on your data, without labels, and draw new items from it: for ``fit --generated``.

    It sees the training part alone, by the same split that fit makes of the same data with the same arguments, so that
    nothing of a validation or test item finds its way into what is trained on. The folder holds the items, the
    generator's weights, a sheet of samples beside their nearest real neighbours, and ``generated.json``.

    Args:
        data: as for fit.
        method: gmm, a mixture of Gaussians in the space of the principal components (seconds; images and vectors), or
            diffusion, a denoising diffusion model (minutes on small images, hours on larger ones; images).
        count: how many items to draw.
        out: folder; default ``generated/<data>-<method>``.
        options: the generator's own parameters, e.g. components or steps.
        format: of images: npy, one file that is read in place; or png, a folder.
        encoder: folder of a run whose features say how far the generated items are from the real ones; by default the
            principal components of the pixels do, which know shapes less well than an encoder.
        check: generated items that are compared with the real ones; 0 leaves the comparison out.
        seed: of the generator's weights, its training and its draws.
        labels: as for fit; used to split the data, and for nothing else.
        image: column of images in a table.
        features: columns of numbers in a table.
        image_size: side to which images are brought; default their own up to 64.
        root: where a data set named by a word lies on this machine.
        download: allow fetching the data from the hub.
        limit: use at most so many items, drawn evenly.
        max_corrupt: share of unreadable images that is tolerated.
        val: as for fit.
        test: as for fit.
        split_seed: as for fit.
        splits: as for fit.
        precision: of the training: auto (bfloat16 where the hardware has it), 32-true, bf16-mixed, 16-mixed.
        accelerator: auto, cpu, gpu, ...: Lightning's.
        threads: processor threads; default all cores.
        checkpoint_seconds: time between checkpoints of the training.
        resume: go on in ``out`` where it was killed, in the training or in the drawing.
        overwrite: delete what is in ``out`` first.
        progress: show progress bars.

    Returns:
        the :class:`Generated` folder.

    Raises:
        ValueError: an argument that cannot be used, named, with what to do.
        FileExistsError: ``out`` is in use already and neither resume nor overwrite is given.
        FolderInUse: another process is writing into ``out``.
        ImportError: diffusion without diffusers.
    """
    arguments = {name: value for name, value in locals().items() if name != "data"}
    get(method)  # before anything is written
    if format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    for name, value, least in (("count", count, 1), ("check", check, 0)):
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")
    folder = Path(out or f"generated/{word(data)}-{method}")
    config = {"data": describe(data), **{k: plain(v) for k, v in arguments.items() if k not in _TRANSIENT}}
    with _claimed(folder):
        if _prepare(folder, config, resume, overwrite) is None:
            from counterpoint.experiments.generating import Generation

            Generation(folder, data, arguments).run()
    return Generated(folder)


def generator(folder: str | os.PathLike[str]) -> Any:
    """The trained generator of a folder: ``generator(folder).sample(count, seed=(0, 0))`` draws from it.

    Raises:
        FileNotFoundError: there is none in it.
    """
    place = Path(folder) / "generator"
    if not (place / "model.safetensors").exists():
        raise FileNotFoundError(f"folder: no generator in {os.fspath(folder)}; counterpoint generate writes one")
    return get(read_json(place / "config.json")["method"]).load(place)


def finished(folder: Path) -> bool:
    """Whether a folder holds all that it was to hold."""
    return (folder / "config.yaml").exists() and Run(folder).state == "finished"
