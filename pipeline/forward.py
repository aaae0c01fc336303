"""Pixels -> probabilities by a trained member: the one path for validation, OOF, test and foreign images."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from torch import nn

from config.ensemble import Predict
from models.casting import cast_weights
from models.zoo import padded_logits
from pipeline.device import autocast, autocast_dtype
from pipeline.outputs import Output, probabilities
from pipeline.pack import read_rows
from pipeline.pixels import stretched
from pipeline.prepare import Preparation
from pipeline.to_host import ToHost
from pipeline.tta import build_views, predict_probs
from pipeline.waits import Waits

AHEAD = 2  # batches of a GPU: read before they are asked for, and on their way while the next are computed


@dataclass(frozen=True)
class Predictor:
    """A member's networks, and how pixels go through them."""

    networks: Sequence[nn.Module]
    """In eval mode, on the device: one for each kind of its weights. Their probabilities are averaged."""
    preparation: Preparation
    settings: Predict
    precision: str
    """Of `train.precision`."""
    device: torch.device

    @cached_property
    def _forwards(self) -> list[Callable[[torch.Tensor], torch.Tensor]]:
        """Weights are cast once, and not for every batch."""
        dtype = autocast_dtype(self.precision, self.device)
        return [partial(padded_logits, cast_weights(network, dtype)) for network in self.networks]

    @property
    def _fills(self) -> bool:
        """Whether all batches have one size: for another one cuDNN plans, and memory is found, anew."""
        return self.device.type == "cuda"

    def probs(self, pixels_NHWB: np.ndarray, tile_N: np.ndarray, batch: int | None = None) -> Iterator[np.ndarray]:
        """Probabilities of tiles, batch by batch: (n, C, H, W) float32. Arguments as for `outputs`."""
        for (probs_NCHW,) in self.outputs(pixels_NHWB, tile_N, probabilities, batch):
            yield probs_NCHW

    def outputs(
        self,
        pixels_NHWB: np.ndarray,
        tile_N: np.ndarray,
        output: Output,
        batch: int | None = None,
        waits: Waits | None = None,
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """What `output` makes of the probabilities of tiles, batch by batch, views and networks averaged.

        Args:
            pixels_NHWB: an array or memory map; only the rows `tile_N` are read, in that order.
            output: is given (n, C, H, W) float32 on the device.
            batch: images of one pass; None: as many as the settings say.
            waits: where to count what is waited for.
        """
        batch, waits = batch or self.settings.batch, waits or Waits()
        views, merge = build_views(self.settings), self.settings.merge
        tiles_at_once = max(1, batch // (len(views) * (1 + len(self.settings.stretch))))
        rows, left = in_batches(tile_N, tiles_at_once, self._fills), len(tile_N)
        ahead = AHEAD if self.device.type == "cuda" else 0  # a CPU has nothing to wait for
        on_the_way: deque[ToHost] = deque()

        def arrived() -> tuple[np.ndarray, ...]:
            nonlocal left
            with waits.on("device"):
                values = tuple(each[:left] for each in on_the_way.popleft().arrays())
            left -= len(values[0])
            return values

        for pictures in waits.for_each("reading", _read_ahead(partial(self._read, pixels_NHWB), rows, ahead)):
            with torch.inference_mode(), autocast(self.device, autocast_dtype(self.precision, self.device)):
                images = [self.preparation(picture.to(self.device, non_blocking=True)) for picture in pictures]
                first, *others = self._forwards
                total_NCHW = predict_probs(first, images, views, merge, batch)
                for forward in others:
                    total_NCHW += predict_probs(forward, images, views, merge, batch)
                if others:
                    total_NCHW /= len(self.networks)
                on_the_way.append(ToHost(*output(total_NCHW)))
            if len(on_the_way) > ahead:
                yield arrived()
        while on_the_way:
            yield arrived()

    def _read(self, pixels_NHWB: np.ndarray, row_N: np.ndarray) -> list[torch.Tensor]:
        """The pictures of some tiles: as they are, and stretched by each of `predict.stretch`."""
        tiles, scale = read_pixels(pixels_NHWB, row_N, self.device), self.preparation.scale_of(pixels_NHWB.dtype)
        others = [
            torch.from_numpy(np.stack([stretched(pixels_HWB, percent, scale) for pixels_HWB in tiles.numpy()]))
            for percent in self.settings.stretch
        ]
        return [tiles, *(each.pin_memory() if self.device.type == "cuda" else each for each in others)]


def in_batches(tile_N: np.ndarray, size: int, fill: bool) -> list[np.ndarray]:
    """Tiles, so many at once.

    Args:
        fill: the last of several batches repeats its tiles up to the full size; whoever asks drops the surplus.
    """
    batches = [tile_N[first : first + size] for first in range(0, len(tile_N), size)]
    if fill and len(batches) > 1:
        batches[-1] = np.resize(batches[-1], size)
    return batches


def read_pixels(pixels_NHWB: np.ndarray, row_N: np.ndarray, device: torch.device) -> torch.Tensor:
    """Rows of a packed array, copied, on their way to a device.

    For a GPU in pinned memory: a copy from there waits its turn on the device, and the host does not wait for it.
    """
    if device.type != "cuda":
        return torch.from_numpy(read_rows(pixels_NHWB, row_N))
    shape, dtype = (len(row_N), *pixels_NHWB.shape[1:]), torch.from_numpy(np.empty(0, pixels_NHWB.dtype)).dtype
    tiles = torch.empty(shape, dtype=dtype, pin_memory=True)
    read_rows(pixels_NHWB, row_N, tiles.numpy())
    return tiles


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
