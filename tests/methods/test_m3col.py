"""M3CoL and fusion as methods: their losses, phases, missing modalities, mixed inputs, and a run that is scored."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

import counterpoint as cp
from counterpoint.data import Splits, pair
from counterpoint.encoders import MultimodalEncoder, build, load_classifier
from counterpoint.experiments.run import Run
from counterpoint.methods.multimodal.fusion import Fusion
from counterpoint.methods.multimodal.m3col import M3CoL
from counterpoint.objectives import MultimodalMixupContrastive

QUIET = {"progress": False, "report": False, "monitor": 0, "threads": 1}


def strips(missing=0.0):
    """Digits with noise, cut into three strips."""
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    x = (x.reshape(-1, 8, 8) / 16 + 0.3 * rng.normal(size=(len(x), 8, 8))).astype(np.float32)
    parts = {name: x[:, :, at].reshape(len(x), -1) for name, at in
             (("left", slice(3)), ("middle", slice(3, 5)), ("right", slice(5, 8)))}  # fmt: skip
    for values in parts.values():
        values[np.flatnonzero(rng.random(len(x)) < missing)] = np.nan
    order = rng.permutation(len(x))
    return pair(parts, y, classes=list("0123456789")), Splits(order[:200], order[200:300], order[300:])


def make(kind, names="abc", **options):
    torch.manual_seed(0)
    towers = MultimodalEncoder({name: build("mlp", (5,), widths=(12,)) for name in names})
    return kind(towers, **{"dim": 4, "width": 6, "classes": 3, **options})


def batch_of(rows=8, names="abc", **present):
    made = torch.Generator().manual_seed(1)
    there = {name: present.get(name, torch.ones(rows, dtype=torch.bool)) for name in names}
    batch = {name: torch.randn(rows, 5, generator=made) for name in names}
    return {**batch, "present": there, "label": torch.arange(rows) % 3}


def at(progress, method):
    method.__class__ = type(type(method).__name__, (type(method),), {"progress": progress})
    return method


@pytest.mark.paper(15, "trains")
def test_it_classifies_digits_by_their_strips(tmp_path):
    data, splits = strips(missing=0.1)
    settings = {"splits": splits, "epochs": 60, "batch_size": 200, "metrics": ["accuracy"]}
    encoders = {name: {"name": "mlp", "widths": [64]} for name in data.kinds}
    run = cp.fit(
        data, "m3col", out=str(tmp_path / "m3col"), encoders=encoders, options={"dim": 64}, **settings, **QUIET
    )
    assert run.scores["accuracy"] > 0.5  # chance is 0.1
    for row in run.metrics:
        parts = {name.partition(":")[2]: value for name, value in row.items() if name.startswith("loss:")}
        assert set(parts) == {"fusion", "head_left", "head_middle", "head_right", "contrast"}
        assert sum(parts.values()) == pytest.approx(row["loss"], rel=1e-3)
    assert run.metrics[-1]["loss:fusion"] < run.metrics[0]["loss:fusion"] / 2
    curves = next(found for found in run.findings if found.title == "When modalities are missing").series
    assert set(curves) == {"losing any", "losing left", "losing middle", "losing right"}
    assert curves["losing any"][0] > curves["losing any"][-1] + 0.1  # of three strips one is left
    assert curves["losing any"][-1] > 0.15
    model, items = Run(run.folder).model(), data[splits.test[:100]]
    right = (model.predict(items).argmax(1) == items["label"]).float().numpy()
    assert np.array_equal(right, run.evaluation.items["accuracy"][:100])
    with pytest.raises(ValueError, match="of several modalities"):
        load_classifier(run.folder)
    check_the_classifier(run, items, tmp_path)


def check_the_classifier(run, items, folder):
    """It names classes of whole items and of items that lack something, in Python and as CSV."""
    classifier = run.classifier()
    found = classifier.predict(items, batch_size=32)
    right = [name == str(label) for name, label in zip(found.names, items["label"].tolist(), strict=True)]
    assert np.array_equal(right, run.evaluation.items["accuracy"][:100])
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(100))
    whole = torch.stack(list(items["present"].values())).all(0)
    given = {name: items[name][whole] for name in ("left", "right")}
    told = {name: torch.full((int(whole.sum()),), name != "middle") for name in ("left", "middle", "right")}
    some = classifier.predict({**given, "middle": torch.full_like(items["middle"][whole], 9.0), "present": told})
    assert torch.equal(classifier.predict(given).probabilities, some.probabilities)
    assert not torch.equal(some.probabilities, found.probabilities[whole])
    with pytest.raises(ValueError, match=r"^batch: expected some of left, middle, right, got none"):
        classifier.predict({})
    np.savez(folder / "new.npz", **{name: values.numpy() for name, values in given.items()})
    told = {name: f"vector:{name}" for name in given}
    lines = cp.classify(str(folder / "new.npz"), str(run.folder), str(folder / "new.csv"), modalities=told)
    assert [line.split(",")[2] for line in lines.read_text().splitlines()[1:]] == some.names
    told = {"left": "vector:left"}
    one = cp.classify(str(folder / "new.npz"), str(run.folder), str(folder / "one.csv"), modalities=told)
    expected = classifier.predict({"left": given["left"]}).names
    assert [line.split(",")[2] for line in one.read_text().splitlines()[1:]] == expected


def test_a_run_without_validation_items_is_scored(tmp_path):
    data, splits = strips()
    splits = Splits(splits.train, splits.val[:0], splits.test)
    run = cp.fit(data, "fusion", splits=splits, steps=3, batch_size=64, out=str(tmp_path / "run"), **QUIET)
    assert {"accuracy", "knn:left"} <= set(run.scores)


def test_the_loss_is_the_sum_of_its_parts():
    method, batch = at(0.9, make(M3CoL, weight=0.3)).eval(), batch_of()
    z, labels = method.embed(batch), batch["label"]
    whole = method.classifier(method.below(torch.cat([z[name] for name in "abc"], 1)))
    wanted = cross_entropy(whole, labels) + sum(cross_entropy(method.heads[name](z[name]), labels) for name in "abc")
    contrast = MultimodalMixupContrastive()(z)
    torch.testing.assert_close(method.loss([batch], batch), wanted + 0.3 * contrast)
    plain = make(Fusion, unimodal=True).eval()
    torch.testing.assert_close(plain.loss([batch], batch), wanted)
    torch.testing.assert_close(make(Fusion).eval().loss([batch], batch), cross_entropy(whole, labels))
    torch.testing.assert_close(make(M3CoL, weight=0.0).eval().loss([batch], batch), wanted)


def test_mixing_comes_first():
    batch, drawn = batch_of(), []
    for progress in (0.0, 0.32, 0.33, 1.0):
        method = at(progress, make(M3CoL)).eval()
        torch.manual_seed(0)
        state = torch.get_rng_state()
        method.loss([batch], batch)
        drawn.append(not torch.equal(torch.get_rng_state(), state))
    assert drawn == [True, True, False, False]


def test_what_stands_in_a_missing_row_does_not_matter():
    some = torch.tensor([True, True, False, True, True, False, True, True])
    for kind in (Fusion, M3CoL):
        losses = []
        for value in (0.0, 1e3):
            method, batch = at(0.9, make(kind, unimodal=True)).train(), batch_of(b=some)
            batch["b"][~some] = value
            losses.append(method.loss([batch], batch))
            assert torch.equal(method.means.values[1], method.encoder.towers["b"](batch["b"][some]).mean(0).detach())
        torch.testing.assert_close(*losses)
        method.eval()
        z = method.embed(batch)
        filled = {**z, "b": torch.where(some[:, None], z["b"], method.means.values[1])}
        everything = torch.ones(3, 8, dtype=torch.bool)
        torch.testing.assert_close(method.predict(batch), method.logits(filled, everything))
    none = torch.zeros(8, dtype=torch.bool)
    batch = batch_of(a=none, b=none, c=none)
    assert make(M3CoL).train().loss([batch], batch).item() == 0


def test_unlabelled_items_are_not_classified_but_contrasted():
    method, batch = at(0.9, make(M3CoL)).eval(), batch_of()
    batch["label"][:4] = -1
    known = {name: batch[name][4:] for name in "abc"}
    expected = make(Fusion, unimodal=True).eval().loss([known], {"label": batch["label"][4:]})
    contrast = MultimodalMixupContrastive()(method.embed(batch))
    torch.testing.assert_close(method.loss([batch], batch), expected + 0.1 * contrast)


def test_mixed_inputs_have_the_labels_of_both_in_their_shares(monkeypatch):
    """Of two modalities one, the text, is not mixed: the fusion's own label counts (1 + lam) / 2."""
    method, batch = at(0.9, make(M3CoL, weight=0.0, input_mixup=0.2)), batch_of()
    perm, share = torch.tensor([1, 2, 3, 4, 5, 6, 7, 0]), torch.tensor(0.3)
    z, there, labels = method.embed(batch), torch.ones(3, 8, dtype=torch.bool), batch["label"]
    got = sum(method._classify_mixed(z, there, labels, ["a", "b"], perm, share).values())

    def both(logits, own):
        return own * cross_entropy(logits, labels) + (1 - own) * cross_entropy(logits, labels[perm])

    wanted = both(method.logits(z, there), 1 - 2 / 3 * 0.7)
    wanted = wanted + both(method.heads["a"](z["a"]), 0.3) + both(method.heads["b"](z["b"]), 0.3)
    torch.testing.assert_close(got, wanted + cross_entropy(method.heads["c"](z["c"]), labels))
    torch.manual_seed(3)
    view, names, order, lam = method._mixed(batch, batch)
    torch.testing.assert_close(view["a"], lam * batch["a"] + (1 - lam) * batch["a"][order])
    assert names == list("abc")
    assert torch.isfinite(method.train().loss([batch], batch))


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        (Fusion, {"classes": 1}, "classes"),
        (Fusion, {"layers": 0}, "layers"),
        (Fusion, {"dropout": 1.0}, "dropout"),
        (M3CoL, {"weight": -1.0}, "weight"),
        (M3CoL, {"input_mixup": float("nan")}, "input_mixup"),
        (M3CoL, {"select_prob": 2.0}, "select_prob"),
        (M3CoL, {"switch": 2.0}, "switch"),
    ],
)
def test_options_are_checked(kind, options, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        make(kind, **options)


def test_modalities_and_labels_are_needed():
    with pytest.raises(ValueError, match="modalities: M3CoL needs 2"):
        make(M3CoL, names="a")
    make(Fusion, names="a")
    batch = batch_of()
    del batch["label"]
    with pytest.raises(ValueError, match=r"^labels: "):
        make(M3CoL).loss([batch], batch)
