"""cMIM: telling codes from each other helps them, at any batch size; and the decoder knows more than the code.

Three statements of the paper, on scikit-learn's digits, in small networks: an MLP of 128 units, a code of 8 numbers, a
decoder of 128 and 128, so that a code cannot hold everything and few labels are not enough. All arms see the same items
in the same order for 600 steps, with AdamW at its usual rate; nothing was tuned. Temperature 0.1 and the clamp of the
posterior's scale at exp(-6) are KERMT's.

*Contrast.* cMIM against A-MIM, which is the same loss without the contrastive term; scored is the mean of the code, by
a linear classifier on 5 labels a class; and the reconstruction of the test items, which must not be worse by more than
0.8 nats, 5 percent of the 16 that an auto-encoder of such a size reaches.

*Batch size.* Batches of 16, 64 and 256; the score is the range of three accuracies of one seed, so small is good. The
baseline is the same model whose contrastive term is InfoNCE: NT-Xent between samples of two codes, of an item and of an
augmented view of it, which sums over negatives. A second setting changes the mean over negatives to a sum and nothing
else. Ranges of single seeds are wider than that of means over seeds, for both arms alike.

*Decoder.* The informative embedding of a trained model against the mean of its code, for cMIM and for a plain VAE.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from counterpoint.evaluation import Embeddings, Evaluation, evaluate
from counterpoint.experiments.claims import Claim, Setting
from counterpoint.experiments.fit import fit
from counterpoint.methods.generative.mim import MIM
from counterpoint.objectives import NTXent

if TYPE_CHECKING:
    from counterpoint.experiments import Run

STEPS, BATCHES = 600, (16, 64, 256)
ENCODER = {"encoder": "mlp", "encoder_options": {"widths": [128]}}
CODE = {"latent_dim": 8, "widths": [128, 128]}
SHARED = {**ENCODER, "steps": STEPS, "batch_size": 64, "options": CODE}
WARP = {"Affine": {"degrees": 15.0, "translate": [0.1, 0.1], "scale": [0.9, 1.3], "shear": 10.0}}
NOISE = {"GaussianNoise": {"std": 0.05}}
PLAIN_AND_AUGMENTED = [[], [WARP, NOISE]]  # an item as it is, and as the house sees digits


class InfoNCEMIM(MIM):
    """A-MIM of the first view with NT-Xent between the codes of two: the second only serves as the positive."""

    def loss(self, views: Sequence[Tensor], batch: dict[str, Any]) -> Tensor:
        posterior = self.encode(views[0])
        z = posterior.sample()
        found: Tensor = self.criterion(self.log_likelihood(z, views[0]), z, *posterior)
        return found + NTXent(0.1)(z, self.encode(views[1]).sample())


def embedded(run: Run, embed: Callable[[Tensor], Tensor]) -> Evaluation:
    """Linear classifiers with all labels and with five a class on what ``embed`` makes of the items of a run."""
    from counterpoint.data import Splits, load

    splits, dataset = Splits.load(run.folder / "splits.npz"), load("digits")
    assert dataset.labels is not None
    with torch.no_grad():
        sets = [
            Embeddings(embed(dataset[at]["image"]).numpy(), dataset.labels[at])
            for at in (splits.train, splits.val, splits.test)
        ]
    return evaluate(*sets, seed=run.config["seed"], metrics=("probe", "probe_5"))


def code(run: Run) -> Evaluation:
    """The mean of the code."""
    return embedded(run, run.model().project)


def decoder_states(run: Run) -> Evaluation:
    """The informative embedding of the very model of whose code the other arm is scored."""
    from counterpoint.encoders import InformativeEncoder

    return embedded(run, InformativeEncoder(run.model()))


def reconstruction(run: Run) -> Evaluation:
    """Minus log-likelihood of the test items under the decoder of the mean of their codes, in nats."""
    from counterpoint.data import Splits, load

    model, x = run.model(), load("digits")[Splits.load(run.folder / "splits.npz").test]["image"]
    with torch.no_grad():
        nll = -model.log_likelihood(model.encode(x).mean, x).flatten(1).sum(1)
    return Evaluation({"nll": float(nll.mean())}, {"nll": nll.numpy().astype(np.float32)})


def spread(method: Any, views: Any, options: dict[str, Any], seed: int, folder: Path) -> dict[str, float]:
    """Range of an accuracy over the batch sizes, at as many steps of each."""
    found = {}
    for size in BATCHES:
        run = fit(
            "digits", method, out=str(folder / f"batch{size}"), seed=seed, views=views, threads=1, resume=True,
            progress=False, report=False, monitor=0, evaluate=False,
            **{**SHARED, "batch_size": size, "options": {**CODE, **options}},
        )  # fmt: skip
        model = run.model(None if isinstance(method, str) else method)
        found[size] = embedded(run, model.project).scores["probe_5"]
    return {
        "range": max(found.values()) - min(found.values()),
        "mean": sum(found.values()) / len(found),
        **{f"probe_5_batch_{size}": score for size, score in found.items()},
    }


def cmim_over_batches(seed: int, folder: Path) -> dict[str, float]:
    """cMIM, whose only view is the item."""
    return spread("cmim", "auto", {}, seed, folder)


def info_nce_over_batches(seed: int, folder: Path) -> dict[str, float]:
    """A-MIM with InfoNCE and augmented positives."""
    return spread(InfoNCEMIM, PLAIN_AND_AUGMENTED, {}, seed, folder)


def sum_over_batches(seed: int, folder: Path) -> dict[str, float]:
    """cMIM with a sum over the negatives."""
    return spread("cmim", "auto", {"negatives": "sum"}, seed, folder)


def over_the_code(method: str) -> Setting:
    """The decoder's states against the mean of the code; both arms train the same model from the same seed."""
    return Setting(
        name=f"decoder-{method}",
        data="digits",
        metric="probe",
        arms={"method": {"score": decoder_states}, "baseline": {"score": code}},
        shared={**SHARED, "method": method},
        differs=("score",),
        notes="One and the same model twice, by its decoder's last hidden layer, 128 numbers, and by the mean of its "
        "code, 8 numbers; the wider one may do better for being wider",
    )


CONTRAST = {
    "data": "digits",
    "arms": {"method": {"method": "cmim"}, "baseline": {"method": "mim"}},
    "notes": "The arms differ in the contrastive term alone",
}
OVER_BATCHES = {"data": "digits", "metric": "range", "higher_is_better": False}

CLAIM = Claim(
    paper=38,
    name="cmim",
    title="telling codes apart helps them, at any batch size, and the decoder knows more than the code",
    statement=(
        "The contrastive term makes the codes of a mutual information machine better at equal reconstruction; averaging"
        " negatives makes the result insensitive to the batch size, where InfoNCE is not; and the hidden states of the "
        "decoder are a better embedding than the code."
    ),
    source="Livne 2025, abstract; the experiments are ours, since the paper's tables could not be read",
    settings=[
        Setting(name="contrast", metric="probe_5", shared={**SHARED, "score": code}, **CONTRAST),
        Setting(
            name="equal-reconstruction",
            metric="nll",
            shared={**SHARED, "score": reconstruction},
            higher_is_better=False,
            at_least=-0.8,
            **CONTRAST,
        ),
        Setting(
            name="batch-size",
            arms={"method": cmim_over_batches, "baseline": info_nce_over_batches},
            notes="600 steps at each of three batch sizes. Range of the accuracy with 5 labels a class; InfoNCE's "
            "model sees an augmented view of each item besides, as InfoNCE must",
            **OVER_BATCHES,
        ),
        Setting(
            name="mean-or-sum",
            seeds=(0, 1, 2),
            arms={"method": cmim_over_batches, "baseline": sum_over_batches},
            notes="As batch-size, but the arms differ in the mean or sum over negatives alone",
            **OVER_BATCHES,
        ),
        over_the_code("cmim"),
        over_the_code("vae"),
    ],
)
