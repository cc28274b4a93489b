"""Symile as a method: what pairs cannot see, modalities that are missing, what a run keeps and tells."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import counterpoint as cp
from counterpoint.data import Splits, pair
from counterpoint.encoders import MultimodalEncoder, build
from counterpoint.experiments.run import Run
from counterpoint.methods.multimodal.symile import Symile
from counterpoint.objectives import SymileLoss, mip_scores

QUIET = {"progress": False, "report": False, "monitor": 0, "threads": 1}
OUT = 300  # test items


def sums(items=6000, missing=0.0, base=5):
    """Two digits and their sum modulo ``base``: no two of the three tell anything of each other. Other test digits."""
    x, y = load_digits(return_X_y=True)
    x, rng = (x / 16).astype(np.float32), np.random.default_rng(0)
    order = rng.permutation(len(x))
    pools = (order[:1200], items - OUT), (order[1200:], OUT)
    a, b = (np.concatenate([rng.choice(pool, count) for pool, count in pools]) for _ in range(2))
    parts = {"first": x[a], "second": x[b], "sum": np.eye(base, dtype=np.float32)[(y[a] + y[b]) % base]}
    for values in parts.values():
        values[np.flatnonzero(rng.random(items - OUT) < missing)] = np.nan
    at = np.arange(items)
    return pair(parts), Splits(at[: -2 * OUT], at[-2 * OUT : -OUT], at[-OUT:])


def towers(width=5):
    torch.manual_seed(0)
    return MultimodalEncoder({name: build("mlp", (width,), widths=(12,)) for name in "abc"})


def batch_of(rows=8, **present):
    made = torch.Generator().manual_seed(1)
    there = {name: present.get(name, torch.ones(rows, dtype=torch.bool)) for name in "abc"}
    return {**{name: torch.randn(rows, 5, generator=made) for name in "abc"}, "present": there}


@pytest.mark.paper(40, "trains")
def test_it_sees_what_pairs_of_modalities_cannot(tmp_path):
    data, splits = sums()
    settings = {"splits": splits, "steps": 250, "batch_size": 128, "lr": 2e-3, **QUIET}
    settings["encoders"] = {name: {"name": "mlp", "widths": [64, 64]} for name in data.kinds}
    scores = {}
    for name in ("symile", "clip", "untrained_towers"):
        settings["options"] = {} if name == "untrained_towers" else {"dim": 32}
        scores[name] = cp.fit(data, name, out=str(tmp_path / name), metrics=["completion"], **settings).scores
    assert scores["symile"]["completion:sum"] > 0.6  # chance is 0.2
    assert 0.1 < scores["clip"]["completion:sum"] < 0.3
    assert scores["untrained_towers"]["completion:sum"] < 0.4


def test_a_run_with_gaps_is_whole(tmp_path):
    data, splits = sums(1500, missing=0.3)
    run = cp.fit(
        data, "symile", out=str(tmp_path / "run"), splits=splits, epochs=2, batch_size=64, progress=False, threads=1
    )
    assert {"completion", "completion:first", "completion:sum", "pair_recall@1"} <= set(run.scores)
    page = (run.folder / "report.html").read_text()
    assert "Completion" in page
    assert "is guessed right from the other two modalities" in page
    model = Run(run.folder).model()
    vectors = [fill.vector for fill in model.placeholders.values()]
    assert len({tuple(vector.tolist()) for vector in vectors}) == 3
    fresh = Symile(run.encoder())
    assert not torch.equal(model.scale.log, fresh.scale.log)  # it is kept
    assert float(model.scale().detach()) <= 1000


@pytest.mark.parametrize("method", ["symile", "clip"])
def test_words_are_guessed_from_both_halves_of_a_picture(tmp_path, method):
    x, y = load_digits(return_X_y=True)
    x = (x[:700].reshape(-1, 1, 8, 8) * 15.9).astype(np.uint8)
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    parts = {"left": x[..., :4], "right": x[..., 4:], "word": [words[label] for label in y[:700]]}
    data = pair(parts, y[:700], classes=words)
    run = cp.fit(data, method, out=str(tmp_path / "run"), steps=60, batch_size=64, options={"dim": 32}, **QUIET)
    assert run.scores["zero_shot:left+right"] > 0.4  # chance is 0.1
    found = {figure.title: figure for figure in run.findings}
    guessed = found["From left and right to word"]
    right = [own in best.split("; ")[0] for own, best in guessed.lines]
    assert np.mean(right) >= 0.5
    assert {"From right and word to left", "From word to left", "From left to word"} <= set(found)


def test_the_loss_is_that_of_the_objective_with_a_learned_scale():
    method, batch = Symile(towers(), dim=4, negatives="all"), batch_of()
    z = method.embed(batch)
    loss = method.loss(method.make_views(batch), batch)
    torch.testing.assert_close(loss, SymileLoss("all")(z, method.scale()))
    assert torch.autograd.grad(loss, method.scale.log)[0] != 0
    assert not Symile(towers(), learn_temperature=False).scale.log.requires_grad


def test_a_missing_modality_is_one_learned_vector_whatever_stands_in_its_place():
    some = torch.tensor([True, True, False, True, True, False, True, True])
    method, batch = Symile(towers(), dim=4, negatives="all"), batch_of(b=some)
    z = method.complete(batch, batch)
    assert torch.equal(z["b"][~some], method.placeholders["b"].vector.expand(2, 4))
    torch.testing.assert_close(z["b"][some], method.encoder.towers["b"](batch["b"][some]))
    loss = method.loss([batch], batch)
    batch["b"][~some] = 1e3
    torch.testing.assert_close(method.loss([batch], batch), loss)
    loss.backward()
    assert method.placeholders["b"].vector.grad.abs().sum() > 0
    assert method.placeholders["a"].vector.grad.abs().sum() == 0


def test_items_that_lack_anything_can_be_left_out():
    some = torch.tensor([True, True, False, True, True, False, True, True])
    method, batch = Symile(towers(), dim=4, negatives="all", missing="drop").eval(), batch_of(b=some)
    kept = {name: batch[name][some] for name in "abc"}
    torch.testing.assert_close(method.loss([batch], batch), method.loss([kept], kept))
    none = batch_of(b=torch.zeros(8, dtype=torch.bool), c=torch.zeros(8, dtype=torch.bool))
    assert method.loss([none], none).item() == 0
    learning = Symile(towers(), dim=4).train()
    loss = learning.loss([none], none)
    assert torch.isfinite(loss)


@pytest.mark.parametrize("rows", [0, 1])
def test_a_modality_that_hardly_any_item_of_a_batch_has(rows):
    method, batch = Symile(towers(), dim=4).train(), batch_of(b=torch.arange(8) < rows)
    loss = method.loss([batch], batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def test_candidates_score_by_their_product_with_all_others():
    method = Symile(towers(), dim=4)
    queries = {name: torch.randn(3, 4) for name in "ab"}
    candidates = torch.randn(5, 4)
    torch.testing.assert_close(method.candidate_scores(candidates, queries), mip_scores(candidates, queries))


def test_the_scale_is_clamped_and_options_are_checked():
    method = Symile(towers(), dim=4, largest_scale=20.0)
    with torch.no_grad():
        method.scale.log += 9
    method.after_step()
    assert float(method.scale().detach()) == pytest.approx(20)
    for options, name in (({"missing": "mean"}, "missing"), ({"negatives": "most"}, "negatives")):
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            Symile(towers(), **options)


def test_resumed_after_a_stop_the_weights_are_the_same(tmp_path, monkeypatch):
    data, splits = sums(900, missing=0.3)
    settings = {"splits": splits, "steps": 6, "batch_size": 32, "checkpoint_seconds": 0.0, "evaluate": False, **QUIET}
    whole = cp.fit(data, "symile", out=str(tmp_path / "whole"), **settings)
    step, seen = Symile.after_step, []

    def stop(self):
        step(self)
        seen.append(1)
        if len(seen) == 4:
            raise RuntimeError("stop")

    monkeypatch.setattr(Symile, "after_step", stop)
    with pytest.raises(RuntimeError):
        cp.fit(data, "symile", out=str(tmp_path / "cut"), **settings)
    monkeypatch.setattr(Symile, "after_step", step)
    cut = cp.fit(data, "symile", out=str(tmp_path / "cut"), resume=True, **settings)
    a, b = (Run(run.folder).model().state_dict() for run in (whole, cut))
    assert all(torch.equal(a[name], b[name]) for name in a)
    lines = [[{**row, "seconds": 0} for row in Run(run.folder).metrics] for run in (whole, cut)]
    assert lines[0] == lines[1]
    for row in lines[0]:  # each modality as the anchor
        parts = [row[f"loss:{name}"] for name in ("first", "second", "sum")]
        assert sum(parts) == pytest.approx(row["loss"], rel=1e-5)
        assert len(set(parts)) == 3
        assert row["temperature"] == pytest.approx(0.07, rel=0.1)
