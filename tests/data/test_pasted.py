"""Patches pasted on images: the blend, its box, the background beside it, training on it, and what is refused."""

import pickle
import sys

import numpy as np
import pytest
import torch

import counterpoint as cp
from counterpoint.data import Dataset, PastedDataset, load, paste, split
from counterpoint.data.dataset import Names, Rows
from counterpoint.experiments.claims import find
from counterpoint.experiments.layers import representations

FITS = {"epochs": 1, "batch_size": 32, "evaluate": False, "report": False, "monitor": 0, "progress": False}


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def images(count=10, shape=(3, 12, 12), given=None):
    names = Names.of(f"{i}.png" for i in range(count))
    return Dataset("some", Rows(pixels(count, *shape), "chw"), ids=names, labels=np.arange(count) % 2, given=given)


def pasted(count=10, **options):
    labels = np.arange(count) % 3
    return PastedDataset(images(count), pixels(count, 6, 6, seed=1), labels, **options)


def test_the_blend_is_the_papers_inside_the_box_and_nothing_outside():
    backgrounds, patches = pixels(5, 3, 12, 12), pixels(5, 6, 6, seed=1)
    before = backgrounds.copy()
    got = paste(backgrounds, patches, 0.7)
    assert np.array_equal(backgrounds, before)
    inside = np.zeros((12, 12), bool)
    inside[3:9, 3:9] = True
    assert np.array_equal(got[..., ~inside], backgrounds[..., ~inside])
    for item in range(5):
        for channel in range(3):
            mixed = 0.3 * backgrounds[item, channel, 3:9, 3:9].astype(float) + 0.7 * patches[item]
            assert np.abs(got[item, channel, 3:9, 3:9] - mixed).max() <= 0.5 + 1e-9


def test_strength_0_leaves_the_image_and_1_covers_it():
    backgrounds, patches = pixels(5, 3, 12, 12), pixels(5, 6, 6, seed=1)
    assert np.array_equal(paste(backgrounds, patches, 0.0), backgrounds)
    covered = paste(backgrounds, patches, 1.0)
    assert np.array_equal(covered[:, :, 3:9, 3:9], np.broadcast_to(patches[:, None], (5, 3, 6, 6)))
    assert np.array_equal(paste(backgrounds, pixels(5, 12, 12, seed=1), 1.0)[:, 0], pixels(5, 12, 12, seed=1))


def test_black_ink_darkens_the_box_too():
    got = paste(np.full((1, 1, 4, 4), 200, np.uint8), np.zeros((1, 2, 2), np.uint8), 0.7)
    assert got[0, 0].tolist() == [[200] * 4, [200, 60, 60, 200], [200, 60, 60, 200], [200] * 4]


def test_a_batch_has_the_image_with_and_without_and_what_is_asked():
    data, indices = pasted(), [7, 2, 2]
    batch = data[indices]
    assert torch.equal(batch["background"], images()[indices]["image"])
    assert np.array_equal(batch["image"], paste(batch["background"].numpy(), data.patches[indices], 0.7))
    assert batch["label"].tolist() == [1, 2, 2]
    assert batch["index"].tolist() == indices
    assert batch["image"].dtype == batch["background"].dtype == torch.uint8
    assert data.classes == ["0", "1", "2"]
    assert "label" not in PastedDataset(images(), data.patches)[[0]]  # the backgrounds' own say nothing of the patch


def test_a_part_is_the_same_items_and_survives_another_process():
    data = pasted(strength=0.4, given=np.array(["train"] * 6 + ["val"] * 2 + ["test"] * 2))
    part = pickle.loads(pickle.dumps(data.subset([8, 1])))
    for key in ("image", "background", "label"):
        assert torch.equal(part[[0, 1]][key], data[[8, 1]][key])
    assert part.given.tolist() == ["test", "train"]
    assert list(part.ids) == ["8.png", "1.png"]
    assert len(data.subset([])) == 0
    assert load(data, limit=4).strength == 0.4


def test_the_parts_are_the_backgrounds_or_those_given():
    own = np.array(["train"] * 8 + ["test"] * 2)
    data = PastedDataset(images(given=own), pixels(10, 6, 6))
    assert split(data, val=0.2).test.tolist() == [8, 9]
    assert split(pasted(given=own[::-1]), val=0.2).test.tolist() == [0, 1]


@pytest.mark.paper(70, "trains")
@pytest.mark.parametrize("p_drop", [0.0, 1.0])
def test_the_claims_method_trains_on_views_with_and_without_the_digit(tmp_path, p_drop):
    find("projection-head")
    claim = sys.modules["counterpoint_claim_projection_head"]
    # backgrounds are black and patches white, so that the brightness of a view tells what it shows
    dark = Dataset("dark", Rows(np.zeros((96, 3, 16, 16), np.uint8), "chw"), ids=Names.of(map(str, range(96))))
    data = PastedDataset(dark, np.full((96, 8, 8), 255, np.uint8), np.arange(96) % 4)
    seen = []

    class Watched(claim.DropsDigit):
        def loss(self, views, batch):
            seen.extend(float(view.amax()) for view in views)
            return super().loss(views, batch)

    run = cp.fit(
        data, Watched, out=str(tmp_path / "run"), views=["HorizontalFlip"], options={"p_drop": p_drop}, threads=1,
        encoder_options={"widths": [8, 16]}, **FITS,
    )  # fmt: skip
    assert seen == [0.0 if p_drop else pytest.approx(178 / 255, abs=1 / 255)] * len(seen)
    assert len(seen) > 0
    model = run.model(Watched)
    assert model.p_drop == p_drop
    found = representations(model, data, np.arange(5))
    assert found["features"].shape == (5, 16)
    assert found["projection"].shape == (5, 128)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pasted(strength=1.2), "strength: expected a number from 0 to 1, got 1.2"),
        (lambda: pasted(strength=float("nan")), "strength: expected a number from 0 to 1"),
        (lambda: pasted(strength=True), "strength: expected a number from 0 to 1"),
        (lambda: paste(pixels(2, 3, 8, 8), pixels(2, 4, 4), -0.1), "strength: expected a number from 0 to 1"),
        (lambda: paste(pixels(2, 3, 8, 8) / 255, pixels(2, 4, 4)), "backgrounds: expected uint8 .*float64"),
        (lambda: paste(pixels(3, 8, 8), pixels(3, 4, 4)), r"backgrounds: expected uint8 \(B, C, H, W\)"),
        (lambda: paste(pixels(2, 3, 8, 8), pixels(2, 1, 4, 4)), r"patches: expected uint8 \(B, h, w\)"),
        (lambda: paste(pixels(2, 3, 8, 8), pixels(3, 4, 4)), "patches: expected one for each of the 2 images, got 3"),
        (lambda: paste(pixels(2, 3, 8, 8), pixels(2, 9, 4)), r"patches: expected .* at most \(8, 8\), got \(9, 4\)"),
        (lambda: paste(pixels(2, 3, 8, 8), pixels(2, 0, 4)), "patches: expected .* at least 1"),
        (lambda: PastedDataset(images(), pixels(9, 6, 6)), "patches: expected one for each of the 10 images, got 9"),
        (lambda: PastedDataset(images(), pixels(10, 6, 6) / 255), r"patches: expected uint8 \(N, h, w\), got float64"),
        (lambda: PastedDataset(images(), pixels(10, 6, 13)), r"patches: expected .* at most \(12, 12\)"),
        (lambda: PastedDataset(load(np.eye(4)), pixels(4, 2, 2)), "backgrounds: expected images"),
        (lambda: PastedDataset(images(), pixels(10, 6, 6), np.arange(9)), "labels: expected one for each of the 10"),
        (lambda: PastedDataset(images(), pixels(10, 6, 6), np.ones(10)), "labels: expected whole numbers .*float64"),
        (lambda: PastedDataset(images(), pixels(10, 6, 6), list("0123456789")), "labels: expected whole numbers .*<U1"),
        (lambda: PastedDataset(images(), pixels(10, 6, 6), np.arange(10) - 2), "labels: expected whole numbers"),
        (lambda: pasted(classes=["a", "b"]), "labels: expected whole numbers from -1 to 1, got int64"),
        (lambda: pasted(given=np.array(["train"] * 9 + ["tset"])), "given: expected train, val, test, got train, tset"),
        (lambda: pasted(given=np.array(["train"] * 9)), "given: expected one for each of the 10"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
