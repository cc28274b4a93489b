"""New data to class names, with the classifier of a run."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from counterpoint.experiments.run import Run
from counterpoint.files import atomic


def classify(
    data: Any,
    run: str,
    out: str = "predictions.csv",
    *,
    probabilities: bool = False,
    batch_size: int = 512,
    device: str = "auto",
    labels: str | None = None,
    image: str | None = None,
    text: str | None = None,
    audio: str | None = None,
    signal: str | None = None,
    features: list[str] | None = None,
    modalities: dict[str, Any] | None = None,
    root: str | None = None,
    download: bool = False,
    limit: int | None = None,
    max_corrupt: float = 0.01,
    overwrite: bool = False,
) -> Path:
    """Name the class of each item with the classifier of a run, fine-tuned or of several modalities, as CSV.

    A line an item: id, label (where the data have one), prediction, probability of the prediction. The probabilities
    are the classifier's softmax; nothing was done to calibrate them. A classifier names one of the classes it was
    trained on whatever it is shown.

    Args:
        data: what ``fit`` takes; images are brought to the size and the channels that the encoder takes.
        run: folder of a run whose method trains a classifier.
        out: CSV file to write.
        probabilities: add a column for the probability of each class.
        batch_size: items that go through the encoder at a time.
        device: auto (a GPU where there is one), cpu, cuda, ...: torch's.
        labels: column, key or file of the labels where the data do not say.
        image: column of images in a table.
        text, audio, signal: columns of a table, for a classifier of several modalities.
        features: columns of numbers in a table.
        modalities: more columns, as for fit. Of several modalities some columns may be named and others not, which are
            then missing in all items; where none is named, they are those of the run.
        root: where a data set named by a word lies on this machine.
        download: allow fetching the data from the hub.
        limit: use at most so many items, drawn evenly.
        max_corrupt: share of unreadable images that is tolerated.
        overwrite: replace ``out``.

    Returns:
        ``out``. It appears when it is whole.

    Raises:
        FileExistsError: ``out`` exists and ``overwrite`` is False.
        FileNotFoundError: no such data, or no classifier in ``run``.
        ValueError: data that the encoder does not take.
    """
    from lightning.fabric.utilities.apply_func import move_data_to_device

    from counterpoint.encoders import MultimodalClassifier, load_classifier
    from counterpoint.experiments.preparing import load_for_towers
    from counterpoint.search.embedding import dataset_for, device_of, item_of

    target = Path(out)
    if target.exists() and not overwrite:
        raise FileExistsError(f"out: {target} exists already; replace it with overwrite, or name another")
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    opened = Run(run) if (Path(run) / "config.yaml").exists() else None
    classifier = (opened.classifier() if opened else load_classifier(run)).to(device_of(device))
    how: dict[str, Any] = {
        "labels": labels, "image": image, "features": features, "root": root, "download": download, "limit": limit,
        "max_corrupt": max_corrupt,
    }  # fmt: skip
    columns: dict[str, Any] = {"text": text, "audio": audio, "signal": signal, "modalities": modalities}
    several = isinstance(classifier, MultimodalClassifier)
    if several:
        assert opened is not None
        named = {**columns, "image": image, "features": features}
        if not any(named.values()):
            columns = {name: opened.config.get(name) for name in named}
        dataset = load_for_towers(classifier.encoder, data, {**how, **columns}, whole=False)
    else:
        dataset = dataset_for(classifier.encoder, data, **how, **columns)
    with atomic(target, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "label", "prediction", "probability", *(classifier.classes if probabilities else ())])
        for start in range(0, len(dataset), batch_size):
            items = range(start, min(start + batch_size, len(dataset)))
            batch = move_data_to_device(dataset[list(items)], device_of(device))
            found = classifier.predict(batch if several else batch[dataset.modality], batch_size)
            for i, name, row in zip(items, found.names, found.probabilities.tolist(), strict=True):
                item = item_of(dataset, i)
                every = [f"{p:.6f}" for p in row] if probabilities else []
                writer.writerow([item.id, "" if item.label is None else item.label, name, f"{max(row):.6f}", *every])
    return target
