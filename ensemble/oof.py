"""The OOF table: IoU per class and mIoU of every member, every model and the blend, each from one summed confusion."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from base.command import add_json, stage_parser, write_figures
from base.command import run as run_command
from base.errors import UserError, listed
from base.files import hash_file, whole_file
from config import Member, Run, load_experiment, open_run
from config.training import Model
from folds.classes import ClassTable
from folds.metrics import confusion, iou_per_class, mean_iou
from folds.tiles import read_tiles
from pipeline.pack import open_pack
from pipeline.store import MANIFEST, open_store

BATCH = 16  # tiles read at once: bounds memory, and a store reads several tiles faster than one by one


@dataclass(frozen=True)
class OofBatch:
    """Some tiles of one fold with what every member of that fold says of them."""

    fold: int
    names: list[str]
    probs: dict[Member, np.ndarray]
    """(n, C, H, W) float32 each."""
    truth_NHW: np.ndarray
    """uint8 indices; 255: ignored."""


def blended_models(run: Run) -> list[Model]:
    """The models of the blend: those of `blend.models`, or all, that predict every class."""
    chosen = run.experiment.blend.models
    models = [model for model in run.experiment.models if model.target == "all"]
    return models if chosen is None else [model for model in models if model.name in chosen]


def oof_batches(run: Run, models: list[Model]) -> Iterator[OofBatch]:
    """All train tiles, fold by fold, with the probabilities of the members that never saw them.

    Raises:
        UserError: stores that are not there; lists them all.
    """
    members = [member for model in models for member in run.members(model) if member.fold is not None]
    missing = [member for member in members if not run.oof_store(member).exists()]
    if missing:
        raise UserError(
            f"run {run.experiment.name!r}: {len(missing)} of {len(members)} members have no OOF predictions "
            f"({run.variant}): {listed(missing)}. Run: python -m pipeline.cv --config FILE"
        )
    pack = open_pack(run, read_tiles(run.tiles_csv))
    row_of = {name: row for row, name in enumerate(pack.train_names)}
    for fold in range(run.experiment.folds.k):
        stores = {member: open_store(run.oof_store(member)) for member in members if member.fold == fold}
        names = next(iter(stores.values())).names
        for first in range(0, len(names), BATCH):
            chunk = range(first, min(first + BATCH, len(names)))
            yield OofBatch(
                fold=fold,
                names=[names[i] for i in chunk],
                probs={member: store.read_many(chunk) for member, store in stores.items()},
                truth_NHW=np.array(pack.train_mask_NHW[[row_of[names[i]] for i in chunk]]),
            )


def model_probs(batch: OofBatch, models: list[Model]) -> np.ndarray:
    """(M, n, C, H, W) each model's probabilities: the mean over its seeds."""
    return np.stack(
        [
            np.mean([probs for member, probs in batch.probs.items() if member.model.name == model.name], axis=0)
            for model in models
        ]
    )


def mean_over_models(probs_MNCHW: np.ndarray) -> np.ndarray:
    """The uniform blend. Probabilities, not logits: models differ in temperature."""
    return probs_MNCHW.mean(0)


def score_oof(run: Run) -> pd.DataFrame:
    """Score every member, model and the blend on all tiles that they did not see.

    Returns:
        One row each: kind (member, model, blend), name, fold, seed, tiles, miou, then the IoU of each class; NaN for a
        class that is in neither truth nor prediction of that row's tiles.
    """
    models = blended_models(run)
    classes = ClassTable.of(run.experiment.data)
    conf: dict[tuple, np.ndarray] = defaultdict(lambda: np.zeros((len(classes), len(classes)), np.int64))
    tiles: dict[tuple, int] = defaultdict(int)

    def add(row: tuple, probs_NCHW: np.ndarray, truth_NHW: np.ndarray) -> None:
        conf[row] += confusion(probs_NCHW.argmax(1), truth_NHW, len(classes))
        tiles[row] += len(truth_NHW)

    for batch in oof_batches(run, models):
        for member, probs_NCHW in batch.probs.items():
            add(("member", member.model.name, member.fold, member.seed), probs_NCHW, batch.truth_NHW)
        probs_MNCHW = model_probs(batch, models)
        for model, probs_NCHW in zip(models, probs_MNCHW, strict=True):
            add(("model", model.name, None, None), probs_NCHW, batch.truth_NHW)
        add(("blend", run.experiment.blend.name, None, None), mean_over_models(probs_MNCHW), batch.truth_NHW)

    order = {"member": 0, "model": 1, "blend": 2}
    rows = [
        dict(zip(("kind", "name", "fold", "seed"), row, strict=True))
        | {"tiles": tiles[row], "miou": mean_iou(conf[row])}
        | dict(zip(classes.names, iou_per_class(conf[row]), strict=True))
        for row in sorted(conf, key=lambda row: order[row[0]])
    ]
    return pd.DataFrame(rows).astype({"fold": "Int64", "seed": "Int64"})


def make_table(run: Run) -> pd.DataFrame:
    """Write `oof.csv` unless it holds already; return the table."""
    members = [member for model in blended_models(run) for member in run.members(model) if member.fold is not None]
    manifests = [run.oof_store(member) / MANIFEST for member in members]
    inputs = {str(member): hash_file(path) for member, path in zip(members, manifests, strict=True) if path.exists()}
    if run.is_fresh(run.oof_csv, run.blend_keys, inputs, is_folder=False):
        return oof_table(run.dir)
    table = score_oof(run)
    with whole_file(run.oof_csv) as aside:
        table.to_csv(aside, index=False)
    run.finish(run.oof_csv, run.blend_keys, inputs, [run.oof_csv], is_folder=False)
    return table


def oof_table(run_dir: str | Path) -> pd.DataFrame:
    """The OOF table of a finished run's folder, as its `oof.csv` holds it: for notebooks.

    Raises:
        UserError: no table there yet.
    """
    path = Path(run_dir) / "oof.csv"
    if not path.exists():
        raise UserError(
            f"{path}: no OOF table yet. Run: python -m ensemble.oof --config {Path(run_dir)}/experiment.yaml"
        )
    return pd.read_csv(path).astype({"fold": "Int64", "seed": "Int64"})


def print_table(table: pd.DataFrame, console: Console) -> None:
    """On the screen; classes share a second table where they would not fit 100 columns."""
    names = [column for column in table if column not in ("kind", "name", "fold", "seed", "tiles", "miou")]
    shown = Table(title="OOF mIoU and IoU per class", title_justify="left")
    for column in ("", "fold", "mIoU", *names):
        shown.add_column(column[:9], justify="left" if column == "" else "right", overflow="fold")
    for row in table.to_dict("records"):
        fold = "all" if pd.isna(row["fold"]) else f"{row['fold']}/s{row['seed']}"
        figures = [f"{row['miou']:.4f}", *("-" if pd.isna(row[name]) else f"{row[name]:.3f}" for name in names)]
        style = {"model": "bold", "blend": "bold green"}.get(row["kind"], "")
        shown.add_row(row["name"], fold, *figures, style=style)
    console.print(shown)


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("ensemble.oof", "Score all out-of-fold predictions; print the table and write oof.csv.")
    add_json(parser)
    args = parser.parse_intermixed_args(argv)
    run = open_run(load_experiment(args.config, args.overrides))
    table = make_table(run)
    write_figures(args.json, {"rows": table.astype(object).where(table.notna(), None).to_dict("records")})
    print_table(table, Console(width=100))
    print(run.oof_csv)


if __name__ == "__main__":
    run_command(main)
