"""The user's data, by one word.

    dataset = load("digits")                        # 1,797 handwritten digits that scikit-learn ships
    dataset = load("photos/")                       # a folder of images; sub-folders are classes, or train/ and test/
    dataset = load("table.csv", labels="species")   # named columns: paths of images, or numbers
    dataset = load("vectors.npy")                   # an array, memory-mapped
    dataset = load("table.csv", target="age")       # a number to predict: dataset.targets, batch["target"]
    dataset = load((X, y))                          # arrays that you already have
    dataset = load("pairs.parquet", image="photo", text="caption")    # several modalities, any of them missing anywhere
    dataset = pair({"image": images, "text": captions})               # the same of what you already have
    dataset = load("documents.jsonl")               # texts with pictures in them: "a <visual> seven", ["7.png"]

    batch = dataset[[0, 5, 7]]                      # {"image": uint8 (3, C, H, W), "index": (3,), "label": (3,)}
    parts = split(dataset, seed=0)                  # parts.train, parts.val, parts.test
    for batch in loader(dataset, parts.train, 256, seed=0):
        ...

Reading is lazy and batched: images are decoded once into a memory-mapped array in a cache, so that an epoch costs the
copying of pixels, and a million images cost the memory of one batch. Labels are optional everywhere. The order of
batches is a pure function of ``(seed, epoch)``, whatever the number of processes.
"""

from counterpoint.data.batching import EpochSampler, GroupSampler, batches, loader
from counterpoint.data.builtin import names
from counterpoint.data.dataset import Batch, Dataset, Names
from counterpoint.data.inflation import InflatedDataset, open_generated
from counterpoint.data.interleaved import InterleavedDataset, documents
from counterpoint.data.multimodal import MultimodalDataset, first_text, pair
from counterpoint.data.pasted import PastedDataset, paste
from counterpoint.data.sources import load
from counterpoint.data.splits import Splits, few, split

__all__ = [
    "Batch",
    "Dataset",
    "EpochSampler",
    "GroupSampler",
    "InflatedDataset",
    "InterleavedDataset",
    "MultimodalDataset",
    "Names",
    "PastedDataset",
    "Splits",
    "batches",
    "documents",
    "few",
    "first_text",
    "load",
    "loader",
    "names",
    "open_generated",
    "pair",
    "paste",
    "split",
]
