"""Uniformity and alignment close the gap between modalities, and classes transfer better across it (Fahim et al. 2024).

What is compared. The left and the right halves of scikit-learn's digits are two modalities of 32 numbers, an MLP each
into 64 dimensions, about 1,170 pairs, 40 epochs in batches of 64. CLIP, CUA and CUAXU share all of it and a fixed
temperature, and none was tuned: the terms have weight 1, as the authors' have. All scores are of held-out pairs.

* *distance*, *separability*: CUA's gap is smaller than CLIP's, at a temperature of 0.07; *cold-distance* at the
  authors' 0.01.
* *transfer* (CUA) and *transfer-cross* (CUAXU): a left half is classified by the mean vectors that right halves have of
  each class in training; that is the zero-shot accuracy of the paper where there are no sentences.
* *retrieval*: the paper's tables have CUA's retrieval a little below CLIP's (by up to 0.018). It holds if recall@1 is
  not below it by more than 0.03.
* *origin*: the paper's diagnosis. CLIP at 0.01 begins without a gap (a rotation takes it out) and ends with one; the
  baseline is the same model after a single step at a learning rate of 1e-9, which is its beginning.
* *emoji* and *emoji-zero-shot*: the same on pictures with their names and keywords, towers trained from scratch;
  zero-shot is the accuracy of the nearest name among the nine categories. The paper fine-tunes a pre-trained CLIP, so
  this is not its setting.

With a low temperature and few dimensions CUAXU may widen the gap: its figures stand beside CUA's in *distance* and
*cold-distance* as ``gap_distance_cross`` and ``gap_separability_cross``, and decide nothing.

A model that several settings ask for is trained once, as long as one process does it all.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterpoint.experiments.claims import Claim, DataMissing, Setting

if TYPE_CHECKING:
    from counterpoint.evaluation import Evaluation

DIM = 64
MLP = {"name": "mlp", "widths": [128, 128]}
HALVES: dict[str, Any] = {"encoders": {"left": MLP, "right": MLP}, "epochs": 40, "batch_size": 64}
EMOJI: dict[str, Any] = {
    "encoders": {
        "image": {"name": "convnet", "widths": [16, 32, 64]},
        "words": {"name": "transformer", "width": 64, "depth": 1, "heads": 4},
    },
    "epochs": 15,
    "batch_size": 64,
}
SIDE = 32  # pixels of the pictures
QUIET = {"progress": False, "report": False, "monitor": 0, "overwrite": True}
NEEDS = "all.parquet is looked for in $COUNTERPOINT_DATA/emoji, or where --root says."
CROSS = ("gap_distance", "gap_separability")


@cache
def halves() -> Any:
    """Left and right halves of digits, in [0, 1]."""
    import numpy as np

    from counterpoint.data import load, pair

    digits = load("digits")
    images = digits[np.arange(len(digits))]["image"].float().numpy() / 255
    left, right = (half.reshape(len(images), -1) for half in (images[..., :4], images[..., 4:]))
    return pair({"left": left, "right": right}, digits.labels, classes=digits.classes, name="halves of digits")


@cache
def emoji(root: str | None) -> Any:
    """Pictures, their names and keywords as one text, and their category."""
    import io

    import numpy as np
    import pyarrow.parquet as parquet
    from PIL import Image

    from counterpoint.data import pair

    base = Path(root) if root else Path(os.environ.get("COUNTERPOINT_DATA", "data"))
    found = [file for file in (base / "emoji" / "all.parquet", base / "all.parquet") if file.exists()]
    if not found:
        raise DataMissing(f"no emoji/all.parquet in {base}")
    rows = parquet.read_table(found[0]).to_pylist()
    images = [Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGBA") for row in rows]
    flat = [Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB") for image in images]
    pictures = np.stack([np.asarray(image.resize((SIDE, SIDE))) for image in flat])
    words = [f"{row['name'].strip()} {row['keywords'].replace(';', '')}".lower() for row in rows]
    return pair({"image": pictures, "words": words}, [row["category"].lower() for row in rows], name="emoji")


def train(data: str, method: str, temperature: float, seed: int, folder: Path, root: str | None = None) -> Evaluation:
    """An arm."""
    return _train(data, method, temperature, seed, folder.parents[1] / f"process-{os.getpid()}", root)


@cache
def _train(data: str, method: str, temperature: float, seed: int, base: Path, root: str | None) -> Evaluation:
    import counterpoint as cp

    options: dict[str, Any] = {"dim": DIM, "temperature": temperature}
    if method == "clip":
        options["learn_temperature"] = False
    source, how = (halves(), HALVES) if data == "halves" else (emoji(root), EMOJI)
    out = str(base / f"{method}-{data}-{temperature}-seed{seed}")
    return cp.fit(source, method, out=out, options=options, seed=seed, **how, **QUIET).evaluation


def beside(found: Evaluation, other: Evaluation) -> Evaluation:
    """Scores of CUA, those of CUAXU's gap beside them."""
    from dataclasses import replace

    return replace(found, scores={**found.scores, **{f"{name}_cross": other.scores[name] for name in CROSS}})


def cua(seed: int, folder: Path) -> Evaluation:
    """CUA at 0.07."""
    return beside(*(train("halves", name, 0.07, seed, folder) for name in ("cua", "cuaxu")))


def cuaxu(seed: int, folder: Path) -> Evaluation:
    """CUAXU at 0.07."""
    return train("halves", "cuaxu", 0.07, seed, folder)


def clip(seed: int, folder: Path) -> Evaluation:
    """CLIP at 0.07."""
    return train("halves", "clip", 0.07, seed, folder)


def cold_cua(seed: int, folder: Path) -> Evaluation:
    """CUA at 0.01."""
    return beside(*(train("halves", name, 0.01, seed, folder) for name in ("cua", "cuaxu")))


def cold_clip(seed: int, folder: Path) -> Evaluation:
    """CLIP at 0.01."""
    return train("halves", "clip", 0.01, seed, folder)


def emoji_cua(seed: int, folder: Path, root: str | None = None) -> Evaluation:
    """CUA on pictures and words, at 0.07."""
    return train("emoji", "cua", 0.07, seed, folder, root)


def emoji_clip(seed: int, folder: Path, root: str | None = None) -> Evaluation:
    """CLIP on the same."""
    return train("emoji", "clip", 0.07, seed, folder, root)


def _origin(seed: int, folder: Path, **more: Any) -> Evaluation:
    """CLIP at 0.01 that begins without a gap."""
    import counterpoint as cp

    options = {"dim": DIM, "temperature": 0.01, "w_align": 0, "w_uniform": 0, "initial_gap": 0.0}
    how = {**HALVES, **more}
    return cp.fit(halves(), "cua", out=str(folder / "run"), options=options, seed=seed, **how, **QUIET).evaluation


def origin_end(seed: int, folder: Path) -> Evaluation:
    """After 40 epochs."""
    return _origin(seed, folder)


def origin_start(seed: int, folder: Path) -> Evaluation:
    """After one step that moves nothing."""
    return _origin(seed, folder, steps=1, lr=1e-9, optimizer="sgd")


NOTES = "Both arms: the same towers, pairs, batches, steps and fixed temperature. Nothing was tuned"


def setting(name: str, metric: str, method: Any, baseline: Any, notes: str, **more: Any) -> Setting:
    """One comparison."""
    arms = {"method": method, "baseline": baseline}
    return Setting(name=name, metric=metric, arms=arms, notes=f"{notes} {NOTES}", **{"data": "digits", **more})


CLAIM = Claim(
    paper=5,
    name="contrastive-gap",
    title="uniformity and alignment close the gap that contrast makes",
    statement=(
        "CLIP's loss makes a gap between two towers by itself. With alignment and uniformity beside it the gap is "
        "smaller, classes transfer better from one modality to the other, and retrieval stays about equal."
    ),
    source="Fahim et al. 2024, abstract; figures of the authors' repository on MS COCO",
    settings=[
        setting(
            "distance", "gap_distance", cua, clip, "CUA against CLIP at 0.07: distance of the centroids.",
            higher_is_better=False,
        ),
        setting(
            "separability", "gap_separability", cua, clip, "CUA against CLIP at 0.07: linear separability.",
            higher_is_better=False,
        ),
        setting(
            "cold-distance", "gap_distance", cold_cua, cold_clip, "The same as distance at the authors' 0.01.",
            higher_is_better=False,
        ),
        setting("transfer", "transfer:left>right", cua, clip, "CUA against CLIP at 0.07: left by right classes."),
        setting("transfer-cross", "transfer:left>right", cuaxu, clip, "The same for CUAXU."),
        setting(
            "retrieval", "pair_recall@1", cua, clip, "It holds if CUA is at most 0.03 worse, in both directions' mean.",
            at_least=-0.03,
        ),
        setting(
            "origin", "gap_distance", origin_end, origin_start,
            "CLIP at 0.01 from an initial gap of 0, after training against before: the gap grows.",
        ),
        setting(
            "emoji", "gap_distance", emoji_cua, emoji_clip, "CUA against CLIP at 0.07 on pictures and words.",
            data="emoji", higher_is_better=False, needs=NEEDS,
        ),
        setting(
            "emoji-zero-shot", "zero_shot:image", emoji_cua, emoji_clip,
            "The same runs: pictures by the names of the nine categories, which were in no text as such.",
            data="emoji", needs=NEEDS,
        ),
    ],
)  # fmt: skip
