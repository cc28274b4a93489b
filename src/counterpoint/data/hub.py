"""Hugging Face datasets: saved on disk, in the local cache, or, asked for, from the hub. Needs the extra ``hub``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterpoint.data.folders import SPLIT_NAMES
from counterpoint.data.tables import Table

if TYPE_CHECKING:
    import pandas as pd

_BLOCK = 256


def is_saved(path: Path) -> bool:
    """Whether ``save_to_disk`` wrote this folder."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def open_saved(path: Path) -> list[Table]:
    """Open what ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` wrote.

    Raises:
        ImportError: the package ``datasets`` is missing.
        ValueError: the folder is damaged.
    """
    library = _library()
    try:
        return _tables(library.load_from_disk(str(path)), path.absolute(), path.name)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"source: {path} cannot be read as a saved Hugging Face dataset: {error}") from error


def open_hub(name: str, download: bool) -> list[Table]:
    """Open ``owner/name`` from the local cache or, with ``download``, from the hub; its size is printed first.

    Raises:
        FileNotFoundError: it is not in the cache and ``download`` is False, or the hub cannot be reached.
        ImportError: the package ``datasets`` is missing.
    """
    library = _library()
    with contextlib.nullcontext() if download else _offline():
        if download:
            _announce(name)
        try:
            return _tables(library.load_dataset(name), Path.cwd(), name.rpartition("/")[2])
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            what = (
                "The hub could not be reached or has no such dataset; check the name and the network, or save the "
                "dataset elsewhere with save_to_disk and give its folder."
                if download
                else "It is not in the local cache and nothing is downloaded unasked: pass download=True."
            )
            raise FileNotFoundError(f"source: hub:{name} cannot be opened ({reason}). {what}") from error


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError("Hugging Face datasets need a package: pip install 'counterpoint[hub]'") from error
    return datasets


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Keep ``datasets`` and ``huggingface_hub`` from the network while the block runs."""
    import datasets.config
    import huggingface_hub.constants

    modules: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    before = [module.HF_HUB_OFFLINE for module in modules]
    for module in modules:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


def _announce(name: str) -> None:
    from huggingface_hub import HfApi
    from rich.console import Console

    try:
        files = HfApi().dataset_info(name, files_metadata=True).siblings or []
    except Exception:  # whatever went wrong is told by the attempt to load, which follows
        return
    size = sum(file.size or 0 for file in files) / 1e6
    Console(stderr=True).print(f"downloading {name} from the Hugging Face hub: up to {size:,.0f} MB")


def _tables(opened: Any, base: Path, name: str) -> list[Table]:
    parts = dict(opened) if isinstance(opened, dict) else {"": opened}
    givens = {part: SPLIT_NAMES.get(part.lower()) for part in parts}
    known = {part: given for part, given in givens.items() if given}
    if "train" in known.values():
        parts = {part: parts[part] for part in known}  # others, such as "unsupervised", belong to no split
    return [_table(part, base, name, givens[key] if "train" in known.values() else None) for key, part in parts.items()]


def _table(part: Any, base: Path, name: str, given: str | None) -> Table:
    def blocks(wanted: Sequence[str]) -> Iterator[pd.DataFrame]:
        # as Arrow, so that images come as the bytes they are and are decoded once, by us
        for table in part.select_columns(list(wanted)).with_format("arrow").iter(_BLOCK):
            yield table.to_pandas()

    classes = {column: list(kind.names) for column, kind in part.features.items() if hasattr(kind, "names")}
    return Table(name, list(part.column_names), blocks, part._fingerprint, part.data.nbytes, base, classes, given)
