"""Recovered mosaics as pictures: the tiles laid out at the places that their borders tell."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from base.files import whole_folder
from base.stamps import FolderResult, hash_files
from base.threads import track_in_threads
from config import Run
from folds import links
from folds.cells import cell_means
from folds.reader import TileReader
from folds.scan import Scan
from folds.stretch import Stretch

MOSAICS = 40  # pictures at most, the largest mosaics first
LONG_SIDE_PX = 2048
GAP_PX = 1
TEST_FRAME = (255, 60, 60)
EMPTY = (235, 235, 235)

FOLDER = "mosaic"  # of a run
INDEX = "mosaics.csv"  # of the pictures: file and number of tiles


def write_mosaics(run: Run, tiles: pd.DataFrame, places: pd.DataFrame, scan: Scan) -> list[Path]:
    """One PNG per mosaic of two tiles or more, in `mosaic/`, unless they are there; return their paths.

    They are named by rank, first tile and size. Tiles of the test set have a frame.

    Args:
        places: of `folds.links.Links`, a row per row of `tiles`.
    """
    folder, data = run.dir / FOLDER, run.experiment.data
    result = FolderResult(folder, run.data_keys, hash_files([run.dir / links.FOLDER / links.PLACES]))
    if not result.is_fresh():
        sizes = places.mosaic.value_counts()
        chosen = sizes[sizes > 1].sort_index(kind="stable").sort_values(ascending=False, kind="stable")[:MOSAICS]
        reader, stretch = TileReader.of(data), Stretch.of(scan, tiles.split.to_numpy(), data.bands)

        def draw(mosaic: int) -> np.ndarray:
            of = places.mosaic == mosaic
            return _draw(tiles[of], places[of], reader, stretch)

        with whole_folder(folder) as aside:
            names = []
            pictures = track_in_threads(draw, chosen.index, "draw mosaics")
            for rank, (mosaic, picture) in enumerate(zip(chosen.index, pictures, strict=True)):
                first = tiles.iloc[mosaic]
                name = f"{rank + 1:02d}-{first.split}-{first['name']}-{chosen[mosaic]}-tiles.png"
                Image.fromarray(picture).save(aside / name)
                names.append(name)
            # There even where no mosaic is, so that finding none is a result too, and is not looked for again.
            pd.DataFrame({"picture": names, "tiles": chosen.to_numpy()}).to_csv(aside / INDEX, index=False)
        result.finish([folder / INDEX, *sorted(folder.glob("*.png"))])
    return sorted(folder.glob("*.png"))


def _draw(tiles: pd.DataFrame, places: pd.DataFrame, reader: TileReader, stretch: Stretch) -> np.ndarray:
    """(rows, columns, 3) uint8 of one mosaic."""
    rows, columns = places.row.max() + 1, places.col.max() + 1
    height, width = int(tiles.height.iloc[0]), int(tiles.width.iloc[0])
    cell = int(np.clip(LONG_SIDE_PX // max(rows, columns), 16, min(height, width)))
    picture = np.full((rows * (cell + GAP_PX) + GAP_PX, columns * (cell + GAP_PX) + GAP_PX, 3), EMPTY, np.uint8)
    for tile, place in zip(tiles.itertuples(), places.itertuples(), strict=True):
        top, left = (GAP_PX + at * (cell + GAP_PX) for at in (place.row, place.col))
        here = picture[top : top + cell, left : left + cell]
        here[:] = stretch.true_color(cell_means(reader.image(tile.image)[0], cell))
        if tile.split == "test":
            frame = max(cell // 64, 1)
            here[:frame] = here[-frame:] = here[:, :frame] = here[:, -frame:] = TEST_FRAME
    return picture
