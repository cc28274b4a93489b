"""CosMo: Contrastive Streamlined Multimodal Model with Interleaved Pre-Training (Wang et al., 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from counterpoint.encoders import MultimodalEncoder
from counterpoint.encoders.cosmo import CosMoEncoder
from counterpoint.encoders.interleaved import IGNORED, VISUAL, Interleaved, plain_text, row_numbers
from counterpoint.findings import Captions
from counterpoint.methods.base import Recipe
from counterpoint.methods.multimodal._figures import written_captions
from counterpoint.methods.multimodal._multimodal import LogitScale, Multimodal, View
from counterpoint.mining import Grouping
from counterpoint.objectives import CosMoLoss
from counterpoint.objectives.inputs import positive

_SHOWN, _LONGEST = 8, 16  # documents that are shown, and tokens written of each


class CosMo(Multimodal):
    """A frozen language model learns to look: it writes about pictures, and captions and pictures find each other.

    Everything becomes one string of tokens, ``<s> [text] <visual> text <|endofchunk|> <visual> ... </s>``: a pair of
    image and text has one picture, a document of :class:`counterpoint.data.InterleavedDataset` several. A resampler
    makes a few tokens of each picture; the first half of the language model reads text alone and gives the text's
    vector; before every second block of the other half a gated block lets the words look at the picture before them.
    Of all rows the next tokens are learned, and of plain pairs the contrast as well.

    Args:
        encoder: towers, of which the first for images and the first for texts are taken. The text tower is the language
            model: a transformer trained from scratch, or ``hf:`` a causal model such as GPT-2 or OPT. A
            :class:`~counterpoint.encoders.cosmo.CosMoEncoder` goes on as it is.
        views: of images; as they are by default, since the vision encoder of the paper is frozen.
        recipe: see :class:`~counterpoint.methods.base.Method`. The learning rate's schedule begins anew when the
            language model is done.
            (The paper: AdamW, 5e-4 with 500 steps of warm-up.)
        dim: D of the contrast; 128 here, 512 in the paper.
        head: linear, as in the paper.
        freeze: names of towers whose encoders stay as they are. The paper freezes both: its vision encoder is CLIP's,
            its language model OPT-IML or the like. A vision encoder that is not frozen is trained along.
        language_share: share of the steps in which a language model that is trained from scratch learns the texts,
            before it is frozen; 0.3, ours. ``None``: this, or 0 for one that is pretrained, or frozen, or has been
            trained by this method. It learns every token then, ``<visual>`` too, where the paper's two new tokens keep
            the weights that they begin with.
        contrastive_weight: 1; 0 trains a captioning model and nothing else.
        theta: logarithm of the factor of the cosines at the start: 0.2, the official code's, which is very soft. (CLIP:
            2.7.) It is learned, and kept to at most 100.
        duplicates: whether pictures whose captions are the same are negatives of each other all the same, as in the
            official code.
        unimodal_depth, interval, compress_ratio, only_immediate: of the language model, see
            :class:`~counterpoint.encoders.language_tower.LanguageTower`.
        num_latents, resampler_depth, heads, dim_head, qk_norm: of the resampler and the attention, see
            :class:`~counterpoint.encoders.cosmo.CosMoEncoder`.
        ratio: batches of pairs and of documents, each of one kind, so that the contrast is among as many pairs as a
            batch has. The paper's, without its videos, is ``[2, 2]``: two batches of pairs to two of documents, however
            many there are of either. (It has 2 : 1 : 2 : 2 of pairs of images, pairs of videos, documents of images and
            documents of videos.) ``None``: a batch is drawn from all rows, and the contrast is among the pairs in it.
        length: tokens of a document at most; 128, the paper's.
        images: pictures of a document at most; 3, the paper's.
        clip: gradients are scaled down to this length, all together; 1, the official code's.
        compat: see :class:`~counterpoint.encoders.language_tower.LanguageTower`.

    The image vector of a document with several pictures is their mean, over those that are there; the official one
    counts empty slots too. Rows without a text are left out; of rows without a picture nothing is learned but, while
    the language model is trained, their text.

    :meth:`generate` writes about pictures, with examples in the prompt or without; a run's scores say how good its
    captions are.

    Raises:
        ValueError: as the encoder; a share outside [0, 1); a ratio that is no two numbers from 0, one above 0.

    Reference: arXiv 2401.00849; official code: showlab/cosmo.

    Relations: with ``contrastive_weight=0`` a Flamingo; CoCa trains its decoder too, and reads the text's vector from a
    token of its own.
    """

    auto_views = "none"
    paired = False

    def __init__(
        self,
        encoder: MultimodalEncoder,
        views: Any = None,
        recipe: Recipe | None = None,
        dim: int = 128,
        head: str = "linear",
        freeze: Sequence[str] = (),
        language_share: float | None = None,
        contrastive_weight: float = 1.0,
        theta: float = 0.2,
        duplicates: bool = False,
        unimodal_depth: int | None = None,
        interval: int = 2,
        compress_ratio: int = 2,
        only_immediate: bool = True,
        num_latents: int = 16,
        resampler_depth: int = 2,
        heads: int = 4,
        dim_head: int = 32,
        qk_norm: bool = False,
        ratio: Sequence[int] | None = None,
        length: int = 128,
        images: int = 3,
        clip: float = 1.0,
        compat: str | None = None,
    ) -> None:
        trained = isinstance(encoder, CosMoEncoder)
        if not isinstance(encoder, CosMoEncoder):
            encoder = CosMoEncoder(
                encoder, num_latents=num_latents, resampler_depth=resampler_depth, heads=heads, dim_head=dim_head,
                qk_norm=qk_norm, unimodal_depth=unimodal_depth, interval=interval, compress_ratio=compress_ratio,
                only_immediate=only_immediate, length=length, images=images, compat=compat,
            )  # fmt: skip
        super().__init__(encoder, views, recipe, dim, head, freeze)
        self.image, self.written = encoder.image, encoder.text
        language = encoder.language
        pretrained = trained or language.frozen or language.encoder.config["name"] == "hf"
        share = (0.0 if pretrained else 0.3) if language_share is None else language_share
        if not 0 <= share < 1:
            raise ValueError(f"language_share: expected a number from 0 to below 1, got {share}")
        if share and language.frozen:
            raise ValueError(f"language_share: {share} of the steps would train a language model that is frozen")
        positive(clip=clip)
        if ratio is not None and (len(ratio) != 2 or min(ratio) < 0 or not sum(ratio)):
            raise ValueError(f"ratio: expected batches of pairs and of documents, such as [2, 2], got {ratio}")
        self.clip, self.ratio = clip, ratio
        self.kinds: Tensor | None = None  # of each item: 0 a pair, 1 a document
        self.language_share, self.duplicates = share, duplicates
        self.objective = CosMoLoss(contrastive_weight)
        self.scale = LogitScale(math.exp(theta), learn=contrastive_weight > 0)
        if not share:
            language.freeze()
        if not contrastive_weight:  # what only the contrast would train, processes need not look for
            for part in (language.pool, *(tower.head for tower in encoder.towers.values())):
                part.requires_grad_(False)

    @property
    def model(self) -> CosMoEncoder:
        """The encoder under the name of its kind."""
        return self.encoder  # type: ignore[return-value]

    @property
    def learning_language(self) -> bool:
        """Whether this step trains the language model, and nothing else."""
        return self._trainer is not None and self.trainer.global_step < self._language_steps

    @property
    def _language_steps(self) -> int:
        return round(self.language_share * self.trainer.estimated_stepping_batches)

    @property
    def _several(self) -> bool:
        """Whether processes train together: then each has to find a gradient for all that was trainable at first."""
        return self._trainer is not None and self.trainer.world_size > 1

    def prepare(self, dataset: Any, indices: Any) -> None:
        if self.ratio is not None and hasattr(dataset, "pairs"):
            self.kinds = torch.from_numpy(~dataset.pairs).long()

    def grouping(self) -> Grouping | None:
        if self.kinds is None or self.ratio is None:
            return None
        return Grouping(self.kinds, weights=dict(enumerate(self.ratio)))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.language_share:
            learning = self.learning_language
            for parameter in self.model.language.encoder.parameters():
                parameter.requires_grad_(learning or self._several)
            if not learning:
                self.model.language.encoder.eval()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.language_share and self._several:  # what does not learn now must not decay either
            own = {id(parameter) for parameter in self.model.language.encoder.parameters()}
            for parameter in self.parameters():
                if (id(parameter) in own) != self.learning_language:
                    parameter.grad = None

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **named: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=self.clip, gradient_clip_algorithm="norm")

    def configure_optimizers(self) -> Any:
        total, first = int(self.trainer.estimated_stepping_batches), self._language_steps
        starts = (0, first) if 0 < first < total else (0,)
        optimizer, schedule = self.recipe.optimizers(self, max(1, total), starts)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def loss(self, views: Sequence[View], batch: dict[str, Any]) -> Tensor:
        idle = self.nothing({}) if self._several else 0.0
        documents, pictures, there, pairs = self._documents(views[0], batch)
        if self.learning_language:
            ids, mask = documents.input_ids, documents.attention_mask
            logits, _ = self.model.language.write(ids, mask)
            return self.objective.written(logits, ids.masked_fill(~mask, IGNORED)) + idle
        found = self.model.read_and_write(documents, pictures, there)
        same = None if self.duplicates else row_numbers(documents.input_ids, documents.labels != IGNORED)
        if self.watching and int(pairs.sum()) > 1:
            self.watch_batch(found["text"][pairs], found["image"][pairs])
        terms = self.objective.terms(
            found["text"], found["image"], found["logits"], documents.labels, self.scale(), pairs, same
        )
        return self.total(**terms) + idle

    def _documents(self, view: View, batch: dict[str, Any]) -> tuple[Interleaved, Tensor, Tensor, Tensor]:
        """Documents, their pictures (B, T, C, H, W), which of these are there, and which rows are plain pairs."""
        model, image = self.model, view[self.model.image]
        seen = self.both(batch, model.image)
        seen = torch.ones(len(image), dtype=torch.bool, device=image.device) if seen is None else seen.to(image.device)
        texts = [plain_text(text) for text in view[model.text]]
        if "document" in batch:
            written, pictures = list(batch["document"]), self._pictures(batch["pictures"])
            there, pairs = batch["shown"], batch["pair"]
        else:
            written = [f"{VISUAL} {text}" if has else text for text, has in zip(texts, seen.tolist(), strict=True)]
            pictures, there, pairs = image[:, None], seen[:, None], seen
        kept = torch.tensor([bool(text.replace(VISUAL, "").strip()) for text in written], device=image.device)
        if not bool(kept.all()):
            if not bool(kept.any()):
                raise ValueError(f"{model.text}: none of the {len(written)} items of a batch has a text")
            written = [text for text, has in zip(written, kept.tolist(), strict=True) if has]
            pictures, there, pairs = pictures[kept], there[kept], pairs[kept]
        return model.language.documents(written), pictures, there, pairs

    def _pictures(self, pictures: Tensor) -> Tensor:
        """Views of the pictures of documents (B, T, C, H, W), as those of images."""
        if self.views is None:
            return pictures
        views: Any = self.views
        return views({self.model.image: pictures.flatten(0, 1)}, [self.model.image])[0][self.model.image].unflatten(
            0, pictures.shape[:2]
        )

    def after_step(self) -> None:
        self.scale.clamp()

    def findings(self, dataset: Any, indices: Any) -> Sequence[Any]:
        found, batch = list(super().findings(dataset, indices)), dataset[indices]
        if "pair" not in batch:
            return [*found, *written_captions(self, dataset, indices, self.image, self.written)]
        pairs = batch["pair"].numpy()
        found += written_captions(self, dataset, indices[pairs], self.image, self.written)
        return [*found, *self._after_examples(dataset, indices[~pairs & batch["shown"][:, 1:].any(1).numpy()])]

    def _after_examples(self, dataset: Any, indices: Any) -> list[Captions]:
        """What is written about the last picture of documents that have several, with all that stands before it."""
        batch = dataset[indices[:_SHOWN]]
        if not len(batch["document"]):
            return []
        kept = [
            VISUAL.join(text.split(VISUAL)[: self.model.language.collator.images + 1]) for text in batch["document"]
        ]
        before, own = zip(*(text.rsplit(VISUAL, 1) for text in kept), strict=True)
        last = torch.tensor([text.count(VISUAL) - 1 for text in kept]).clamp(max=batch["pictures"].shape[1] - 1)
        images = batch["pictures"][torch.arange(len(kept)), last].permute(0, 2, 3, 1).numpy()
        written = self.generate(batch["pictures"], [f"{text}{VISUAL}" for text in before], length=_LONGEST)
        rows = [
            [" ".join(text.replace(VISUAL, " | ").split()), answer or "(nothing)", said.strip()]
            for text, answer, said in zip(before, written, own, strict=True)
        ]
        about = (
            "What the model writes of the last picture of test documents after the text before it, and what follows."
        )
        shown = images if images.shape[-1] in (1, 3) else None
        return [Captions("After examples", about, rows, ["before", "written", "its own"], shown)]

    def write(self, batch: Mapping[str, Any]) -> list[str] | None:
        """Captions of a batch's images, without examples, the most probable word each time.

        ``None`` where some of them are documents, whose text is not that of one picture.
        """
        if "pair" in batch and not bool(batch["pair"].all()):
            return None
        return self.generate(batch[self.image])

    @torch.no_grad()
    def token_predictions(self, images: Tensor, texts: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """The most probable tokens (B, L - 1) of captions, the right ones so far shown, and the right ones.

        Where a caption has none, such as at padding, the right one is -100.
        """
        documents = self.model.language.documents([f"{VISUAL} {plain_text(text)}" for text in texts])
        logits = self.model.read_and_write(documents, images[:, None])["logits"]
        return logits[:, :-1].argmax(2), documents.labels[:, 1:]

    def generate(self, pictures: Tensor, prompts: Sequence[str] | None = None, **how: Any) -> list[str]:
        """Write about pictures; see :meth:`counterpoint.encoders.cosmo.CosMoEncoder.generate`."""
        return self.model.generate(pictures, prompts, **how)
