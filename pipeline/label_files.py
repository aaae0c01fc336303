"""What is written of predicted images: labels and probabilities, which lie where the images do."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rasterio.errors import RasterioError
from rasterio.io import DatasetWriter

from base.errors import UserError, listed
from base.files import whole_file
from folds.classes import ClassTable
from folds.images import place_of

LabelFormat = Literal["png", "geotiff"]
SOFTWARE = "Foldscape"  # stands in each file, so that none of somebody else's is ever replaced


def labels_path(out: Path, image: Path, format: LabelFormat) -> Path:
    return out / f"{image.stem}.{'png' if format == 'png' else 'tif'}"


def probs_path(out: Path, image: Path) -> Path:
    return out / f"{image.stem}.probs.tif"


def refuse_others_files(out: Path, paths: Iterable[Path]) -> None:
    """
    Args:
        paths: what is about to be written into `out`.

    Raises:
        UserError: some are there and were not written here: masks beside their images have such names, and so may the
            images themselves.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a folder")
    others = [path.name for path in paths if path.exists() and not _is_ours(path)]
    if others:
        raise UserError(
            f"--out {out}: {len(others)} files there were not written by this command, which would take their place: "
            f"{listed(others)}; name another folder"
        )


def _is_ours(path: Path) -> bool:
    try:
        with rasterio.open(path) as file:
            tags = file.tags()
    except RasterioError:
        return False
    return SOFTWARE in (tags.get("Software"), tags.get("TIFFTAG_SOFTWARE"))


def write_labels(out: Path, image: Path, label_HW: np.ndarray, classes: ClassTable, format: LabelFormat) -> None:
    """`<name>.png`, one channel; or `<name>.tif`, which lies where the image does and shows the classes' colours."""
    path = labels_path(out, image, format)
    if format == "png":
        about = PngInfo()
        about.add_text("Software", SOFTWARE)
        with whole_file(path) as aside:
            Image.fromarray(label_HW).save(aside, "png", pnginfo=about)
        return
    with _geotiff(path, image, label_HW[None], classes.blank_label) as file:
        file.write_colormap(1, dict(zip(classes.labels, classes.colors, strict=True)))


def write_probs(out: Path, image: Path, probs_CHW: np.ndarray, names: Sequence[str]) -> None:
    """`<name>.probs.tif`, float32, a band per class with its name, which lies where the image does."""
    with _geotiff(probs_path(out, image), image, probs_CHW, np.nan) as file:
        file.descriptions = tuple(names)


@contextlib.contextmanager
def _geotiff(path: Path, image: Path, values_CHW: np.ndarray, nodata: float) -> Iterator[DatasetWriter]:
    """A compressed GeoTIFF with the coordinates of `image`, its bands written, still open."""
    count, height, width = values_CHW.shape
    kind = {"dtype": values_CHW.dtype, "compress": "deflate", "predictor": 3 if values_CHW.dtype.kind == "f" else 1}
    kind["nodata"] = nodata
    kind["BIGTIFF"] = "IF_SAFER"  # probabilities of a large scene are more than the 4 GiB of a plain TIFF
    place = place_of(image)
    with whole_file(path) as aside, rasterio.open(aside, "w", "GTiff", width, height, count, **kind, **place) as file:
        file.update_tags(TIFFTAG_SOFTWARE=SOFTWARE)
        file.write(values_CHW)
        yield file
