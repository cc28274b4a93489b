"""Looking into a network: what its layers put out, on the way from a view to the embedding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_NO_LAYERS = (nn.Identity, nn.Dropout, nn.Flatten, nn.modules.batchnorm._NormBase, nn.LayerNorm)


def stages(backbone: nn.Module) -> dict[str, nn.Module]:
    """The named stages of a backbone, in the order in which a view passes them.

    Ours end a stage with each ReLU of their ``layers``; timm's models say themselves what their stages are
    (``feature_info``); of others none is known.
    """
    info = getattr(backbone, "feature_info", None)
    if isinstance(info, list):
        modules = dict(backbone.named_modules())
        return {entry["module"]: modules[entry["module"]] for entry in info if entry["module"] in modules}
    layers = getattr(backbone, "layers", None)
    ends = [layer for layer in layers if isinstance(layer, nn.ReLU)] if isinstance(layers, nn.Sequential) else []
    return {f"stage {i}": layer for i, layer in enumerate(ends, 1)}


def head_layers(head: nn.Module) -> dict[str, nn.Module]:
    """The layers of a projection head that compute something: all leaves but norms, dropout and identities."""
    leaves = [m for m in head.modules() if not any(m.children()) and not isinstance(m, _NO_LAYERS)]
    return {f"head {i}: {type(layer).__name__}": layer for i, layer in enumerate(leaves, 1)}


@contextmanager
def recorded(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """While the block runs, the last output of each module as a vector an item, float32 (B, D), by name.

    Maps are averaged over their places, sequences over their tokens; what is no tensor is left out.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs[name] = _pooled(output.detach()).float().clone()  # a ReLU may work in place on it

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _pooled(x: Tensor) -> Tensor:
    """(B, C, H, W) and (B, T, C) to (B, C); (B, H, W, C) too, told by its two equal middle sides."""
    if x.ndim == 3:
        return x.mean(1)
    if x.ndim == 4:
        last = x.shape[1] == x.shape[2] != x.shape[3]
        return x.mean((1, 2) if last else (2, 3))
    return torch.flatten(x, 1)
