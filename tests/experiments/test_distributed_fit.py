"""The same fit in one process and under torchrun in two, with views that hold no randomness."""

import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

import counterpoint as cp
from counterpoint.experiments.run import Run

SAME = {"epochs": 2, "limit": 200, "batch_size": 40, "optimizer": "sgd", "lr": 0.01, "threads": 1}
SAME["precision"] = "32-true"  # halves of a batch are rounded otherwise than the whole


@pytest.mark.parametrize("method", ["simclr", "supcon", "swav", "mcl"])
def test_two_processes_train_what_one_does(tmp_path, method):
    settings = {**SAME, "views": [[], []], "progress": False, "report": False, "monitor": 2}
    one = cp.fit("digits", method, out=str(tmp_path / "one"), **{**settings, "evaluate": False})
    # a config file, since torchrun would take --monitor for an option of its own
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": "digits", "method": method, **settings}))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "counterpoint.cli", "fit", "--config", str(tmp_path / "config.yaml")]
    command += ["--out", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    two = Run(tmp_path / "two")
    assert two.state == "finished"
    assert two.scores["knn"] > 0.3
    for a, b in zip(one.metrics, two.metrics, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    first, second = (load_file(run.folder / "encoder" / "model.safetensors") for run in (one, two))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("method", ["clip", "cwcl"])
def test_two_processes_train_pairs_with_gaps_as_one_does(tmp_path, method):
    import numpy as np
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    left, right = (x[:200].reshape(-1, 8, 8)[:, :, part].reshape(200, -1) / 16 for part in (slice(4), slice(4, 8)))
    right[::3] = np.nan  # so that the processes have different numbers of whole pairs
    np.savez(tmp_path / "halves.npz", left=left.astype(np.float32), right=right.astype(np.float32), y=y[:200])
    told = {"left": "vector:left", "right": "vector:right"}
    settings = {**SAME, "modalities": told, "progress": False, "report": False, "monitor": 0}
    data = str(tmp_path / "halves.npz")
    one = cp.fit(data, method, out=str(tmp_path / "one"), **{**settings, "evaluate": False})
    config = {"data": data, "method": method, **settings, "evaluate": False}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "counterpoint.cli", "fit", "--config", str(tmp_path / "config.yaml")]
    done = subprocess.run([*command, "--out", str(tmp_path / "two")], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    for a, b in zip(one.metrics, Run(tmp_path / "two").metrics, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


CAPTIONED = """
import sys, json
import counterpoint as cp
for out, arguments in json.loads(sys.argv[1]).items():
    cp.fit(out=sys.argv[2] + "/" + out, **arguments)
"""


def test_two_processes_learn_to_write_as_one_does(tmp_path):
    """CoCa, CosMo with and without a language model to learn first, and CLOSE with an adapter that is estimated."""
    import json

    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    found = load_digits()
    rows, pages = [], []
    for at in range(100):
        Image.fromarray((found.images[at] * 15.9).astype(np.uint8)).save(tmp_path / f"{at}.png")
        text = f"a photo of a {words[found.target[at]]}" if at % 3 else f"here {words[found.target[at]]}"
        rows.append({"image": f"{at}.png", "text": text if at % 5 else None})
        shown = [f"{at}.png", f"{at // 2}.png"] if at % 2 else [f"{at}.png"]
        pages.append({"text": text if len(shown) == 1 else f"<visual> {text} <visual> two", "images": shown})
    for name, table in (("pairs", rows), ("pages", pages)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, table)))
    towers = {"image": {"name": "mlp", "widths": [16]}, "text": {"width": 16, "depth": 2, "heads": 2}}
    towers_of_cosmo = {**towers, "image": {"widths": [8]}}
    plain = {**SAME, "batch_size": 24, "progress": False, "report": False, "monitor": 0, "evaluate": False}
    pairs = {**plain, "data": str(tmp_path / "pairs.jsonl"), "image": "image", "text": "text"}
    small = {"num_latents": 2, "heads": 2, "dim_head": 8, "length": 32, "resampler_depth": 1}
    cosmo = {**plain, "data": str(tmp_path / "pages.jsonl"), "method": "cosmo", "encoders": towers_of_cosmo}
    cp.fit(out=str(tmp_path / "clip"), method="clip", encoders=towers, options={"dim": 8}, **pairs)
    writing = {"width": 16, "layers": 1, "dropout": 0.0, "adapter": "linear", "std": 0.0}
    fits = {
        "coca": {**pairs, "method": "coca", "encoders": towers, "options": {"n_queries": 2, "dim": 8}},
        "cosmo": {**cosmo, "options": {**small, "language_share": 0.5}},
        "ratio": {**cosmo, "options": {**small, "language_share": 0.0, "ratio": [1, 2], "contrastive_weight": 0.0}},
        "close": {**pairs, "method": "close", "encoder": str(tmp_path / "clip"), "options": writing},
    }
    for out, arguments in fits.items():
        cp.fit(out=str(tmp_path / "one" / out), **arguments)
    script = tmp_path / "fits.py"
    script.write_text(CAPTIONED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    command += [json.dumps(fits), str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    for out in fits:
        runs = [Run(tmp_path / count / out) for count in ("one", "two")]
        for a, b in zip(*(run.metrics for run in runs), strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-4), out
        for part in ("encoder", "head"):
            if (runs[0].folder / part / "model.safetensors").exists():
                first, second = (load_file(run.folder / part / "model.safetensors") for run in runs)
                for name, value in first.items():
                    torch.testing.assert_close(second[name], value, rtol=1e-3, atol=1e-4, msg=f"{out}: {name}")
