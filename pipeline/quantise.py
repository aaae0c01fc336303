"""Probabilities in one byte (or a float16), rounded so that the class they stand for stays the same.

Rounding never turns an order around, p <= q gives round(p) <= round(q), but it makes ties: .453 and .454 both become
116/255, and argmax then takes the first channel, which need not be the larger one. So wherever channels tie at the top,
all but the float's argmax are lowered by one step: every pixel has one top channel, whatever breaks ties elsewhere.

What is stored is within half a step of the probability, 1/510, and within three halves where a tie was broken. A
pixel's channels then sum to 1 only roughly, and a stored 0 means below 1/510: readers average and compare
as they are, normalise after blending, and take no logarithm of 0.
"""

from typing import Literal, get_args

import numpy as np

StoreDtype = Literal["uint8", "float16"]
STORE_DTYPES: tuple[str, ...] = get_args(StoreDtype)
STEPS = 255
LARGEST = 1.001
"""That is taken for a probability: a mean in float32 may lie a hair above 1, which rounding takes back."""


def quantise(probs_NCHW: np.ndarray, dtype: StoreDtype = "uint8") -> np.ndarray:
    """Probabilities in 0..1, one row a tile, in the stored dtype: the argmax over C stays; for C = 1 the side of 0.5.

    uint8 holds p as floor(255 p + 0.5). Tile by tile, so that the work stays in the processor's cache.
    """
    stored_NCHW = np.empty(probs_NCHW.shape, dtype)
    scaled_CHW = np.empty(probs_NCHW.shape[1:], np.float32)
    for probs_CHW, stored_CHW in zip(probs_NCHW, stored_NCHW, strict=True):
        if dtype == "uint8":
            np.multiply(probs_CHW, STEPS, out=scaled_CHW)
            scaled_CHW += 0.5
            np.copyto(stored_CHW, scaled_CHW, casting="unsafe")  # truncates
        else:
            np.copyto(stored_CHW, probs_CHW, casting="same_kind")
        if len(probs_CHW) > 1:
            _keep_argmax(probs_CHW, stored_CHW)
        elif dtype == "float16":  # uint8 keeps the side by itself: .5 becomes 128/255, all below at most 127/255
            crossed_CHW = (probs_CHW < 0.5) & (stored_CHW >= 0.5)
            stored_CHW[crossed_CHW] = _one_step_below(stored_CHW[crossed_CHW])
    return stored_NCHW


def dequantise(stored: np.ndarray) -> np.ndarray:
    """Stored values of any shape -> float32 probabilities. They are not normalised: see above."""
    return np.divide(stored, STEPS, dtype=np.float32) if stored.dtype == np.uint8 else stored.astype(np.float32)


def _keep_argmax(probs_CHW: np.ndarray, stored_CHW: np.ndarray) -> None:
    """Break ties at the top in favour of the float's argmax, in place."""
    channels = len(probs_CHW)
    top_HW = stored_CHW.max(0)
    # Few pixels tie, so argmax over the channels, the slow part, runs on those alone.
    tied = np.flatnonzero((stored_CHW == top_HW).sum(0, dtype=np.uint8) > 1)  # in flat order of H and W
    best = probs_CHW.reshape(channels, -1)[:, tied].argmax(0)
    flat_CP = stored_CHW.reshape(channels, -1)
    values = flat_CP[:, tied]
    rivals = (values == top_HW.reshape(-1)[tied]) & (np.arange(channels)[:, None] != best)
    values[rivals] = _one_step_below(values[rivals])
    flat_CP[:, tied] = values


def _one_step_below(stored: np.ndarray) -> np.ndarray:
    """The next smaller stored value; the largest of several probabilities is never stored as 0."""
    return stored - 1 if stored.dtype == np.uint8 else np.nextafter(stored, np.float16(0))
