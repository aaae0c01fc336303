"""The data: how much of each class, what the tiles look like, whether test looks like train, what the audit found."""

import numpy as np
import pandas as pd

from base.command import run as run_command
from base.tables import read_csv
from folds.audit import class_table
from folds.check import CHECK_CSV
from reports.alone import section_command
from reports.bands import bands_parts
from reports.figures import GRID, INK, MUTED, WIDTH, canvas, finish, look, name_axis, share_axis, share_floor, unit
from reports.material import Material
from reports.page import Facts, Figure, Gallery, Note, Part, Section, Strip, TableView
from reports.pictures import drawing, overlay, photo


def section(material: Material) -> Section:
    data = material.run.experiment.data
    train, test = material.train, material.test
    pixels = int((train.height * train.width).sum())
    left_out = pixels - int(material.hist_NC.sum())
    ignored = f"{left_out / pixels:.2%} of the pixels are ignored" if left_out else "every pixel has one"
    facts = Facts(
        [
            (f"{len(train):,}", "train tiles", f"in {train.group.nunique():,} groups"),
            (f"{len(test):,}" if len(test) else "none", "test tiles", "" if len(test) else "data.test_images"),
            (f"{int(train.height.iloc[0])} × {int(train.width.iloc[0])}", "pixels a tile", ""),
            (str(len(data.bands)), "bands", ", ".join(data.bands)),
            (str(len(material.classes)), "classes", ignored),
        ]
    )
    shares = class_shares(material)
    parts: list[Part] = [facts, draw_shares(shares, material), _table(shares, material)]
    parts += _samples(material)
    parts += bands_parts(material)
    parts += _audit(material)
    lead = (
        "The score is a mean over classes, so a class with a thousandth of the pixels weighs as much as the largest. "
        "Rare classes are where scores are won, and where a handful of tiles decides."
    )
    return Section("data", "Data", lead, parts)


def class_shares(material: Material) -> pd.DataFrame:
    """The audit's row per class, with its label and the share of the tiles that hold it."""
    counts = class_table(material.train, material.hist_NC, material.classes.names)
    tile_share = counts.tiles / len(material.train)
    table = counts.assign(label=material.classes.labels, **{"pixel share": counts.share, "tile share": tile_share})
    return table[["class", "label", "pixels", "pixel share", "tiles", "tile share", "groups"]]


def draw_shares(shares: pd.DataFrame, material: Material) -> Figure:
    names, colors = material.classes.names, material.classes.colors
    pixel_C, tile_C = shares["pixel share"].to_numpy(), shares["tile share"].to_numpy()
    floor = share_floor(pixel_C)
    with look():
        drawn = canvas(WIDTH, 0.9 + 0.3 * len(names))
        axes = drawn.add_subplot()
        rows = np.arange(len(names))
        axes.barh(
            rows,
            pixel_C - floor,
            left=floor,
            height=0.56,
            color=[unit(c) for c in colors],
            edgecolor=MUTED,
            linewidth=0.6,
        )
        axes.plot(tile_C, rows, "o", markersize=6, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.3)
        for row, share in zip(rows, tile_C, strict=True):
            axes.hlines(row, floor, share, color=GRID, linewidth=1, zorder=0)
        share_axis(axes, floor)
        name_axis(axes, names)
        axes.set_xlabel(
            "bar: share of the labelled pixels  ·  ring: share of the tiles that hold the class  ·  log scale"
        )
        largest, smallest = names[int(pixel_C.argmax())], names[int(pixel_C.argmin())]
        alt = (
            f"Class shares on a log scale. Largest by pixels: {largest}, {pixel_C.max():.1%}; "
            f"smallest: {smallest}, {pixel_C.min():.3%} of the pixels in {tile_C[pixel_C.argmin()]:.1%} of the tiles."
        )
        return finish(drawn, "data-class-shares", "How much of each class", alt)


def _table(shares: pd.DataFrame, material: Material) -> TableView:
    return TableView(
        "class-shares",
        "Classes",
        shares,
        {"pixels": "{:,}", "pixel share": "{:.3%}", "tiles": "{:,}", "tile share": "{:.1%}", "groups": "{:,}"},
        "Pixels, tiles and groups that hold each class, in the train masks.",
        swatches=dict(material.legend),
        folded=True,
    )


def _samples(material: Material) -> list[Part]:
    """For each class the tile with most of it, and a typical one."""
    names = material.classes.names
    strips = []
    for c, class_name in enumerate(names):
        holders = np.flatnonzero(material.hist_NC[:, c])
        ranked = holders[np.argsort(-material.hist_NC[holders, c], kind="stable")]
        shown = dict.fromkeys([int(ranked[0]), int(ranked[len(ranked) // 2])])
        strips += [_sample(material, tile, class_name, c) for tile in shown]
    caption = "For each class the tile with most of it and the median one: true colour"
    caption += ", near infrared as red," if material.stretch.false else ""
    caption += " and the mask over the picture. All pictures share one stretch."
    return [Gallery("data-samples", "Tiles of each class", strips, caption, legend=material.legend)]


def _sample(material: Material, tile: int, class_name: str, c: int) -> Strip:
    image_HWB = material.pack.train_image_NHWB[tile]
    index_HW = material.pack.train_mask_NHW[tile]
    name = material.pack.train_names[tile]
    rgb = material.stretch.true_color(image_HWB)
    thumbs = [photo(rgb, f"Tile {name} in true colour", "image")]
    if material.stretch.false:
        thumbs.append(photo(material.stretch.false_color(image_HWB), f"Tile {name}, near infrared as red", "infrared"))
    thumbs.append(drawing(overlay(rgb, index_HW, material.classes), f"Mask of tile {name} over its picture", "mask"))
    share = material.hist_NC[tile, c] / index_HW.size
    return Strip(thumbs, f"{class_name} · {name} · {share:.1%} of the tile")


def _audit(material: Material) -> list[Part]:
    path = material.run.dir / CHECK_CSV
    if not path.exists():
        return [Note("No audit of the data yet. Run: python -m folds.check --config FILE", "missing")]
    found = read_csv(path, dtype=str).fillna("")
    if found.empty:
        return [Note("The audit (folds.check) found nothing to remark.")]
    return [TableView("audit", "Findings of the audit", found, caption="What python -m folds.check found.")]


if __name__ == "__main__":
    run_command(section_command("reports.data", __doc__, section))
