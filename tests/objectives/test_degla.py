"""DeGLA's losses: the authors' figures, the equations written out, limits, negatives that are missing, bad input."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from counterpoint.encoders import EMA
from counterpoint.objectives import (
    DeGLALoss,
    FeatureDistillation,
    GroupInfoNCE,
    HardNegativeCLIPLoss,
    ImageGroundedContrast,
    NegativeCosine,
    TextGroundedContrast,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "46-degla.npz")
parity = pytest.mark.paper(46, "parity")
cases = pytest.mark.parametrize("case", ["c1", "c2", "c3"])
close = {"rtol": 1e-7, "atol": 1e-10}


def made(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Golden:
    """A case: the inputs in our shapes, leaves that take a gradient, and the figures."""

    def __init__(self, case, dtype=torch.float64):
        def read(name):
            return torch.from_numpy(np.asarray(GOLDEN[f"{case}.{name}"]))

        self.read, self.k = read, int(GOLDEN[f"{case}.num_negatives"])
        self.image, self.texts = (read(name).to(dtype).requires_grad_() for name in ("image", "text"))
        self.teacher = read("teacher_image").to(dtype), *self.split(read("teacher_text").to(dtype))
        self.scale = read("logit_scale").to(dtype)

    def split(self, texts):
        """B captions, then the negatives caption by caption."""
        b = len(self.image)
        return texts[:b], texts[b:].unflatten(0, (b, self.k))

    def student(self):
        return self.image, *self.split(self.texts)

    def loss(self, **options):
        return DeGLALoss(**options)(*self.student(), *self.teacher, self.scale)

    def tangent(self, gradient, points):
        """Ours normalises, the authors' takes unit vectors: of their gradient is left its part along the sphere."""
        return gradient - points * (gradient * points).sum(1, keepdim=True)


@parity
@cases
@pytest.mark.parametrize("compat", [None, "official"])
def test_golden(case, compat):
    golden, suffix = Golden(case), "_official" if compat else ""
    parts = golden.loss(compat=compat)
    expected = {"base": "base", "igc": "igc", "tgc": f"tgc{suffix}", "distill": "distill", "loss": f"total{suffix}"}
    assert parts.keys() == expected.keys()
    for name, figure in expected.items():
        torch.testing.assert_close(parts[name], golden.read(figure), **close)
    found = torch.autograd.grad(parts["loss"], (golden.image, golden.texts))
    for gradient, name, points in zip(found, ("image", "text"), (golden.image, golden.texts), strict=True):
        torch.testing.assert_close(gradient, golden.tangent(golden.read(f"grad_{name}{suffix}"), points), **close)
    assert Golden(case, torch.float32).loss(compat=compat)["loss"].item() == pytest.approx(
        golden.read(f"total{suffix}").item(), rel=2e-3
    )


@parity
def test_golden_teacher():
    student, expected = torch.nn.Linear(2, 3, bias=False).double(), torch.from_numpy(GOLDEN["ema.teacher"])
    student.weight.data = torch.from_numpy(GOLDEN["ema.teacher0"])
    ema = EMA(student)
    for weight, after in zip(torch.from_numpy(GOLDEN["ema.student"]), expected, strict=True):
        student.weight.data = weight
        ema.update(student, float(GOLDEN["ema.alpha"]))
        torch.testing.assert_close(ema.teacher.weight.data, after, **close)


def test_the_official_mask_differs_for_more_than_one_negative():
    """With one, as in the third case, both are the same; with more, the official caption meets others' negatives."""
    text, teacher, negatives = made(3, 4), made(3, 4, seed=1), made(3, 2, 4, seed=2)
    flat = negatives.flatten(0, 1)
    theirs = torch.stack([flat[[i, 3 + i]] for i in range(3)])
    official = TextGroundedContrast(compat="official", reduction="none")
    torch.testing.assert_close(
        official(text, teacher, negatives), TextGroundedContrast(reduction="none")(text, teacher, theirs)
    )
    present = torch.tensor([[True, False], [True, True], [False, True]])
    moved = torch.stack([present.flatten()[[i, 3 + i]] for i in range(3)])
    torch.testing.assert_close(
        official(text, teacher, negatives, present),
        TextGroundedContrast(reduction="none")(text, teacher, theirs, moved),
    )


def written_out(image, text, negatives, scale):
    """The base loss with its matrices."""
    v, t, n = normalize(image, dim=1), normalize(text, dim=1), normalize(negatives, dim=2)
    forth = scale * v @ torch.cat([t, n.flatten(0, 1)]).T
    back, own = scale * t @ v.T, torch.arange(len(v))
    cross = torch.nn.functional.cross_entropy
    return (cross(forth, own, reduction="none") + cross(back, own, reduction="none")) / 2


@pytest.mark.parametrize(("items", "k"), [(1, 3), (5, 1), (7, 4), (300, 2)])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_base_equals_its_matrices(items, k, scale):
    given = [made(items, 6).requires_grad_(), made(items, 6, seed=1).requires_grad_()]
    given.append(made(items, k, 6, seed=2).requires_grad_())
    s = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    found, expected = HardNegativeCLIPLoss(reduction="none")(*given, s), written_out(*given, s)
    torch.testing.assert_close(found, expected, **close)
    weight = made(items, seed=3)
    gradients = (torch.autograd.grad(loss @ weight, [*given, s]) for loss in (found, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("negatives", [None, torch.zeros(5, 0, 4, dtype=torch.float64)])
def test_without_negatives(negatives):
    image, text = made(5, 4), made(5, 4, seed=1)
    scale = torch.tensor(20.0, dtype=torch.float64)
    torch.testing.assert_close(
        HardNegativeCLIPLoss()(image, text, negatives, scale), GroupInfoNCE()(image, text, scale=scale)
    )
    assert ImageGroundedContrast()(image, text, negatives, scale) == 0
    for compat in (None, "official"):
        assert TextGroundedContrast(compat=compat)(text, image, negatives) == 0
    parts = DeGLALoss()(image, text, negatives, image, text, negatives, scale)
    assert parts["distill"] == 0
    torch.testing.assert_close(parts["loss"], parts["base"])


def test_one_pair():
    """Its caption has nothing to be told from; its image has, the negatives: half of IGC."""
    image, text, negatives = made(1, 4), made(1, 4, seed=1), made(1, 3, 4, seed=2)
    torch.testing.assert_close(
        HardNegativeCLIPLoss()(image, text, negatives), ImageGroundedContrast()(image, text, negatives) / 2
    )


@pytest.mark.parametrize("scale", [10.0, 100.0])
def test_a_negative_that_is_the_caption_costs_log_two(scale):
    text, s = made(4, 5), torch.tensor(scale, dtype=torch.float64)
    same = text[:, None] * 3
    assert ImageGroundedContrast()(made(4, 5, seed=1), text, same, s).item() == pytest.approx(math.log(2))
    assert TextGroundedContrast(scale)(text, text, same).item() == pytest.approx(math.log(2))
    more = torch.cat([same, made(4, 2, 5, seed=2)], 1)
    assert (ImageGroundedContrast(reduction="none")(made(4, 5, seed=1), text, more, s) >= math.log(2) - 1e-12).all()


def test_captions_with_fewer_negatives():
    """What the mask leaves out counts nowhere, whatever stands there."""
    image, text, negatives = made(2, 4), made(2, 4, seed=1), made(2, 3, 4, seed=2)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    other = torch.where(mask[..., None], negatives, made(2, 3, 4, seed=3)).requires_grad_()
    kept = negatives[:1, [0, 2]]
    loss = DeGLALoss(w_distill=1.0)
    teacher = made(2, 4, seed=4), made(2, 4, seed=5)
    found = [loss(image, text, n, *teacher, negatives.flip(0), None, mask) for n in (negatives, other)]
    torch.testing.assert_close(*found)
    igc = ImageGroundedContrast(reduction="none")(image, text, negatives, None, mask)
    torch.testing.assert_close(igc[0], ImageGroundedContrast()(image[:1], text[:1], kept))
    assert igc[1] == 0
    gradient = torch.autograd.grad(found[1]["loss"], other)[0]
    assert torch.isfinite(gradient).all()
    assert ((gradient != 0).any(2) == mask).all()
    nothing = HardNegativeCLIPLoss()(image, text, negatives, None, torch.zeros_like(mask))
    torch.testing.assert_close(nothing, GroupInfoNCE()(image, text))


def test_the_teacher_takes_no_gradient_and_the_negatives_do():
    given = [made(4, 5, seed=k).requires_grad_() for k in range(4)]
    negatives = [made(4, 2, 5, seed=k).requires_grad_() for k in (4, 5)]
    parts = DeGLALoss()(*given[:2], negatives[0], *given[2:], negatives[1])
    parts["loss"].backward()
    assert [x.grad is None for x in (*given, *negatives)] == [False, False, True, True, False, True]
    found = torch.autograd.grad(TextGroundedContrast()(given[1], given[3], negatives[0]), [given[1], negatives[0]])
    assert all((g != 0).any() for g in found)


def test_distillation_starts_at_zero_and_is_a_sum():
    z, n = made(6, 4), made(6, 2, 4, seed=1)
    assert FeatureDistillation()((z, z * 4), (n, n)) == 0
    teacher = made(6, 4, seed=2)
    terms = FeatureDistillation(reduction="none")((z, teacher), (n, n.flip(0)))
    assert terms.shape == (18,)
    torch.testing.assert_close(terms[:6], 2 + 2 * NegativeCosine("none")(z, teacher))
    whole = FeatureDistillation()((z, teacher))
    torch.testing.assert_close(whole, terms[:6].sum())
    torch.testing.assert_close(FeatureDistillation()((z.repeat(2, 1), teacher.repeat(2, 1))), 2 * whole)
    torch.testing.assert_close(FeatureDistillation("mean")((z, teacher)), whole / 6)


def test_the_weight_of_the_sum_may_belong_to_a_batch_size():
    z, teacher = made(6, 4), made(6, 4, seed=2)
    alone, twice = ((x, y) for x, y in ((z, teacher), (z.repeat(2, 1), teacher.repeat(2, 1))))
    at = FeatureDistillation(batch=6)
    torch.testing.assert_close(at(alone), FeatureDistillation()(alone))
    torch.testing.assert_close(at(twice), at(alone))
    torch.testing.assert_close(at(alone, alone), 2 * at(alone))  # it does grow with what is distilled
    loss = DeGLALoss(distill_batch=12)(z, z, None, teacher, teacher)
    torch.testing.assert_close(loss["distill"], 4 * FeatureDistillation()(alone))


def test_order_of_the_pairs_and_of_the_negatives_does_not_matter():
    student, teacher = ([made(6, 4, seed=k), made(6, 4, seed=k + 1), made(6, 3, 4, seed=k + 2)] for k in (0, 3))
    order, among = torch.randperm(6, generator=torch.Generator().manual_seed(1)), torch.tensor([2, 0, 1])
    expected = DeGLALoss()(*student, *teacher)
    torch.testing.assert_close(DeGLALoss()(*(x[order] for x in (*student, *teacher))), expected)
    for negatives in (student, teacher):
        negatives[2] = negatives[2][:, among] * 5
    torch.testing.assert_close(DeGLALoss()(*student, *teacher), expected)
    for part in ("base", "igc", "tgc"):  # but one's negatives are no other's
        moved = DeGLALoss()(student[0], student[1], student[2].flip(0), *teacher)
        assert torch.isclose(moved[part], expected[part]) == (
            part == "base" and torch.isclose(moved[part], expected[part])
        )


def test_gradients_equal_finite_differences():
    given = [made(4, 3), made(4, 3, seed=1), made(4, 2, 3, seed=2), torch.tensor(7.0, dtype=torch.float64)]
    teacher = made(4, 3, seed=3), made(4, 3, seed=4), made(4, 2, 3, seed=5)
    mask = torch.tensor([[True, True], [True, False], [False, False], [False, True]])
    for compat in (None, "official"):
        loss = DeGLALoss(0.7, 0.6, 0.5, compat=compat)
        assert torch.autograd.gradcheck(
            lambda v, t, n, s, loss=loss: loss(v, t, n, *teacher, s, mask)["loss"], [x.requires_grad_() for x in given]
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    given = [made(20, 8, seed=k).to(dtype).requires_grad_() for k in range(4)]
    negatives = [made(20, 4, 8, seed=k).to(dtype) for k in (5, 6)]
    scale = torch.tensor(100.0)
    found = DeGLALoss()(*given[:2], negatives[0], *given[2:], negatives[1], scale)
    found["loss"].backward()
    assert given[0].grad.dtype == dtype
    exact = [x.detach().double() for x in (*given[:2], negatives[0], *given[2:], negatives[1])]
    expected = DeGLALoss()(*exact, scale.double())
    for name, value in found.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-5)


EXTREMES = {
    "zeros": lambda z: z * 0,
    "a zero row": lambda z: z * (torch.arange(len(z)) > 0).view(-1, *[1] * (z.ndim - 1)),
    "1e30": lambda z: z * 1e30,
    "1e-30": lambda z: z * 1e-30,
    "all equal": lambda z: torch.ones_like(z),
    "opposite": lambda z: torch.ones_like(z) * (torch.arange(len(z)) % 2 * 2.0 - 1).view(-1, *[1] * (z.ndim - 1)),
}


@pytest.mark.parametrize("change", EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize("scale", [0.01, 100.0, 1e4])
def test_finite_embeddings_give_finite_losses(change, scale):
    student, teacher = (
        [change(made(*shape, seed=k + j, dtype=torch.float32)) for j, shape in enumerate([(6, 4), (6, 4), (6, 2, 4)])]
        for k in (0, 3)
    )
    leaves = [x.clone().requires_grad_() for x in student]
    parts = DeGLALoss()(*leaves, *teacher, torch.tensor(scale))
    assert all(torch.isfinite(part) for part in parts.values())
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(parts["loss"], leaves))


def poke(x, value):
    x = x.clone()
    x.view(-1)[1] = value
    return x


NAMES = ("image", "text", "neg_text", "teacher_image", "teacher_text", "teacher_neg_text")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", ["nan", "inf", "integers", "items", "dimensions", "flat"])
def test_bad_embeddings_are_named(name, change):
    given = dict(zip(NAMES, [made(4, 3)] * 2 + [made(4, 2, 3)] + [made(4, 3)] * 2 + [made(4, 2, 3)], strict=True))
    DeGLALoss()(**given)
    bad = {
        "nan": lambda x: poke(x, math.nan),
        "inf": lambda x: poke(x, math.inf),
        "integers": lambda x: x.long(),
        "items": lambda x: x[:3],
        "dimensions": lambda x: x[..., :2],
        "flat": lambda x: x[0],
    }[change]
    given[name] = bad(given[name])
    allowed = name if change not in ("items", "dimensions", "flat") else r"\w+"
    with pytest.raises(ValueError, match=f"^{allowed}: .*expected|^{name}: .*NaN"):
        DeGLALoss()(**given)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda v, n: HardNegativeCLIPLoss(0.0), "temperature"),
        (lambda v, n: ImageGroundedContrast(-1.0), "temperature"),
        (lambda v, n: TextGroundedContrast(0.0), "scale"),
        (lambda v, n: TextGroundedContrast(compat="theirs"), "compat"),
        (lambda v, n: HardNegativeCLIPLoss(reduction="avg"), "reduction"),
        (lambda v, n: FeatureDistillation("avg"), "reduction"),
        (lambda v, n: FeatureDistillation(batch=0), "batch"),
        (lambda v, n: FeatureDistillation()(), "pairs"),
        (lambda v, n: FeatureDistillation()((v, v, torch.ones(3).bool())), "mask"),
        (lambda v, n: DeGLALoss(w_igc=-0.1), "w_igc"),
        (lambda v, n: DeGLALoss(w_distill=math.nan), "w_distill"),
        (lambda v, n: DeGLALoss(tgc_scale=0.0), "tgc_scale"),
        (lambda v, n: DeGLALoss()(v, v, n, v, v), "teacher_neg_text"),
        (lambda v, n: HardNegativeCLIPLoss()(v, v, n, torch.tensor(0.0)), "scale"),
        (lambda v, n: ImageGroundedContrast()(v, v, n, torch.tensor(math.inf)), "scale"),
        (lambda v, n: HardNegativeCLIPLoss()(v, v, n, None, torch.ones(4, 3).bool()), "mask"),
        (lambda v, n: TextGroundedContrast()(v, v, n, torch.ones(4, 2)), "mask"),
        (lambda v, n: ImageGroundedContrast()(v, v, n[:3]), "neg_text"),
    ],
)
def test_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        call(made(4, 3), made(4, 2, 3))
