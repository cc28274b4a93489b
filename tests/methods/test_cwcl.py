"""CWCL and LiT: what is locked stays, what is graded is graded by it, and a new modality learns from real pairs."""

import numpy as np
import pytest
import torch

import counterpoint as cp
from counterpoint.data import pair
from counterpoint.encoders import MultimodalEncoder, build
from counterpoint.methods.multimodal.cwcl import CWCL
from counterpoint.methods.multimodal.lit import LiT
from counterpoint.objectives import CWCLLoss, GroupInfoNCE

QUICK = {"report": False, "progress": False, "monitor": 0, "threads": 1, "batch_size": 64, "seed": 1}
METHODS = {"cwcl": CWCL, "lit": LiT}
each = pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)


def encoder(widths=(6, 5), names=("a", "b"), freeze=()):
    torch.manual_seed(0)
    made = MultimodalEncoder({n: build("mlp", (4,), widths=[w]) for n, w in zip(names, widths, strict=True)})
    for name in freeze:
        made.towers[name].freeze()
    return made


def batch(items=9, missing=(), names=("a", "b")):
    made = torch.Generator().manual_seed(0)
    present = {name: torch.ones(items, dtype=torch.bool) for name in names}
    present[names[-1]][list(missing)] = False
    return {**{name: torch.randn(items, 4, generator=made) for name in names}, "present": present}


def loss(method, given):
    return method.loss(method.make_views(given), given)


@pytest.mark.paper(13, "trains")
def test_a_new_modality_learns_to_meet_a_trained_one(tmp_path):
    teacher = cp.fit(
        "digits", "supervised", out=str(tmp_path / "teacher"), epochs=5, encoder="mlp",
        encoder_options={"widths": [64, 32]}, limit=900, evaluate=False, **QUICK,
    )  # fmt: skip
    whole = cp.data.load("digits", limit=900)
    halves = whole[np.arange(900)]["image"][..., 4:].float().flatten(1) / 255
    data = pair({"whole": whole, "right": halves}, whole.labels, name="digits twice")
    encoders = {"whole": {"name": str(teacher.folder), "freeze": True}, "right": {"name": "mlp", "widths": [64]}}
    weights = teacher.encoder().state_dict()
    for name in METHODS:
        run = cp.fit(data, name, out=str(tmp_path / name), encoders=encoders, epochs=12, **QUICK)
        assert run.scores["transfer:right>whole"] > 0.6
        encoder = run.encoder()
        kept = encoder.towers["whole"].encoder.state_dict()
        for key, value in weights.items():
            torch.testing.assert_close(kept[key], value, rtol=0, atol=0)
        assert encoder.dim == 32


@each
def test_the_locked_tower_stays_and_its_space_is_the_common_one(kind):
    method, given = kind(encoder()), batch()
    assert (method.locked, method.encoder.dim) == ("a", 6)
    features = method.encoder.features(given)["a"]
    torch.testing.assert_close(method.embed(given)["a"], features)
    loss(method, given).backward()
    assert all(p.grad is None for p in method.encoder.towers["a"].parameters())
    assert all(p.grad is not None for p in method.encoder.towers["b"].parameters())
    assert method.scale.log.grad is not None


@each
def test_which_tower_is_locked(kind):
    assert kind(encoder(freeze=["b"])).locked == "b"
    assert kind(encoder(), locked="b").encoder.dim == 5
    wide = kind(encoder(), dim=3)
    assert wide.embed(batch())["a"].shape == (9, 3)
    assert wide.encoder.towers["a"].head.weight.requires_grad
    assert not next(wide.encoder.towers["a"].encoder.parameters()).requires_grad


@each
def test_towers_that_have_heads_keep_them(kind):
    trained = encoder()
    trained.attach(6)
    expected = {name: z.detach() for name, z in trained.eval()(batch()).items()}
    method = kind(trained).eval()
    for name, z in method.embed(batch()).items():
        torch.testing.assert_close(z, expected[name])
    assert not any(p.requires_grad for p in method.encoder.towers["a"].parameters())


@each
def test_vectors_of_another_model_can_be_locked(kind):
    made = MultimodalEncoder({"a": build("given", (4,), mean=torch.ones(4)), "b": build("mlp", (4,), widths=[5])})
    method, given = kind(made), batch()
    assert method.encoder.dim == 4
    torch.testing.assert_close(method.embed(given)["a"], given["a"])
    loss(method, given).backward()


@each
def test_an_identity_head_is_saved_and_opened(kind, tmp_path):
    method, given = kind(encoder()), batch()
    method.encoder.save(tmp_path)
    for name, z in cp.load(tmp_path)(given).items():
        torch.testing.assert_close(z, method.eval().embed(given)[name])


def test_the_losses_are_those_of_the_pairs_that_are_whole():
    given = batch(missing=(1, 7))
    there = given["present"]["b"]
    for dim in (None, 3):
        for weights in ("features", "embedding"):
            method = CWCL(encoder(), dim=dim, weights=weights, temperature=0.2)
            # in training an encoder sees only what is there
            z, h = method.embed_present(given, given), method.encoder.features(given)["a"]
            source = h if weights == "features" else z["a"]
            expected = CWCLLoss(0.2)(z["a"][there], z["b"][there], source[there])
            torch.testing.assert_close(loss(method, given), expected)
    lit = LiT(encoder(), temperature=0.2)
    z = lit.embed_present(given, given)
    torch.testing.assert_close(loss(lit, given), GroupInfoNCE(0.2)(z["a"][there], z["b"][there]))
    both = CWCL(encoder(), temperature=0.2, reverse="weighted")
    z = both.embed_present(given, given)
    expected = CWCLLoss(0.2, "weighted")(z["a"][there], z["b"][there])
    torch.testing.assert_close(loss(both, given), expected)


@each
def test_a_locked_heads_batch_norm_sees_no_placeholder(kind):
    """The head that the locked tower has in another space is trained, on what has a partner alone."""
    given, losses = batch(missing=(1, 7)), []
    for placeholder in (0.0, 1e3):
        given["present"]["a"][3] = False
        given["a"][3] = placeholder
        losses.append(loss(kind(encoder(), dim=3, head="mlp"), given))
    torch.testing.assert_close(*losses, rtol=0, atol=0)


@each
def test_any_number_of_modalities_meets_the_locked_one(kind):
    names = ("a", "b", "c")
    three, given = kind(encoder((6, 5, 5), names)), batch(names=names)
    terms = []
    for other in ("b", "c"):
        two = kind(encoder((6, 5), ("a", other)))
        two.encoder.load_state_dict(
            {k: v for k, v in three.encoder.state_dict().items() if k.split(".")[1] in ("a", other)}
        )
        terms.append(loss(two, {**given, "present": {n: given["present"][n] for n in ("a", other)}}))
    torch.testing.assert_close(loss(three, given), sum(terms))


@each
def test_a_batch_with_one_whole_pair_costs_nothing(kind):
    method = kind(encoder())
    value = loss(method, batch(missing=range(8)))
    assert value.item() == 0
    value.backward()
    assert all((p.grad == 0).all() for p in method.encoder.towers["b"].parameters() if p.grad is not None)


@each
def test_a_constant_modality_has_a_finite_loss(kind):
    method, given = kind(encoder()), batch()
    for name in ("a", "b"):
        value = loss(method, {**given, name: torch.zeros(9, 4)})
        value.backward()
        assert torch.isfinite(value)
        assert all(torch.isfinite(p.grad).all() for p in method.encoder.towers["b"].parameters())


@each
def test_the_scale_is_held(kind):
    method = kind(encoder())
    with torch.no_grad():
        method.scale.log.fill_(9.0)
    method.after_step()
    assert method.scale().item() == pytest.approx(100)
    assert not kind(encoder(), learn_temperature=False).scale.log.requires_grad


def test_refusals():
    for call, told in [
        (lambda: CWCL(encoder(), locked="c"), "locked: there is no modality 'c'; there are a, b"),
        (lambda: LiT(encoder(), temperature=0), "temperature: expected"),
        (lambda: CWCL(encoder(), reverse="none"), "reverse: expected"),
        (lambda: CWCL(encoder(), weights="labels"), "weights: expected"),
        (lambda: CWCL(encoder((6,), ("a",))), "modalities: CWCL needs 2"),
    ]:
        with pytest.raises(ValueError, match=f"^{told}"):
            call()
