"""What is made of a batch's probabilities before it leaves the device: a GPU rounds and decides in no time, and the way
to the host, float32 numbers of all classes, would take longer than the network."""

from collections.abc import Callable
from functools import partial

import torch

from pipeline.quantise import LARGEST, STEPS, StoreDtype

Output = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
"""(N, C, H, W) float32 probabilities -> what is wanted of them, on their device."""

INTEGER = {torch.uint8: torch.uint8, torch.float16: torch.int16}
"""As these the stored numbers are in order, and the next smaller one is one less."""


def probabilities(probs_NCHW: torch.Tensor) -> tuple[torch.Tensor]:
    """As they are."""
    return (probs_NCHW,)


def output_for_store(device: torch.device, dtype: StoreDtype) -> Output:
    """What `StoreWriter.append` is given: rounded by a GPU; on a CPU the writer's threads round, tile by tile."""
    return probabilities if device.type == "cpu" else partial(stored, dtype=dtype)


def decisions(probs_NCHW: torch.Tensor) -> tuple[torch.Tensor]:
    """(N, H, W) uint8: the class of the largest probability; of one channel, whether it is 0.5 or more."""
    if probs_NCHW.shape[1] == 1:
        return ((probs_NCHW[:, 0] >= 0.5).to(torch.uint8),)
    return (probs_NCHW.argmax(1).to(torch.uint8),)


def stored(probs_NCHW: torch.Tensor, dtype: StoreDtype) -> tuple[torch.Tensor, torch.Tensor]:
    """What `pipeline.quantise.quantise` gives, to the bit; and (N,) whether all of a tile's are numbers up to 1.

    In whole batches and few passes, where numpy's goes tile by tile to stay in a processor's cache.
    """
    top_NHW, best_NHW = probs_NCHW.max(1)
    sound_N = (top_NHW <= LARGEST).flatten(1).all(1)  # False for NaN
    if dtype == "uint8":
        stored_NCHW = torch.mul(probs_NCHW, STEPS).add_(0.5).to(torch.uint8)  # in two steps: one would round once
    else:
        stored_NCHW = probs_NCHW.to(torch.float16)
    order_NCHW = stored_NCHW.view(INTEGER[stored_NCHW.dtype])
    if probs_NCHW.shape[1] > 1:
        best_N1HW = best_NHW[:, None]
        top_N1HW = order_NCHW.gather(1, best_N1HW)
        order_NCHW -= (order_NCHW == top_N1HW).to(order_NCHW.dtype)  # all that tie at the top go down a step,
        order_NCHW.scatter_(1, best_N1HW, top_N1HW)  # and the best comes back
    elif dtype == "float16":  # uint8 keeps the side of one half by itself
        order_NCHW -= ((probs_NCHW < 0.5) & (stored_NCHW >= 0.5)).to(order_NCHW.dtype)
    return stored_NCHW, sound_N
