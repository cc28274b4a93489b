"""Arrays: ``.npy`` and ``.npz`` files, and NumPy arrays or torch tensors that are already in memory.

Two axes are vectors ``(N, F)``; three are grey images ``(N, H, W)``; four are images ``(N, H, W, C)`` or
``(N, C, H, W)`` with one or three channels (where both readings fit, the second). Pixels are uint8, other integers in
[0, 255], or floats in [0, 1]. A ``.npy`` file is memory-mapped where it lies. Pickled objects are never opened.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from counterpoint.data import labels as naming
from counterpoint.data import targets as measuring
from counterpoint.data.dataset import Rows
from counterpoint.data.labels import NO_LABELS, require

_BLOCK_BYTES = 1 << 24
DATA_KEYS = ("x", "data", "images", "features", "vectors", "embeddings", "x_train", "arr_0")
LABEL_KEYS = ("y", "labels", "label", "targets", "target", "classes")


def rows_of(array: np.ndarray, path: Path | None = None) -> Rows:
    """Check an array and wrap it.

    Raises:
        ValueError: objects, text or complex numbers; no rows; a shape that is neither vectors nor images; NaN, Inf or
            values too large for float32 (with the first row); pixels that are neither in [0, 255] nor in [0, 1].
    """
    if array.dtype.kind not in "fiub":
        raise ValueError(f"source: an array of numbers is expected, got {array.dtype}. Objects are never unpickled.")
    if array.ndim not in (2, 3, 4) or 0 in array.shape:
        raise ValueError(
            f"source: expected an array (N, F) of vectors or (N, H, W), (N, H, W, C), (N, C, H, W) of images with at "
            f"least one row, got shape {array.shape}."
        )
    layout = {2: "vector", 3: "hw"}.get(array.ndim) or _channels(array.shape)
    low, high = _range(array)
    if layout == "vector":
        return Rows(array, layout, path)
    if array.dtype.kind == "f" and not (low >= 0 and high <= 1):
        raise ValueError(
            f"source: float images must lie in [0, 1], got {low:g} to {high:g}. Divide them by their largest possible "
            "value, or give uint8 in [0, 255]."
        )
    if array.dtype.kind in "iu" and not (low >= 0 and high <= 255):
        raise ValueError(f"source: integer images must lie in [0, 255], got {low:g} to {high:g}. Scale them to uint8.")
    return Rows(array, layout, path)


def _channels(shape: tuple[int, ...]) -> str:
    if shape[1] in (1, 3):
        return "chw"
    if shape[3] in (1, 3):
        return "hwc"
    raise ValueError(
        f"source: images have 1 or 3 channels, in the second or in the last axis; got shape {shape}. "
        "Drop the alpha channel, or flatten to (N, F) to treat them as vectors."
    )


def _range(array: np.ndarray) -> tuple[float, float]:
    """Smallest and largest value, a block of rows at a time; refuses what is not finite in float32."""
    if array.dtype.kind == "b" or array.dtype == np.uint8:
        return 0.0, 255.0
    step = max(1, _BLOCK_BYTES // max(1, array[0].nbytes))
    low, high, bad, first = np.inf, -np.inf, 0, -1
    for start in range(0, len(array), step):
        block = np.asarray(array[start : start + step])
        if array.dtype.kind == "f":
            rows = block.reshape(len(block), -1)
            wrong = ~(np.abs(rows) <= np.finfo(np.float32).max).all(axis=1)  # NaN compares false
            if wrong.any():
                first = start + int(np.flatnonzero(wrong)[0]) if first < 0 else first
                bad += int(wrong.sum())
                continue
        low, high = min(low, float(block.min())), max(high, float(block.max()))
    if bad:
        raise ValueError(not_finite(bad, len(array), first))
    return low, high


def not_finite(bad: int, count: int, first: int) -> str:
    """What to say of rows with NaN, Inf or numbers that float32 cannot hold."""
    return (
        f"source: {bad:,} of {count:,} rows hold NaN, Inf or numbers beyond float32; the first is row {first}. "
        "Remove or repair them."
    )


def checked_labels(values: Any, count: int) -> tuple[np.ndarray | None, list[str] | None]:
    """Labels that came with an array of ``count`` rows.

    Raises:
        ValueError: not one label a row, or labels that are not classes.
    """
    return naming.encode(_one_each(values, count, "labels"))


def checked_targets(values: Any, count: int, argument: str = "target") -> np.ndarray:
    """Targets that came with an array of ``count`` rows.

    Raises:
        ValueError: not one number a row, or what :func:`counterpoint.data.targets.numbers` refuses.
    """
    return measuring.numbers(_one_each(values, count, "target"), argument)


def _one_each(values: Any, count: int, argument: str) -> Any:
    array = values if isinstance(values, list | tuple) else np.asarray(values)
    shape = (len(array),) if isinstance(array, list | tuple) else array.shape
    if shape in ((count, 1), (1, count)) and isinstance(array, np.ndarray):
        return array.reshape(-1)
    if shape != (count,):
        raise ValueError(
            f"{argument}: expected one {argument.rstrip('s')} for each of the {count} rows, got shape {tuple(shape)}."
        )
    return array


def map_file(path: Path) -> np.ndarray:
    """Memory-map a ``.npy`` file.

    Raises:
        ValueError: it is not one, is cut short, or holds pickled objects.
    """
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, EOFError, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise ValueError(
            f"source: {path} cannot be mapped as an array of numbers: {error}. (Pickled objects are never opened.)"
        ) from error


def members(path: Path) -> dict[str, str]:
    """The arrays in a ``.npz`` file: the name of each and the member of the archive that holds it.

    Raises:
        ValueError: it is not one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
    except zipfile.BadZipFile as error:
        raise ValueError(f"source: {path} cannot be read as .npz: {error}") from error
    if not found:
        raise ValueError(f"source: {path} holds no array.")
    return found


def choose(
    names: list[str], path: Path, data: str | None, labels: str | None, target: str | None = None
) -> tuple[str, str | None]:
    """Which array of a ``.npz`` file is the data and which, if any, the labels.

    Raises:
        ValueError: a key that is not there, or no array but the labels and the target.
    """
    for argument, key in (("image", data), ("target", target)):
        if key:
            require(key, names, argument)
    label = label_key(names, labels, target)
    others = [name for name in names if name not in (label, target)]
    if not others:
        raise ValueError(
            f"source: {path} holds no array besides {' and '.join(repr(n) for n in (label, target) if n)}."
        )
    return data or next((name for name in others if name.lower() in DATA_KEYS), others[0]), label


def label_key(names: list[str], labels: str | None, target: str | None = None) -> str | None:
    """Which array of a ``.npz`` file holds the labels, if any: the one asked for, or one with a usual name.

    Raises:
        ValueError: a key that is not there.
    """
    if labels == NO_LABELS and NO_LABELS not in names:
        return None
    if labels:
        require(labels, names, "labels")
    return labels or next((name for name in names if name.lower() in LABEL_KEYS and name != target), None)


def read_member(path: Path, member: str) -> np.ndarray:
    """One small array of a ``.npz`` file, into memory."""
    with zipfile.ZipFile(path) as archive:
        raw = io.BytesIO(archive.read(member))
    try:
        return np.asarray(np.load(raw, allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise ValueError(f"source: {member} in {path}: {error}") from error


def stream_member(path: Path, member: str) -> Iterator[bytes]:
    """The bytes of one array of a ``.npz`` file, which are those of a ``.npy`` file."""
    with zipfile.ZipFile(path) as archive, archive.open(member) as file:
        while chunk := file.read(_BLOCK_BYTES):
            yield chunk


def pictures(rows: Rows) -> Iterator[np.ndarray]:
    """Images one by one as uint8 ``(H, W)`` or ``(H, W, C)``, for resizing."""
    for start in range(0, len(rows), 256):
        for pixels in rows.take(np.arange(start, min(start + 256, len(rows)))):
            yield pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)


def digest(array: np.ndarray) -> str:
    """A fingerprint of an array in memory."""
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).hexdigest()
