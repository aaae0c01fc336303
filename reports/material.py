"""What all sections draw from, opened once, when first asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from base.errors import UserError, refuse_all
from base.files import hash_file
from base.stamps import changes, folder_stamp, hash_files, read_stamp
from config import Run, load_experiment
from config.experiment import flat
from ensemble.apply import apply_tile
from ensemble.build import BLEND, RunBlend, read_blend, refuse_outdated
from ensemble.fitted import FittedBlend, uniform_blend
from ensemble.oof import oof_table
from ensemble.stores import OofStores, ProvenStores, UnseenStores
from ensemble.worth import member_counts
from folds.audit import band_table
from folds.classes import ClassTable
from folds.folds_csv import folds_of
from folds.scan import Scan, open_scan
from folds.stretch import Stretch
from folds.tiles import hist_of, sources_of, tiles_of
from pipeline.pack import Pack, open_pack
from pipeline.store import MANIFEST
from reports.figures import css
from reports.look import OofLook, look_at_oof


def run_to_look_at(config: str, overrides: Sequence[str]) -> Run:
    """The run of an experiment, of which nothing is made again and nothing thrown away.

    Raises:
        UserError: there is no such run.
    """
    run = Run(load_experiment(config, overrides))
    if not run.dir.exists():
        raise UserError(f"{run.dir}: no such run. Run: bash run_cv.sh {config}")
    return run


def refuse_other_blend(run: Run) -> None:
    """A blend of other keys, models, members, weights or views than the run's of now is not shown as the run's.

    Raises:
        UserError: says what differs.
    """
    refuse_outdated(run)
    stamp = read_stamp(folder_stamp(run.blend_dir))
    then = {key: value for key, value in stamp.keys.items() if key == "predict" or key.startswith("members.")}
    now = {"predict": run.variant} | flat({"members": member_counts(run)})
    refuse_all(f"{run.blend_dir}: fit it anew (python -m ensemble.blend --config FILE)", changes(then, now))


@dataclass(frozen=True)
class Material:
    """A run's results. Each property raises a UserError with what to run where its result is not there yet."""

    run: Run

    @cached_property
    def classes(self) -> ClassTable:
        return ClassTable.of(self.run.experiment.data)

    @cached_property
    def tiles(self) -> pd.DataFrame:
        return tiles_of(self.run)

    @cached_property
    def train(self) -> pd.DataFrame:
        """The train rows of the tile table, in the pack's order."""
        return self.tiles[self.tiles.split == "train"].reset_index(drop=True)

    @cached_property
    def test(self) -> pd.DataFrame:
        return self.tiles[self.tiles.split == "test"].reset_index(drop=True)

    @cached_property
    def hist_NC(self) -> np.ndarray:
        """Pixels per train tile and class."""
        return hist_of(self.tiles, self.classes)

    @cached_property
    def pack(self) -> Pack:
        return open_pack(self.run, self.tiles)

    @cached_property
    def scan(self) -> Scan:
        """What is kept of every tile of the table; pixels without data count in none of it."""
        return open_scan(self.run, self.tiles, sources_of(self.run, self.tiles))

    @cached_property
    def bands(self) -> pd.DataFrame:
        """The audit's statistics of each split and band."""
        return band_table(self.scan, self.tiles.split.to_numpy(), self.run.experiment.data.bands)

    @property
    def legend(self) -> list[tuple[str, str]]:
        """(class name, CSS colour)."""
        return [(name, css(color)) for name, color in zip(self.classes.names, self.classes.colors, strict=True)]

    @cached_property
    def stretch(self) -> Stretch:
        """How pixels become colours."""
        return Stretch.of(self.scan, self.tiles.split.to_numpy(), self.run.experiment.data.bands)

    @cached_property
    def fold_N(self) -> np.ndarray:
        """Fold of each train tile, in the pack's order."""
        folds = folds_of(self.run).set_index("name").fold
        return folds.loc[self.train.name].to_numpy(np.int64)

    @cached_property
    def oof(self) -> OofStores:
        """The OOF predictions of all blended models."""
        return ProvenStores(self.run).oof

    def oof_inputs(self) -> dict[str, str]:
        """Hashes of what blended OOF predictions are made from: tiles, folds, stores by their manifests, the blend."""
        manifests = {str(member): hash_file(store.path / MANIFEST) for member, store in self.oof.stores.items()}
        return self.run.member_inputs() | manifests | hash_files([self.run.blend_dir / BLEND])

    @cached_property
    def unseen(self) -> UnseenStores:
        """Their test predictions."""
        return ProvenStores(self.run).unseen

    @cached_property
    def fitted(self) -> RunBlend | None:
        """The blend as `ensemble.blend` left it; None: not fitted yet."""
        if not (self.run.blend_dir / BLEND).exists():
            return None
        refuse_other_blend(self.run)
        return read_blend(self.run)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """The OOF table, which was written for that blend."""
        table = oof_table(self.run.blend_dir)
        refuse_other_blend(self.run)
        return table

    @cached_property
    def blend(self) -> FittedBlend:
        """What labels the test tiles; the plain mean where nothing was fitted."""
        return self.fitted.blend if self.fitted else uniform_blend(self.oof.classes, self.oof.models)

    @cached_property
    def blend_of(self) -> dict[int, FittedBlend]:
        """For each fold the blend that was fitted without it."""
        return self.fitted.blend_of if self.fitted else dict.fromkeys(range(self.run.experiment.folds.k), self.blend)

    def oof_labels(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Tile i of `oof`: its blended (C, H, W) probabilities and its (H, W) indices, by the blend that was fitted
        without its fold."""
        return apply_tile(self.blend_of[int(self.oof.fold_N[i])], self.oof, i)

    def unseen_labels(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """The same of tile i of `unseen`, by the blend that labels the test tiles."""
        return apply_tile(self.blend, self.unseen, i)

    @cached_property
    def look(self) -> OofLook:
        """The OOF predictions of a sample of tiles."""
        return look_at_oof(self.oof, self.blend_of)
