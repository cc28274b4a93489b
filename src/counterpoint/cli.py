"""The command. Every sub-command is the function of the same name, with its typed signature and its docstring."""

from __future__ import annotations

import os
import sys
from typing import Any

_COMMANDS = {
    "fit": "train an encoder on your data by one method",
    "finetune": "go on from a trained encoder with labels, to a classifier",
    "classify": "name the classes of new data with a fine-tuned run, as CSV",
    "zero_shot": "classify data sets by the names of their classes, with a run that was trained on pairs",
    "compare": "train several methods alike and say which is best, and whether that is real",
    "generate": "train a generator on your data and draw new items from it, for fit --generated",
    "embed": "turn data into vectors with a trained encoder, as Parquet",
    "search": "find what is most like a query",
    "pairs": "test a run of images and texts on pairs that differ in a detail",
    "layers": "probe every layer of a run, before and after its projection head",
    "explain": "put losses side by side under the microscope: what they do to each pair",
    "report": "write the page of a run or a comparison again",
    "export": "hand an encoder on: safetensors or ONNX",
    "papers": "the 72 papers: what runs here, and what was measured",
    "claim": "re-measure a paper's claim here and now",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for an error, 130 when interrupted."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        from counterpoint import __version__

        print(f"counterpoint {__version__}")
        return 0
    if words[:2] == ["papers", "show"]:
        words = ["papers", "--show", *words[2:]]
    if words[0] == "finetune" and not any(word.startswith("-") for word in (*words[1:3], "-" * (len(words) < 3))):
        words = [*words[:2], "--data", *words[2:]]  # the second word is the data, which may be left out
    if words[0] not in _COMMANDS:
        import difflib

        near = difflib.get_close_matches(words[0], _COMMANDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(_COMMANDS)}"
        print(f"counterpoint: no command {words[0]!r}{hint}", file=sys.stderr)
        return 2
    sys.path.append(os.getcwd())  # so that --method module:Class finds a file of the user's own
    try:
        return _run(words[0], words[1:])
    except KeyboardInterrupt as stop:
        print(f"\ncounterpoint: {stop or 'interrupted'}", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, FloatingPointError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and type(error).__name__ != "FolderInUse":
            raise
        print(f"counterpoint: {error}", file=sys.stderr)
        return 1


def _overview() -> str:
    commands = "\n".join(f"  {name:9s} {what}" for name, what in _COMMANDS.items())
    return f"""usage: counterpoint COMMAND ...

Contrastive representation learning on your own data: train, compare, and know whether the difference is real.

commands:
{commands}

begin with:
  counterpoint compare digits --methods simclr,supcon --epochs 10
  counterpoint fit photos/ --method simclr --out runs/photos
  counterpoint search runs/photos query.jpg
  counterpoint layers runs/photos
  counterpoint explain ntxent,dcl,cacr

Each command explains itself: counterpoint fit --help"""


def _run(command: str, words: list[str]) -> int:
    from importlib import import_module

    module, name, show = {
        "fit": ("counterpoint.experiments.fit", "fit", _show_run),
        "finetune": ("counterpoint.experiments.finetune", "finetune", _show_run),
        "classify": ("counterpoint.experiments.classify", "classify", _show_path),
        "zero_shot": ("counterpoint.experiments.zero_shot", "zero_shot", _show_zero_shot),
        "compare": ("counterpoint.experiments.compare", "compare", _show_comparison),
        "generate": ("counterpoint.experiments.generate", "generate", _show_generated),
        "embed": ("counterpoint.search", "embed", _show_path),
        "search": ("counterpoint.search", "search", _show_hits),
        "pairs": ("counterpoint.experiments.pairs", "pairs", _show_pairs),
        "layers": ("counterpoint.experiments.layers", "layers", _show_layers),
        "explain": ("counterpoint.experiments.explain", "explain", _show_explanation),
        "report": ("counterpoint.experiments.reports", "report", _show_path),
        "export": ("counterpoint.encoders.export", "export", _show_path),
        "papers": ("counterpoint.papers.show", "papers", _show_nothing),
        "claim": ("counterpoint.experiments.claims", "claim", _show_claim),
    }[command]
    function = getattr(import_module(module), name)
    given = _parse(command, function, words)
    show(function(**given))
    return 0


def _parse(command: str, function: Any, words: list[str]) -> dict[str, Any]:
    import inspect

    from jsonargparse import ActionConfigFile, ArgumentParser  # type: ignore[attr-defined]

    description = (inspect.getdoc(function) or "").split("\n\nArgs:")[0]
    parser = ArgumentParser(prog=f"counterpoint {command}", description=description)
    parser.add_argument("--config", action=ActionConfigFile, help="read the arguments from a YAML file")
    parser.add_function_arguments(function, as_group=False, as_positional=True)
    given = parser.parse_args(words).as_dict()
    given.pop("config", None)
    return given


def _show_run(run: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from counterpoint.evaluation import description

    table = Table(box=None, pad_edge=False)
    table.add_column("score")
    table.add_column("value", justify="right")
    table.add_column("")
    for name, value in run.scores.items():
        table.add_row(name, f"{value:.3f}", description(name))
    console = Console()
    console.print(table)
    console.print(f"\n{run.folder}: {run.state}", highlight=False)
    if (run.folder / "report.html").exists():
        console.print(f"open {run.folder / 'report.html'}", highlight=False)


def _show_comparison(comparison: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from counterpoint.web.markup import number, probability, signed

    board = comparison.board
    print(f"{board['metric']} on {comparison.config['data']}, {comparison.config['seeds']} seeds")
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for heading in ("", "method", board["metric"], "95 %", "to best", "95 %", "p", "s"):
        table.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for row in board["rows"]:
        first = row["difference"] is None
        table.add_row(
            f"{row['rank']}{'=' if row['tied'] else ' '}",
            row["name"] + ("*" if row["baseline"] else ""),
            number(row["mean"]),
            f"{number(row['low'])}-{number(row['high'])}",
            "" if first else signed(row["difference"]),
            "" if first else f"{signed(row['difference_low'])} {signed(row['difference_high'])}",
            "" if first else probability(row["p"]).removeprefix("p ").removeprefix("= "),
            f"{board['seconds'][row['name']]:.0f}",
        )
    console = Console()
    console.print(table)
    console.print("= tied: could be chance   * baseline   p: corrected for all pairs   s: a fit", highlight=False)
    for name, why in board["failures"]:
        console.print(f"failed: {name}: {why}", highlight=False)
    for note in board["notes"]:
        console.print(note, highlight=False)
    console.print(f"\nopen {comparison.folder / 'report.html'}", highlight=False)


def _show_generated(found: Any) -> None:
    about = found.about
    quality = about["quality"] or {}
    print(f"{about['count']:,} items by {about['method']} from {about['trained_on']:,} of {about['data']}")
    if "frechet" in quality:
        print(
            f"Fréchet distance {quality['frechet']:.3g}, of held-out items {quality['frechet_held_out']:.3g} "
            f"({quality['space']})\n"
            f"nearest training item {quality['nearest']:.3f} away, of held-out items "
            f"{quality['nearest_held_out']:.3f}; {quality['closer_than_held_out']:.1%} are closer than 99 % of those"
        )
    print(found.items)


def _show_pairs(found: Any) -> None:
    accuracy = found.accuracy
    count = len(found.names)
    span = f"[{accuracy.low:.3f}, {accuracy.high:.3f}]"
    print(f"both statements of a pair right: {accuracy.scores['pairs']:.3f} {span} of {count:,} pairs (chance 0.25)")
    print(f"single statements right: {accuracy.scores['statements']:.3f} (chance 0.5)")
    for name, share in accuracy.scores.items():
        if name.startswith("pairs:"):
            print(f"  {name.partition(':')[2]}: {share:.3f}")
    for note in found.notes:
        print(note)
    if found.page is not None:
        print(f"open {found.page}")


def _show_path(path: Any) -> None:
    print(path)


def _show_zero_shot(found: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from counterpoint.web.markup import number

    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for heading in ("set", "items", "classes", "accuracy", "95 %", "per class", "top 5", "chance"):
        table.add_column(heading, justify="left" if heading == "set" else "right", no_wrap=True)
    for row in found.rows:
        span, top = f"{number(row['low'])}-{number(row['high'])}", row["top5"]
        scores = (number(row["accuracy"]), span, number(row["per_class"]), "" if top is None else number(top))
        table.add_row(row["set"], f"{row['items']:,}", str(row["classes"]), *scores, number(row["chance"]))
    means = (number(found.mean[name]) for name in ("accuracy", "per_class", "chance"))
    accuracy, per_class, chance = means
    table.add_row("mean", "", "", accuracy, "", per_class, "", chance, style="bold")
    console = Console()
    console.print(table)
    console.print(f"\n{found.path}", highlight=False)


def _show_nothing(_: Any) -> None:
    """The command has printed what it had to say."""


def _show_hits(hits: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("rank", "similarity", "item", "label"):
        table.add_column(heading, justify="right" if heading in ("rank", "similarity") else "left")
    for hit in hits:
        label = "" if hit.label is None else str(hit.label)
        table.add_row(str(hit.rank), f"{hit.score:.3f}", hit.path or hit.id, label)
    Console().print(table)


def _show_layers(found: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from counterpoint.web.layers import SCORES, summary
    from counterpoint.web.markup import number

    table = Table(box=None, pad_edge=False)
    table.add_column("layer")
    for heading in ("dimensions", *(title[0].lower() + title[1:] for title in SCORES.values())):
        table.add_column(heading, justify="right")
    for row in found.rows:
        style = "bold" if row["part"] in ("features", "projection") else None
        table.add_row(row["name"], str(row["dimensions"]), *(number(row[name]) for name in SCORES), style=style)
    console = Console()
    console.print(table)
    console.print(f"\n{summary(found.value)}", highlight=False)
    if found.page is not None:
        console.print(f"\nopen {found.page}", highlight=False)


def _show_explanation(found: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from counterpoint.web.explain import sentences, summary

    table = Table(box=None, pad_edge=False, padding=(0, 1))
    headings = ("loss", "negatives", "1 %", "10 %", "multiplier", "least", "weight", "direction", "gradient")
    for at, heading in enumerate(headings):
        table.add_column(heading, justify="right" if at else "left", no_wrap=at > 0, overflow="fold")
    for loss in found.value["losses"]:
        table.add_row(loss["name"], *summary(loss["base"]))
    console = Console()
    console.print(table)
    console.print("negatives: effective ones   1 %, 10 %: share of the push on the hardest   weight: of the positives")
    for words in sentences(found.value).values():
        console.print(f"\n{words}", highlight=False)
    if found.page is not None:
        console.print(f"\nopen {found.page}", highlight=False)


def _show_claim(result: Any) -> None:
    print(result)


if __name__ == "__main__":
    sys.exit(main())
