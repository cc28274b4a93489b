"""Several processes for a test: each does the same work on its part, and a failure in any is the test's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_processes(work: Callable[..., None], folder: Path, world: int, *arguments: Any) -> None:
    """Call ``work(rank, *arguments)`` in each of ``world`` gloo processes; ``folder`` is where they meet.

    Args:
        work: a function of a module, so that the processes find it.
    """
    mp.spawn(_enter, (work, folder / "store", world, arguments), nprocs=world)


def _enter(rank: int, work: Callable[..., None], store: Path, world: int, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    work(rank, *arguments)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # one time in ten, after all of this, a thread of torch's aborts the interpreter's own exit
