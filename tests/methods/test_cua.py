"""CUA and CUAXU as methods: the controls of the paper, what they find out, and training on real halves of digits."""

import pytest
import torch
from sklearn.datasets import load_digits

import counterpoint as cp
from counterpoint.data import pair
from counterpoint.encoders import MultimodalEncoder, build
from counterpoint.evaluation import modality_gap
from counterpoint.methods.multimodal.clip import CLIP
from counterpoint.methods.multimodal.cua import CUA
from counterpoint.methods.multimodal.cuaxu import CUAXU
from counterpoint.objectives import CLIPUniformAlignLoss

QUICK = {"report": False, "progress": False, "monitor": 0, "threads": 1, "batch_size": 64, "seed": 1}
MLP = {"name": "mlp", "widths": [64, 64]}


def halves(items=1797):
    images, labels = load_digits(return_X_y=True)
    images = images[:items].reshape(-1, 8, 8).astype("float32") / 16
    left, right = (half.reshape(len(images), 32) for half in (images[:, :, :4], images[:, :, 4:]))
    return pair({"left": left, "right": right}, labels[:items], name="halves")


def encoder(widths=(5, 5), inputs=4, names=("a", "b")):
    torch.manual_seed(0)
    made = {name: build("mlp", (inputs,), widths=[width]) for name, width in zip(names, widths, strict=True)}
    return MultimodalEncoder(made)


def batch(items=9, dim=4, missing=()):
    made = torch.Generator().manual_seed(0)
    present = torch.ones(items, dtype=torch.bool)
    present[list(missing)] = False
    values = {name: torch.randn(items, dim, generator=made) for name in ("a", "b")}
    return {**values, "present": {"a": torch.ones(items, dtype=torch.bool), "b": present}}


def loss(method, given):
    return method.loss(method.make_views(given), given)


def fit(method, folder, data=None, **more):
    encoders = {"left": MLP, "right": MLP}
    return cp.fit(data or halves(), method, out=str(folder), encoders=encoders, **{**QUICK, "epochs": 12, **more})


@pytest.mark.paper(5, "trains")
def test_they_close_the_gap_of_real_halves_and_keep_what_they_know(tmp_path):
    shared = {"options": {"dim": 32, "temperature": 0.07}}
    clip = fit("clip", tmp_path / "clip", options={**shared["options"], "learn_temperature": False})
    untrained = fit("untrained_towers", tmp_path / "untrained")
    for name in ("cua", "cuaxu"):
        run = fit(name, tmp_path / name, **shared)
        assert run.scores["gap_distance"] < clip.scores["gap_distance"]
        assert run.scores["gap_separability"] < clip.scores["gap_separability"]
        assert run.scores["pair_recall@10"] > untrained.scores["pair_recall@10"] + 0.2
        assert run.scores["transfer"] > untrained.scores["transfer"] + 0.2
        titles = [one.title for one in run.findings]
        assert "Where left and right lie" in titles
        assert "Variance along principal axes" in titles


def test_the_loss_is_that_of_the_pairs_that_are_whole():
    method, given = CUA(encoder(), dim=3, temperature=0.1), batch(missing=(2, 5))
    z = method.embed_present(given, given)  # in training an encoder sees only what is there
    whole = given["present"]["b"]
    torch.testing.assert_close(loss(method, given), CLIPUniformAlignLoss(0.1)(z["a"][whole], z["b"][whole]))
    alone = batch(missing=range(8))
    value = loss(method, alone)
    assert value.item() == 0
    value.backward()


def test_without_its_terms_it_is_clip():
    clip = CLIP(encoder(), dim=3, temperature=0.1, learn_temperature=False)
    cua = CUA(encoder(), dim=3, temperature=0.1, w_align=0, w_uniform=0)
    cua.load_state_dict(clip.state_dict(), strict=False)
    torch.testing.assert_close(loss(cua, batch()), loss(clip, batch()))
    assert loss(CUAXU(encoder(), dim=3), batch()) != loss(CUA(encoder(), dim=3), batch())
    torch.testing.assert_close(loss(CUAXU(encoder(), dim=3, w_cross=0), batch()), loss(CUA(encoder(), dim=3), batch()))


def test_the_temperature_stays_unless_it_is_asked_to_move():
    assert not CUA(encoder()).scale.log.requires_grad
    assert CUA(encoder(), learn_temperature=True).scale.log.requires_grad
    assert CUA(encoder()).scale().item() == pytest.approx(100)
    assert CUA(encoder(), temperature=0.001).scale().item() == pytest.approx(1000)


def test_towers_that_start_alike_or_are_one():
    given = batch()
    same = {**given, "b": given["a"]}
    for how in ("copied", "shared"):
        z = CUA(encoder(), dim=3, towers=how).embed(same)
        torch.testing.assert_close(z["a"], z["b"])
    separate, copied, shared = (CUA(encoder(), dim=3, towers=how) for how in ("separate", "copied", "shared"))
    assert not torch.allclose(*separate.embed(same).values())
    count = sum(p.numel() for p in copied.encoder.parameters())
    assert sum(p.numel() for p in shared.encoder.parameters()) == count // 2
    with torch.no_grad():
        for method in (copied, shared):
            next(method.encoder.towers["b"].parameters()).add_(1)
    assert torch.allclose(*shared.embed(same).values())
    assert not torch.allclose(*copied.embed(same).values())


def test_shared_towers_are_saved_and_opened(tmp_path):
    method, given = CUA(encoder(), dim=3, towers="shared"), batch()
    method.encoder.save(tmp_path)
    opened = cp.load(tmp_path)
    expected = method.eval().embed(given)
    for name, z in opened(given).items():
        torch.testing.assert_close(z, expected[name])


def test_the_gap_at_the_start():
    def gap(share):
        method = CUA(encoder(), dim=3, initial_gap=share)
        method.set_initial_gap([batch(200)])
        assert bool(method.mapped)
        z = method.eval().embed(batch(200))
        return modality_gap(z["a"], z["b"]).centroid_distance

    none, some, whole = gap(0.0), gap(0.5), gap(1.0)
    assert none < some < whole
    drawn = CUA(encoder(), dim=3).eval().embed(batch(200))
    assert none < modality_gap(drawn["a"], drawn["b"]).centroid_distance
    assert bool(CUA(encoder()).mapped)


def test_a_resumed_training_keeps_its_gap():
    method, resumed = (CUA(encoder(), dim=3, initial_gap=0.0) for _ in range(2))
    method.set_initial_gap([batch(50)])
    resumed.load_state_dict(method.state_dict())
    resumed.on_train_start()  # which asks for no batches
    torch.testing.assert_close(resumed.state_dict(), method.state_dict())


@pytest.mark.parametrize("kind", [CUA, CUAXU])
def test_a_constant_modality_has_a_finite_loss(kind):
    method, given = kind(encoder(), dim=3), batch()
    for constant in (torch.ones(9, 4), torch.zeros(9, 4)):
        value = loss(method, {**given, "b": constant})
        value.backward()
        assert torch.isfinite(value)
        assert all(torch.isfinite(p.grad).all() for p in method.encoder.parameters())


def test_the_gap_is_set_once_in_a_training(tmp_path):
    data, steps = halves(300), []

    class Watched(CUA):
        def set_initial_gap(self, batches):
            steps.append(self.trainer.global_step)
            super().set_initial_gap(batches)

    run = fit(Watched, tmp_path / "run", data, epochs=2, options={"dim": 8, "initial_gap": 0.0})
    assert steps == [0]
    assert run.status["state"] == "finished"


def test_refusals():
    for call, told in [
        (lambda: CUA(encoder(), towers="twins"), "towers: expected one of separate, copied, shared"),
        (lambda: CUA(encoder((5, 6)), towers="copied"), "towers: 'copied' needs one architecture"),
        (lambda: CUA(mixed(), towers="shared"), "towers: 'shared' needs modalities of one kind and shape"),
        (lambda: CUA(encoder(), initial_gap=2.0), "initial_gap: expected a number from 0 to 1"),
        (lambda: CUA(encoder(), towers="shared", initial_gap=0.0), "initial_gap: expected"),
        (lambda: CUA(encoder((5, 5, 5), names="abc"), initial_gap=0.0), "initial_gap: expected"),
        (lambda: CUA(encoder(), temperature=0), "temperature: expected"),
        (lambda: CUA(encoder(), w_align=-1), "w_align: expected"),
        (lambda: CUA(encoder((5,), names="a")), "modalities: CUA needs 2"),
        (lambda: CUA(encoder(), initial_gap=0.0).set_initial_gap([]), "initial_gap: no training item has both"),
    ]:
        with pytest.raises(ValueError, match=f"^{told}"):
            call()


def mixed():
    return MultimodalEncoder({"a": build("mlp", (4,), widths=[5]), "b": build("mlp", (3,), widths=[5])})
