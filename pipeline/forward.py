"""Pixels -> probabilities by a trained member: the one path for validation, OOF, test and foreign images."""

from collections import deque
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import nn

from config.ensemble import Predict
from models.zoo import padded_logits
from pipeline.device import autocast, autocast_dtype
from pipeline.members import LoadedMember
from pipeline.pack import read_rows
from pipeline.pixels import PixelScale, stretched
from pipeline.prepare import Preparation
from pipeline.tta import build_views, predict_probs


def member_probs(
    loaded: LoadedMember,
    pixels_NHWB: np.ndarray,
    tile_N: np.ndarray,
    settings: Predict,
    precision: str,
    device: torch.device,
) -> Iterator[np.ndarray]:
    """`forward_probs` of a member: with several kinds of weights, the mean of their probabilities."""
    streams = [
        forward_probs(network, loaded.preparation, pixels_NHWB, tile_N, settings, precision, device)
        for network in loaded.networks
    ]
    for probs in zip(*streams, strict=True):
        yield probs[0] if len(probs) == 1 else np.mean(probs, axis=0)


def forward_probs(
    network: nn.Module,
    preparation: Preparation,
    pixels_NHWB: np.ndarray,
    tile_N: np.ndarray,
    settings: Predict,
    precision: str,
    device: torch.device,
) -> Iterator[np.ndarray]:
    """Probabilities of tiles, batch by batch: (n, C, H, W) float32, views averaged.

    Args:
        network: in eval mode, on the device.
        pixels_NHWB: an array or memory map; only the rows `tile_N` are read, in that order.
    """
    dtype = autocast_dtype(precision, device)
    views = build_views(settings)
    forward = partial(padded_logits, network)
    tiles_at_once = max(1, settings.batch // (len(views) * (1 + len(settings.stretch))))
    behind = 1 if device.type == "cuda" else 0  # a GPU works on the next batch while this one is taken away
    on_the_way: deque[ToHost] = deque()
    for first in range(0, len(tile_N), tiles_at_once):
        pictures = pictures_of(read_rows(pixels_NHWB, tile_N[first : first + tiles_at_once]), preparation, settings)
        with torch.inference_mode(), autocast(device, dtype):
            images = [preparation(_to_device(picture, device)) for picture in pictures]
            on_the_way.append(ToHost(predict_probs(forward, images, views, settings.merge, settings.batch)))
        if len(on_the_way) > behind:
            yield on_the_way.popleft().array()
    while on_the_way:
        yield on_the_way.popleft().array()


class ToHost:
    """A tensor on its way from the device to an array of the host."""

    def __init__(self, values: torch.Tensor) -> None:
        self.arrived = None
        self.host = values
        if values.is_cuda:
            self.host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self.host.copy_(values, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record()

    def array(self) -> np.ndarray:
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.host.numpy()


def _to_device(pixels_NHWB: np.ndarray, device: torch.device) -> torch.Tensor:
    pixels = torch.from_numpy(pixels_NHWB)
    # From pinned memory the copy waits its turn on the device, and not the host for the device.
    return pixels.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else pixels.to(device)


def pictures_of(pixels_NHWB: np.ndarray, preparation: Preparation, settings: Predict) -> list[np.ndarray]:
    """The tiles as they are, and stretched by each of `predict.stretch`."""
    scale = PixelScale.of(pixels_NHWB.dtype, np.array(preparation.mean), np.array(preparation.std))
    return [pixels_NHWB] + [
        np.stack([stretched(pixels_HWB, percent, scale) for pixels_HWB in pixels_NHWB]) for percent in settings.stretch
    ]
