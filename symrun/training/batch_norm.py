"""Batch norm on several processes: with the statistics of the whole batch, or of each share."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symrun import ranks
from symrun.errors import UsageError

AnyBatchNorm = nn.modules.batchnorm._BatchNorm
_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def batch_norms(model: nn.Module) -> list[AnyBatchNorm]:
    """The layers of batch norm in `model`."""
    return [layer for layer in model.modules() if isinstance(layer, AnyBatchNorm)]


def synchronised(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` with batch norm over the examples of all processes, in the same parameters and
    buffers under the same names.

    Error: UsageError for a layer that does more than torch's own, which would be lost.
    """
    made: dict[nn.Module, nn.Module] = {}
    for name, layer in list(model.named_modules(remove_duplicate=False)):
        if not isinstance(layer, AnyBatchNorm):
            continue
        if layer not in made:
            made[layer] = _converted(layer, name, device)
        parent, _, own = name.rpartition(".")
        if own:
            setattr(model.get_submodule(parent), own, made[layer])
    return made.get(model, model)


def _converted(layer: AnyBatchNorm, name: str, device: torch.device) -> nn.Module:
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks
    if type(layer) not in _PLAIN or hooks:
        has = "hooks" if hooks else f"a class of its own, {type(layer).__name__}"
        raise UsageError(f"{name} has {has}: train it with train.batch_norm=local")
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(layer)
        return converted
    return SyncBatchNorm.of(layer)


class SyncBatchNorm(AnyBatchNorm):
    """torch.nn.SyncBatchNorm on the CPU, which torch's own refuses.

    Inputs are [share of the batch, features, ...]. In evaluation mode it is BatchNorm.
    Assumes: each process has examples in every batch.
    """

    @classmethod
    def of(cls, layer: AnyBatchNorm) -> "SyncBatchNorm":
        sizes = layer.num_features, layer.eps, layer.momentum, layer.affine
        new = cls(*sizes, layer.track_running_stats).train(layer.training)
        new.weight, new.bias = layer.weight, layer.bias
        new.running_mean, new.running_var = layer.running_mean, layer.running_var
        new.num_batches_tracked = layer.num_batches_tracked
        return new

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        mean, variance, count = _statistics(input.detach())
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            share = self.momentum
            if share is None:  # the plain average over all batches
                share = 1 / float(self.num_batches_tracked)
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance * (count / (count - 1)), share)
        weight = self.weight if self.affine else torch.ones_like(mean)
        bias = self.bias if self.affine else torch.zeros_like(mean)
        normalised: Tensor = _Normalised.apply(input, weight, bias, mean, variance, count, self.eps)
        return normalised


def _statistics(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance (biased) of each feature over all processes, [features], and the count.

    They are put together from those of the shares, which no cancellation harms.
    Source: Chan, Golub, LeVeque 1983, eq. 2.1.
    """
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    others = [axis for axis in range(values.dim()) if axis != 1]
    variance, mean = torch.var_mean(values, others, correction=0)
    count = mean.new_full((1,), values.numel() // len(mean))
    shares = ranks.gathered(torch.cat([mean, variance, count]))
    means, variances, counts = shares.split([len(mean), len(mean), 1], dim=1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    variance = (counts * (variances + (means - mean) ** 2)).sum(0) / total
    return mean, variance, total


class _Normalised(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, whose gradient knows that mean and
    variance are those of all processes' x."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(input, weight, mean, variance, count)
        ctx.eps = eps
        return F.batch_norm(input, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """With h = (x - mean) / std and dy the gradient of the output,
        dx = weight / std * (dy - sum(dy) / count - h * sum(dy * h) / count), sums over all.

        Source: Ioffe, Szegedy 2015, section 3.
        """
        input, weight, mean, variance, count = ctx.saved_tensors
        # As if mean and variance were constants: weight / std * dy, sum(dy * h), sum(dy)
        direct, d_weight, d_bias = torch.ops.aten.native_batch_norm_backward(
            *(gradients[0], input, weight, mean, variance, None, None, False, ctx.eps),
            [True, True, True],
        )
        sums = torch.stack([d_bias, d_weight])
        ranks.add_up(sums)
        scale = (variance + ctx.eps).rsqrt()
        slope = -weight * scale**2 * sums[1] / count
        offset = -weight * scale * sums[0] / count - slope * mean
        shape = [1, -1, *[1] * (input.dim() - 2)]
        direct.addcmul_(input, slope.view(shape)).add_(offset.view(shape))
        return direct, d_weight, d_bias, None, None, None, None
