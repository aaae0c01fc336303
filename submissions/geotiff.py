"""One tile's labels as a GeoTIFF that lies where the tile's image lies."""

from pathlib import Path
from typing import Any

import numpy as np
from rasterio import Affine
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from base.errors import UserError
from folds.images import place_in, place_of
from submissions.problems import FlawError

SAME = 1e-9  # how far apart coordinates that are the same may be: writers round


def encode(label_HW: np.ndarray, image: Path) -> bytes:
    """A one-band GeoTIFF of uint8 labels with the coordinates of `image`; without any if the image has none.

    LZW, because its output is fixed by the algorithm: deflate's depends on the zlib that GDAL was built with.
    """
    place = _place(image)
    height, width = label_HW.shape
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", width=width, height=height, count=1, dtype="uint8", compress="lzw", **place
        ) as file:
            file.write(label_HW, 1)
        return bytes(memory.getbuffer())


def decode(data: bytes, height: int, width: int, image: Path) -> np.ndarray:
    """(H, W) uint8 values of a GeoTIFF.

    Raises:
        FlawError: no TIFF or damaged, another size, several bands, not uint8, a palette, or other coordinates than
            `image`. The header is judged before a pixel is unpacked.
        UserError: `image` cannot be read.
    """
    place = _place(image)
    try:
        with MemoryFile(data) as memory, memory.open(driver="GTiff") as file:
            if file.count != 1 or file.dtypes[0] != "uint8" or file.colorinterp[0].name == "palette":
                kind = f"{file.colorinterp[0].name}, {file.count} bands of {file.dtypes[0]}"
                raise FlawError("mode", f"{kind}; expected one grey band of uint8")
            if (file.height, file.width) != (height, width):
                raise FlawError("size", f"{file.height}x{file.width}; its image is {height}x{width}")
            if not _is_same(place_in(file), place):
                raise FlawError("georeference", "lies elsewhere than its image")
            return file.read(1)
    except RasterioError as error:
        raise FlawError("unreadable", f"no TIFF, or damaged ({str(error).splitlines()[0][:100]})") from None


def _place(image: Path) -> dict[str, Any]:
    try:
        return place_of(image)
    except RasterioError as error:
        raise UserError(f"{image}: unreadable, and the submission takes its coordinates from it ({error})") from None


def _is_same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    points, wanted = ([(p.row, p.col, p.x, p.y) for p in place.get("gcps", [])] for place in (found, expected))
    transform, other = (place.get("transform", Affine.identity()) for place in (found, expected))
    return (
        found.get("crs") == expected.get("crs")
        and transform.almost_equals(other, precision=SAME)
        and len(points) == len(wanted)
        and np.allclose(points, wanted, rtol=0, atol=SAME)
    )
