"""What the figures of a benchmark depend on, and how they are summed up."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import median


def environment(*packages: str) -> dict[str, str | int]:
    """Processor, cores, threads, vector instructions and versions."""
    from importlib.metadata import version

    import torch

    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", *packages)},
    }


def processor() -> str:
    """The processor's name as the system tells it."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def spread(values: Sequence[float]) -> dict[str, float]:
    """Least, median and largest."""
    return {"min": min(values), "median": median(values), "max": max(values)}


def shown(of: dict[str, float], digits: int = 0) -> str:
    """A :func:`spread` in a table."""
    middle, low, high = (f"{of[name]:,.{digits}f}" for name in ("median", "min", "max"))
    return middle if low == high else f"{middle} ({low} to {high})"


def sentence(told: dict[str, str | int]) -> str:
    """An :func:`environment` as a line of Markdown."""
    return "Measured on: " + ", ".join(f"{name} {value}" for name, value in told.items()) + "."
