"""Batch normalisation over the items of all processes.

Under data-parallel training plain batch norm standardises each process's shard by its own mean and variance, so two
processes with half a batch each do not compute what one computes with the whole batch. (In contrastive learning it is
worse than noise: the statistics of a shard leak which views belong together; MoCo shuffles its batches against that.)
Here each process contributes count, mean and squared deviations of its shard, and all combine them into those of the
whole batch (Chan, Golub, LeVeque 1979), in one exchange each way and without the cancellation of sums of squares.

``torch.nn.SyncBatchNorm`` does the same on CUDA and refuses to run on a processor.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from counterpoint.pairwise.distributed import gather, is_distributed


def synchronize_batchnorm(module: nn.Module) -> nn.Module:
    """Let every BatchNorm1d and BatchNorm2d in ``module`` take its training statistics over all processes.

    The layers are changed in place and stay the objects they were, so that parameters, optimisers, hooks and the keys
    of the state dict stay valid. In evaluation, and in a single process, they compute what they did before. Like every
    collective operation, a training step then has to be taken by all processes together. ``nn.SyncBatchNorm`` layers
    are left as they are.

    Args:
        module: a module, or a single batch norm layer.

    Returns:
        ``module``.

    Raises:
        ValueError: a layer is a batch norm of another kind, which would silently go on with its own shard.
    """
    for name, layer in module.named_modules():
        if not isinstance(layer, _BatchNorm) or isinstance(layer, nn.SyncBatchNorm | _OverProcesses):
            continue
        if type(layer) not in _SYNCHRONIZED:
            raise ValueError(
                f"module: {name or 'it'} is a {type(layer).__name__}, which cannot be synchronised across processes; "
                "expected BatchNorm1d or BatchNorm2d: train in one process, or choose another encoder"
            )
        layer.__class__ = _SYNCHRONIZED[type(layer)]
    return module


class _OverProcesses(_BatchNorm):
    """The forward pass of a batch norm whose training statistics are over all processes."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not is_distributed():
            return super().forward(x)
        self._check_input_dim(x)
        count, mean, deviations = _whole(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x)
        if count <= 1:
            raise ValueError(f"x: expected more than 1 value per channel over all processes, got {tuple(x.shape)}")
        variance = deviations / count
        if self.track_running_stats:
            self._track(mean.detach(), deviations.detach() / (count - 1))
        scale = torch.rsqrt(variance + self.eps)
        scale = scale if self.weight is None else scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        spread = (-1, *[1] * (x.ndim - 2))
        return torch.addcmul(shift.view(spread), x, scale.view(spread)).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics as torch does: by ``momentum``, or as the mean over all steps without one."""
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        step = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running, seen in ((self.running_mean, mean), (self.running_var, variance)):
            assert running is not None
            running.lerp_(seen.to(running), step)


def _whole(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count (), mean (C,) and summed squared deviations (C,) of (B, C, ...) over all processes, with gradient."""
    dims = [dim for dim in range(x.ndim) if dim != 1]
    variance, mean = torch.var_mean(x, dim=dims, correction=0)
    count = x.new_full((1, 1), x.numel() // x.shape[1])
    counts, means, variances = gather(torch.cat([count, mean[None], variance[None]], 1)).split(
        [1, len(mean), len(mean)], 1
    )
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    return total, mean, (counts * (variances + (means - mean).square())).sum(0)


class _BatchNorm1d(_OverProcesses, nn.BatchNorm1d):
    pass


class _BatchNorm2d(_OverProcesses, nn.BatchNorm2d):
    pass


_SYNCHRONIZED: dict[type[nn.Module], type[_OverProcesses]] = {
    nn.BatchNorm1d: _BatchNorm1d,
    nn.BatchNorm2d: _BatchNorm2d,
}
