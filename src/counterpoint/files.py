"""Files that appear whole or not at all.

Everything Counterpoint leaves on disk goes through :func:`atomic`: the content is written beside its destination,
flushed to the disk, and renamed over it. A reader, a crash or a full disk therefore meets either the old file or the
new one, never half of one. :func:`claim_folder` keeps two runs out of one folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


class FolderInUse(RuntimeError):
    """Another live process writes into the folder."""


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file that replaces ``path`` when the block ends well and vanishes when it does not.

    Args:
        path: destination; its folder must exist.
        mode: ``"wb"`` or ``"w"`` (UTF-8).

    Raises:
        OSError: from the file system (no space, no permission); ``path`` is then what it was before.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(beside, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Flush a folder's entries to the disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. NaN and infinities become ``null``: they are not JSON."""
    with atomic(path, "w") as file:
        json.dump(_finite(value), file, indent=2, allow_nan=False)
        file.write("\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    if isinstance(value, float) and value - value != 0:
        return None
    return os.fspath(value) if isinstance(value, os.PathLike) else value


@contextlib.contextmanager
def claim_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Hold ``folder`` (made if missing) for this process while the block runs.

    The lock is the operating system's and dies with the process, so a killed run never leaves its folder locked.

    Raises:
        FolderInUse: another process holds it.
        PermissionError: the folder cannot be made or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "a+")  # noqa: SIM115 - held for the whole block
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise type(error)(f"out: cannot write into {folder}: {error.strerror}. Choose another folder.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUse(
                f"out: another run is writing into {folder}. Wait for it, or choose another folder."
            ) from None
        yield folder
