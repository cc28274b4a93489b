"""What ``pairwise.py`` measured, summed up, as Markdown and as a figure."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from machine import sentence, shown, spread

PEERS = {
    "ntxent": "plain",
    "small": "plain",
    "ranking": "sentence-transformers",
    "clip": "open_clip",
    "clip, trained": "open_clip",
}
TITLES = {
    "ntxent": "NT-Xent",
    "small": "NT-Xent of small batches",
    "ranking": "One direction: queries find their keys",
    "clip": "Two directions: CLIP, scale 1/0.07",
    "clip, trained": "Two directions: CLIP, scale 100",
}
SIDES = (
    "counterpoint",
    "bfloat16",
    "lightly",
    "pytorch-metric-learning",
    "plain",
    "sentence-transformers",
    "open_clip",
)
NUMBERS = ("milliseconds", "memory_mib", "process_mib")
Result = list[dict[str, Any]]


def summarise(rows: list[dict[str, Any]]) -> Result:
    """For each task, dimension, size and side: milliseconds, memory, and how often the peer's time its own is."""
    cells: dict[tuple[str, int, int], dict[str, dict[int, Any]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        cells[row["task"], row["dim"], row["rows"]][row["side"]][row["round"]] = row
    result = []
    for (task, dim, size), sides in sorted(cells.items()):
        peer = {turn: row for turn, row in sides.get(PEERS[task], {}).items() if "value" in row}
        told = {}
        for side, turns in sides.items():
            done = {turn: row for turn, row in turns.items() if "value" in row}
            if not done:
                told[side] = {"missing": next(iter(turns.values()))["missing"]}
                continue
            told[side] = {name: spread([row[name] for row in done.values()]) for name in NUMBERS}
            both = [turn for turn in done if turn in peer and side != PEERS[task]]
            if both:
                ratios = [peer[turn]["milliseconds"] / done[turn]["milliseconds"] for turn in both]
                told[side]["ratio"] = spread(ratios)
            rates = next(iter(done.values()))["rates"]
            if rates:
                reached = 4e-6 * size**2 * dim / told[side]["milliseconds"]["median"]
                told[side] |= {"gflops": reached, "share": {name: reached / rate for name, rate in rates.items()}}
        result.append({"task": task, "dim": dim, "rows": size, "sides": told})
    return result


def page(report: dict[str, Any]) -> str:
    """The results as Markdown."""
    result = report["result"]
    lines = [
        "# Losses over all pairs, forward and backward",
        "",
        f"{report['rounds']} rounds, of large sizes and other dimensions one; sides in turn, each in a process of its "
        "own; all gave the same loss and gradient. Milliseconds: median (least to largest of the rounds); in "
        "brackets, how many times as fast it is as the peer of the last column in the same round.",
        "",
        *verdicts(result),
        "",
        "![Time and memory by rows](pairwise.svg)",
        "",
    ]
    for task in TITLES:
        for dim in sorted({cell["dim"] for cell in result if cell["task"] == task}):
            lines += times([cell for cell in result if cell["task"] == task and cell["dim"] == dim])
    return "\n".join([*lines, *memory(result), *shares(result), sentence(report["environment"])]) + "\n"


def times(cells: Result) -> list[str]:
    task, dim = cells[0]["task"], cells[0]["dim"]
    known = {side for cell in cells for side in cell["sides"]} - {PEERS[task]}
    sides = [*sorted(known, key=SIDES.index), PEERS[task]]
    lines = [f"## {TITLES[task]}, {dim} dimensions, milliseconds", "", f"| rows | {' | '.join(sides)} |"]
    lines += ["| ---: |" + " --- |" * len(sides)]
    for cell in cells:
        told = [cell["sides"].get(side, {"missing": "not run"}) for side in sides]
        lines.append(f"| {cell['rows']:,} | {' | '.join(_time(side) for side in told)} |")
    return [*lines, ""]


def _time(side: dict[str, Any]) -> str:
    if "missing" in side:
        return str(side["missing"])
    of, ratio = side["milliseconds"], side.get("ratio")
    told = shown(of, 2 if of["median"] < 100 else 0)
    return f"{told} [{shown(ratio, 2 if ratio['median'] >= 0.1 else 5)}]" if ratio else told


def memory(result: Result) -> list[str]:
    """Growth of the peak by task, dimension and side."""
    lines = ["## Memory, MiB over what the process holds before the call", "", "| task | D | rows | by side |"]
    lines += ["| --- | ---: | ---: | --- |"]
    for cell in result:
        if cell["rows"] < 1024 or cell["task"] == "small":
            continue
        told = [
            f"{side} {row['memory_mib']['max']:,.0f}" for side, row in cell["sides"].items() if "missing" not in row
        ]
        lines.append(f"| {cell['task']} | {cell['dim']} | {cell['rows']:,} | {', '.join(told)} |")
    return [*lines, "", "Of 131,072 rows the others' one matrix alone would take 64 GiB in float32: not run.", ""]


def shares(result: Result) -> list[str]:
    """What is reached of the rate of large matrix products."""
    lines = ["## Share of the rate of large matrix products", ""]
    lines += ["| rows | D | | GFLOP/s | share | whole process, MiB |", "| ---: | ---: | --- | ---: | --- | ---: |"]
    for cell in result:
        for side, row in cell["sides"].items():
            if "share" in row:
                share = ", ".join(f"{value:.0%} of {name}" for name, value in row["share"].items())
                whole = row["process_mib"]["max"]
                lines.append(
                    f"| {cell['rows']:,} | {cell['dim']} | {side} | {row['gflops']:,.0f} | {share} | {whole:,.0f} |"
                )
    return [*lines, ""] if len(lines) > 4 else []


def verdicts(result: Result) -> list[str]:
    """What is promised, and whether it holds here; a promise about what was not measured is left out."""
    cells = {(cell["task"], cell["dim"], cell["rows"]): cell["sides"] for cell in result}

    def at(rows: int, side: str, name: str, task: str = "ntxent") -> Any:
        return cells.get((task, 128, rows), {}).get(side, {}).get(name)

    lines = []

    def say(promise: str, figure: float | None, kept: bool, shown_as: str) -> None:
        if figure is not None:
            lines.append(f"- {promise}: {'holds' if kept else 'does not hold'}, {shown_as}.")

    for rows, side, least in ((8192, "counterpoint", 5), (1024, "counterpoint", 2), (8192, "bfloat16", 8)):
        ratio = (at(rows, side, "ratio") or {}).get("median")
        name = "NT-Xent" if side == "counterpoint" else "NT-Xent with bfloat16 tiles"
        promise = f"{name} of {rows:,} x 128 is at least {least} times as fast as plain matrix and cross_entropy"
        say(promise, ratio, bool(ratio and ratio >= least), f"{ratio or 0:.2f}")
    ours, theirs = (at(1024, side, "milliseconds") for side in ("counterpoint", "pytorch-metric-learning"))
    if ours and theirs:
        ratio, promise = theirs["median"] / ours["median"], "NT-Xent of 1,024 x 128 is at least 2,000 times as fast as"
        say(f"{promise} pytorch-metric-learning", ratio, ratio >= 2000, f"{ratio:,.0f}")
    beside_plain = sorted(
        (sides["counterpoint"]["ratio"]["median"], f"{rows:,} x {dim}")
        for (task, dim, rows), sides in cells.items()
        if task in ("ntxent", "small") and "ratio" in sides["counterpoint"]
    )
    if beside_plain:
        slower = [f"{ratio:.2f} at {size}" for ratio, size in beside_plain if ratio < 1]
        told = "; ".join(slower) or f"{beside_plain[0][0]:.2f} or more"
        say("NT-Xent is at no size measured slower than plain", beside_plain[0][0], not slower, told)
    whole, share = at(131072, "counterpoint", "process_mib"), at(131072, "counterpoint", "share")
    if whole and share:
        peak, reached = whole["max"], share["float32"]
        say("131,072 rows take less than 2 GB, all of the process", peak, peak * 1.048576 < 2000, f"{peak:,.0f} MiB")
        promise = "131,072 rows reach 80 % of the rate of large matrix products"
        say(promise, reached, reached >= 0.8, f"{reached:.0%}")
    grown = [at(rows, "counterpoint", "memory_mib") for rows in (32768, 131072)]
    if all(grown):
        ratio = grown[1]["max"] / max(grown[0]["max"], 1)
        promise = "Memory grows linearly: from 32,768 to 131,072 rows by a factor of 4 at most, where a matrix takes 16"
        say(promise, ratio, ratio <= 4.2, f"{ratio:.1f}")
    return lines


def figure(result: Result, path: Path) -> None:
    """Time and memory by rows in the main dimension, both axes logarithmic."""
    import matplotlib
    from matplotlib.figure import Figure

    from counterpoint.files import atomic

    cells = [cell for cell in result if cell["task"] == "ntxent"]
    dims = {cell["dim"] for cell in cells}
    main = 128 if 128 in dims else min(dims)
    cells = sorted((cell for cell in cells if cell["dim"] == main), key=lambda cell: cell["rows"])
    drawing = Figure(figsize=(9, 3.6), layout="constrained")
    panels = drawing.subplots(1, 2)
    for axes, name, label in zip(panels, NUMBERS, ("milliseconds", "MiB over what is held before"), strict=False):
        for side in SIDES:
            points = [
                (cell["rows"], cell["sides"][side][name]["median"])
                for cell in cells
                if name in cell["sides"].get(side, {}) and cell["sides"][side][name]["median"] > 0
            ]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=side)
        axes.set(xscale="log", yscale="log", xlabel="rows N", ylabel=label)
        axes.set_xscale("log", base=2)
        axes.grid(alpha=0.3)
    panels[0].set_title(f"NT-Xent, {main} dimensions, forward and backward", fontsize=10)
    panels[1].set_title("Memory", fontsize=10)
    panels[0].legend(fontsize=8)
    with matplotlib.rc_context({"svg.hashsalt": "pairwise", "svg.fonttype": "none"}), atomic(path, "wb") as file:
        drawing.savefig(file, format="svg", metadata={"Date": None})
