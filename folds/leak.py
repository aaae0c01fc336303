"""What a leak costs: a quick per-pixel model scored on random folds and on the folds that keep groups whole.

The model is gradient boosting on each pixel's bands and their means over two windows: far weaker than a network, but
it learns a scene's colours as any network does. The difference between its two scores is what random folds would have
flattered it by.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.ndimage import uniform_filter
from sklearn.ensemble import HistGradientBoostingClassifier

from base.command import add_json, run, stage_parser, write_figures
from base.errors import UserError
from base.files import hash_value
from base.progress import track
from base.screen import screen, text_table
from base.threads import track_in_threads
from config import Run, load_experiment, open_run
from config.data import IGNORE_INDEX
from folds.assign import assign_folds
from folds.classes import ClassTable
from folds.metrics import confusion, iou_per_class, mean_iou
from folds.reader import TileReader
from folds.tiles import hist_of, make_tiles

WINDOWS_PX = (5, 21)
MAX_TILES = 600  # groups are drawn until there are as many: seconds to minutes for any data set
PIXELS_PER_TILE = 400
TREES = 60  # for each class
REPEATS = 3  # other pixels, other folds, other trees: the spread is printed


@dataclass(frozen=True)
class Leak:
    """Both scores of the quick model, one per repeat."""

    random_RCC: np.ndarray
    """(repeats, C, C) confusions over all random folds."""
    grouped_RCC: np.ndarray
    """The same over the folds that keep groups whole."""


def measure_leak(run: Run) -> Leak:
    """Score the quick model on both kinds of folds.

    Raises:
        UserError: every tile is a group of its own, so that both would be the same.
    """
    experiment = run.experiment
    classes, k = ClassTable.of(experiment.data), experiment.folds.k
    tiles = make_tiles(run)
    train = tiles[tiles.split == "train"].reset_index(drop=True)
    if train.group.is_unique:
        raise UserError(
            f"every tile is a group of its own (folds.groups is {experiment.folds.groups}): there is nothing to "
            f"compare. Name groups, as in folds.groups=mosaic+duplicates"
        )
    used = _draw_groups(train.group, k)
    train, hist_NC = train[used].reset_index(drop=True), hist_of(tiles, classes)[used]
    reader = TileReader.of(experiment.data)
    confusions = {"random": [], "grouped": []}
    for repeat in range(REPEATS):
        feature_PF, truth_P, tile_P = sample_pixels(train, reader, repeat)
        for kind, group_N in (("random", train.name.to_numpy()), ("grouped", train.group.to_numpy())):
            fold_N = assign_folds(hist_NC, group_N, k, seed=repeat)
            what = f"{kind} folds, {repeat + 1} of {REPEATS}"
            confusions[kind].append(cross_score(feature_PF, truth_P, fold_N[tile_P], k, len(classes), repeat, what))
    return Leak(np.stack(confusions["random"]), np.stack(confusions["grouped"]))


def sample_pixels(train: pd.DataFrame, reader: TileReader, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(P, F) features, (P,) indices and (P,) tile positions of some labelled pixels of every tile."""

    def sample(row: Any) -> tuple[np.ndarray, np.ndarray]:
        return _sample_tile(reader, row.image, row.mask, seed)

    parts = list(track_in_threads(sample, train.itertuples(), "sample pixels", total=len(train)))
    tile_P = np.repeat(np.arange(len(train)), [len(truth) for _, truth in parts])
    return np.concatenate([features for features, _ in parts]), np.concatenate([truth for _, truth in parts]), tile_P


def pixel_features(image_HWB: np.ndarray) -> np.ndarray:
    """(H, W, F) float32: the bands, then their means over windows of WINDOWS_PX."""
    image_HWB = image_HWB.astype(np.float32)
    means = [uniform_filter(image_HWB, (window, window, 1), mode="nearest") for window in WINDOWS_PX]
    return np.concatenate([image_HWB, *means], axis=2)


def cross_score(
    feature_PF: np.ndarray, truth_P: np.ndarray, fold_P: np.ndarray, k: int, num_classes: int, seed: int, what: str
) -> np.ndarray:
    """(C, C) one confusion over all folds, each predicted by a model trained on the others.

    Args:
        what: for the progress bar.
    """
    conf_CC = np.zeros((num_classes, num_classes), np.int64)
    for fold in track(range(k), what):
        held_out = fold_P == fold
        model = HistGradientBoostingClassifier(
            max_iter=TREES, learning_rate=0.15, early_stopping=False, random_state=seed
        )
        model.fit(feature_PF[~held_out], truth_P[~held_out])
        conf_CC += confusion(model.predict(feature_PF[held_out]), truth_P[held_out], num_classes)
    return conf_CC


def _sample_tile(reader: TileReader, image: str, mask: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    index_HW = reader.truth(image, mask)
    labelled = np.flatnonzero(index_HW != IGNORE_INDEX)
    # A function of seed and tile, not of which thread comes first.
    rng = np.random.default_rng(int(hash_value([seed, Path(image).name])[:16], 16))
    chosen = rng.choice(labelled, min(PIXELS_PER_TILE, len(labelled)), replace=False)
    features_HWF = pixel_features(reader.image(image)[0])
    return features_HWF.reshape(-1, features_HWF.shape[2])[chosen], index_HW.ravel()[chosen]


def _draw_groups(group_N: pd.Series, k: int) -> np.ndarray:
    """(N,) bool: the tiles of as many groups, in random order, as make MAX_TILES.

    A group gives no more than a share of them, drawn at random, with which there are twice as many groups as folds, or
    all that there are.
    """
    rng = np.random.default_rng(0)
    groups = group_N.drop_duplicates().sort_values().tolist()
    most = max(1, MAX_TILES // min(2 * k, len(groups)))
    used = np.zeros(len(group_N), bool)
    for group in rng.permutation(groups):
        if used.sum() >= MAX_TILES:
            break
        tiles = np.flatnonzero(group_N == group)
        used[tiles if len(tiles) <= most else rng.choice(tiles, most, replace=False)] = True
    return used


def _row(name: str, random: float, grouped: float) -> tuple[str, ...]:
    return name, f"{random:.3f}", f"{grouped:.3f}", f"{random - grouped:+z.3f}"  # z: no leak is +0.000, never -0.000


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("folds.leak", __doc__)
    add_json(parser)
    args = parser.parse_intermixed_args(argv)
    run = open_run(load_experiment(args.config, args.overrides))
    leak = measure_leak(run)
    names = ClassTable.of(run.experiment.data).names
    by_class = [iou_per_class(conf_RCC).mean(0) for conf_RCC in (leak.random_RCC, leak.grouped_RCC)]
    rows = [_row(name, random, grouped) for name, random, grouped in zip(names, *by_class, strict=True)]
    random_R, grouped_R = mean_iou(leak.random_RCC), mean_iou(leak.grouped_RCC)
    random, grouped = float(random_R.mean()), float(grouped_R.mean())
    title, columns = "IoU of the quick model, mean of the repeats", ("class", "random folds", "grouped folds", "leak")
    screen().print(text_table(title, columns, rows, foot=_row("mIoU", random, grouped)))
    print(
        f"random folds would have told you {random:.3f} (repeats {random_R.min():.3f} to {random_R.max():.3f}); folds "
        f"that keep groups whole say {grouped:.3f} ({grouped_R.min():.3f} to {grouped_R.max():.3f})"
    )
    write_figures(args.json, {"random_miou": random, "grouped_miou": grouped, "leak": random - grouped})


if __name__ == "__main__":
    run(main)
