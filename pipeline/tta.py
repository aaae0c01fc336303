"""Test-time augmentation: views of a tile, their probabilities turned back and averaged.

A view is one of the square's eight symmetries (ttach's flips and rotations, and their inverses), at one of several
sizes. Views are stacked into forward passes and added up one by one, so memory does not grow with their number.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

import torch
import ttach

from config.ensemble import Predict

Forward = Callable[[torch.Tensor], torch.Tensor]
"""(N, B, H, W) images -> (N, C, H, W) logits, for any H and W."""

# Whether to flip, then how often to turn by 90 degrees counter-clockwise. By ttach's functions, not its transforms:
# those copy the tile for a turn by 0 too.
SYMMETRIES = {
    "identity": (False, 0),
    "rot90": (False, 1),
    "rot180": (False, 2),
    "rot270": (False, 3),
    "hflip": (True, 0),
    "transpose": (True, 1),
    "vflip": (True, 2),
    "antitranspose": (True, 3),
}

# Logits beyond are cut: +inf (float16 overflows) would become NaN in the softmax, and sums of views must stay finite.
# Differences of this size are already 0 or 1 as probabilities.
LARGEST_LOGIT = 1e30


@dataclass(frozen=True)
class View:
    """One way to look at a tile, and the way back."""

    symmetry: str
    scale: float = 1.0

    def size_px(self, height: int, width: int) -> tuple[int, int]:
        """Of the tile before it is flipped or turned."""
        return max(1, round(height * self.scale)), max(1, round(width * self.scale))

    def look(self, image_NCHW: torch.Tensor) -> torch.Tensor:
        flipped, turns = SYMMETRIES[self.symmetry]
        image_NCHW = _resized(image_NCHW, self.size_px(*image_NCHW.shape[2:]))
        image_NCHW = ttach.functional.hflip(image_NCHW) if flipped else image_NCHW
        return ttach.functional.rot90(image_NCHW, turns) if turns else image_NCHW

    def back(self, seen_NCHW: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """What was seen, turned and resized to the tile of `size`."""
        flipped, turns = SYMMETRIES[self.symmetry]
        seen_NCHW = ttach.functional.rot90(seen_NCHW, -turns) if turns else seen_NCHW
        seen_NCHW = ttach.functional.hflip(seen_NCHW) if flipped else seen_NCHW
        return _resized(seen_NCHW, size)


AS_IT_IS = View("identity")


def build_views(settings: Predict) -> list[View]:
    """All views of each picture of a tile: the symmetries of `tta`, at its own size and at each of `scales`."""
    return [View(symmetry, scale) for scale in (1.0, *settings.scales) for symmetry in settings.views]


def predict_probs(
    forward: Forward,
    images: Sequence[torch.Tensor],
    views: Sequence[View],
    merge: str = "mean",
    batch: int = 1,
) -> torch.Tensor:
    """Probabilities of tiles, averaged over views: (N, C, H, W) float32; sigmoid for one channel, else softmax.

    mean averages probabilities. gmean averages logarithms and normalises, which is the softmax of the averaged logits:
    a softmax only subtracts one number per pixel from them. So nothing is ever the logarithm of 0.

    Args:
        forward: may run under autocast; what follows it is float32.
        images: (N, B, H, W) pictures of the same tiles, of one shape, each seen through all views: the tiles as they
            are, perhaps stretched ones too.
        batch: most images in a forward pass; as many views are stacked as fit, and at least one is.
    """
    tiles, _, *size = images[0].shape
    by_tile = _goes_by_tile(images[0].device)
    total_NCHW = None
    for stack in _stacks(images, views, max(1, batch // tiles)):
        seen = [view.look(image) for view, image in stack]
        logits = forward(torch.cat(seen) if len(seen) > 1 else seen[0])
        values = logits if by_tile else _values(logits, merge)
        for (view, _), values_NCHW in zip(stack, values.split(tiles), strict=True):
            if by_tile:
                is_first = total_NCHW is None
                if is_first:
                    total_NCHW = logits.new_empty((tiles, logits.shape[1], *size), dtype=torch.float32)
                _add_by_tile(total_NCHW, values_NCHW, view, merge, is_first)
            elif total_NCHW is None:
                total_NCHW = view.back(values_NCHW, size).contiguous()
            else:
                total_NCHW += view.back(values_NCHW, size)
    if len(views) * len(images) > 1:
        total_NCHW /= len(views) * len(images)
    return _activate(total_NCHW) if merge == "gmean" else total_NCHW


def _stacks(
    images: Sequence[torch.Tensor], views: Sequence[View], at_once: int
) -> Iterator[list[tuple[View, torch.Tensor]]]:
    """Every view of every picture, up to `at_once` together, those together of one shape."""
    height, width = images[0].shape[2:]

    def shape(view: View) -> tuple[int, int]:
        size = view.size_px(height, width)
        return size[::-1] if view.symmetry in ("rot90", "rot270", "transpose", "antitranspose") else size

    for _, alike in groupby(sorted(views, key=shape), key=shape):
        looks = ((view, image) for view in alike for image in images)
        while stack := list(islice(looks, at_once)):
            yield stack


def _goes_by_tile(device: torch.device) -> bool:
    """Whether logits become probabilities tile by tile, or those of a whole pass at once."""
    return device.type == "cpu"


def _add_by_tile(total_NCHW: torch.Tensor, logits_NCHW: torch.Tensor, view: View, merge: str, is_first: bool) -> None:
    """Add what one view saw, turned back, to the total; the first view is put there.

    A tile's numbers stay in the processor's cache from here to the sum, several times as fast as a batch's.
    """
    for total, logits in zip(total_NCHW.split(1), logits_NCHW.split(1), strict=True):
        if is_first and merge == "mean" and view == AS_IT_IS:
            _activate(_finite(logits), out=total)  # a copy of them less
            continue
        seen = view.back(_values(logits, merge), total.shape[2:])
        (total.copy_ if is_first else total.add_)(seen)


def _values(logits_NCHW: torch.Tensor, merge: str) -> torch.Tensor:
    """What is averaged: probabilities, or for gmean logits."""
    return _finite(logits_NCHW) if merge == "gmean" else _activate(_finite(logits_NCHW))


def _finite(logits_NCHW: torch.Tensor) -> torch.Tensor:
    """In float32, contiguous, and cut to what sums can hold; never the logits' own memory."""
    values = logits_NCHW.to(torch.float32, memory_format=torch.contiguous_format)
    clamp = values.clamp if values is logits_NCHW else values.clamp_  # in place only what is our own
    return clamp(-LARGEST_LOGIT, LARGEST_LOGIT)


def _activate(logits_NCHW: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    if logits_NCHW.shape[1] == 1:
        return torch.sigmoid(logits_NCHW, out=out)
    return torch.softmax(logits_NCHW, 1, out=out)


def _resized(image_NCHW: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    # ttach.Scale is not used: it goes back by 1 / scale of the scaled size, and 256 becomes 255 after a factor of 1.1.
    if tuple(image_NCHW.shape[2:]) == tuple(size):
        return image_NCHW
    return ttach.functional.resize(image_NCHW, tuple(size), interpolation="bilinear", align_corners=False)
