"""Weights in the precision of the pass, cast once instead of at every pass."""

import copy

import torch
from segmentation_models_pytorch.encoders._efficientnet import Conv2dDynamicSamePadding, Conv2dStaticSamePadding
from timm.layers import Conv2dSame
from torch import nn

# Named, not whatever inherits from them: that may compute with its weights first, as timm's StdConv2d does.
CAST = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, Conv2dSame, Conv2dStaticSamePadding, Conv2dDynamicSamePadding)


def cast_weights(network: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """A copy of a network whose convolutions and linear layers hold their weights in `dtype`; itself for None, and
    where they do already.

    Under autocast its outputs are the same to the bit: autocast casts the weights of these layers, and forgets them
    when its block ends, which for prediction is after every batch.
    """
    if dtype is None or all(module.weight.dtype == dtype for module in network.modules() if type(module) in CAST):
        return network
    network = copy.deepcopy(network)
    for module in network.modules():
        if type(module) in CAST:
            module.to(dtype)
    return network
