"""MV-DHEL uses more of the embedding space, the more views it sees (Koromilas et al. 2025).

What is compared. All arms share encoder, head (to 32 dimensions, batch norm at its end as in the official code),
temperature 0.2 (the default of the official losses), batch size, epochs and so steps, first weights and order of the
data. *digits-rank-...* measure the effective rank of the projection z, at most 32. Two of them compare MV-DHEL with
itself at fewer views: what differs there is the number of views alone, and with it the images that a step works
through, which is what the claim is about. The others compare it at four views with the rival on the same four views,
NT-Xent averaged over all pairs of them. Nothing was tuned.

It would fail where more views do not raise the rank, or where the pairwise loss makes as much of four views.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from counterpoint.experiments.claims import Claim, Setting

SHARED: dict[str, Any] = {
    "options": {"temperature": 0.2, "dim": 32},
    "layer": "projection",
    "encoder": "mlp",
    "epochs": 15,
    "batch_size": 128,
}


def views(count: int) -> dict[str, Any]:
    return {"views": {"auto": {"count": count}}}


def more_views(many: int, few: int) -> Setting:
    """MV-DHEL at ``many`` views against itself at ``few``."""
    return digits(
        name=f"digits-rank-{many}-over-{few}-views",
        metric="effective_rank",
        arms={name: {"method": "mv_dhel", **views(count)} for name, count in (("method", many), ("baseline", few))},
        shared=SHARED,
        differs=("views",),
        notes="Effective rank of the projection, of 32; a step of the method works through more views. Not tuned",
    )


digits = partial(Setting, data="digits")
against_pairs = partial(
    digits,
    arms={"method": {"method": "mv_dhel"}, "baseline": {"method": "pairwise_views"}},
    shared={**SHARED, **views(4)},
    notes="Both arms see the same four views; measured on the projection (32 dimensions). Not tuned",
)

CLAIM = Claim(
    paper=22,
    name="mv-dhel",
    title="MV-DHEL's effective rank grows with the views and exceeds that of pairwise NT-Xent",
    statement=(
        "With one term an item and uniformity decoupled from alignment, MV-DHEL makes use of additional views: it "
        "fills more of the embedding space than with two views, and more than NT-Xent averaged over pairs of views, "
        "and its embeddings classify better."
    ),
    source="Koromilas et al. 2025, section V, experiments: two to six views on CIFAR-10, CIFAR-100 and ImageNet",
    settings=[
        more_views(4, 2),
        more_views(6, 4),
        against_pairs(name="digits-rank-over-pairs", metric="effective_rank"),
        against_pairs(name="digits-probe-over-pairs", metric="probe"),
    ],
)
