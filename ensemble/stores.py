"""The probability stores of a run as what a blend reads: `ProvenStores.oof` of train tiles, `.unseen` of test tiles."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from base.errors import UserError, listed
from config import Member, Run
from folds.classes import ClassTable
from folds.folds_csv import folds_of
from folds.tiles import hist_of, tiles_of
from pipeline.check import check_stores
from pipeline.finished import Kind
from pipeline.pack import open_pack
from pipeline.quantise import quantise
from pipeline.store import Store, open_store


@dataclass(frozen=True)
class Stores(ABC):
    """An `ensemble.source.Source` whose probabilities lie in stores; who derives from it says in which a tile's are."""

    classes: tuple[str, ...]
    models: tuple[str, ...]
    specialists: dict[str, int]
    names: list[str]

    @abstractmethod
    def _stored(self, i: int, model: str) -> list[tuple[Store, int]]:
        """The stores of which a model's probabilities of tile i are the mean, each with the tile's place in it."""

    def probs(self, i: int, models: Sequence[str]) -> np.ndarray:
        stored = [self._stored(i, model) for model in models]
        store, _ = stored[0][0]
        raw_MCHW = np.empty((len(models), *store.tile_shape), store.dtype)
        for of_model, raw_CHW in zip(stored, raw_MCHW, strict=True):
            _read_mean(of_model, raw_CHW)
        return raw_MCHW

    def evidence(self, i: int, specialists: Sequence[str]) -> np.ndarray:
        height, width = self._stored(i, self.models[0])[0][0].size_px
        return np.array([self.model_probs(i, name)[0] for name in specialists]).reshape(-1, height, width)

    def model_probs(self, i: int, model: str) -> np.ndarray:
        """(C, H, W) of tile i by one model or specialist, as stored."""
        return _read_mean(self._stored(i, model))


@dataclass(frozen=True)
class OofStores(Stores):
    """An `ensemble.source.OofSource`: a model's probabilities are the mean over its seeds."""

    fold_N: np.ndarray
    group_N: np.ndarray
    hist_NC: np.ndarray
    mask_NHW: np.ndarray
    """Of all train tiles, memory-mapped; `row_N` says which is whose."""
    row_N: np.ndarray
    stores: dict[Member, Store]
    row_of: dict[Member, dict[str, int]]
    """Tile -> its place in the member's store."""

    def truth(self, i: int) -> np.ndarray:
        return self.mask_NHW[self.row_N[i]]

    def members(self, i: int, model: str) -> list[Member]:
        """The model's members that never saw tile i: one per seed."""
        fold = int(self.fold_N[i])
        return [member for member in self.stores if member.model.name == model and member.fold == fold]

    def member_probs(self, i: int, member: Member) -> np.ndarray:
        """(C, H, W) of tile i, of the member's fold, as stored."""
        store, row = self._stored_by(i, member)
        return store.read_raw(row)

    def _stored(self, i: int, model: str) -> list[tuple[Store, int]]:
        return [self._stored_by(i, member) for member in self.members(i, model)]

    def _stored_by(self, i: int, member: Member) -> tuple[Store, int]:
        return self.stores[member], self.row_of[member][self.names[i]]


@dataclass(frozen=True)
class UnseenStores(Stores):
    """Test tiles: each model's stored probabilities are the mean over its folds and seeds."""

    stores: dict[str, Store]

    def _stored(self, i: int, model: str) -> list[tuple[Store, int]]:
        return [(self.stores[model], i)]


@dataclass(frozen=True)
class FoldStores(Stores):
    """Some test tiles, each model's probabilities by the members of one fold: as OOF tiles are predicted, and as test
    tiles are not."""

    stores: dict[str, list[Store]]
    """Of each model's members, one per seed."""

    def _stored(self, i: int, model: str) -> list[tuple[Store, int]]:
        return [(store, i) for store in self.stores[model]]


def _read_mean(stored: list[tuple[Store, int]], out_CHW: np.ndarray | None = None) -> np.ndarray:
    """(C, H, W) mean of a tile's probabilities by several stores, into an array if one is given; rounded like the mean
    over folds and seeds that is stored for the test tiles."""
    if len(stored) == 1:
        ((store, row),) = stored
        return store.read_raw(row, out_CHW)
    mean_CHW = np.mean([store.read(row) for store, row in stored], axis=0, dtype=np.float32)
    raw_CHW = quantise(mean_CHW[None], stored[0][0].dtype.name)[0]
    if out_CHW is None:
        return raw_CHW
    out_CHW[:] = raw_CHW
    return out_CHW


class ProvenStores:
    """A run's stores, as one command reads them: proven once, and opened when they are first asked for."""

    def __init__(self, run: Run):
        self.run = run
        self._proven: set[Kind] = set()

    def prove(self, *kinds: Kind) -> None:
        """`check_stores`, of what has not been proven yet. Every member's weights are hashed for it.

        Raises:
            UserError: stores that contradict tiles, folds or experiment; lists them all.
        """
        if new := [kind for kind in kinds if kind not in self._proven]:
            check_stores(self.run, kinds=new)
            self._proven.update(new)

    @cached_property
    def oof(self) -> OofStores:
        """The OOF predictions of all blended models.

        Raises:
            UserError: stores that are not there, or contradict tiles, folds or experiment; lists them all.
        """
        run = self.run
        models = run.experiment.blended_models
        members = run.oof_members(models)
        missing = [member for member in members if not run.oof_store(member).exists()]
        if missing:
            raise UserError(
                f"run {run.experiment.name!r}: {len(missing)} of {len(members)} members have no OOF predictions "
                f"({run.variant}): {listed(missing)}. Run: python -m pipeline.cv --config FILE"
            )
        self.prove("oof")
        stores = {member: open_store(run.oof_store(member)) for member in members}
        tiles = tiles_of(run)
        pack = open_pack(run, tiles)
        train = tiles[tiles.split == "train"].reset_index(drop=True)
        folds = folds_of(run).set_index("name").fold
        rows = np.flatnonzero(train.name.isin(folds.index))
        names = train.name[rows].tolist()
        return OofStores(
            **_blended(run),
            names=names,
            fold_N=folds[names].to_numpy(np.int64),
            group_N=pd.factorize(train.group[rows])[0],
            hist_NC=hist_of(tiles, ClassTable.of(run.experiment.data))[rows],
            mask_NHW=pack.train_mask_NHW,
            row_N=rows,
            stores=stores,
            row_of={member: {name: row for row, name in enumerate(store.names)} for member, store in stores.items()},
        )

    @cached_property
    def unseen(self) -> UnseenStores:
        """The test predictions of all blended models.

        Raises:
            UserError: stores that are not there, or contradict tiles, folds or experiment; lists them all.
        """
        run = self.run
        models = run.experiment.blended_models
        missing = [model.name for model in models if not run.test_store(model).exists()]
        if missing:
            raise UserError(
                f"blend {run.experiment.blend.name!r}: no test predictions ({run.variant}) of {', '.join(missing)}. "
                f"Run: python -m pipeline.cv --config FILE"
            )
        self.prove("test")
        stores = {model.name: open_store(run.test_store(model)) for model in models}
        first = next(iter(stores.values()))
        in_other_order = [str(run.test_store(model)) for model in models if stores[model.name].names != first.names]
        if in_other_order:
            raise UserError(
                f"test predictions are read side by side, but {listed(in_other_order)} list the tiles in another order "
                f"than the rest: delete them, and run python -m pipeline.cv --config FILE"
            )
        return UnseenStores(**_blended(run), names=first.names, stores=stores)


def excerpt_stores(run: Run, source: UnseenStores) -> dict[int, FoldStores] | None:
    """Fold -> what its members say of some test tiles; None where that was not kept, or by members other than those
    whose mean `source` holds (a run of older code, or a folder that was removed)."""
    models = run.experiment.blended_models
    stores: dict[int, dict[str, list[Store]]] = {fold: {} for fold in range(run.experiment.folds.k)}
    for model in models:
        made_from = source.stores[model.name].manifest["members"]
        for member in run.members(model):
            path = run.test_excerpt(member)
            excerpt = open_store(path) if path.exists() else None
            if excerpt is None or excerpt.manifest["weights_sha256"] != made_from[str(member)]:
                return None
            if member.fold is not None:  # a member trained on every tile has no part in the honest score
                stores[member.fold].setdefault(model.name, []).append(excerpt)
    names = next(iter(stores[0].values()))[0].names
    return {
        fold: FoldStores(source.classes, source.models, source.specialists, names, of_model)
        for fold, of_model in stores.items()
    }


def _blended(run: Run) -> dict[str, Any]:
    """The fields of `Stores` that a run's blended models have in common."""
    classes, models = ClassTable.of(run.experiment.data).names, run.experiment.blended_models
    return {
        "classes": classes,
        "models": tuple(model.name for model in models if model.target == "all"),
        "specialists": {model.name: classes.index(model.target) for model in models if model.target != "all"},
    }
