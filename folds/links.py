"""Which tiles belong together by their pixels: neighbours and copies, found once and kept -> `runs/<name>/links/`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from base.files import read_json, whole_folder, write_json
from base.stamps import FolderResult
from base.tables import read_csv
from config import Run
from folds.duplicates import find_duplicates
from folds.files import full_names
from folds.mosaic import recover_mosaics
from folds.reader import TileReader
from folds.scan import Scan

FORMAT = "2"  # raised when the search changes, so that links found by an older one are searched anew
FOLDER, NEIGHBOURS, COPIES, PLACES, EVIDENCE = "links", "neighbours.csv", "copies.csv", "places.csv", "evidence.json"


@dataclass(frozen=True)
class Links:
    """Tiles are given by their position in the tile table."""

    neighbours: pd.DataFrame
    """a, b, relation (b stands `right` of or `below` a), cost, margin, found: see `folds.mosaic.Mosaics`."""
    copies: pd.DataFrame
    """a, b, symmetry, exact, difference: see `folds.duplicates.Duplicates`."""
    places: pd.DataFrame
    """A row per tile: mosaic (position of its first tile), row, col."""
    evidence: dict[str, Any]
    """margin, mirrored and borders of `folds.mosaic.Mosaics`; margin None: no pair was good enough for any."""


def find_links(scan: Scan) -> Links:
    """Copies first: a copy of a neighbour is as good a match as the neighbour, and would hide it."""
    duplicates = find_duplicates(scan)
    mosaics = recover_mosaics(scan, ~duplicates.copy_N)
    places = pd.DataFrame(
        {"mosaic": mosaics.mosaic_N, "row": mosaics.place_N2[:, 0], "col": mosaics.place_N2[:, 1]}, dtype=np.int64
    )
    # JSON knows no infinity, which is the margin where tiles have nothing to do with each other.
    margin = mosaics.margin if np.isfinite(mosaics.margin) else None
    evidence = {"margin": margin, "mirrored": mosaics.mirrored, "borders": mosaics.borders}
    return Links(mosaics.pairs, duplicates.pairs, places, evidence)


def open_links(run: Run, tiles: pd.DataFrame, scan: Scan, sources: str) -> Links:
    """The links of a tile table; searched now unless they are there.

    The files name tiles as split/name, for people and other programs.
    """
    folder = run.dir / FOLDER
    reader = TileReader.of(run.experiment.data)
    inputs = {"image and mask files": sources, **reader.folder_input, "format of links": FORMAT}
    tile_names = full_names(tiles)
    result = FolderResult(folder, run.data_keys, inputs)
    if result.is_fresh():
        return _read(folder, tile_names)
    links = find_links(scan)
    with whole_folder(folder) as aside:
        for pairs, file in ((links.neighbours, NEIGHBOURS), (links.copies, COPIES)):
            pairs.assign(a=tile_names[pairs.a], b=tile_names[pairs.b]).to_csv(aside / file, index=False)
        places = links.places.assign(mosaic=tile_names[links.places.mosaic])
        places.insert(0, "tile", tile_names)
        places.to_csv(aside / PLACES, index=False)
        write_json(aside / EVIDENCE, links.evidence)
    result.finish([folder / file for file in (NEIGHBOURS, COPIES, PLACES, EVIDENCE)])
    return links


def _read(folder: Path, tile_names: np.ndarray) -> Links:
    position = {name: n for n, name in enumerate(tile_names)}

    def read(file: str, *names: str) -> pd.DataFrame:
        table = read_csv(folder / file, dtype=dict.fromkeys(names, str))
        return table.assign(**{column: table[column].map(position).astype(np.int64) for column in names})

    places = read(PLACES, "mosaic").drop(columns="tile")
    return Links(read(NEIGHBOURS, "a", "b"), read(COPIES, "a", "b"), places, read_json(folder / EVIDENCE))
