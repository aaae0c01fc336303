"""The audit of a folds file: every tile once, no group on both sides, no fold empty."""

from base.command import run, stage_parser
from config import load_experiment, open_run
from folds.assign import make_folds
from folds.folds_csv import refuse_bad_folds
from folds.tiles import make_tiles


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("folds.check", __doc__)
    args = parser.parse_intermixed_args(argv)
    run = open_run(load_experiment(args.config, args.overrides))
    tiles, folds = make_tiles(run), make_folds(run)
    refuse_bad_folds(tiles, folds, run.experiment.folds.k)
    print(f"{run.folds_csv}: every tile once, no group on both sides, no fold empty")


if __name__ == "__main__":
    run(main)
