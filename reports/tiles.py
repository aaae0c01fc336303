"""The tiles: worst, median and best of each class, the least certain test tiles, and masks that may be wrong."""

import numpy as np
import pandas as pd

from base.command import run as run_command
from base.errors import UserError
from base.threads import in_threads
from folds.metrics import iou_per_class
from reports.alone import section_command
from reports.material import Material
from reports.page import Gallery, Note, Part, Section, Strip, TableView
from reports.pictures import confidence_rgb, drawing, error_rgb, outlined, photo
from reports.suspects import make_suspects

ENOUGH = 0.005  # share of a tile that a class must have in the mask before its IoU there says anything
TEST_TILES = 500  # looked at for the least certain
UNCERTAIN = 6
SUSPECTS = 12  # with pictures
MARGIN = 2  # of a suspect's picture: times the patch
LISTED = 100  # in the table


def section(material: Material) -> Section:
    parts: list[Part] = [_ranked(material), *_uncertain(material), *_suspects(material)]
    lead = "Scores say how much is wrong; tiles say what. All predictions are out of fold."
    return Section("tiles", "Tiles", lead, parts)


def ranked_tiles(iou_nC: np.ndarray, share_nC: np.ndarray) -> dict[int, dict[str, int]]:
    """For each class, worst, median and best among the tiles that hold enough of it; fewer where there are fewer.

    Args:
        iou_nC: of single tiles.
        share_nC: of the mask.
    """
    ranked = {}
    for c in range(iou_nC.shape[1]):
        holders = np.flatnonzero(share_nC[:, c] >= ENOUGH)
        order = holders[np.argsort(iou_nC[holders, c], kind="stable")]
        if len(order):
            places = {"worst": order[0], "median": order[len(order) // 2], "best": order[-1]}
            taken: dict[int, str] = {}
            for place, tile in places.items():
                taken.setdefault(int(tile), place)
            ranked[c] = {place: tile for tile, place in taken.items()}
    return ranked


def _ranked(material: Material) -> Gallery:
    seen, names = material.look, material.classes.names
    conf_nCC = np.stack([tile.conf_CC for tile in seen.tiles])
    iou_nC = iou_per_class(conf_nCC)
    share_nC = conf_nCC.sum(2) / np.maximum(conf_nCC.sum((1, 2)), 1)[:, None]
    strips = []
    for c, places in ranked_tiles(iou_nC, share_nC).items():
        for place, tile in places.items():
            caption = f"{names[c]}, {place} · {material.oof.names[seen.tile_n[tile]]} · IoU {iou_nC[tile, c]:.2f}"
            strips.append(_train_strip(material, int(seen.tile_n[tile]), caption))
    caption = (
        "By the class's IoU in the tile, among tiles with enough of it. Confidence is bright where the blend is sure; "
        f"errors are red. From {len(seen.tiles):,} of {seen.total:,} tiles."
    )
    return Gallery("tiles-ranked", "Worst, median and best of each class", strips, caption, legend=material.legend)


def _train_strip(material: Material, i: int, caption: str) -> Strip:
    """image | mask | prediction | confidence | error of a train tile."""
    source = material.oof
    name, truth_HW = source.names[i], source.truth(i)
    probs_CHW, index_HW = material.oof_labels(i)
    rgb = material.stretch.true_color(material.pack.train_image_NHWB[source.row_N[i]])
    classes = material.classes
    return Strip(
        [
            photo(rgb, f"Tile {name}", "image"),
            drawing(classes.to_rgb(truth_HW), f"Mask of {name}", "mask"),
            drawing(classes.to_rgb(index_HW), f"Out-of-fold prediction of {name}", "prediction"),
            photo(confidence_rgb(probs_CHW.max(0)), f"Confidence in {name}", "confidence"),
            photo(error_rgb(rgb, index_HW, truth_HW), f"Errors in {name}, in red", "errors"),
        ],
        caption,
    )


def _uncertain(material: Material) -> list[Part]:
    if not len(material.test):
        return [Note("No test tiles (data.test_images is null): no uncertain ones to show.", "missing")]
    try:
        source = material.unseen
    except UserError as error:
        return [Note(str(error), "missing")]
    count = len(source.names)
    tile_n = np.unique(np.linspace(0, count - 1, TEST_TILES).astype(int))

    def doubt(i: int) -> float:
        return 1 - float(material.unseen_labels(i)[0].max(0).mean())

    doubt_n = np.array(list(in_threads(doubt, tile_n.tolist())))
    order = np.argsort(-doubt_n, kind="stable")[:UNCERTAIN]
    row_of = {name: row for row, name in enumerate(material.pack.test_names)}
    strips = []
    for at in order:
        i = int(tile_n[at])
        name = source.names[i]
        probs_CHW, index_HW = material.unseen_labels(i)
        rgb = material.stretch.true_color(material.pack.test_image_NHWB[row_of[name]])
        thumbs = [
            photo(rgb, f"Test tile {name}", "image"),
            drawing(material.classes.to_rgb(index_HW), f"Prediction of {name}", "prediction"),
            photo(confidence_rgb(probs_CHW.max(0)), f"Confidence in {name}", "confidence"),
        ]
        strips.append(Strip(thumbs, f"{name} · mean confidence {1 - doubt_n[at]:.2f}"))
    caption = f"Lowest mean probability of the label, among {len(tile_n):,} of {count:,} test tiles."
    return [Gallery("tiles-uncertain", "Least certain test tiles", strips, caption, legend=material.legend)]


def _suspects(material: Material) -> list[Part]:
    table, searched = make_suspects(material)
    total = len(material.oof.names)
    scope = f"all {total:,} tiles" if searched >= total else f"{searched:,} of {total:,} tiles"
    if table.empty:
        return [Note(f"No patch of {scope} where predictions confidently contradict the mask.")]
    row_of = {name: i for i, name in enumerate(material.oof.names)}
    strips = [
        _suspect_strip(material, row_of[row.name], row, rank)
        for rank, row in enumerate(table.head(SUSPECTS).itertuples(index=False), start=1)
    ]
    caption = (
        "Patches where members that never saw the tile contradict its mask, ranked by how sure they are and by how "
        "rarely masks of that kind go with such predictions. A look decides: some are errors of the models."
    )
    parts: list[Part] = [Gallery("tiles-suspects", "Masks that may be wrong", strips, caption, legend=material.legend)]
    if searched < total:
        parts.append(Note(f"Searched {scope}. All of them: python -m reports.suspects --config FILE"))
    shown = table.head(LISTED)[
        ["name", "label", "suggested", "px", "p_label", "p_suggested", "score", "top", "left", "height", "width"]
    ]
    formats = {"px": "{:,}", "p_label": "{:.2f}", "p_suggested": "{:.2f}", "score": "{:.2f}"}
    caption = f"The first {len(shown)} of {len(table):,} rows of suspects.csv; places in pixels from the top left."
    parts.append(TableView("suspects", "Suspects in numbers", shown, formats, caption, folded=True))
    return parts


def _suspect_strip(material: Material, i: int, row: pd.Series, rank: int) -> Strip:
    source, classes = material.oof, material.classes
    truth_HW = source.truth(i)
    _, index_HW = material.oof_labels(i)
    rgb = material.stretch.true_color(material.pack.train_image_NHWB[source.row_N[i]])
    box = np.s_[row.top : row.top + row.height, row.left : row.left + row.width]
    region_HW = np.zeros(truth_HW.shape, bool)
    label, suggested = classes.names.index(row.label), classes.names.index(row.suggested)
    region_HW[box] = (truth_HW[box] == label) & (index_HW[box] == suggested)
    window = around((row.top, row.left, row.height, row.width), truth_HW.shape)
    region_HW = region_HW[window]
    return Strip(
        [
            photo(outlined(rgb[window], region_HW), f"Part of tile {row.name} with the patch outlined", "image"),
            drawing(outlined(classes.to_rgb(truth_HW[window]), region_HW), f"Mask of {row.name}", "mask"),
            drawing(outlined(classes.to_rgb(index_HW[window]), region_HW), f"Prediction of {row.name}", "prediction"),
        ],
        f"{rank} · {row.name} · mask {row.label}, predicted {row.suggested} "
        f"({row.p_suggested:.2f} against {row.p_label:.2f})",
    )


def around(box: tuple[int, int, int, int], size_px: tuple[int, int]) -> tuple[slice, slice]:
    """A square window of a tile around a box (top, left, height, width), with room for its surroundings."""
    top, left, height, width = box
    side = min(max(MARGIN * max(height, width), min(size_px) // 3), *size_px)
    starts = (np.clip(top + height // 2 - side // 2, 0, size_px[0] - side),
              np.clip(left + width // 2 - side // 2, 0, size_px[1] - side))  # fmt: skip
    return tuple(slice(int(start), int(start) + side) for start in starts)


if __name__ == "__main__":
    run_command(section_command("reports.tiles", __doc__, section))
