"""Backbones and heads: from views to features.

An :class:`Encoder` is a backbone that standardises its own input and knows how it was built, so that a saved one is a
folder of two files (``config.json``, ``model.safetensors``) that :func:`load` opens again without executing anything.
A :class:`Classifier` is one with a linear classifier on it, a :class:`MultimodalClassifier` of several modalities.
Backbones by name: ``convnet`` (small images, quick on a processor), ``mlp`` (vectors), or any model of timm.
Of several modalities, a :class:`MultimodalEncoder` has a :class:`Tower` each: a :class:`TextEncoder` behind a
:class:`Tokenizer`, :class:`SignalNet` or :class:`LogMelNet` for signals and sound.
Around it: :func:`mlp_head` for projection and prediction heads, :func:`make_head` for others by name, :class:`EMA` for
a momentum teacher, :class:`PairGate` for the coordinates that two classes share, :func:`gap_map` for where two towers
start, :class:`MissingModalityEmbedding` for what stands where an item lacks a modality, :func:`ensemble` for several
encoders as one. For auto-encoders, decoders of vectors, images and sentences on a :class:`GaussianLatent`, and
:func:`informative_embedding`, what a decoder knows just before its output. For captions, an :class:`AttentionalPooler`
of an encoder's tokens, a text decoder in two halves (:class:`UnimodalTextDecoder`, :class:`MultimodalDecoder`), and
:func:`generate`, which writes with any model of the next token. For texts with pictures in them:
:class:`PerceiverResampler` and :class:`QueryPool`, learned queries that read a sequence, :class:`GatedCrossAttention`
between the blocks of a language model, and :class:`InterleavedCollator`. To use on images what was trained on texts,
:class:`CrossModalTransfer` with an adapter, and :class:`TextGenerator`, which writes about a vector.
"""

from counterpoint.encoders.adapters import (
    Adapter,
    CovarianceNoiseAdapter,
    GapStatistics,
    GaussianNoiseAdapter,
    LinearAdapter,
    MeanShiftAdapter,
    RandomShiftAdapter,
    fit_adapters,
    make_adapter,
)
from counterpoint.encoders.attention import Attention, CrossBlock
from counterpoint.encoders.backbones import MLP, ConvNet, Given
from counterpoint.encoders.captioning import MultimodalDecoder, UnimodalTextDecoder
from counterpoint.encoders.classifier import (
    Classifier,
    MultimodalClassifier,
    Predictions,
    load_classifier,
    save_classifier,
)
from counterpoint.encoders.decoders import (
    Gaussian,
    GaussianLatent,
    ImageDecoder,
    TokenDecoder,
    TokenEncoder,
    VectorDecoder,
)
from counterpoint.encoders.ema import EMA
from counterpoint.encoders.encoder import Encoder, build, load
from counterpoint.encoders.ensemble import StageEnsemble, ensemble, integrate
from counterpoint.encoders.gap_map import gap_map, turn
from counterpoint.encoders.gated_attention import GatedCrossAttention
from counterpoint.encoders.gates import PairGate
from counterpoint.encoders.generation import Beams, beam_search, generate
from counterpoint.encoders.heads import ReweightingHead, SymmetricReLU, identity_head, make_head, mlp_head
from counterpoint.encoders.informative import InformativeEncoder, informative_embedding
from counterpoint.encoders.interleaved import InterleavedCollator, interleaved_labels
from counterpoint.encoders.language import TextGenerator, small_t5, with_words
from counterpoint.encoders.missing import MissingModalityEmbedding
from counterpoint.encoders.multihead import MultiHeadProjector
from counterpoint.encoders.multimodal import MultimodalEncoder, Tower, TowerEncoder
from counterpoint.encoders.poolers import AttentionalPooler, CascadePooler, Pooled, pool
from counterpoint.encoders.prototypes import Prototypes
from counterpoint.encoders.resampler import PerceiverAttention, PerceiverResampler, QueryPool
from counterpoint.encoders.signals import LogMelNet, SignalNet
from counterpoint.encoders.staged import StagedEncoder, StagedTower
from counterpoint.encoders.text import TextEncoder, TextTransformer, build_text_encoder
from counterpoint.encoders.tokenizer import Tokenizer
from counterpoint.encoders.transfer import CrossModalTransfer, EmbeddingToTokens, mean_of_texts

__all__ = [
    "EMA",
    "MLP",
    "Adapter",
    "Attention",
    "AttentionalPooler",
    "Beams",
    "CascadePooler",
    "Classifier",
    "ConvNet",
    "CovarianceNoiseAdapter",
    "CrossBlock",
    "CrossModalTransfer",
    "EmbeddingToTokens",
    "Encoder",
    "GapStatistics",
    "GatedCrossAttention",
    "Gaussian",
    "GaussianLatent",
    "GaussianNoiseAdapter",
    "Given",
    "ImageDecoder",
    "InformativeEncoder",
    "InterleavedCollator",
    "LinearAdapter",
    "LogMelNet",
    "MeanShiftAdapter",
    "MissingModalityEmbedding",
    "MultiHeadProjector",
    "MultimodalClassifier",
    "MultimodalDecoder",
    "MultimodalEncoder",
    "PairGate",
    "PerceiverAttention",
    "PerceiverResampler",
    "Pooled",
    "Predictions",
    "Prototypes",
    "QueryPool",
    "RandomShiftAdapter",
    "ReweightingHead",
    "SignalNet",
    "StageEnsemble",
    "StagedEncoder",
    "StagedTower",
    "SymmetricReLU",
    "TextEncoder",
    "TextGenerator",
    "TextTransformer",
    "TokenDecoder",
    "TokenEncoder",
    "Tokenizer",
    "Tower",
    "TowerEncoder",
    "UnimodalTextDecoder",
    "VectorDecoder",
    "beam_search",
    "build",
    "build_text_encoder",
    "ensemble",
    "fit_adapters",
    "gap_map",
    "generate",
    "identity_head",
    "informative_embedding",
    "integrate",
    "interleaved_labels",
    "load",
    "load_classifier",
    "make_adapter",
    "make_head",
    "mean_of_texts",
    "mlp_head",
    "pool",
    "save_classifier",
    "small_t5",
    "turn",
    "with_words",
]
