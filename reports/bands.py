"""The bands: what values they have, and whether those of test tiles are like those of train tiles."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from folds.images import full_scale
from folds.scan import Scan
from folds.shift import band_shift, say_shifted
from reports.figures import ACCENT, ACCENT2, WIDTH, canvas, finish, look
from reports.material import Material
from reports.page import Figure, Note, Part, TableView

BINS = 64  # of a histogram at most


@dataclass(frozen=True)
class SampledPixels:
    """Some pixels with data, equally many of each tile."""

    values_PB: np.ndarray
    """float32, 1 being full scale."""
    weight_P: np.ndarray
    """The pixels with data that each stands for."""

    @classmethod
    def of(cls, scan: Scan, chosen_N: np.ndarray) -> "SampledPixels":
        """Of the chosen tiles of a scan, which all have pixels with data."""
        sample_NPB = scan.sample_NPB[chosen_N]
        values_PB = sample_NPB.reshape(-1, sample_NPB.shape[-1]).astype(np.float32) / full_scale(scan.dtype)
        return cls(values_PB, np.repeat(scan.data_N[chosen_N], sample_NPB.shape[1]))


def bands_parts(material: Material) -> list[Part]:
    scan = material.scan
    table = band_table(material.bands, full_scale(scan.dtype))
    split_N = material.tiles.split.to_numpy()
    pixels = {
        split: SampledPixels.of(scan, (split_N == split) & (scan.data_N > 0)) for split in material.bands.split.unique()
    }
    level = 1 / full_scale(scan.dtype) if scan.dtype.kind == "u" else 0.0
    parts: list[Part] = [draw_bands(pixels, table, level)]
    if not len(material.test):
        parts.append(Note("No test tiles (data.test_images is null), so there is nothing to compare with.", "missing"))
    elif far := say_shifted(band_shift(material.bands)):
        text = f"Test is another domain in: {far} (shift of the mean in standard deviations of train)."
        parts.append(Note(f"{text} A score on train tiles then says less about test.", "warning"))
    parts.append(TableView(
        "bands", "Bands", table, dict.fromkeys(table.columns[1:], "{:.4f}") | {"shift": "{:+.2f}"},
        "Mean and standard deviation of the pixels with data, 1 being the full scale of the data type; shift of the "
        "test mean in standard deviations of train.", folded=True,
    ))  # fmt: skip
    return parts


def band_table(bands: pd.DataFrame, full: float) -> pd.DataFrame:
    """A row per band: mean and standard deviation of each split, and how far the test mean is from the train mean.

    Args:
        bands: `folds.audit.band_table`.
        full: the value that becomes 1.
    """
    columns = {"band": bands.band.unique()}
    for split, rows in bands.groupby("split", sort=False):
        columns |= {f"{split} {what}": rows[what].to_numpy() / full for what in ("mean", "std")}
    table = pd.DataFrame(columns)
    return table.assign(shift=table.band.map(band_shift(bands))) if "test mean" in table else table


def bin_edges(values: np.ndarray, level: float, bins: int = BINS) -> np.ndarray:
    """Edges of some `bins` bins over nearly all values; each holds equally many of the levels that there can be.

    Bins of 2.3 levels would hold 2 here and 3 there, and the histogram would be a comb.

    Args:
        level: distance of two neighbouring values; 0: any value can be.
    """
    low, high = np.percentile(values, (0.2, 99.8))
    width = max(high - low, 1e-6) / bins
    if level:
        low, width = (np.round(low / level) - 0.5) * level, max(np.round(width / level), 1) * level
    return low + width * np.arange(int(np.ceil((high - low) / width)) + 1)


def draw_bands(pixels: dict[str, SampledPixels], table: pd.DataFrame, level: float = 0.0) -> Figure:
    """A histogram per band.

    Args:
        pixels: of each split.
        table: `band_table`.
        level: distance of two neighbouring values, 0 for floats.
    """
    bands = table.band.tolist()
    # Rice's rule: of few pixels, narrow bins would show their chance.
    bins = min(BINS, round(2 * min(len(each.values_PB) for each in pixels.values()) ** (1 / 3)))
    columns = min(len(bands), 4)
    rows = -(-len(bands) // columns)
    with look():
        drawn = canvas(WIDTH, 0.5 + 1.75 * rows)
        grid = drawn.subplots(rows, columns, squeeze=False, sharey=False).ravel()
        for axes in grid[len(bands) :]:
            axes.set_visible(False)
        for b, (axes, band) in enumerate(zip(grid, bands, strict=False)):
            edges = bin_edges(np.concatenate([each.values_PB[:, b] for each in pixels.values()]), level, bins)
            middle = (edges[1:] + edges[:-1]) / 2
            density = {split: _density(each, b, edges) for split, each in pixels.items()}
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
        compared = "train against test" if "test" in pixels else "train"
        means = "; ".join(
            f"{row['band']} " + ", ".join(f"{split} {row[f'{split} mean']:.3f}" for split in pixels)
            for row in table.to_dict("records")
        )
        alt = f"Histograms of the bands, {compared}. Means: {means}."
        caption = "Share of the pixels with data by value, 1 being the full scale of the data type. From a sample."
        return finish(drawn, "data-bands", f"Bands, {compared}", alt, caption)


def _density(pixels: SampledPixels, b: int, edges: np.ndarray) -> np.ndarray:
    count = np.histogram(pixels.values_PB[:, b], edges, weights=pixels.weight_P)[0]
    return count / max(count.sum(), 1)
