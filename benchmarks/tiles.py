"""Which tile is fastest: the measurement behind the rule in ``counterpoint.pairwise.tiles``.

    python benchmarks/tiles.py

Log partitions of N rows that are their own keys, forward and backward, with tiles of several sizes, in turns. A ratio
is the time of a tile over that of the one which the rule takes; the rule is right where no ratio is clearly below 1.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import torch
from machine import environment, sentence

from counterpoint.files import atomic, write_json
from counterpoint.pairwise import log_partition
from counterpoint.pairwise.tiles import tile_size

ROWS, DIMENSIONS = (256, 512, 1024, 8192), (64, 128, 512)
TILES, ROUNDS = (64, 128, 256, 512, 1024, 2048), 7
RESULTS = Path(__file__).parent / "results"


def seconds(z: torch.Tensor, tile: int | None, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        z.grad = None
        log_partition(z, scale=2.0, exclude="self", tile=tile).sum().backward()
    return (time.perf_counter() - start) / repeats


def measure(rows: int, dim: int) -> dict[str, object]:
    z = torch.nn.functional.normalize(torch.randn(rows, dim), dim=1).requires_grad_()
    tiles = [None, *(tile for tile in TILES if rows // 32 <= tile <= rows)]
    repeats = max(1, 4096 // rows)
    for tile in tiles:
        seconds(z, tile, 1)
    rounds = [{tile: seconds(z, tile, repeats) for tile in tiles} for _ in range(ROUNDS)]
    ratio = {str(tile): median(one[tile] / one[None] for one in rounds) for tile in tiles if tile}
    rule = tile_size(rows, rows, dim, z.device)
    return {"rows": rows, "dim": dim, "rule": rule, "ms": 1e3 * median(one[None] for one in rounds), "ratio": ratio}


def main() -> None:
    about, found = environment("counterpoint"), [measure(n, d) for n in ROWS for d in DIMENSIONS]
    lines = [
        "| rows | D | the rule's tile | its time, ms | " + " | ".join(f"{tile:,}" for tile in TILES) + " |",
        "| --- " * (4 + len(TILES)) + "|",
    ]
    for row in found:
        cells = [f"{row['ratio'][str(tile)]:.2f}" if str(tile) in row["ratio"] else "" for tile in TILES]
        lines.append(f"| {row['rows']:,} | {row['dim']} | {row['rule']:,} | {row['ms']:.2f} | {' | '.join(cells)} |")
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / "tiles.json", {"environment": about, "rows": found})
    with atomic(RESULTS / "tiles.md", "w") as file:
        file.write("# Time with a tile of so many rows, over the time with the rule's\n\n")
        file.write("\n".join(lines) + f"\n\n{sentence(about)} `python benchmarks/tiles.py`\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
