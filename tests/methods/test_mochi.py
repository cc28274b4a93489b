"""MoCHi and Feature Transformation as methods: MoCo exactly without their change, warm-up, oracle, what they tell."""

import pytest
import torch

import counterpoint as cp
from counterpoint.encoders import build
from counterpoint.methods.vision.feature_transformation import FeatureTransformation
from counterpoint.methods.vision.mochi import MoCHi
from counterpoint.methods.vision.moco import MoCo
from counterpoint.mining import mixing

IMAGE = (1, 8, 8)


def make(kind, **options):
    torch.manual_seed(0)
    method = kind(build("convnet", IMAGE, widths=(8, 16)), **{"queue_size": 20, "dim": 4, **options})
    torch.manual_seed(1)
    return method


def pair(seed=0):
    made = torch.Generator().manual_seed(seed)
    return [torch.rand(8, *IMAGE, generator=made) for _ in range(2)]


def started_late(method):
    """Whether a loss at 29 % of the training is MoCo's, and one at 30 % is not."""
    plain, kind, method.watching = make(MoCo), type(method), True
    losses, stages = [], []
    for progress in (0.29, 0.3):
        changed = type(kind.__name__, (kind,), {"progress": progress})
        method.__class__, method.watched = changed, {}
        losses.append((method.loss(pair(), {}) - plain.loss(pair(), {})).abs().item() > 1e-6)
        stages.append(set(method.watched))
    return losses == [False, True] and stages == [{"before"}, {"before", "after"}]


@pytest.mark.paper(33, "trains")
@pytest.mark.paper(55, "trains")
def test_they_learn_from_real_images(tmp_path):
    def fit(name, **options):
        return cp.fit(
            "digits", name, out=str(tmp_path / name), epochs=6, limit=1000, batch_size=100, threads=1, seed=1,
            progress=False, encoder_options={"widths": [16, 32, 64]}, report=False, monitor=3, options=options,
        )  # fmt: skip

    untrained = fit("untrained").scores["probe_5"]
    for name, options in (("mochi", {"queue_size": 128}), ("feature_transformation", {"queue_size": 128})):
        run = fit(name, **options)
        assert run.metrics[-1]["collapse"] is None
        assert run.scores["probe_5"] > untrained + 0.02
        curves = run.score_curves
        last = {key: values[-6:].mean() for key, values in curves.items()}
        assert last["before/positive"] > last["before/negative_mean"] + 0.1
        if name == "mochi":
            assert last["after/first"] < last["before/first"]  # the proxy task is harder
            assert last["after/negative_mean"] > last["before/negative_mean"]
        else:
            assert (curves["after/positive"] < curves["before/positive"]).all()


def test_without_mixtures_mochi_is_moco():
    for step in range(2):
        moco, mochi = make(MoCo), make(MoCHi, n_pair=0, n_query=0)
        for seed in range(step + 1):
            expected, found = moco.loss(pair(seed), {}), mochi.loss(pair(seed), {})
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(mochi.queue(), moco.queue())


def test_mixtures_make_the_task_harder_and_never_enter_the_queue():
    moco, mochi = make(MoCo), make(MoCHi, warmup=0.0)
    assert mochi.loss(pair(), {}) > moco.loss(pair(), {}) + 0.05
    assert torch.equal(mochi.queue(), moco.queue())
    harder = make(MoCHi, warmup=0.0, n_query=50)
    assert harder.loss(pair(), {}) > mochi.loss(pair(), {})


@pytest.mark.parametrize("kind", [MoCHi, FeatureTransformation])
def test_they_start_when_they_should(kind):
    assert started_late(make(kind, **{"warmup" if kind is MoCHi else "start": 0.3}))


@pytest.mark.parametrize(("queue", "expected"), [(65536, (1024, 1024, 128)), (1024, (256, 256, 32)), (16, (4, 4, 0))])
def test_the_counts_follow_the_queue(queue, expected):
    method = make(MoCHi, queue_size=queue)
    assert (method.n_hard, method.n_pair, method.n_query) == expected
    assert make(MoCHi, queue_size=queue, n_hard=2, n_pair=3, n_query=5).n_query == 5


@pytest.mark.parametrize(("options", "name"), [({"n_hard": 21}, "n_hard"), ({"n_hard": 0}, "n_hard")])
def test_more_hard_keys_than_the_queue_has_are_refused(options, name):
    with pytest.raises(ValueError, match=f"^{name}: expected 1 to 20"):
        make(MoCHi, **options)


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        (MoCHi, {"n_pair": -1}, "n_pair, n_query"),
        (MoCHi, {"warmup": 1.1}, "warmup"),
        (FeatureTransformation, {"start": -0.1}, "start"),
        (FeatureTransformation, {"mode": "all"}, "mode"),
    ],
)
def test_options_are_named(kind, options, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        make(kind, **options)


def test_the_oracle_leaves_out_keys_of_the_querys_class(monkeypatch):
    mochi = make(MoCHi, oracle=True, warmup=0.0, n_hard=6)
    batch, seen = {"label": torch.arange(8) % 2}, []
    batch["label"][0] = -1
    draw = mixing.draw_mixtures
    monkeypatch.setattr(
        "counterpoint.methods.vision.mochi.draw_mixtures", lambda *a, **k: seen.append(draw(*a, **k)) or seen[-1]
    )
    for step in range(3):  # the third meets keys of the first two, whose classes are known
        held = mochi.queue.labels.clone()
        assert torch.isfinite(mochi.loss(pair(step), batch))
        for label, row in zip(batch["label"], held[seen[-1].hardest], strict=True):
            assert label < 0 or (row != label).all()
    assert mochi.queue.labels[:4].tolist() == [0, 1, 0, 1]  # of the third step, past the end of the queue of 20
    assert "queue.labels" in mochi.state_dict()
    with pytest.raises(ValueError, match=r"^labels: "):
        mochi.loss(pair(), {})


def test_the_queue_of_feature_transformation_keeps_keys_as_they_were():
    moco, changed = make(MoCo), make(FeatureTransformation)
    expected, found = moco.loss(pair(), {}), changed.loss(pair(), {})
    assert torch.equal(changed.queue(), moco.queue())
    assert not torch.isclose(found, expected)
    assert not changed.queue().requires_grad


def test_options_of_feature_transformation_reach_the_loss():
    told = [{}, {"mode": "pos"}, {"mode": "neg"}, {"elementwise": "both"}, {"postmix_norm": True}]
    told += [{"positives": "interpolate"}, {"pos_alpha": 50.0}, {"neg_alpha": 50.0}]
    losses = [make(FeatureTransformation, **options).loss(pair(), {}).item() for options in told]
    assert len(set(losses)) == len(losses)


def test_watching_is_bounded_and_changes_nothing():
    plain = make(MoCHi, warmup=0.0)
    expected = plain.loss(pair(), {})
    assert not plain.watched
    method = make(MoCHi, warmup=0.0)
    method.watching = True
    torch.testing.assert_close(method.loss(pair(), {}), expected, rtol=0, atol=0)
    assert method.watched["after"].first.sum() <= method.watched["before"].first.sum()
    method.watch(torch.randn(300, 4), torch.randn(300, 4), torch.randn(40_000, 4))
    assert len(method.watched["before"].positive) == 6  # 2 ** 18 scores
    assert torch.isfinite(method.watched["before"].exp_negative).all()
