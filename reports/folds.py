"""The folds: does each hold its share of every class, which tiles stay together, and what a leak would cost."""

import numpy as np
import pandas as pd
from PIL import Image

from base.command import run as run_command
from base.files import read_json
from folds import pictures
from folds.assign import least_deviation, relative_deviation
from reports.alone import section_command
from reports.figures import ACCENT, GRID, MUTED, WIDTH, canvas, color_and_mark, finish, look, name_axis
from reports.material import Material
from reports.page import Facts, Figure, Gallery, Note, Part, Section, Strip, TableView
from reports.pictures import photo

LEAK = "leak.json"  # of `folds.leak --json`
MOSAIC_PX = 480
MOSAICS = 4  # recovered scenes that are shown, the largest first


def section(material: Material) -> Section:
    fold_N, hist_NC = material.fold_N, material.hist_NC
    k = material.run.experiment.folds.k
    groups = material.train.group.to_numpy()
    deviation_KC = relative_deviation(hist_NC, fold_N, k)
    sizes = material.train.groupby("group").size()
    facts = Facts(
        [
            (str(k), "folds", f"{len(fold_N) // k:,} tiles or so each"),
            (f"{len(sizes):,}", "groups", f"folds.groups: {material.run.experiment.folds.groups}"),
            (f"{sizes.max():,}", "tiles in the largest", f"{sizes.median():g} in the median one"),
            (f"{np.abs(deviation_KC).max():.1%}", "worst deviation", "of any class in any fold from an even share"),
            (f"{least_deviation(hist_NC, groups, k):.1%}", "of it unavoidable", "by the largest group of a class"),
        ]
    )
    parts: list[Part] = [facts, draw_deviation(deviation_KC, material.classes.names)]
    parts.append(_table(deviation_KC, fold_N, material))
    split = material.train.groupby("group").size()[pd.Series(fold_N).groupby(groups).nunique() > 1]
    if len(split):
        parts.append(Note(f"{len(split)} groups stand in several folds: what is scored was partly seen.", "warning"))
    parts.append(draw_groups(sizes, len(fold_N) / k) if len(sizes) < len(fold_N) else _alone())
    parts += _mosaics(material)
    parts += _leak(material)
    lead = (
        "A member is scored on the fold that it never saw. That means something only if no neighbour or copy of a "
        "scored tile was trained on, and if every fold has its share of every class."
    )
    return Section("folds", "Folds", lead, parts)


def draw_deviation(deviation_KC: np.ndarray, names: tuple[str, ...]) -> Figure:
    """A dot per class and fold at its distance from an even share."""
    k = len(deviation_KC)
    rows = [*names, "tiles"]
    with look():
        drawn = canvas(WIDTH, 0.9 + 0.3 * len(rows))
        axes = drawn.add_subplot()
        axes.axvline(0, color=MUTED, linewidth=1)
        limit = max(np.abs(deviation_KC).max() * 1.15, 0.01)
        for row in range(len(rows)):
            axes.hlines(row, deviation_KC[:, row].min(), deviation_KC[:, row].max(), color=GRID, linewidth=3, zorder=1)
        for fold in range(k):
            color, shape = color_and_mark(fold)
            axes.plot(deviation_KC[fold], np.arange(len(rows)), shape, color=color, markersize=6, label=f"fold {fold}")
        axes.set_xlim(-limit, limit)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:+.3g} %" if value else "even")
        name_axis(axes, rows)
        drawn.legend(loc="outside upper right", ncols=min(k, 8))
        worst = np.unravel_index(np.abs(deviation_KC).argmax(), deviation_KC.shape)
        alt = (
            f"How far each of {k} folds is from an even share of each class. The worst is {rows[worst[1]]} in fold "
            f"{worst[0]}, {deviation_KC[worst]:+.1%}."
        )
        return finish(drawn, "folds-deviation", "Each fold against an even share", alt)


def _table(deviation_KC: np.ndarray, fold_N: np.ndarray, material: Material) -> TableView:
    groups = material.train.group.to_numpy()
    table = pd.DataFrame({"fold": [str(fold) for fold in range(len(deviation_KC))]})
    table["tiles"] = np.bincount(fold_N, minlength=len(table))
    table["groups"] = [len(np.unique(groups[fold_N == fold])) for fold in range(len(table))]
    for c, name in enumerate(material.classes.names):
        table[name] = deviation_KC[:, c]
    formats = dict.fromkeys(material.classes.names, "{:+.2%}") | {"tiles": "{:,}", "groups": "{:,}"}
    caption = "Deviation of each fold from an even share of each class; −100 % is none of it."
    return TableView("folds", "Folds in numbers", table, formats, caption, folded=True)


def draw_groups(sizes: pd.Series, per_fold: float) -> Figure:
    """How large the groups are: many small ones share out well, few large ones do not."""
    ranked = sizes.sort_values(ascending=False).to_numpy()
    with look():
        drawn = canvas(WIDTH, 2.3)
        axes = drawn.add_subplot()
        axes.fill_between(
            np.arange(len(ranked) + 1),
            np.append(ranked, ranked[-1]),
            step="post",
            color=ACCENT,
            alpha=0.22,
            linewidth=0,
        )
        axes.step(np.arange(len(ranked) + 1), np.append(ranked, ranked[-1]), where="post", color=ACCENT, linewidth=1.4)
        axes.axhline(per_fold, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            "tiles of one fold",
            (len(ranked), per_fold),
            xytext=(0, 4),
            textcoords="offset points",
            ha="right",
            color=MUTED,
            fontsize=8.5,
        )
        axes.set_xlim(0, len(ranked))
        axes.set_ylim(0, max(ranked[0], per_fold) * 1.18)
        axes.set_xlabel("groups, the largest first")
        axes.set_ylabel("tiles")
        alt = (
            f"Sizes of {len(ranked)} groups: the largest has {ranked[0]} tiles, the median {np.median(ranked):g}; "
            f"a fold has {per_fold:.0f}."
        )
        return finish(drawn, "folds-groups", "Tiles that stay together", alt)


def _alone() -> Note:
    return Note("Every tile is a group of its own: nothing keeps neighbours in one fold.", "warning")


def _mosaics(material: Material) -> list[Part]:
    """Pictures that mosaic recovery left in `runs/<name>/mosaic/`."""
    paths = sorted((material.run.dir / pictures.FOLDER).glob("*.png"))[:MOSAICS]  # numbered from the largest
    if not paths:
        return []
    strips = [
        Strip([photo(np.asarray(Image.open(path).convert("RGB")), f"Mosaic {path.stem}", "", MOSAIC_PX)], path.stem)
        for path in paths
    ]
    caption = "Tiles laid out where their borders continue each other; nothing but their pixels was known."
    return [Gallery("folds-mosaics", "Recovered scenes", strips, caption)]


def _leak(material: Material) -> list[Part]:
    """What `folds.leak` measured."""
    path = material.run.dir / LEAK
    if not path.exists():
        return [
            Note(
                "What random folds would have promised was not measured. Run: "
                f"python -m folds.leak --config FILE --json {path}",
                "missing",
            )
        ]
    figures = {key: value for key, value in read_json(path).items() if isinstance(value, int | float)}
    table = pd.DataFrame({"what": list(figures), "value": list(figures.values())})
    return [TableView("leak", "What a leak would have promised", table, {"value": "{:.4f}"}, "Measured by folds.leak.")]


if __name__ == "__main__":
    run_command(section_command("reports.folds", __doc__, section))
