"""A denoising diffusion model (Ho, Jain & Abbeel, NeurIPS 2020), of the parts that diffusers has for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from counterpoint.encoders import EMA
from counterpoint.files import atomic, write_json
from counterpoint.methods import Recipe

_LOWEST = 4  # pixels: side below which the network does not halve
_MOST_LEVELS = 4
_ATTENTION = 16  # pixels: side up to which there is attention (Ho et al., appendix B)
_GROUPS = 8


class Diffusion(lightning.LightningModule):
    """A U-Net learns to tell the noise in a picture; a picture is drawn by removing noise step by step.

    For uniform ``t`` and Gaussian ``e`` the loss is ``|e - unet(sqrt(abar_t) x + sqrt(1 - abar_t) e, t)|^2``, the
    simplified one of the paper (equation 14). Pictures are drawn with an average of the weights over the steps and by
    DDIM (Song, Meng & Ermon, ICLR 2021), without further noise, in a few dozen steps of the thousand.

    The network has as many levels as halve the picture down to 4 pixels, up to four. A side that cannot be halved that
    often is padded with its edge, and the margin is cut off what is drawn.

    Args:
        shape: of an image, (C, H, W).
        widths: channels of each level, multiples of 8; ``None`` is (32, 64, 64, 128) as far as there are levels. The
            paper's network for CIFAR-10 has (128, 256, 256, 256).
        layers: residual blocks of each level. Default 1; the paper has 2.
        timesteps: of the diffusion, 1,000 as in the paper, with the cosine schedule of Nichol & Dhariwal (2021), which
            leaves small pictures some of their noise levels where the linear one ends them early.
        steps: of the optimiser. Default 4,000, which suits digits; 32x32 photographs want 50,000 and more.
        batch_size: 128, the paper's.
        lr: 5e-4 of AdamW, falling by a cosine. The paper has 2e-4 for a far larger network.
        momentum: of the average of the weights: 0.999, less in the first steps. The paper's 0.9999 is for 800,000.
        sampling_steps: of DDIM. Default 50.

    Raises:
        ImportError: without diffusers.
        ValueError: data that are no images, or a number out of range.
    """

    trains_by_steps = True

    def __init__(
        self,
        shape: Sequence[int],
        widths: Sequence[int] | None = None,
        layers: int = 1,
        timesteps: int = 1000,
        steps: int = 4000,
        batch_size: int = 128,
        lr: float = 5e-4,
        momentum: float = 0.999,
        sampling_steps: int = 50,
    ) -> None:
        super().__init__()
        try:
            from diffusers import DDPMScheduler, UNet2DModel
        except ImportError as error:
            raise ImportError("method: 'diffusion' needs: pip install 'counterpoint[diffusion]'") from error
        if len(shape) != 3:
            raise ValueError(
                f"data: diffusion draws images, and the items are vectors {tuple(shape)}; 'gmm' takes them"
            )
        numbers = {"layers": layers, "timesteps": timesteps, "steps": steps, "batch_size": batch_size}
        for name, value in {**numbers, "sampling_steps": sampling_steps}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        if sampling_steps > timesteps:
            raise ValueError(f"sampling_steps: expected at most timesteps={timesteps}, got {sampling_steps}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: expected a number from 0 to below 1, got {momentum}")
        self.shape = tuple(shape)
        self.widths = _widths(self.shape, widths)
        self.layers, self.timesteps, self.momentum, self.sampling_steps = layers, timesteps, momentum, sampling_steps
        self.steps, self.batch_size, self.recipe = steps, batch_size, Recipe("adamw", lr, 0.0, "cosine", 0.05)
        unit = 2 ** (len(self.widths) - 1)
        height, width = (-(-side // unit) * unit for side in self.shape[1:])
        self.margin = (0, width - self.shape[2], 0, height - self.shape[1])
        attends = [level > 0 and _LOWEST < height // 2**level <= _ATTENTION for level in range(len(self.widths))]
        unet: Any = UNet2DModel(
            sample_size=(height, width),
            in_channels=self.shape[0],
            out_channels=self.shape[0],
            block_out_channels=self.widths,
            layers_per_block=layers,
            down_block_types=tuple("AttnDownBlock2D" if on else "DownBlock2D" for on in attends),
            up_block_types=tuple("AttnUpBlock2D" if on else "UpBlock2D" for on in reversed(attends)),
            attention_head_dim=min(32, *self.widths),
            norm_num_groups=_GROUPS,
        )
        self.unet: nn.Module = unet
        self.average = EMA(unet)
        self.schedule: Any = DDPMScheduler(timesteps, beta_schedule="squaredcos_cap_v2", prediction_type="epsilon")

    @property
    def config(self) -> dict[str, Any]:
        """What makes it anew."""
        names = ("layers", "timesteps", "steps", "batch_size", "momentum", "sampling_steps")
        own = {name: getattr(self, name) for name in names}
        return {"shape": list(self.shape), "widths": list(self.widths), **own, "lr": self.recipe.lr}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        x = nn.functional.pad(batch["image"].float() / 127.5 - 1, self.margin, mode="replicate")
        noise = torch.randn_like(x)
        t = torch.randint(self.timesteps, (len(x),), device=x.device)
        found = self.unet(self.schedule.add_noise(x, noise, t), t).sample
        return nn.functional.mse_loss(found.float(), noise)

    def configure_optimizers(self) -> Any:
        optimizer, schedule = self.recipe.optimizers(self.unet, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        super().optimizer_step(*arguments, **named)
        done = self.trainer.global_step
        self.average.update(self.unet, min(self.momentum, (1 + done) / (10 + done)))

    @torch.inference_mode()
    def sample(self, count: int, seed: Sequence[int]) -> np.ndarray:
        """``count`` new images ``(count, C, H, W)`` as float32 in [0, 1]. A function of ``seed``."""
        from diffusers import DDIMScheduler

        schedule = DDIMScheduler.from_config(self.schedule.config, timestep_spacing="trailing")
        schedule.set_timesteps(self.sampling_steps)
        made = torch.Generator().manual_seed(int(np.random.SeedSequence(list(seed)).generate_state(1)[0]))
        side = (self.shape[1] + self.margin[3], self.shape[2] + self.margin[1])
        x = torch.randn(count, self.shape[0], *side, generator=made).to(self.device)
        for t in schedule.timesteps:
            x = schedule.step(self.average(x, t.to(self.device)).sample.float(), t, x).prev_sample
        x = x[:, :, : self.shape[1], : self.shape[2]]
        return ((x + 1) / 2).clamp(0, 1).cpu().numpy()

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``: the averaged weights, with which pictures are drawn."""
        from safetensors.torch import save

        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.detach().cpu().contiguous() for name, value in self.average.teacher.state_dict().items()}
        with atomic(folder / "model.safetensors") as file:
            file.write(save(state))
        write_json(folder / "config.json", {"method": "diffusion", **self.config})

    @classmethod
    def load(cls, folder: Path) -> Diffusion:
        """Read what :meth:`save` wrote, ready to draw."""
        from safetensors.torch import load_file

        config = json.loads((folder / "config.json").read_text("utf-8"))
        config.pop("method")
        made = cls(**config)
        made.average.teacher.load_state_dict(load_file(folder / "model.safetensors"))
        return made.eval()


def _widths(shape: tuple[int, ...], widths: Sequence[int] | None) -> tuple[int, ...]:
    side, levels = min(shape[1:]), 1
    while levels < _MOST_LEVELS and side / 2**levels >= _LOWEST:
        levels += 1
    if widths is None:
        return (32, 64, 64, 128)[:levels]
    if not widths or any(width < _GROUPS or width % _GROUPS for width in widths):
        raise ValueError(f"widths: expected multiples of {_GROUPS}, one for each level, got {list(widths)}")
    if len(widths) > levels:
        raise ValueError(f"widths: images of {shape[1]}x{shape[2]} have up to {levels} levels, got {list(widths)}")
    return tuple(widths)
