"""The one reader of image and mask files, and the writer of images."""

import logging
import os
import warnings
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from base.errors import UserError
from config.data import Nodata

# rasterio, not OpenCV or PIL: cv2.imread alters the colours of a TIFF whose 4th band is tagged alpha, PIL drops it.
DTYPES = ("uint8", "uint16", "float32")

# Tiles of a competition have no coordinates. For the process: catch_warnings is not safe in the threads that read.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
# What GDAL remarks on a broken file comes again as the error that is raised, in one line.
logging.getLogger("rasterio").setLevel(logging.CRITICAL)


def read_image(path: Path, nodata: Nodata = None) -> np.ndarray:
    """The first half of `read_pixels`."""
    return read_pixels(path, nodata)[0]


def read_pixels(path: Path, nodata: Nodata = None) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, B) pixels in the file's own dtype, and (H, W) bool: those without data, which are 0 in the first.

    Args:
        nodata: `data.nodata`.

    Raises:
        UserError: unreadable or truncated, a dtype outside DTYPES, or NaN that is not `nodata`.
    """
    image_HWB = np.ascontiguousarray(np.moveaxis(_read(path), 0, -1))
    if str(image_HWB.dtype) not in DTYPES:
        raise UserError(f"{path}: dtype {image_HWB.dtype}; expected one of {', '.join(DTYPES)}")
    empty_HW = without_data(image_HWB, nodata)
    image_HWB[empty_HW] = 0
    if image_HWB.dtype.kind == "f" and not np.isfinite(image_HWB).all():
        count = np.size(image_HWB) - np.isfinite(image_HWB).sum()
        raise UserError(f"{path}: holds {count} values that are NaN or inf; data.nodata=nan says that they are no data")
    return image_HWB, empty_HW


def nodata_tag(path: Path) -> float | None:
    """What an image's own tag says to be no data; None: nothing."""
    with rasterio.open(path) as file:
        return file.nodata


def read_mask(path: Path) -> np.ndarray:
    """(H, W) uint8 labels.

    Raises:
        UserError: unreadable or truncated, more than one band, or not uint8.
    """
    mask_BHW = _read(path)
    if len(mask_BHW) != 1 or mask_BHW.dtype != np.uint8:
        hint = "; data.mask_values=colors is for colours" if len(mask_BHW) == 3 else ""
        raise UserError(f"{path}: {len(mask_BHW)} bands of {mask_BHW.dtype}; a mask has one band of uint8 labels{hint}")
    return mask_BHW[0]


def read_color_mask(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 colours; a fourth band, alpha, is left out.

    Raises:
        UserError: unreadable or truncated, without colours, or not uint8.
    """
    mask_BHW = _read(path)
    if len(mask_BHW) not in (3, 4) or mask_BHW.dtype != np.uint8:
        hint = "; data.mask_values=labels is for labels" if len(mask_BHW) == 1 else ""
        raise UserError(f"{path}: {len(mask_BHW)} bands of {mask_BHW.dtype}; a mask of colours has 3 of uint8{hint}")
    return np.moveaxis(mask_BHW[:3], 0, -1)


def without_data(image_HWB: np.ndarray, nodata: Nodata) -> np.ndarray:
    """(H, W) bool: the pixels that have no data. Integers may have the value in a band by chance; floats hardly do.

    Args:
        image_HWB: an image; or anything else of three axes, the last of them bands.
    """
    if nodata is None:
        return np.zeros(image_HWB.shape[:2], bool)
    if nodata == "nan":
        return ~np.isfinite(image_HWB).all(2)
    equal_HWB = image_HWB == nodata
    return equal_HWB.any(2) if image_HWB.dtype.kind == "f" else equal_HWB.all(2)


def write_image(path: Path, image_HWB: np.ndarray) -> None:
    """A plain, uncompressed TIFF."""
    height, width, bands = image_HWB.shape
    # GDAL would tag a fourth band as alpha, and readers that honour the tag change the other three.
    colour = {"photometric": "rgb", "alpha": "no"} if bands > 3 else {}
    with rasterio.open(
        path, "w", "GTiff", width, height, bands, dtype=image_HWB.dtype, interleave="pixel", **colour
    ) as file:
        file.write(np.moveaxis(image_HWB, -1, 0))


def _read(path: Path) -> np.ndarray:
    try:
        with rasterio.open(path) as file:
            if file.driver == "PNG":
                _verify_png(path)
            return file.read()
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
