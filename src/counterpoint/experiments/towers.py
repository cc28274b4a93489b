"""Several modalities in a fit: their encoders, their scores, and what the monitor looks at."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from counterpoint.experiments.run import write_arrays

if TYPE_CHECKING:
    from counterpoint.data import MultimodalDataset, Splits
    from counterpoint.encoders import MultimodalEncoder
    from counterpoint.evaluation import Evaluation, SharedSpace
    from counterpoint.findings import Finding

_STATISTICS_ITEMS = 10_000
_TEXTS = 200_000  # that a vocabulary is learned from
DEFAULTS = {
    "image": "convnet",
    "text": "transformer",
    "audio": "logmel",
    "signal": "signalnet",
    "vector": "mlp",
    "video": "convnet",
}
PROMPTS = ("{}",)
_UNKNOWN = 0.01  # share of unknown tokens from which it is worth a note


def make_towers(dataset: MultimodalDataset, train: np.ndarray, encoders: Mapping[str, Any] | None) -> MultimodalEncoder:
    """A tower for each modality of the data.

    Args:
        dataset: gives kinds, shapes, and what is standardised by or what a vocabulary is learned from.
        train: positions of the training items.
        encoders: by modality, a name, the folder of a trained encoder, or ``{"name": ..., "freeze": true, ...}`` with
            arguments of the encoder; ``"freeze": 2`` keeps its first two stages.

    Raises:
        ValueError: a name that is no modality, or an encoder that does not take it.
    """
    from counterpoint.encoders import MultimodalEncoder

    for name in encoders or {}:
        if name not in dataset.kinds:
            raise ValueError(f"encoders: there is no modality {name!r}; there are {', '.join(dataset.kinds)}")
    made, frozen = {}, {}
    for name, kind in dataset.kinds.items():
        options = dict(_options((encoders or {}).get(name, DEFAULTS[kind])))
        frozen[name] = options.pop("freeze", False)
        made[name] = _encoder(dataset, train, name, kind, options)
    encoder = MultimodalEncoder(made)
    for name, how in frozen.items():
        if how is not False:
            encoder.towers[name].freeze(stages=None if how is True else how)
    return encoder


def _options(value: Any) -> dict[str, Any]:
    if isinstance(value, str | os.PathLike):
        return {"name": os.fspath(value)}
    if isinstance(value, Mapping) and "name" in value:
        return dict(value)
    if isinstance(value, Mapping):
        return {"name": None, **value}
    raise ValueError(f"encoders: expected a name, a folder or a mapping with arguments, got {value!r}")


def _encoder(dataset: MultimodalDataset, train: np.ndarray, name: str, kind: str, options: dict[str, Any]) -> Any:
    import torch

    from counterpoint.data.multimodal import as_taken
    from counterpoint.encoders import build, build_text_encoder
    from counterpoint.experiments.preparing import trained_folder

    chosen = options.pop("name") or DEFAULTS[kind]
    is_model = chosen.startswith(("hf:", "timm:"))
    if not is_model and (start := trained_folder(chosen)) is not None:
        if options:
            raise ValueError(f"encoders: {chosen} is trained and takes no {', '.join(options)}")
        return _trained(start, name, kind, dataset)
    there = train[dataset.present(name)[train]]
    if not len(there):
        raise ValueError(f"modalities: {name!r} is missing in all {len(train)} training items")
    most = {"text": _TEXTS, "video": _STATISTICS_ITEMS // 10}.get(kind, _STATISTICS_ITEMS)
    some = np.sort(np.random.default_rng(0).permutation(there)[:most])
    values = dataset[some][name]
    if kind == "text":
        texts = [text for value in values for text in ([value] if isinstance(value, str) else value)]
        return build_text_encoder(chosen, texts, **options)
    if kind == "audio" and chosen == "logmel" and name in dataset.rates:
        options.setdefault("rate", dataset.rates[name])
    values = values.flatten(0, 1) if kind == "video" else values
    x = values.float() / 255 if values.dtype == torch.uint8 else values.float()
    std, mean = torch.std_mean(x, dim=(0, *range(2, x.ndim)))
    return build(
        chosen, as_taken(kind, dataset.shapes[name])[1], mean=mean, std=torch.nan_to_num(std, nan=1.0), **options
    )


def _trained(folder: Path, name: str, kind: str, dataset: MultimodalDataset) -> Any:
    from counterpoint.data.multimodal import as_taken
    from counterpoint.encoders import load

    encoder = load(folder)
    taken, shape = as_taken(kind, dataset.shapes[name])
    if encoder.modality == "multimodal":
        where = name if name in encoder.towers else encoder.named(taken)
        encoder = encoder.towers[where].encoder
    if encoder.modality != taken or (taken != "text" and tuple(encoder.shape) != shape):
        raise ValueError(
            f"encoders: the encoder in {folder} takes {encoder.modality}s of {encoder.shape}, and {name!r} holds "
            f"{kind}s of {dataset.shapes[name]}; bring them to its shape with image_size"
        )
    return encoder.train()


def check_towers(encoder: MultimodalEncoder, dataset: Any, whole: bool = True) -> None:
    """Whether trained towers, or some of them, take the modalities of the data; ``ValueError`` otherwise."""
    from counterpoint.data.multimodal import as_taken

    some = not whole and not set(dataset.kinds).isdisjoint(encoder.towers)
    for name, tower in encoder.towers.items():
        if name not in dataset.kinds:
            if some:
                continue
            raise ValueError(f"encoder: it has a tower {name!r}, and the data have only {', '.join(dataset.kinds)}")
        shape, taken = dataset.shapes[name], tower.encoder
        if (taken.modality, tuple(taken.shape)) != as_taken(dataset.kinds[name], shape):
            raise ValueError(f"encoder: its tower {name!r} takes {taken.shape}, and the data are {shape}")


def embed_modalities(method: Any, dataset: MultimodalDataset, indices: np.ndarray, batch: int = 512) -> Any:
    """Embeddings of items as they are, in evaluation mode: ``({name: (N, D)}, {name: bool (N,)}, fused or None)``.

    ``fused`` (N, F) is what a method makes of an item as a whole, where it has a method ``fused(batch, z)``.
    """
    import torch
    from lightning.fabric.utilities.apply_func import move_data_to_device

    training = method.training
    method.eval()
    vectors: dict[str, list[Any]] = {}
    present: dict[str, list[Any]] = {}
    whole: list[Any] = []
    with torch.inference_mode():
        for start in range(0, len(indices), batch):
            read = move_data_to_device(dataset[indices[start : start + batch]], method.device)
            z = method.embed({name: read[name] for name in method.names})
            for name, values in z.items():
                vectors.setdefault(name, []).append(values.float().cpu().numpy())
                present.setdefault(name, []).append(read["present"][name].cpu().numpy())
            if hasattr(method, "fused"):
                whole.append(method.fused(read, z).float().cpu().numpy())
    method.train(training)
    joined = [{name: np.concatenate(parts) for name, parts in of.items()} for of in (vectors, present)]
    return *joined, np.concatenate(whole) if whole else None


def evaluate_towers(
    method: Any,
    dataset: MultimodalDataset,
    splits: Splits,
    folder: Path,
    seed: int,
    prompts: Sequence[str] | None = None,
    metrics: list[str] | None = None,
) -> tuple[Evaluation, list[Finding]]:
    """Score the common space; keep the test part's embeddings for the report, and what they show as figures."""
    from counterpoint.evaluation import evaluate_modalities
    from counterpoint.experiments.calculating import with_arithmetic
    from counterpoint.experiments.composing import with_composition

    spaces, wholes = {}, []
    for part in ("train", "val", "test"):
        indices = getattr(splits, part)
        vectors, present, whole = embed_modalities(method, dataset, indices)
        spaces[part] = _space(dataset, indices, vectors, present)
        wholes.append(whole)
    fused = None if wholes[0] is None else wholes
    test, known = spaces["test"], spaces["test"].some()
    kept: dict[str, Any] = {"features": test.fused() if fused is None else fused[2], "index": splits.test}
    kept["projections"] = kept["features"]
    kept |= {f"modality/{name}": values for name, values in test.vectors.items()}
    kept |= {f"present/{name}": test.present[name] for name in test.vectors}
    if dataset.labels is not None:
        kept["labels"] = dataset.labels[splits.test]
    if dataset.targets is not None:
        kept["targets"] = dataset.targets[splits.test]
    write_arrays(folder / "embeddings.npz", **kept)
    evaluation = evaluate_modalities(
        spaces["train"], spaces["val"], test,
        classes=class_vectors(method, dataset, prompts), fused=fused, score=_score_of(method), seed=seed,
        metrics=metrics,
    )  # fmt: skip
    contrasts = getattr(method, "contrasts", True)
    if not contrasts:
        evaluation = _without_contrast(evaluation, metrics)
    if not known.all():
        evaluation.notes.append(f"{int((~known).sum())} of {len(known)} test items have no modality and do not count.")
    evaluation.notes.extend(_gaps(dataset))
    evaluation.notes.extend(_cut_texts(method, dataset, splits.test))
    if hasattr(method, "write"):
        from counterpoint.experiments.writing import with_captions

        evaluation = with_captions(evaluation, method, dataset, splits.test, seed, metrics)
    if hasattr(method, "answer_scores"):
        from counterpoint.experiments.writing import with_answers

        evaluation = with_answers(evaluation, method, dataset, splits.test, metrics)
    if not contrasts:
        return evaluation, []
    evaluation, tables = with_composition(evaluation, method, dataset, splits, metrics)
    evaluation, pictures = with_arithmetic(evaluation, method, dataset, splits.test, test, metrics)
    return evaluation, [*_figures(evaluation, spaces, seed, fused is None), *tables, *pictures]


def _without_contrast(evaluation: Evaluation, metrics: list[str] | None) -> Evaluation:
    """The scores of items as a whole: what stands between modalities was not trained, and single ones were not."""
    from counterpoint.evaluation import OF_MODALITIES, Evaluation, known_metrics

    def of_whole(name: str) -> bool:
        return ":" not in name and name not in OF_MODALITIES

    asked = known_metrics(metrics) if metrics is not None else set()
    notes = [f"{name}: left out, the method trains without contrast." for name in sorted(asked) if not of_whole(name)]
    scores = {name: value for name, value in evaluation.scores.items() if of_whole(name)}
    items = {name: values for name, values in evaluation.items.items() if of_whole(name)}
    return Evaluation(scores, items, evaluation.arrays, [*evaluation.notes, *notes])


def _score_of(method: Any) -> Any:
    """The method's scores of candidates of a modality given the others, for arrays."""
    import torch

    def score(candidates: np.ndarray, queries: Mapping[str, np.ndarray]) -> np.ndarray:
        def held(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(values).to(method.device, torch.float32)

        with torch.inference_mode():
            found = method.candidate_scores(held(candidates), {name: held(values) for name, values in queries.items()})
        return np.asarray(found.float().cpu())

    return score if hasattr(method, "candidate_scores") else None


def _space(
    dataset: MultimodalDataset, indices: np.ndarray, vectors: dict[str, np.ndarray], present: dict[str, np.ndarray]
) -> SharedSpace:
    from counterpoint.evaluation import SharedSpace

    contents = {}
    part = dataset.subset(indices)
    for name in vectors:
        if dataset.kinds[name] == "text":
            contents[name] = np.unique([text.strip().lower() for text in part.texts(name)], return_inverse=True)[1]
        elif dataset.kinds[name] == "vector":
            number = np.unique(part[np.arange(len(part))][name].numpy(), axis=0, return_inverse=True)[1].reshape(-1)
            if number.max(initial=0) + 1 < len(number):  # some are equal, such as codes of a few things
                contents[name] = number
    labels, targets = dataset.labels, dataset.targets
    return SharedSpace(
        vectors,
        present,
        None if labels is None else labels[indices],
        contents,
        None if targets is None else targets[indices],
    )


def class_vectors(
    method: Any, dataset: MultimodalDataset, prompts: Sequence[str] | None = None
) -> dict[str, np.ndarray] | None:
    """Vectors (K, D) of the classes in each modality of texts: the mean over sentences that name them.

    Args:
        method: embeds them.
        dataset: its classes have the names.
        prompts: sentences with ``{}`` where the name goes; by default the name alone.

    Raises:
        ValueError: a prompt without ``{}``.
    """
    texts = [name for name in method.names if dataset.kinds[name] == "text"]
    if not texts or not dataset.classes:
        return None
    return {name: sentence_vectors(method, name, dataset.classes, prompts) for name in texts}


def sentence_vectors(
    method: Any, name: str, classes: Sequence[Any], prompts: Sequence[str] | None = None
) -> np.ndarray:
    """Vectors (K, D) of classes in a modality of texts; see :func:`class_vectors`."""
    import torch

    chosen = prompts or PROMPTS
    for prompt in chosen:
        if "{}" not in prompt:
            raise ValueError(f"prompts: {prompt!r} has no {{}} where the name of the class goes")
    total = np.zeros(())
    for prompt in chosen:
        with torch.inference_mode():
            z = method.eval().embed({name: [prompt.replace("{}", str(word)) for word in classes]})[name]
        total = total + torch.nn.functional.normalize(z.float(), dim=1).cpu().numpy()
    return np.asarray(total / len(chosen))


def _gaps(dataset: MultimodalDataset) -> list[str]:
    """Sentences on what is missing, and on a modality that says nothing."""
    notes = []
    for name, kind in dataset.kinds.items():
        there = dataset.present(name)
        if not there.all():
            notes.append(f"{name}: missing in {int((~there).sum()):,} of {len(there):,} items.")
        some = np.flatnonzero(there)[:1000]
        values = dataset[some][name]
        same = len(set(values)) == 1 if kind == "text" else bool((values == values[:1]).all())
        if same and len(some) > 1:
            notes.append(f"{name}: the same in all items, so that nothing can be told by it.")
    return notes


def _cut_texts(method: Any, dataset: MultimodalDataset, test: np.ndarray) -> list[str]:
    """Sentences on what the tokenizers lose of test texts."""
    notes = []
    for name, tower in method.encoder.towers.items():
        if tower.kind == "text":
            texts = [text for text in dataset.subset(test[:_TEXTS]).texts(name) if text]
            cut, unknown = tower.encoder.tokenizer.losses(texts)
            if cut:
                length = tower.encoder.tokenizer.length
                notes.append(f"{name}: {cut} of {len(texts)} test texts are longer than {length} tokens and were cut.")
            if unknown > _UNKNOWN:
                notes.append(f"{name}: {unknown:.1%} of the tokens of test texts are not in the vocabulary.")
    return notes


def _figures(evaluation: Evaluation, spaces: dict[str, SharedSpace], seed: int, fuses: bool) -> list[Finding]:
    from counterpoint.evaluation import missing_curve
    from counterpoint.findings import Curves, Heatmap

    names = list(spaces["test"].vectors)
    found: list[Finding] = []
    if len(names) > 1:
        values = [[evaluation.scores.get(f"pair_recall@1:{a}>{b}", np.nan) for b in names] for a in names]
        if np.isfinite(values).any():
            found.append(
                Heatmap(
                    "Who finds whom",
                    "Share of test items whose modality of the row finds its own in the column as the nearest.",
                    np.array(values),
                    names,
                    names,
                )
            )
        curves = missing_curve(spaces["train"], spaces["test"], seed=seed) if fuses else {}
        if curves:
            share = curves.pop("share")
            told = {f"losing {name}": line for name, line in curves.items()}
            found.append(
                Curves(
                    "When modalities are missing",
                    "kNN accuracy of the mean of an item's vectors when that share of the test items loses one "
                    "modality, or any (but at least one stays). Neighbours are whole training items.",
                    share,
                    told,
                    "share missing",
                    "kNN accuracy",
                )
            )
    return found
