"""The worked example of CONTRIBUTING.md is code that runs: it is extracted, imported as a method and trained."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.fixture
def align_uniform(tmp_path, monkeypatch):
    (source,) = EXAMPLE.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    (tmp_path / "align_uniform.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield importlib.import_module("align_uniform").AlignUniform
    sys.modules.pop("align_uniform")


def test_it_is_found_as_a_method_of_ones_own(align_uniform):
    from counterpoint import methods

    assert methods.get("align_uniform:AlignUniform") is align_uniform


def test_its_loss_is_wang_and_isolas(align_uniform):
    from counterpoint import encoders

    torch.manual_seed(0)
    method = align_uniform(encoders.build("mlp", (6,)), weight=0.7)
    x, y = torch.randn(2, 16, 6, dtype=torch.float32)
    found = method.loss([x, y], {})
    with torch.no_grad():
        pair = [torch.nn.functional.normalize(z, dim=1).double() for z in method.embed_together([x, y])]
    apart = [(z[:, None] - z[None]).square().sum(-1)[~torch.eye(16, dtype=bool)] for z in pair]
    spread = sum(torch.exp(-2 * d).mean().log() for d in apart) / 2
    assert found.item() == pytest.approx(((pair[0] - pair[1]).square().sum(1).mean() + 0.7 * spread).item(), abs=1e-4)
    found.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.encoder.parameters() if p.ndim > 1)


def test_it_trains_two_epochs_on_digits(align_uniform, tmp_path):
    import counterpoint as cp

    run = cp.fit(
        "digits",
        "align_uniform:AlignUniform",
        out=str(tmp_path / "run"),
        epochs=2,
        monitor=0,
        threads=1,
        evaluate=False,
        report=False,
        progress=False,
    )
    losses = [row["loss"] for row in run.metrics]
    assert len(losses) == 2
    assert losses[1] < losses[0] - 0.1
