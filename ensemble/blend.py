"""Blend the models and build the submission: mean of softmax probabilities -> argmax -> labels -> zip."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from base.command import run as run_command
from base.command import stage_parser
from base.errors import UserError
from base.files import hash_file, hash_value
from base.progress import track
from config import Run, load_experiment, open_run
from config.training import Model
from ensemble.oof import BATCH, blended_models, make_table, mean_over_models, print_table
from folds.metrics import mean_iou
from folds.tiles import read_tiles
from pipeline.store import MANIFEST, Store, open_store
from submissions.score import score_submission
from submissions.write import write_submission


def test_stores(run: Run, models: list[Model]) -> list[Store]:
    """The test store of each model.

    Raises:
        UserError: stores that are not there; lists them all.
    """
    missing = [model.name for model in models if not run.test_store(model).exists()]
    if missing:
        raise UserError(
            f"blend {run.experiment.blend.name!r}: no test predictions ({run.variant}) of {', '.join(missing)}. "
            f"Run: python -m pipeline.cv --config FILE"
        )
    return [open_store(run.test_store(model)) for model in models]


def test_labels(stores: list[Store]) -> Iterator[tuple[str, np.ndarray]]:
    """(name, (H, W) uint8 class indices) of each test tile, read batch by batch."""
    names = stores[0].names
    for first in track(range(0, len(names), BATCH), "blend test"):
        rows = range(first, min(first + BATCH, len(names)))
        probs_NCHW = mean_over_models(np.stack([store.read_many(rows) for store in stores]))
        yield from zip((names[i] for i in rows), probs_NCHW.argmax(1).astype(np.uint8), strict=True)


def make_submission(run: Run, table: pd.DataFrame) -> Path | None:
    """Write the zip, verified, with its receipt, unless it holds already; None when there is no test set."""
    models = blended_models(run)
    tiles = read_tiles(run.tiles_csv)
    if not (tiles.split == "test").any():
        return None
    stores = test_stores(run, models)
    inputs = {model.name: hash_file(run.test_store(model) / MANIFEST) for model in models}
    if run.is_fresh(run.zip_path, run.blend_keys, inputs, is_folder=False):
        return run.zip_path
    blend_row = table[table.kind == "blend"].iloc[0]
    receipt = {
        "run": run.experiment.name,
        "blend": run.experiment.blend.name,
        "members": {model.name: stores[i].manifest["members"] for i, model in enumerate(models)},
        "weights": {model.name: 1 / len(models) for model in models},
        "combination": "mean",
        "decision": "argmax",
        "stores_sha256": inputs,
        "tiles_sha256": hash_file(run.tiles_csv),
        "folds_sha256": hash_file(run.folds_csv),
        "experiment_sha256": hash_value(run.experiment.dump()),
        "oof_miou": blend_row["miou"],
    }
    path = write_submission(run, tiles, test_labels(stores), receipt)
    run.finish(path, run.blend_keys, inputs, [path], is_folder=False)
    return path


def test_miou(run: Run, path: Path) -> float:
    return mean_iou(score_submission(path, run.experiment, read_tiles(run.tiles_csv)))


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser(
        "ensemble.blend",
        "Blend the models' probabilities, score the blend on OOF, label the test tiles, write the zip.",
    )
    args = parser.parse_intermixed_args(argv)
    run = open_run(load_experiment(args.config, args.overrides))
    table = make_table(run)
    print_table(table, Console(width=100))
    path = make_submission(run, table)
    if path and run.experiment.data.test_masks:
        print(f"test mIoU {test_miou(run, path):.4f} by data.test_masks, OOF mIoU {table.miou.iloc[-1]:.4f}")
    print(f"zip: {path}" if path else "no zip: the data set has no test tiles (data.test_images)")


if __name__ == "__main__":
    run_command(main)
