"""Losses side by side: names, calls, the sweep, the files, the command."""

import json
import math
import os
import re
import xml.etree.ElementTree as ET

import pytest
import torch
from torch import nn

import counterpoint as cp
from counterpoint import objectives
from counterpoint.cli import main
from counterpoint.evaluation.microscope import pair_weights
from counterpoint.experiments.explain import SCORES, explain
from counterpoint.experiments.explaining import clusters
from counterpoint.experiments.losses import call, chosen, known_losses, refusal
from counterpoint.objectives import npc_multiplier
from counterpoint.web.explain import sentences

QUICK = {"temperatures": "0.1,0.5", "batch_sizes": "8,16", "views": "2,3", "dim": 64}
MODULES = [
    name
    for name in objectives.__all__
    if isinstance(getattr(objectives, name), type) and issubclass(getattr(objectives, name), nn.Module)
]


def look(losses, **changes):
    return explain(losses, report=False, **{**QUICK, **changes})


class TestEveryObjective:
    @pytest.mark.parametrize("name", MODULES)
    def test_gives_finite_weights_or_says_why_not(self, name):
        why = refusal(getattr(objectives, name))
        if why is not None:
            with pytest.raises(ValueError, match=rf"^losses: '{name}' cannot be explained: {re.escape(why)}"):
                chosen(name)
            return
        (loss,) = look(name).value["losses"]
        if loss["why"] is not None:
            assert name in ("BarlowTwins", "VICReg", "CrossModalBarlow", "SymileLoss")
            assert loss["base"] is None
            assert sum(loss["split"].values()) == pytest.approx(1)
            return
        pulls = name not in ("UniformityLoss", "CrossUniformityLoss", "ContrastiveMIMTerm")
        for axis in ("temperature", "batch_size", "views"):
            for value, found in loss[axis].items():
                assert found["residual"] < 1e-6, (axis, value)
                numbers = [found[key] for key in ("pull", "push", "gradient", "hardest_1", "effective")]
                numbers += [found["direction"]] if pulls else []
                numbers += [y for kind in ("negative", "positive") for y in found[f"{kind}_curve"]["y"]]
                assert all(math.isfinite(x) for x in numbers), (axis, value)
        assert (loss["base"]["pull"] > 0) == pulls
        assert (loss["base"]["negatives"] > 0) == (name not in ("NegativeCosine", "AlignmentLoss"))

    def test_most_can_be_explained(self):
        assert len(known_losses()) >= 38
        assert not {"SwAV", "AMCL", "DifferentiableSort"} & set(known_losses())


class TestNames:
    def test_in_any_case_with_options(self):
        found = chosen("ntxent, dcl ,mv-dhel,cacr:tau_neg=0.5:weights=full,hard_contrastive:count=3")
        assert [loss.name for loss in found] == [
            "NTXent", "DCL", "MVDHEL", "CACR (tau_neg=0.5, weights=full)", "HardContrastive (count=3)",
        ]  # fmt: skip
        assert found[3].make(0.1, 8).tau_neg == 0.5
        assert found[0].make(0.1, 8).temperature == 0.1

    def test_a_temperature_that_is_given_is_kept_to(self):
        (loss,) = chosen("ntxent:temperature=1")
        assert loss.make(0.1, 8).temperature == 1
        found = look("ntxent:temperature=1,ntxent:temperature=0.05,ntxent")
        rows = {row["name"]: row for row in found.rows}
        assert rows["NTXent (temperature=1)"]["effective"] > rows["NTXent"]["effective"]
        assert rows["NTXent (temperature=1)"]["multiplier"] == pytest.approx(rows["NTXent (temperature=1)"]["pull"] / 2)
        assert found.value["losses"][0]["temperature"] == {}

    @pytest.mark.parametrize(
        ("losses", "message"),
        [
            ("", "losses: none given; there are CACR, DCL"),
            ("ntxnt", "losses: no objective 'ntxnt'; did you mean 'NTXent'"),
            ("qqqqqq", "losses: no objective 'qqqqqq'; there are"),
            ("npc_multiplier", "losses: no objective 'npc_multiplier'; there are CACR"),
            ("dcl,DCL", "losses: 'DCL' is named twice"),
            ("dcl:tau=2", "losses: DCL has no option 'tau=2'; it has temperature"),
            ("dcl:temperature", "losses: DCL has no option 'temperature'"),
            ("dcl:reduction=none", "losses: DCL has no option 'reduction=none'"),
            ("dcl:temperature=-1", "losses: 'dcl:temperature=-1': temperature: expected"),
            ("swav", "losses: 'SwAV' cannot be explained: it acts on scores of prototypes"),
            ("amcl", "losses: 'AMCL' cannot be explained: it needs temperature"),
        ],
    )
    def test_what_cannot_be_used_is_named(self, losses, message):
        with pytest.raises(ValueError, match=rf"^{re.escape(message)}"):
            chosen(losses)


class TestCalls:
    z = clusters(12, 3, 16, 0.5, 0).z
    bank = clusters(20, 1, 16, 0.5, 1).z[0]

    def weights(self, loss, z=z, labels=None):
        made = call(chosen(loss)[0].make(0.2, z.shape[1]), z, self.bank, labels)
        return pair_weights(made.function, *made.inputs, groups=made.groups, anchors=made.anchors)

    def test_two_views_are_averaged_over_all_pairs(self):
        found = self.weights("ntxent")
        same = self.weights("pairwiseaverage")
        torch.testing.assert_close(found.weight, same.weight, rtol=0, atol=1e-12)

    def test_queries_are_anchors_of_both_views(self):
        found = self.weights("infonce", self.z[:2])
        assert len(found.anchors) == 24
        assert found.negative.sum(1).tolist() == [20] * 24
        assert not bool((found.pull <= 0).any())

    def test_forms_of_cacr(self):
        """The rest of the batch is, of the one, the queries of the same view, and of the other the keys of another."""
        for name, negatives in (("cacrqueue", 12 - 1 + 20), ("cacrmocov3", 12 - 1)):
            found = self.weights(name, self.z[:2])
            assert len(found.anchors) == 24
            assert found.negative.sum(1).tolist() == [negatives] * 24

    def test_labels_make_positives(self):
        labels = torch.arange(12) % 3
        assert self.weights("supcon", self.z[:2], labels).positive.sum(1).tolist() == [7] * 24
        assert self.weights("supcon", self.z[:2]).positive.sum(1).tolist() == [1] * 24
        assert self.weights("ntxent", self.z[:2], labels).positive.sum(1).tolist() == [1] * 24

    def test_two_modalities_are_views(self):
        """Of CWCL, what is alike is a positive too, so that the pair itself is pulled less, or even pushed."""
        clip, cwcl = (self.weights(name, self.z[:2]) for name in ("groupinfonce", "cwclloss"))
        within = ~torch.eye(12, dtype=torch.bool)
        assert not bool(clip.weight[:12, :12][within].any() or clip.weight[12:, 12:][within].any())
        assert bool((cwcl.pull < clip.pull).all())

    @pytest.mark.parametrize(
        ("loss", "two", "three"),  # views of 12 items
        [
            ("groupinfonce", 11, 22),  # of each other modality
            ("cwclloss", 11, 22),
            ("bimodalsogclr", 11, 22),
            ("pairwisecliploss", 11, 22),
            ("crossuniformityloss", 11, 22),
            ("mvinfonce", 11, 22),
            ("groco", 11, 11),  # of the own view alone
            ("mvdhel", 11, 11),
            ("ntxent", 22, 33),  # of all views
            ("clipuniformalignloss", 22, 33),
            ("hardcontrastive:count=2", 22, 33),  # what it selects from
            ("alignmentloss", 0, 0),
        ],
    )
    def test_negatives_are_those_that_the_loss_contrasts(self, loss, two, three):
        for count, negatives in ((2, two), (3, three)):
            found = self.weights(loss, self.z[:count])
            assert found.negative.sum(1).tolist() == [negatives] * (count * 12)

    def test_pushing_alone_knows_no_positives(self):
        for name in ("uniformityloss", "crossuniformityloss", "contrastivemimterm"):
            found = self.weights(name)
            assert not bool(found.weight[found.positive.nonzero().unbind(1)].any()), name
            assert bool((found.push > 0).all()), name

    def test_labels_are_items_where_there_are_none(self):
        labels = torch.arange(12) % 3
        assert self.weights("focalsupcon", self.z[:2]).positive.sum(1).tolist() == [1] * 24
        assert self.weights("focalsupcon", self.z[:2], labels).positive.sum(1).tolist() == [7] * 24

    def test_sogclr_at_a_first_visit_is_dcl(self):
        sog, dcl = (self.weights(name, self.z[:2]) for name in ("sogclr:gamma=1.0", "dcl"))
        torch.testing.assert_close(sog.weight, 2 * 0.2 * dcl.weight, rtol=1e-6, atol=1e-9)


class TestValue:
    def test_the_multiplier_is_the_papers(self):
        found = look("ntxent,dcl", temperatures="0.1", batch_sizes="16", views="2")
        cloud = clusters(3 * 16, 2, 64, 0.5, 0)
        q = [torch.cat(npc_multiplier(*cloud.z[:2, start : start + 16], temperature=0.1)) for start in (0, 16, 32)]
        assert found["NTXent"]["multiplier"] == pytest.approx(float(torch.cat(q).mean()), abs=1e-9)
        assert found["DCL"]["multiplier"] == pytest.approx(1, abs=1e-9)
        assert found["DCL"]["multiplier_least"] == pytest.approx(1, abs=1e-9)

    def test_what_the_papers_say(self):
        found = look("ntxent,dcl,mvdhel,cacr,negativecosine,barlowtwins")
        batches = [found.value["losses"][0]["batch_size"][str(b)]["multiplier"] for b in (8, 16)]
        assert batches[0] < batches[1] < 1  # the coupling is worst in small batches
        heat = [found.value["losses"][0]["temperature"][t]["effective"] for t in ("0.1", "0.5")]
        assert heat[0] < heat[1]
        curve = found.value["losses"][0]["base"]["negative_curve"]
        assert curve["y"][-1] > 3 * curve["y"][0]
        pulls = {
            loss["name"]: loss["views"]["3"]["positive_curve"]["y"] for loss in found.value["losses"] if loss["base"]
        }
        assert pulls["MVDHEL"][-1] > pulls["MVDHEL"][0]  # the close ones
        assert pulls["CACR"][-1] < pulls["CACR"][0]  # the far ones
        conditional = found.value["losses"][3]["conditional"]
        assert conditional["attraction"]["y"][0] > 1 > conditional["attraction"]["y"][-1]
        assert conditional["repulsion"]["y"][0] < 1 < conditional["repulsion"]["y"][-1]
        assert found.value["moved"]["NTXent"] == 0
        assert found["NegativeCosine"]["hardest_1"] == 0
        assert found["BarlowTwins"]["multiplier"] is None
        assert found["BarlowTwins"]["split"]["nowhere"] > 0.05

    def test_rows_hold_every_score(self):
        for row in look("ntxent").rows:
            assert set(row) == {"name", "split", *SCORES}
            assert all(row[name] is not None for name in SCORES)

    def test_the_same_seed_gives_the_same_figures(self):
        first, second, other = (json.dumps(look("dcl", seed=seed).value) for seed in (0, 0, 1))
        assert first == second != other

    def test_the_middle_of_the_sweep_is_the_base(self):
        found = look("ntxent", temperatures="0.5,0.1,0.2", batch_sizes="8").value
        assert found["base"] == {"temperature": 0.2, "batch_size": 8, "views": 2}
        assert list(found["losses"][0]["temperature"]) == ["0.1", "0.2", "0.5"]
        assert found["losses"][0]["temperature"]["0.2"]["pull"] == found["losses"][0]["base"]["pull"]


class TestFiles:
    def test_a_page_and_its_json(self, tmp_path):
        page = tmp_path / "explain.html"
        found = explain("ntxent,cacr,barlowtwins", out=str(page), **QUICK)
        assert found.page == page
        kept = json.loads((tmp_path / "explain.json").read_text())
        assert kept["losses"][0]["base"]["pull"] == found.value["losses"][0]["base"]["pull"]
        assert kept["settings"]["losses"] == "ntxent,cacr,barlowtwins"
        shown = page.read_text()
        for text in ("NTXent · CACR · BarlowTwins", *sentences(found.value).values(), "counterpoint explain ntxent"):
            assert text.replace("'", "&#x27;") in shown
        for part in ("negatives", "hardest", "coupling", "temperature", "batch_size", "views", "conditional", "split"):
            assert f'<section id="{part}"' in shown
        assert not re.search(r'(?:src|href)="https?:', shown)
        for figure in re.findall(r"<svg .*?</svg>", shown, re.DOTALL):
            ET.fromstring(figure)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["explain.html", "explain.json"]

    def test_an_interrupted_page_leaves_the_old_one(self, tmp_path, monkeypatch):
        page = tmp_path / "explain.html"
        page.write_text("old")

        def broken(*_):
            raise OSError("no space")

        monkeypatch.setattr(os, "replace", broken)
        with pytest.raises(OSError, match="no space"):
            explain("dcl", out=str(page), **QUICK)
        assert [p.name for p in tmp_path.iterdir()] == ["explain.html"]
        assert page.read_text() == "old"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"temperatures": "0,1"}, "temperatures: expected numbers above 0, separated by commas, got '0,1'"),
            ({"temperatures": "warm"}, "temperatures: expected numbers"),
            ({"temperatures": "nan"}, "temperatures: expected numbers"),
            ({"batch_sizes": "1"}, "batch_sizes: expected whole numbers above 1"),
            ({"batch_sizes": ""}, "batch_sizes: expected whole numbers above 1"),
            ({"views": "1,2"}, "views: expected whole numbers above 1"),
            ({"views": "2.5"}, "views: expected whole numbers above 1"),
            ({"noise": 0}, "noise: expected a finite number above 0, got 0"),
            ({"dim": 1}, "dim: expected at least 2, got 1"),
            ({"out": "explain.pdf"}, "out: expected the name of a page"),
        ],
    )
    def test_arguments_are_named(self, changes, message):
        with pytest.raises(ValueError, match=rf"^{re.escape(message)}"):
            explain("dcl", **{**QUICK, "report": False, **changes})

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="out: there is no folder"):
            explain("dcl", out=str(tmp_path / "no" / "explain.html"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = str(tmp_path_factory.mktemp("explain") / "run")
    return cp.fit(
        "digits", out=out, epochs=1, limit=200, threads=1, progress=False, report=False, monitor=0, evaluate=False,
        encoder_options={"widths": [4, 8]}, options={"dim": 12},
    )  # fmt: skip


class TestRun:
    def test_looks_at_its_embeddings(self, run):
        found = look("ntxent,supcon", run=str(run.folder), labels=True)
        assert found.value["data"] == "40 test items of digits as simclr projects them"
        assert found["SupCon"]["negatives"] < found["NTXent"]["negatives"] == 30
        again = look("ntxent", run=str(run.folder))
        assert again["NTXent"]["pull"] == found["NTXent"]["pull"]

    def test_more_than_there_is(self, run):
        with pytest.raises(ValueError, match=r"^batch_sizes: 64 is too large for 40 items; take at most 38"):
            look("ntxent", run=str(run.folder), batch_sizes="16,64")
        with pytest.raises(FileNotFoundError, match="no run in"):
            look("ntxent", run=str(run.folder / "checkpoint"))


def test_command(tmp_path, capsys):
    page = tmp_path / "x.html"
    words = [
        "explain",
        "ntxent,dcl,vicreg",
        "--temperatures",
        "0.2",
        "--batch_sizes",
        "8",
        "--views",
        "2",
        "--out",
        str(page),
    ]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert re.search(r"DCL +\S+ of 14 .* 1\.00 +1\.00", shown)
    assert "VICReg gives no weights to pairs" in shown
    assert page.exists()
    assert main(["explain", "dlc"]) == 1
    assert "did you mean 'DCL'" in capsys.readouterr().err
