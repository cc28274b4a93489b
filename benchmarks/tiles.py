"""Which tile is fastest: the measurement behind the rule in ``counterpoint.pairwise.tiles``.

    python benchmarks/tiles.py

Log partitions of N rows that are their own keys, forward and backward, with tiles of several sizes, in turns, in
float32 and under bfloat16 autocast. A ratio is the time of a tile over that of the one which the rule takes; the rule
is right where no ratio is clearly below 1.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import torch
from machine import environment, sentence

from counterpoint.experiments.training import keep_memory
from counterpoint.files import atomic, write_json
from counterpoint.pairwise import log_partition
from counterpoint.pairwise.tiles import tile_size

ROWS, DIMENSIONS = (256, 512, 1024, 2048, 8192), (64, 128, 512)
TILES, ROUNDS = (64, 128, 256, 512, 1024, 2048), 7
RESULTS = Path(__file__).parent / "results"


def seconds(z: torch.Tensor, tile: int | None, half: bool, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        z.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            partitions = log_partition(z, scale=2.0, exclude="self", tile=tile)
        partitions.sum().backward()
    return (time.perf_counter() - start) / repeats


def measure(rows: int, dim: int, half: bool) -> dict[str, object]:
    z = torch.nn.functional.normalize(torch.randn(rows, dim), dim=1).requires_grad_()
    tiles = [None, *(tile for tile in TILES if rows // 32 <= tile <= rows)]
    repeats = max(1, 4096 // rows)
    for tile in tiles:
        seconds(z, tile, half, 1)
    rounds = [{tile: seconds(z, tile, half, repeats) for tile in tiles} for _ in range(ROUNDS)]
    ratio = {str(tile): median(one[tile] / one[None] for one in rounds) for tile in tiles if tile}
    rule = tile_size(rows, rows, z.device)
    time_of_rule = 1e3 * median(one[None] for one in rounds)
    precision = "bfloat16" if half else "float32"
    return {"precision": precision, "rows": rows, "dim": dim, "rule": rule, "ms": time_of_rule, "ratio": ratio}


def main() -> None:
    keep_memory()  # as in a fit
    about = environment("counterpoint")
    found = [measure(n, d, half) for half in (False, True) for n in ROWS for d in DIMENSIONS]
    lines = [
        "| precision | rows | D | the rule's tile | its time, ms | " + " | ".join(f"{tile:,}" for tile in TILES) + " |",
        "| --- " * (5 + len(TILES)) + "|",
    ]
    for row in found:
        cells = [f"{row['ratio'][str(tile)]:.2f}" if str(tile) in row["ratio"] else "" for tile in TILES]
        shown = [row["precision"], f"{row['rows']:,}", str(row["dim"]), f"{row['rule']:,}", f"{row['ms']:.2f}", *cells]
        lines.append(f"| {' | '.join(shown)} |")
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / "tiles.json", {"environment": about, "rows": found})
    with atomic(RESULTS / "tiles.md", "w") as file:
        file.write("# Time with a tile of so many rows, over the time with the rule's\n\n")
        file.write("\n".join(lines) + f"\n\n{sentence(about)} `python benchmarks/tiles.py`\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
