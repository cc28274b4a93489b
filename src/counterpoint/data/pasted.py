"""Small pictures pasted on images, with the images kept: MNIST-on-CIFAR and its kin (Xue et al., ICLR 2024).

Every item shows two things, each with a label of its own. An augmentation may then destroy one and spare the other, and
one asks which of them the layers of an encoder still tell. Here the pasted picture is a patch of ink blended into the
middle of a background, and the augmentation that takes it away is :func:`counterpoint.views.drop_pasted`. To undo the
blend by arithmetic, ``(x - s * patch) / (1 - s)``, would multiply the rounding of 8-bit pixels by ``1 / (1 - s)``, and
at full strength there is nothing left to undo it from; so a batch carries the background beside the image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from counterpoint.data.dataset import SPLITS, Batch, Dataset, Indices


def paste(backgrounds: np.ndarray, patches: np.ndarray, strength: float = 0.7) -> np.ndarray:
    """Blend a patch into the middle of each image.

    Outside the patch's box pixels are the background's; inside they are ``(1 - s) * background + s * patch``, rounded
    to whole numbers. The patch's black counts too: the whole box is darkened, not only what the ink covers.

    Args:
        backgrounds: uint8 (B, C, H, W).
        patches: uint8 (B, h, w), grey, put on all channels; at most as large as the images. What cannot be centred
            stands half a pixel up or left.
        strength: s, from 0, which leaves the background, to 1, which covers it. Default 0.7, that of a public
            reproduction of the paper.

    Returns:
        uint8 (B, C, H, W), new.

    Raises:
        ValueError: arrays that are not uint8, of other shapes, or not one patch an image; a strength outside [0, 1].
    """
    _check_strength(strength)
    for name, array, dims, shape in (
        ("backgrounds", backgrounds, 4, "(B, C, H, W)"),
        ("patches", patches, 3, "(B, h, w)"),
    ):
        if array.dtype != np.uint8 or array.ndim != dims:
            raise ValueError(f"{name}: expected uint8 {shape}, got {array.dtype} of shape {array.shape}.")
    _check_patches(len(backgrounds), backgrounds.shape[1:], patches)
    (height, width), (h, w) = backgrounds.shape[2:], patches.shape[1:]
    top, left = (height - h) // 2, (width - w) // 2
    pasted = backgrounds.copy()
    box = pasted[:, :, top : top + h, left : left + w]
    box[:] = np.rint((1 - strength) * box + strength * patches[:, None])
    return pasted


class PastedDataset(Dataset):
    """Images with a patch pasted on each.

    ``dataset[indices]`` is a batch as of any data set of images, the patch pasted on, with one key more:
    ``batch["background"]`` uint8 (B, C, H, W), the images without it. Pasting happens when a batch is read.

    Args:
        backgrounds: images, N of them. Their labels are left aside.
        patches: uint8 (N, h, w), what is pasted on each: see :func:`paste`.
        labels: int (N,), what is asked, such as which digit a patch shows; -1 where an item has none; ``None``: none.
        strength: s of the blend. Default 0.7.
        classes: the name of each label; default their numbers.
        given: (N,) of ``"train"``, ``"val"``, ``"test"``; default the backgrounds'. A patch that occurs more than once
            should do so within one part, or the test asks for what was seen in training.
        name: for reports; default ``"pasted"``.

    Raises:
        ValueError: backgrounds that are not images, or patches, labels, parts or a strength that do not fit.
    """

    def __init__(
        self,
        backgrounds: Dataset,
        patches: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        strength: float = 0.7,
        classes: list[str] | None = None,
        given: np.ndarray | None = None,
        name: str = "pasted",
    ):
        if backgrounds.modality != "image":
            raise ValueError(f"backgrounds: expected images, and the items of {backgrounds.name!r} are none.")
        _check_strength(strength)
        patches = np.asarray(patches)
        if patches.dtype != np.uint8 or patches.ndim != 3:
            raise ValueError(f"patches: expected uint8 (N, h, w), got {patches.dtype} of shape {patches.shape}.")
        _check_patches(len(backgrounds), backgrounds.shape, patches)
        if labels is not None:
            labels = _one_each(labels, len(patches), "labels")
            whole = labels.dtype.kind in "iu"
            if classes is None:
                classes = list(map(str, range(int(labels.max(initial=-1)) + 1))) if whole else []
            if not whole or not ((labels >= -1) & (labels < len(classes))).all():
                most = f" to {len(classes) - 1}" if classes else ""
                raise ValueError(f"labels: expected whole numbers from -1{most}, got {labels.dtype} {labels[:3]} ...")
            labels = labels.astype(np.int64)
        if given is not None:
            given = _one_each(given, len(patches), "given")
            if not np.isin(given, SPLITS).all():
                raise ValueError(f"given: expected {', '.join(SPLITS)}, got {', '.join(map(str, np.unique(given)))}.")
        self.name, self.modality, self.shape = name, "image", backgrounds.shape
        self.labels, self.classes, self.targets = labels, classes, None
        self.ids, self.skipped = backgrounds.ids, backgrounds.skipped
        self.given = backgrounds.given if given is None else given
        self.backgrounds, self.patches, self.strength = backgrounds, patches, strength
        self._root = None

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, indices: Indices) -> Batch:
        """Read the items at ``indices``, as :class:`Dataset` does."""
        index = self._positions(indices)
        background = self.backgrounds[index]["image"]
        image = paste(background.numpy(), self.patches[index], self.strength)
        batch = {"image": torch.from_numpy(image), "background": background, "index": torch.from_numpy(index)}
        if self.labels is not None:
            batch["label"] = torch.from_numpy(self.labels[index])
        return batch

    def subset(self, indices: Indices) -> PastedDataset:
        """The items at ``indices`` as a dataset of their own, with its own positions."""
        index = self._positions(indices)
        return PastedDataset(
            self.backgrounds.subset(index),
            self.patches[index],
            None if self.labels is None else self.labels[index],
            strength=self.strength,
            classes=self.classes,
            given=None if self.given is None else self.given[index],
            name=self.name,
        )


def _check_strength(strength: float) -> None:
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 <= strength <= 1:
        raise ValueError(f"strength: expected a number from 0 to 1, got {strength!r}.")


def _check_patches(count: int, shape: tuple[int, ...], patches: np.ndarray) -> None:
    """Whether there is one patch, and it fits, for each of ``count`` images (C, H, W)."""
    if len(patches) != count:
        raise ValueError(f"patches: expected one for each of the {count} images, got {len(patches)}.")
    if 0 in patches.shape[1:] or any(own > most for own, most in zip(patches.shape[1:], shape[1:], strict=True)):
        raise ValueError(f"patches: expected (h, w) of at least 1 and at most {shape[1:]}, got {patches.shape[1:]}.")


def _one_each(values: Any, count: int, argument: str) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != (count,):
        raise ValueError(f"{argument}: expected one for each of the {count} items, got shape {array.shape}.")
    return array
