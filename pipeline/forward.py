"""Pixels -> probabilities by a trained member: the one path for validation, OOF, test and foreign images."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import nn

from config.ensemble import Predict
from models.casting import cast_weights
from models.zoo import padded_logits
from pipeline.device import autocast, autocast_dtype
from pipeline.outputs import Output, probabilities
from pipeline.pack import read_rows
from pipeline.pixels import PixelScale, stretched
from pipeline.prepare import Preparation
from pipeline.tta import build_views, predict_probs

AHEAD = 2  # batches of a GPU: read before they are asked for, and on their way while the next are computed


def forward_probs(
    networks: Sequence[nn.Module],
    preparation: Preparation,
    pixels_NHWB: np.ndarray,
    tile_N: np.ndarray,
    settings: Predict,
    precision: str,
    device: torch.device,
) -> Iterator[np.ndarray]:
    """Probabilities of tiles, batch by batch: (n, C, H, W) float32. Arguments as for `forward_outputs`."""
    args = networks, preparation, pixels_NHWB, tile_N, settings, precision, device
    for (probs_NCHW,) in forward_outputs(*args, probabilities):
        yield probs_NCHW


def forward_outputs(
    networks: Sequence[nn.Module],
    preparation: Preparation,
    pixels_NHWB: np.ndarray,
    tile_N: np.ndarray,
    settings: Predict,
    precision: str,
    device: torch.device,
    output: Output,
) -> Iterator[tuple[np.ndarray, ...]]:
    """What `output` makes of the probabilities of tiles, batch by batch, views and networks averaged.

    Args:
        networks: in eval mode, on the device: a member's, one for each kind of its weights.
        pixels_NHWB: an array or memory map; only the rows `tile_N` are read, in that order.
        output: is given (n, C, H, W) float32 on the device.
    """
    dtype = autocast_dtype(precision, device)
    views = build_views(settings)
    forwards = [partial(padded_logits, cast_weights(network, dtype)) for network in networks]
    tiles_at_once = max(1, settings.batch // (len(views) * (1 + len(settings.stretch))))
    batches = [tile_N[first : first + tiles_at_once] for first in range(0, len(tile_N), tiles_at_once)]
    on_gpu = device.type == "cuda"
    read = partial(_read, pixels_NHWB, preparation, settings, on_gpu)
    ahead = AHEAD if on_gpu else 0  # a CPU has nothing to wait for
    on_the_way: deque[ToHost] = deque()
    for pictures in _read_ahead(read, batches, ahead):
        with torch.inference_mode(), autocast(device, dtype):
            images = [preparation(picture.to(device, non_blocking=True)) for picture in pictures]
            total_NCHW = predict_probs(forwards[0], images, views, settings.merge, settings.batch)
            for forward in forwards[1:]:
                total_NCHW += predict_probs(forward, images, views, settings.merge, settings.batch)
            if len(forwards) > 1:
                total_NCHW /= len(forwards)
            on_the_way.append(ToHost(output(total_NCHW)))
        if len(on_the_way) > ahead:
            yield on_the_way.popleft().arrays()
    while on_the_way:
        yield on_the_way.popleft().arrays()


class ToHost:
    """Tensors on their way from the device to arrays of the host."""

    def __init__(self, values: tuple[torch.Tensor, ...]) -> None:
        self.arrived = None
        self.host = values
        if values[0].is_cuda:
            self.host = tuple(torch.empty(each.shape, dtype=each.dtype, pin_memory=True) for each in values)
            for host, each in zip(self.host, values, strict=True):
                host.copy_(each, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record()

    def arrays(self) -> tuple[np.ndarray, ...]:
        if self.arrived is not None:
            self.arrived.synchronize()
        return tuple(each.numpy() for each in self.host)


def _read_ahead(
    read: Callable[[np.ndarray], list[torch.Tensor]], batches: Sequence[np.ndarray], ahead: int
) -> Iterator[list[torch.Tensor]]:
    """The pictures of each batch, up to `ahead` of them read by a thread before they are asked for."""
    if not ahead:
        yield from map(read, batches)
        return
    waiting: deque[Future[list[torch.Tensor]]] = deque()
    # A thread begins with the first GPU for its current one, and would pin memory for that.
    device = torch.cuda.current_device()
    with ThreadPoolExecutor(1, initializer=torch.cuda.set_device, initargs=(device,)) as thread:
        for batch in batches:
            waiting.append(thread.submit(read, batch))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _read(
    pixels_NHWB: np.ndarray, preparation: Preparation, settings: Predict, pinned: bool, row_N: np.ndarray
) -> list[torch.Tensor]:
    """The pictures of some tiles; from pinned memory a copy waits its turn on the device, and not the host for it."""
    if not pinned:
        return [torch.from_numpy(each) for each in pictures_of(read_rows(pixels_NHWB, row_N), preparation, settings)]
    shape, dtype = (len(row_N), *pixels_NHWB.shape[1:]), torch.from_numpy(np.empty(0, pixels_NHWB.dtype)).dtype
    tiles = torch.empty(shape, dtype=dtype, pin_memory=True)
    _, *others = pictures_of(read_rows(pixels_NHWB, row_N, tiles.numpy()), preparation, settings)
    return [tiles, *(torch.from_numpy(each).pin_memory() for each in others)]


def pictures_of(pixels_NHWB: np.ndarray, preparation: Preparation, settings: Predict) -> list[np.ndarray]:
    """The tiles as they are, and stretched by each of `predict.stretch`."""
    mean_B, std_B = np.array(preparation.mean), np.array(preparation.std)
    scale = PixelScale.of(pixels_NHWB.dtype, mean_B, std_B, preparation.empty)
    return [pixels_NHWB] + [
        np.stack([stretched(pixels_HWB, percent, scale) for pixels_HWB in pixels_NHWB]) for percent in settings.stretch
    ]
