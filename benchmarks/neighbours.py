"""Nearest neighbours and retrieval, 50,000 x 10,000 embeddings of 128 dimensions: in tiles, and the plain way.

    python benchmarks/neighbours.py

*knn*: the 20 nearest of 50,000 keys for 10,000 queries. *retrieval*: recall@1, 5, 10 and average precision of 50,000
queries in a gallery of 10,000. The plain way forms all similarities at once and takes ``topk`` of them, or for
retrieval their ``argsort``, the query's whole ranking; as that would need more than 10 GB, its retrieval runs on a
tenth of the queries and its time and memory are given for these. Each runs in a process of its own, which reports the
growth of its peak resident memory over what the embeddings take. Both ways must agree, or the benchmark fails.
"""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from counterpoint.evaluation import Embeddings, retrieval, top_k
from counterpoint.files import atomic, write_json

LARGE, SMALL, DIMENSIONS, CLASSES, K, SHARE = 50_000, 10_000, 128, 10, 20, 10
RESULTS = Path(__file__).parent / "results"


def data():
    """Ten blurred classes on the sphere; ``large`` (50,000, 128) and ``small`` (10,000, 128)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (LARGE + SMALL,), generator=generator)
    centres = torch.randn(CLASSES, DIMENSIONS, generator=generator)
    vectors = torch.nn.functional.normalize(
        0.4 * centres[labels] + torch.randn(LARGE + SMALL, DIMENSIONS, generator=generator)
    )
    return vectors[:LARGE], labels[:LARGE], vectors[LARGE:], labels[LARGE:]


def knn_tiled(large, large_labels, small, small_labels):
    return SMALL, float(top_k(small, large, K)[0].double().mean())


def knn_plain(large, large_labels, small, small_labels):
    return SMALL, float((small @ large.T).topk(K).values.double().mean())


def retrieval_tiled(large, large_labels, small, small_labels, queries=LARGE):
    asked = Embeddings(large[:queries].numpy(), large_labels[:queries].numpy())
    scores = retrieval(asked, Embeddings(small.numpy(), small_labels.numpy()))
    return queries, float(np.mean(scores["map"][: LARGE // SHARE], dtype=np.float64))


def retrieval_plain(large, large_labels, small, small_labels):
    queries = LARGE // SHARE
    order = (large[:queries] @ small.T).argsort(dim=1, descending=True)
    right = small_labels[order] == large_labels[:queries, None]
    precision = right.cumsum(dim=1) / torch.arange(1, SMALL + 1)
    return queries, float(((precision * right).sum(dim=1) / right.sum(dim=1)).double().mean())


def retrieval_tiled_tenth(*parts):
    return retrieval_tiled(*parts, queries=LARGE // SHARE)


WAYS = {
    "knn, tiles": knn_tiled,
    "knn, plain": knn_plain,
    "retrieval, tiles": retrieval_tiled,
    "retrieval, tiles, a tenth": retrieval_tiled_tenth,
    "retrieval, plain, a tenth": retrieval_plain,
}


def measure(name):
    parts = data()
    top_k(parts[2][:600], parts[0][:600], 5)  # threads and kernels are loaded
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    queries, value = WAYS[name](*parts)
    seconds = time.perf_counter() - start
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    total = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "way": name,
        "queries": queries,
        "seconds": seconds,
        "growth_mib": growth,
        "peak_mib": total,
        "value": value,
    }


def main():
    if len(sys.argv) == 2:
        print(json.dumps(measure(sys.argv[1])))
        return
    rows = [
        json.loads(subprocess.run([sys.executable, __file__, name], check=True, capture_output=True, text=True).stdout)
        for name in WAYS
    ]
    value = {row["way"]: row["value"] for row in rows}
    for ours, plain in (("knn, tiles", "knn, plain"), ("retrieval, tiles", "retrieval, plain, a tenth")):
        if abs(value[ours] - value[plain]) > 1e-6:
            raise SystemExit(f"{ours} and {plain} disagree: {value[ours]} and {value[plain]}")
    environment = {
        "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
        "processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / "neighbours.json", {"environment": environment, "rows": rows})
    lines = [
        "| way | queries x keys | seconds | memory over the data, MiB | peak of the process, MiB |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        keys = LARGE if row["way"].startswith("knn") else SMALL
        lines.append(
            f"| {row['way']} | {row['queries']:,} x {keys:,} | {row['seconds']:.2f} | {row['growth_mib']:,.0f} "
            f"| {row['peak_mib']:,.0f} |"
        )
    with atomic(RESULTS / "neighbours.md", "w") as file:
        file.write("# Neighbours, 128 dimensions\n\n" + "\n".join(lines) + "\n\n")
        file.write(
            f"torch {environment['torch']}, {environment['threads']} threads. `python benchmarks/neighbours.py`\n"
        )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
