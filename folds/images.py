"""The one reader of image and mask files, and the writer of images."""

import contextlib
import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from PIL import Image
from rasterio import Affine
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from base.errors import UserError, listed
from config.data import Nodata

# rasterio, not OpenCV or PIL: cv2.imread alters the colours of a TIFF whose 4th band is tagged alpha, PIL drops it.
DTYPES = {"uint8": "uint8", "uint16": "uint16", "float32": "float32"} | dict.fromkeys(
    ("int8", "int16", "int32", "uint32", "float64"), "float32"
)
"""What the pixels of a file become by its dtype. Networks compute in float32 or less: nothing of int16 is lost, and of
the others what stands behind the seventh digit."""

# Tiles of a competition have no coordinates. For the process: catch_warnings is not safe in the threads that read.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
# What GDAL remarks on a broken file comes again as the error that is raised, in one line.
logging.getLogger("rasterio").setLevel(logging.CRITICAL)


def read_image(path: Path, nodata: Nodata = None) -> np.ndarray:
    """The first half of `read_pixels`."""
    return read_pixels(path, nodata)[0]


def read_pixels(path: Path, nodata: Nodata = None) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, B) uint8, uint16 or float32 pixels, and (H, W) bool: those without data, which are 0 in the first.

    Args:
        nodata: `data.nodata`.

    Raises:
        UserError: unreadable or truncated, a dtype outside DTYPES, or NaN or infinities that are not `nodata`.
    """
    image_HWB = np.ascontiguousarray(np.moveaxis(read_values(path), 0, -1))
    if str(image_HWB.dtype) not in DTYPES:
        raise UserError(f"{path}: dtype {image_HWB.dtype}; expected one of {', '.join(DTYPES)}")
    # In the file's own dtype: the least float64, which GDAL likes to call no data, is no float32.
    empty_HW = without_data(image_HWB, nodata)
    image_HWB[empty_HW] = 0
    with np.errstate(over="ignore"):  # it becomes infinite, which is told of below
        as_read_HWB = image_HWB.astype(DTYPES[str(image_HWB.dtype)], copy=False)
    if as_read_HWB.dtype.kind == "f" and not np.isfinite(as_read_HWB).all():
        raise UserError(f"{path}: {_not_finite(image_HWB[~np.isfinite(as_read_HWB)], nodata)}")
    return as_read_HWB, empty_HW


def _not_finite(values: np.ndarray, nodata: Nodata) -> str:
    """What values of a file are that are no numbers in float32, and which `data.nodata` leaves them out."""
    beyond = values[np.isfinite(values)]
    if len(beyond) < len(values):
        if nodata is not None:
            return f"holds {len(values)} values that are inf; data.nodata={nodata:g} takes in NaN, so write that there"
        return f"holds {len(values)} values that are NaN or inf; data.nodata=nan says that they are no data"
    usual = Counter(beyond.tolist()).most_common(1)[0][0]
    return f"holds {len(beyond)} values beyond float32; data.nodata={usual!r} says that these are no data"


def nodata_tag(path: Path) -> float | None:
    """What an image's own tag says to be no data; None: nothing."""
    with rasterio.open(path) as file:
        return file.nodata


def read_values(path: Path) -> np.ndarray:
    """(B, H, W) as they stand in the file.

    Raises:
        UserError: unreadable or truncated.
    """
    with _opened(path) as file:
        return file.read()


def read_strips(path: Path, tops: Sequence[int], height: int) -> Iterator[np.ndarray]:
    """The (B, height, W) values, as they stand in the file, of its rows from each of `tops` on.

    The file is opened once: of many formats, what stands above has to be decoded first.

    Raises:
        UserError: unreadable or truncated.
    """
    with _opened(path) as file:
        for top in tops:
            yield file.read(window=Window(0, top, file.width, height))


def place_of(path: Path, top: int = 0, left: int = 0) -> dict[str, Any]:
    """Where the part of an image from row `top` and column `left` on lies, as rasterio takes it for a new file."""
    with rasterio.open(path) as file:
        return place_in(file, top, left)


def place_in(file: DatasetReader, top: int = 0, left: int = 0) -> dict[str, Any]:
    """`place_of` an image that is open. Ground control points that it has say where it lies, and no transform does."""
    points, points_crs = file.gcps
    if points:
        moved = [GroundControlPoint(p.row - top, p.col - left, p.x, p.y, p.z, p.id, p.info) for p in points]
        return {"gcps": moved, "crs": points_crs}
    if file.crs is None and file.transform.is_identity:
        return {}
    return {"crs": file.crs, "transform": file.transform @ Affine.translation(left, top)}


def read_mask(path: Path) -> np.ndarray:
    """(H, W) uint8 labels of a mask file.

    Raises:
        UserError: unreadable or truncated, or what `labels_in` does not take.
    """
    return labels_in(read_values(path), path)


def labels_in(mask_BHW: np.ndarray, path: Path) -> np.ndarray:
    """(H, W) uint8 labels of a mask of whatever dtype: tools that rasterise polygons like float32 and int32.

    Raises:
        UserError: more than one band, or values that are no whole numbers from 0 to 255.
    """
    if len(mask_BHW) != 1:
        hint = "; data.mask_values=colors is for colours" if len(mask_BHW) == 3 else ""
        raise UserError(f"{path}: {len(mask_BHW)} bands of {mask_BHW.dtype}; a mask has one band of labels{hint}")
    mask_HW = mask_BHW[0]
    if mask_HW.dtype == np.uint8:
        return mask_HW
    label_HW = np.where((mask_HW >= 0) & (mask_HW <= 255), mask_HW, 0).astype(np.uint8)
    no_labels = np.unique(mask_HW[label_HW != mask_HW])
    if no_labels.size:
        found = listed([f"{value:g}" for value in no_labels.tolist()])
        raise UserError(f"{path}: holds {found} ({mask_HW.dtype}); labels are whole numbers from 0 to 255")
    return label_HW


def colors_in(mask_BHW: np.ndarray, path: Path) -> np.ndarray:
    """(H, W, 3) uint8 colours of a mask; a fourth band, alpha, is left out.

    Raises:
        UserError: without colours, or not uint8.
    """
    if len(mask_BHW) not in (3, 4) or mask_BHW.dtype != np.uint8:
        hint = "; data.mask_values=labels is for labels" if len(mask_BHW) == 1 else ""
        raise UserError(f"{path}: {len(mask_BHW)} bands of {mask_BHW.dtype}; a mask of colours has 3 of uint8{hint}")
    return np.moveaxis(mask_BHW[:3], 0, -1)


def full_scale(dtype: np.dtype) -> float:
    """The pixel value that becomes 1.0: the largest of an integer dtype; floats stay as they are."""
    return float(np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else 1.0


def without_data(image_HWB: np.ndarray, nodata: Nodata) -> np.ndarray:
    """(H, W) bool: the pixels that have no data. Integers may have the value in a band by chance; floats hardly do.

    Floats that are NaN have none either, whatever the number: software that fills with one leaves NaN elsewhere.

    Args:
        image_HWB: an image; or anything else of three axes, the last of them bands.
    """
    if nodata is None:
        return np.zeros(image_HWB.shape[:2], bool)
    if nodata == "nan":
        return ~np.isfinite(image_HWB).all(2)
    equal_HWB = image_HWB == nodata
    return (equal_HWB | np.isnan(image_HWB)).any(2) if image_HWB.dtype.kind == "f" else equal_HWB.all(2)


def write_image(path: Path, image_HWB: np.ndarray, **place: Any) -> None:
    """A plain, uncompressed TIFF.

    Args:
        place: more of what rasterio takes for a new file: `place_of`, nodata.
    """
    height, width, bands = image_HWB.shape
    # GDAL would tag a fourth band as alpha, and readers that honour the tag change the other three.
    colour = {"photometric": "rgb", "alpha": "no"} if bands > 3 else {}
    with rasterio.open(
        path, "w", "GTiff", width, height, bands, dtype=image_HWB.dtype, interleave="pixel", **colour, **place
    ) as file:
        file.write(np.moveaxis(image_HWB, -1, 0))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[DatasetReader]:
    """The file; what is found wrong with it, also in the block, becomes a `UserError`."""
    try:
        with rasterio.open(path) as file:
            if file.driver == "PNG":
                _verify_png(path)
            yield file
    except (RasterioError, OSError, SyntaxError) as error:
        raise UserError(f"{path}: {_reason(path, error)}") from None


def _verify_png(path: Path) -> None:
    """Checksums and end of a PNG: GDAL reads one that was cut off, or altered, as zeros without a word.

    Raises:
        SyntaxError, OSError: they do not hold.
    """
    with Image.open(path, formats=["PNG"]) as picture:
        picture.verify()


def _reason(path: Path, error: Exception) -> str:
    """Why a file cannot be read, in a few words; GDAL's own stand behind rasterio's "see previous exception"."""
    if not path.exists():
        return "no such file"
    if not os.access(path, os.R_OK):
        return "no permission to read it"
    said = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]
    return f"unreadable or truncated ({said.replace(repr(str(path)), 'it is').replace(str(path), 'it')[:120]})"
