"""The work behind :func:`~counterpoint.experiments.explain.explain`: what is looked at, and the sweep."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.evaluation.microscope import NotOfPairs, Pairs, gradient_split, pair_weights
from counterpoint.experiments.losses import Call, Chosen, call

_BINS = 30  # of similarity
_FEWEST = 8  # pairs of a bin whose mean is shown
_ITEMS = 256  # so many items are looked at, in batches of whatever size
_CLASSES = 10
_SPLIT = 4  # batches whose gradients are split
_VALUES = 512  # anchors whose multipliers are kept


@dataclass(frozen=True)
class Cloud:
    """Views (V, N, D) of items on the unit sphere, their labels (N,), and in words what they are."""

    z: Tensor
    labels: Tensor | None
    told: str


def clusters(items: int, views: int, dim: int, noise: float, seed: int) -> Cloud:
    """Ten clusters on the unit sphere, float64: some items near the middle of theirs, some far; some with close views,
    some with views apart. So there are positives and negatives of all similarities."""
    draw = torch.Generator().manual_seed(seed)

    def points(*shape: int) -> Tensor:
        return nn.functional.normalize(torch.randn(*shape, dim, generator=draw, dtype=torch.float64), dim=-1)

    def even(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, items, 1, generator=draw, dtype=torch.float64)

    labels = torch.randint(_CLASSES, (items,), generator=draw)
    near = even(0.2, 0.9)
    centre = points(_CLASSES)[labels]
    base = nn.functional.normalize(near.sqrt() * centre + (1 - near).sqrt() * points(items), dim=-1)
    apart = even(0.1, 1.9, views) * noise
    z = nn.functional.normalize(base + apart * points(views, items), dim=-1)
    return Cloud(z, labels, f"{_CLASSES} clusters on the unit sphere in {dim} dimensions")


def of_run(folder: str, items: int, views: int, root: str | None, seed: int) -> Cloud:
    """Projections of views of test items, drawn at random, by the model of a finished run.

    Raises:
        FileNotFoundError: no finished run there, or its data are gone.
        ValueError: too few test items.
    """
    import numpy as np

    from counterpoint.data import MultimodalDataset
    from counterpoint.experiments.reports import _reopen
    from counterpoint.experiments.run import Run

    run = Run(folder)
    model = run.model()
    dataset, pipeline = _reopen(run.config | ({} if root is None else {"root": root}))
    with np.load(run.folder / "splits.npz", allow_pickle=False) as file:
        test = file["test"]
    test = np.sort(np.random.default_rng(seed).permutation(test)[:items])
    if len(test) < 4:
        raise ValueError(f"run: {folder} has {len(test)} test items, which is too few to look at")
    made: list[Tensor] = []
    if isinstance(dataset, MultimodalDataset):  # its modalities are the views
        whole = test[np.logical_and.reduce([dataset.present(name)[test] for name in dataset.kinds])]
        if len(whole) < 4:
            raise ValueError(f"run: {folder} has {len(whole)} test items with all modalities, too few to look at")
        with torch.inference_mode():
            made = list(model.encoder(dataset[whole]).values())
        test, views = whole, len(made)
    x = None if made else dataset[test][dataset.modality]
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)
        while len(made) < views:
            made += [model.project(view) for view in pipeline(x)]
    z = nn.functional.normalize(torch.stack([view.double() for view in made[:views]]), dim=-1).clone()
    labels = None if dataset.labels is None else torch.from_numpy(dataset.labels[test])
    return Cloud(z, labels, f"{len(test)} test items of {dataset.name} as {run.config['method']} projects them")


def measure(losses: Sequence[Chosen], cloud: Cloud, sweep: dict[str, list[Any]], labels: bool) -> dict[str, Any]:
    """What :class:`~counterpoint.experiments.explain.Explanation` holds."""
    items = cloud.z.shape[1]
    if max(sweep["batch_size"]) > items - 2:  # at least two are left for a bank
        raise ValueError(
            f"batch_sizes: {max(sweep['batch_size'])} is too large for {items} items; take at most {items - 2}"
        )
    middle = {name: values[len(values) // 2] for name, values in sweep.items()}
    base = {**middle, "views": sweep["views"][0]}
    found = [_explained(loss, cloud, sweep, base, labels) for loss in losses]
    shares = {one["name"]: one.pop("shares") for one in found}
    return {
        "data": cloud.told,
        "items": items,
        "base": base,
        "sweep": sweep,
        "losses": found,
        "moved": _moved(shares),
    }


def _explained(
    loss: Chosen, cloud: Cloud, sweep: dict[str, list[Any]], base: dict[str, Any], labels: bool
) -> dict[str, Any]:
    """One loss at the common setting and along each axis of the sweep."""
    seen: dict[tuple[Any, ...], Any] = {}

    def look(**changed: Any) -> dict[str, Any]:
        at = {**base, **changed}
        key = (at["temperature"] if loss.has_temperature else None, at["batch_size"], at["views"])
        if key not in seen:
            seen[key] = _looked(loss, cloud, at, labels)
        found: dict[str, Any] = seen[key][0]
        return found

    one: dict[str, Any] = {"name": loss.name, "objective": loss.kind.__name__, "options": loss.options}
    one |= {"why": None, "shares": None, "conditional": None}
    one["split"] = _split(_calls(loss, cloud, {**base, "batch_size": sweep["batch_size"][0]}, labels))
    try:
        one["base"] = look()
        for axis, values in sweep.items():
            given = loss.has_temperature or axis != "temperature"
            one[axis] = {f"{v:g}": _without_values(look(**{axis: v})) for v in values} if given else {}
        one["shares"] = next(iter(seen.values()))[1]
        one["conditional"] = _conditional(loss, cloud, base, max(sweep["views"]))
    except NotOfPairs:
        one |= {"base": None, **{axis: {} for axis in sweep}}
        one["why"] = (
            "its gradient is no sum over pairs: it depends on the dimensions of the embeddings and not on their "
            "similarities alone"
        )
    return one


def _without_values(look: dict[str, Any]) -> dict[str, Any]:
    return {name: found for name, found in look.items() if name != "multipliers"}


def _calls(loss: Chosen, cloud: Cloud, at: dict[str, Any], labels: bool) -> list[tuple[nn.Module, Call]]:
    """The loss at several batches, so that small ones are as well known as large ones."""
    batch, total = at["batch_size"], cloud.z.shape[1]
    beyond = min(at["views"] * (batch - 1), total - batch)  # a bank as long as an anchor's negatives in the batch
    calls = []
    for start in range(0, max(1, min(_ITEMS, total - batch + 1)), batch):
        rows = (start + torch.arange(batch + beyond)) % total
        z = cloud.z[: at["views"], rows[:batch]]
        given = cloud.labels[rows[:batch]] if labels and cloud.labels is not None else None
        objective = loss.make(at["temperature"], batch)
        calls.append((objective, call(objective, z, cloud.z[0, rows[batch:]], given)))
    return calls


def _looked(loss: Chosen, cloud: Cloud, at: dict[str, Any], labels: bool) -> tuple[dict[str, Any], Any]:
    """What a loss does at a setting, and, in the first batch, how it shares its push among which rows."""
    calls = _calls(loss, cloud, at, labels)
    found = [pair_weights(c.function, *c.inputs, groups=c.groups, anchors=c.anchors) for _, c in calls]
    objective, made = calls[0]
    unit, pairs = _unit(objective, made.anchors is None), found[0]
    return _summary(found, unit), (pairs.shares if len(pairs.anchors) == len(pairs.groups) else None)


def _unit(objective: nn.Module, both: bool) -> float | None:
    """The full pull of a positive: that of a softmax whose positive is hard beyond measure, ``1 / temperature``.

    Where rows are anchors and keys at once, each is pulled by its own term and by its positive's. A loss whose logits
    are not similarities over a temperature has none: ``None``.
    """
    if type(objective).__name__.startswith("CACR"):  # whose costs are distances
        return None
    for holder in (objective, getattr(objective, "loss", None)):
        temperature = getattr(holder, "temperature", None)
        if isinstance(temperature, int | float):
            return (2 if both else 1) / temperature
    return None


def _summary(found: Sequence[Pairs], full: float | None) -> dict[str, Any]:
    """Means over the anchors of several batches, and curves; the unit of pulls is the full one or the strongest."""

    def mean(values: Iterable[Tensor]) -> float:
        return float(torch.cat(list(values)).nanmean())

    pull = torch.cat([p.pull for p in found])
    unit = float(pull.max()) if full is None else full
    multipliers = pull / unit if unit > 0 else torch.full_like(pull, torch.nan)
    negatives = [_points(p, p.negative, unit, 1) for p in found]
    positives = [_points(p, p.positive, unit, -1) for p in found]
    rounding = 1e-9 * max(float(p.forces.abs().max()) for p in found)
    drawn = sum(int(((p.forces < -rounding) & p.negative).sum()) for p in found)
    return {
        "loss": sum(p.loss for p in found) / len(found),
        "rows": len(found[0].groups),
        "negatives": mean(p.negative.double().sum(1) for p in found),
        "effective": mean(p.effective_negatives for p in found),
        "hardest_1": mean(p.hardest(0.01) for p in found),
        "hardest_10": mean(p.hardest(0.1) for p in found),
        "attracted": drawn / max(1, sum(int(p.negative.sum()) for p in found)),
        "pull": float(pull.mean()),
        "push": mean(p.push for p in found),
        "full": full,
        "multiplier": float(multipliers.nanmean()),
        "multiplier_least": float(multipliers[~multipliers.isnan()].min()) if unit > 0 else torch.nan,
        "multipliers": multipliers[:: -(-len(multipliers) // _VALUES)].tolist(),
        "gradient": mean(p.size for p in found),
        "direction": mean(p.direction for p in found),
        "residual": max(p.residual for p in found),
        "negative_curve": _curve(negatives),
        "positive_curve": _curve(positives),
    }


def _points(pairs: Pairs, mask: Tensor, unit: float, sign: int) -> tuple[Tensor, Tensor]:
    """Similarity of each pair of a kind, and its weight; 1 is the full pull of an anchor spread evenly over them."""
    weight = sign * pairs.forces * mask.sum(1, keepdim=True) / (unit if unit > 0 else 1.0)
    return pairs.similarity[pairs.anchors][mask], weight[mask]


def _curve(points: Sequence[tuple[Tensor, Tensor]]) -> dict[str, list[float]]:
    """Mean weight of the pairs in each bin of similarity."""
    s, w = (torch.cat(part) for part in zip(*points, strict=True))
    if not len(s):
        return {"x": [], "y": [], "count": []}
    low, high = s.aminmax()
    at = ((s - low) / (high - low).clamp(min=1e-12) * _BINS).long().clamp(max=_BINS - 1)
    count = torch.bincount(at, minlength=_BINS)
    kept = count >= _FEWEST
    x, y = (torch.zeros(_BINS, dtype=s.dtype).index_add(0, at, v)[kept] / count[kept] for v in (s, w))
    return {"x": x.tolist(), "y": y.tolist(), "count": count[kept].tolist()}


def _split(calls: Sequence[tuple[nn.Module, Call]]) -> dict[str, Any]:
    """Where the gradient points, in some batches; ``nowhere`` is ``None`` where their rows span all dimensions."""
    made = calls[0][1]
    found = [gradient_split(c.function, *c.inputs, groups=c.groups, anchors=c.anchors) for _, c in calls[:_SPLIT]]
    split: dict[str, Any] = {name: sum(one[name] for one in found) / len(found) for name in found[0]}
    rank = int(torch.linalg.matrix_rank(torch.cat([x.reshape(-1, x.shape[-1]) for x in made.inputs])))
    return {**split, "nowhere": split["nowhere"] if rank < made.inputs[0].shape[-1] else None}


def _moved(shares: dict[str, Any]) -> dict[str, float]:
    """How much of the push of each loss would have to go to other negatives to be shared as the first one shares it."""
    known = {name: share for name, share in shares.items() if share is not None and float(share.sum()) > 0}
    first = next(iter(known.values()), None)
    return {name: float((share - first).abs().sum(1).mean() / 2) for name, share in known.items()}


def _conditional(loss: Chosen, cloud: Cloud, base: dict[str, Any], views: int) -> dict[str, Any] | None:
    """CACR's two groups of weights by similarity: of the positives of ``views`` views, each as far from the mean of its
    anchor's, and of the negatives; 1 is the mean of a group."""
    objective: Any = loss.make(base["temperature"], base["batch_size"])
    if not hasattr(objective, "conditional_weights") or list(inspect.signature(objective.forward).parameters) != ["z"]:
        return None
    z = cloud.z[:views, : base["batch_size"]]
    with torch.no_grad():
        attraction, repulsion = objective.conditional_weights(z)
    between = torch.einsum("aid,bid->abi", z, z)
    own = torch.eye(views, dtype=torch.bool)[..., None]
    between = between - between.masked_fill(own, 0.0).sum(1, keepdim=True) / (views - 1)
    others = ~own[..., 0]
    scores = torch.stack([z[a] @ z[b].T for a, b in combinations(range(views), 2)])
    apart = ~torch.eye(z.shape[1], dtype=torch.bool).expand_as(scores)
    return {
        "views": views,
        "attraction": _curve([(between[others].flatten(), attraction[others].flatten() * (views - 1))]),
        "repulsion": _curve([(scores[apart], repulsion[apart] * (z.shape[1] - 1))]),
    }
