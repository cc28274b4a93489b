"""Methods of many views: MV-InfoNCE, MV-DHEL and their rivals, which differ in the loss alone."""

import pytest
import torch

import counterpoint as cp
from counterpoint.encoders import build
from counterpoint.methods import get
from counterpoint.objectives.multiview import MVDHEL, AverageOfOthers, MVInfoNCE, PairwiseAverage, PolyView

IMAGE = (1, 8, 8)
LOSSES = {
    "mv_infonce": MVInfoNCE,
    "mv_dhel": MVDHEL,
    "pairwise_views": lambda **k: PairwiseAverage(**k),
    "average_views": AverageOfOthers,
    "poly_view": PolyView,
}
every = pytest.mark.parametrize("name", LOSSES)


def make(name, **options):
    torch.manual_seed(0)
    return get(name)(build("convnet", IMAGE, widths=(8, 16)), **options)


def views(number, items=6):
    return list(torch.rand(number, items, *IMAGE, generator=torch.Generator().manual_seed(1)))


@pytest.mark.paper(22, "trains")
@every
def test_learns_from_four_views_of_real_images(name, tmp_path):
    run = cp.fit(
        "digits", name, out=str(tmp_path / name), epochs=3, limit=1000, batch_size=50, threads=1, seed=1,
        views={"auto": {"count": 4}}, progress=False, encoder_options={"widths": [16, 32, 64]}, report=False,
        monitor=2,
    )  # fmt: skip
    losses = [row["loss"] for row in run.metrics]
    assert losses[-1] == min(losses) < losses[0] - 0.2
    assert run.scores["map"] > 0.55  # of the same encoder, untrained: 0.52
    assert run.metrics[-1]["collapse"] is None


@every
@pytest.mark.parametrize("number", [2, 4])
def test_the_loss_is_that_of_the_projections_view_after_view(name, number):
    method, x = make(name, temperature=0.3, dim=12), views(number)
    z = method.projector(method.encoder(torch.cat(x))).view(number, 6, 12)
    torch.testing.assert_close(method.loss(x, {}), LOSSES[name](temperature=0.3)(z))
    mixed = [x[0], *(view.roll(1, 0) for view in x[1:])]
    assert not torch.isclose(method.loss(mixed, {}), method.loss(x, {}))


@pytest.mark.parametrize(
    ("name", "options", "objective"),
    [
        ("mv_infonce", {"variant": "code"}, MVInfoNCE(0.5, "code")),
        ("mv_dhel", {"include_self": True}, MVDHEL(0.5, include_self=True)),
        ("poly_view", {"aggregation": "arithmetic"}, PolyView(0.5, "arithmetic")),
    ],
)
def test_options_reach_the_loss(name, options, objective):
    method, x = make(name, **options), views(3)
    z = method.projector(method.encoder(torch.cat(x))).view(3, 6, 128)
    torch.testing.assert_close(method.loss(x, {}), objective(z))
    assert not torch.isclose(make(name).loss(x, {}), method.loss(x, {}))


@every
def test_one_view_has_no_positive(name):
    with pytest.raises(ValueError, match=r"^z: expected at least 2 views"):
        make(name).loss(views(1), {})
