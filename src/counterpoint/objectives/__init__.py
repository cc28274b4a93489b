"""What is optimised: losses on embeddings.

Three families share this floor:

* **Contrastive**, a positive term against a log partition over all pairs: :class:`NTXent` (two views of each item),
  :class:`SupCon` (all items of a class), :class:`InfoNCE` (queries, their keys, and a bank of negatives).
  SupCon whose classes are the items is NT-Xent; InfoNCE with the batch's other rows as its bank is one half of it.
* **Predictive**, no negatives: :class:`NegativeCosine` between a prediction and a constant target (BYOL, SimSiam).
* **Decorrelating**, statistics over the batch instead of pairs: :class:`BarlowTwins`, :class:`VICReg`.

All take **raw** embeddings and normalise them where their paper does; return a scalar (``reduction="none"`` gives the
terms where a loss is a mean of terms); accept float32, float64, bfloat16 and float16 (computed in float32); compute the
loss of the whole batch across processes; and raise ``ValueError`` naming the argument for what has no right answer.
"""

from counterpoint.objectives.barlow import BarlowTwins
from counterpoint.objectives.info_nce import InfoNCE
from counterpoint.objectives.ntxent import NTXent
from counterpoint.objectives.predictive import NegativeCosine
from counterpoint.objectives.supcon import SupCon
from counterpoint.objectives.vicreg import VICReg

__all__ = ["BarlowTwins", "InfoNCE", "NTXent", "NegativeCosine", "SupCon", "VICReg"]
