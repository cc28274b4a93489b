"""What ``fit.py`` measured, summed up and as Markdown."""

from __future__ import annotations

from statistics import median
from typing import Any

from machine import sentence, shown, spread


def summarise(runs: dict[str, list[Any]], images: int) -> dict[str, Any]:
    """Images a second of first epoch, later epochs and the whole training, and ratios to lightly of the same round."""
    rates = {
        side: {
            "first epoch": [images / run["epochs"][0] for run in of],
            "later epochs": [images / median(run["epochs"][1:]) for run in of],
            "whole training": [images * len(run["epochs"]) / sum(run["epochs"]) for run in of],
        }
        for side, of in runs.items()
    }
    rows: dict[str, Any] = {side: {part: spread(values) for part, values in of.items()} for side, of in rates.items()}
    for side in rows.keys() - {"lightly"} if "lightly" in rows else ():
        rows[side]["ratio"] = {
            part: spread([a / b for a, b in zip(values, rates["lightly"][part], strict=True)])
            for part, values in rates[side].items()
        }
    return rows


def page(report: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["# SimCLR end to end, from a folder of 32x32 JPEG files", ""]
    if "speed" in report:
        lines += speed_table(report["speed"])
    if "profile" in report:
        lines += profile_table(report["profile"])
    if "accuracy" in report:
        lines += accuracy_table(report["accuracy"])
    return "\n".join(lines).rstrip() + "\n"


def speed_table(speed: dict[str, Any]) -> list[str]:
    parts = ("first epoch", "later epochs", "whole training")
    lines = [
        f"{speed['images']:,} images from {speed['source']}, batch {speed['batch']}, {speed['epochs']} epochs, "
        f"{speed['rounds']} rounds, sides in turn. Images a second (each makes two views): median (min to max); and "
        "as a multiple of lightly's in the same round.",
        "",
        f"| | {' | '.join(parts)} | {' | '.join(f'{part}, ratio' for part in parts)} |",
        "| --- |" + " --- |" * 6,
    ]
    for side, row in speed["result"].items():
        ratio = row.get("ratio")
        cells = [shown(row[part]) for part in parts] + [shown(ratio[part], 2) if ratio else "" for part in parts]
        lines.append(f"| {side} | {' | '.join(cells)} |")
    lines += [
        "",
        f"The default's precision on this machine: {speed['precision']}. The first epoch includes decoding all images, "
        "starting workers and compiling; importing libraries is not counted.",
        "",
        sentence(speed["environment"]),
        "",
    ]
    return lines


def profile_table(found: dict[str, Any]) -> list[str]:
    stages = found["milliseconds a batch"]
    total = sum(stages.values())
    about = f"One run of the default, {found['steps']} batches after the first epoch."
    lines = ["## Where our time goes", "", about, ""]
    lines += ["| stage | milliseconds a batch | share |", "| --- | ---: | ---: |"]
    lines += [f"| {stage} | {value:.1f} | {value / total:.1%} |" for stage, value in stages.items()]
    return [*lines, f"| together | {total:.1f} | {1000 * found['batch'] / total:,.0f} images a second |", ""]


def accuracy_table(found: dict[str, Any]) -> list[str]:
    lines = ["## Does bfloat16 cost accuracy?", "", f"kNN accuracy after {found['epochs']} epochs, paired seeds.", ""]
    lines += ["| precision | mean | by seed |", "| --- | --- | --- |"]
    for name, values in found["knn"].items():
        lines.append(f"| {name} | {sum(values) / len(values):.4f} | {', '.join(f'{v:.4f}' for v in values)} |")
    of = found["difference"]
    apart = f"{of['mean']:+.4f} [{of['low']:+.4f}, {of['high']:+.4f}], p = {of['p']:.2g}"
    return [*lines, "", f"bf16-mixed minus 32-true: {apart}, over seeds and test items.", ""]
