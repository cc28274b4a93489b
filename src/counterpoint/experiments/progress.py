"""Progress of a training: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable

Tell = Callable[[float, float, float], None]


def bar(title: str) -> Tell:
    """A progress bar on a terminal, a line every tenth of the way elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        return _lines(title)
    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %  loss {task.fields[loss]:.4f}  {task.fields[speed]:,.0f} items/s"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    task = shown.add_task(title, total=1.0, loss=float("nan"), speed=0.0)
    shown.start()

    def tell(done: float, loss: float, speed: float) -> None:
        shown.update(task, completed=done, loss=loss, speed=speed)
        if done >= 1:
            shown.stop()

    return tell


def _lines(title: str) -> Tell:
    told = 0.0

    def tell(done: float, loss: float, speed: float) -> None:
        nonlocal told
        if done >= told:
            print(f"{title}: {done:4.0%}  loss {loss:.4f}  {speed:,.0f} items/s", file=sys.stderr, flush=True)
            told = done + 0.1

    return tell
