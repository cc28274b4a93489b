"""The command ``counterpoint claim``: measure, and bring the page of results up to date."""

from __future__ import annotations

from counterpoint.experiments.claims.ledger import write_results
from counterpoint.experiments.claims.measure import ClaimResult, run_claim


def claim(
    key: str,
    *,
    only: str | None = None,
    seeds: int | None = None,
    root: str | None = None,
    out: str | None = None,
    resume: bool = True,
    jobs: int = 1,
    write: bool = True,
    progress: bool = True,
) -> ClaimResult:
    """Measure a paper's claim here and now: its method against its baseline, with an interval and a verdict.

    It holds if the 95 % interval of the difference lies above zero on all its data, fails if it lies below on any, and
    is inconclusive otherwise. A failed claim is a result. With all the seeds that the claim asks for, the result goes
    to claims/results and RESULTS.md; a trial with fewer stays in the folder of its runs.

    Args:
        key: number of the paper, key of a baseline (B1), name of the claim, or path of a claim's file.
        only: settings to run, separated by commas; default all.
        seeds: how many; default those of the claim.
        root: where the data lie on this machine, for settings whose data are yours.
        out: folder of the runs; default ``runs/claims/<name>``.
        resume: keep the runs that are finished and go on with those that are not; false starts them all again.
        jobs: runs at a time, each on its share of the cores.
        write: bring RESULTS.md up to date where the result counts.
        progress: show how far each run is.

    Returns:
        the :class:`~counterpoint.experiments.claims.ClaimResult`.

    Raises:
        ValueError: unknown claim or setting; arms that were tested on different items or lack the score; runs in
            ``out`` with other settings.
        FileNotFoundError: there are no claims here.
        FolderInUse: another process is writing into ``out``.
    """
    result = run_claim(key, seeds=seeds, out=out, only=only, root=root, resume=resume, progress=progress, jobs=jobs)
    if write and result.counts and result.file is not None:
        folder = result.file.parent
        write_results(folder, folder.parents[1] / "RESULTS.md")
    return result
