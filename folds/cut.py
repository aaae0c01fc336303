"""Cut scenes of any size into tiles of one size, which lie where they lay, and write a config that reads them.

The config describes scenes as it would tiles: images, masks, classes. Its train scenes are cut edge to edge, but for
the last tiles of a row or column: they end where the scene ends, and overlap those before, so that nothing is lost and
nothing is made up. Tiles without a pixel that has data and a label are left out.

All tiles of a scene are one group, or of all scenes that `folds.groups: column` puts into one; with
`folds.block_tiles`, each block of so many tiles by itself, the same one of all scenes of a group. With
`folds.groups: georeference` their coordinates decide.

Whole scenes are labelled by `python -m ensemble.predict --images GLOB`, so test scenes are not cut.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio
import yaml
from PIL import Image
from rasterio.errors import RasterioError

from base.command import run, stage_parser
from base.errors import UserError, listed, refuse_all
from base.files import whole_folder
from base.threads import track_in_threads
from config import Experiment, load_experiment
from config.data import IGNORE_INDEX, NAME, Data
from folds.classes import ClassTable
from folds.files import find_tiles
from folds.groups import column_groups
from folds.images import place_of, read_strips, without_data, write_image

IMAGES, MASKS, TABLE = "images", "masks", "tiles.csv"  # under --out
Pieces = tuple[list[dict[str, Any]], int]
"""Of a scene: the rows of its tiles in the table, and how many were left out."""


@dataclass(frozen=True)
class Scene:
    """A train image with its mask."""

    name: str
    image: Path
    mask: Path
    group: str
    height: int
    width: int
    nodata_tag: float | None


def cut_scenes(config: Path, experiment: Experiment, px: int, out: Path) -> tuple[pd.DataFrame, int]:
    """Write `out`/images, masks, tiles.csv and a config. Returns the tiles' table, and how many were left out.

    Args:
        config: where the experiment was read from; the new config extends it.

    Raises:
        UserError: `out` is there already; lists scenes that are smaller than a tile, do not fit their masks, or are to
            be cut into blocks and differ in size from others of their group.
    """
    if experiment.folds.file:
        raise UserError(f"folds.file {experiment.folds.file} names scenes, not tiles; set folds.file=null")
    if out.exists():
        raise UserError(f"{out}: is there already; name another folder with --out, or delete this one")
    scenes = find_scenes(experiment, px)
    block_tiles = None if experiment.folds.by_place else experiment.folds.block_tiles
    if block_tiles:
        _refuse_other_sizes(scenes)
    with whole_folder(out) as aside:
        for folder in (IMAGES, MASKS):
            (aside / folder).mkdir()
        cut_each = partial(_cut_scene, data=experiment.data, px=px, block_tiles=block_tiles, out=aside)
        pieces = list(track_in_threads(cut_each, scenes, "cut scenes"))
        refuse_all(f"scenes in {experiment.data.root}", [each for each in pieces if isinstance(each, str)])
        tiles = pd.DataFrame([row for rows, _ in pieces for row in rows])
        if tiles.empty:
            raise UserError(f"{experiment.data.root}: no scene has a pixel with data and a label")
        tiles.to_csv(aside / TABLE, index=False)
        values = {"extends": str(config.absolute()), **tile_keys(experiment, px, out)}
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        (aside / f"{values['name']}.yaml").write_text(text, encoding="utf-8")
    return tiles, sum(left_out for _, left_out in pieces)


def find_scenes(experiment: Experiment, px: int) -> list[Scene]:
    """The train scenes of a data set, by their headers."""
    data, folds = experiment.data, experiment.folds
    train = find_tiles(data.model_copy(update={"test_images": None}))
    names = train.name.tolist()
    groups = column_groups(names, data, folds) if folds.groups == "column" else names
    scenes, problems = [], []
    for row, group in zip(train.itertuples(), groups, strict=True):
        image, mask = Path(data.root) / row.image, Path(data.root) / row.mask
        try:
            with rasterio.open(image) as file, rasterio.open(mask) as labels:
                scenes.append(Scene(row.name, image, mask, group, file.height, file.width, file.nodata))
                size, of_mask, bands = (file.height, file.width), (labels.height, labels.width), file.count
        except RasterioError as error:
            problems.append(f"{row.image} or {row.mask}: unreadable ({str(error)[:100]})")
            continue
        if min(size) < px:
            problems.append(f"{row.image}: {size[0]}x{size[1]} is smaller than a tile of {px} px")
        if of_mask != size:
            problems.append(f"{row.mask}: {of_mask[0]}x{of_mask[1]}, its image is {size[0]}x{size[1]}")
        if bands != len(data.bands):
            problems.append(f"{row.image}: {bands} bands, data.bands names {len(data.bands)}")
    refuse_all(f"scenes in {data.root}", problems)
    return scenes


def _refuse_other_sizes(scenes: list[Scene]) -> None:
    """Scenes of one group are cut into blocks alike, so that what is one place in two of them stays together."""
    sizes_of: dict[str, set[str]] = {}
    for scene in scenes:
        sizes_of.setdefault(scene.group, set()).add(f"{scene.height}x{scene.width}")
    problems = [
        f"group {group}: scenes of {' and '.join(sorted(sizes))}, of which no blocks are the same place"
        for group, sizes in sizes_of.items()
        if len(sizes) > 1
    ]
    refuse_all("folds.block_tiles needs scenes of one size in a group of folds.groups_column", problems)


def starts(length: int, px: int) -> list[int]:
    """Where the tiles of a row or column begin: edge to edge, the last one moved back to where the scene ends."""
    return [*range(0, length - px, px), length - px]


def block_of(start: int, length: int, px: int, block_tiles: int) -> int:
    """The number of the block that a tile stands in, along one axis. One that was moved back shares pixels with the
    tile before it, and so stands in its block."""
    return min(-(-start // px), length // px - 1) // block_tiles


def _cut_scene(scene: Scene, data: Data, px: int, block_tiles: int | None, out: Path) -> Pieces | str:
    """Or what is wrong with the scene's files, which is told together with what is wrong with others'."""
    try:
        return _write_tiles(scene, data, px, block_tiles, out)
    except UserError as error:
        return str(error)


def _write_tiles(scene: Scene, data: Data, px: int, block_tiles: int | None, out: Path) -> Pieces:
    classes = ClassTable.of(data)
    label_of = np.full(256, classes.blank_label, np.uint8)
    label_of[: len(classes)] = classes.labels
    rows, left_out = [], 0
    for top, left, image_HWB, index_HW in _windows(scene, data, classes, px):
        if (index_HW == IGNORE_INDEX).all():
            left_out += 1
            continue
        name = f"{scene.name}_{top:05d}_{left:05d}"
        place = place_of(scene.image, top, left)
        write_image(out / IMAGES / f"{name}.tif", image_HWB, nodata=scene.nodata_tag, **place)
        Image.fromarray(label_of[index_HW]).save(out / MASKS / f"{name}.png")
        group = scene.group
        if block_tiles:
            down = block_of(top, scene.height, px, block_tiles)
            right = block_of(left, scene.width, px, block_tiles)
            group = f"{scene.group}/{down}-{right}"
        rows.append({"name": name, "scene": scene.name, "group": group, "row": top, "col": left})
    return rows, left_out


def _windows(
    scene: Scene, data: Data, classes: ClassTable, px: int
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Row and column of each tile, its (H, W, B) values as they stand in the file, and its (H, W) indices, ignored
    where the image has no data. What is held of a scene is a strip as high as a tile."""
    tops = starts(scene.height, px)
    strips = zip(tops, read_strips(scene.image, tops, px), read_strips(scene.mask, tops, px), strict=True)
    for top, image_BHW, mask_BHW in strips:
        image_HWB, index_HW = np.moveaxis(image_BHW, 0, -1), classes.index_in(mask_BHW, scene.mask)
        index_HW[without_data(image_HWB, data.nodata)] = IGNORE_INDEX
        for left in starts(scene.width, px):
            here = slice(left, left + px)
            yield top, left, image_HWB[:, here], index_HW[:, here]


def tile_keys(experiment: Experiment, px: int, out: Path) -> dict[str, Any]:
    """What an experiment on the tiles has other than the one on the scenes, beside the given keys of both sections."""
    data, folds = experiment.data, experiment.folds
    classes = ClassTable.of(data)
    ignores = classes.ignore_label is not None or classes.ignore_color is not None or data.nodata is not None
    tiles = {
        "root": str(out.absolute()),
        "train_images": f"{IMAGES}/*.tif",
        "train_masks": f"{MASKS}/{NAME}.png",
        "test_images": None,
        "test_masks": None,
        "mask_values": "labels",
        "ignore_label": classes.blank_label if ignores else None,
        "ignore_color": None,
        "generate": None,
    }
    groups: dict[str, Any] = {}
    if not folds.by_place:
        groups = {"groups": "column", "groups_csv": TABLE, "groups_column": "group", "name_column": "name"}
        if folds.block_tiles:
            # Blocks side by side in two folds are what was asked for; the audit tells of them all the same.
            groups |= {"block_tiles": None, "allow": [*folds.allow, "neighbours_across_folds"]}
    return {
        "name": _name(experiment, px),
        "data": data.model_dump(mode="json", exclude_unset=True) | tiles,
        "folds": folds.model_dump(mode="json", exclude_unset=True) | groups,
    }


def _name(experiment: Experiment, px: int) -> str:
    """Of the experiment on the tiles, and of its config."""
    return f"{experiment.name}_{px}"


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("folds.cut", __doc__, "data.root=DIR --px 512 --out DIR_512")
    parser.add_argument("--px", type=int, required=True, help="side of a tile in pixels")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    args = parser.parse_intermixed_args(argv)
    lost = [word for word in args.overrides if word.split("=")[0].split(".")[0] not in ("name", "data", "folds")]
    if lost:
        raise UserError(f"{listed(lost)}: cutting reads name, data and folds; give other keys to run_cv.sh")
    if args.px < 1:
        raise UserError(f"--px {args.px}: expected 1 or more")
    experiment = load_experiment(args.config, args.overrides)
    tiles, left_out = cut_scenes(Path(args.config), experiment, args.px, args.out)
    groups, k = tiles.group.nunique(), experiment.folds.k
    print(
        f"{args.out}: {len(tiles)} tiles of {args.px} px from {tiles.scene.nunique()} scenes"
        + (f"; {left_out} without a pixel that has data and a label are left out" if left_out else "")
    )
    if not experiment.folds.by_place and groups < k:
        blocks = (
            "folds.groups=mosaic folds.block_tiles=4" if experiment.folds.groups == "none" else "folds.block_tiles=4"
        )
        print(f"{groups} groups are too few for {k} folds: cut into blocks, as with {blocks}, or lower folds.k")
    config = (args.out / f"{_name(experiment, args.px)}.yaml").absolute()
    print(f"train on them:       bash run_cv.sh {config}")
    print(f"label whole scenes:  python -m ensemble.predict --config {config} --images GLOB --out DIR")


if __name__ == "__main__":
    run(main)
