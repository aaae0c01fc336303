"""Score a zip against test labels, where they are known: the demo's, or of tiles of your own that nobody trains on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from base.command import add_json, run, split_operands, stage_parser, write_figures
from base.screen import screen, text_table
from config import Experiment, Run, load_experiment
from folds.classes import ClassTable
from folds.files import find_test_masks
from folds.metrics import confusion, iou_per_class, mean_iou
from folds.reader import TileReader
from folds.tiles import tiles_of
from submissions.formats import read_submission
from submissions.layout import Layout


def score_submission(path: Path, experiment: Experiment, tiles: pd.DataFrame) -> np.ndarray:
    """(C, C) confusion of a zip's labels against the masks of `data.test_masks`.

    Raises:
        UserError: no `data.test_masks`, masks that are missing or unreadable, or a zip that does not verify.
    """
    data = experiment.data
    reader, layout = TileReader.of(data), Layout.of(experiment, tiles)
    image_of = tiles[tiles.split == "test"].set_index("name").image
    mask_of = find_test_masks(data, image_of.index.tolist())
    return confusion_of_zip(path, layout, lambda name: reader.truth(image_of[name], mask_of[name]))


def confusion_of_zip(path: Path, layout: Layout, truth_of: Callable[[str], np.ndarray]) -> np.ndarray:
    """(C, C) confusion of a zip's labels against the truth: the (H, W) indices of each tile, by its name.

    Raises:
        UserError: the zip does not verify, or what `truth_of` raises.
    """
    num_classes = len(layout.classes)
    conf_CC = np.zeros((num_classes, num_classes), np.int64)
    for name, index_HW in read_submission(path, layout):
        conf_CC += confusion(index_HW, truth_of(name), num_classes)
    return conf_CC


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("submissions.score", __doc__, "submissions/zips/demo.zip", operands="ZIP")
    add_json(parser)
    args = parser.parse_intermixed_args(argv)
    (path,), overrides = split_operands(args.overrides, 1)
    experiment = load_experiment(args.config, overrides)
    conf_CC = score_submission(Path(path), experiment, tiles_of(Run(experiment)))
    names = ClassTable.of(experiment.data).names
    figures = {"miou": mean_iou(conf_CC), **dict(zip(names, iou_per_class(conf_CC).tolist(), strict=True))}
    title, columns = f"{Path(path).name} against {experiment.data.test_masks}", ("class", "test IoU")
    rows = [(name, "-" if np.isnan(value) else f"{value:.4f}") for name, value in figures.items()]
    screen().print(text_table(title, columns, rows, left=columns))
    write_figures(args.json, {name: None if np.isnan(value) else value for name, value in figures.items()})


if __name__ == "__main__":
    run(main)
