"""Small data sets for the tests: random, asymmetric, never black. A class is a colour, so that it can be learned."""

from pathlib import Path

import numpy as np
import rasterio
import yaml
from PIL import Image

TINY_CLASSES = [
    {"label": 1, "name": "field", "color": [177, 191, 122]},
    {"label": 2, "name": "forest", "color": [0, 128, 0]},
    {"label": 4, "name": "bare", "color": [128, 64, 0]},  # label 3 is not used: labels need not be dense
]


def draw_mask(rng: np.random.Generator, px: int, labels: list[int]) -> np.ndarray:
    """(px, px) uint8 labels: one class with a rectangle of another and a stripe of a third, all off centre."""
    first, second, third = rng.permutation(labels)[:3]
    mask_HW = np.full((px, px), first, np.uint8)
    top, left = rng.integers(1, px // 2, 2)
    mask_HW[top : top + px // 3, left : left + px // 2] = second
    mask_HW[rng.integers(px) :: px, :] = third
    mask_HW[: px // 5, -px // 7 :] = third
    return mask_HW


def draw_image(rng: np.random.Generator, mask_HW: np.ndarray, bands: int, dtype: str = "uint8") -> np.ndarray:
    """(px, px, bands): a spectrum per label plus noise."""
    top = np.iinfo(dtype).max
    spectra = np.random.default_rng(7).uniform(0.15, 0.85, (256, bands))  # the same spectra in every data set
    image = spectra[mask_HW] + rng.normal(0, 0.04, (*mask_HW.shape, bands))
    return (np.clip(image, 0.01, 1) * top).astype(dtype)


def write_tif(path: Path, image_HWB: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, bands = image_HWB.shape
    with rasterio.open(path, "w", "GTiff", width, height, bands, dtype=image_HWB.dtype) as file:
        file.write(np.moveaxis(image_HWB, -1, 0))


def write_mask(path: Path, mask_HW: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask_HW).save(path)


def write_tiny(
    root: Path, train: int = 9, test: int = 4, px: int = 32, bands: int = 4, seed: int = 0, dtype: str = "uint8"
) -> Path:
    """A whole data set in the competition's layout under `root`, with a scenes.csv of three tiles a scene.

    Test tiles are numbered from 000000 like train tiles: a name alone does not say the split.
    """
    rng = np.random.default_rng(seed)
    labels = [spec["label"] for spec in TINY_CLASSES]
    for split, count in (("train", train), ("test", test)):
        for i in range(count):
            mask_HW = draw_mask(rng, px, labels)
            write_tif(root / split / f"{i:06d}.tif", draw_image(rng, mask_HW, bands, dtype))
            if split == "train":
                write_mask(root / split / f"{i:06d}.png", mask_HW)
    rows = [f"{i:06d},scene{i // 3}" for i in range(train)]
    (root / "scenes.csv").write_text("\n".join(["name,scene", *rows]) + "\n")
    return root


def tiny_values(root: Path, out: Path) -> dict:
    """An experiment on `write_tiny(root)` that trains in seconds; all results go under `out`."""
    return {
        "name": "tiny",
        "runs_dir": str(out / "runs"),
        "zips_dir": str(out / "zips"),
        "data": {"root": str(root), "classes": TINY_CLASSES},
        "folds": {"k": 3, "groups": "column", "groups_csv": "scenes.csv"},
        "models": [{"name": "unet", "arch": "Unet", "encoder": "resnet18", "params": SMALL_UNET}],
        "train": {"epochs": 2, "batch": 3, "schedule": {"warmup_epochs": 0.5}},
    }


# Three levels and few channels: a step takes milliseconds.
SMALL_UNET = {"encoder_depth": 3, "decoder_channels": [16, 8, 8]}


def write_config(path: Path, values: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path
