"""What MoCHi and Feature Transformation add to a step of MoCo: batches of 256, 16,384 keys of 128 dimensions.

    python benchmarks/hard_negatives.py
    python benchmarks/hard_negatives.py --rounds 2 --steps 1

A step is forward, backward, optimiser and teacher of an encoder on random images of 32x32, two ready-made views of
each, so that making views is left out. Encoders: a small ConvNet (32, 64, 128 and 256 channels), about as little
work as an encoder can be and thus the hardest case, and a ResNet-18. Sides, of which the ResNet has the first two:

* *moco*: plain MoCo v2;
* *mochi*: 1,024 hardest keys, 1,024 mixtures of two, 128 of one with the query; scores are had without the points;
* *mochi, points*: the same with the points made, as one writes it down first;
* *feature transformation*: the authors' recommended setting;
* *moco, watched*: plain MoCo whose scores are kept for the curves of the report.

They run in turns in one process: each round times so many steps of every side, one side after the other (of the ResNet
a third as many rounds, of one step). Overheads are medians over the rounds of a side's time against that of plain MoCo
in the same round. In float32 and in bfloat16 autocast, in which the encoder is faster and the same work therefore a
larger share.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median

import torch
from machine import environment, sentence, shown, spread

from counterpoint.encoders import build
from counterpoint.experiments.training import keep_memory
from counterpoint.files import atomic, write_json
from counterpoint.methods.vision.feature_transformation import FeatureTransformation
from counterpoint.methods.vision.mochi import MoCHi
from counterpoint.methods.vision.moco import MoCo
from counterpoint.mining import draw_mixtures

BATCH, QUEUE, DIM, SIDE = 256, 16_384, 128, 32
COUNTS = (1024, 1024, 128)
ENCODERS = ("convnet", "resnet18")
RESULTS = Path(__file__).parent / "results"


class Points(MoCHi):
    """MoCHi that makes the points before it takes their scores."""

    def contrast(self, queries, keys, batch):
        bank = self.queue()
        points = draw_mixtures(queries, bank, self.n_hard, self.n_pair, self.n_query).points(queries, bank)
        return self.objective(queries, keys, bank, points)


def step_of(
    kind: type[MoCo], encoder: str, precision: str, watched: bool = False, **options: object
) -> Callable[[], None]:
    """A function that trains one step."""
    torch.manual_seed(0)
    method = kind(build(encoder, (3, SIDE, SIDE)), queue_size=QUEUE, dim=DIM, **options)
    method.to(memory_format=torch.channels_last)
    views = [torch.rand(BATCH, 3, SIDE, SIDE).to(memory_format=torch.channels_last) for _ in range(2)]
    optimizer, _ = method.recipe.optimizers(method, 1000)
    method.watching = watched

    def step() -> None:
        optimizer.zero_grad()
        half = torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else nullcontext()
        with half:
            loss = method.loss(views, {})
        loss.backward()
        optimizer.step()
        method.after_step()

    return step


def sides(encoder: str, precision: str) -> dict[str, Callable[[], None]]:
    counts = dict(zip(("n_hard", "n_pair", "n_query"), COUNTS, strict=True))
    both = {
        "moco": step_of(MoCo, encoder, precision),
        "mochi": step_of(MoCHi, encoder, precision, warmup=0.0, **counts),
    }
    if encoder != "convnet":
        return both
    return both | {
        "mochi, points": step_of(Points, encoder, precision, warmup=0.0, **counts),
        "feature transformation": step_of(FeatureTransformation, encoder, precision),
        "moco, watched": step_of(MoCo, encoder, precision, watched=True),
    }


def measure(encoder: str, precision: str, rounds: int, steps: int) -> dict[str, list[float]]:
    """Milliseconds of a step, a number for each round and side."""
    running = sides(encoder, precision)
    if encoder != "convnet":
        rounds, steps = -(-rounds // 3), 1
    times: dict[str, list[float]] = {name: [] for name in running}
    for number in range(rounds + 1):
        for name, step in running.items():
            started = time.perf_counter()
            for _ in range(steps):
                step()
            if number:  # the first round loads kernels
                times[name].append((time.perf_counter() - started) / steps * 1e3)
    return times


def summed_up(times: dict[str, list[float]]) -> list[dict]:
    plain = times["moco"]
    return [
        {
            "side": name,
            "milliseconds": spread(own),
            "overhead": median(one / base - 1 for one, base in zip(own, plain, strict=True)),
        }
        for name, own in times.items()
    ]


def table(report: dict) -> str:
    """The result as Markdown."""
    lines = [
        "# What hard negatives add to a step of MoCo",
        "",
        f"A batch of {BATCH}, a queue of {QUEUE:,} keys of {DIM} dimensions, {SIDE}x{SIDE} images; "
        f"MoCHi with {COUNTS[0]:,} hardest keys, {COUNTS[1]:,} and {COUNTS[2]} mixtures. {report['rounds']} rounds of "
        f"{report['steps']} steps (of the ResNet a third as many, of one), sides in turn. Milliseconds a step: "
        "median (min to max).",
        "",
        "| encoder | precision | side | ms a step | over plain MoCo |",
        "| --- | --- | --- | --- | --- |",
    ]
    for case, rows in report["result"].items():
        before = " | ".join(case.split(", "))
        for row in rows:
            lines.append(
                f"| {before} | {row['side']} | {shown(row['milliseconds'], 1)} | {100 * row['overhead']:+.1f} % |"
            )
    return "\n".join([*lines, "", sentence(report["environment"])]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", default=RESULTS, type=Path)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    keep_memory()  # as in a fit
    times = {
        f"{encoder}, {precision}": measure(encoder, precision, arguments.rounds, arguments.steps)
        for encoder in ENCODERS
        for precision in ("float32", "bfloat16")
    }
    report = {
        "rounds": arguments.rounds,
        "steps": arguments.steps,
        "environment": environment(),
        "times": times,
        "result": {name: summed_up(of) for name, of in times.items()},
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out / "hard_negatives.json", report)
    with atomic(arguments.out / "hard_negatives.md", "w") as file:
        file.write(table(report))
    print(table(report))


if __name__ == "__main__":
    main()
