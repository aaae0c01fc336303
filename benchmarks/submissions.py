"""Does verify catch what it must, and are 7,000 tiles written and verified in seconds?

python -m benchmarks.submissions [--json FILE]
"""

import io
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter

from base.command import add_json, plain_parser, run, write_figures
from benchmarks.measure import seconds, told
from config import Experiment, Run
from folds.tiles import make_tiles
from submissions.layout import Layout
from submissions.verify import verify_submission
from submissions.write import write_submission
from tests.corruptions import CLASSES, CORRUPTIONS, SHARES, Zip, draw_labels, write_competition, write_spoiled
from tests.tiny import tiny_values

TILES, PX = 7000, 256
GOOD_ZIPS = 21
REPEATS = 3


def small_competition(folder: Path, format: str) -> tuple[Experiment, pd.DataFrame]:
    values = tiny_values(folder, folder) | {"folds": {"k": 3}, "submission": {"format": format}}
    values["data"] = write_competition(folder / "data")
    experiment = Experiment.model_validate(values)
    return experiment, make_tiles(Run(experiment))


def judge_all(folder: Path) -> dict[str, int]:
    """Every corruption once, and GOOD_ZIPS good zips of the three formats."""
    caught, false_alarms = 0, 0
    worlds = {format: small_competition(folder / format, format) for format in ("png", "color_png", "geotiff", "rle")}

    def good(format: str, seed: int) -> Zip:
        layout, rng = Layout.of(*worlds[format]), np.random.default_rng(seed)
        return Zip(layout, {name: draw_labels(rng) for name in layout.tiles})

    path = folder / "judged.zip"
    for name, (kind, format, _) in CORRUPTIONS.items():
        write_spoiled(name, good(format, 0), path)
        found = {problem.kind for problem in verify_submission(path, *worlds[format]).problems}
        caught += kind in found
        if kind not in found:
            print(f"missed: {name}, a problem of kind {kind}; found {sorted(found) or 'nothing'}")
    for seed in range(GOOD_ZIPS):
        format = list(worlds)[seed % 3]
        good(format, 100 + seed).write(path)
        false_alarms += bool(verify_submission(path, *worlds[format]).problems)
    return {"corruptions_caught": caught, "corruptions_tried": len(CORRUPTIONS), "false_alarms": false_alarms}


def draw_landscapes(count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, PX, PX) uint8 indices: smooth regions, SHARES of each class, edges a little ragged as networks draw them.

    Some 4 KB a tile as a PNG; masks of the naip set have 1.6 KB, and 5 KB with 3 % of their pixels random.
    """
    maps = np.empty((count, PX, PX), np.uint8)
    edges = np.cumsum(SHARES)[:-1]
    for i in range(count):
        height = (
            gaussian_filter(rng.normal(size=(PX, PX)), 20) * 50 + gaussian_filter(rng.normal(size=(PX, PX)), 1.5) / 10
        )
        rank = np.argsort(np.argsort(height.ravel())) / height.size  # uniform: shares come out as wanted
        maps[i] = np.searchsorted(edges, rank).reshape(PX, PX)
    return maps


def big_competition(folder: Path, count: int = TILES, px: int = PX) -> tuple[Experiment, pd.DataFrame]:
    """Test tiles that have no images: the PNG format needs none."""
    values = tiny_values(folder, folder) | {"folds": {"k": 3}, "data": {"root": str(folder), "classes": CLASSES}}
    names = [f"{i:06d}" for i in range(count)]
    test = pd.DataFrame({"name": names, "split": "test", "image": names, "height": px, "width": px, "group": None})
    train = test[:200].assign(split="train", group=names[:200])
    for spec, share in zip(CLASSES, SHARES, strict=True):
        train[spec["name"]] = int(share * px * px)
    return Experiment.model_validate(values), pd.concat([train, test], ignore_index=True)


def labels_of(maps: np.ndarray, count: int = TILES) -> Iterator[tuple[str, np.ndarray]]:
    """Different tiles from a few landscapes: each rolled by another offset."""
    for i in range(count):
        yield f"{i:06d}", np.roll(maps[i % len(maps)], (7 * i, 11 * i), axis=(0, 1))


def write_plainly(path: Path, maps: np.ndarray) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, index_HW in labels_of(maps):
            buffer = io.BytesIO()
            Image.fromarray(index_HW + 1).save(buffer, "png")
            archive.writestr(f"results/{name}.png", buffer.getvalue())


def time_all(folder: Path) -> dict[str, float]:
    """Seconds of REPEATS interleaved rounds; each figure is the middle round's."""
    experiment, tiles = big_competition(folder)
    maps = draw_landscapes(48, np.random.default_rng(0))
    zip_path, plain_path = Run(experiment).zip_path, folder / "plain.zip"
    drawing, ours, plain, verifying = [], [], [], []
    with redirect_stderr(io.StringIO()):
        for _ in range(REPEATS):
            drawing.append(seconds(lambda: [None for _ in labels_of(maps)]))
            plain.append(seconds(lambda: write_plainly(plain_path, maps)))
            ours.append(seconds(lambda: write_submission(Run(experiment), tiles, labels_of(maps), {})))
            verifying.append(seconds(lambda: verify_submission(zip_path, experiment, tiles)))
    sizes = [path.stat().st_size / TILES for path in (zip_path, plain_path)]
    print(f"{TILES} tiles of {PX}x{PX}, {sizes[0]:.0f} bytes a tile; with Pillow's encoder {sizes[1]:.0f}")
    print(f"drawing the labels, part of both writers' time: {told(drawing, 2)} s")
    print(
        f"write, verify what was written, receipt, ledger: {told(ours, 2)} s; "
        f"Pillow and zipfile alone: {told(plain, 2)} s"
    )
    print(f"verify: {told(verifying, 2)} s")
    return {
        "verify_7000_s": float(np.median(verifying)),
        "write_tiles_s": TILES / float(np.median(ours)),
        "write_vs_plain": float(np.median(np.array(plain) / np.array(ours))),
    }


def main(argv: list[str] | None = None) -> None:
    parser = plain_parser("benchmarks.submissions", __doc__)
    add_json(parser)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        figures = judge_all(Path(folder)) | time_all(Path(folder))
    print("\n".join(f"{key} {value:.4g}" for key, value in figures.items()))
    write_figures(args.json, figures)


if __name__ == "__main__":
    run(main)
