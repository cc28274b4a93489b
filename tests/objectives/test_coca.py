"""CoCa's loss: open_clip's and lucidrains' figures, padding, the shift, single pairs, weights of 0, and refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from counterpoint.objectives import CaptionLoss, CoCaLoss, GroupInfoNCE

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "58-coca.npz")


def golden(name):
    return torch.from_numpy(GOLDEN[name])


def batch(items=4, length=5, dim=6, words=7, seed=0, dtype=torch.float64):
    made = torch.Generator().manual_seed(seed)
    image, text = (torch.randn(items, dim, generator=made, dtype=dtype) for _ in range(2))
    logits = torch.randn(items, length, words, generator=made, dtype=dtype)
    labels = torch.randint(1, words, (items, length), generator=made)
    labels[0, 2:] = 0
    return [*(x.requires_grad_() for x in (image, text, logits)), labels]


@pytest.mark.paper(58, "parity")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_golden_figures(dtype):
    names = ("image", "text", "logits")
    given = [golden(f"loss.{name}").to(dtype).requires_grad_() for name in names]
    weights = (float(golden(f"loss.{name}_weight")) for name in ("caption", "contrastive"))
    loss = CoCaLoss(*weights, int(golden("loss.pad_id")))
    scale = golden("loss.logit_scale").to(dtype)
    close = {"rtol": 1e-9, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 2e-3, "atol": 1e-5}
    terms = loss.terms(*given, golden("loss.labels"), scale)
    for name in ("contrastive", "caption"):
        torch.testing.assert_close(terms[name].double(), golden(f"loss.{name}_loss"), **close)
    value = loss(*given, golden("loss.labels"), scale)
    torch.testing.assert_close(value.double(), golden("loss.loss"), **close)
    value.backward()
    for name, x in zip(names, given, strict=True):
        expected = golden(f"loss.grad_{name}")
        if name != "logits":  # theirs takes unit vectors as they are; ours makes them, so that lengths have no gradient
            z = golden(f"loss.{name}")
            expected = expected - z * (z * expected).sum(1, keepdim=True)
        torch.testing.assert_close(x.grad.double(), expected, **close)


@pytest.mark.paper(58, "parity")
def test_the_loss_of_the_other_re_implementation():
    """From its embeddings and logits on; a whole text is shifted there as here."""
    loss = CoCaLoss(*(float(golden(f"whole.{name}_weight")) for name in ("caption", "contrastive")))
    scale = golden("whole.coca.temperature")[0].exp()
    latents = golden("whole.image_latent"), golden("whole.text_latent")
    terms = loss.terms(*latents, golden("whole.logits"), golden("whole.ids")[:, 1:], scale)
    torch.testing.assert_close(terms["caption"], 2 * golden("whole.caption_loss"))
    torch.testing.assert_close(terms["contrastive"], golden("whole.contrastive_loss"))
    value = loss(*latents, golden("whole.logits"), golden("whole.ids")[:, 1:], scale)
    torch.testing.assert_close(value, golden("whole.loss"), rtol=1e-9, atol=0)


def test_lengths_of_embeddings_do_not_matter():
    image, text, logits, labels = batch()
    loss = CoCaLoss()
    torch.testing.assert_close(loss(3 * image, text / 7, logits, labels), loss(image, text, logits, labels))


def test_the_caption_is_a_mean_over_all_tokens_that_are_no_padding():
    *_, logits, labels = batch()
    expected = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=0)
    torch.testing.assert_close(CaptionLoss()(logits, labels), expected)
    each, total = CaptionLoss(reduction="none")(logits, labels), CaptionLoss(reduction="sum")(logits, labels)
    assert each.shape == labels.shape
    assert (each[labels == 0] == 0).all()
    torch.testing.assert_close(each.sum(), total)
    torch.testing.assert_close(total / (labels != 0).sum(), expected)
    by_text = (each.sum(1) / (labels != 0).sum(1)).mean()
    assert not torch.isclose(by_text, expected)  # a mean of means would weigh short texts more


def test_what_stands_at_padding_does_not_matter():
    *_, logits, labels = batch()
    wild = logits.detach().clone()
    wild[labels == 0] = 50.0
    wild.requires_grad_()
    loss = CaptionLoss()(wild, labels)
    torch.testing.assert_close(loss, CaptionLoss()(logits, labels))
    loss.backward()
    assert (wild.grad[labels == 0] == 0).all()


def test_padding_of_another_number():
    *_, logits, labels = batch()
    torch.testing.assert_close(
        CaptionLoss(pad=-100)(logits, labels.masked_fill(labels == 0, -100)), CaptionLoss()(logits, labels)
    )
    with_zeros = CaptionLoss(pad=-100)(logits, labels)  # now 0 is a word
    torch.testing.assert_close(with_zeros, cross_entropy(logits.flatten(0, 1), labels.flatten()))


@pytest.mark.parametrize("pad", [0, -100])
def test_nothing_but_padding_costs_nothing_and_moves_nothing(pad):
    image, text, logits, labels = batch()
    caption = CaptionLoss(pad)(logits, torch.full_like(labels, pad))
    assert caption.item() == 0
    loss = CoCaLoss(pad=pad)(image, text, logits, torch.full_like(labels, pad))
    torch.testing.assert_close(loss, GroupInfoNCE()(image, text))
    loss.backward()
    assert (logits.grad == 0).all()


def test_shifting_twice_is_refused():
    """Logits of the words before and labels of a text that was shifted once more are of different lengths."""
    image, text, logits, labels = batch()
    with pytest.raises(ValueError, match=r"^labels: expected \(4, 5\) integers, one for each of logits, got \(4, 4\)"):
        CoCaLoss()(image, text, logits, labels[:, 1:])


def test_a_single_pair_has_no_contrast():
    image, text, logits, labels = batch(1)
    loss = CoCaLoss()(image, text, logits, labels)
    torch.testing.assert_close(loss, 2 * CaptionLoss()(logits, labels))
    loss.backward()
    assert (image.grad == 0).all()
    huge = torch.full((1, 4), 3e38)
    assert torch.isfinite(CoCaLoss(w_caption=0)(huge, huge))


def test_a_weight_of_0_leaves_its_term_out():
    image, text, logits, labels = batch()
    scale = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
    contrast, caption = CoCaLoss(w_caption=0, w_contrastive=3), CoCaLoss(w_contrastive=0)
    torch.testing.assert_close(contrast(image, text, scale=scale), 3 * GroupInfoNCE()(image, text, None, scale))
    alone = caption(logits=logits, labels=labels, scale=scale)
    torch.testing.assert_close(alone, 2 * CaptionLoss()(logits, labels))
    assert torch.autograd.grad(alone, scale, allow_unused=True) == (None,)
    assert list(contrast.terms(image, text)) == ["contrastive"]
    assert list(caption.terms(logits=logits, labels=labels)) == ["caption"]


def test_gradients_equal_finite_differences():
    *given, labels = batch(3, 3, 2, 4)
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda i, t, o, s: CoCaLoss()(i, t, o, labels, s), (*given, scale))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    *given, labels = batch(dtype=torch.float32)
    low = [x.detach().to(dtype) for x in given]
    found = CoCaLoss()(*low, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, CoCaLoss()(*(x.float() for x in low), labels))


def test_sure_of_the_wrong_word_is_finite():
    logits = torch.zeros(1, 2, 3)
    logits[..., 1] = 1e30
    logits.requires_grad_()
    loss = CaptionLoss()(logits, torch.tensor([[2, 1]]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


CHANGES = {
    "NaN among the logits": ({"logits": torch.full((4, 5, 7), float("nan"))}, "logits: 140 of 140 values are NaN"),
    "logits of two dimensions": ({"logits": torch.zeros(4, 7)}, "logits: expected"),
    "logits that are integers": ({"logits": torch.zeros(4, 5, 7).long()}, "logits: expected a floating-point"),
    "no logits": ({"logits": None}, "logits: expected a tensor"),
    "other labels": ({"labels": torch.ones(4, 4).long()}, "labels: expected"),
    "labels that are numbers": ({"labels": torch.ones(4, 5)}, "labels: expected"),
    "labels that are truths": ({"labels": torch.ones(4, 5).bool()}, "labels: expected"),
    "an unknown word": ({"labels": torch.full((4, 5), 7)}, "labels: expected 0 to 6"),
    "a word below": ({"labels": torch.full((4, 5), -100)}, "labels: expected 0 to 6"),
    "no image": ({"image": None}, "image: expected a tensor"),
    "an infinite image": ({"image": torch.full((4, 6), float("inf"))}, "image: 24 of 24 values"),
    "other texts": ({"text": torch.zeros(3, 6)}, "text: expected"),
    "a scale of 0": ({"scale": torch.tensor(0.0)}, "scale: expected"),
    "captions of other images": (
        {"logits": torch.zeros(3, 5, 7), "labels": torch.ones(3, 5).long()},
        "logits: expected 4",
    ),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_refusals(change, message):
    image, text, logits, labels = batch(dtype=torch.float32)
    given = {"image": image, "text": text, "logits": logits, "labels": labels, **change}
    with pytest.raises(ValueError, match=f"^{message}"):
        CoCaLoss()(**given)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"w_caption": -1.0}, "w_caption"),
        ({"w_contrastive": float("nan")}, "w_contrastive"),
        ({"w_caption": 0.0, "w_contrastive": 0.0}, "w_caption, w_contrastive"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_options_are_checked_when_they_are_given(options, argument):
    with pytest.raises(ValueError, match=f"^{argument}: expected"):
        CoCaLoss(**options)
