"""Pixels -> what a network sees. The only preprocessing, for training, OOF, test and foreign images alike."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from folds.images import full_scale
from pipeline.pixels import PixelScale, has_spread

NDVI_FLOOR = 1e-6  # where red and nir are both 0 the index is 0, not NaN


@dataclass(frozen=True)
class Preparation:
    """How a member wants its pixels; kept with its weights, so that prediction cannot differ from training."""

    bands: list[str]
    derived: list[str]
    normalize: str
    """dataset: by mean and std below; tile: by each tile's own."""
    mean: list[float]
    """Per band, with integer dtypes scaled to 0..1."""
    std: list[float]
    empty: list[float] | None = None
    """Per band, in the pixels' own unit: what stands where images have no data. None: they have some everywhere."""

    @property
    def channels(self) -> int:
        return len(self.bands) + len(self.derived)

    def scale_of(self, dtype: np.dtype) -> PixelScale:
        """Of pixels of that dtype, as they come."""
        return PixelScale.of(dtype, np.array(self.mean), np.array(self.std), self.empty)

    def __call__(self, pixels_NHWB: torch.Tensor) -> torch.Tensor:
        """(N, H, W, B) pixels of any dtype -> (N, channels, H, W) float32, in channels_last memory.

        Runs on the tensor's device: small integers travel there, floats are made there.
        """
        scale = full_scale(np.dtype(str(pixels_NHWB.dtype).removeprefix("torch.")))
        image_NHWB = pixels_NHWB.to(torch.float32) / scale
        derived = [self._ndvi(image_NHWB)] if "ndvi" in self.derived else []
        if self.normalize == "tile":
            image_NHWC = self._by_tile(image_NHWB, scale)
        else:
            mean, std = (_on(image_NHWB.device, tuple(values)) for values in (self.mean, self.std))
            image_NHWC = _shifted_and_scaled(image_NHWB, mean, std)
        if derived:
            image_NHWC = torch.cat([image_NHWC, *derived], dim=-1)
        return image_NHWC.permute(0, 3, 1, 2)

    def _by_tile(self, image_NHWB: torch.Tensor, scale: float) -> torch.Tensor:
        """Each tile by the mean and std of its own pixels with data; those without are 0."""
        if self.empty is None:
            mean = image_NHWB.mean((1, 2), keepdim=True)
            std = image_NHWB.std((1, 2), keepdim=True, correction=0)
            return _shifted_and_scaled(image_NHWB, mean, torch.where(has_spread(mean, std), std, 1.0))
        data_NHW1 = (image_NHWB != _on(image_NHWB.device, tuple(self.empty)) / scale).any(3, keepdim=True)
        count_N111 = data_NHW1.sum((1, 2), keepdim=True).clamp_min(1)
        mean = (image_NHWB * data_NHW1).sum((1, 2), keepdim=True) / count_N111
        std = (((image_NHWB - mean) * data_NHW1).square().sum((1, 2), keepdim=True) / count_N111).sqrt()
        return _shifted_and_scaled(image_NHWB, mean, torch.where(has_spread(mean, std), std, 1.0)).mul_(data_NHW1)

    def _ndvi(self, image_NHWB: torch.Tensor) -> torch.Tensor:
        """(nir - red) / (nir + red), in [-1, 1]; in float: on uint8 the difference would wrap around."""
        # Floats may be a little below 0, stretched ones far: with a sum near 0 the quotient would be anything.
        red, nir = (image_NHWB[..., self.bands.index(band)].clamp_min(0) for band in ("red", "nir"))
        return ((nir - red) / (nir + red).clamp_min(NDVI_FLOOR))[..., None]


def _shifted_and_scaled(image_NHWB: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """(image - mean) / std, in the image's own memory; mean and std (B,), or (N, 1, 1, B).

    By rows of W x B numbers: over a few bands alone a CPU loops too shortly for its vectors, and five times as long.
    """
    width, bands = image_NHWB.shape[2:]
    by_row = [values.expand(-1 if values.ndim > 1 else 1, 1, width, bands).flatten(2) for values in (mean, std)]
    return image_NHWB.flatten(2).sub_(by_row[0]).div_(by_row[1]).view(image_NHWB.shape)


@lru_cache
def _on(device: torch.device, values: tuple[float, ...]) -> torch.Tensor:
    """Numbers on a device, copied there once: a copy from pageable memory waits for all that the device has to do."""
    with torch.inference_mode(False):  # or training could not use what a prediction left here
        return torch.tensor(values, dtype=torch.float32, device=device)
