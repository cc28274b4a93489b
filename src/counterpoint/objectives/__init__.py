"""What is optimised: losses on embeddings.

Three families share this floor:

* **Contrastive**, a positive term against a log partition over all pairs: :class:`NTXent` (two views of each item),
  :class:`SupCon` (all items of a class), :class:`InfoNCE` (queries, their keys, and a bank of negatives), and what
  papers changed in them. SupCon whose classes are the items is NT-Xent; InfoNCE with the batch's other rows as its bank
  is one half of it. Without the positive in the denominator: :class:`DCL`, :class:`DCLW`. For any number of views:
  :class:`MVInfoNCE`, :class:`MVDHEL`, :class:`PolyView`, :class:`PairwiseAverage`, :class:`AverageOfOthers`.
* **Ranking**: :class:`GroCo` sorts positives above negatives by a :class:`DifferentiableSort`.
* **Predictive**, no negatives: :class:`NegativeCosine` between a prediction and a constant target (BYOL, SimSiam).
* **Decorrelating**, statistics over the batch instead of pairs: :class:`BarlowTwins`, :class:`VICReg`.

All take **raw** embeddings and normalise them where their paper does; return a scalar (``reduction="none"`` gives the
terms where a loss is a mean of terms); accept float32, float64, bfloat16 and float16 (computed in float32); compute the
loss of the whole batch across processes; and raise ``ValueError`` naming the argument for what has no right answer.
"""

from counterpoint.objectives.barlow import BarlowTwins
from counterpoint.objectives.dcl import DCL, DCLW, npc_multiplier
from counterpoint.objectives.groco import GroCo
from counterpoint.objectives.info_nce import InfoNCE
from counterpoint.objectives.multiview import MVDHEL, AverageOfOthers, MVInfoNCE, PairwiseAverage, PolyView
from counterpoint.objectives.ntxent import NTXent
from counterpoint.objectives.predictive import NegativeCosine
from counterpoint.objectives.sorting import DifferentiableSort
from counterpoint.objectives.spectral import SpectralContrastive
from counterpoint.objectives.supcon import SupCon
from counterpoint.objectives.vicreg import VICReg

__all__ = [
    "DCL",
    "DCLW",
    "MVDHEL",
    "AverageOfOthers",
    "BarlowTwins",
    "DifferentiableSort",
    "GroCo",
    "InfoNCE",
    "MVInfoNCE",
    "NTXent",
    "NegativeCosine",
    "PairwiseAverage",
    "PolyView",
    "SpectralContrastive",
    "SupCon",
    "VICReg",
    "npc_multiplier",
]
