"""Pictures of two submissions side by side: image | A | B."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from base.files import whole_file
from base.lettering import lettering
from config.data import Data
from folds.classes import ClassTable
from folds.images import read_image
from folds.stretch import shown_bands


@lettering()
def draw_changes(
    examples: list[tuple[str, np.ndarray, np.ndarray]],
    images: dict[str, Path],
    titles: tuple[str, str],
    data: Data,
    path: Path,
) -> None:
    """A row per tile: its image, the labels of A, those of B with everything unchanged faded.

    Args:
        examples: name, (H, W) indices of A, (H, W) indices of B.
        images: the image of each name.
        titles: what A and B are called.
    """
    classes = ClassTable.of(data)
    figure = Figure(figsize=(9, 3 * len(examples) + 0.6), layout="constrained")
    rows = figure.subplots(len(examples), 3, squeeze=False)
    used = np.zeros(len(classes), bool)
    for (name, a_HW, b_HW), axes in zip(examples, rows, strict=True):
        changed_HW = a_HW != b_HW
        used[np.unique([a_HW, b_HW])] = True
        b_rgb = classes.to_rgb(b_HW)
        faded = b_rgb // 4 + 191
        pictures = (
            (name, to_rgb(read_image(images[name], data.nodata), data.bands)),
            (titles[0], classes.to_rgb(a_HW)),
            (f"{titles[1]}: {changed_HW.mean():.1%} changed", np.where(changed_HW[:, :, None], b_rgb, faded)),
        )
        for axis, (title, picture) in zip(axes, pictures, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
    handles = [Patch(color=np.array(classes.colors[c]) / 255, label=classes.names[c]) for c in np.flatnonzero(used)]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    with whole_file(path) as aside:
        figure.savefig(aside, format="png", dpi=90)


def to_rgb(image_HWB: np.ndarray, bands: list[str]) -> np.ndarray:
    """(H, W, 3) uint8 of the `shown_bands`, stretched from the 2nd to the 98th percentile of this image alone."""
    picture = image_HWB[:, :, shown_bands(bands)]
    low, high = np.percentile(picture, (2, 98))
    return (255 * np.clip((picture - low) / max(high - low, 1e-9), 0, 1)).astype(np.uint8)
