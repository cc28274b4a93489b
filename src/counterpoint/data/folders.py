"""A folder of pictures, as people keep them.

``photos/cat/1.jpg`` has the label *cat*: the first folder on the way is the class, deeper ones are not. Where the top
folders are called train, val and test (or validation, valid, dev), they are the split and the classes lie below. A
picture outside any class folder has no label; where none lies in one, there are no labels. Hidden files and whatever is
not an image by its ending are passed over.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from counterpoint.data import labels as naming
from counterpoint.data.dataset import Names
from counterpoint.data.images import ENDINGS
from counterpoint.data.packing import Found

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def find(folder: Path) -> Found:
    """List the images below ``folder``.

    Raises:
        FileNotFoundError: there is none.
    """
    digest = hashlib.blake2b(digest_size=16)
    paths = []
    for path, entry in _walk(folder, ""):
        stat = entry.stat()
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        paths.append(path)
    if not paths:
        endings = " ".join(sorted(ENDINGS))
        raise FileNotFoundError(f"source: no image in {folder} or below it. Endings looked for: {endings}.")
    tops = {path.split("/", 1)[0] if "/" in path else "" for path in paths}
    is_split = all(top.lower() in SPLIT_NAMES for top in tops) and any(SPLIT_NAMES[t.lower()] == "train" for t in tops)
    depth = 1 if is_split else 0
    labels, classes = naming.encode([_part(path, depth) for path in paths])
    ids, root = Names.of(paths), str(folder.absolute())
    return Found(
        folder.absolute().name or "images",
        ids,
        lambda: (os.path.join(root, path) for path in ids),
        f"{root} {digest.hexdigest()}",
        labels=labels,
        classes=classes,
        given=np.array([SPLIT_NAMES[_part(path, 0).lower()] for path in paths]) if is_split else None,
        root=root,
    )


def _part(path: str, depth: int) -> str:
    """The folder at ``depth`` on the way to the file, or the empty string."""
    folders = path.split("/")[:-1]
    return folders[depth] if depth < len(folders) else ""


def _walk(
    folder: Path, below: str, seen: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Images below ``folder`` in sorted order; a link that leads back up is not followed."""
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in seen:
        return
    with os.scandir(folder) as entries:
        listed = sorted((e for e in entries if not e.name.startswith((".", "__MACOSX"))), key=lambda entry: entry.name)
    for entry in listed:
        if entry.is_dir():
            yield from _walk(Path(entry.path), f"{below}{entry.name}/", seen | {here})
        elif os.path.splitext(entry.name)[1].lower() in ENDINGS and entry.is_file():
            yield below + entry.name, entry
