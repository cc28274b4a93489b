"""SogCLR and iSogCLR: official figures with their states, a dense reference, what is remembered and what is not."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tests.processes import in_processes
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from counterpoint.objectives.item_state import TemperatureStep, dro_temperature
from counterpoint.objectives.sogclr import BimodalISogCLR, BimodalSogCLR, ISogCLR, SogCLR

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "63-isogclr.npz")
LEARNS = {"rho": 0.3, "eta": 0.03}
parity = pytest.mark.paper(63, "parity")


def golden(name, grad=False):
    return torch.from_numpy(np.array(GOLDEN[name])).requires_grad_(grad)


def double(loss, temperature=0.1):
    """In float64, the temperatures too: 0.1 in float32 is another number."""
    for name, buffer in loss.double().named_buffers():
        if name.endswith("tau"):
            buffer.fill_(temperature)
    return loss


def check(case, value, inputs, value_name="loss", prefix="", factor=1.0):
    """Value and gradients of a step against the arrays of a case."""
    close(value * factor, f"{case}_{prefix}{value_name}")
    gradients = torch.autograd.grad(value * factor, list(inputs.values()), retain_graph=True)
    for name, gradient in zip(inputs, gradients, strict=True):
        if f"{case}_{prefix}grad_{name}" in GOLDEN:
            close(gradient, f"{case}_{prefix}grad_{name}")


def close(found, name):
    torch.testing.assert_close(found.detach().double(), golden(name).view(found.shape), rtol=1e-7, atol=1e-9)


@parity
def test_unimodal_with_individual_temperatures():
    loss = double(ISogCLR(10, 0.8, 0.1, beta=0.5, compat="official", **LEARNS))
    for t in range(3):
        step = f"uni__s{t}"
        z = {name: golden(f"{step}_{name}", grad=True) for name in ("z1", "z2")}
        value = loss(*z.values(), golden(f"{step}_index"), epoch=min(t, 1))
        check(step, value, z)
        check(step, value, z, prefix="libauc_")
        for name, libauc in (("s", "u"), ("u", "gradtau"), ("tau", "tau")):
            close(getattr(loss.state, name), f"{step}_state_{name}")
            close(getattr(loss.state, name), f"{step}_libauc_{libauc}")


@parity
def test_unimodal_with_one_temperature():
    loss = double(SogCLR(10, 0.8, 0.1, compat="official"))
    for t in range(3):
        step = f"uni__s{t}"
        z = {name: golden(f"{step}_{name}", grad=True) for name in ("z1", "z2")}
        check(step, loss(*z.values(), golden(f"{step}_index"), epoch=min(t, 1)), z, prefix="sogclr_")
        close(loss.state.s, f"{step}_sogclr_u")
        assert (loss.state.tau == 0.1).all()


@parity
def test_bimodal_official():
    loss = double(BimodalISogCLR(8, 0.8, 0.1, compat="official", **LEARNS))
    plain = double(BimodalSogCLR(8, 0.8, 0.1, compat="official"))
    for t in range(2):
        step = f"bi__s{t}"
        pair = {name: golden(f"{step}_{name}", grad=True) for name in ("image", "text")}
        check(step, loss(*pair.values(), golden(f"{step}_index")), pair)
        check(step, plain(*pair.values(), golden(f"{step}_index")), pair, prefix="sogclr_")
        for state, side in ((loss.image_state, "I"), (loss.text_state, "T")):
            s = golden(f"{step}_s_{side}") * golden(f"{step}_b_{side}").exp()  # the two are one number here
            torch.testing.assert_close(state.s, s, rtol=1e-7, atol=1e-9)
            close(state.u, f"{step}_u_{side}")
            close(state.tau, f"{step}_tau_{side}")


@parity
def test_bimodal_of_libauc_leaves_the_pair_out():
    loss = double(BimodalISogCLR(8, 0.8, 0.1, clip=math.inf, **LEARNS))
    for t in range(2):
        step = f"bi__s{t}"
        pair = {name: golden(f"{step}_{name}", grad=True) for name in ("image", "text")}
        if t:  # items that a batch with known ones brings in start from 0 there
            for state in (loss.image_state, loss.text_state):
                state.log_s[6:] = -700
        value = loss(*pair.values(), golden(f"{step}_index"))
        check(step, value, pair, prefix="libauc_", factor=(4 - 1) / 2)
        close(loss.image_state.tau, f"{step}_libauc_tau_img")
        close(loss.text_state.tau, f"{step}_libauc_tau_txt")


@parity
def test_float32():
    loss = ISogCLR(10, 0.8, 0.1, beta=0.5, compat="official", **LEARNS)
    for t in range(3):
        z1, z2 = (golden(f"uni__s{t}_{name}").float() for name in ("z1", "z2"))
        value = loss(z1, z2, golden(f"uni__s{t}_index"), epoch=min(t, 1))
        assert value.item() == pytest.approx(float(GOLDEN[f"uni__s{t}_loss"]), rel=2e-3)
        torch.testing.assert_close(loss.state.tau.double(), golden(f"uni__s{t}_state_tau"), rtol=2e-3, atol=0)


@parity
def test_robust_temperature():
    h, rho = golden("dro__h"), float(GOLDEN["dro__rho"])
    bounds = float(GOLDEN["dro__tau_min"]), float(GOLDEN["dro__tau_max"])
    tau = dro_temperature(h, rho, *bounds)
    close(tau, "dro__tau_star")
    p = torch.softmax(h / tau, 0)
    close(p, "dro__worst_case_p")
    assert (p * (p * len(h)).log()).sum().item() == pytest.approx(rho, rel=1e-12)
    value = tau * (torch.logsumexp(h / tau, 0) - math.log(len(h))) + tau * rho
    close(value, "dro__value_at_star")
    assert value.item() == pytest.approx((p @ h).item(), rel=1e-9)  # the worst mean score within the radius
    # the derivative that the steps follow, on the grid
    grid = golden("dro__tau_grid").requires_grad_()
    values = grid * (torch.logsumexp(h / grid[:, None], 1) - math.log(len(h))) + grid * rho
    close(values, "dro__value_on_grid")
    close(torch.autograd.grad(values.sum(), grid)[0], "dro__dvalue_dtau_on_grid")
    torch.testing.assert_close(dro_temperature(h, 5.0, *bounds), torch.tensor(0.01, dtype=torch.float64))  # > log 12
    torch.testing.assert_close(dro_temperature(h, 1e-6, *bounds), torch.tensor(2.0, dtype=torch.float64))
    both = dro_temperature(torch.stack([h, 2 * h]).float(), rho, *bounds)
    torch.testing.assert_close(both, torch.stack([tau, 2 * tau]).float())  # scores and temperatures scale together


def batches(steps=4, items=9, rows=6, repeated=True, dtype=torch.float64):
    """Batches (z1, z2, index) in which items come back, and may come twice."""
    made = torch.Generator().manual_seed(0)
    for _ in range(steps):
        z = torch.randn(2, rows, 5, generator=made, dtype=torch.float64).to(dtype)
        draw = torch.randint(items, (rows,), generator=made) if repeated else torch.randperm(items, generator=made)
        yield z[0].requires_grad_(), z[1].requires_grad_(), draw[:rows]


class Dense:
    """The card's equations with matrices and dictionaries, a row at a time."""

    def __init__(self, gamma, tau, rho=None, eta=0.0, beta=1.0, low=0.0, high=1e9, clip=3.0):
        self.gamma, self.start, self.rho, self.eta, self.beta = gamma, tau, rho, eta, beta
        self.low, self.high, self.clip = low, high, clip
        self.s, self.tau, self.u = {}, {}, {}

    def __call__(self, z1, z2, index):
        z1, z2 = normalize(z1, dim=1), normalize(z2, dim=1)
        z, rows, index = torch.cat([z1, z2]), len(z1), index.tolist()
        sims, loss, seen = z @ z.T, 0.0, {}
        for r in range(2 * rows):
            i = index[r % rows]
            tau = self.tau.get(i, self.start)
            others = torch.tensor([j % rows != r % rows for j in range(2 * rows)])
            s, positive = sims[r][others], sims[r, (r + rows) % (2 * rows)]
            g = torch.exp(s / tau).mean()
            average = (1 - self.gamma) * self.s[i] + self.gamma * g if i in self.s else g
            weights = (torch.exp(s / tau) / average).detach()
            loss = loss + ((weights * s).mean() - positive) / rows
            if self.rho is not None:
                slope = average.log() + self.rho - (weights * s / tau).mean()
                seen.setdefault(i, []).append((average.item(), slope.item()))
            else:
                seen.setdefault(i, []).append((average.item(), 0.0))
        for i, found in seen.items():
            self.s[i], slope = (sum(x) / len(found) for x in zip(*found, strict=True))
            self.u[i] = (1 - self.beta) * self.u.get(i, 0) + self.beta * min(max(slope, -self.clip), self.clip)
            self.tau[i] = min(max(self.tau.get(i, self.start) - self.eta * self.u[i], self.low), self.high)
        return loss


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("learns", [False, True])
def test_equals_the_equations_row_by_row(repeated, learns):
    if learns:
        loss = double(ISogCLR(9, 0.7, 0.2, 1.0, 0.1, 0.6, 0.19, 0.205, clip=0.3), 0.2)
        dense = Dense(0.7, 0.2, 1.0, 0.1, 0.6, 0.19, 0.205, clip=0.3)
    else:
        loss, dense = double(SogCLR(9, 0.7, 0.2), 0.2), Dense(0.7, 0.2)
    for z1, z2, index in batches(repeated=repeated):
        value, expected = loss(z1, z2, index), dense(z1, z2, index)
        torch.testing.assert_close(value, expected)
        for ours, theirs in zip(*(torch.autograd.grad(x, (z1, z2)) for x in (value, expected)), strict=True):
            torch.testing.assert_close(ours, theirs)
        for name in ("s", "tau", "u") if learns else ("s",):
            kept = getattr(dense, name)
            found = getattr(loss.state, name)[list(kept)]
            torch.testing.assert_close(found, torch.tensor(list(kept.values()), dtype=torch.float64))
    assert not learns or {0.19, 0.205} <= set(loss.state.tau.tolist())  # both bounds were met
    unseen = [i for i in range(9) if i not in dense.s]
    assert (loss.state.s[unseen] == 0).all()


def test_without_memory_the_gradient_is_that_of_decoupled_nt_xent():
    """For both first visits and gamma = 1; and with memory, gamma times less of what repels on the second visit."""
    (z1, z2, index), tau = next(batches(repeated=False)), 0.3
    z = normalize(torch.cat([z1, z2]), dim=1)
    own = torch.arange(len(z1)).repeat(2)
    scores = (z @ z.T / tau).masked_fill(own[:, None] == own, -torch.inf)
    decoupled = (scores.logsumexp(1) - (z[:6] * z[6:]).sum(1).repeat(2) / tau).mean()
    expected = torch.autograd.grad(2 * tau * decoupled, (z1, z2))
    for gamma in (0.4, 1.0):
        loss = double(SogCLR(9, gamma, tau), tau)
        for visit in range(2):
            found = torch.autograd.grad(loss(z1, z2, index), (z1, z2))
            assert visit == 0 or gamma == 1 or not torch.allclose(found[0], expected[0])
            if visit == 0 or gamma == 1:
                torch.testing.assert_close(found, expected)


def test_an_item_first_seen_late_enters_with_the_batch():
    loss, official = SogCLR(9, 0.8, compat=None), SogCLR(9, 0.8, compat="official")
    z = [torch.randn(4, 5) for _ in range(2)]
    for epoch in range(2):
        for one in (loss, official):
            one(*z, torch.arange(4) + 4 * epoch, epoch=epoch)
    torch.testing.assert_close(loss.state.s[4:8], loss.state.s[:4])
    torch.testing.assert_close(official.state.s[4:8], 0.8 * official.state.s[:4])


def test_the_steps_come_to_rest_at_the_robust_temperature():
    made = torch.Generator().manual_seed(1)
    image, text = (torch.randn(12, 6, generator=made, dtype=torch.float64) for _ in range(2))
    rho, bounds = 0.4, (0.05, 1.0)
    pair = BimodalISogCLR(12, 1.0, 0.3, None, rho, 0.05, 0.5, *bounds).double()
    one = ISogCLR(12, 1.0, 0.3, rho, 0.05, 0.5, *bounds).double()
    for _ in range(250):
        pair(image, text, torch.arange(12))
        one(image, image, torch.arange(12))
    scores = normalize(image, dim=1) @ normalize(text, dim=1).T
    others = ~torch.eye(12, dtype=torch.bool)
    for state, s in ((pair.image_state, scores), (pair.text_state, scores.T)):
        h = (s - scores.diagonal()[:, None])[others].view(12, 11)
        torch.testing.assert_close(state.tau, dro_temperature(h, rho, *bounds), rtol=1e-4, atol=1e-5)
    h = (normalize(image, dim=1) @ normalize(image, dim=1).T)[others].view(12, 11)
    torch.testing.assert_close(one.state.tau, dro_temperature(h, rho, *bounds), rtol=1e-4, atol=1e-5)
    assert one.state.tau.std() > 0.01
    too_far = ISogCLR(12, 1.0, 0.3, math.log(22) + 0.1, 0.05, 0.5, *bounds).double()
    for _ in range(250):
        too_far(image, text, torch.arange(12))
    torch.testing.assert_close(too_far.state.tau, torch.full((12,), 0.05, dtype=torch.float64))


def test_frequent_items_get_large_temperatures():
    """Ten neighbours around one centre, and two items of their own."""
    made = torch.Generator().manual_seed(0)
    centres = torch.eye(8)[[0] * 10 + [3, 5]]
    loss = ISogCLR(12, temperature=0.3)
    for _ in range(60):
        loss(*(centres + 0.1 * torch.randn(2, 12, 8, generator=made)), torch.arange(12))
    assert loss.state.tau[:10].min() > loss.state.tau[10:].max()


KINDS = {
    "SogCLR": lambda **k: SogCLR(9, **k),
    "ISogCLR": lambda **k: ISogCLR(9, **k),
    "BimodalSogCLR": lambda **k: BimodalSogCLR(9, **k),
    "BimodalISogCLR": lambda **k: BimodalISogCLR(9, rho=0.5, **k),
}
every = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def state(loss):
    return {name: buffer.clone() for name, buffer in loss.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@every
def test_what_is_remembered_is_in_the_checkpoint(kind):
    loss, (first, second, third) = kind(), batches(3, repeated=False)
    loss(*first)
    loss(*second)
    assert {name.split(".")[-1] for name in loss.state_dict()} == {"log_s", "tau", "u"}
    again = kind()
    again.load_state_dict(state(loss))
    forgetful = kind()
    assert torch.equal(again(*third), loss(*third))
    assert same(state(again), state(loss))
    assert not torch.allclose(forgetful(*third), loss(*third))


@every
def test_measuring_is_no_visit(kind):
    loss, (first, second) = kind(), batches(2)
    loss(*first)
    before = state(loss)
    with torch.no_grad():
        value = loss(*second)
    assert same(state(loss), before)
    torch.testing.assert_close(loss.eval()(*second), value)
    assert same(state(loss), before)
    torch.testing.assert_close(loss.train()(*second), value)  # what a step would see is what is measured
    assert not same(state(loss), before)


@every
def test_what_is_refused_is_not_remembered(kind):
    loss, (z1, z2, index) = kind(), next(batches(1))
    before = state(loss)
    names = ("image", "text") if "image_state.tau" in before else ("z1", "z2")
    bad = z1.detach().clone()
    bad[2, 1] = torch.nan
    for arguments, message in (
        ((bad, z2, index), f"^{names[0]}: .*NaN"),
        ((z1, bad, index), f"^{names[1]}: .*NaN"),
        ((z1, z2[:5], index), f"^{names[1]}: expected"),
        ((z1, z2), "^index: needed"),
        ((z1, z2, index[:5]), r"^index: expected \(6,\) integers"),
        ((z1, z2, index.float()), r"^index: expected \(6,\) integers"),
        ((z1, z2, index + 9), "^index: expected positions from 0 to 8"),
        ((z1, z2, index - 9), "^index: expected positions from 0 to 8"),
        ((z1[:1], z2[:1], index[:1]), f"^{names[0]}: expected at least 2 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            loss(*arguments)
    assert same(state(loss), before)


@every
def test_order_of_the_rows_does_not_matter(kind):
    one, other = kind().double(), kind().double()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    for z1, z2, index in batches():
        torch.testing.assert_close(other(z1[order], z2[order], index[order]), one(z1, z2, index))
    torch.testing.assert_close(state(other), state(one))


@every
def test_sides_can_be_swapped(kind):
    one, other = kind().double(), kind().double()
    for z1, z2, index in batches():
        torch.testing.assert_close(other(z2, z1, index), one(z1, z2, index))


@every
def test_reductions(kind):
    terms = {name: kind(reduction=name)(*next(batches(1))) for name in ("none", "sum", "mean")}
    assert terms["none"].shape == (6,)
    torch.testing.assert_close(terms["none"].sum(), terms["sum"])
    torch.testing.assert_close(terms["none"].mean(), terms["mean"])


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(kind, dtype):
    low, exact = kind(), kind()
    for z1, z2, index in batches(dtype=dtype):
        value = low(z1, z2, index)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact(z1.float(), z2.float(), index))
        (gradient,) = torch.autograd.grad(value, z1)
        assert gradient.dtype == dtype
    assert low.state_dict().keys() == exact.state_dict().keys()
    torch.testing.assert_close(state(low), state(exact))


EXTREMES = {
    "zero rows": lambda z: z * torch.tensor([0.0, 1, 0, 1, 1, 1])[:, None],
    "nothing but zeros": lambda z: z * 0,
    "1e30": lambda z: z * 1e30,
    "1e-30": lambda z: z * 1e-30,
    "duplicates": lambda z: z[[0, 0, 0, 1, 1, 1]],
    "one dimension": lambda z: z[:, :1],
}


@every
@pytest.mark.parametrize("change", EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_finite_embeddings_keep_everything_finite(kind, change, temperature):
    loss = kind(temperature=temperature)
    for number, (z1, z2, index) in enumerate(batches(6, dtype=torch.float32)):
        z1, z2 = (change(z.detach()) if number % 2 else z.detach() for z in (z1, z2))
        z1, z2 = z1.requires_grad_(), z2[:, : z1.shape[1]]
        value = loss(z1, z2, index)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(z1.grad).all()
    for name, buffer in loss.state_dict().items():
        assert not buffer.isnan().any(), name
        assert (buffer < torch.inf).all(), name


@pytest.mark.parametrize("temperature", [0.001, 0.008])
def test_small_temperatures_do_not_overflow(temperature):
    """exp(1 / 0.008) is beyond float32, exp(1 / 0.001) beyond float64."""
    single, exact = (ISogCLR(9, temperature=temperature, tau_min=temperature, eta=1e-6, eta_min=0) for _ in range(2))
    exact.double()
    for z1, z2, index in batches():
        value = single(z1.float(), z2.float(), index)
        torch.testing.assert_close(value.double(), exact(z1, z2, index), rtol=3e-3, atol=3e-3)
    seen = ~exact.state.log_s.isneginf()
    assert exact.state.log_s.max() > (88 if temperature == 0.008 else 709)
    torch.testing.assert_close(single.state.log_s[seen].double(), exact.state.log_s[seen], rtol=1e-4, atol=0)
    pair = BimodalSogCLR(9, temperature=temperature)
    for z1, z2, index in batches():
        assert torch.isfinite(pair(z1.float(), z2.float(), index))


def test_equal_embeddings_cost_nothing_and_cool_down():
    z = torch.ones(4, 3, dtype=torch.float64)
    loss = double(ISogCLR(4, temperature=0.5, rho=0.2, eta=0.1, beta=0.5), 0.5)
    assert loss(z, z, torch.arange(4)).item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(loss.state.log_s, torch.full((4,), 2.0, dtype=torch.float64))
    torch.testing.assert_close(loss.state.tau, torch.full((4,), 0.5 - 0.1 * 0.5 * 0.2, dtype=torch.float64))


def test_texts_may_have_positions_of_their_own():
    (image, text, _), index = next(batches(1)), torch.tensor([0, 0, 1, 1, 2, 2])
    loss = BimodalISogCLR(3, texts=6, rho=0.5).double()
    loss(image, text, index, torch.arange(6))
    alone = BimodalISogCLR(6, rho=0.5).double()
    alone(image, text, torch.arange(6))
    torch.testing.assert_close(loss.text_state.tau, alone.text_state.tau)
    torch.testing.assert_close(loss.image_state.s, alone.image_state.s.view(3, 2).mean(1))
    for text_index, message in ((index + 6, "text_index: expected positions"), (index[:2], "text_index: expected")):
        with pytest.raises(ValueError, match=message):
            loss(image, text, index, text_index)
    with pytest.raises(ValueError, match=r"^index: expected positions from 0 to 2, got 0 to 5"):
        loss(image, text, torch.arange(6), torch.arange(6))


def test_step_sizes():
    def sizes(schedule, **where):
        return TemperatureStep(1, 0.1, 1, 0.1, 1, 3, schedule, eta_min=0.02).size(
            **{"epoch": 3, "progress": 0, **where}
        )

    assert sizes("constant", epoch=None, progress=None) == 0.1
    assert [sizes("cosine", progress=p) for p in (0, 2 / 3, 1)] == pytest.approx([0.1, 0.02 + 0.08 / 2, 0.02])
    assert [sizes("exponential", epoch=e) for e in (0, 1, 3)] == pytest.approx([0.12, 0.1, 0.02 + 0.08 * 0.64])
    z = [torch.randn(4, 3) for _ in range(2)]
    for schedule, name in (("cosine", "progress"), ("exponential", "epoch")):
        with pytest.raises(ValueError, match=f"^{name}: needed"):
            ISogCLR(4, schedule=schedule)(*z, torch.arange(4))
        ISogCLR(4, schedule=schedule)(*z, torch.arange(4), epoch=0, progress=0.5)


def test_the_schedule_scales_the_step():
    moved = {}
    for progress in (0.0, 2 / 3):
        loss = double(ISogCLR(9, temperature=0.3, schedule="cosine", eta_min=0.0), 0.3)
        loss(*next(batches(1)), progress=progress)
        moved[progress] = loss.state.tau - 0.3
    torch.testing.assert_close(moved[2 / 3], moved[0.0] / 2)
    assert moved[0.0].abs().max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "arguments", "name"),
    [
        *((kind, {"items": 0}, "items") for kind in (SogCLR, ISogCLR, BimodalSogCLR, BimodalISogCLR)),
        (BimodalSogCLR, {"texts": 0}, "items"),
        *((SogCLR, {"gamma": value}, "gamma") for value in (0, 1.1, math.nan)),
        *((SogCLR, {"temperature": value}, "temperature") for value in (0, -1, math.nan, math.inf)),
        (ISogCLR, {"temperature": 0.01}, "temperature"),
        (ISogCLR, {"tau_min": 2.0}, "tau_min"),
        *((ISogCLR, {"rho": value}, "rho") for value in (0, math.inf)),
        (ISogCLR, {"eta": 0}, "eta"),
        *((ISogCLR, {"beta": value}, "beta") for value in (0, 1.1)),
        (ISogCLR, {"clip": 0}, "clip"),
        (ISogCLR, {"schedule": "linear"}, "schedule"),
        (ISogCLR, {"eta_min": 0.1}, "eta_min"),
        (ISogCLR, {"decay": 0}, "decay"),
        (SogCLR, {"compat": "libauc"}, "compat"),
        (BimodalSogCLR, {"compat": "libauc"}, "compat"),
        (SogCLR, {"reduction": "avg"}, "reduction"),
    ],
)
def test_options_that_cannot_be(kind, arguments, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        kind(**{"items": 5, **arguments})


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((torch.ones(1), 0.1, 0.1, 1), "h"),
        ((torch.ones(3).long(), 0.1, 0.1, 1), "h"),
        ((torch.tensor([1, math.nan]), 0.1, 0.1, 1), "h"),
        ((torch.ones(3), 0, 0.1, 1), "rho"),
        ((torch.ones(3), 0.1, 0, 1), "tau_min"),
        ((torch.ones(3), 0.1, 2, 1), "tau_min"),
    ],
)
def test_robust_temperatures_that_cannot_be(arguments, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        dro_temperature(*arguments)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, operation, types, arguments=(), named=None):
        made = operation(*arguments, **(named or {}))
        for x in tree_leaves(made):
            self.elements = max(self.elements, x.numel() if isinstance(x, torch.Tensor) else 0)
        return made


@every
def test_no_matrix_of_all_pairs_is_made(kind):
    loss, rows = kind(), 3000
    z1, z2 = (torch.randn(rows, 8, requires_grad=True) for _ in range(2))
    with Largest() as largest:
        loss(z1, z2, torch.arange(rows) % 9).backward()
    assert rows * 8 <= largest.elements <= 1024 * 1024  # a tile


def visits(loss, shard=slice(None)):
    """Values, gradients and states of three steps; of a part of each batch."""
    found = []
    for z1, z2, index in batches(3):
        mine = z1[shard].detach().requires_grad_(), z2[shard].detach().requires_grad_()
        value = loss(*mine, index[shard])
        found.append((value.detach(), torch.autograd.grad(value, mine)))
    return found, state(loss)


def work(rank, expected):
    shard = slice(0, 4) if rank == 0 else slice(4, 6)
    for name, (steps, kept) in expected.items():
        found, mine = visits(KINDS[name]().double(), shard)
        for (value, gradients), (wanted, whole) in zip(found, steps, strict=True):
            torch.testing.assert_close(value, wanted)
            for gradient, all_of_it in zip(gradients, whole, strict=True):
                torch.testing.assert_close(gradient / 2, all_of_it[shard])  # the average over two processes
        torch.testing.assert_close(mine, kept)
        other = [None, None]
        dist.all_gather_object(other, {k: v.tolist() for k, v in mine.items()})
        assert other[0] == other[1]


def test_processes_together_remember_what_one_would(tmp_path):
    """An item of one process may be an item of the other too: both average over all its rows."""
    expected = {name: visits(kind().double()) for name, kind in KINDS.items()}
    assert any(len(set(index[:4].tolist()) & set(index[4:].tolist())) for *_, index in batches(3))
    in_processes(work, tmp_path, 2, expected)
