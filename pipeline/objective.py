"""From a batch to its loss."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from models.zoo import padded_logits
from pipeline.data import Batch
from pipeline.device import autocast
from pipeline.prepare import Preparation


@dataclass(frozen=True)
class Objective:
    """What training makes smaller."""

    forward: nn.Module
    """The network, perhaps compiled."""
    preparation: Preparation
    loss_fn: nn.Module
    device: torch.device
    dtype: torch.dtype | None
    """Autocast type; None: float32."""
    channels_last: bool = True
    """The memory layout of images; the layers between keep to it."""

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """What training changes: found once, since that takes a walk through all layers."""
        return list(self.forward.parameters())

    def loss(self, batch: Batch) -> torch.Tensor:
        """A scalar on the device: the mean over the batch's valid pixels."""
        return self.loss_of(self.logits(self.image(batch.pixels_NHWB)), batch)

    def image(self, pixels_NHWB: torch.Tensor) -> torch.Tensor:
        """(N, channels, H, W) float32 on the device: pixels as the network sees them."""
        image_NCHW = self.preparation(pixels_NHWB.to(self.device, non_blocking=True))
        return image_NCHW if self.channels_last else image_NCHW.contiguous()

    def logits(self, image_NCHW: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) float32, computed in `dtype`."""
        with autocast(self.device, self.dtype):
            logits_NCHW = padded_logits(self.forward, image_NCHW)
        return logits_NCHW.float()

    def loss_of(self, logits_NCHW: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The loss of logits that the batch gave."""
        target_NHW = batch.target_NHW.to(self.device, torch.int64, non_blocking=True)
        if batch.second_NHW is None:
            return self.loss_fn(logits_NCHW, target_NHW)
        second_NHW = batch.second_NHW.to(self.device, torch.int64, non_blocking=True)
        share_N = batch.share_N.to(self.device, non_blocking=True)
        return self.loss_fn(logits_NCHW, target_NHW, second_NHW, share_N)
