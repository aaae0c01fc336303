"""The stages whose growth `benchmarks.scaling` measures, each on synthetic tiles whose work per tile is constant.

A part prepares its input and returns the work that is timed. Tiles are small (PX) and a few of them stand for all, so
that 64,000 fit a disk and the minutes there are; what is measured is how time and memory go with their number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from PIL import Image

from base.files import hash_file
from benchmarks.ensemble_scale import WEIGHTS_ALONE
from benchmarks.submissions import big_competition, draw_landscapes, labels_of
from benchmarks.synthetic import draw_groups, draw_hists, draw_scan
from config.data import Folds
from ensemble.apply import labels_of as blended_labels
from ensemble.fit import fit_blend
from ensemble.fitted import uniform_blend
from ensemble.sample import draw_sample
from folds.assign import assign_folds, least_deviation, relative_deviation
from folds.audit import band_table, class_table, data_findings
from folds.classes import ClassTable
from folds.duplicates import find_duplicates
from folds.fold_audit import AuditedFolds, fold_findings
from folds.folds_csv import fold_violations
from folds.georeference import Beside
from folds.images import write_image
from folds.links import Links
from folds.mosaic import recover_mosaics
from folds.reader import TileReader
from folds.scan import Scan, scan_tiles
from folds.tiles import hist_of, tile_table
from pipeline.pack import write_pack
from pipeline.store import Store, open_store, write_store
from submissions.layout import Layout
from submissions.verify import verify_submission
from submissions.write import write_zip
from tests.played_run import member_probs

Work = Callable[[], object]

K, CLASSES, PX, BANDS, MODELS = 5, 10, 64, 4, 4
DISTINCT = 64  # tiles that stand for all
TILES_A_GROUP = 40
SCENE_SIDE = 10


def folds(tiles: int, folder: Path) -> Work:
    """Folds of single tiles, then of groups of 40."""
    hist_NC = draw_hists(np.random.default_rng(1), np.arange(tiles))
    group_N = draw_groups(tiles // TILES_A_GROUP, np.random.default_rng(0), tiles)
    return lambda: [assign_folds(hist_NC, each_N, K) for each_N in (np.arange(tiles), group_N)]


def scan(tiles: int, folder: Path) -> Work:
    """All tiles and masks read once for the audit: 4 bands."""
    found, reader = write_files(tiles, folder)
    (folder / "scan").mkdir()
    return lambda: scan_tiles(found, reader, BANDS, folder / "scan")


def pack(tiles: int, folder: Path) -> Work:
    """All tiles and masks decoded into the arrays that members read."""
    found, reader = write_files(tiles, folder)
    (folder / "pack").mkdir()
    return lambda: write_pack(folder / "pack", found, reader)


def write_files(tiles: int, folder: Path) -> tuple[pd.DataFrame, TileReader]:
    """DISTINCT images and masks on disk, and the table of many train tiles that they stand for."""
    rng = np.random.default_rng(0)
    for i in range(DISTINCT):
        write_image(folder / f"{i}.tif", rng.integers(1, 255, (PX, PX, BANDS), np.uint8))
        Image.fromarray(_truth(i) + 1).save(folder / f"{i}.png")
    of_N = np.arange(tiles) % DISTINCT
    files = {"image": [f"{i}.tif" for i in of_N], "mask": [f"{i}.png" for i in of_N]}
    found = pd.DataFrame({"name": [f"{n:06d}" for n in range(tiles)], "split": "train"} | files)
    labels = tuple(range(1, CLASSES + 1))
    classes = ClassTable(labels, tuple(f"class{label}" for label in labels), ((0, 0, 0),) * CLASSES)
    return found, TileReader(folder, classes)


def audit(tiles: int, folder: Path) -> Work:
    """The tile table, the tables and the findings of folds.check, without reading files and searching neighbours."""
    experiment, _ = big_competition(folder)
    classes, names = ClassTable.of(experiment.data), [f"{i:06d}" for i in range(tiles)]
    scan, neighbours = draw_scan(np.random.default_rng(0), SCENE_SIDE, tiles, PX, bands=1)
    group_N = draw_groups(tiles // TILES_A_GROUP, np.random.default_rng(0), tiles)
    scan.hist_NC[:] = draw_hists(np.random.default_rng(1), group_N)
    fold_N = group_N % K
    found = pd.DataFrame({"name": names, "split": "train", "image": names, "mask": names})
    asked = Folds.model_validate({"k": K, "groups": "mosaic"})
    columns = ["a", "b", "relation"]
    links = Links(
        neighbours=pd.DataFrame(sorted(neighbours), columns=columns),
        copies=pd.DataFrame(columns=["a", "b", "symmetry", "exact", "difference"]),
        places=pd.DataFrame(),
        evidence={},
    )

    def work() -> None:
        table = tile_table(found, scan, classes).assign(group=group_N.astype(str))
        hist_NC = hist_of(table, classes)
        bands = band_table(scan, table.split.to_numpy(), ["band"])
        class_table(table, hist_NC, classes.names)
        data_findings(table, scan, links, hist_NC, bands)
        fold_violations(table, pd.DataFrame({"name": names, "fold": fold_N}), K)
        folds = AuditedFolds(table, fold_N, hist_NC, classes.names, asked, table.group.to_numpy(), ours=True)
        fold_findings(folds, links, Beside.nothing_known(len(table)))
        relative_deviation(hist_NC, fold_N, K)
        least_deviation(hist_NC, group_N, K)

    return work


def _scan(tiles: int) -> Scan:
    return draw_scan(np.random.default_rng(0), SCENE_SIDE, tiles, PX, bands=1)[0]


def mosaic(tiles: int, folder: Path) -> Work:
    """Neighbours by borders of 64 pixels in one band: every border against every other."""
    scan = _scan(tiles)
    return lambda: recover_mosaics(scan, np.ones(tiles, bool))


def duplicates(tiles: int, folder: Path) -> Work:
    """Copies by thumbnails in one band, in eight positions."""
    scan = _scan(tiles)
    return lambda: find_duplicates(scan)


def store(tiles: int, folder: Path) -> Work:
    """A store written, opened and read in order: 10 classes of 64 x 64 pixels a tile."""
    probs_NCHW = np.stack([_member(np.random.default_rng(i), _truth(i)) for i in range(DISTINCT)])
    names, classes = [f"{i:06d}" for i in range(tiles)], [f"class{c}" for c in range(CLASSES)]

    def work() -> None:
        with write_store(folder / "store", names, classes, PX, PX, {}) as writer:
            for first in range(0, tiles, DISTINCT):
                writer.append(probs_NCHW[: min(DISTINCT, tiles - first)])
        written = open_store(folder / "store")
        into = np.empty(written.tile_shape, np.uint8)
        for tile in range(tiles):
            written.read_raw(tile, into)

    return work


def weights(tiles: int, folder: Path) -> Work:
    """The OOF sample drawn from the stores of 4 models, and their weights fitted on it."""
    source = RepeatedTiles(write_members(folder), tiles)
    return lambda: fit_blend(draw_sample(source, WEIGHTS_ALONE.sample_pixels), WEIGHTS_ALONE)


def blend(tiles: int, folder: Path) -> Work:
    """The stores of 4 models to labels."""
    source = RepeatedTiles(write_members(folder), tiles)
    fitted = uniform_blend(source.classes, source.models)
    return lambda: [None for _ in blended_labels(fitted, source)]


def zip_file(tiles: int, folder: Path) -> Work:
    """Labels encoded, zipped, verified and hashed."""
    experiment, table = big_competition(folder, tiles, PX)
    maps = np.ascontiguousarray(draw_landscapes(8, np.random.default_rng(0))[:, ::4, ::4])
    path = folder / "labels.zip"

    def work() -> None:
        write_zip(Layout.of(experiment, table), labels_of(maps, tiles), path)
        verify_submission(path, experiment, table)
        hash_file(path)

    return work


PARTS: dict[str, Callable[[int, Path], Work]] = {
    "scan": scan, "pack": pack, "folds": folds, "audit": audit, "mosaic": mosaic, "duplicates": duplicates,
    "store": store, "weights": weights, "blend": blend, "zip": zip_file,
}  # fmt: skip


@dataclass(frozen=True)
class RepeatedTiles:
    """DISTINCT stored tiles of each model under the names of many, as an OOF source."""

    stores: dict[str, Store]
    count: int
    specialists: ClassVar[dict[str, int]] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(f"class{c}" for c in range(CLASSES))

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self.stores)

    @cached_property
    def names(self) -> list[str]:
        return [f"{i:06d}" for i in range(self.count)]

    @cached_property
    def fold_N(self) -> np.ndarray:
        return np.arange(self.count) % K

    @cached_property
    def group_N(self) -> np.ndarray:
        return np.arange(self.count) // TILES_A_GROUP

    @cached_property
    def _truth_NHW(self) -> np.ndarray:
        return np.stack([_truth(i) for i in range(DISTINCT)])

    @cached_property
    def hist_NC(self) -> np.ndarray:
        hist_NC = np.stack([np.bincount(truth.ravel(), minlength=CLASSES) for truth in self._truth_NHW])
        return hist_NC[np.arange(self.count) % DISTINCT]

    def truth(self, i: int) -> np.ndarray:
        return self._truth_NHW[i % DISTINCT]

    def probs(self, i: int, models: Sequence[str]) -> np.ndarray:
        return np.stack([self.stores[model].read_raw(i % DISTINCT) for model in models])

    def evidence(self, i: int, specialists: Sequence[str]) -> np.ndarray:
        return np.zeros((0, PX, PX), np.uint8)


def write_members(folder: Path) -> dict[str, Store]:
    """Stores of MODELS members that err as networks do."""
    names, classes = [f"{i:06d}" for i in range(DISTINCT)], [f"class{c}" for c in range(CLASSES)]
    stores = {}
    for m in range(MODELS):
        path = folder / f"model{m}"
        with write_store(path, names, classes, PX, PX, {}) as writer:
            for i in range(DISTINCT):
                writer.append(_member(np.random.default_rng([i, m]), _truth(i))[None])
        stores[path.name] = open_store(path)
    return stores


def _member(rng: np.random.Generator, truth_HW: np.ndarray) -> np.ndarray:
    return member_probs(rng, truth_HW, CLASSES)


def _truth(i: int) -> np.ndarray:
    """(PX, PX) uint8: squares of 8 pixels, each of a random class."""
    return np.random.default_rng(i).integers(0, CLASSES, (PX // 8, PX // 8), np.uint8).repeat(8, 0).repeat(8, 1)
