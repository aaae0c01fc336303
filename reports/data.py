"""The data: how much of each class, what the tiles look like, whether test looks like train, what the audit found."""

import numpy as np
import pandas as pd

from base.command import run as run_command
from base.tables import read_csv
from pipeline.pack import full_scale
from reports.alone import section_command
from reports.figures import ACCENT, ACCENT2, GRID, INK, MUTED, WIDTH, canvas, finish, look, name_axis, unit
from reports.material import Material
from reports.page import Facts, Figure, Gallery, Note, Part, Section, Strip, TableView
from reports.pictures import drawing, overlay, photo

HIST_TILES = 400  # of each split, from which band histograms are drawn
HIST_STEP = 4  # every 4th row and column of them
BINS = 64
FAR = 0.5  # shift of a band's mean between train and test, in standard deviations, that is called out


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
    parts += _bands(material)
    parts += _audit(material)
    lead = (
        "The score is a mean over classes, so a class with a thousandth of the pixels weighs as much as the largest. "
        "Rare classes are where scores are won, and where a handful of tiles decides."
    )
    return Section("data", "Data", lead, parts)


def class_shares(material: Material) -> pd.DataFrame:
    """A row per class: pixels, their share, tiles that hold it, their share, groups that hold it."""
    hist_NC, names = material.hist_NC, material.classes.names
    has_NC = hist_NC > 0
    groups = material.train.group.to_numpy()
    return pd.DataFrame(
        {
            "class": names,
            "label": material.classes.labels,
            "pixels": hist_NC.sum(0),
            "pixel share": hist_NC.sum(0) / hist_NC.sum(),
            "tiles": has_NC.sum(0),
            "tile share": has_NC.mean(0),
            "groups": [len(np.unique(groups[has_NC[:, c]])) for c in range(len(names))],
        }
    )


def draw_shares(shares: pd.DataFrame, material: Material) -> Figure:
    names, colors = material.classes.names, material.classes.colors
    pixel_C, tile_C = shares["pixel share"].to_numpy(), shares["tile share"].to_numpy()
    floor = 10 ** np.floor(np.log10(max(pixel_C[pixel_C > 0].min(), 1e-6)))
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
        axes.set_xscale("log")
        axes.set_xlim(floor, 1.15)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
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


def _bands(material: Material) -> list[Part]:
    bands = material.run.experiment.data.bands
    pixels = {"train": _some_pixels(material.pack.train_image_NHWB)}
    if len(material.test):
        pixels["test"] = _some_pixels(material.pack.test_image_NHWB)
    table = band_table(pixels, bands)
    dtype = material.pack.train_image_NHWB.dtype
    level = 1 / full_scale(dtype) if np.issubdtype(dtype, np.integer) else 0.0
    parts: list[Part] = [draw_bands(pixels, bands, level)]
    if "test" not in pixels:
        parts.append(Note("No test tiles (data.test_images is null), so there is nothing to compare with.", "missing"))
    else:
        far = table[table["shift"].abs() > FAR]
        if len(far):
            moved = ", ".join(f"{row.band} {row['shift']:+.2f}" for _, row in far.iterrows())
            text = f"Test is another domain in: {moved} (shift of the mean in standard deviations of train)."
            parts.append(Note(f"{text} A score on train tiles then says less about test.", "warning"))
    parts.append(TableView(
        "bands", "Bands", table, dict.fromkeys(table.columns[1:], "{:.4f}") | {"shift": "{:+.2f}"},
        "Mean and standard deviation, 1 being the full scale of the data type; shift of the test mean in standard "
        "deviations of train.", folded=True,
    ))  # fmt: skip
    return parts


def _some_pixels(image_NHWB: np.ndarray) -> np.ndarray:
    """(P, B) float32 of a regular sample, 1 being full scale."""
    some = np.unique(np.linspace(0, len(image_NHWB) - 1, HIST_TILES).astype(int))
    pixels = np.concatenate([image_NHWB[i, ::HIST_STEP, ::HIST_STEP].reshape(-1, image_NHWB.shape[-1]) for i in some])
    return pixels.astype(np.float32) / full_scale(image_NHWB.dtype)


def band_table(pixels: dict[str, np.ndarray], bands: list[str]) -> pd.DataFrame:
    """A row per band: mean and standard deviation of each split, and how far the test mean is from the train mean."""
    table = pd.DataFrame({"band": bands})
    for split, values_PB in pixels.items():
        table[f"{split} mean"], table[f"{split} std"] = values_PB.mean(0), values_PB.std(0)
    if "test" in pixels:
        table["shift"] = (table["test mean"] - table["train mean"]) / table["train std"].clip(lower=1e-9)
    return table


def bin_edges(values: np.ndarray, level: float) -> np.ndarray:
    """Edges of some BINS bins over nearly all values; each holds equally many of the levels that there can be.

    Bins of 2.3 levels would hold 2 here and 3 there, and the histogram would be a comb.

    Args:
        level: distance of two neighbouring values; 0: any value can be.
    """
    low, high = np.percentile(values, (0.2, 99.8))
    width = max(high - low, 1e-6) / BINS
    if level:
        low, width = (np.round(low / level) - 0.5) * level, max(np.round(width / level), 1) * level
    return low + width * np.arange(int(np.ceil((high - low) / width)) + 1)


def draw_bands(pixels: dict[str, np.ndarray], bands: list[str], level: float = 0.0) -> Figure:
    """Args: pixels: (P, B) of each split; level: distance of two neighbouring values, 0 for floats."""
    columns = min(len(bands), 4)
    rows = -(-len(bands) // columns)
    with look():
        drawn = canvas(WIDTH, 0.5 + 1.75 * rows)
        grid = drawn.subplots(rows, columns, squeeze=False, sharey=False).ravel()
        for axes in grid[len(bands) :]:
            axes.set_visible(False)
        for b, (axes, band) in enumerate(zip(grid, bands, strict=False)):
            edges = bin_edges(np.concatenate([values[:, b] for values in pixels.values()]), level)
            middle = (edges[1:] + edges[:-1]) / 2
            density = {split: _density(values[:, b], edges) for split, values in pixels.items()}
            axes.fill_between(middle, density["train"], color=ACCENT, alpha=0.22, linewidth=0)
            axes.plot(middle, density["train"], color=ACCENT, linewidth=1.4, label="train")
            if "test" in density:
                axes.plot(middle, density["test"], color=ACCENT2, linewidth=1.4, label="test")
            axes.set_title(band)
            axes.set_yticks([])
            axes.set_ylim(0)
            axes.spines["left"].set_visible(False)
            axes.locator_params(axis="x", nbins=4)
        if len(pixels) > 1:
            handles, labels = grid[0].get_legend_handles_labels()
            drawn.legend(handles, labels, loc="outside upper right", ncols=2)
        means = "; ".join(
            f"{band} " + ", ".join(f"{split} {values[:, b].mean():.3f}" for split, values in pixels.items())
            for b, band in enumerate(bands)
        )
        compared = "train against test" if "test" in pixels else "train"
        alt = f"Histograms of the bands, {compared}. Means: {means}."
        caption = "Share of the pixels by value, 1 being the full scale of the data type. From a sample of tiles."
        return finish(drawn, "data-bands", f"Bands, {compared}", alt, caption)


def _density(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    count = np.histogram(values, edges)[0]
    return count / max(count.sum(), 1)


def _audit(material: Material) -> list[Part]:
    path = material.run.dir / "check.csv"
    if not path.exists():
        return [Note("No audit of the data yet. Run: python -m folds.check --config FILE", "missing")]
    found = read_csv(path, dtype=str).fillna("")
    if found.empty:
        return [Note("The audit (folds.check) found nothing to remark.")]
    return [TableView("audit", "Findings of the audit", found, caption="What python -m folds.check found.")]


if __name__ == "__main__":
    run_command(section_command("reports.data", __doc__, section))
