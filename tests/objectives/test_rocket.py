"""CLIP-rocket and its self-supervised companions: golden figures, the equations, limits, what is refused."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from counterpoint.objectives import BarlowTwins, GroupInfoNCE, NegativeCosine, SwAV
from counterpoint.objectives.rocket import CrossModalBarlow, CrossModalPrediction, CrossModalSwAV, MultiViewCLIP
from counterpoint.pairwise import sinkhorn

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "09-clip-rocket.npz")
parity = pytest.mark.paper(9, "parity")
close = {"rtol": 1e-7, "atol": 1e-9}
LEAVES = ("z_", "h_image", "h_text", "v_", "p_", "logit_scale", "h_logit_scale")


def golden(case, dtype=torch.float64):
    """Arrays of a case; what has a gradient there asks for one here."""
    found = {}
    for name in GOLDEN.files:
        key, _, array = name.partition(".")
        if key == case:
            value = torch.from_numpy(GOLDEN[name])
            value = value.to(dtype) if value.is_floating_point() else value
            found[array] = value.requires_grad_(f"{case}.grad_{array}" in GOLDEN.files)
    return found


def clip(g):
    """CLIP-rocket's part of a case."""
    loss = MultiViewCLIP(float(g.get("label_smoothing", torch.tensor(0.0)).detach()), "sum" if g["sum"] else "mean")
    local = (g["h_image_local"], g["h_text_local"]) if "h_image_local" in g else ((), ())
    given = (g["z_image_global"], g["z_text_global"], *local, g["logit_scale"], g.get("h_logit_scale"))
    return loss(*given), loss.terms(*given)


def stacked(g, name, suffix=""):
    return torch.cat([g[f"{name}{suffix}"][None], g[f"{name}_local{suffix}"]])


def check(g, loss, **options):
    options = options or close
    torch.testing.assert_close(loss, g["loss"], **options)
    names = [name for name in g if f"grad_{name}" in g]
    gradients = torch.autograd.grad(loss, [g[name] for name in names])
    for name, gradient in zip(names, gradients, strict=True):
        torch.testing.assert_close(gradient, g[f"grad_{name}"], **options)


@parity
@pytest.mark.parametrize("case", ["clip0", "cl2l", "cl2l_avg"])
def test_golden_clip(case):
    g = golden(case)
    loss, parts = clip(g)
    check(g, loss)
    assert len(parts) == (2 if case == "clip0" else 4)
    for name, part in parts.items():
        torch.testing.assert_close(part.mean(), g[f"clip_loss_{name}"], **close)
    g = golden(case, torch.float32)
    check(g, clip(g)[0], rtol=2e-3, atol=2e-3)


@parity
def test_golden_barlip():
    g = golden("barlip")
    loss = CrossModalBarlow(float(g["lamb"]), float(g["scale"]))(stacked(g, "v_image"), stacked(g, "v_text"))
    torch.testing.assert_close(loss, g["barlip_loss"], **close)
    check(g, loss + clip(g)[0])


@parity
@pytest.mark.parametrize(("case", "suffix"), [("siamlip", ""), ("byolip", "_momentum")])
def test_golden_siamlip_and_byolip(case, suffix):
    g = golden(case)
    predictions = (stacked(g, "p_image"), stacked(g, "p_text"))
    targets = (stacked(g, f"v_{kind}", suffix) for kind in ("image", "text"))
    loss = CrossModalPrediction()(*predictions, *targets)
    torch.testing.assert_close(loss, g["siamlip_loss"], **close)
    check(g, loss + clip(g)[0])


@parity
def test_golden_swalip():
    g = golden("swalip")
    objective = CrossModalSwAV(epsilon=float(g["epsilon"]), iterations=int(g["sk_iters"]))
    loss = objective(g["h_image_local"], g["h_text_local"], g["h_logit_scale"])
    torch.testing.assert_close(loss, g["swalip_loss"], **close)
    check(g, g["weight"] * loss + clip(g)[0])
    scores = normalize(g["h_image_local"][0], dim=1) @ normalize(g["h_text_local"][0], dim=1).T
    torch.testing.assert_close(scores, g["sinkhorn_in"], **close)
    torch.testing.assert_close(sinkhorn(scores), g["sinkhorn_out"], **close)


@parity
def test_golden_prototypes():
    """SwALIP's first form is SwAV of two modalities, beside plain CLIP."""
    g = golden("swalip_proto")
    objective = SwAV(1 / float(g["swalip_logit_scale"]), float(g["epsilon"]), int(g["sk_iters"]))
    loss = objective([g["p_image"], g["p_text"]])
    torch.testing.assert_close(loss, g["swalip_loss"], **close)
    for kind in ("image", "text"):
        torch.testing.assert_close(sinkhorn(g[f"p_{kind}"]), g[f"assign_{kind}"], **close)
    clip_loss = GroupInfoNCE()(g["z_image"], g["z_text"], scale=g["logit_scale"])
    check(g, g["weight"] * loss + clip_loss)


def made(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs(views=3, items=5, dim=4):
    return made(views, items, dim), made(views, items, dim, seed=1)


@pytest.mark.parametrize("views", [1, 2, 3])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_the_recipe_equals_its_equation(views, smoothing):
    """Cross entropies of torch over the matrices; local views of another dimension."""
    z, (h_image, h_text) = made(2, 6, 4, seed=5), (made(views, 6, 3), made(views, 6, 3, seed=1))
    z.requires_grad_(), h_image.requires_grad_(), h_text.requires_grad_()
    s, s_local = torch.tensor(9.0, requires_grad=True), torch.tensor(4.0, requires_grad=True)
    own = torch.arange(6)

    def entropy(x, y, scale, smoothing=0.0):
        return cross_entropy(scale * normalize(x, dim=1) @ normalize(y, dim=1).T, own, label_smoothing=smoothing)

    total = 0.0
    for a, b, ha, hb in ((*z, h_image, h_text), (z[1], z[0], h_text, h_image)):
        local = [entropy(x, y, s_local, smoothing) for x, y in product(ha, hb)]
        total = total + (entropy(a, b, s) + views * torch.stack(local).mean()) / (1 + views)
    loss = MultiViewCLIP(smoothing)
    found = loss(*z, h_image, h_text, s, s_local)
    torch.testing.assert_close(found, total)
    leaves = (z, h_image, h_text, s, s_local)
    torch.testing.assert_close(torch.autograd.grad(found, leaves), torch.autograd.grad(total, leaves))
    terms = MultiViewCLIP(smoothing, reduction="none")(*z, list(h_image), list(h_text), s, s_local)
    assert terms.shape == (6,)
    torch.testing.assert_close(terms.mean(), found)


def test_without_local_views_it_is_clip():
    x, y = made(7, 4), made(7, 4, seed=1)
    for temperature in (0.01, 0.07, 1.0):
        expected = GroupInfoNCE(temperature, "none")(x, y)
        torch.testing.assert_close(MultiViewCLIP(0.3, "mean", temperature, reduction="none")(x, y), expected)
        torch.testing.assert_close(MultiViewCLIP(0.3, "sum", temperature)(x, y), 2 * expected.mean())


def test_local_views_that_are_the_global_ones_change_nothing():
    x, y = made(7, 4), made(7, 4, seed=1)
    loss = MultiViewCLIP(0.0, temperature=0.2, local_temperature=0.2)
    torch.testing.assert_close(loss(x, y, [x, x, x], [y, y, y]), loss(x, y))


def test_no_local_view_meets_a_global_one():
    """The gradient of a global view does not change with the local ones but for its share."""
    z, (h_image, h_text) = made(2, 5, 4, seed=3).requires_grad_(), pairs(2)
    loss = MultiViewCLIP()
    (alone,) = torch.autograd.grad(loss(*z), z)
    (together,) = torch.autograd.grad(loss(*z, h_image, h_text), z)
    torch.testing.assert_close(together, alone / 3)


def test_smoothing_wants_the_other_pairs_not_too_far():
    """Between perfect pairs, the loss without smoothing falls with the scale and the smoothed one rises in the end."""
    eye = torch.eye(4, dtype=torch.float64)
    for smoothing, rises in ((0.0, False), (0.2, True)):
        loss = MultiViewCLIP(smoothing)
        at = [loss(eye, eye, [eye], [eye], None, torch.tensor(s)).item() for s in (5.0, 50.0)]
        assert (at[1] > at[0]) == rises


def test_prediction_is_negative_cosine_over_pairs_of_views():
    p_image, p_text = pairs()
    v_image, v_text = made(3, 5, 4, seed=2), made(3, 5, 4, seed=3)
    cosine, terms = NegativeCosine(), []
    for a, b in [(0, 0), *product((1, 2), repeat=2)]:
        terms += [2 + 2 * cosine(p_image[a], v_text[b]), 2 + 2 * cosine(p_text[a], v_image[b])]
    found = CrossModalPrediction()(p_image, p_text, v_image, v_text)
    torch.testing.assert_close(found, torch.stack(terms).mean())
    assert CrossModalPrediction()(p_image, p_text, p_text, p_image) < found
    assert CrossModalPrediction("none")(p_image, p_text, v_image, v_text).shape == (5,)
    one = CrossModalPrediction()(p_image[0], p_text[0], v_image[0], v_text[0])  # a single view is a matrix
    torch.testing.assert_close(one, torch.stack(terms[:2]).mean())


def test_targets_are_held_constant():
    given = [x.requires_grad_() for x in (*pairs(), made(3, 5, 4, seed=2), made(3, 5, 4, seed=3))]
    CrossModalPrediction()(*given).backward()
    assert [x.grad is None for x in given] == [False, False, True, True]


def test_one_view_of_two_crops_is_half_of_byol():
    p, z = made(2, 6, 4), made(2, 6, 4, seed=1)
    byol = (2 + 2 * NegativeCosine()(p[0], z[1])) + (2 + 2 * NegativeCosine()(p[1], z[0]))
    torch.testing.assert_close(CrossModalPrediction()(p[0], p[1], z[0], z[1]), byol / 2)


def test_standardised_barlow_is_barlow_twins():
    image, text = pairs(1, 8)
    expected = BarlowTwins(0.3)(image[0], text[0])
    loss = CrossModalBarlow(0.3, 1.0, standardize=True)
    torch.testing.assert_close(loss(image, text), expected)
    torch.testing.assert_close(loss(image[0] * 1e30 + 1e30, text[0]), expected, rtol=1e-4, atol=0)
    plain = CrossModalBarlow(0.3, 1.0)
    assert not torch.isclose(plain(image, text), expected)  # the projector's batch norm would have to do it
    torch.testing.assert_close(CrossModalBarlow(0.3, 0.1)(image, text), plain(image, text) / 10)


def test_barlow_averages_one_global_and_all_local_pairs():
    image, text = pairs(3, 8)
    loss = CrossModalBarlow()
    parts = [loss(image[a], text[b]) for a, b in [(0, 0), *product((1, 2), repeat=2)]]
    torch.testing.assert_close(loss(list(image), list(text)), torch.stack(parts).mean())


def test_barlow_of_decorrelated_dimensions_is_nothing():
    signs = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    assert CrossModalBarlow()(signs, signs).item() == pytest.approx(0, abs=1e-15)
    assert CrossModalBarlow(1.0, 1.0)(signs, signs[:, [1, 0, 2]]).item() == pytest.approx(4)


@pytest.mark.parametrize("views", [2, 3])
def test_swap_equals_its_equation(views):
    """The code of a pair of views is predicted from the pairs that share neither view with it."""
    h_image, h_text = pairs(views, 6)
    unit_image, unit_text = normalize(h_image, dim=2), normalize(h_text, dim=2)
    total = []
    for x, y in ((unit_image, unit_text), (unit_text, unit_image)):
        for a, b in product(range(views), repeat=2):
            others = [(i, j) for i, j in product(range(views), repeat=2) if i != a and j != b]
            for i, j in others:
                entropy = cross_entropy(8 * x[a] @ y[b].T, sinkhorn(x[i] @ y[j].T))
                total.append(entropy)
    found = CrossModalSwAV(1 / 8)(h_image, h_text)
    torch.testing.assert_close(found, torch.stack(total).mean())
    torch.testing.assert_close(CrossModalSwAV()(h_image, h_text, torch.tensor(8.0)), found)
    torch.testing.assert_close(CrossModalSwAV(1 / 8, reduction="none")(h_image, h_text).mean(), found)


def test_swap_with_sharp_codes_is_clip():
    """Where pairs agree and epsilon is small, the code of an item is the item."""
    h = normalize(made(2, 6, 12), dim=2) * 0.1 + torch.eye(6, 12, dtype=torch.float64)
    clip_loss = torch.stack([GroupInfoNCE(0.1)(x, y) for x, y in product(h, h)]).mean()
    torch.testing.assert_close(CrossModalSwAV(epsilon=0.01)(h, h), clip_loss, rtol=1e-6, atol=0)


def test_codes_have_no_gradient():
    h_image, h_text = (h.requires_grad_() for h in pairs(2, 6))
    x, y = (normalize(h, dim=2) for h in (h_image, h_text))
    total = 0.0
    for q, k in ((x, y), (y, x)):
        for a, b in product((0, 1), repeat=2):
            total = total + cross_entropy(10 * q[a] @ k[b].T, sinkhorn(q[1 - a] @ k[1 - b].T)) / 8
    found = torch.autograd.grad(CrossModalSwAV()(h_image, h_text), (h_image, h_text))
    torch.testing.assert_close(found, torch.autograd.grad(total, (h_image, h_text)))


def test_swav_with_codes_of_a_teacher():
    scores, codes = made(2, 6, 5).tanh(), made(2, 6, 5, seed=1).tanh()
    terms = [cross_entropy(scores[v] * 10, sinkhorn(codes[1 - v])) for v in (0, 1)]
    torch.testing.assert_close(SwAV()(scores, code_scores=codes), torch.stack(terms).mean())
    torch.testing.assert_close(SwAV()(scores, code_scores=list(scores)), SwAV()(scores))
    for wrong in (codes[:1], codes[:, :4], codes[..., :3]):
        with pytest.raises(ValueError, match=r"^code_scores"):
            SwAV()(scores, code_scores=wrong)


CALLS = {
    "clip": lambda x, y, **k: MultiViewCLIP(**k)(x[0], y[0], x[1:], y[1:]),
    "prediction": lambda x, y, **k: CrossModalPrediction(**k)(x, y, x.flip(0), y.flip(0)),
    "barlow": lambda x, y, **k: CrossModalBarlow(**k)(x, y),
    "swav": lambda x, y, **k: CrossModalSwAV(**k)(x, y),
}
every = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@every
def test_orders_do_not_matter(call):
    x, y = pairs()
    loss, order = call(x, y), torch.tensor([3, 0, 2, 4, 1])
    torch.testing.assert_close(call(x[:, order], y[:, order]), loss)
    torch.testing.assert_close(call(y, x), loss)  # both directions count alike
    if call is not CALLS["swav"]:  # codes of the wrong pairs are codes too
        assert not torch.isclose(call(x[:, order], y), loss)
    if call is not CALLS["prediction"]:  # whose local targets stand elsewhere here
        torch.testing.assert_close(call(x[[0, 2, 1]], y), loss)
        torch.testing.assert_close(call(x, y[[0, 2, 1]]), loss)


@every
def test_lengths_count_in_barlow_alone(call):
    x, y = pairs()
    loss, longer = call(x, y), call(x * torch.logspace(-9, 9, 5)[:, None], y * 1e20)
    assert bool(torch.isclose(longer, loss, rtol=1e-9)) == (call is not CALLS["barlow"])


@pytest.mark.parametrize("name", ["clip", "barlow"])
def test_gradcheck(name):
    x, y = (z.requires_grad_() for z in pairs(3, 3, 3))
    assert torch.autograd.gradcheck(CALLS[name], (x, y), atol=1e-4)


def test_gradcheck_of_scales_and_predictions():
    x, y = pairs(2, 3, 3)
    scales = [torch.tensor(s, dtype=torch.float64, requires_grad=True) for s in (3.0, 2.0)]
    assert torch.autograd.gradcheck(lambda s, t: MultiViewCLIP()(x[0], y[0], x[1:], y[1:], s, t), scales)
    assert torch.autograd.gradcheck(lambda s: CrossModalSwAV()(x, y, s), scales[:1])
    p, q = (z.requires_grad_() for z in pairs(2, 3, 3))
    assert torch.autograd.gradcheck(lambda a, b: CrossModalPrediction()(a, b, x, y), (p, q))


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(call, dtype):
    x, y = (z.to(dtype).requires_grad_() for z in pairs(3, 16, 8))
    loss = call(x, y)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), call(x.detach().double(), y.detach().double()), rtol=1e-4, atol=1e-5)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, (x, y)))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(call(x, y), loss, rtol=2e-2, atol=2e-2)


EXTREMES = {
    "zero rows": lambda z: z * torch.tensor([0.0, 1, 0, 1, 1])[:, None],
    "nothing but zeros": lambda z: z * 0,
    "1e30": lambda z: z * 1e30,
    "1e-30": lambda z: z * 1e-30,
    "all alike": lambda z: z[:1, :1].expand_as(z),
    "opposite": lambda z: torch.cat([z[:, :1], -z[:, :1].expand(-1, 4, -1)], 1),
}


@every
@pytest.mark.parametrize("change", EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize("scale", [None, 100.0])
def test_finite_for_finite_embeddings(call, change, scale):
    x, y = (change(z.float()).clone().requires_grad_() for z in pairs())
    if call is CALLS["barlow"] and x.abs().max() > 1e8:
        with pytest.raises(ValueError, match=r"^image, text: projections are so long that the loss overflows"):
            call(x, y)
        loss = call(x, y, standardize=True)
    elif scale and call is CALLS["clip"]:
        s = torch.tensor(scale)
        loss = MultiViewCLIP()(x[0], y[0], x[1:], y[1:], s, s)
    else:
        loss = call(x, y)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, (x, y)))


def test_equal_embeddings_cost_the_logarithm_of_the_choices():
    z = torch.ones(3, 6, 4)
    assert CALLS["clip"](z, z).item() == pytest.approx(2 * math.log(6))
    assert CALLS["swav"](z, z).item() == pytest.approx(math.log(6))
    assert CALLS["prediction"](z, z).item() == pytest.approx(0, abs=1e-6)


def poked(value, at=(1, 2, 1)):
    x = made(3, 5, 4)
    x[at] = value
    return x


X, Y = pairs()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MultiViewCLIP()(X[0, :1], Y[0, :1]), "z_image: expected at least 2 rows"),
        (lambda: MultiViewCLIP()(X[0], Y[0], X, Y[:2]), "h_text: expected 3 views as in h_image, got 2"),
        (lambda: MultiViewCLIP()(X[0], Y[0], X, ()), "h_text: expected at least 1 view"),
        (lambda: MultiViewCLIP()(X[0], Y[0], (), Y), "h_image: expected at least 1 view"),
        (lambda: MultiViewCLIP()(X[0], Y[0], X[:, :4], Y[:, :4]), "h_image: expected 5 rows as in z_image, got 4"),
        (lambda: MultiViewCLIP()(X[0], Y[0], X, Y[..., :3]), r"h_text\[0\]: expected \(5, 4\)"),
        (lambda: MultiViewCLIP()(X[0], Y[0], poked(math.nan), Y), r"h_image\[1\]: 1 of 20 values are NaN"),
        (lambda: MultiViewCLIP()(X[0], Y[0], scale=torch.tensor(0.0)), "scale: expected a finite number above 0"),
        (lambda: MultiViewCLIP()(X[0], Y[0], X, Y, None, torch.tensor(-1.0)), "local_scale: expected a finite"),
        (lambda: CrossModalPrediction()(X, Y, X[:2], Y), "v_image: expected 3 views as in p_image, got 2"),
        (lambda: CrossModalPrediction()(X, Y, X, poked(math.inf)), r"v_text\[1\]: 1 of 20 values"),
        (lambda: CrossModalBarlow()(X[:, :1], Y[:, :1]), "image: expected at least 2 rows"),
        (lambda: CrossModalBarlow()([], Y), "image: expected at least 1 view"),
        (lambda: CrossModalBarlow()(X, Y[0]), "text: expected 3 views as in image, got 1"),
        (lambda: CrossModalBarlow()(X.long(), Y), r"image\[0\]: expected a floating-point"),
        (lambda: CrossModalSwAV()(X[:1], Y[:1]), "h_image: expected at least 2 views"),
        (lambda: CrossModalSwAV()(X, Y[:2]), "h_text: expected 3 views"),
        (lambda: CrossModalSwAV()(X, Y, torch.tensor(math.inf)), "scale: expected a finite number above 0"),
    ],
)
def test_what_has_no_answer(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (MultiViewCLIP, "label_smoothing", 1.0),
        (MultiViewCLIP, "label_smoothing", -0.1),
        (MultiViewCLIP, "label_smoothing", math.nan),
        (MultiViewCLIP, "directions", "max"),
        (MultiViewCLIP, "temperature", 0.0),
        (MultiViewCLIP, "local_temperature", math.inf),
        (MultiViewCLIP, "reduction", "avg"),
        (CrossModalPrediction, "reduction", "avg"),
        (CrossModalBarlow, "lambda_", -1.0),
        (CrossModalBarlow, "scale", 0.0),
        (CrossModalSwAV, "epsilon", 0.0),
        (CrossModalSwAV, "iterations", -1),
        (CrossModalSwAV, "temperature", -0.1),
        (CrossModalSwAV, "reduction", "avg"),
    ],
)
def test_options(kind, name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        kind(**{name: value})


def test_one_row_of_swav_is_its_own_code():
    """A batch of one: the code is 1 and nothing is left to learn."""
    x, y = (z.requires_grad_() for z in pairs(2, 1))
    loss = CrossModalSwAV()(x, y)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert all((g == 0).all() for g in torch.autograd.grad(loss, (x, y)))
