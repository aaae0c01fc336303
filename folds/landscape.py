"""The generated demo competition: draw big scenes and cut them into tiles -> `data.root`.

The folder looks like the competition's: `train/NNNNNN.tif` with `train/NNNNNN.png`, `test/NNNNNN.tif`, 4 bands of
uint8, one-channel labels. Beside it lies what a competitor never sees: `truth/NNNNNN.png`, the labels of the test
tiles, and `scenes.csv`, from which scene, row and column every tile was cut. Numbers are shuffled within train and
within test, so that a name tells nothing about neighbours; no number occurs twice.
"""

import re
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from PIL import Image

from base.command import run, stage_parser
from base.errors import UserError, listed
from base.files import read_json, whole_folder, write_json
from base.progress import track
from config import load_experiment
from config.data import LANDSCAPE_CLASSES, Data, Landscape
from folds.classes import ClassTable
from folds.images import write_image
from folds.scenery import draw_scene

GENERATOR = 1  # raised whenever the same keys draw other pixels: folders drawn before are then drawn again
DRAWN = re.compile(r"(train|test)/\d{6}\.tif|(train|truth)/\d{6}\.png|scenes\.csv|landscape\.json")


def make_landscape(data: Data) -> bool:
    """Draw the competition of `data.generate` into `data.root`; return whether there was anything to draw.

    A folder that holds exactly this landscape stays as it is. One that was drawn from other keys, or that lacks
    files, is replaced when the new one is whole.

    Raises:
        UserError: the folder holds files that were not drawn here.
    """
    if data.generate is None:
        return False
    root = Path(data.root).resolve()  # resolved: a link to a folder stays, the folder is replaced
    tiles = tile_places(data.generate)
    recipe = _recipe(data)
    if _is_drawn(root, recipe, tiles):
        return False
    _refuse_foreign_files(root)
    with whole_folder(root) as aside:
        for folder in ("train", "test", "truth"):
            (aside / folder).mkdir()
        scenes = tiles.groupby(["split", "scene"], sort=False)
        # Threads: drawing, GDAL and zlib work outside the interpreter's lock.
        done = Parallel(n_jobs=-1, prefer="threads", return_as="generator_unordered")(
            delayed(_draw_tiles)(aside, data, split, number, rows) for (split, number), rows in scenes
        )
        for _ in track(done, "draw scenes", total=len(scenes)):
            pass
        named = tiles.assign(scene=tiles.split + "-" + tiles.scene.astype(str))
        named.to_csv(aside / "scenes.csv", index=False)
        write_json(aside / "landscape.json", recipe)
    return True


def tile_places(spec: Landscape) -> pd.DataFrame:
    """Where every tile lies: columns name, split, scene, row, col; scenes are counted in each split."""
    rng = np.random.default_rng(spec.seed)
    side = range(spec.scene_tiles)
    tables = []
    first = 1
    for split, scenes in (("train", spec.train_scenes), ("test", spec.test_scenes)):
        table = pd.DataFrame(product(range(scenes), side, side), columns=["scene", "row", "col"])
        names = [f"{number:06d}" for number in first + rng.permutation(len(table))]
        first += len(table)
        table.insert(0, "name", names)
        table.insert(1, "split", split)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("folds.landscape", __doc__)
    args = parser.parse_intermixed_args(argv)
    data = load_experiment(args.config, args.overrides).data
    if data.generate is None:
        print(f"{args.config}: no data.generate, nothing to draw; the data lies in {data.root}")
        return
    drawn = make_landscape(data)
    counts = tile_places(data.generate).split.value_counts()
    print(
        f"{data.root}: {counts['train']} train and {counts['test']} test tiles of {data.generate.tile_px} px"
        f"{'' if drawn else ', drawn before'}"
    )


def _recipe(data: Data) -> dict:
    """All that decides the files, as `landscape.json` keeps it."""
    labels = {c.name: c.label for c in data.classes}
    return {"generator": GENERATOR, **data.generate.model_dump(), "labels": labels}


def _is_drawn(root: Path, recipe: dict, tiles: pd.DataFrame) -> bool:
    try:
        if read_json(root / "landscape.json") != recipe:
            return False
    except (OSError, ValueError):
        return False
    train, test = (tiles.name[tiles.split == split] for split in ("train", "test"))
    expected = {"scenes.csv", *(f"train/{name}{ending}" for name in train for ending in (".tif", ".png"))}
    expected |= {f"{file}" for name in test for file in (f"test/{name}.tif", f"truth/{name}.png")}
    return expected <= _files(root)


def _refuse_foreign_files(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise UserError(f"{root}: a file; data.generate needs a folder of its own, set data.root=DIR")
    foreign = sorted(file for file in _files(root) if not DRAWN.fullmatch(file))
    own = (root / "landscape.json").exists() or not any(root.glob("*"))
    if foreign or not own:
        found = listed(foreign) if foreign else "tiles without landscape.json"
        raise UserError(
            f"{root}: holds what was not drawn here ({found}), and data.generate would replace it; "
            f"set data.root to a folder of its own, or data.generate=null to use the data that is there"
        )


def _files(root: Path) -> set[str]:
    """Every file under a folder, relative to it, with forward slashes; none if it does not exist."""
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}


def _draw_tiles(folder: Path, data: Data, split: str, scene: int, tiles: pd.DataFrame) -> None:
    """Draw one scene and write its tiles."""
    spec = data.generate
    image_HWB, class_HW = draw_scene(
        spec.seed, split, scene, spec.scene_tiles * spec.tile_px, spec.floor, spec.test_shift
    )
    # The scenery's numbers follow LANDSCAPE_CLASSES; the experiment may list the classes in another order.
    names = ClassTable.of(data).names
    index_of = np.array([names.index(name) for name in LANDSCAPE_CLASSES], np.uint8)
    label_HW = ClassTable.of(data).to_label(index_of[class_HW])
    labels_folder = "train" if split == "train" else "truth"
    for tile in tiles.itertuples():
        top, left = tile.row * spec.tile_px, tile.col * spec.tile_px
        where = slice(top, top + spec.tile_px), slice(left, left + spec.tile_px)
        write_image(folder / split / f"{tile.name}.tif", image_HWB[where])
        Image.fromarray(label_HW[where]).save(folder / labels_folder / f"{tile.name}.png")


if __name__ == "__main__":
    run(main)
