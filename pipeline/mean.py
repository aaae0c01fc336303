"""A model's test predictions: the mean over its members' (folds and seeds). Without torch: it is done in a second."""

import shutil
from pathlib import Path

import numpy as np

from base.command import run as run_command
from base.command import stage_parser
from base.errors import UserError, listed
from base.locks import held
from base.progress import track
from config import Run, load_experiment, open_run
from config.training import Model
from folds.tiles import tiles_of
from pipeline.finished import mean_facts, mean_is_finished, part_is_finished
from pipeline.store import EXCERPT_KIND, Store, open_store, write_store

EXCERPT = 200  # test tiles of which each member's own probabilities are kept, evenly spread


def mean_test(run: Run, model: Model) -> Path | None:
    """Write a model's test store, read tile by tile, unless it holds already; its members' parts are then removed.

    What averaging adds cannot be told from the mean, so an excerpt of each part stays (`ensemble.fold_means`).

    Returns:
        The store, or None where there is no test set.

    Raises:
        UserError: parts are missing, or made with other weights; lists them.
    """
    if not (tiles_of(run).split == "test").any():
        return None
    members, path = list(run.members(model)), run.test_store(model)
    if not mean_is_finished(run, model):
        missing = [member for member in members if not part_is_finished(run, member)]
        if missing:
            raise UserError(
                f"model {model.name}: no test predictions by {len(missing)} of {len(members)} members: "
                f"{listed(missing)}. Run: python -m pipeline.cv --config FILE --only model={model.name}"
            )
        parts = [open_store(run.test_part(member)) for member in members]
        first, dtype = parts[0], run.experiment.predict.dtype
        for member, part in zip(members, parts, strict=True):  # before the mean, which says that all is done
            _keep_excerpt(run.test_excerpt(member), part)
        with write_store(path, first.names, first.classes, *first.size_px, mean_facts(run, model), dtype) as writer:
            for tile in track(range(len(first)), f"mean of {model.name}"):
                writer.append(np.mean([part.read(tile) for part in parts], axis=0, dtype=np.float32)[None])
    for member in members:
        shutil.rmtree(run.test_part(member), ignore_errors=True)
    return path


def _keep_excerpt(path: Path, part: Store) -> None:
    """Up to `EXCERPT` tiles of a part, as a store of their own."""
    tile_N = np.unique(np.linspace(0, len(part) - 1, EXCERPT).round().astype(int))
    names = [part.names[tile] for tile in tile_N]
    manifest = {key: part.manifest[key] for key in ("model", "fold", "seed", "variant", "weights_sha256")}
    manifest["kind"] = EXCERPT_KIND
    with write_store(path, names, part.classes, *part.size_px, manifest, part.manifest["dtype"]) as writer:
        for tile in tile_N:
            writer.append(part.read(tile)[None])


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("pipeline.mean", __doc__, "--model deeplab_r18")
    parser.add_argument("--model", required=True, metavar="NAME", help="one of the experiment's models")
    args = parser.parse_intermixed_args(argv)
    run = open_run(load_experiment(args.config, args.overrides))
    model = run.experiment.model(args.model)
    with held(run.mean_lock(model), f"the mean of model {model.name}"):
        path = mean_test(run, model)
    print(f"test {model.name}: {path or 'no test set'}")


if __name__ == "__main__":
    run_command(main)
