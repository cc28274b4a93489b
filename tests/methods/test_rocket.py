"""CLIP-rocket and its companions as methods: their schedule, heads, teacher, what they learn from real pairs."""

from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

import counterpoint as cp
from counterpoint.data import pair
from counterpoint.encoders import MultimodalEncoder, build, build_text_encoder
from counterpoint.findings import Curves
from counterpoint.methods import Recipe, get
from counterpoint.methods.multimodal._rocket import _Model, calm
from counterpoint.methods.multimodal.clip import CLIP
from counterpoint.methods.multimodal.clip_rocket import CLIPRocket
from counterpoint.objectives import CrossModalPrediction, CrossModalSwAV, GroupInfoNCE, MultiViewCLIP
from counterpoint.objectives.inputs import normalize
from counterpoint.views import resolve_each

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "09-clip-rocket.npz")


@pytest.mark.paper(9, "parity")
def test_golden_schedule():
    base, epochs, steps = (GOLDEN[f"sched.{name}"].item() for name in ("base", "epochs", "iters_per_epoch"))
    recipe = Recipe(
        lr=base,
        warmup=GOLDEN["sched.warmup_epochs"].item() / epochs,
        start_lr=GOLDEN["sched.start"].item(),
        end_lr=GOLDEN["sched.final"].item(),
    )
    total = epochs * steps
    found = [base * recipe.factor(step, total) for step in range(total)]
    np.testing.assert_allclose(found, GOLDEN["sched.lr"], rtol=1e-12)
    optimizer, schedule = recipe.optimizers(torch.nn.Linear(2, 2), total)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-6)
    for _ in range(steps):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(base)


def test_the_betas_are_those_of_clip_where_asked():
    module = torch.nn.Linear(2, 2)
    assert Recipe().optimizers(module, 10)[0].defaults["betas"] == (0.9, 0.999)
    assert Recipe(betas=(0.9, 0.98)).optimizers(module, 10)[0].param_groups[0]["betas"] == (0.9, 0.98)


@pytest.mark.parametrize(
    ("name", "value"), [("start_lr", 2e-3), ("start_lr", -1.0), ("end_lr", 2e-3), ("betas", (0.9, 1.0)), ("betas", ())]
)
def test_recipes_without_sense(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        Recipe(**{name: value})


NAMES = ["clip_rocket", "siamlip", "byolip", "barlip", "swalip", "slip"]
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SMALL = {"companion_dim": 6, "companion_hidden": 8}
OWN = {
    "clip_rocket": {},
    "siamlip": SMALL,
    "byolip": SMALL,
    "barlip": SMALL,
    "swalip": {"prototypes": 7, **SMALL},
    "slip": {},
}
every = pytest.mark.parametrize("name", NAMES)


def towers(seed=0, **text):
    torch.manual_seed(seed)
    image = build("convnet", (1, 8, 8), widths=(8, 16))
    words = build_text_encoder("transformer", [f"the digit {word}" for word in WORDS], width=16, depth=1, **text)
    return MultimodalEncoder({"photo": image, "caption": words})


def make(name, views=None, seed=0, text=None, **options):
    method = get(name)(towers(seed, **(text or {})), views, Recipe(warmup=0.0), dim=5, **OWN[name], **options)
    torch.manual_seed(seed + 1)
    return method


def batch(items=8, views=3, seed=0):
    """Views of digits with their words, and what goes with them."""
    made = torch.Generator().manual_seed(seed)
    images = torch.rand(views, items, 1, 8, 8, generator=made)
    captions = [[f"digit {WORDS[(i + 3 * v) % 10]}" for i in range(items)] for v in range(views)]
    found = [{"photo": x, "caption": text} for x, text in zip(images, captions, strict=True)]
    present = {name: torch.ones(items, dtype=torch.bool) for name in ("photo", "caption")}
    return found, {"present": present, "index": torch.arange(items)}


def digits(items=1797):
    data = load_digits()
    images = (data.images * 255 / 16).astype(np.uint8)[:items, None]
    captions = [(f"a photo of a {WORDS[y]}", f"the digit {WORDS[y]}") for y in data.target[:items]]
    return pair({"image": images, "text": captions}, labels=data.target[:items], classes=WORDS, name="digits and words")


ENCODERS = {"image": {"widths": [16, 32, 64]}, "text": {"width": 32, "depth": 1}}


def learned(name, folder):
    options = {key: 32 if key != "prototypes" else 20 for key in OWN.get(name, {})}
    return cp.fit(
        digits(1000), name, out=str(folder / name), steps=40, batch_size=96, threads=1, seed=1, encoders=ENCODERS,
        monitor=3, options=options, progress=False, report=False, metrics=["zero_shot"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """How often towers that have not learned name a digit: a tenth."""
    return learned("untrained_towers", tmp_path_factory.mktemp("untrained")).scores["zero_shot:image"]


@pytest.mark.paper(9, "trains")
@every
def test_they_learn_from_real_pairs(name, tmp_path, untrained):
    """Zero-shot classes of digits by their words."""
    run = learned(name, tmp_path)
    assert run.scores["zero_shot:image"] > untrained + 0.25
    assert run.metrics[-1]["collapse"] is None
    model, items = run.model(), np.arange(6)
    first = model.embed({"image": run_images(items)})["image"]
    torch.testing.assert_close(first, run.encoder()({"image": run_images(items)})["image"])


def run_images(items):
    return digits()[items]["image"]


def test_a_run_opens_with_its_local_heads(tmp_path):
    run = cp.fit(
        digits(300), "clip_rocket", out=str(tmp_path / "run"), steps=4, batch_size=64, threads=1, encoders=ENCODERS,
        options={"score": 0.3}, progress=False, evaluate=False, monitor=0,
    )  # fmt: skip
    model = run.model()
    z = model.embed({"image": run_images(np.arange(5)), "text": WORDS[:5]})
    assert z["image"].shape == (5, 256)
    torch.testing.assert_close(z["text"].norm(dim=1), torch.ones(5))
    (curves,) = [found for found in run.findings if isinstance(found, Curves) and found.title.startswith("Global")]
    assert curves.series.keys() == {"from image", "from text"}
    assert all(len(values) == 11 and np.isfinite(values).all() for values in curves.series.values())


@every
def test_one_view_of_each_is_clip_and_its_companion(name):
    """Without local views what is left is CLIP's loss, in both directions, beside the companion's."""
    views, told = batch()
    if name in ("swalip", "slip"):
        with pytest.raises(ValueError, match=r"^views: S\w+ needs"):
            make(name).loss(views[:1], told)
        return
    method = make(name, temperature=0.1)
    z = method.encoder(views[0])
    clip = 2 * GroupInfoNCE(0.1)(z["photo"], z["caption"])
    loss = method.loss(views[:1], told)
    if name == "clip_rocket":
        torch.testing.assert_close(loss, clip)
    else:
        assert loss > clip - 2  # of the companion's least
        assert not torch.isclose(loss, clip)


def test_the_recipe_is_put_together_as_its_objective_says():
    views, told = batch()
    method = make("clip_rocket", label_smoothing=0.2, directions="mean")
    h = [method.encoder.features(view) for view in views]
    z = {name: method.encoder.towers[name].head(h[0][name]) for name in method.names}
    local = [[method.projector[f"local_{name}"](each[name]) for each in h[1:]] for name in method.names]
    expected = MultiViewCLIP(0.2, "mean")(z["photo"], z["caption"], *local)
    torch.testing.assert_close(make("clip_rocket", label_smoothing=0.2, directions="mean").loss(views, told), expected)
    kinds = [type(layer) for layer in method.projector["local_photo"]]
    block = [torch.nn.Linear, torch.nn.BatchNorm1d, torch.nn.ReLU]
    assert kinds == [*block, *block, torch.nn.Linear]
    assert method.projector["local_photo"][0].out_features == 2 * max(method.encoder.features_of.values())
    assert method.encoder.towers["photo"].head.bias is None


def test_shared_heads_have_no_scale_of_their_own():
    method = make("clip_rocket", separate_projectors=False)
    assert method.local_scale is None
    assert len(method.projector) == 0
    h = torch.randn(4, method.encoder.features_of["photo"])
    torch.testing.assert_close(method.local("photo", h), method.encoder.towers["photo"].head(h))
    assert make("clip_rocket").local_scale().item() == pytest.approx(10)
    assert make("clip_rocket").scale().item() == pytest.approx(1 / 0.07)


def test_both_scales_are_clamped():
    """Between 1 and 100, as the authors do."""
    method = make("clip_rocket")
    for start, expected in ((9.0, 100), (-2.0, 1)):
        for scale in (method.scale, method.local_scale):
            scale.log.data.fill_(start)
        method.after_step()
        assert method.scale().item() == method.local_scale().item() == pytest.approx(expected)
    assert make("clip_rocket", temperature=2.0).scale().item() == pytest.approx(0.5)


def test_local_heads_may_be_linear():
    views, told = batch()
    method = make("clip_rocket", local_head="linear")
    head = method.projector["local_photo"]
    assert isinstance(head, torch.nn.Linear)
    assert head.bias is None
    h = [method.encoder.features(view) for view in views]
    z = {name: method.encoder.towers[name].head(h[0][name]) for name in method.names}
    local = [[method.projector[f"local_{name}"](each[name]) for each in h[1:]] for name in method.names]
    expected = MultiViewCLIP()(z["photo"], z["caption"], *local)
    torch.testing.assert_close(make("clip_rocket", local_head="linear").loss(views, told), expected)


@pytest.mark.parametrize("name", ["siamlip", "byolip", "barlip"])
def test_companions_may_have_heads_of_their_own_for_local_views(name):
    """What only local views go through moves the loss of three views and not that of one."""
    views, told = batch()
    shared, separate = make(name), make(name, separate_companion=True)
    more = [key for key in separate.projector if "_of_local_" in key]
    kinds = {"barlip": ["barlow"]}.get(name, ["siam", "predictor"])
    assert more == [f"{kind}_of_local_{of}" for of in ("photo", "caption") for kind in kinds]
    assert set(separate.projector) - set(more) == set(shared.projector)
    if name == "byolip":
        heads = separate.teacher.teacher.heads
        assert set(heads) == {f"siam{where}_{of}" for where in ("", "_of_local") for of in ("photo", "caption")}
    for key in more:
        assert type(separate.projector[key]) is type(separate.projector[key.replace("_of_local", "")])
    before = [separate.loss(views, told).item(), separate.loss(views[:1], told).item()]
    with torch.no_grad():
        for key in more:
            separate.projector[key][0].weight.copy_(torch.randn_like(separate.projector[key][0].weight))
    after = [separate.loss(views, told).item(), separate.loss(views[:1], told).item()]
    assert after[0] != pytest.approx(before[0], rel=1e-4)
    assert after[1] == pytest.approx(before[1], rel=1e-6)


def test_dropout_is_for_local_texts_alone():
    views, _ = batch()
    same = [views[0]] * 3
    for text in ({"dropout": 0.5}, {"drop_path": 0.5}):
        method = make("clip_rocket", text=text).train()
        h = method.look(method.encoder, same)["caption"]
        torch.testing.assert_close(h[0], method.look(method.encoder, same)["caption"][0])
        assert not torch.allclose(h[1], h[0])
        assert not torch.allclose(h[1], h[2])
        assert all(module.training for module in method.modules())


def test_calm_leaves_batch_norm_as_it_is():
    network = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.5))
    x = torch.randn(9, 3)
    with calm(network):
        torch.testing.assert_close(network(x).mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    assert network[1].training
    assert (network(x) == 0).any()
    network[1].eval()
    with calm(network):
        pass
    assert not network[1].training


@pytest.mark.parametrize("score", ["global", "local", 0.0, 0.3, 1.0])
def test_by_what_pairs_are_scored(score):
    views, _ = batch()
    method = make("clip_rocket", score=score).eval()
    h = method.encoder.features(views[0])
    unit = {}
    for name in method.names:
        unit[name, "global"] = normalize(method.encoder.towers[name].head(h[name]))
        unit[name, "local"] = normalize(method.local(name, h[name]))
    share = {"global": 1.0, "local": 0.0}.get(score, score)
    expected = share * unit["photo", "global"] @ unit["caption", "global"].T
    expected = expected + (1 - share) * unit["photo", "local"] @ unit["caption", "local"].T
    z = method.embed(views[0])
    torch.testing.assert_close(normalize(z["photo"]) @ normalize(z["caption"]).T, expected)


@every
def test_pairs_that_lack_a_side_have_no_part(name):
    """The loss of a batch with gaps is that of its complete pairs; what stands in the gaps does not matter."""
    views, told = batch(items=9)
    told["present"]["photo"][[1, 7]] = False
    told["present"]["caption"][3] = False
    there = told["present"]["photo"] & told["present"]["caption"]
    whole = [
        {"photo": v["photo"][there], "caption": [t for t, ok in zip(v["caption"], there, strict=True) if ok]}
        for v in views
    ]
    if name == "slip":  # whose companion needs no caption
        told["present"]["caption"][3] = True
        there = told["present"]["photo"]
        whole = [
            {"photo": v["photo"][there], "caption": [t for t, ok in zip(v["caption"], there, strict=True) if ok]}
            for v in views
        ]
    complete = batch(items=len(whole[0]["caption"]))[1]
    for training in (False, True):  # in training, batch norm too sees the complete pairs alone
        losses = []
        for given, about in ((views, told), (whole, complete)):
            method = make(name).train(training)
            torch.manual_seed(1)
            losses.append(method.loss(given, about))
        torch.testing.assert_close(*losses)


@every
def test_a_batch_without_two_pairs_has_no_loss(name):
    views, told = batch(items=4)
    told["present"]["photo"][1:] = False
    loss = make(name).loss(views, told)
    assert loss.item() == 0
    loss.backward()


@every
def test_every_part_learns(name):
    """One step changes every parameter that asks for a gradient, but the teacher, which follows."""
    views, told = batch()
    method = make(name)
    loss = method.loss(views, told)
    loss.backward()
    idle = [n for n, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    unused = ("swav_", "prototypes")
    assert not [n for n in idle if "bias" not in n and not any(part in n for part in unused)]
    assert torch.isfinite(loss)


def test_targets_of_siamlip_are_held_constant_and_crossed():
    views, _ = batch()
    method = make("siamlip")
    h = method.look(method.encoder, views)
    v = {n: [method.projector[f"siam_{n}"](each) for each in h[n]] for n in method.names}
    p = {n: [method.projector[f"predictor_{n}"](each) for each in v[n]] for n in method.names}
    expected = CrossModalPrediction()(p["photo"], p["caption"], v["photo"], v["caption"])
    torch.testing.assert_close(method.companion(h, {}, views), expected)
    assert isinstance(method.projector["siam_photo"][-1], torch.nn.BatchNorm1d)
    assert not method.projector["siam_photo"][-1].affine
    assert method.teacher is None


def test_the_teacher_of_byolip_starts_equal_and_follows():
    views, told = batch()
    siam, byol = make("siamlip"), make("byolip", momentum=0.75)
    byol.load_state_dict(siam.state_dict(), strict=False)
    byol.teacher.update(_Model(byol.encoder, byol.teacher.teacher.heads), 0.0)
    for key in ("siam_photo", "siam_caption"):
        byol.teacher.teacher.heads[key].load_state_dict(siam.projector[key].state_dict())
    torch.testing.assert_close(byol.loss(views, told), siam.loss(views, told))  # at first its targets are their own
    assert not any(p.requires_grad for p in byol.teacher.parameters())
    before = byol.teacher.teacher.heads["siam_photo"][0].weight.clone()
    with torch.no_grad():
        byol.projector["siam_photo"][0].weight += 1
    byol.after_step()
    torch.testing.assert_close(byol.teacher.teacher.heads["siam_photo"][0].weight, before + 0.25)
    assert any(name.startswith("teacher.") for name in byol.state_dict())


def test_the_projector_of_barlip_ends_in_batch_norm_with_affine():
    last = make("barlip").projector["barlow_photo"][-1]
    assert isinstance(last, torch.nn.BatchNorm1d)
    assert last.affine


def test_swalip_swaps_local_views_by_their_own_scale():
    views, _ = batch()
    method = make("swalip")
    h = method.look(method.encoder, views)
    local = {n: [method.local(n, each) for each in h[n][1:]] for n in method.names}
    method.local_scale.log.data.fill_(1.0)
    expected = 0.2 * CrossModalSwAV()(local["photo"], local["caption"], torch.tensor(1.0).exp())
    torch.testing.assert_close(method.companion(h, local, views), expected)
    assert method.objective.label_smoothing == 0


@pytest.mark.parametrize("momentum", [None, 0.5])
def test_prototypes_wait_then_move_and_stay_of_length_one(momentum):
    views, told = batch()

    class Loader(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return {"views": views, **told}

    method = make("swalip", form="prototypes", momentum=momentum, freeze_steps=2)
    start = method.projector["prototypes"].weight.detach().clone()
    seen = []
    method.on_train_batch_end = lambda *a: seen.append(method.projector["prototypes"].weight.detach().clone())
    trainer = lightning.Trainer(
        max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(method, DataLoader(Loader(), batch_size=None))
    moved = [(each - start).abs().max().item() for each in seen]
    assert max(moved[:2]) < 1e-6 < 1e-4 < min(moved[2:])  # but for the rounding of their lengths
    torch.testing.assert_close(seen[-1].norm(dim=1), torch.ones(7))
    if momentum is not None:
        taught = method.teacher.teacher.heads["prototypes"].weight
        assert not torch.equal(taught, start)
        assert not torch.equal(taught, seen[-1])


@pytest.mark.parametrize("companion", ["simclr", "byol", "simsiam", "barlow", "vicreg", "dcl"])
def test_companions_of_slip(companion):
    """CLIP's loss of the first view, and the method's own of the images of the other two."""
    views, told = batch()
    method = make("slip", companion=companion, weight=0.5)
    plain = CLIP(method.encoder, dim=5)
    images = [view["photo"] for view in views[1:]]
    expected = plain.loss(views[:1], told) + 0.5 * method.companion.loss(images, {})
    torch.testing.assert_close(make("slip", companion=companion, weight=0.5).loss(views, told), expected)
    assert method.companion.encoder is method.encoder.towers["photo"].encoder
    method.after_step()


def test_the_companion_of_slip_knows_how_far_the_training_is():
    """A teacher whose momentum rises over the training is told by Lightning, as it would be alone."""
    views, told = batch()

    class Loader(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return {"views": views, **told}

    method, seen = make("slip", companion="byol"), []
    method.on_train_batch_end = lambda *a: seen.append(method.companion.progress)
    lightning.Trainer(
        max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(method, DataLoader(Loader(), batch_size=None))  # fmt: skip
    assert seen == [0.25, 0.5, 0.75, 1.0]


def test_weights_of_slip_and_its_temperature():
    assert make("slip").companion.objective.temperature == 0.1
    assert make("slip", companion_options={"temperature": 0.3}).companion.objective.temperature == 0.3
    assert [make("slip", companion=name).weight for name in ("simclr", "barlow", "vicreg", "dcl")] == [
        1,
        0.025,
        0.04,
        1,
    ]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("byolip", {}),
        ("swalip", {"form": "prototypes", "momentum": 0.9, "freeze_steps": 1}),
        ("slip", {"companion": "byol"}),
    ],
)
def test_resumed_after_a_stop_teachers_and_prototypes_are_the_same(name, options, tmp_path, monkeypatch):
    kind = get(name)
    settings = {
        "steps": 6, "batch_size": 64, "threads": 1, "seed": 3, "encoders": ENCODERS, "progress": False, "report": False,
        "monitor": 0, "evaluate": False, "options": {**OWN[name], **options}, "checkpoint_seconds": 0.0,
    }  # fmt: skip
    step, seen, states = kind.after_step, [], []

    def watched(self):
        step(self)
        seen.append(self)
        if len(seen) == 10:
            raise RuntimeError("stop")
        states.append({key: value.clone() for key, value in self.state_dict().items()})

    monkeypatch.setattr(kind, "after_step", watched)
    cp.fit(digits(300), name, out=str(tmp_path / "whole"), **settings)
    whole = states[-1]
    with pytest.raises(RuntimeError):
        cp.fit(digits(300), name, out=str(tmp_path / "cut"), **settings)
    cp.fit(digits(300), name, out=str(tmp_path / "cut"), resume=True, **settings)
    assert states[-1].keys() == whole.keys()
    assert any("teacher" in key for key in whole)
    assert [key for key, value in whole.items() if not torch.equal(states[-1][key], value)] == []


def test_views_of_the_method():
    views = resolve_each(
        CLIPRocket.auto_views, {"photo": "image", "caption": "text"}, {"photo": (1, 8, 8), "caption": ()}
    )
    assert len(views({"photo": torch.rand(2, 1, 8, 8), "caption": ["a cat", "a dog"]}, ["photo", "caption"])) == 3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("clip_rocket", {"score": "both"}, "score: expected 'global', 'local' or a number"),
        ("clip_rocket", {"score": 1.5}, "score: expected"),
        ("clip_rocket", {"score": True}, "score: expected"),
        ("clip_rocket", {"label_smoothing": 1.0}, "label_smoothing: expected"),
        ("clip_rocket", {"directions": "one"}, "directions: expected"),
        ("byolip", {"momentum": 1.5}, "momentum: expected a number from 0 to 1"),
        ("barlip", {"lambda_": -1.0}, "lambda_: expected"),
        ("swalip", {"form": "queue"}, "form: expected"),
        ("swalip", {"label_smoothing": 0.1}, "label_smoothing: expected 0"),
        ("swalip", {"momentum": 0.9}, "momentum: only of form"),
        ("slip", {"companion": "clip"}, "companion: expected a method of two views of one modality"),
        ("slip", {"companion": "supcon"}, "companion: expected a method of two views"),
        ("slip", {"companion": "mcl"}, "companion: expected a method of two views of one modality that needs nothing"),
        ("clip_rocket", {"local_head": "none"}, "local_head: expected 'mlp' or 'linear'"),
        ("slip", {"companion_options": {"tau": 1}}, "companion_options: simclr cannot take"),
        ("slip", {"weight": -1.0}, "weight: expected"),
        ("slip", {"modality": "sound"}, "modality: there is no 'sound'"),
        ("slip", {"freeze": ["photo"]}, "freeze: the companion trains"),
    ],
)
def test_options_without_sense(name, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make(name, **options)


def test_three_modalities_are_refused():
    three = MultimodalEncoder({name: build("mlp", (4,), widths=(8,)) for name in "abc"})
    with pytest.raises(ValueError, match=r"^modalities: CLIPRocket takes two, and there are a, b, c"):
        CLIPRocket(three)


def test_two_modalities_of_any_kind(tmp_path):
    """The halves of digits, as vectors."""
    data = load_digits()
    halves = {"left": data.images[:, :, :4].reshape(-1, 32), "right": data.images[:, :, 4:].reshape(-1, 32)}
    dataset = pair({name: half.astype(np.float32) for name, half in halves.items()}, labels=data.target)
    run = cp.fit(
        dataset, "clip_rocket", out=str(tmp_path / "run"), steps=20, batch_size=128, threads=1, progress=False,
        report=False, monitor=0, metrics=["pair_recall@10"],
    )  # fmt: skip
    assert run.scores["pair_recall@10"] > 0.1
