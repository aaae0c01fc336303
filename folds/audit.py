"""What is wrong, or worth knowing, about images and masks: tables and findings. Reads no pixel; see `folds.scan`."""

import numpy as np
import pandas as pd

from base.errors import counted, listed
from config.data import Nodata
from folds.files import full_names
from folds.findings import Finding, error, tiles_of_pairs, tiles_warning, warning
from folds.georeference import Beside
from folds.images import without_data
from folds.links import Links
from folds.scan import Scan
from folds.shift import band_shift, say_shifted

SATURATED = 0.05  # share of a band's pixels at the ends of its range above which it is said
CONFLICT = 0.01  # share of pixels in which the class counts of two copies differ, above which it is said


def band_table(scan: Scan, split_N: np.ndarray, bands: list[str]) -> pd.DataFrame:
    """A row per split and band: mean and std of all pixels with data, percentiles of a sample, shares at 0 and at the
    top."""
    rows = []
    for split in pd.unique(split_N):
        of_split = (split_N == split) & (scan.data_N > 0)
        if not of_split.any():
            continue
        share_N = scan.data_N[of_split] / scan.data_N[of_split].sum()
        mean_NB, std_NB = scan.mean_NB[of_split], scan.std_NB[of_split]
        # From the first tile's mean on: where all are equal so is theirs, to the last bit, and a dead band's std is 0.
        mean_B = mean_NB[0] + share_N @ (mean_NB - mean_NB[0])
        std_B = np.sqrt(share_N @ (std_NB**2 + (mean_NB - mean_B) ** 2))
        low_B, middle_B, high_B = np.percentile(scan.sample_NPB[of_split], [1, 50, 99], axis=(0, 1))
        zero_B, full_B = share_N @ scan.zero_NB[of_split], share_N @ scan.full_NB[of_split]
        for b, band in enumerate(bands):
            values = (mean_B[b], std_B[b], low_B[b], middle_B[b], high_B[b], zero_B[b], full_B[b])
            rows.append((split, band, *(float(value) for value in values)))
    return pd.DataFrame(rows, columns=["split", "band", "mean", "std", "p1", "median", "p99", "zero", "full"])


def class_table(train: pd.DataFrame, hist_NC: np.ndarray, names: tuple[str, ...]) -> pd.DataFrame:
    """A row per class: its share of the labelled pixels, and in how many pixels, tiles and groups it is."""
    groups = [int(train.group[hist_NC[:, c] > 0].nunique()) for c in range(len(names))]
    return pd.DataFrame(
        {
            "class": names,
            "share": hist_NC.sum(0) / max(hist_NC.sum(), 1),
            "pixels": hist_NC.sum(0),
            "tiles": (hist_NC > 0).sum(0),
            "groups": groups,
        }
    )


def data_findings(
    tiles: pd.DataFrame, scan: Scan, links: Links, hist_NC: np.ndarray, bands: pd.DataFrame
) -> list[Finding]:
    """What is wrong with images and masks.

    Args:
        tiles: the tile table, train tiles first.
        hist_NC: of its train tiles.
        bands: `band_table` of it.
    """
    tile_names = full_names(tiles)
    train_N = (tiles.split == "train").to_numpy()
    found = []
    dead = bands[(bands.split == "train") & (bands["std"] == 0)].band.tolist()
    if dead:
        found.append(error("dead_band", f"bands with one value in all train tiles: {listed(dead)}"))
    empty_N = scan.data_N == 0
    constant_N = (scan.std_NB == 0).all(1) & ~empty_N
    black_N = (scan.zero_NB == 1).all(1) & ~empty_N
    found += tiles_warning("empty_tiles", tile_names[empty_N], "tile", "without a pixel that has data")
    found += tiles_warning("black_tiles", tile_names[black_N], "tile", "all black")
    found += tiles_warning("constant_tiles", tile_names[constant_N & ~black_N], "tile", "of one colour")
    for row in bands[(bands.zero > SATURATED) | (bands.full > SATURATED)].itertuples():
        what = f"{row.split} {row.band}: {row.zero:.1%} of the pixels are 0 and {row.full:.1%} at the top of the range"
        found.append(warning("saturated_band", what))
    found += _shifts(bands)

    labels_N = (hist_NC > 0).sum(1)
    train_names = tile_names[train_N]
    if (labels_N <= 1).all():
        found.append(error("one_label_masks", "every mask holds a single label: are these masks of pixels?"))
    unlabelled, varied = train_names[labels_N == 0], train_names[(labels_N >= 2) & constant_N[train_N]]
    found += tiles_warning("unlabelled_tiles", unlabelled, "mask", "without a labelled pixel, all is ignored")
    found += tiles_warning("labels_without_image", varied, "tile", "of one colour with several labels")
    return found + _copies(links, tile_names, train_N, hist_NC)


def nodata_findings(scan: Scan, tile_names: np.ndarray, nodata: Nodata, tag: float | None) -> list[Finding]:
    """Pixels that a file says to be without data, and that are taken for measurements.

    Args:
        tile_names: (N,) of the scan's tiles, as split/name.
        nodata: `data.nodata`.
        tag: what the first image's tag says; None: nothing.
    """
    if tag is None or tag == nodata:
        return []
    concerned = tile_names[without_data(scan.sample_NPB, tag).any(1)]
    value = f"{tag:.17g}"  # all of its digits: -3.4028234663852886e+38 is usual, and -3.40282e+38 is nowhere
    what = f"with pixels of {value}, which by the tag of the first image are no data"
    beside = {None: "", "nan": ", and NaN too"}.get(nodata, f", in place of {nodata}")
    return tiles_warning("undeclared_nodata", concerned, "tile", what, f"; data.nodata={value} leaves them out{beside}")


def beside_findings(tile_names: np.ndarray, train_N: np.ndarray, pairs_P2: np.ndarray) -> list[Finding]:
    """Test tiles beside train tiles: whoever labels them has seen their surroundings, as no out-of-fold prediction has
    where neighbours are kept together.

    Args:
        tile_names: (N,) as split/name.
        train_N: bool.
        pairs_P2: positions of neighbours, found by borders or coordinates.
    """
    across_P2 = pairs_P2[train_N[pairs_P2].sum(1) == 1]
    what = (
        f"of {(~train_N).sum()} on the border of train tiles or sharing pixels with them, so that a board may say more "
        f"than folds that keep neighbours together"
    )
    beside = tile_names[np.unique(across_P2[~train_N[across_P2]])]
    return tiles_warning("test_beside_train", beside, "test tile", what)


def carried_findings(tile_names: np.ndarray, beside: Beside) -> list[Finding]:
    """Tiles whose coordinates are their scene's: which of them overlap is not known."""
    what = (
        "with exactly the same coordinates as others beside: they carry their scene's, and whether they share pixels "
        "is not known"
    )
    remedy = "; give each its own, as python -m folds.cut does"
    return tiles_warning("same_coordinates", tile_names[beside.carried_N], "tile", what, remedy)


def _shifts(bands: pd.DataFrame) -> list[Finding]:
    """Bands whose mean in the test tiles is far from that in the train tiles."""
    said = say_shifted(band_shift(bands))
    if not said:
        return []
    what = f"test means differ from train means, in train stds: {said}; OOF scores may be too high for this test set"
    return [warning("shifted_test", what)]


def _copies(links: Links, tile_names: np.ndarray, train_N: np.ndarray, hist_NC: np.ndarray) -> list[Finding]:
    """Copies with other labels, and copies between train and test."""
    copies = links.copies
    said = np.array([f"{tile_names[row.a]} = {tile_names[row.b]} ({_how(row)})" for row in copies.itertuples()], object)
    copies_P2 = copies[["a", "b"]].to_numpy(np.int64)  # an empty column would be of floats
    a_P, b_P = copies_P2.T
    pairs = np.flatnonzero(train_N[a_P] & train_N[b_P])
    across = np.flatnonzero(train_N[a_P] != train_N[b_P])
    # Class counts do not change when a tile is turned, so turned copies can be compared by them.
    apart = np.abs(hist_NC[a_P[pairs]] - hist_NC[b_P[pairs]]).sum(1) / 2
    other = pairs[apart > CONFLICT * np.maximum(hist_NC[a_P[pairs]].sum(1), 1)]
    across_P2 = copies_P2[across]
    copied = counted(len(np.unique(across_P2[~train_N[across_P2]])), "test tile")  # each may be in many pairs
    return [
        warning(kind, f"{what}: {listed(said[of], 5)}", tiles_of_pairs(tile_names, copies_P2[of]))
        for kind, of, what in (
            ("train_copies", pairs, f"{counted(len(pairs), 'pair')} of copies among the train tiles"),
            ("test_copies", across, f"{copied} with copies among the train tiles"),
            ("copies_with_other_labels", other, f"{counted(len(other), 'pair')} of copies with other labels"),
        )
        if len(of)
    ]


def _how(pair) -> str:
    return "exact" if pair.exact else f"near, {pair.symmetry}"
