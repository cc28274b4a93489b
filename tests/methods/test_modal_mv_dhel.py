"""MV-DHEL and MV-InfoNCE whose views are modalities."""

import pytest
import torch
from tests.methods.test_clip import QUIET, batch_of, halves, towers

import counterpoint as cp
from counterpoint import methods
from counterpoint.objectives import MVDHEL, MVInfoNCE

OBJECTIVES = {"modal_mv_dhel": MVDHEL(0.2), "modal_mv_infonce": MVInfoNCE(0.2)}
both = pytest.mark.parametrize("name", OBJECTIVES)


@both
def test_one_term_an_item_over_all_modalities_of_whole_items(name):
    some = torch.tensor([True, True, False, True, True, False])
    other = torch.tensor([True, True, True, False, True, True])
    method = methods.get(name)(towers("a", "b", "c"), dim=4)
    batch = batch_of("a", "b", "c", present={"b": some, "c": other})
    z = method.eval().embed(batch)
    whole = torch.stack([z[key][some & other] for key in ("a", "b", "c")])
    torch.testing.assert_close(method.loss([batch], batch), OBJECTIVES[name](whole))


@both
def test_a_batch_with_fewer_than_two_whole_items_has_no_loss(name):
    one = torch.tensor([True, False, False, False, False, False])
    method, batch = methods.get(name)(towers("a", "b"), dim=4), batch_of("a", "b", present={"b": one})
    loss = method.loss([batch], batch)
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is None or not p.grad.any() for p in method.parameters())


@pytest.mark.paper(22, "trains")
@both
def test_learns_to_find_the_other_half(name, tmp_path):
    run = cp.fit(halves(), name, epochs=15, batch_size=64, out=str(tmp_path / "run"), **QUIET)
    base = cp.fit(halves(), "untrained_towers", out=str(tmp_path / "base"), **QUIET)
    assert run.scores["pair_recall@5"] > base.scores["pair_recall@5"] + 0.2
