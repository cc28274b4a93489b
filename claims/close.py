"""CLOSE: a head that is trained on the vectors of one modality works on another's (Gu, Clark & Kembhavi, ICCV 2023).

Two small versions of the paper's protocol. In both the encoder comes from CLIP and stays as it is.

* *Halves of digits.* CLIP's towers embed the left and the right half of 700 digits. A classifier is then trained on
  vectors of *right* halves ("texts") of 500 other digits and tested on *left* halves ("images") of the remaining 597.
  What differs between arms is the adapter of the vectors that it is trained on. *noise* compares noise of 0.16 a
  coordinate with none; *level* the same with noise of 0.64, since too much should hurt as too little does;
  *covariance* structured noise with noise of 0.16, and holds if it is no more than a hundredth worse; *direction* the
  mean shift with a shift as long in a random direction, both with noise of 0.16; *images* noise of 0.16 with a head
  trained on left halves, and holds if it comes within a tenth of it.
* *Captions of digits.* CLIP learns digits with "a photo of a seven"; the language model learns from those captions
  alone and is scored by the share of test images whose caption it writes word for word: with noise of 0.12, the
  official figure for captions, and without.

No arm was tuned: sizes, temperature, noise and factors are those of a pilot on the same data (noise 0.16, structured
noise with factor 1 and 0.04) or of the official script. All arms of a seed share CLIP, the splits, the head's first
weights and the random numbers of the noise.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.data import MultimodalDataset, pair
from counterpoint.encoders import CrossModalTransfer, GapStatistics, MultimodalEncoder, fit_adapters, make_adapter
from counterpoint.evaluation import Embeddings, Evaluation, classification
from counterpoint.experiments.claims import Claim, Setting

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
QUIET: dict[str, Any] = {"progress": False, "report": False, "monitor": 0, "evaluate": False, "overwrite": True}
PAIRED, TAUGHT = 700, 500  # digits for CLIP, others for the head; the rest for the test
HEAD_STEPS = 300
CLIP_EPOCHS, WRITER_EPOCHS = 15, 12


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, 8, 8) from 0 to 1, and labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return (found.images / 16).astype(np.float32), found.target.astype(np.int64)


@cache
def halves(seed: int, base: Path) -> tuple[MultimodalEncoder, list[dict[str, Tensor]], list[Tensor], GapStatistics]:
    """CLIP of left and right halves; vectors in the parts of the data, their labels; what the pairs say of the gap."""
    images, labels = digits()
    order = np.random.default_rng(seed).permutation(len(labels))
    parts = np.split(order, [PAIRED, PAIRED + TAUGHT])
    given = np.empty(len(labels), dtype="U5")
    for name, part in zip(("train", "val", "test"), parts, strict=True):
        given[part] = name
    left, right = images[:, :, :4].reshape(len(images), -1), images[:, :, 4:].reshape(len(images), -1)
    data = pair({"left": left, "right": right}, labels=labels, given=given, name="halves")
    run = cp.fit(
        data, "clip", out=str(base / f"halves-seed{seed}"), seed=seed, epochs=100, batch_size=256,
        encoders={"left": {"name": "mlp", "widths": [128]}, "right": {"name": "mlp", "widths": [128]}},
        options={"dim": 32, "temperature": 0.05, "learn_temperature": False}, **QUIET,
    )  # fmt: skip
    encoder: Any = run.encoder()
    read = [{"left": torch.from_numpy(left[part]), "right": torch.from_numpy(right[part])} for part in parts]
    paired = [encoder.embed(name, read[0][name]) for name in ("right", "left")]
    return encoder, read, [torch.from_numpy(labels[part]) for part in parts], fit_adapters(*paired)


def classify(
    adapter: str, std: float, seed: int, folder: Path, source: str = "text", options: Any = None
) -> Evaluation:
    """Train a classifier on right halves, moved by an adapter, and test it on left halves."""
    encoder, read, labels, gap = halves(seed, folder.parents[1] / f"process-{os.getpid()}")
    moved = make_adapter(adapter, 32, std, **(options or {}))
    moved.adopt(gap)
    torch.manual_seed(seed)
    head = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 10))
    transfer = CrossModalTransfer(encoder.towers["right"], encoder.towers["left"], moved, head).train()
    optimizer = torch.optim.AdamW(head.parameters(), 3e-3)
    for _ in range(HEAD_STEPS):
        optimizer.zero_grad()
        logits = transfer(text=read[1]["right"]) if source == "text" else transfer(image=read[1]["left"])
        nn.functional.cross_entropy(logits, labels[1]).backward()
        optimizer.step()
    transfer.eval()
    with torch.no_grad():
        vectors = transfer.vectors(image=read[2]["left"])
        predictions = head(vectors).argmax(1).numpy()
    return classification(predictions, Embeddings(vectors.numpy(), labels[2].numpy()), 10, labels[1].numpy())


def no_adapter(seed: int, folder: Path) -> Evaluation:
    """Texts as they are."""
    return classify("none", 0.0, seed, folder)


def noise(seed: int, folder: Path) -> Evaluation:
    """The method: noise of 0.16 a coordinate."""
    return classify("noise", 0.16, seed, folder)


def too_much_noise(seed: int, folder: Path) -> Evaluation:
    """Four times as much."""
    return classify("noise", 0.64, seed, folder)


def mean_shift(seed: int, folder: Path) -> Evaluation:
    """The mean difference, then noise of 0.16."""
    return classify("mean-shift", 0.16, seed, folder)


def random_shift(seed: int, folder: Path) -> Evaluation:
    """A shift as long elsewhere, then noise of 0.16."""
    return classify("random-shift", 0.16, seed, folder, options={"seed": seed})


def covariance(seed: int, folder: Path) -> Evaluation:
    """Noise with the mean and the covariance of the differences, and 0.04 besides."""
    return classify("covariance", 0.04, seed, folder, options={"multiplier": 1.0})


def on_images(seed: int, folder: Path) -> Evaluation:
    """The head trained on left halves, which it is tested on."""
    return classify("none", 0.0, seed, folder, source="image")


@cache
def captioned(seed: int, base: Path) -> tuple[MultimodalDataset, Path]:
    """Digits with captions, and CLIP's run on them."""
    images, labels = digits()
    captions = [f"a photo of a {WORDS[label]}" for label in labels]
    pictures = (images * 255).astype(np.uint8)
    data = pair({"image": pictures, "text": captions}, labels=labels, classes=WORDS, name="captioned")
    run = cp.fit(
        data, "clip", out=str(base / f"captioned-seed{seed}"), seed=seed, epochs=CLIP_EPOCHS, options={"dim": 32},
        encoders={"image": {"name": "mlp", "widths": [64]}, "text": {"width": 32, "depth": 1}}, **QUIET,
    )  # fmt: skip
    return data, run.folder


def write(adapter: str, seed: int, folder: Path) -> Evaluation:
    """Train the language model on captions and score what it writes about images of the test part."""
    data, clip = captioned(seed, folder.parents[1] / f"process-{os.getpid()}")
    run = cp.fit(
        data, "close", encoder=str(clip), out=str(folder / "close"), seed=seed, epochs=WRITER_EPOCHS, batch_size=64,
        lr=5e-3, options={"adapter": adapter, "std": 0.12, "width": 64, "layers": 1, "beams": 1, "length": 8}, **QUIET,
    )  # fmt: skip
    model: Any = run.model()
    test = np.load(run.folder / "splits.npz")["test"]
    said, right = model.answers(data, test)
    hits = np.array([text in each for text, each in zip(said, right, strict=True)], np.float32)
    return Evaluation({"caption_exact": float(hits.mean())}, {"caption_exact": hits})


def noisy_captions(seed: int, folder: Path) -> Evaluation:
    """The method: noise of 0.12."""
    return write("noise", seed, folder)


def plain_captions(seed: int, folder: Path) -> Evaluation:
    """Captions as they are."""
    return write("none", seed, folder)


def halves_setting(name: str, method: Any, baseline: Any, notes: str, at_least: float = 0.0) -> Setting:
    """One comparison on halves of digits."""
    return Setting(
        name=f"{name}-halves",
        data="digits",
        metric="accuracy",
        arms={"method": method, "baseline": baseline},
        at_least=at_least,
        notes=f"{notes} Trained on right halves and tested on left ones, in the space of the same CLIP. Nothing was "
        "tuned.",
    )


CLAIM = Claim(
    paper=41,
    name="close",
    title="noise in training carries what was learned from one modality over to another",
    statement=(
        "A head trained on vectors of one modality does better on those of another if noise is added in training than "
        "if none is, comes near one that is trained on the other, and is matched by noise that looks like the gap."
    ),
    source="Gu et al. 2023: the main tables, the ablation of adapters, and the sensitivity to noise",
    settings=[
        halves_setting("noise", noise, no_adapter, "Noise of 0.16 against none."),
        halves_setting("level", noise, too_much_noise, "Noise of 0.16 against 0.64."),
        halves_setting("covariance", covariance, noise, "Structured noise against noise of 0.16.", at_least=-0.01),
        halves_setting("direction", mean_shift, random_shift, "Mean shift against one as long elsewhere."),
        halves_setting("images", noise, on_images, "Against a head trained on left halves.", at_least=-0.1),
        Setting(
            name="captions-digits",
            data="digits",
            metric="caption_exact",
            arms={"method": noisy_captions, "baseline": plain_captions},
            notes=f"Ten captions. CLIP for {CLIP_EPOCHS} epochs, the language model for {WRITER_EPOCHS} on captions "
            "alone. Nothing was tuned.",
        ),
    ],
)
