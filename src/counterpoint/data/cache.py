"""What was computed from the user's data once and is worth keeping: folders that are complete or count as absent.

An entry is a folder whose name contains a hash of what it was made from. ``meta.json``, written last, records the size
of every file; an entry without it, or whose files differ, is made anew. A lock makes a second process wait for the
first instead of repeating its work, and dies with its process.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from counterpoint.files import FolderInUse, claim_folder, write_json

_FORMAT = 1  # raise when what is kept changes, so that old entries are not read as new ones
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
_ADVICE = "Choose another folder with cache= or $XDG_CACHE_HOME"
_FREE = f"Free some, or take a smaller image_size or limit. {_ADVICE}."


class CacheFull(OSError):
    """The disk of the cache has no room."""


def entry(cache: str | os.PathLike[str] | None, name: str, *made_from: Any) -> Path:
    """The folder for what is made from ``made_from``, below ``cache``, ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if cache is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "counterpoint"
    key = hashlib.blake2b(repr((_FORMAT, *made_from)).encode("utf-8", "surrogateescape"), digest_size=10).hexdigest()
    return Path(cache).absolute() / f"{name}-{key}"


def mark(path: Path) -> str:
    """What changes when a file does: its path, size and time."""
    try:
        stat = path.stat()
    except OSError:
        return f"{path.absolute()} missing"
    return f"{path.absolute()} {stat.st_size} {stat.st_mtime_ns}"


def read(folder: Path) -> dict[str, Any] | None:
    """What a complete entry says about itself, or None."""
    try:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        whole = all((folder / name).stat().st_size == size for name, size in meta["files"].items())
        return meta if whole else None
    except (OSError, ValueError, KeyError, AttributeError):
        return None


@contextlib.contextmanager
def making(folder: Path) -> Iterator[dict[str, Any]]:
    """Hold an entry and fill it; the block is given the dict to complete, already filled where another process did.

    Args:
        folder: the entry.

    Raises:
        PermissionError: the cache cannot be written to.
        CacheFull: its disk is full; what was written of the entry is gone.
    """
    with _held(folder):
        meta = read(folder)
        if meta is not None:
            yield meta
            return
        _clear(folder)  # of a process that was killed here
        meta = {}
        try:
            yield meta
            files = {file.name: file.stat().st_size for file in folder.glob("*.npy")}
            write_json(folder / "meta.json", {**meta, "files": files})
        except BaseException as error:
            _clear(folder)
            if isinstance(error, OSError) and error.errno in _FULL and not isinstance(error, CacheFull):
                raise CacheFull(f"cache: the disk of {folder.parent} filled up. {_FREE}") from error
            raise


def check_room(folder: Path, need: int) -> None:
    """Raise CacheFull where the disk has less than ``need`` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise CacheFull(
            f"cache: the disk of {folder.parent} has {free / 1e6:,.0f} MB left, but {need / 1e6:,.0f} MB are needed. "
            f"{_FREE}"
        )


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(claim_folder(folder))
                break
            except FolderInUse:
                time.sleep(0.2)
            except (PermissionError, FileExistsError, NotADirectoryError) as error:
                raise type(error)(f"cache: cannot write to {folder.parent}. {_ADVICE}.") from error
        yield


def _clear(folder: Path) -> None:
    for file in [*folder.glob(".*.part"), *folder.glob("*.npy"), folder / "meta.json"]:
        file.unlink(missing_ok=True)
