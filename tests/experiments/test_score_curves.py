"""How pairs score over the steps of a run: of any method, through a kill, on the pages."""

import numpy as np
import pytest
import torch

import counterpoint as cp
from counterpoint.experiments import monitoring, training
from counterpoint.experiments.run import Run
from counterpoint.methods import get
from counterpoint.web import ComparisonData, RunData, comparison_page, run_page

BARE = {
    "limit": 200, "batch_size": 32, "epochs": 2, "progress": False, "threads": 1, "evaluate": False, "report": False,
    "monitor": 1, "encoder_options": {"widths": [8, 16]},
}  # fmt: skip


def fit(method, folder, **more):
    return cp.fit("digits", method, out=str(folder), **{**BARE, **more})


@pytest.mark.parametrize("method", ["simclr", "byol", "hard_contrastive", "amcl_moco", "swav"])
def test_any_method_that_has_pairs(method, tmp_path):
    options = {"queue_size": 32} if "moco" in method or method == "hard_contrastive" else {}
    curves = fit(method, tmp_path / "run", options=options).score_curves
    assert curves["step"].tolist() == list(range(8))
    assert set(curves) >= {f"before/{n}" for n in ("positive", "negative_mean", "negative_variance", "first")}
    assert (curves["before/positive"] > curves["before/negative_mean"]).mean() > 0.8
    assert (np.abs(curves["before/positive"]) <= 1 + 1e-6).all()
    assert np.isfinite(curves["before/exp_negative"]).all() == (method in ("simclr", "hard_contrastive", "swav"))


def test_what_is_kept_is_what_the_batch_has():
    z1, z2 = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    simple = get("untrained")(cp.encoders.build("mlp", (6,), widths=(4,)))
    simple.watch_batch(z1, z2)
    scores = torch.nn.functional.cosine_similarity(z1[:, None], z2[None], dim=2).double()
    rest = torch.stack([scores[i][torch.arange(5) != i] for i in range(5)])
    found = simple.watched["before"]
    torch.testing.assert_close(found.positive, scores.diagonal(), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.negative_mean, rest.mean(1), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.negative_variance, rest.var(1), rtol=0, atol=1e-6)


def test_without_a_monitor_nothing_is_kept(tmp_path):
    assert fit("simclr", tmp_path / "run", monitor=0).score_curves == {}


class Killed(Exception):
    pass


def test_a_killed_run_has_the_same_curves(tmp_path, monkeypatch):
    settings = {"checkpoint_seconds": 0.0, "epochs": 3, "options": {"queue_size": 32}}
    whole = fit("mochi", tmp_path / "whole", **settings)
    write = training.Checkpointer.on_train_batch_start
    for stop in (1, 7):
        steps = 0

        def die(self, *arguments, stop=stop):
            nonlocal steps
            steps += 1
            if steps == stop:  # before the checkpoint of the step, so that some is done again
                raise Killed
            write(self, *arguments)

        folder = tmp_path / f"killed{stop}"
        monkeypatch.setattr(training.Checkpointer, "on_train_batch_start", die)
        with pytest.raises(Killed):
            fit("mochi", folder, **settings)
        monkeypatch.setattr(training.Checkpointer, "on_train_batch_start", write)
        assert len(Run(folder).score_curves.get("step", ())) == max(0, stop - 2)
        resumed = fit("mochi", folder, resume=True, **settings)
        assert resumed.score_curves.keys() == whole.score_curves.keys()
        for name, values in whole.score_curves.items():
            np.testing.assert_array_equal(resumed.score_curves[name], values)


def test_a_long_training_keeps_every_second_step(tmp_path, monkeypatch):
    monkeypatch.setattr(monitoring, "_CURVE_POINTS", 5)
    assert fit("simclr", tmp_path / "run").score_curves["step"].tolist() == [0, 2, 4, 6]


def test_the_pages_show_them():
    steps = np.arange(1000)
    plain = {"step": steps, "before/positive": steps / 1000, "before/exp_positive": np.exp(steps / 1000)}
    changed = plain | {"after/positive": np.where(steps < 100, np.nan, steps / 2000)}
    runs = {name: RunData(name, name, score_curves=of) for name, of in (("moco", plain), ("ft", changed))}
    pages = run_page(runs["ft"]), comparison_page(ComparisonData("digits", "knn", [], runs=runs))
    for page, lines in zip(pages, (2, 3), strict=True):
        assert "Scores over training" in page
        assert page.count("<h3>Score with the positive") == 1
        figure = page[page.index("<h3>Score with the positive") : page.index("<h3>ln exp(positive")]
        assert figure.count('class="line ') == lines
        assert figure.count("dashed") == 1
        assert "NaN" not in figure
        assert "nan" not in figure
        assert len(page) < 120_000
    assert "Scores over training" not in run_page(RunData("a", "a"))
