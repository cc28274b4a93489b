"""Several processes with a part of the batch each against one process with all of it, over gloo."""

import pytest
import torch
import torch.distributed as dist
from tests.processes import in_processes
from torch import nn

from counterpoint.objectives import (
    CACR,
    DCL,
    DCLW,
    MVDHEL,
    ArbitraryPairs,
    BarlowTwins,
    CLIPUniformAlignLoss,
    ContrastiveMIM,
    CrossModalBarlow,
    CrossModalPrediction,
    CrossModalSwAV,
    CWCLLoss,
    DeGLALoss,
    FocalSupCon,
    GroCo,
    GroupInfoNCE,
    GroupNTXent,
    HallucinatedNTXent,
    HardContrastive,
    InfoNCE,
    M3CoLoss,
    MultiViewCLIP,
    MVInfoNCE,
    NegativeCosine,
    NTXent,
    PolyView,
    SimpleContrastive,
    SoftTargetContrastiveLoss,
    SpectralContrastive,
    SupCon,
    SupReMix,
    SymileLoss,
    VICReg,
)
from counterpoint.pairwise import gather, gather_labels, synchronize_batchnorm

ITEMS, DIM = 9, 5
PERMUTATIONS = torch.stack([torch.randperm(ITEMS, generator=torch.Generator().manual_seed(k)) for k in range(6)])
PERMUTATIONS = PERMUTATIONS.view(3, 2, ITEMS)  # of the whole batch
SHARDS = {"two": (5, 4), "three": (4, 4, 1)}  # uneven ones, and one item that alone would have no negative


SHARES = torch.linspace(0, 1, (2 * ITEMS) ** 2, dtype=torch.float64).view(2 * ITEMS, -1)  # of anchors in mixtures


def soft(labels):
    """Labels between two classes, as mixed rows have them."""
    share = (labels % 3 / 3).double()
    return torch.stack([share, 1 - share], 1)


def batch():
    made = torch.Generator().manual_seed(0)
    views = torch.randn(2, ITEMS, 6, generator=made, dtype=torch.float64)
    bank = torch.randn(7, DIM, generator=made, dtype=torch.float64)
    return views, torch.arange(ITEMS) * 5 % 4 - 1, bank  # the label -1 is among them


def linear():
    torch.manual_seed(1)
    return nn.Linear(6, DIM).double()


def deep():
    torch.manual_seed(1)
    layers = nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, DIM), nn.BatchNorm1d(DIM)
    return nn.Sequential(*layers).double()


OBJECTIVES = {
    "NTXent": lambda z, labels, bank: NTXent()(*z),
    "SupCon": lambda z, labels, bank: SupCon(empty="zero")(z, labels),
    "SupCon one": lambda z, labels, bank: SupCon(anchors="first")(z, labels),
    "SupCon unlabelled": lambda z, labels, bank: SupCon()(z),
    "InfoNCE": lambda z, labels, bank: InfoNCE()(z[0], z[1].detach(), bank),
    "GroupNTXent": lambda z, labels, bank: GroupNTXent()(*z, labels),
    "GroupInfoNCE": lambda z, labels, bank: GroupInfoNCE()(*z, labels),
    "NegativeCosine": lambda z, labels, bank: (NegativeCosine()(z[0], z[1]) + NegativeCosine()(z[1], z[0])) / 2,
    "BarlowTwins": lambda z, labels, bank: BarlowTwins()(*z),
    "VICReg": lambda z, labels, bank: VICReg()(*z),
    "DCL": lambda z, labels, bank: DCL()(*z),
    "DCLW": lambda z, labels, bank: DCLW(detach_weight=False)(*z),
    "MVInfoNCE": lambda z, labels, bank: MVInfoNCE()(z),
    "MVDHEL": lambda z, labels, bank: MVDHEL()(z),
    "PolyView": lambda z, labels, bank: PolyView()(z),
    "GroCo": lambda z, labels, bank: GroCo(3)(z),
    "SpectralContrastive": lambda z, labels, bank: SpectralContrastive()(*z),
    "ArbitraryPairs": lambda z, labels, bank: ArbitraryPairs()(*z),
    "ArbitraryPairs gated": lambda z, labels, bank: ArbitraryPairs(exclude_self=True)(
        *z, labels, (labels + 1) % 3, labels, z[0].sigmoid()
    ),
    "CUAXU": lambda z, labels, bank: CLIPUniformAlignLoss(0.5, w_cross=1)(*z),
    "CWCLLoss": lambda z, labels, bank: CWCLLoss(0.5)(*z),
    "CWCLLoss weighted": lambda z, labels, bank: CWCLLoss(0.5, "weighted")(*z, z[0].repeat(1, 2)),
    "HallucinatedNTXent": lambda z, labels, bank: HallucinatedNTXent(0.5)(z[0], z.sum(0), z[1]),
    "HallucinatedNTXent masked": lambda z, labels, bank: HallucinatedNTXent(0.5, True)(z[0], z.sum(0), z[1]),
    "HardContrastive": lambda z, labels, bank: HardContrastive(0.3, count=3)(*z),
    "SimpleContrastive": lambda z, labels, bank: SimpleContrastive(fraction=0.4)(*z),
    "MultiViewCLIP": lambda z, labels, bank: MultiViewCLIP()(*z, [z[0], z.sum(0)], [z[1], z[1] - z[0]]),
    "CrossModalPrediction": lambda z, labels, bank: CrossModalPrediction()(*z, z[0] + 1, z[1] - 1),
    "CrossModalBarlow": lambda z, labels, bank: CrossModalBarlow()([z[0], z.sum(0)], [z[1], z[1] - z[0]]),
    "CrossModalSwAV": lambda z, labels, bank: CrossModalSwAV()([z[0], z.sum(0)], [z[1], z[1] - z[0]]),
    "ContrastiveMIM": lambda z, labels, bank: ContrastiveMIM()(-z[0].square(), z[1], z[0], z.mean(0) / 9),
    "FocalSupCon": lambda z, labels, bank: FocalSupCon(0.5)(z[0], labels),
    "FocalSupCon of soft labels": lambda z, labels, bank: FocalSupCon(0.5)(z[0], soft(labels)),
    "SupReMix": lambda z, labels, bank: SupReMix(window=3)(z, labels, SHARES),
    "CACR": lambda z, labels, bank: CACR()(z),
    "Symile": lambda z, labels, bank: SymileLoss()([*z, z.sum(0)], permutations=PERMUTATIONS),
    "Symile, all": lambda z, labels, bank: SymileLoss("all")([*z, z.sum(0)]),
    "M3CoLoss": lambda z, labels, bank: mixed(z),
    "SoftTargetContrastiveLoss": lambda z, labels, bank: SoftTargetContrastiveLoss()(*z),
    "DeGLA": lambda z, labels, bank: rewritten(z, labels, None),
    "DeGLA, official": lambda z, labels, bank: rewritten(z, labels, "official"),
}


def mixed(z):
    """Mixtures of items that are on one process however the batch is shared out."""
    sizes = gather_labels(torch.tensor([z.shape[1]]))
    start = int(sizes[: dist.get_rank()].sum()) if len(sizes) > 1 else 0
    perm = torch.tensor([1, 0, 3, 2, 4, 6, 5, 7, 8])[start : start + z.shape[1]] - start
    lam = torch.linspace(0.1, 0.9, ITEMS, dtype=z.dtype)[start : start + z.shape[1]]
    share = lam[:, None]
    return M3CoLoss()(share * z[0] + (1 - share) * z[0][perm], z[1], perm, lam)


def rewritten(z, labels, compat):
    """DeGLA with two negatives of each caption, of which some lack one or both."""
    negatives, teacher = torch.stack([z[1] + z[0].flip(1), -z[1]], 1), z.flip(2).detach()
    mask = torch.stack([labels > 0, labels < 2], 1)
    loss = DeGLALoss(0.7, 0.6, 0.5, distill_batch=7, compat=compat)
    return loss(*z, negatives, *teacher, negatives.flip(2), None, mask)["loss"]


def step(network, loss, views, labels, bank):
    """Loss and gradients of one training step; the views go through the network one after the other."""
    value = loss(torch.stack([network(view) for view in views]), labels, bank)
    return value, torch.autograd.grad(value, list(network.parameters()))


def objectives_in_one_process():
    views, labels, bank = batch()
    return {
        (name, kind.__name__): step(kind(), loss, views, labels, bank)
        for name, loss in OBJECTIVES.items()
        for kind in (linear, deep)
    }


def check_objectives(mine, expected):
    """Gradients averaged over the processes, as DistributedDataParallel does, are those of the whole batch."""
    views, labels, bank = batch()
    for name, loss in OBJECTIVES.items():
        for kind in (linear, deep):
            network = synchronize_batchnorm(kind())
            value, gradients = step(network, loss, views[:, mine], labels[mine], bank)
            wanted, wanted_gradients = expected[name, kind.__name__]
            torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
            for gradient, whole in zip(gradients, wanted_gradients, strict=True):
                dist.all_reduce(gradient)
                torch.testing.assert_close(
                    gradient / dist.get_world_size(), whole, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
                )


def check_ddp(mine, expected):
    """The same with torch's own wrapper instead of averaging by hand, both views in one pass."""
    views, _, _ = batch()
    network = nn.parallel.DistributedDataParallel(synchronize_batchnorm(deep()))
    value = NTXent()(*network(views[:, mine].transpose(0, 1).reshape(-1, 6)).unflatten(0, (-1, 2)).unbind(1))
    value.backward()
    wanted, gradients = expected["ddp"]
    torch.testing.assert_close(value, wanted)
    for parameter, whole in zip(network.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, whole, rtol=1e-6, atol=1e-9)


def ddp_in_one_process():
    views, _, _ = batch()
    network = deep()
    value = NTXent()(*network(views.transpose(0, 1).reshape(-1, 6)).unflatten(0, (-1, 2)).unbind(1))
    return value, torch.autograd.grad(value, list(network.parameters()))


def check_gather(mine):
    views, labels, _ = batch()
    x = views[0, mine].clone().requires_grad_()
    whole = gather(x)
    torch.testing.assert_close(whole, views[0], rtol=0, atol=0)
    assert torch.equal(gather_labels(labels[mine]), labels)
    weight = torch.arange(ITEMS * 6, dtype=torch.float64).view(ITEMS, 6) * (dist.get_rank() + 1)
    (whole * weight).sum().backward()
    total = sum(range(1, dist.get_world_size() + 1)) * torch.arange(ITEMS * 6, dtype=torch.float64).view(ITEMS, 6)
    torch.testing.assert_close(x.grad, total[mine])
    half = gather(views[0, mine].bfloat16())
    assert half.dtype == torch.bfloat16
    assert len(half) == ITEMS


NORMS = {
    "1d": lambda: nn.BatchNorm1d(6),
    "1d of sequences": lambda: nn.BatchNorm1d(3),
    "2d": lambda: nn.BatchNorm2d(3),
    "without affine": lambda: nn.BatchNorm1d(6, affine=False),
    "without running statistics": lambda: nn.BatchNorm1d(6, track_running_stats=False),
    "cumulative": lambda: nn.BatchNorm1d(6, momentum=None),
}


def norm_and_inputs(name):
    torch.manual_seed(2)
    layer = NORMS[name]().double()
    if layer.affine:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    shape = {"1d of sequences": (3, 4), "2d": (3, 4, 2)}.get(name, (6,))
    inputs = torch.randn(3, ITEMS, *shape, dtype=torch.float64) * 3 + 100
    return layer, inputs, torch.randn(inputs.shape[1:], dtype=torch.float64)


def norm_steps(layer, inputs, weights):
    """Outputs and input gradients of three training steps, parameter gradients of all, buffers, and an evaluation."""
    steps = []
    for x in inputs:
        x = x.clone().requires_grad_()
        y = layer(x)
        (y * weights).sum().backward()
        steps.append((y.detach(), x.grad))
    evaluated = layer.eval()(inputs[0]) if layer.track_running_stats else inputs[0]
    return steps, [p.grad for p in layer.parameters()], dict(layer.state_dict()), evaluated


def check_norms(mine, expected):
    for name in NORMS:
        layer, inputs, weights = norm_and_inputs(name)
        keys = list(layer.state_dict())
        layer = synchronize_batchnorm(layer)
        steps, gradients, state, evaluated = norm_steps(layer, inputs[:, mine], weights[mine])
        whole_steps, whole_gradients, whole_state, whole_evaluated = expected["norms"][name]
        assert list(state) == keys == list(whole_state)
        for ours, theirs in zip(steps, whole_steps, strict=True):
            for a, b in zip(ours, theirs, strict=True):
                torch.testing.assert_close(a, b[mine], rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
        for gradient, whole in zip(gradients, whole_gradients, strict=True):
            dist.all_reduce(gradient)
            torch.testing.assert_close(gradient, whole, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(state, whole_state, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(evaluated, whole_evaluated[mine])


def check_single_precision(mine):
    """Far from zero, sums of squares would lose everything in float32."""
    x = torch.randn(ITEMS, 6, generator=torch.Generator().manual_seed(0)) + 1e4
    with torch.autocast("cpu", torch.bfloat16):
        y = synchronize_batchnorm(nn.BatchNorm1d(6))(x[mine])
        low = synchronize_batchnorm(nn.BatchNorm1d(6))(x[mine].bfloat16())
    exact = nn.BatchNorm1d(6).double()(x.double())
    torch.testing.assert_close(y.double(), exact[mine], rtol=0, atol=5e-3)
    assert y.dtype == torch.float32
    assert low.dtype == torch.bfloat16


def work(rank, shards, expected):
    start = sum(shards[:rank])
    mine = slice(start, start + shards[rank])
    check_gather(mine)
    check_objectives(mine, expected)
    check_norms(mine, expected)
    check_single_precision(mine)
    if len(set(shards[:2])) == 2:
        check_ddp(mine, expected)


@pytest.mark.parametrize("shards", SHARDS.values(), ids=SHARDS)
def test_processes_together_equal_one_with_the_whole_batch(tmp_path, shards):
    expected = {
        **objectives_in_one_process(),
        "ddp": ddp_in_one_process(),
        "norms": {name: norm_steps(*norm_and_inputs(name)) for name in NORMS},
    }
    plain = torch.utils._pytree.tree_map(lambda x: x.detach() if isinstance(x, torch.Tensor) else x, expected)
    in_processes(work, tmp_path, len(shards), shards, plain)


def test_alone_nothing_is_gathered():
    x = torch.ones(3, 2)
    assert gather(x) is x
    assert gather_labels(x) is x
    assert gather_labels(None) is None
