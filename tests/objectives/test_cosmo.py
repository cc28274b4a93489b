"""CosMo's loss: the golden contrast, rows that are no pairs, captions that say the same, what is 0, refusals."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, linear, normalize

from counterpoint.encoders import QueryPool
from counterpoint.objectives import CosMoLoss, GroupInfoNCE

GOLDEN = {
    name.removeprefix("contrast."): torch.from_numpy(np.asarray(value))
    for name, value in np.load(Path(__file__).parents[1] / "golden" / "30-cosmo.npz").items()
    if name.startswith("contrast.")
}
close = {"rtol": 1e-7, "atol": 1e-10}


def made(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TEXT, IMAGE = made(6, 4), made(6, 4, seed=1)
LOGITS, LABELS = made(6, 3, 5, seed=2), torch.arange(18).view(6, 3) % 5
SCALE = torch.tensor(3.0, dtype=torch.float64)


def next_tokens(logits, labels):
    return cross_entropy(logits[:, :-1].reshape(-1, 5), labels[:, 1:].reshape(-1))


@pytest.mark.paper(30, "parity")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_golden_contrast(dtype):
    """From the hidden states of the text and the resampler's output, as the official head does it."""
    pool = QueryPool(8, heads=2, dim_head=4, ff_mult=2).double()
    names = {"text_attn.": "attention.", "text_ff.": "feed_forward.", "text_norm.gamma": "norm.weight"}
    names |= {"attention.norm_media": "attention.norm_x", "attention.norm_latents": "attention.norm_queries"}
    state = {"query": GOLDEN["query"]}
    for name, value in GOLDEN.items():
        if name.startswith("text_") and name.count(".") > 0 and "proj" not in name:
            own = name
            for theirs, ours in names.items():
                own = own.replace(theirs, ours)
            state[own] = value
    pool.load_state_dict(state)
    pool = pool.to(dtype)
    hidden, visual, theta = (
        GOLDEN[name].to(dtype, copy=True).requires_grad_() for name in ("text_hidden", "visual", "log_scale")
    )
    text = linear(pool(hidden), GOLDEN["text_proj.to_latents.weight"].to(dtype))
    image = linear(visual[:, :, 0].mean(1), GOLDEN["img_proj.to_latents.weight"].to(dtype))
    loss = CosMoLoss().contrast(text, image, theta.exp()[0])
    limits = close if dtype == torch.float64 else {"rtol": 2e-3, "atol": 1e-5}
    torch.testing.assert_close(loss.double(), GOLDEN["loss"], **limits)
    loss.backward()
    for x, name in ((hidden, "text_hidden"), (visual, "visual"), (theta, "log_scale")):
        torch.testing.assert_close(x.grad.double(), GOLDEN[f"grad_{name}"], **limits)
    assert (visual.grad[:, :, 1:] == 0).all()
    torch.testing.assert_close(CosMoLoss(theta=float(theta.detach())).contrast(text, image), loss)


def test_it_is_the_sum_of_captioning_and_contrast():
    written = next_tokens(LOGITS, LABELS)
    contrast = GroupInfoNCE(math.exp(-0.2))(TEXT, IMAGE)
    for weight in (0.0, 0.5, 1.0):
        torch.testing.assert_close(CosMoLoss(weight)(TEXT, IMAGE, LOGITS, LABELS), written + weight * contrast)


def test_only_pairs_are_contrasted_and_every_document_is_written():
    text, image, logits = (x.clone().requires_grad_() for x in (TEXT, IMAGE, LOGITS))
    pairs = torch.tensor([1, 0, 1, 1, 0, 1]).bool()
    loss = CosMoLoss()(text, image, logits, LABELS, SCALE, pairs)
    expected = CosMoLoss().contrast(TEXT[pairs], IMAGE[pairs], SCALE) + next_tokens(LOGITS, LABELS)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    for z in (text, image):
        assert (z.grad[~pairs] == 0).all()
        assert (z.grad[pairs].abs().sum(1) > 1e-4).all()
    assert (logits.grad[:, :-1].abs().sum((1, 2)) > 0).all()


@pytest.mark.parametrize("pairs", [0, 1])
def test_fewer_than_two_pairs_have_nothing_to_be_told_from(pairs):
    text = TEXT.clone().requires_grad_()
    kept = torch.arange(6) < pairs
    loss = CosMoLoss().contrast(text, IMAGE, SCALE, kept)
    assert loss == 0
    loss.backward()
    assert (text.grad == 0).all()
    assert CosMoLoss().contrast(TEXT[:1], IMAGE[:1]) == 0


def test_captions_that_say_the_same_are_no_negatives_of_each_other():
    captions = torch.tensor([7, 3, 7, 5, 3, 9])
    text, image = TEXT.clone().requires_grad_(), IMAGE.clone().requires_grad_()
    scores = normalize(text, dim=1) @ normalize(image, dim=1).T * SCALE
    same = (captions[:, None] == captions) & ~torch.eye(6, dtype=torch.bool)
    scores = scores.masked_fill(same, -math.inf)
    expected = sum(cross_entropy(s, torch.arange(6)) for s in (scores, scores.T)) / 2
    loss = CosMoLoss().contrast(text, image, SCALE, captions=captions)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, (text, image)) for x in (loss, expected)))
    different = CosMoLoss().contrast(text, image, SCALE, captions=torch.arange(6))
    torch.testing.assert_close(different, CosMoLoss().contrast(text, image, SCALE))
    assert loss < different


def test_where_all_captions_are_the_same_there_is_nothing_to_learn():
    text, image = TEXT.clone().requires_grad_(), IMAGE.clone().requires_grad_()
    loss = CosMoLoss().contrast(text, image, SCALE, captions=torch.ones(6, dtype=torch.int64))
    assert loss == 0
    loss.backward()
    for z in (text, image):
        assert (z.grad == 0).all()


def test_gradients():
    text, image, logits = (x[:4].clone().requires_grad_() for x in (TEXT, IMAGE, LOGITS))
    scale = SCALE.clone().requires_grad_()
    pairs, captions = torch.tensor([True, True, False, True]), torch.tensor([1, 2, 1, 1])
    assert torch.autograd.gradcheck(
        lambda *x: CosMoLoss()(x[0], x[1], x[2], LABELS[:4], x[3], pairs, captions), (text, image, logits, scale)
    )


def test_what_is_not_learned_and_nothing_at_all():
    logits, labels = LOGITS.clone().requires_grad_(), LABELS.clone()
    labels[:, 1] = -100
    loss = CosMoLoss(0)(TEXT, IMAGE, logits, labels)
    torch.testing.assert_close(loss, cross_entropy(LOGITS[:, 1], LABELS[:, 2]))
    loss.backward()
    assert (logits.grad[:, [0, 2]] == 0).all()
    nothing = CosMoLoss(0)(TEXT, IMAGE, logits, torch.full_like(labels, -100))
    assert nothing == 0
    logits.grad = None
    nothing.backward()
    assert (logits.grad == 0).all()
    with pytest.raises(ValueError, match=r"^logits, labels: expected \(B, L, V\) and \(B, L\) with L >= 2"):
        CosMoLoss()(TEXT, IMAGE, logits[:, :1], labels[:, :1])
    with pytest.raises(ValueError, match=r"^logits, labels: expected"):
        CosMoLoss()(TEXT, IMAGE, logits, labels[:, 1:])


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"image": IMAGE[:5]}, "image"),
        ({"text": TEXT * math.inf}, "text"),
        ({"scale": torch.tensor(0.0)}, "scale"),
        ({"pairs": torch.ones(5).bool()}, "pairs"),
        ({"captions": torch.ones(6)}, "captions"),
    ],
)
def test_what_is_refused(changed, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        CosMoLoss().contrast(**{"text": TEXT, "image": IMAGE, **changed})


@pytest.mark.parametrize(("options", "name"), [({"weight": -1}, "weight"), ({"theta": math.inf}, "theta")])
def test_options(options, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        CosMoLoss(**options)
