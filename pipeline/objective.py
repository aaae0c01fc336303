"""From a batch to its loss."""

from dataclasses import dataclass

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

    def loss(self, batch: Batch) -> torch.Tensor:
        """A scalar on the device: the mean over the batch's valid pixels."""
        image_NCHW = self.preparation(batch.pixels_NHWB.to(self.device, non_blocking=True))
        return self.loss_of(self.logits(image_NCHW), batch)

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
