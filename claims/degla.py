"""DeGLA: hard negatives teach order, distillation keeps what was known (Hu et al., ACM MM 2025).

What is compared. An image is two of scikit-learn's digits side by side, its caption "three left of seven". For each
seed one CLIP is pre-trained on pairs of all ten digits whose captions say nothing about order: digits and relation are
each given at random. All arms go on from those very weights for 150 steps on pairs of the digits 0 to 4 with true
captions, and the arms with negatives have four of each caption: the digits swapped, the relation flipped, and two with
another digit. It is the paper's protocol (a general model, tuned on captions with rewrites) at a size that two cores
train in seconds; the rewrites come from the library's rules instead of a language model.

Scored on test digits that no training has seen, pairs of all ten:

* *general*: images of the same digit twice, ten sentences, the share that finds its own: what the pre-trained model
  knew, and what tuning on five digits may cost;
* *swap*: the share of images of two different digits that score higher with their caption than with the digits swapped;
* *relation*: the same with "left" and "right" exchanged.

DeGLA's weights are the official script's; its distillation, a sum over the batch, is brought to the script's 32 pairs.
The teacher's decay is 0.99 a step instead of the script's 0.9996, which is meant for a training of thousands of steps:
here it would leave the teacher where it began. Optimiser and learning rate are the library's defaults in all arms. What
a stronger distillation does was seen on seed 0 before: as for 256 pairs it keeps more (0.99) and learns less (0.71).
All arms of seed 0 were seen as they are now too, so the claim is measured on seeds 1 to 5, of which none was looked at.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import counterpoint as cp
from counterpoint.data import MultimodalDataset, Splits, pair
from counterpoint.experiments.claims import Claim, Setting

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PAIRS, TESTED, KNOWN = 6000, 1000, 5  # in training, in test, and digits that are tuned on
PRETRAINING, TUNING, BATCH = 400, 150, 128  # steps, steps, items
ENCODERS = {"image": {"name": "mlp", "widths": [256, 128]}, "text": {"name": "transformer", "width": 64}}
REWRITES = {"kinds": ["swap_nouns", "replace_relations", "replace_nouns"], "count": 4}
OPTIONS: dict[str, dict[str, Any]] = {"clip": {"dim": 64}, "negclip": REWRITES, "degla": {**REWRITES, "decay": 0.99}}
SEEDS = (1, 2, 3, 4, 5)
QUIET = {"progress": False, "report": False, "monitor": 0, "evaluate": False, "overwrite": True, "threads": 1}


def caption(first: int, second: int, relation: str = "left") -> str:
    return f"{WORDS[first]} {relation} of {WORDS[second]}"


@cache
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images uint8 (N, 8, 8), labels, and which of them are for tests: every fourth."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.clip(np.rint(found.images * (255 / 16)), 0, 255).astype(np.uint8)
    return images, found.target, np.arange(len(images)) % 4 == 0


def drawn(count: int, rng: np.random.Generator, tested: bool, same: bool | None) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 8, 16) of two digits side by side, and which (count, 2); the same, different or any two."""
    images, labels, for_tests = digits()
    pool = np.flatnonzero(for_tests == tested)
    parts = rng.choice(pool, (20 * count, 2))
    alike = labels[parts[:, 0]] == labels[parts[:, 1]]
    parts = (parts if same is None else parts[alike == same])[:count]
    return np.concatenate([images[parts[:, 0]], images[parts[:, 1]]], 2), labels[parts]


def dataset(seed: int, known: int | None) -> tuple[MultimodalDataset, Splits]:
    """Training pairs: of all digits, with captions that say nothing of order; or of the first few, with true ones."""
    rng = np.random.default_rng([seed, known or 0])
    images, which = drawn(PAIRS if known is None else 6 * PAIRS, rng, False, None if known is None else False)
    if known is None:
        turned, relations = rng.random(len(which)) < 0.5, rng.choice(["left", "right"], len(which))
        captions = [caption(*(d[::-1] if t else d), str(r)) for d, t, r in zip(which, turned, relations, strict=True)]
    else:
        keep = np.flatnonzero((which < known).all(1))[:PAIRS]
        images, which = images[keep], which[keep]
        turned = rng.random(len(which)) < 0.5  # left and right are as frequent
        captions = [caption(*d[::-1], "right") if t else caption(*d) for d, t in zip(which, turned, strict=True)]
    held = np.arange(len(images) - 256, len(images))
    splits = Splits(np.arange(len(images) - 512), held - 256, held)
    return pair({"image": images, "text": captions}, name="two-digits"), splits


@cache
def pretrained(seed: int, base: Path) -> Path:
    """The folder of the CLIP from which all arms of a seed go on."""
    data, splits = dataset(seed, None)
    run = cp.fit(
        data, "clip", out=str(base / f"pretrained-seed{seed}"), seed=seed, splits=splits, steps=PRETRAINING,
        batch_size=BATCH, encoders=ENCODERS, options={"dim": 64}, **QUIET,
    )  # fmt: skip
    return run.folder


@cache
def scores(method: str | None, seed: int, base: Path) -> dict[str, float]:
    """Of the pre-trained model tuned by a method; ``None``: as it is."""
    start = pretrained(seed, base)
    if method is None:
        return measured(cp.Run(start).model(), seed)
    data, splits = dataset(seed, KNOWN)
    run = cp.fit(
        data, method, out=str(base / f"{method}-seed{seed}"), seed=seed, splits=splits, steps=TUNING,
        batch_size=BATCH, encoder=str(start), options=OPTIONS[method], **QUIET,
    )  # fmt: skip
    return measured(run.model(), seed)


def measured(model: Any, seed: int) -> dict[str, float]:
    import torch

    rng = np.random.default_rng([seed, 99])

    def unit(**inputs: Any) -> np.ndarray:
        with torch.inference_mode():
            ((_, z),) = model.embed(inputs).items()
        return torch.nn.functional.normalize(z.float(), dim=1).numpy()

    def seen(images: np.ndarray) -> np.ndarray:
        return unit(image=torch.from_numpy(images[:, None]))

    images, which = drawn(TESTED, rng, True, True)
    found = (seen(images) @ unit(text=[caption(d, d) for d in range(10)]).T).argmax(1)
    general = float((found == which[:, 0]).mean())
    images, which = drawn(TESTED, rng, True, False)
    vectors = seen(images)
    true, swapped, flipped = (
        (vectors * unit(text=texts)).sum(1)
        for texts in (
            [caption(a, b) for a, b in which],
            [caption(b, a) for a, b in which],
            [caption(a, b, "right") for a, b in which],
        )
    )
    swap, relation = (float((true > foil).mean() + (true == foil).mean() / 2) for foil in (swapped, flipped))
    return {"general": general, "swap": swap, "relation": relation, "composition": (swap + relation) / 2}


def arm(method: str | None, seed: int, folder: Path) -> dict[str, float]:
    """One arm; a run that several settings ask for is trained once, as long as one process does it all."""
    return scores(method, seed, folder.parents[1] / f"process-{os.getpid()}")


def degla(seed: int, folder: Path) -> dict[str, float]:
    """The method."""
    return arm("degla", seed, folder)


def negclip(seed: int, folder: Path) -> dict[str, float]:
    """CLIP with the same hard negatives, without local contrasts and distillation."""
    return arm("negclip", seed, folder)


def clip(seed: int, folder: Path) -> dict[str, float]:
    """CLIP on the same true captions, without hard negatives."""
    return arm("clip", seed, folder)


def untuned(seed: int, folder: Path) -> dict[str, float]:
    """The pre-trained model as it is."""
    return arm(None, seed, folder)


def setting(name: str, metric: str, method: Any, baseline: Any, at_least: float, notes: str) -> Setting:
    return Setting(
        name=name,
        data="digits",
        metric=metric,
        arms={"method": method, "baseline": baseline},
        at_least=at_least,
        seeds=SEEDS,
        notes=f"{notes} Both go on from the same pre-trained model of the seed.",
    )


CLAIM = Claim(
    paper=46,
    name="degla",
    title="distillation keeps general knowledge while hard negatives teach composition",
    statement=(
        "Tuned on captions with hard negatives, DeGLA keeps more of what the pre-trained model knew than the same "
        "negatives without distillation, and reads composition no worse; the gain in composition is large beside what "
        "it costs in general accuracy."
    ),
    source="Hu et al. 2025: the tables of zero-shot classification on 11 sets, and of SugarCrepe and ARO",
    settings=[
        setting("retention", "general", degla, negclip, 0.03, "Digits 0 to 9 after tuning on 0 to 4; by 3 points."),
        setting("composition", "composition", degla, negclip, -0.02, "Swap and relation; no worse by 2 points."),
        setting("gain", "composition", degla, untuned, 0.1, "Against the model before tuning; by 10 points."),
        setting("cost", "general", degla, untuned, -0.05, "Against the model before tuning; at most 5 points lost."),
        setting("negatives", "composition", negclip, clip, 0.0, "What hard negatives add to the same captions."),
    ],
)
