"""Go on from a trained encoder with labels: from a run to a run with a classifier."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

from counterpoint.experiments.fit import fit, word
from counterpoint.experiments.run import Run

_ITS_DATA = ("labels", "image", "features", "root", "download", "limit", "max_corrupt")


def finetune(
    run: str,
    data: Any = None,
    *,
    method: str = "core_tuning",
    epochs: int = 100,
    lr: float = 1e-2,
    encoder_lr: float | None = 1e-3,
    freeze: int = 0,
    labels_per_class: int | None = None,
    out: str | None = None,
    seed: int = 0,
    **settings: Any,
) -> Run:
    """Train an encoder that is already trained, and a classifier on it, with the labels of your data.

    It is ``fit`` with ``encoder=run``: the encoder goes on from the weights it has, the classifier starts anew, and the
    run folder that comes of it has a ``classifier/`` and the score ``accuracy`` besides what every run has. Images are
    brought to the size and the channels that the encoder takes.

    Args:
        run: folder of a finished run, or of an encoder that ``export`` wrote.
        data: as for fit; default the data of ``run``, read as it read them and split as it split them, so that no test
            item has been trained on.
        method: core_tuning, finetune_ce (cross entropy), finetune_supcon (cross entropy and SupCon), linear_probe (the
            classifier alone), or any other of fit's.
        epochs: passes over the labelled training items; 100, as in Core-tuning.
        lr: peak learning rate of what starts anew, the classifier and the contrast head. 1e-2, ten times the encoder's:
            at 1e-3 a classifier on 100 labelled digits had not come far enough in 100 steps.
        encoder_lr: of the encoder; 1e-3, that of ``fit``.
        freeze: stages of the encoder, from the first, that stay as they are.
        labels_per_class: hide all training labels but so many per class.
        out: run folder; default ``runs/<data>-<method>-from-<run>-seed<seed>``.
        seed: of the classifier's weights, the order, the views and the choice of labels.
        settings: of fit.

    Returns:
        the :class:`~counterpoint.experiments.run.Run`; ``run.classifier()`` names the classes of new items.

    Raises:
        ValueError: the run is not finished, data of another kind than the encoder takes, no labels, or an argument that
            cannot be used.
        FileNotFoundError: no run and no encoder in ``run``, or an encoder alone and no ``data``.
    """
    settings = dict(settings)
    if data is None:
        data = _data_of(run, settings)
    name = method if isinstance(method, str) else method.__name__
    return fit(
        data,
        method,
        encoder=os.fspath(run) if os.sep in os.fspath(run) else os.path.join(".", run),
        out=out or f"runs/{word(data)}-{name}-from-{Path(run).resolve().name}-seed{seed}",
        epochs=epochs,
        lr=lr,
        encoder_lr=encoder_lr,
        freeze=freeze,
        labels_per_class=labels_per_class,
        seed=seed,
        **settings,
    )


def _data_of(run: str, settings: dict[str, Any]) -> str:
    """The data of a run, with how it read and split them put into ``settings`` where these do not say."""
    if not (Path(run) / "config.yaml").exists():
        raise FileNotFoundError(f"data: {run} is no run that says what it was trained on; name the data")
    config = Run(run).config
    if str(config["data"]).startswith("<"):
        raise ValueError(f"data: {run} was trained on an {config['data'].strip('<>')}; give it again")
    for name in _ITS_DATA:
        default = inspect.signature(fit).parameters[name].default  # which the command line gives where nothing is said
        if name in config and settings.get(name, default) == default:
            settings[name] = config[name]
    if settings.get("splits") is None:
        settings["splits"] = os.fspath(Path(run) / "splits.npz")
    return str(config["data"])
