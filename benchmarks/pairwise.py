"""Contrastive losses over all pairs of a batch, forward and backward: time and memory of ours and of the peers'.

    python benchmarks/pairwise.py                     # about twelve minutes on two cores
    python benchmarks/pairwise.py --quick             # seconds: does every side run, and do they agree?
    python benchmarks/pairwise.py --dims 128 --rounds 5 --largest 32768

All sides get the same raw float32 embeddings, which require a gradient, and must give the same loss and gradient, or
the benchmark fails. A call is ``loss(z1, z2).backward()`` on the processor. The tasks:

*ntxent*: N rows are two views of N/2 items, temperature 0.5. *counterpoint* is ``objectives.NTXent``; *bfloat16* the
same under ``torch.autocast``; *plain* what people write: normalise, one matrix, its diagonal at minus infinity,
``cross_entropy``; *lightly* and *pytorch-metric-learning* are their ``NTXentLoss``. The last compares every positive
pair with every negative pair, N^3 numbers: it runs up to 1,024 rows and in the main dimension only.
*small*: *ntxent* from 64 rows on beside *plain*, in one process a side.
*ranking*: N queries find their N keys, one direction, cosine times 20: ``MultipleNegativesRankingLoss`` of
sentence-transformers, given embeddings and no model, beside ``log_partition`` of two different sides.
*clip*: N images and N texts find each other, both directions averaged, the scale learned and at CLIP's first value,
1/0.07; *clip, trained*: at its last, 100. open_clip's ``ClipLoss`` of normalised embeddings beside ``log_partitions``.

Each measurement is a process of its own and the sides take turns, in changing order. Its *memory* is the growth of the
process's peak over what it held with everything imported, the embeddings made and one call on 8 rows done. Its time is
the median of the calls after the first, or the first where that takes more than two seconds. What would need more than
nine tenths of the free memory, judged by the size before, is left out and named. *share*: ours needs 4 N N D flops
where tiles are recomputed; how many a second, of those that products of 4096 x 4096 matrices reach right after it in
the same process. (Small sizes keep their tiles, 3 N N D flops are enough, and there is no share.)
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from machine import environment
from pairwise_page import figure, page, summarise

SIZES, DIMS, MAIN = (256, 1024, 8192, 32768, 131072), (64, 128, 512), 128
SMALL = (64, 96, 128, 192, 256, 384, 512)
CURVE = (2048, 4096, 16384, 65536)  # ours alone, in the main dimension
REPEATED, LARGE = (1024, 8192), 32768  # rows of which there is more than one round; and up to which a matrix may fit
TEMPERATURE, RANKING_SCALE = 0.5, 20.0
RESULTS = Path(__file__).parent / "results"


def our_ntxent() -> Callable:
    from counterpoint.objectives import NTXent

    return NTXent(TEMPERATURE)


def our_ntxent_bfloat16() -> Callable:
    import torch

    objective = our_ntxent()

    def loss(z1, z2):
        with torch.autocast("cpu", torch.bfloat16):
            return objective(z1, z2)

    return loss


def plain_ntxent() -> Callable:
    import torch
    from torch.nn.functional import cross_entropy, normalize

    def loss(z1, z2):
        z = normalize(torch.cat([z1, z2]), dim=1)
        logits = z @ z.T / TEMPERATURE
        logits.fill_diagonal_(-math.inf)
        return cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))

    return loss


def lightly_ntxent() -> Callable:
    from lightly.loss import NTXentLoss

    return NTXentLoss(TEMPERATURE)


def metric_learning_ntxent() -> Callable:
    import torch
    from pytorch_metric_learning.losses import NTXentLoss

    objective = NTXentLoss(TEMPERATURE)
    return lambda z1, z2: objective(torch.cat([z1, z2]), torch.arange(len(z1)).repeat(2))


def our_ranking() -> Callable:
    from counterpoint.objectives.inputs import normalize
    from counterpoint.pairwise import log_partition

    def loss(z1, z2):
        queries, keys = normalize(z1), normalize(z2)
        attraction = RANKING_SCALE * (queries * keys).sum(1)
        return (log_partition(queries, keys, scale=RANKING_SCALE) - attraction).mean()

    return loss


def sentence_transformers_ranking() -> Callable:
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    objective = MultipleNegativesRankingLoss(None, scale=RANKING_SCALE)  # type: ignore[arg-type]
    return lambda z1, z2: objective.compute_loss_from_embeddings([z1, z2], None)


def our_clip(first: float) -> Callable:
    import torch

    from counterpoint.objectives.inputs import normalize
    from counterpoint.pairwise import log_partitions

    log_scale = torch.tensor(math.log(first), requires_grad=True)

    def loss(z1, z2):
        images, texts, scale = normalize(z1), normalize(z2), log_scale.exp()
        by_image, by_text = log_partitions(images, texts, scale=scale)
        return ((by_image + by_text) / 2 - scale * (images * texts).sum(1)).mean()

    return loss


def open_clip_clip(first: float) -> Callable:
    import torch
    from open_clip.loss import ClipLoss
    from torch.nn.functional import normalize

    log_scale, objective = torch.tensor(math.log(first), requires_grad=True), ClipLoss()
    return lambda z1, z2: objective(normalize(z1, dim=1), normalize(z2, dim=1), log_scale.exp())


TASKS: dict[str, dict[str, Callable[[], Callable]]] = {
    "ntxent": {
        "counterpoint": our_ntxent,
        "bfloat16": our_ntxent_bfloat16,
        "plain": plain_ntxent,
        "lightly": lightly_ntxent,
        "pytorch-metric-learning": metric_learning_ntxent,
    },
    "small": {"counterpoint": our_ntxent, "plain": plain_ntxent},
    "ranking": {"counterpoint": our_ranking, "sentence-transformers": sentence_transformers_ranking},
    "clip": {"counterpoint": lambda: our_clip(1 / 0.07), "open_clip": lambda: open_clip_clip(1 / 0.07)},
    "clip, trained": {"counterpoint": lambda: our_clip(100.0), "open_clip": lambda: open_clip_clip(100.0)},
}
LINEAR = ("counterpoint", "bfloat16")  # in memory
VIEWS = ("ntxent", "small")  # N rows are two views of N/2 items; elsewhere two sides of N each


def peak() -> float:
    """The largest resident memory of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def forget_peak() -> None:
    """Let :func:`peak` start again from what is resident now; where the system cannot, it stays the largest so far."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def measure(task: str, side: str, sizes: list[int], dim: int, seconds: float) -> list[dict[str, Any]]:
    """Time, memory, value and gradient of one side at several sizes, in this process."""
    import torch

    loss = TASKS[task][side]()

    def call(z1, z2):
        z1.grad = z2.grad = None
        started = time.perf_counter()
        value = loss(z1, z2)
        value.backward()
        return time.perf_counter() - started, float(value.detach())

    found = []
    for rows in sizes:
        made = torch.Generator().manual_seed(rows)
        shape = (2, rows // 2 if task in VIEWS else rows, dim)
        z1, z2 = (z.clone().requires_grad_() for z in torch.randn(shape, generator=made))
        call(*(z[:8].detach().requires_grad_() for z in (z1, z2)))
        forget_peak()
        before = peak()
        first, value = call(z1, z2)
        after = peak()
        calls = [first] if first > 2 else []
        while first <= 2 and (len(calls) < 3 or sum(calls) < seconds):
            calls.append(call(z1, z2)[0])
        gradient, probe = torch.stack([z1.grad, z2.grad]).double(), torch.randn(shape, generator=made)
        found.append({
            "rows": rows, "milliseconds": 1000 * median(calls), "calls": len(calls), "value": value,
            "gradient": [float(gradient.norm()), float((gradient * probe).sum() / probe.norm())],
            "memory_mib": after - before, "process_mib": after,
            "rates": products(side) if task == "ntxent" and rows >= LARGE and side in LINEAR else None,
        })  # fmt: skip
    return found


def products(side: str, size: int = 4096) -> dict[str, float]:
    """Billions of flops a second of large matrix products, in float32 and in the side's own type."""
    import torch

    rates = {}
    for dtype in (torch.float32, torch.bfloat16)[: 1 + (side == "bfloat16")]:
        x = torch.randn(size, size, dtype=dtype)
        seconds = []
        for _ in range(4):
            started = time.perf_counter()
            x @ x
            seconds.append(time.perf_counter() - started)
        rates[str(dtype).removeprefix("torch.")] = 2e-9 * size**3 / median(seconds[1:])
    return rates


def plan(options: argparse.Namespace) -> Iterator[tuple[int, str, list[str], list[int], int]]:
    """What is measured, in order: round, task, sides in turn, sizes in one process, dimension."""
    main = MAIN if MAIN in options.dims else options.dims[0]
    for turn in range(options.rounds):
        for dim in options.dims:
            groups = [("small", list(TASKS["small"]), options.small)]
            for rows in sorted({*options.sizes, *(options.curve if dim == main else ())}):
                alone, repeated = rows in options.curve, rows in REPEATED and dim == main
                if rows > options.largest or (turn and (alone or not repeated)):
                    continue
                if rows > LARGE and dim != main and not options.all:
                    continue
                sides = [side for side in TASKS["ntxent"] if side == "counterpoint" or not alone]
                if rows > 1024 or dim != main or (turn and rows == 1024):
                    sides = [side for side in sides if side != "pytorch-metric-learning"]
                if rows > LARGE or (rows > max(REPEATED) and dim != main):  # one N x N matrix of 131,072 rows is 64 GiB
                    sides = [side for side in sides if side in LINEAR]
                groups.append(("ntxent", sides, [rows]))
                if dim == main and rows <= LARGE and not alone:
                    groups += [
                        (task, list(TASKS[task]), [rows])
                        for task in ("ranking", "clip", "clip, trained")
                        if task != "clip, trained" or rows == max(REPEATED) or options.quick
                    ]
            for task, sides, sizes in groups:
                yield turn, task, sides[::-1] if turn % 2 else sides, sizes, dim


def in_process(options: argparse.Namespace, task: str, side: str, sizes: list[int], dim: int) -> list[dict[str, Any]]:
    """:func:`measure` in a fresh process; where it fails or takes too long, why."""
    words = ["--task", task, "--side", side, "--sizes", *map(str, sizes), "--dims", str(dim)]
    command = [sys.executable, __file__, *words, "--seconds", str(options.seconds)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=options.limit)
    except subprocess.TimeoutExpired:
        return [{"rows": rows, "missing": f"more than {options.limit:.0f} s"} for rows in sizes]
    if ran.returncode == 0:
        return json.loads(ran.stdout.splitlines()[-1])  # type: ignore[no-any-return]
    if side not in LINEAR and (ran.returncode == -9 or "allocate memory" in ran.stderr):
        return [{"rows": rows, "missing": "out of memory"} for rows in sizes]
    raise SystemExit(f"{task}, {side}, {sizes} x {dim} failed with {ran.returncode}:\n{ran.stderr[-4000:]}")


def too_large(rows: list[dict[str, Any]], task: str, side: str, size: int, dim: int) -> str | None:
    """Why not to try: the GiB needed, judged by the largest size so far."""
    told = Path("/proc/meminfo")
    known = [row for row in rows if (row["task"], row["side"], row["dim"]) == (task, side, dim) and "value" in row]
    if side in LINEAR or not known or not told.exists():
        return None
    last = max(known, key=lambda row: row["rows"])
    power = 3 if side == "pytorch-metric-learning" else 2
    needed = last["memory_mib"] / 1024 * (size / last["rows"]) ** power
    free = next(int(line.split()[1]) for line in told.read_text().splitlines() if line.startswith("MemAvailable"))
    return f"needs about {needed:.0f} GiB" if needed > 0.9 * free / 2**20 else None


def agree(rows: list[dict[str, Any]]) -> None:
    """All sides of one task and size must have the value and the gradient of ours."""
    ours = next(row for row in rows if row["side"] == "counterpoint")
    for row in rows:
        # of bfloat16 tiles, the bound that counterpoint.pairwise.partition gives for unit vectors
        far = (2**-6 / TEMPERATURE + 2**-7, 2**-5) if row["side"] == "bfloat16" else (1e-5 * ours["value"], 1e-3)
        apart = [abs(a - b) for a, b in zip(row["gradient"], ours["gradient"], strict=True)]
        if not (abs(row["value"] - ours["value"]) <= far[0] and max(apart) <= far[1] * ours["gradient"][0]):
            raise SystemExit(f"{row} and {ours} disagree")


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All measurements, in rounds."""
    found: list[dict[str, Any]] = []
    for turn, task, sides, sizes, dim in plan(options):
        group = []
        for side in sides:
            reason = too_large(found, task, side, sizes[-1], dim)
            answers = (
                [{"rows": rows, "missing": reason} for rows in sizes]
                if reason
                else in_process(options, task, side, sizes, dim)
            )
            group += [{"round": turn, "task": task, "side": side, "dim": dim, **answer} for answer in answers]
        for rows in sizes:
            agree([row for row in group if row["rows"] == rows and "value" in row])
        found += group
        for row in group:
            told = row.get("missing") or f"{row['milliseconds']:,.2f} ms, {row['memory_mib']:,.0f} MiB"
            print(f"{turn} {task}, {row['side']}, {row['rows']} x {dim}: {told}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes; writes only with --out")
    parser.add_argument("--rounds", type=int, default=3, help="of the sizes that promises are about; default 3")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="rows N")
    parser.add_argument("--dims", type=int, nargs="+", default=DIMS)
    parser.add_argument("--largest", type=int, default=131072, help="rows above which nothing is measured")
    parser.add_argument("--all", action="store_true", help="the largest sizes in every dimension too, minutes more")
    parser.add_argument("--seconds", type=float, default=0.5, help="of calls in each process; at least three calls")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds after which a process is given up")
    parser.add_argument("--out", type=Path, help="folder of pairwise.json, .md and .svg; default results")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.task, options.side, options.sizes, options.dims[0], options.seconds)))
        return
    options.small, options.curve = SMALL, CURVE
    if options.quick:
        options.sizes, options.small, options.curve, options.dims = (64, 384), (64, 96), (512,), (16,)
        options.rounds, options.seconds = 2, 0.0
    rows = run(options)
    from counterpoint.files import atomic, write_json

    told = environment("lightly", "pytorch-metric-learning", "sentence-transformers", "open_clip_torch")
    report = {"environment": told, "rounds": options.rounds, "rows": rows, "result": summarise(rows)}
    text = page(report)
    out = options.out or (None if options.quick else RESULTS)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "pairwise.json", report)
        figure(report["result"], out / "pairwise.svg")
        with atomic(out / "pairwise.md", "w") as file:
            file.write(text)
    print(text)


if __name__ == "__main__":
    main()
