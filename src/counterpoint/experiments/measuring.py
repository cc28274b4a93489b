"""Scores of a trained method, and the embeddings that the report shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterpoint.experiments.run import write_arrays

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from counterpoint.data import Dataset, Splits
    from counterpoint.methods import Method


def embed_items(module: Any, dataset: Dataset, indices: np.ndarray, batch: int = 512) -> tuple[Tensor, Tensor]:
    """Features (N, F) and projections (N, D) of items as they are, without augmentation, in evaluation mode."""
    import torch

    training, features, projections = module.training, [], []
    module.eval()
    with torch.inference_mode():
        for start in range(0, len(indices), batch):
            x = dataset[indices[start : start + batch]][dataset.modality].to(module.device)
            h = module.encoder(x.float() / 255 if x.dtype == torch.uint8 else x)
            features.append(h.float().cpu())
            projections.append(module.projector(h).float().cpu())
    module.train(training)
    return torch.cat(features), torch.cat(projections)


def evaluate_encoder(
    method: Method,
    dataset: Dataset,
    splits: Splits,
    folder: Path,
    seed: int,
    layer: str = "features",
    metrics: list[str] | None = None,
) -> Any:
    """Score a layer of the frozen model, features or projection; keep the test part's embeddings for the report."""
    import torch

    from counterpoint.evaluation import Embeddings, evaluate

    labels, targets = dataset.labels, dataset.targets
    sets, kept = {}, {}
    for part in ("train", "val", "test"):
        indices = getattr(splits, part)
        features, projections = embed_items(method, dataset, indices)
        scored = features if layer == "features" else projections
        aims = None if targets is None else targets[indices]
        sets[part] = Embeddings(scored.numpy(), None if labels is None else labels[indices], targets=aims)
        kept = {"features": features.numpy(), "projections": projections.numpy(), "index": indices}
    if labels is not None:
        kept["labels"] = labels[splits.test]
    if targets is not None:
        kept["targets"] = targets[splits.test]
    write_arrays(folder / "embeddings.npz", **kept)
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)
        x = dataset[splits.test[:2048]][dataset.modality].to(method.device)
        assert method.views is not None
        look: Any = method.eval().encoder if layer == "features" else method.eval().project
        pairs: Any = tuple(look(view).float().cpu().numpy() for view in list(method.views(x))[:2])
    pairs = pairs if len(pairs) == 2 else None  # of one view there is nothing to compare
    return evaluate(sets["train"], sets["val"], sets["test"], seed=seed, pairs=pairs, metrics=metrics)
