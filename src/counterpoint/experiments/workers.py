"""Where the fits of a comparison run: in turn, in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from counterpoint.experiments.run import Run

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

Outcome = tuple[str, BaseException | None]
Work = list[tuple[str, Callable[[], Run]]]


def in_turn(work: Work, width: int, threads: int) -> Iterator[Outcome]:
    """One after the other, in this process."""
    for label, call in work:
        yield label, _attempt(call)


def _attempt(call: Callable[[], Run]) -> BaseException | None:
    try:
        call()
    except Exception as error:  # one method's failure must not cost the others their result
        return error
    return None


def in_processes(work: Work, width: int, threads: int) -> Iterator[Outcome]:
    """In fresh processes, so that no state of one fit reaches another."""
    from concurrent.futures import as_completed

    import cloudpickle

    with process_pool(width) as pool:
        running = {pool.submit(_unpack, cloudpickle.dumps(call)): label for label, call in work}
        for done in as_completed(running):
            yield running[done], done.exception() or done.result()


@contextmanager
def process_pool(width: int, prepare: Callable[[], Any] | None = None) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes, which die with this one and begin nothing more once an error leaves the block.

    Each computes on its share of the cores: threads of several that wait for the same core wait for each other too,
    and take many times as long.

    Args:
        width: how many processes.
        prepare: called once in each of them before its first task; it has to pickle.
    """
    import multiprocessing
    import os
    from concurrent.futures import ProcessPoolExecutor

    context, share = multiprocessing.get_context("spawn"), max(1, (os.cpu_count() or 1) // width)
    with ProcessPoolExecutor(width, mp_context=context, initializer=_start, initargs=(share, prepare)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start(threads: int, prepare: Callable[[], Any] | None) -> None:
    """Ask Linux to end this worker when the process that started it dies, even by kill -9; share the cores; prepare."""
    import contextlib
    import ctypes
    import os
    import signal

    pr_set_pdeathsig = 1  # linux/prctl.h
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").prctl(pr_set_pdeathsig, signal.SIGKILL)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # of libraries that are yet to come, and of processes that it starts
    import torch  # takes seconds, in which the other process may die
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    threadpool_limits(threads)  # of libraries that are here; it stays
    if prepare is not None:
        prepare()


def _unpack(packed: bytes) -> BaseException | None:
    import cloudpickle

    return _attempt(cloudpickle.loads(packed))


def on_ray(work: Work, width: int, threads: int) -> Iterator[Outcome]:
    """Spread over a Ray cluster; each fit takes ``threads`` of its processors."""
    try:
        import ray
    except ImportError as error:
        raise ImportError("on: 'ray' needs: pip install 'counterpoint[ray]'") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False)  # joins the cluster of RAY_ADDRESS where there is one
    remote = ray.remote(num_cpus=threads)(_attempt)
    running = {remote.remote(call): label for label, call in work}
    while running:
        (done,), _ = ray.wait(list(running), num_returns=1)
        label = running.pop(done)
        try:
            yield label, ray.get(done)
        except ray.exceptions.RayError as error:
            yield label, error


class Ticker:
    """A bar on a terminal, a line per fit elsewhere."""

    def __init__(self, total: int, wanted: bool) -> None:
        self.total, self.wanted, self.done, self.started = total, wanted, 0, time.monotonic()

    def __enter__(self) -> Callable[[str, BaseException | None], None]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self.bar = None
        if self.wanted and console.is_terminal:
            columns = [TextColumn("fits"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
            self.bar = Progress(*columns, console=console, transient=True)
            self.task = self.bar.add_task("", total=self.total)
            self.bar.start()
        return self.tick

    def tick(self, label: str, error: BaseException | None) -> None:
        self.done += 1
        outcome = "done" if error is None else f"failed: {type(error).__name__}: {error}"
        if self.bar is not None:
            self.bar.console.print(f"{label}: {outcome}", highlight=False)
            self.bar.advance(self.task)
        elif self.wanted:
            seconds = time.monotonic() - self.started
            print(f"{self.done:3d}/{self.total}  {seconds:6.1f} s  {label}: {outcome}", file=sys.stderr, flush=True)

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.stop()
