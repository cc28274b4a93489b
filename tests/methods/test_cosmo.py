"""CosMo as a method: pairs and documents, the language model first, what is frozen, training on digits, resuming."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import counterpoint as cp
from counterpoint.data import documents, pair
from counterpoint.encoders import MultimodalEncoder, build, build_text_encoder
from counterpoint.encoders.cosmo import CosMoEncoder
from counterpoint.encoders.interleaved import VISUAL, few_shot
from counterpoint.methods.multimodal.cosmo import CosMo

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEXTS = [f"a photo of a {word}" for word in WORDS]
METRICS = ["pair_recall@1", "caption_exact", "caption_tokens"]
SMALL = {"length": 32, "num_latents": 4, "heads": 2, "dim_head": 16}
READER = {"text": {"name": "transformer", "width": 64, "depth": 2}, "image": {"widths": [32, 64]}}


def make(**options):
    torch.manual_seed(0)
    reader = build_text_encoder("transformer", TEXTS, width=16, depth=2, heads=2)
    encoder = MultimodalEncoder({"image": build("convnet", (1, 8, 8), widths=[8]), "text": reader})
    return CosMo(encoder, **{**SMALL, "dim": 6, **options})


def batch_of(count=6, **changed):
    x = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    there = torch.ones(count, dtype=torch.bool)
    return {"image": x, "text": TEXTS[:count], "present": {"image": there, "text": there}, **changed}


def interleaved(batch):
    """The same pairs as documents of one picture each."""
    texts = [f"{VISUAL} {text}" for text in batch["text"]]
    count = len(texts)
    return batch | {
        "document": texts, "pictures": batch["image"][:, None], "shown": torch.ones(count, 1, dtype=torch.bool),
        "pair": torch.ones(count, dtype=torch.bool),
    }  # fmt: skip


def digits(kind="pairs", items=600, texts=TEXTS):
    data = load_digits()
    x, y = (data.images[:items] * 15.9).astype(np.uint8), data.target[:items]
    texts = [texts[at] for at in y]
    if kind == "pairs":
        return pair({"image": x, "text": texts}, labels=y, classes=WORDS)
    rows, shown = [], []
    for at in range(0, items, 4):  # a document of three, and a pair
        rows += [" ".join(f"{VISUAL} {text}" for text in texts[at : at + 3]), texts[at + 3]]
        shown += [list(x[at : at + 3]), [x[at + 3]]]
    return documents(rows, shown)


def test_a_pair_is_a_document_of_one_picture():
    method, batch = make().eval(), batch_of()
    one = method.loss(method.make_views(batch), batch)
    other = method.loss(method.make_views(batch), interleaved(batch))
    torch.testing.assert_close(one, other)


def test_captions_alone_are_the_loss_without_its_contrast():
    batch = batch_of()
    both, captions = make().eval(), make(contrastive_weight=0).eval()
    found = both.model.read_and_write(both._documents(batch, batch)[0], batch["image"][:, None])
    contrast = both.objective.contrast(found["text"], found["image"], both.scale())
    torch.testing.assert_close(both.loss([batch], batch), captions.loss([batch], batch) + contrast)
    assert both.scale().item() == pytest.approx(np.exp(0.2))
    assert not captions.scale.log.requires_grad


def test_documents_of_several_pictures_are_not_contrasted():
    method = make().eval()
    batch = interleaved(batch_of())
    batch["pair"] = torch.tensor([1, 1, 0, 0, 1, 0]).bool()
    captions = make(contrastive_weight=0).eval().loss([batch], batch)
    loss = method.loss([batch], batch)
    only = {name: value[batch["pair"]] if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    only["document"], only["text"] = (
        [x for x, has in zip(batch[name], batch["pair"], strict=True) if has] for name in ("document", "text")
    )
    only["present"] = {name: there[batch["pair"]] for name, there in batch["present"].items()}
    contrast = method.loss([only], only) - make(contrastive_weight=0).eval().loss([only], only)
    torch.testing.assert_close(loss - captions, contrast)


def test_captions_that_are_the_same_are_negatives_if_asked_for():
    batch = batch_of(text=[TEXTS[0], TEXTS[0], *TEXTS[2:6]])
    apart, all_alike = (make(duplicates=asked).eval().loss([batch], batch) for asked in (False, True))
    assert apart < all_alike


def test_what_is_missing():
    method, whole = make().eval(), batch_of()
    there = torch.tensor([1, 1, 1, 0, 1, 1]).bool()
    batch = batch_of(present={"image": there, "text": whole["present"]["text"]})
    other = batch_of(image=torch.where(there[:, None, None, None], whole["image"], 9.0), present=batch["present"])
    torch.testing.assert_close(method.loss([batch], batch), method.loss([other], other))
    kept = [at for at in range(6) if at != 3]
    left = batch_of(
        image=whole["image"][kept], text=[TEXTS[at] for at in kept],
        present={name: x[kept] for name, x in whole["present"].items()},
    )  # fmt: skip
    expected = method.loss([left], left)
    torch.testing.assert_close(method.loss([batch], batch), expected)
    blank = batch_of(text=[*TEXTS[:3], "", *TEXTS[4:6]])
    torch.testing.assert_close(method.loss([blank], blank), expected)
    nothing = batch_of(text=[""] * 6)
    with pytest.raises(ValueError, match=r"^text: none of the 6 items of a batch has a text"):
        method.loss([nothing], nothing)
    unseen = batch_of(present={"image": torch.zeros(6, dtype=torch.bool), "text": there})
    assert method.loss([unseen], unseen) == 0  # nothing is learned of texts alone


def test_unknown_and_overlong_words():
    method = make().eval()
    batch = batch_of(text=["qwzx #!", "a " * 300, *TEXTS[2:6]])
    assert torch.isfinite(method.loss([batch], batch))


def test_what_is_frozen():
    method = make(freeze=["image", "text"])
    assert method.language_share == 0
    batch = batch_of()
    method.train()
    method.loss([batch], batch).backward()
    for tower in method.model.towers.values():
        assert not tower.encoder.training
        assert all(parameter.grad is None for parameter in tower.encoder.parameters())
    assert method.model.language.gated["1"].attention_gate.grad.abs() > 0
    assert method.model.seeing.resampler.latents.grad.abs().sum() > 0
    assert make().language_share == 0.3
    again = CosMo(make().encoder)
    assert isinstance(again.encoder, CosMoEncoder)
    assert (again.language_share, again.model.language.frozen) == (0, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language_share": 1.0}, r"^language_share: expected a number from 0 to below 1"),
        ({"language_share": 0.2, "freeze": "text"}, r"^language_share: 0.2 of the steps would train"),
        ({"contrastive_weight": -1}, r"^weight: expected"),
        ({"ratio": [1, 2, 2]}, r"^ratio: expected batches of pairs and of documents"),
        ({"ratio": [0, 0]}, r"^ratio: expected"),
        ({"freeze": "sound"}, r"^freeze: there is no modality 'sound'"),
    ],
)
def test_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def fit(data, folder, **arguments):
    options = {**SMALL, **arguments.pop("options", {})}
    quiet = {"threads": 1, "progress": False, "report": False, "monitor": 0, "seed": 0}
    return cp.fit(
        data, "cosmo", out=str(folder), options=options, batch_size=64, encoders=READER, **{**quiet, **arguments}
    )


def test_the_language_model_comes_first_and_then_stays(tmp_path, monkeypatch):
    kept = []
    step = CosMo.after_step

    def look(method):
        step(method)
        weights = {name: x.clone() for name, x in method.model.language.encoder.state_dict().items()}
        gates = method.model.language.gated["1"].attention_gate.item()
        kept.append((weights, gates, method.model.seeing.resampler.latents.clone()))

    monkeypatch.setattr(CosMo, "after_step", look)
    fit(digits(items=200), tmp_path / "run", steps=8, options={"language_share": 0.5}, evaluate=False)
    moved = [any(not torch.equal(kept[n][0][name], kept[n + 1][0][name]) for name in kept[n][0]) for n in range(7)]
    assert moved == [True] * 3 + [False] * 4
    assert [gate == 0 for _, gate, _ in kept] == [True] * 4 + [False] * 4
    assert torch.equal(kept[0][2], kept[3][2])
    assert not torch.equal(kept[3][2], kept[4][2])


@pytest.mark.paper(30, "trains")
def test_it_learns_to_write_and_to_find(tmp_path):
    """Digits with captions: words that it has not been shown, and retrieval by vectors, far above chance."""
    data = digits(items=1200, texts=WORDS)
    how = {"theta": 2.0, "language_share": 0.2, "num_latents": 8, "heads": 4, "dim_head": 32}
    run = fit(data, tmp_path / "run", steps=200, schedule="constant", metrics=METRICS, options=how)
    untrained = cp.fit(
        data, "untrained_towers", out=str(tmp_path / "untrained"), threads=1, progress=False, report=False, monitor=0,
        seed=0, encoders=READER, metrics=["pair_recall@1"],
    )  # fmt: skip
    assert run.scores["pair_recall@1:image>text"] > untrained.scores["pair_recall@1:image>text"] + 0.3
    assert "Captions" in [found.title for found in run.findings]
    model = run.model()
    test = np.load(tmp_path / "run" / "splits.npz")["test"]
    batch = data[test]
    written = model.generate(batch["image"])
    right = np.mean([a == b for a, b in zip(written, batch["text"], strict=True)])
    assert right > 0.5
    assert run.scores["caption_exact"] == pytest.approx(right)
    assert run.scores["caption_tokens"] > right  # each of them ends
    other = model.generate(batch["image"].roll(1, 0))
    assert np.mean([a == b for a, b in zip(other, batch["text"], strict=True)]) < 0.3  # it looks
    opened = cp.load(tmp_path / "run")
    assert opened.generate(batch["image"][:4]) == written[:4]


def test_documents_train_and_prompts_with_examples_are_answered(tmp_path):
    data = digits("documents", 300)
    run = fit(data, tmp_path / "run", steps=12, options={"length": 48})
    assert run.state == "finished"
    assert "caption_exact" not in run.scores  # a document's text is not that of one picture
    shown = {found.title: found for found in run.findings}
    assert all(line[1] in TEXTS for line in shown["Captions"].lines)
    assert all(line[0].count("|") == 2 and line[2] in TEXTS for line in shown["After examples"].lines)
    batch = data[[0]]
    shown = few_shot([TEXTS[0], TEXTS[1]])
    answers = run.model().generate(batch["pictures"], [shown], length=6)
    assert len(answers) == 1


def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    data = digits(items=200)
    whole = fit(data, tmp_path / "whole", steps=8, options={"language_share": 0.25}, evaluate=False)
    calls = []
    step = CosMo.after_step

    def stop(method):
        step(method)
        calls.append(0)
        if len(calls) == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(CosMo, "after_step", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(data, tmp_path / "killed", steps=8, options={"language_share": 0.25}, evaluate=False,
                checkpoint_seconds=0)  # fmt: skip
    again = fit(data, tmp_path / "killed", steps=8, options={"language_share": 0.25}, evaluate=False,
                checkpoint_seconds=0, resume=True)  # fmt: skip
    first, second = (run.encoder().state_dict() for run in (whole, again))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value)


def test_the_command_reads_documents(tmp_path, capsys):
    rows = []
    for at in range(24):
        file = io.BytesIO()
        Image.fromarray((load_digits().images[at] * 15.9).astype(np.uint8)).save(file, "PNG")
        (tmp_path / f"{at}.png").write_bytes(file.getvalue())
        word = TEXTS[load_digits().target[at]]
        if at % 3:
            rows.append({"text": word, "images": [f"{at}.png"]})
        else:
            rows.append({"text": f"Two: {VISUAL} {word} {VISUAL} a", "images": [f"{at}.png", "0.png"]})
    table = tmp_path / "documents.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    from counterpoint.cli import main

    told = ["--out", str(tmp_path / "run"), "--epochs", "1", "--batch_size", "8", "--threads", "1"]
    main(["fit", str(table), "--method", "cosmo", *told, "--options", json.dumps(SMALL), "--progress", "false"])
    assert (tmp_path / "run" / "report.html").exists()
    assert "finished" in capsys.readouterr().out
    main(["report", str(tmp_path / "run")])


def test_batches_of_one_kind_in_a_ratio(tmp_path, monkeypatch):
    seen = []
    loss = CosMo.loss

    def look(method, views, batch):
        seen.append(batch["pair"].float().mean().item())
        return loss(method, views, batch)

    monkeypatch.setattr(CosMo, "loss", look)
    data = digits("documents", 600)  # 150 of three pictures, 150 pairs
    how = {"ratio": [2, 1], "language_share": 0.0, "length": 48}
    run = cp.fit(data, "cosmo", out=str(tmp_path / "run"), steps=9, batch_size=24, encoders=READER, evaluate=False,
                 options={**SMALL, **how}, threads=1, progress=False, report=False, monitor=0)  # fmt: skip
    assert [sorted(seen[at : at + 3]) for at in range(0, 9, 3)] == [[0, 1, 1]] * 3
    assert run.state == "finished"
    plain = make(ratio=[2, 1])
    plain.prepare(digits(items=20), np.arange(20))  # pairs alone are all of one kind
    assert plain.grouping() is None


def test_without_a_contrast_what_only_it_would_train_is_left_alone():
    method, batch = make(contrastive_weight=0, language_share=0.0).train(), batch_of()
    method.loss([batch], batch).backward()
    without = {name for name, p in method.named_parameters() if p.grad is None}
    assert without == {name for name, p in method.named_parameters() if not p.requires_grad}
    assert any("pool" in name for name in without)
