"""How long a user waits before anything begins: the command's help, and our import beside torch's own.

    python benchmarks/startup.py

Each is a fresh Python process, timed from outside and the rows in turn; one untimed round before warms the disk's
cache. *python* is the interpreter alone, which every other row contains.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from machine import environment, sentence, shown, spread

RESULTS = Path(__file__).parent / "results"
COMMAND = [sys.executable, "-m", "counterpoint.cli"]
ROWS = {
    "python": [sys.executable, "-c", "pass"],
    "counterpoint --help": [*COMMAND, "--help"],
    "counterpoint papers": [*COMMAND, "papers"],
    "counterpoint fit --help": [*COMMAND, "fit", "--help"],
    "import counterpoint": [sys.executable, "-c", "import counterpoint"],
    "import counterpoint.objectives": [sys.executable, "-c", "import counterpoint.objectives"],
    "import torch": [sys.executable, "-c", "import torch"],
}


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def verdicts(median: dict[str, float]) -> list[str]:
    """What is promised, and whether it holds here."""
    torch = median["import torch"]
    promises = {
        "`counterpoint --help` takes less than a second": median["counterpoint --help"] < 1,
        "`import counterpoint` takes no longer than `import torch` and half a second": (
            median["import counterpoint"] < torch + 0.5
        ),
        "`import counterpoint.objectives` takes no longer than `import torch` and half a second": (
            median["import counterpoint.objectives"] < torch + 0.5
        ),
    }
    return [f"- {promise}: {'holds' if kept else 'does not hold'}" for promise, kept in promises.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of startup.json and startup.md")
    arguments = parser.parse_args()
    for command in ROWS.values():
        seconds(command)
    taken: dict[str, list[float]] = {name: [] for name in ROWS}
    for _ in range(arguments.rounds):
        for name, command in ROWS.items():
            taken[name].append(seconds(command))
    result = {name: spread(values) for name, values in taken.items()}
    torch = result["import torch"]["median"]
    lines = ["# Start", "", f"{arguments.rounds} rounds, rows in turn: median (min to max).", ""]
    lines += ["| | seconds | of `import torch` |", "| --- | --- | ---: |"]
    lines += [f"| {name} | {shown(of, 2)} | {of['median'] / torch:.2f} |" for name, of in result.items()]
    lines += ["", *verdicts({name: of["median"] for name, of in result.items()}), ""]
    told = environment()
    text = "\n".join([*lines, sentence(told)]) + "\n"

    from counterpoint.files import atomic, write_json

    arguments.out.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out / "startup.json", {"environment": told, "seconds": taken})
    with atomic(arguments.out / "startup.md", "w") as file:
        file.write(text)
    print(text)


if __name__ == "__main__":
    main()
