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
