"""One tile's labels, or their colours, as a PNG: the same bytes on every machine, and a strict reader."""

import io
import struct
import zlib
from importlib.metadata import version

import numpy as np
from PIL import Image

from submissions.problems import FlawError

try:
    import deflate
except ModuleNotFoundError:  # an environment of somebody's own: the zip is as good, its bytes are this machine's
    deflate = None

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# 6 is four times as fast as Pillow's default, and smaller on real masks by 19 %, larger on ragged ones by up to 6 %.
# 9 gains 6 to 16 % for six times the time.
LEVEL = 6
ENCODER = f"zlib {zlib.ZLIB_RUNTIME_VERSION}" if deflate is None else f"libdeflate of deflate {version('deflate')}"
"""Kept in the receipt: only the same encoder makes the same bytes."""
GREY, RGB = 0, 2
COLOR_TYPES = {GREY: "grey", RGB: "RGB", 3: "palette", 4: "grey and alpha", 6: "RGBA"}
OTHER_FILES = {b"\xff\xd8\xff": "a JPEG", b"II*\0": "a TIFF", b"MM\0*": "a TIFF", b"GIF8": "a GIF", b"BM": "a BMP"}


def encode(pixels: np.ndarray) -> bytes:
    """A PNG of (H, W) uint8 labels, or of (H, W, 3) uint8 colours, that depends on them alone.

    Not Pillow's or zlib's encoder: both hand the pixels to the zlib they were built with, and what zlib-ng (in Pillow's
    wheels) writes differs between x86 and ARM (trifectatechfoundation/zlib-rs#91) and between versions. libdeflate's
    output depends on its version alone (ebiggers/libdeflate#400), and requirements.txt pins that. Rows are not
    filtered: labels are names, not heights, and differences of neighbours compress worse (measured: by a fifth on
    real masks).
    """
    height, width, *colors = pixels.shape
    rows = pixels.reshape(height, -1)
    filtered = np.zeros((height, rows.shape[1] + 1), np.uint8)  # column 0: filter type 0, "none"
    filtered[:, 1:] = rows
    header = struct.pack(">IIBBBBB", width, height, 8, RGB if colors else GREY, 0, 0, 0)
    compress = zlib.compress if deflate is None else deflate.zlib_compress
    packed = compress(filtered.tobytes(), LEVEL)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def decode(data: bytes, height: int, width: int, color_type: int = GREY) -> np.ndarray:
    """(H, W) uint8 values of a PNG; (H, W, 3) for `color_type` RGB.

    Raises:
        FlawError: no PNG, a checksum or the end is wrong, another size, or not of 8 bits and that type. All of that is
            known from the chunks before a pixel is unpacked, so that a small file cannot claim a large memory.
    """
    chunks = _chunks(data)
    if chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise FlawError("unreadable", "PNG without a header")
    found_width, found_height, depth, color, _, _, _ = struct.unpack(">IIBBBBB", chunks[0][1])
    if (depth, color) != (8, color_type):
        kind = COLOR_TYPES.get(color, f"colour type {color}")
        raise FlawError("mode", f"{kind}, {depth} bits; expected {COLOR_TYPES[color_type]}, 8 bits")
    if any(name == b"acTL" for name, _ in chunks):
        raise FlawError("mode", "animated; expected one picture")
    if (found_height, found_width) != (height, width):
        raise FlawError("size", f"{found_height}x{found_width}; its image is {height}x{width}")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as file:
            return np.asarray(file)
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error, struct.error) as error:
        raise FlawError("unreadable", f"damaged PNG ({error})") from None


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _chunks(data: bytes) -> list[tuple[bytes, memoryview]]:
    """Names and contents of all chunks, their checksums compared: Pillow skips that of the pixels."""
    if not data.startswith(SIGNATURE):
        kind = next((kind for magic, kind in OTHER_FILES.items() if data.startswith(magic)), "no PNG")
        raise FlawError("unreadable", f"it is {kind if data else 'empty'}; expected a PNG")
    view, at, chunks = memoryview(data), len(SIGNATURE), []
    while not chunks or chunks[-1][0] != b"IEND":
        if at + 12 > len(data) or at + 12 + (length := int.from_bytes(view[at : at + 4])) > len(data):
            raise FlawError("unreadable", "truncated PNG")
        body, checksum = view[at + 4 : at + 8 + length], view[at + 8 + length : at + 12 + length]
        if zlib.crc32(body) != int.from_bytes(checksum):
            raise FlawError("unreadable", "PNG with a wrong checksum")
        chunks.append((bytes(body[:4]), body[4:]))
        at += 12 + length
    return chunks
