"""The OOF table: mIoU and IoU per class of every member, every model, and every step of the blend, with intervals.

Members that have predicted with other weights or views too stand beside those that the blend is of.
"""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from base.command import add_json, stage_parser, write_figures
from base.command import run as run_command
from base.errors import UserError
from base.files import hash_file, whole_file
from base.screen import screen
from base.stamps import FileResult
from base.tables import read_csv, records, write_csv
from base.threads import track_in_threads
from config import Member, Run, load_experiment, open_run
from config.data import IGNORE_INDEX, OOF_COLUMNS
from config.ensemble import Predict
from config.run import experiment_path
from ensemble.build import STEPS, RunBlend, build_blend, read_groups
from ensemble.evidence import Counter, Tally, score
from ensemble.labels import class_order, top_class
from ensemble.show import show_blend, show_models
from ensemble.stores import OofStores, ProvenStores
from folds.folds_csv import folds_of
from folds.metrics import confusion
from pipeline.store import MANIFEST

SCORES = ("miou", "miou_low", "miou_high", "miou_in_sample")  # of OOF_COLUMNS


def oof_table(folder: str | Path) -> pd.DataFrame:
    """The OOF table of a finished run, as its `oof.csv` holds it: for notebooks.

    Args:
        folder: the run's, `runs/NAME`, for the blend that was scored last; or a blend's, `runs/NAME/blend/BLEND`.

    Returns:
        A row per member, model, specialist, step and blend (`kind`); kind `variant` are members and models with
        weights or views that the blend is not of. The blend has a row for all tiles, the last one, and one for the
        tiles of each fold, which are those of the fold's members. `miou` is honest: of predictions for tiles that
        neither the networks nor the blend were fitted on; `miou_low` and `miou_high` are its 95 % interval. The IoU of
        a class is NaN where neither truth nor prediction of the row's tiles holds it.

    Raises:
        UserError: no table there yet.
    """
    path = Path(folder) / "oof.csv"
    if not path.exists():
        record = experiment_path(Path(folder))
        raise UserError(
            f"{path}: no OOF table yet. Run: python -m ensemble.oof --config {record if record.exists() else 'FILE'}"
        )
    return read_csv(path, dtype={"name": str}).astype({"fold": "Int64", "seed": "Int64"})


def make_table(stores: ProvenStores, built: RunBlend) -> pd.DataFrame:
    """Write the blend's `oof.csv` unless it holds already, and the run's copy of it; return the table."""
    run, variants = stores.run, other_variants(stores.run)
    inputs = {
        f"{each.run.variant} {member}": hash_file(each.run.oof_store(member) / MANIFEST)
        for each in (stores, *variants)
        for member in run.oof_members(run.experiment.blended_models)
    }
    inputs[STEPS] = hash_file(run.blend_dir / STEPS)
    result = FileResult(run.oof_csv, run.blend_keys, inputs)
    if not result.is_fresh():
        _write_table(stores, built, variants)
        result.finish()
    if not run.last_oof_csv.exists() or run.last_oof_csv.read_bytes() != run.oof_csv.read_bytes():
        with whole_file(run.last_oof_csv) as aside:
            shutil.copyfile(run.oof_csv, aside)
    return oof_table(run.blend_dir)


def _write_table(stores: ProvenStores, built: RunBlend, variants: list[ProvenStores]) -> None:
    run = stores.run
    others = [row | {"kind": "variant"} for each in variants for row in score_members(each)]
    rows = [*score_members(stores), *others, *blend_rows(run, built)]
    columns = [*OOF_COLUMNS, *run.experiment.data.class_names]
    table = pd.DataFrame(rows, columns=columns).astype({"fold": "Int64", "seed": "Int64"})
    write_csv(run.oof_csv, table)


def other_variants(run: Run) -> list[ProvenStores]:
    """Those of the run as it is with other weights or views, for each that all members have predicted with.

    They are for comparison: one whose predictions contradict tiles, folds or members of now is left out, and said.
    """
    members = run.oof_members(run.experiment.blended_models)
    names = {path.name.removeprefix("oof-") for path in run.member_dir(members[0]).glob("oof-*")}
    settings = [Predict.of_variant(name) for name in sorted(names - {run.variant})]
    runs = [Run(run.experiment.model_copy(update={"predict": predict})) for predict in settings if predict]
    whole = [each for each in runs if all(each.oof_store(member).exists() for member in members)]
    return [stores for stores in map(ProvenStores, whole) if _is_proven(stores)]


def _is_proven(stores: ProvenStores) -> bool:
    try:
        stores.prove("oof")
    except UserError as error:
        print(f"predictions with {stores.run.variant} are left out of the table: {error}", file=sys.stderr)
        return False
    return True


def score_members(stores: ProvenStores) -> Iterator[dict[str, Any]]:
    """A row for every member on its held-out fold, and for every model and specialist on all tiles."""
    source = stores.oof
    num_groups, num_classes = int(source.group_N.max()) + 1, len(source.classes)
    order = class_order(source.classes)
    counters: dict[Member | str, Counter] = {}
    tiles: dict[Member | str, int] = {}

    def confusions(i: int) -> dict[Member | str, np.ndarray]:
        truth_HW = source.truth(i)
        found = {}
        for name in (*source.models, *source.specialists):
            members = source.members(i, name)
            opinions = {member: source.member_probs(i, member) for member in members}
            opinions[name] = opinions[members[0]] if len(members) == 1 else source.model_probs(i, name)
            for whose, probs_CHW in opinions.items():
                found[whose] = _confusion(source, name, probs_CHW, truth_HW, order)
        return found

    everything = range(len(source.names))
    for i, found in zip(everything, track_in_threads(confusions, everything, "score OOF"), strict=True):
        for whose, conf_CC in found.items():
            counters.setdefault(whose, Counter(num_groups, num_classes)).add(source.group_N[i], conf_CC)
            tiles[whose] = tiles.get(whose, 0) + 1
    for whose in sorted(counters, key=lambda whose: (isinstance(whose, str), str(whose))):
        yield _member_row(stores.run, source, whose, tiles[whose], counters[whose].tally())


def blend_rows(run: Run, built: RunBlend) -> Iterator[dict[str, Any]]:
    """A row for each step of the blend, and for the blend that ships: on the tiles of each fold, and on all."""
    folds, name = folds_of(run), run.experiment.blend.name
    classes = run.experiment.data.class_names
    empty = {"fold": None, "seed": None, "weights": None, "tta": None}
    for row in built.steps.to_dict("records"):
        figures = {"tiles": len(folds)} | {column: row[column] for column in (*SCORES, *classes)}
        yield {"kind": "step", "name": f"{name}: {row['step']}"} | empty | figures
        if row["ships"]:
            ships = {"kind": "blend", "name": name} | empty | figures
    groups, honest = read_groups(run.blend_dir)
    for fold, inside in folds.groupby("fold"):
        counted = honest.of_groups(np.isin(groups, inside.group.astype(str)))
        figures = {"tiles": len(inside)} | _scores(counted) | dict(zip(classes, counted.iou_C, strict=True))
        yield {"kind": "blend", "name": name} | empty | {"fold": fold} | figures
    yield ships


def _confusion(
    source: OofStores, name: str, probs_CHW: np.ndarray, truth_HW: np.ndarray, order: list[int]
) -> np.ndarray:
    """(C, C) of one opinion on one tile; of a specialist, only hits, misses and false alarms of its class."""
    num_classes = len(order)
    if name not in source.specialists:
        index_HW = top_class(probs_CHW.reshape(num_classes, -1), order).reshape(truth_HW.shape)
        return confusion(index_HW, truth_HW, num_classes)
    target = source.specialists[name]
    half = 128 if probs_CHW.dtype == np.uint8 else 0.5
    other = (target + 1) % num_classes
    said_HW = np.where(probs_CHW[0] >= half, target, other)
    true_HW = np.where((truth_HW == target) | (truth_HW == IGNORE_INDEX), truth_HW, other)
    return confusion(said_HW, true_HW, num_classes)


def _member_row(run: Run, source: OofStores, whose: Member | str, tiles: int, counted: Tally) -> dict[str, Any]:
    name = whose if isinstance(whose, str) else whose.model.name
    predict = run.experiment.predict
    iou_C = counted.iou_C
    weights = "+".join(predict.weight_kinds)
    row: dict[str, Any] = {"kind": "model", "name": name, "fold": None, "seed": None, "weights": weights,
                           "tta": predict.variant.removeprefix(f"{weights}-"), "tiles": tiles}  # fmt: skip
    if isinstance(whose, Member):
        row |= {"kind": "member", "fold": whose.fold, "seed": whose.seed}
    if name in source.specialists:
        target = source.specialists[name]
        row["kind"] = "specialist" if row["kind"] == "model" else "specialist member"
        iou_C = np.where(np.arange(len(iou_C)) == target, iou_C, np.nan)
        row |= dict.fromkeys(SCORES, np.nan)
    else:
        # Without groups of other folds, which a member has no pixel of.
        row |= _scores(counted.of_groups(counted.truth_GC.sum(1) > 0))
    return row | dict(zip(source.classes, iou_C, strict=True))


def _scores(counted: Tally) -> dict[str, float]:
    return score(counted).columns("miou") | {"miou_in_sample": np.nan}


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser(
        "ensemble.oof",
        "Score all out-of-fold predictions and every step of the blend; print the tables, write oof.csv.",
    )
    add_json(parser)
    args = parser.parse_intermixed_args(argv)
    run = open_run(load_experiment(args.config, args.overrides))
    stores = ProvenStores(run)
    built = build_blend(stores)
    table = make_table(stores, built)
    tables = {"rows": table, "steps": built.steps, "candidates": built.candidates, "models": built.models}
    write_figures(args.json, {name: records(each) for name, each in tables.items()})
    console = screen()
    show_models(table, console)
    show_blend(built, console)
    print(run.last_oof_csv)


if __name__ == "__main__":
    run_command(main)
