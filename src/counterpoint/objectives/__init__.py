"""What is optimised: losses on embeddings.

These families share this floor:

* **Contrastive**, a positive term against a log partition over all pairs: :class:`NTXent` (two views of each item),
  :class:`SupCon` (all items of a class), :class:`InfoNCE` (queries, their keys, and a bank of negatives).
  SupCon whose classes are the items is NT-Xent; InfoNCE with the batch's other rows as its bank is one half of it.
  What papers changed in them:

  - the positive out of the denominator: :class:`DCL`, :class:`DCLW`;
  - any number of views: :class:`MVInfoNCE`, :class:`MVDHEL`, :class:`PolyView`, :class:`PairwiseAverage`,
    :class:`AverageOfOthers`;
  - only the hardest negatives, or all alike: :class:`HardContrastive`, :class:`SimpleContrastive`;
  - positives and negatives each with a softmax of their own: :class:`CACR`, :class:`CACRQueue`, :class:`CACRMoCoV3`;
  - positives of any class, compared behind gates: :class:`ArbitraryPairs`;
  - a second anchor for each key, invented from the first: :class:`HallucinatedNTXent`;
  - a normaliser, and a temperature, remembered for each item: :class:`SogCLR`, :class:`ISogCLR`, and for pairs of
    modalities :class:`BimodalSogCLR`, :class:`BimodalISogCLR`;
  - negatives from an anchor's own group alone: :class:`GroupNTXent`, and for two modalities :class:`GroupInfoNCE`;
  - captions against rewrites of themselves that are not true: :class:`HardNegativeCLIPLoss`, and with the local
    contrasts :class:`ImageGroundedContrast` and :class:`TextGroundedContrast` and a teacher, :class:`DeGLALoss`;
  - the more weight, the less probable a positive still is: :class:`FocalSupCon`, and with a classifier
    :class:`CoreTuning`;
  - a target that is a number, with hard pairs mixed from the embeddings: :class:`SupReMix`;
  - positives graded by a frozen modality: :class:`CWCLLoss`; graded in any other way: :func:`soft_target_contrastive`;
  - between two modalities, with the terms that close their gap: :class:`CLIPUniformAlignLoss`, whose parts are
    :class:`AlignmentLoss`, :class:`UniformityLoss` and :class:`CrossUniformityLoss`;
  - several views of an image and of its caption: :class:`MultiViewCLIP`;
  - any number of modalities, all at once: :class:`SymileLoss`, or pair by pair: :class:`PairwiseCLIPLoss`;
  - mixtures of a modality that find both of their sources in another: :class:`M3CoLoss`, with what follows it,
    :class:`SoftTargetContrastiveLoss`, in :class:`MultimodalMixupContrastive`;
  - a temperature for each pair: :class:`AMCL`, :class:`AMCLSimSiam`, :class:`AMCLBarlow`.
* **Captioning**: :class:`CosMoLoss`, the next tokens of texts with pictures in them, with a contrast beside it.
* **Ranking**: :class:`GroCo` sorts positives above negatives by a :class:`DifferentiableSort`.
* **Generative**, on the code and the decoder of an auto-encoder: :class:`MIM`, :class:`ContrastiveMIM` with its
  :class:`ContrastiveMIMTerm`, :class:`ELBO`; what a decoder's output says of the data: :class:`BernoulliLikelihood`,
  :class:`GaussianLikelihood`, :class:`TokenLikelihood`. On a text decoder: :class:`CaptionLoss` and, with the contrast
  of images and texts beside it, :class:`CoCaLoss`.
* **Clustering**: :class:`SwAV` predicts one view's assignment to prototypes from another's, :class:`CrossModalSwAV`
  that of an image to the captions of the batch.
* **Predictive**, no negatives: :class:`NegativeCosine` between a prediction and a constant target (BYOL, SimSiam),
  :class:`CrossModalPrediction` between modalities, :class:`FeatureDistillation` between vectors of a student and its
  teacher.
* **Decorrelating**, statistics over the batch instead of pairs: :class:`BarlowTwins`, :class:`VICReg`;
  :class:`SpectralContrastive` can be read as either. Between modalities :class:`CrossModalBarlow`.

What a loss sees in a step, :func:`score_statistics` tells: positives, negatives, their spread.

All take **raw** embeddings and normalise them where their paper does; return a scalar (``reduction="none"`` gives the
terms where a loss is a mean of terms); accept float32, float64, bfloat16 and float16 (computed in float32); compute the
loss of the whole batch across processes; and raise ``ValueError`` naming the argument for what has no right answer.
"""

from counterpoint.objectives.amcl import AMCL, AMCLBarlow, AMCLSimSiam, PairTemperature
from counterpoint.objectives.arbitrary import ArbitraryPairs
from counterpoint.objectives.barlow import BarlowTwins
from counterpoint.objectives.cacr import CACR, CACRMoCoV3, CACRQueue
from counterpoint.objectives.coca import CaptionLoss, CoCaLoss
from counterpoint.objectives.core_tuning import CoreTuning, FocalSupCon
from counterpoint.objectives.cosmo import CosMoLoss
from counterpoint.objectives.cwcl import CWCLLoss, affine_cosine
from counterpoint.objectives.dcl import DCL, DCLW, npc_multiplier
from counterpoint.objectives.degla import (
    DeGLALoss,
    FeatureDistillation,
    HardNegativeCLIPLoss,
    ImageGroundedContrast,
    TextGroundedContrast,
)
from counterpoint.objectives.gap import AlignmentLoss, CLIPUniformAlignLoss, CrossUniformityLoss, UniformityLoss
from counterpoint.objectives.groco import GroCo
from counterpoint.objectives.groups import GroupInfoNCE, GroupNTXent
from counterpoint.objectives.hallucination import HallucinatedNTXent
from counterpoint.objectives.hard import HardContrastive, SimpleContrastive, penalty_entropy, relative_penalty
from counterpoint.objectives.info_nce import InfoNCE
from counterpoint.objectives.item_state import dro_temperature
from counterpoint.objectives.likelihoods import (
    BernoulliLikelihood,
    GaussianLikelihood,
    TokenLikelihood,
    log_normal,
)
from counterpoint.objectives.m3col import M3CoLoss, MultimodalMixupContrastive, SoftTargetContrastiveLoss
from counterpoint.objectives.mim import ELBO, MIM, ContrastiveMIM, ContrastiveMIMTerm
from counterpoint.objectives.multiview import MVDHEL, AverageOfOthers, MVInfoNCE, PairwiseAverage, PolyView
from counterpoint.objectives.ntxent import NTXent
from counterpoint.objectives.predictive import NegativeCosine
from counterpoint.objectives.rocket import CrossModalBarlow, CrossModalPrediction, CrossModalSwAV, MultiViewCLIP
from counterpoint.objectives.soft_targets import (
    soft_target_contrastive,
    soft_target_terms,
    softmax_means,
    target_means,
)
from counterpoint.objectives.sogclr import BimodalISogCLR, BimodalSogCLR, ISogCLR, SogCLR
from counterpoint.objectives.sorting import DifferentiableSort
from counterpoint.objectives.spectral import SpectralContrastive
from counterpoint.objectives.statistics import ScoreStatistics, score_statistics
from counterpoint.objectives.supcon import SupCon
from counterpoint.objectives.supremix import SupReMix
from counterpoint.objectives.swav import SwAV
from counterpoint.objectives.symile import (
    PairwiseCLIPLoss,
    SymileLoss,
    mip_scores,
    multilinear_inner_product,
    pairwise_scores,
)
from counterpoint.objectives.vicreg import VICReg

__all__ = [
    "AMCL",
    "CACR",
    "DCL",
    "DCLW",
    "ELBO",
    "MIM",
    "MVDHEL",
    "AMCLBarlow",
    "AMCLSimSiam",
    "AlignmentLoss",
    "ArbitraryPairs",
    "AverageOfOthers",
    "BarlowTwins",
    "BernoulliLikelihood",
    "BimodalISogCLR",
    "BimodalSogCLR",
    "CACRMoCoV3",
    "CACRQueue",
    "CLIPUniformAlignLoss",
    "CWCLLoss",
    "CaptionLoss",
    "CoCaLoss",
    "ContrastiveMIM",
    "ContrastiveMIMTerm",
    "CoreTuning",
    "CosMoLoss",
    "CrossModalBarlow",
    "CrossModalPrediction",
    "CrossModalSwAV",
    "CrossUniformityLoss",
    "DeGLALoss",
    "DifferentiableSort",
    "FeatureDistillation",
    "FocalSupCon",
    "GaussianLikelihood",
    "GroCo",
    "GroupInfoNCE",
    "GroupNTXent",
    "HallucinatedNTXent",
    "HardContrastive",
    "HardNegativeCLIPLoss",
    "ISogCLR",
    "ImageGroundedContrast",
    "InfoNCE",
    "M3CoLoss",
    "MVInfoNCE",
    "MultiViewCLIP",
    "MultimodalMixupContrastive",
    "NTXent",
    "NegativeCosine",
    "PairTemperature",
    "PairwiseAverage",
    "PairwiseCLIPLoss",
    "PolyView",
    "ScoreStatistics",
    "SimpleContrastive",
    "SoftTargetContrastiveLoss",
    "SogCLR",
    "SpectralContrastive",
    "SupCon",
    "SupReMix",
    "SwAV",
    "SymileLoss",
    "TextGroundedContrast",
    "TokenLikelihood",
    "UniformityLoss",
    "VICReg",
    "affine_cosine",
    "dro_temperature",
    "log_normal",
    "mip_scores",
    "multilinear_inner_product",
    "npc_multiplier",
    "pairwise_scores",
    "penalty_entropy",
    "relative_penalty",
    "score_statistics",
    "soft_target_contrastive",
    "soft_target_terms",
    "softmax_means",
    "target_means",
]
