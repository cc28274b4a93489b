"""Hydra and SimLAP: what their losses are made of, targets, gates, the map of the classes, training."""

import math

import numpy as np
import pytest
import torch

import counterpoint as cp
from counterpoint.encoders import build
from counterpoint.methods.vision.hydra import Hydra
from counterpoint.methods.vision.simlap import SimLAP
from counterpoint.objectives import ArbitraryPairs

IMAGE = (1, 8, 8)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
BATCH = {"label": LABELS}
both = pytest.mark.parametrize("kind", [Hydra, SimLAP])


def make(kind, **options):
    torch.manual_seed(0)
    return kind(
        build("convnet", IMAGE, widths=(8, 16)),
        **{"classes": 3, "gate_embed": 8, "gate_hidden": 8, "dim": 12} | options,
    )


def views(number=2):
    drawn = torch.Generator().manual_seed(0)
    return [torch.rand(8, *IMAGE, generator=drawn) for _ in range(number)]


def seeded(method, *arguments):
    torch.manual_seed(4)
    return method.loss(*arguments)


def test_hydras_loss_is_the_weighted_mean_of_its_parts():
    """Each part from a method that has no other, with the same gates and targets."""
    given = views()
    instance = make(Hydra, beta=0.0).loss(given, BATCH)
    method = make(Hydra, beta=0.0)
    q1, q2 = (method.predictor(method.project(view)) for view in given)
    k1, k2 = (make(Hydra).teacher(view) for view in given)
    nce = ArbitraryPairs(0.2)
    torch.testing.assert_close(instance, (nce(q1, k2) + nce(q2, k1)) / 2)

    method, parts = make(Hydra, beta=3.0, same_class=2.0, gamma=0.5), []
    pairs = method.objective.forward
    method.objective.forward = lambda *x: parts.append(pairs(*x)) or parts[-1]
    gates, penalties = method.gate.penalty, []
    method.gate.penalty = lambda scores: penalties.append(gates(scores)) or penalties[-1]
    total = seeded(method, given, BATCH)
    same, pair = torch.stack(parts).view(2, 2).mean(1)
    expected = (instance + 3 * pair + 2 * same) / 6 + 0.5 * torch.stack(penalties).mean()
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-6)
    assert pair != same


def test_targets_and_gates_reach_the_pair_loss_alike_in_both_directions():
    method, seen = make(Hydra), []
    pairs = method.objective.forward
    method.objective.forward = lambda *x: seen.append(x) or pairs(*x)
    seeded(method, views(), BATCH)
    (_, _, own, targets, of, gate), again = seen
    assert torch.equal(own, LABELS)
    assert torch.equal(of, LABELS)
    assert torch.equal(targets.sort().values, LABELS.sort().values)
    assert not torch.equal(targets, LABELS)
    assert all(torch.equal(a, b) for a, b in zip((own, targets, of, gate), again[2:], strict=True))
    torch.testing.assert_close(make(Hydra).gate(LABELS, targets), gate)


def test_local_crops_add_their_mean_instance_loss():
    given = [*views(2), *[view[..., :4, :4] for view in views(4)[2:]]]
    method = make(Hydra)
    whole = seeded(method, given[:2], BATCH)
    queries = [method.predictor(method.project(view)) for view in given[2:]]
    keys = [make(Hydra).teacher(view) for view in given[:2]]
    more = torch.stack([ArbitraryPairs(0.2)(q, k) for q in queries for k in keys]).mean()
    torch.testing.assert_close(seeded(make(Hydra), given, BATCH), whole + more)


def test_no_gradient_reaches_hydras_teacher_and_both_sides_of_simlap_have_one():
    method = make(Hydra)
    seeded(method, views(), BATCH).backward()
    assert not any(p.requires_grad for p in method.teacher.parameters())
    assert method.gate.label_embedding.weight.grad.abs().max() > 0
    method, sides = make(SimLAP), []
    project = method.project

    def watched(view):
        sides.append(project(view))
        sides[-1].retain_grad()
        return sides[-1]

    method.project = watched
    seeded(method, views(), BATCH).backward()
    assert all(z.grad.abs().max() > 0 for z in sides)


def test_hydras_teacher_follows():
    method = make(Hydra, momentum=0.75)
    teacher, student = (m[0].backbone.layers[0].weight for m in (method.teacher.teacher, [method.encoder]))
    with torch.no_grad():
        before = teacher.clone()
        student.add_(1)
    method.after_step()
    torch.testing.assert_close(teacher - before, torch.full_like(before, 0.25))


def test_simlap_of_one_view_compares_it_with_itself():
    given = views(1)
    method = make(SimLAP, pairs="identical", gate="open")
    z = method.project(given[0])
    expected = ArbitraryPairs(0.1)(z, z, LABELS, LABELS, LABELS)
    torch.testing.assert_close(make(SimLAP, pairs="identical", gate="open").loss(given, BATCH), expected)
    alone = make(SimLAP, pairs="identical", gate="open", exclude_self=True).loss(given, BATCH)
    assert alone > expected
    torch.testing.assert_close(alone, ArbitraryPairs(0.1, exclude_self=True)(z, z, LABELS, LABELS, LABELS))


def test_a_learned_temperature_is_one_for_all_views():
    method = make(SimLAP, learnable_scale=True)
    assert sum(name.endswith("log_scale") for name, _ in method.named_parameters()) == 1
    assert method.objective.log_scale.item() == pytest.approx(math.log(10))
    for number in (1, 2):
        method.zero_grad()
        seeded(method, views(number), BATCH).backward()
        assert method.objective.log_scale.grad.abs() > 0


@both
def test_options_reach_the_loss(kind):
    options = [
        {}, {"pairs": "identical"}, {"pairs": "distinct"}, {"gate": "open"}, {"gate": "single"}, {"gate": "product"},
        {"similarity": "dot"}, {"gate_kind": "gumbel"}, {"gate_kind": "stochastic"}, {"gamma": 1.0}, {"norm": "batch"},
        {"norm": "none"}, {"weights": [[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]},
    ]  # fmt: skip
    losses = [seeded(make(kind, **each), views(), BATCH).item() for each in options]
    assert all(map(math.isfinite, losses))
    assert len({round(loss, 7) for loss in losses}) == len(options)


@both
def test_the_projection_ends_in_layer_norm(kind):
    z = make(kind).eval().project(views()[0])
    torch.testing.assert_close(z.mean(1), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(1, correction=0), torch.ones(8), atol=1e-2, rtol=0)


@both
def test_unlabelled_items_take_no_part(kind):
    hidden = torch.where(torch.arange(8) < 6, LABELS, -1)
    found = seeded(make(kind), views(), {"label": hidden})
    expected = seeded(make(kind), [view[:6] for view in views()], {"label": LABELS[:6]})
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match=r"^labels: expected at least 2 labelled items in a batch, got 1"):
        make(kind).loss(views(), {"label": torch.tensor([0, *[-1] * 7])})


@both
def test_one_class_costs_nothing_between_classes(kind):
    """All keys are positives and none a negative: of the pairs nothing is left, and the weights stay finite."""
    one, given = {"label": torch.zeros(8, dtype=torch.int64)}, views()
    method = make(kind)
    loss = method.loss(given, one)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
    if kind is SimLAP:
        assert loss == 0
    else:
        torch.testing.assert_close(loss, make(Hydra, beta=0.0).loss(given, one) / 2)
    with pytest.raises(ValueError, match=r"^classes: expected at least 2 for mode='distinct', got 1"):
        make(kind, classes=1, pairs="distinct").loss(given, one)


@both
def test_bad_options(kind):
    for options, told in [
        ({"pairs": "random"}, "pairs: expected one of arbitrary"),
        ({"gate": "shut"}, "mode: expected one of fuse"),
        ({"gate_kind": "hard"}, "kind: expected one of sigmoid"),
        ({"norm": "group"}, "norm: expected 'layer'"),
        ({"similarity": "l2"}, "similarity: expected"),
    ]:
        with pytest.raises(ValueError, match=f"^{told}"):
            make(kind, **options)
    with pytest.raises(ValueError, match=r"^beta: expected a number of at least 0, got -1"):
        make(Hydra, beta=-1)


def test_relations_are_those_of_the_gates():
    method = make(SimLAP).eval()
    with torch.no_grad():  # the first two classes are one
        method.gate.label_embedding.weight[1] = method.gate.label_embedding.weight[0]
    width, alike = method.relations()
    classes = torch.arange(3)
    for a in range(3):
        torch.testing.assert_close(width[a], method.gate(torch.full((3,), a), classes).mean(1))
    torch.testing.assert_close(width, width.T)
    torch.testing.assert_close(alike[0, 1], torch.tensor(1.0))
    assert alike[0, 2] < 0.5
    torch.testing.assert_close(alike.diagonal(), torch.ones(3))


def fit(name, out, **options):
    return cp.fit(
        "digits", name, out=str(out), epochs=6, limit=1000, batch_size=100, threads=1, seed=1, progress=False,
        encoder_options={"widths": [16, 32, 64]}, report=False, monitor=3, options=options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    return fit("untrained", tmp_path_factory.mktemp("untrained")).evaluation.scores["probe_5"]


@pytest.mark.paper(4, "trains")
@pytest.mark.parametrize("name", ["simlap", "hydra"])
def test_learns_from_real_images(name, untrained, tmp_path):
    run = fit(name, tmp_path / "run")
    losses = [row["loss"] for row in run.metrics]
    assert losses[-1] < losses[0]
    assert run.metrics[-1]["collapse"] is None
    assert run.evaluation.scores["probe_5"] > untrained + 0.05
    alike, width = run.findings
    assert alike.rows == [str(digit) for digit in range(10)]
    assert np.isnan(np.diag(alike.values)).all()
    assert np.nanmax(alike.values) < 1
    assert 0 < width.values.min() < width.values.max() < 1


def test_open_gates_have_no_map():
    assert make(SimLAP, gate="open").findings(None, None) == ()
