"""Small pictures of tiles: true and false colour, masks, confidence, errors. Arrays in, encoded thumbnails out."""

import io
from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw

from config.data import IGNORE_INDEX
from folds.classes import ClassTable
from reports.page import Strip, Thumb

SIDE_PX = 128  # of a thumbnail: enough to recognise a field, little enough for hundreds of them
QUALITY = 82
ERROR_RGB = (222, 45, 38)
CONFIDENCE = colormaps["cividis"]  # readable for the colour-blind, and in grey


def overlay(rgb_HW3: np.ndarray, index_HW: np.ndarray, classes: ClassTable, share: float = 0.5) -> np.ndarray:
    """The mask's colours over the picture; ignored pixels show the picture alone."""
    mixed = ((1 - share) * rgb_HW3 + share * classes.to_rgb(index_HW)).astype(np.uint8)
    return np.where((index_HW == IGNORE_INDEX)[:, :, None], rgb_HW3, mixed)


def confidence_rgb(top_HW: np.ndarray) -> np.ndarray:
    """Probability of the label, dark where it is low."""
    return (CONFIDENCE(np.clip(top_HW, 0, 1))[:, :, :3] * 255).astype(np.uint8)


def error_rgb(rgb_HW3: np.ndarray, pred_HW: np.ndarray, truth_HW: np.ndarray) -> np.ndarray:
    """The picture in pale grey with wrong pixels in red."""
    grey = (rgb_HW3.mean(2, keepdims=True) * 0.5 + 120).astype(np.uint8).repeat(3, axis=2)
    wrong = (pred_HW != truth_HW) & (truth_HW != IGNORE_INDEX)
    return np.where(wrong[:, :, None], np.array(ERROR_RGB, np.uint8), grey)


def outlined(rgb_HW3: np.ndarray, region_HW: np.ndarray) -> np.ndarray:
    """The picture with a line around a region: white within black, seen on any ground. Small pictures are enlarged."""
    times = max(1, 2 * SIDE_PX // max(region_HW.shape))
    picture = np.ascontiguousarray(rgb_HW3.repeat(times, axis=0).repeat(times, axis=1))
    large_HW = region_HW.repeat(times, axis=0).repeat(times, axis=1)
    lines, _ = cv2.findContours(large_HW.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, lines, -1, (0, 0, 0), 5)
    cv2.drawContours(picture, lines, -1, (255, 255, 255), 2)
    return picture


def photo(rgb_HW3: np.ndarray, alt: str, label: str, side_px: int = SIDE_PX) -> Thumb:
    """A picture with many colours: WebP, a tenth of PNG's size."""
    return _thumb(rgb_HW3, "WEBP", alt, label, side_px)


def drawing(rgb_HW3: np.ndarray, alt: str, label: str, side_px: int = SIDE_PX) -> Thumb:
    """A picture with few, exact colours: PNG, and no mixing of neighbours."""
    return _thumb(rgb_HW3, "PNG", alt, label, side_px)


def _thumb(rgb_HW3: np.ndarray, kind: str, alt: str, label: str, side_px: int) -> Thumb:
    height, width = rgb_HW3.shape[:2]
    scale = side_px / max(height, width)
    if scale != 1:
        how = cv2.INTER_NEAREST if kind == "PNG" else cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
        rgb_HW3 = cv2.resize(rgb_HW3, (round(width * scale), round(height * scale)), interpolation=how)
    image = Image.fromarray(rgb_HW3)
    if kind == "PNG" and _few(rgb_HW3):  # masks have a dozen colours: a palette halves the file again
        image = image.quantize(256, method=Image.Quantize.FASTOCTREE)
    data = io.BytesIO()
    image.save(data, kind, **({"quality": QUALITY, "method": 4} if kind == "WEBP" else {}))
    return Thumb(data.getvalue(), f"image/{kind.lower()}", alt, label)


def _few(rgb_HW3: np.ndarray) -> bool:
    codes = rgb_HW3.reshape(-1, 3).astype(np.int32) @ np.array([65536, 256, 1])
    return len(np.unique(codes)) <= 200


def contact_sheet(strips: Sequence[Strip]) -> bytes:
    """A gallery as one PNG: a row of pictures per strip, its caption under it."""
    gap, line = 6, 18
    pictures = [[Image.open(io.BytesIO(thumb.data)).convert("RGB") for thumb in strip.thumbs] for strip in strips]
    width = max(sum(p.width + gap for p in row) for row in pictures) + gap
    heights = [max(p.height for p in row) + line + gap for row in pictures]
    sheet = Image.new("RGB", (max(width, 420), sum(heights) + gap), (253, 253, 252))
    draw = ImageDraw.Draw(sheet)
    top = gap
    for strip, row, height in zip(strips, pictures, heights, strict=True):
        left = gap
        for picture in row:
            sheet.paste(picture, (left, top))
            left += picture.width + gap
        draw.text((gap, top + height - line - gap + 2), strip.caption, fill=(31, 42, 55))
        top += height
    data = io.BytesIO()
    sheet.save(data, "PNG", compress_level=4)  # 6 takes three times as long for a tenth less
    return data.getvalue()
