"""What must hold for every objective on any embeddings: symmetries, gradients, limits, and where one is another."""

import inspect
import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from counterpoint import objectives
from counterpoint.objectives import (
    AMCL,
    CACR,
    DCL,
    DCLW,
    MVDHEL,
    AlignmentLoss,
    AMCLBarlow,
    AMCLSimSiam,
    ArbitraryPairs,
    AverageOfOthers,
    BarlowTwins,
    BimodalISogCLR,
    BimodalSogCLR,
    CACRMoCoV3,
    CACRQueue,
    CLIPUniformAlignLoss,
    CoCaLoss,
    ContrastiveMIMTerm,
    CoreTuning,
    CosMoLoss,
    CrossModalBarlow,
    CrossModalPrediction,
    CrossModalSwAV,
    CrossUniformityLoss,
    CWCLLoss,
    DeGLALoss,
    FocalSupCon,
    GroCo,
    GroupInfoNCE,
    GroupNTXent,
    HallucinatedNTXent,
    HardContrastive,
    HardNegativeCLIPLoss,
    ImageGroundedContrast,
    InfoNCE,
    ISogCLR,
    M3CoLoss,
    MultimodalMixupContrastive,
    MultiViewCLIP,
    MVInfoNCE,
    NegativeCosine,
    NTXent,
    PairwiseAverage,
    PairwiseCLIPLoss,
    PolyView,
    SimpleContrastive,
    SoftTargetContrastiveLoss,
    SogCLR,
    SpectralContrastive,
    SupCon,
    SupReMix,
    SwAV,
    SymileLoss,
    TextGroundedContrast,
    UniformityLoss,
    VICReg,
)
from counterpoint.objectives.inputs import normalize as unit


def bank(z):
    """Seven negatives that depend on the dimension alone, and that every type holds exactly."""
    return torch.randn(7, z.shape[-1], generator=torch.Generator().manual_seed(3)).bfloat16().to(z.dtype)


def classes(items):
    """Labels with repetitions, and two unlabelled items where there is room."""
    return torch.arange(items) * 5 % 3 if items < 5 else torch.tensor([-1, -1, *(i % 3 for i in range(items - 2))])


def views_of(loss, a, b, y):
    """Objectives of any number of views take them stacked."""
    return loss(torch.stack([a, b]))


def pair_of(loss, a, b, y):
    return loss(a, b)


def with_opposites(loss, a, b, y):
    """A second anchor that every type holds exactly and that turns with the first."""
    return loss(a, -a, b)


def rewrites(a, b):
    """Of each pair a vector near the first and one opposite to the second; only the angle of the pair is in them."""
    u, w = (unit(x if x.dtype.itemsize > 2 else x.float()) for x in (a, b))
    return torch.stack([2 * u + w, -w], 1)


def with_rewrites(loss, a, b, y):
    """Two negatives of each caption that turn with it, of which some captions lack one."""
    return loss(a, b, rewrites(a, b), mask=torch.stack([torch.ones_like(y).bool(), y != 1], 1))


def distilled(loss, a, b, y):
    """Images and captions are each other's teacher."""
    return loss(a, b, rewrites(a, b), b, a, rewrites(b, a))["loss"]


def modalities(loss, a, b, y):
    return loss([a, b])


def mixed(loss, a, b, y):
    """Mixtures with the item itself, which are no mixtures whatever their shares."""
    return loss(a, b, torch.arange(len(a)), torch.linspace(0, 1, len(a)))


def gated(loss, a, b, y):
    """Targets that follow from the classes, behind gates that do too."""
    own = y.clamp(min=0)
    rising = torch.linspace(0.1, 1, a.shape[1])
    table = torch.stack([rising, rising.flip(0), torch.full_like(rising, 0.5)])
    return loss(a, b, own, (own + 1) % 3, own, table[own % 3])


def by_index(kind):
    """An objective with state by item, new at each call: as in a first epoch."""
    return lambda loss, a, b, y: kind(len(a))(a, b, torch.arange(len(a)))


def warmth(temperature):
    """A temperature network that has learned nothing: the same for all pairs."""
    return lambda x, y: x.new_full(torch.broadcast_shapes(x.shape[:-1], y.shape[:-1]), temperature)


def headed(kind, **fixed):
    """An objective of heads whose pairs are all at one temperature."""
    return lambda temperature=0.5, **k: kind(warmth(temperature), **fixed, **k)


def of_heads(loss, a, b, y):
    return loss(torch.stack([a, a]), torch.stack([b, b]))


def of_a_head(loss, a, b, y):
    return loss(a[None], b[None])


def tuned(loss, a, b, y):
    """Beside a classifier that says nothing; unlabelled items are of the first class."""
    targets = torch.nn.functional.one_hot(torch.cat([y, y]).clamp(min=0)).to(a.dtype)
    return loss(torch.zeros_like(targets), torch.cat([a, b]), targets)


def captioned(loss, a, b, y):
    """Captions of one word that depend on nothing."""
    words = torch.ones(len(a), 1, dtype=torch.int64)
    return loss(a, b, torch.zeros(len(a), 1, 3, dtype=torch.float64 if a.dtype == torch.float64 else None), words)


def interleaved(loss, a, b, y):
    """Texts of two words that depend on nothing, those of a class saying the same."""
    words = torch.ones(len(a), 2, dtype=torch.int64)
    logits = torch.zeros(len(a), 2, 3, dtype=torch.float64 if a.dtype == torch.float64 else None)
    return loss(a, b, logits, words, captions=y)


def prototypes(loss, a, b, y):
    """Scores against seven prototypes, of which there may be more than items."""
    c = unit(bank(a).double()).to(a.dtype if a.dtype.itemsize > 2 else torch.float32)
    return loss([unit(x.to(c.dtype)) @ c.T for x in (a, b)])


@dataclass(frozen=True)
class Case:
    """An objective as a function of two views, and what the paper's formula says about it."""

    kind: Callable[..., Any]
    call: Callable[..., torch.Tensor] = pair_of  # (objective, z1, z2, labels) -> loss
    cosine: bool = True  # only directions count
    swap: bool = True  # the views are interchangeable
    terms: int | None = None  # a mean of so many terms an item
    smooth: bool = True  # the gradient is that of the value: nothing is held constant, sorted or selected
    turns: bool = True  # a rotation changes nothing: no bank, no prototypes

    def __call__(self, z1, z2, labels=None, **options):
        return self.call(self.kind(**options), z1, z2, classes(len(z1)) if labels is None else labels)


CASES = {
    "NTXent": Case(NTXent, terms=2),
    "SupCon": Case(SupCon, lambda loss, a, b, y: loss(torch.stack([a, b]), y), terms=2),
    "SupCon first": Case(
        lambda **k: SupCon(anchors="first", **k),
        lambda loss, a, b, y: loss(torch.stack([a, b]), y),
        swap=False,
        terms=1,
    ),
    "SupCon unlabelled": Case(SupCon, views_of, terms=2),
    "InfoNCE": Case(InfoNCE, lambda loss, a, b, y: loss(a, b, bank(a)), swap=False, terms=1, turns=False),
    "InfoNCE decoupled": Case(
        lambda **k: InfoNCE(positive_in_denominator=False, **k),
        lambda loss, a, b, y: loss(a, b, bank(a)),
        swap=False,
        terms=1,
        turns=False,
    ),
    "NegativeCosine": Case(NegativeCosine, terms=1),
    "BarlowTwins": Case(BarlowTwins, cosine=False, turns=False),
    "VICReg": Case(VICReg, cosine=False, turns=False),
    "DCL": Case(DCL, terms=2),
    "DCL with a bank": Case(DCL, lambda loss, a, b, y: loss(a, b, bank(a)), swap=False, terms=1, turns=False),
    "DCLW": Case(lambda **k: DCLW(detach_weight=False, **k), terms=2),
    "MVInfoNCE": Case(MVInfoNCE, views_of, terms=1),
    "MVInfoNCE as coded": Case(lambda **k: MVInfoNCE(variant="code", **k), views_of, terms=1),
    "MVDHEL": Case(MVDHEL, views_of, terms=1),
    "PairwiseAverage": Case(PairwiseAverage, views_of),
    "AverageOfOthers": Case(AverageOfOthers, views_of, terms=4),
    "PolyView": Case(PolyView, views_of, terms=2),
    "HardContrastive": Case(lambda **k: HardContrastive(fraction=0.5, **k), terms=2, smooth=False),
    "SimpleContrastive": Case(SimpleContrastive, terms=2),
    "CACR": Case(CACR, views_of, swap=False),
    "CACRQueue": Case(
        CACRQueue,
        lambda loss, a, b, y: loss(torch.stack([a, b]), torch.stack([a, b]), bank(a)),
        turns=False,
        smooth=False,
    ),
    "CACRMoCoV3": Case(CACRMoCoV3, lambda loss, a, b, y: loss(torch.stack([a, b]), torch.stack([a, b])), smooth=False),
    "FocalSupCon": Case(FocalSupCon, lambda loss, a, b, y: loss(torch.cat([a, b]), torch.cat([y, y])), terms=2),
    "FocalSupCon by all": Case(
        lambda **k: FocalSupCon(normalize_by="all", **k),
        lambda loss, a, b, y: loss(torch.cat([a, b]), torch.cat([y.abs(), y.abs()])),
        terms=2,
    ),
    "GroCo": Case(GroCo, views_of, terms=2, smooth=False),
    "ArbitraryPairs": Case(ArbitraryPairs, swap=False, terms=1),
    "ArbitraryPairs gated": Case(ArbitraryPairs, gated, swap=False, turns=False),
    "HallucinatedNTXent": Case(HallucinatedNTXent, with_opposites, swap=False, terms=4),
    "HallucinatedNTXent masked": Case(
        lambda **k: HallucinatedNTXent(mask_duplicates=True, **k), with_opposites, swap=False, terms=4
    ),
    "GroupNTXent": Case(GroupNTXent, lambda loss, a, b, y: loss(a, b, y), terms=2),
    "GroupInfoNCE": Case(GroupInfoNCE, lambda loss, a, b, y: loss(a, b, y), terms=1),
    "AlignmentLoss": Case(AlignmentLoss, terms=1),
    "UniformityLoss": Case(UniformityLoss, lambda loss, a, b, y: loss(torch.cat([a, b]))),
    "CrossUniformityLoss": Case(CrossUniformityLoss),
    "CLIPUniformAlignLoss": Case(CLIPUniformAlignLoss),
    "CLIPUniformAlignLoss crossed": Case(lambda **k: CLIPUniformAlignLoss(w_cross=1, **k)),
    "CWCLLoss": Case(CWCLLoss, swap=False, terms=1, smooth=False),
    "CWCLLoss weighted": Case(lambda **k: CWCLLoss(reverse="weighted", **k), swap=False, terms=1, smooth=False),
    "CoCaLoss": Case(CoCaLoss, captioned),
    "CosMoLoss": Case(CosMoLoss, interleaved),
    "SymileLoss": Case(lambda **k: SymileLoss("all", **k), modalities, terms=2),
    "PairwiseCLIPLoss": Case(PairwiseCLIPLoss, modalities),
    "M3CoLoss": Case(M3CoLoss, mixed, terms=1),
    "SoftTargetContrastiveLoss": Case(SoftTargetContrastiveLoss, swap=False, terms=1),
    "SogCLR": Case(lambda **k: SimpleNamespace(), by_index(SogCLR), smooth=False),
    "ISogCLR": Case(lambda **k: SimpleNamespace(), by_index(ISogCLR), smooth=False),
    "BimodalSogCLR": Case(lambda **k: SimpleNamespace(), by_index(BimodalSogCLR), smooth=False),
    "BimodalISogCLR": Case(lambda **k: SimpleNamespace(), by_index(BimodalISogCLR), smooth=False),
    "AMCL": Case(headed(AMCL), of_heads, terms=2, smooth=False),
    "AMCL smooth": Case(headed(AMCL, negative="logsumexp"), of_a_head, terms=2),
    "AMCLSimSiam": Case(headed(AMCLSimSiam), lambda loss, a, b, y: loss(a[None], b[None], a, b), terms=1, smooth=False),
    "AMCLBarlow": Case(headed(AMCLBarlow), of_heads, cosine=False, turns=False),
    "MultimodalMixupContrastive": Case(MultimodalMixupContrastive, modalities),
    "CoreTuning": Case(CoreTuning, tuned),
    "SpectralContrastive": Case(SpectralContrastive, cosine=False),
    "SupReMix": Case(
        lambda **k: SupReMix(mix_neg=False, **k),
        lambda loss, a, b, y: loss(torch.stack([a, b]), y),
        terms=2,
        smooth=False,
    ),
    "SwAV": Case(SwAV, prototypes, turns=False, smooth=False),
    "HardNegativeCLIPLoss": Case(HardNegativeCLIPLoss, with_rewrites, swap=False, terms=1),
    "ImageGroundedContrast": Case(ImageGroundedContrast, with_rewrites, terms=1),
    "TextGroundedContrast": Case(TextGroundedContrast, with_rewrites, terms=1, smooth=False),
    "DeGLALoss": Case(DeGLALoss, distilled, swap=False, smooth=False),
    "ContrastiveMIMTerm": Case(ContrastiveMIMTerm, lambda loss, a, b, y: loss(torch.cat([a, b])), terms=2),
    "MultiViewCLIP": Case(MultiViewCLIP, lambda loss, a, b, y: loss(a, b, [a], [b]), terms=1),
    "CrossModalPrediction": Case(CrossModalPrediction, lambda loss, a, b, y: loss(a, b, a, b), terms=1, smooth=False),
    "CrossModalBarlow": Case(lambda **k: CrossModalBarlow(standardize=True, **k), cosine=False, turns=False),
    "CrossModalSwAV": Case(CrossModalSwAV, lambda loss, a, b, y: loss([a, b], [b, a]), terms=1, smooth=False),
}
OTHERS = {
    "BernoulliLikelihood": "of data under a decoder",
    "CaptionLoss": "of tokens, no embeddings",
    "ContrastiveMIM": "of an auto-encoder; its contrast is ContrastiveMIMTerm",
    "DifferentiableSort": "sorts numbers",
    "ELBO": "of an auto-encoder",
    "FeatureDistillation": "of a student and a teacher of any shapes; no pairs of items",
    "GaussianLikelihood": "of data under a decoder",
    "MIM": "of an auto-encoder",
    "PairTemperature": "a network",
    "TokenLikelihood": "of data under a decoder",
}
every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
cosines = pytest.mark.parametrize(
    "case", [c for c in CASES.values() if c.cosine], ids=[n for n in CASES if CASES[n].cosine]
)
means = pytest.mark.parametrize(
    "case", [c for c in CASES.values() if c.terms], ids=[n for n in CASES if CASES[n].terms]
)
quick = settings(max_examples=15, deadline=None, derandomize=True)


@st.composite
def views(draw, smallest=2):
    """Two views (B, D), float64, related as views are."""
    items, dim = draw(st.integers(smallest, 9)), draw(st.integers(1, 6))
    made = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    z = torch.randn(items, dim, generator=made, dtype=torch.float64)
    return z, z + draw(st.sampled_from([0.1, 1.0])) * torch.randn(items, dim, generator=made, dtype=torch.float64)


def test_every_objective_is_among_the_cases():
    """Else it would pass every property here unseen."""
    exported = {name: getattr(objectives, name) for name in objectives.__all__}
    modules = {n for n, kind in exported.items() if isinstance(kind, type) and issubclass(kind, torch.nn.Module)}
    assert modules == {name.split()[0] for name in CASES} | OTHERS.keys()


@every
@quick
@given(views(), st.integers(0, 2**31))
def test_order_of_the_items_does_not_matter(case, pair, seed):
    z1, z2 = pair
    order = torch.randperm(len(z1), generator=torch.Generator().manual_seed(seed))
    labels = classes(len(z1))
    torch.testing.assert_close(case(z1[order], z2[order], labels[order]), case(z1, z2, labels))


@every
@quick
@given(views())
def test_views_can_be_swapped(case, pair):
    z1, z2 = pair
    if case.swap:
        torch.testing.assert_close(case(z2, z1), case(z1, z2))
    elif len(z1) > 2 and z1.shape[1] > 1:
        assert not torch.isclose(case(z2, z1), case(z1, z2), rtol=1e-9)


@cosines
@quick
@given(views(), st.integers(-200, 200))
def test_lengths_do_not_matter_to_cosines(case, pair, exponent):
    z1, z2 = pair
    lengths = torch.logspace(-3, 3, len(z1), dtype=torch.float64)[:, None] * 10.0**exponent
    torch.testing.assert_close(case(z1 * lengths, z2 * lengths.flip(0)), case(z1, z2))


@every
@quick
@given(views(smallest=3), st.integers(0, 2**31))
def test_rotation(case, pair, seed):
    z1, z2 = pair
    made = torch.Generator().manual_seed(seed)
    dim = z1.shape[1]
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=made, dtype=torch.float64))[0]
    rotated = z1 @ rotation, z2 @ rotation, classes(len(z1))
    if isinstance(case.kind(), InfoNCE):  # its bank has to turn as well
        torch.testing.assert_close(case.kind()(*rotated[:2], bank(z1) @ rotation), case(z1, z2))
    if case.turns:
        torch.testing.assert_close(case(*rotated), case(z1, z2))
    elif dim > 1 and (len(z1) > 2 or not case.cosine):
        assert not torch.isclose(case(*rotated), case(z1, z2), rtol=1e-9)


@pytest.mark.parametrize("kind", [BarlowTwins, VICReg])
@quick
@given(views(), st.floats(-100, 100))
def test_decorrelating_losses_see_neither_the_place_nor_the_order_and_sign_of_dimensions(kind, pair, shift):
    z1, z2 = pair
    flip = torch.ones(z1.shape[1], dtype=torch.float64)
    flip[::2] = -1
    expected = kind()(z1, z2)
    torch.testing.assert_close(kind()(z1 + shift, z2 + shift), expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(kind()((z1 * flip).flip(1), (z2 * flip).flip(1)), expected)


@quick
@given(views(), st.integers(-6, 30))
def test_barlow_twins_does_not_see_the_scale_of_a_dimension(pair, exponent):
    z1, z2 = pair
    scale = torch.logspace(0, 1, z1.shape[1], dtype=torch.float64) * 10.0**exponent
    loss = BarlowTwins(eps=1e-30)
    torch.testing.assert_close(loss(z1 * scale, z2), loss(z1, z2), rtol=1e-6, atol=1e-9)


@every
@quick
@given(views())
def test_gradients_equal_finite_differences(case, pair):
    z1, z2 = (z.requires_grad_() for z in pair)
    if not case.smooth:
        loss = case(z1, z2)
        assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, (z1, z2), materialize_grads=True))
    elif case.kind is NegativeCosine:  # constant in its second argument by design
        assert torch.autograd.gradcheck(lambda a: case(a, z2), (z1,), atol=1e-4)
    else:
        assert torch.autograd.gradcheck(lambda a, b: case(a, b), (z1, z2), atol=1e-4)


def test_gradients_of_the_bank_equal_finite_differences():
    z = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    negatives = bank(z).requires_grad_()
    assert torch.autograd.gradcheck(lambda n: InfoNCE()(z, z.flip(0), n), (negatives,))


def test_targets_are_held_constant():
    p, z = (torch.randn(4, 3, requires_grad=True) for _ in range(2))
    NegativeCosine()(p, z).backward()
    assert p.grad is not None
    assert z.grad is None


@quick
@given(views(), st.sampled_from([0.05, 0.5, 5.0]))
def test_supcon_whose_classes_are_the_items_is_ntxent(pair, temperature):
    z1, z2 = pair
    expected = NTXent(temperature, reduction="none")(z1, z2)
    stacked, loss = torch.stack([z1, z2]), SupCon(temperature, reduction="none")
    torch.testing.assert_close(loss(stacked), expected)
    torch.testing.assert_close(loss(stacked, torch.arange(len(z1)).flip(0) * 7), expected)
    torch.testing.assert_close(loss(stacked, torch.full((len(z1),), -1)), expected)


@quick
@given(views())
def test_info_nce_against_the_rest_of_the_batch_is_ntxent(pair):
    z1, z2 = pair
    items, z = len(z1), torch.cat(pair)
    terms = []
    for i in range(2 * items):
        partner = (i + items) % (2 * items)
        rest = [j for j in range(2 * items) if j not in (i, partner)]
        terms.append(InfoNCE(0.5)(z[i : i + 1], z[partner : partner + 1], z[rest]))
    torch.testing.assert_close(torch.stack(terms), NTXent(0.5, reduction="none")(z1, z2))


def written_out(z, labels, temperature, base, anchors, empty):
    """The equation of the SupCon paper, pair by pair."""
    keys, y = normalize(z, dim=-1).reshape(-1, z.shape[-1]), labels.repeat(len(z)).tolist()
    y = [("own", i % z.shape[1]) if label < 0 else label for i, label in enumerate(y)]
    terms = []
    for i in range(z.shape[1] if anchors == "first" else len(keys)):
        others = [j for j in range(len(keys)) if j != i]
        partition = math.log(sum(math.exp(float(keys[i] @ keys[j]) / temperature) for j in others))
        positives = [j for j in others if y[j] == y[i]]
        if positives:
            logs = [float(keys[i] @ keys[j]) / temperature - partition for j in positives]
            terms.append(-temperature / base * sum(logs) / len(logs))
        elif empty == "zero":
            terms.append(0.0)
    return sum(terms) / len(terms)


@pytest.mark.parametrize("empty", ["skip", "zero"])
@pytest.mark.parametrize("anchors", ["all", "first"])
@pytest.mark.parametrize("n_views", [1, 2, 3])
def test_supcon_equals_the_papers_equation(n_views, anchors, empty):
    z = torch.randn(n_views, 7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([4, 0, -1, 4, 9, -1, 0])
    loss = SupCon(0.3, 0.07, anchors=anchors, empty=empty)(z, labels)
    assert loss.item() == pytest.approx(written_out(z, labels, 0.3, 0.07, anchors, empty), rel=1e-12)


def test_supcon_of_one_view_needs_no_axis_for_it():
    z, labels = torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 1, 0])
    assert SupCon()(z, labels) == SupCon()(z[None], labels)


def test_anchors_without_a_positive():
    z = torch.randn(1, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 1, -1, -1])
    skip, zero = (SupCon(empty=empty)(z, labels) for empty in ("skip", "zero"))
    torch.testing.assert_close(skip * 2 / 5, zero)
    assert (SupCon(reduction="none")(z, labels)[2:] == 0).all()
    with pytest.raises(ValueError, match="labels: 3 of 5 anchors have no positive"):
        SupCon(empty="error")(z, labels)
    for empty in ("skip", "zero", "error"):
        with pytest.raises(ValueError, match="labels: 5 of 5 anchors have no positive"):
            SupCon(empty=empty)(z, torch.arange(5))


@pytest.mark.parametrize("items", [2, 5, 300])
def test_equal_embeddings_cost_the_logarithm_of_the_choices(items):
    z = torch.ones(items, 4, dtype=torch.float64) * torch.tensor([1.0, -2, 3, 0.5])
    for temperature in (0.01, 1.0):
        assert NTXent(temperature)(z, z).item() == pytest.approx(math.log(2 * items - 1))
        assert SupCon(temperature)(torch.stack([z, z, z]), classes(items)).item() == pytest.approx(
            math.log(3 * items - 1)
        )
        assert InfoNCE(temperature)(z, z, z).item() == pytest.approx(math.log(1 + items))
        assert InfoNCE(temperature, positive_in_denominator=False)(z, z, z).item() == pytest.approx(math.log(items))
    assert NegativeCosine()(z, z).item() == pytest.approx(-1)
    assert NegativeCosine()(z, -z).item() == pytest.approx(1)
    assert BarlowTwins()(z, z).item() == pytest.approx(4)  # no correlation at all
    assert VICReg()(z, z).item() == pytest.approx(25 * (1 - math.sqrt(1e-4)))


@quick
@given(views())
def test_a_high_temperature_makes_all_choices_equal(pair):
    items = len(pair[0])
    assert NTXent(1e6)(*pair).item() == pytest.approx(math.log(2 * items - 1), abs=1e-5)
    assert SupCon(1e6)(torch.stack(pair)).item() == pytest.approx(math.log(2 * items - 1), abs=1e-5)
    assert InfoNCE(1e6)(*pair, bank(pair[0])).item() == pytest.approx(math.log(8), abs=1e-5)


def test_a_low_temperature_leaves_the_nearest():
    """As the temperature falls, the loss times it becomes the lead of the best over the positive."""
    z1 = normalize(torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)), dim=1)
    z2 = -z1
    z = torch.cat([z1, z2])
    scores = (z @ z.T).fill_diagonal_(-2)
    assert 1e-4 * NTXent(1e-4)(z1, z2).item() == pytest.approx((scores.amax(1) + 1).mean().item(), abs=1e-3)


def test_decorrelated_and_equal_views_cost_nothing():
    signs = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    assert BarlowTwins(eps=0)(signs * 5, signs).item() == pytest.approx(0, abs=1e-12)
    assert VICReg()(signs, signs).item() == pytest.approx(0, abs=1e-12)
    assert VICReg()(signs[:, [0, 1, 1]], signs[:, [0, 1, 1]]).item() == pytest.approx(2 / 3 * 2 * (4 / 3) ** 2)


@means
@quick
@given(views())
def test_reductions(case, pair):
    terms = case(*pair, reduction="none")
    assert terms.shape == (case.terms * len(pair[0]),)
    torch.testing.assert_close(case(*pair, reduction="sum"), terms.sum())
    if not (terms == 0).any():
        torch.testing.assert_close(case(*pair), terms.mean())


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_other_types_are_computed_in_float32(case, dtype):
    made = torch.Generator().manual_seed(0)
    z1, z2 = (torch.randn(64, 8, generator=made).to(dtype).requires_grad_() for _ in range(2))
    loss = case(z1, z2)
    loss.backward()
    assert loss.dtype == torch.float32
    assert z1.grad.dtype == dtype
    assert torch.isfinite(z1.grad).all()
    exact = case(z1.detach().double(), z2.detach().double())
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-6)


EXTREMES = {
    "zero rows": lambda z: z * torch.tensor([0.0, 1, 0, 1, 1, 1])[:, None],
    "nothing but zeros": lambda z: z * 0,
    "1e30": lambda z: z * 1e30,
    "1e-30": lambda z: z * 1e-30,
    "both": lambda z: z * torch.tensor([1e30, 1e-30, 1, 1e30, 1e-30, 1])[:, None],
    "duplicates": lambda z: z[[0, 0, 0, 1, 1, 1]],
    "one dimension": lambda z: z[:, :1],
}


@every
@pytest.mark.parametrize("change", EXTREMES.values(), ids=EXTREMES)
def test_finite_embeddings_give_finite_losses(case, change):
    made = torch.Generator().manual_seed(0)
    for temperature in (None, 0.01):  # 0.01 takes the other path of the engine
        options = {"temperature": temperature} if temperature and "temperature" in vars(case.kind()) else {}
        for second in (change, lambda z: z):
            z1 = change(torch.randn(6, 4, generator=made)).requires_grad_()
            z2 = second(torch.randn(6, 4, generator=made))[:, : z1.shape[1]].clone().requires_grad_()
            if case.kind is SpectralContrastive and z1.abs().max() > 1e8:
                with pytest.raises(ValueError, match=r"^z1, z2: embeddings are so long that the loss overflows"):
                    case(z1, z2)
                continue
            loss = case(z1, z2, **options)
            if isinstance(case.kind(), VICReg) and z1.abs().max() > 1e8:
                assert not torch.isfinite(loss)  # the fourth power is beyond float32: never a finite, wrong figure
                continue
            loss.backward()
            assert torch.isfinite(loss)
            assert torch.isfinite(z1.grad).all()


def test_large_embeddings_have_the_same_loss():
    """1e30 is finite in float32, its square is not."""
    made = torch.Generator().manual_seed(0)
    z1, z2 = (torch.randn(6, 4, generator=made) for _ in range(2))
    for case in CASES.values():
        if case.kind not in (VICReg, SpectralContrastive):
            torch.testing.assert_close(case(z1 * 1e30, z2 * 1e30), case(z1, z2), rtol=1e-4, atol=1e-5)


def test_a_zero_row_has_a_gradient_of_ordinary_size():
    z1, z2 = torch.zeros(4, 3, requires_grad=True), torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    NTXent()(z1, z2).backward()
    assert z1.grad.abs().max() < 10


# by definition: mixtures of every anchor with all others, and more unless they are bounded; codes over the batch
QUADRATIC = {"SupReMix", "CrossModalSwAV"}
ITEMS = {"AMCL smooth": 4096}  # a network sees every pair: a matrix of them would still have 256 MiB

MEMORY = """
import sys, torch
from counterpoint.pairwise import partition
from tests.objectives.test_invariances import CASES, ITEMS
torch.set_num_threads(1)
partition._KEPT_BYTES = 0  # what else is kept has a fixed size; this is about what grows
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
def run(case, items):
    z = torch.randn(2, items, 32, requires_grad=True)
    case(z[0], z[1], torch.arange(items) % 100).backward()
for name in sys.argv[1:]:
    run(CASES[name], 400)
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts again from here
    before = peak()
    run(CASES[name], ITEMS.get(name, 8192))
    print(round(peak() - before), name)
"""


@pytest.mark.parametrize("part", range(4))
def test_no_objective_makes_a_matrix_of_all_pairs(part):
    """16,384 embeddings, whose matrix has 1024 MiB."""
    names = sorted(CASES.keys() - QUADRATIC)[part::4]
    command = [sys.executable, "-c", MEMORY, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    used = {name: int(mib) for mib, name in (line.split(" ", 1) for line in done.stdout.splitlines())}
    assert used.keys() == set(names)
    assert {name: mib for name, mib in used.items() if mib > 192} == {}  # a mask of all pairs has 256


@quick
@given(views(), st.sampled_from([0.05, 0.5, 5.0]))
def test_a_small_batch_of_ntxent_takes_a_shorter_way_to_the_same(pair, temperature):
    """All in one step, or, as its terms, by the engine; both can be derived twice."""
    pair = [z.requires_grad_() for z in pair]
    whole = NTXent(temperature)(*pair)
    terms = NTXent(temperature, reduction="none")(*pair).mean()
    assert type(whole.grad_fn) is not type(terms.grad_fn)
    torch.testing.assert_close(whole, terms)
    first = [torch.autograd.grad(loss, pair, create_graph=True) for loss in (whole, terms)]
    torch.testing.assert_close(*first)
    second = [torch.autograd.grad(sum(g.square().sum() for g in gradient), pair) for gradient in first]
    torch.testing.assert_close(*second)


HOSTILE = {
    "one item": lambda z: z[:1],
    "one item, one dimension": lambda z: z[:1, :1],
    "no items": lambda z: z[:0],
    "no dimensions": lambda z: z[:, :0],
    "NaN": lambda z: z.masked_fill(torch.eye(*z.shape, dtype=torch.bool), float("nan")),
    "infinite": lambda z: z.masked_fill(torch.eye(*z.shape, dtype=torch.bool), -math.inf),
    "all equal": lambda z: z[:1].expand_as(z),
    "opposite": lambda z: torch.cat([z[:1], -z[:1].expand(len(z) - 1, -1)]),
    "orthogonal": lambda z: torch.eye(*z.shape, dtype=z.dtype),
    "all zero": lambda z: z * 0,
    "huge": lambda z: z * 1e18,
    "two items": lambda z: z[:2],
}


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@quick
@given(st.sampled_from(sorted(HOSTILE)), st.sampled_from(sorted(HOSTILE)), st.integers(0, 2**31))
def test_an_answer_or_a_named_refusal_and_never_nan(case, dtype, first, second, seed):
    """Any two of these as the views, also of different shapes; a refusal begins with the name of an argument."""
    made = torch.Generator().manual_seed(seed)
    z1, z2 = (HOSTILE[name](torch.randn(5, 4, generator=made)).to(dtype) for name in (first, second))
    z1, z2 = (z.clone().requires_grad_() for z in (z1, z2))
    refusable = {"NaN", "infinite"} & {first, second} or z1.shape != z2.shape
    loss = refusal = None
    try:
        loss = case(z1, z2)
    except ValueError as error:
        refusal = str(error)
    except RuntimeError:  # the test itself cannot stack them
        assert z1.shape != z2.shape
        return
    if loss is None:
        assert re.match(r"[\w, \[\]]+: ", refusal)
        return
    assert not refusable or z1.shape != z2.shape
    if case.kind is VICReg and not torch.isfinite(loss):
        return  # the fourth power is beyond float32, as tested above
    gradients = torch.autograd.grad(loss, (z1, z2), materialize_grads=True)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("kind", sorted({c.kind for c in CASES.values() if isinstance(c.kind, type)}, key=str), ids=str)
def test_a_temperature_is_above_zero(kind):
    if "temperature" in inspect.signature(kind).parameters:
        for temperature in (0, -0.1, math.nan, math.inf):
            with pytest.raises(ValueError, match=r"^temperature: expected a finite number above 0"):
                kind(temperature=temperature)
