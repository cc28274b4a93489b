"""Measure what a paper claims: its method against its baseline, on one budget, with an interval and a verdict.

A claim is an experiment that is written down before it is run: a file in ``claims/`` that defines
``CLAIM = Claim(...)`` with one :class:`Setting` for each kind of data. A setting has two *arms*, the paper's method and
what it is compared with. Mostly both are arguments of :func:`counterpoint.fit` that differ in one thing; everything
else must be equal, or be named in ``differs``, and this is checked: a method that was tuned beats a baseline that was
not, whatever the paper.

Both arms run with the same seeds, and a seed gives both the same split, labels, order of the data and first weights.
The effect is the mean of *method minus baseline* over seeds and test items, with the 95 % interval of
:func:`counterpoint.evaluation.significance.difference`, which speaks of new seeds and new items. The verdict follows
from the interval alone:

==============  ========================================================================================
holds           the whole interval lies above ``at_least``, the smallest effect that counts
fails           the whole interval lies below it; at zero itself too, if ``at_least`` is zero
inconclusive    neither: the seeds and items at hand cannot tell. So is every measurement with one seed
not run         the data are not on this machine
==============  ========================================================================================

A claim with several settings fails if any of them fails, holds only if **all** of them hold, and is inconclusive
otherwise: a setting that was not run is never counted as held. Since all must hold, being many makes it no easier, and
the intervals need no correction.
"""

from counterpoint.experiments.claims.command import claim
from counterpoint.experiments.claims.define import ARMS, Arm, Claim, DataMissing, Setting, overall
from counterpoint.experiments.claims.files import claims, claims_folder, find
from counterpoint.experiments.claims.ledger import write_results
from counterpoint.experiments.claims.measure import ClaimResult, run_claim

__all__ = [
    "ARMS",
    "Arm",
    "Claim",
    "ClaimResult",
    "DataMissing",
    "Setting",
    "claim",
    "claims",
    "claims_folder",
    "find",
    "overall",
    "run_claim",
    "write_results",
]
