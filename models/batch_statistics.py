"""The means and variances that batch norms apply at prediction, taken anew of some images."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from models.zoo import padded_logits


def batch_norms(network: nn.Module) -> list[nn.Module]:
    """The layers of a network that keep statistics of what they have seen."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    return [layer for layer in layers if layer.track_running_stats]


@torch.no_grad()
def update_batch_statistics(network: nn.Module, batches: Iterable[Tensor], share: float = 1.0) -> None:
    """Set the mean and variance of all batch norms to those of some images, in place.

    Of all images together, whatever batches they come in: the mean of what a layer is given, and its variance, between
    batches too (Chan et al. 1979). torch's `update_bn` takes the mean of the batches' own variances, which is less by
    what differs from batch to batch, most of all in small ones; and it has dropout on, which prediction has not. While
    they are taken each layer works by its batch, as in training: by batches of two they come out other than by many.

    Args:
        batches: prepared images (N, C, H, W) on the network's device, two or more at once.
        share: of the new statistics in what is set; the rest is of those that were there (Schneider et al. 2020).
    """
    layers = batch_norms(network)
    if not layers:
        return
    was_training = network.training
    momenta = [layer.momentum for layer in layers]
    seen = [_Moments() for _ in layers]
    hooks = [
        layer.register_forward_pre_hook(lambda layer, given, moments=moments: moments.add(given[0]))
        for layer, moments in zip(layers, seen, strict=True)
    ]
    network.eval()
    for layer in layers:
        layer.num_batches_tracked.zero_()
        layer.train()
        # Its own statistics stay as they are. Without a momentum it would ask its device how many batches it has seen,
        # and the host would wait for the answer.
        layer.momentum = 0.0
    for image_NCHW in batches:
        padded_logits(network, image_NCHW)  # as in training: a tile's side may be no multiple of the network's
    for layer, momentum, moments, hook in zip(layers, momenta, seen, hooks, strict=True):
        hook.remove()
        layer.momentum = momentum
        if moments.count:  # some layers of an encoder go unused
            layer.running_mean.lerp_(moments.mean_C, share)
            layer.running_var.lerp_(moments.square_C / moments.count, share)
    network.train(was_training)


class _Moments:
    """Mean and summed squared deviation of what a layer was given, per channel, in float32 on its device."""

    def __init__(self) -> None:
        self.count = 0
        self.mean_C: Tensor | float = 0.0
        self.square_C: Tensor | float = 0.0

    def add(self, given: Tensor) -> None:
        """
        Args:
            given: (N, C) or (N, C, ...).
        """
        values_CP = given.detach().float().transpose(0, 1).flatten(1)
        new = values_CP.shape[1]
        var_C, mean_C = torch.var_mean(values_CP, 1, correction=0)
        step_C = mean_C - self.mean_C
        total = self.count + new
        self.mean_C = self.mean_C + step_C * (new / total)
        self.square_C = self.square_C + var_C * new + step_C.square() * (self.count * new / total)
        self.count = total
