"""CLIP-rocket and its companions as methods: their schedule, heads, teacher, what they learn from real pairs."""

from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.methods import Recipe

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
