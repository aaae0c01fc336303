"""The out-of-fold score: by class, what is confused, whether confidence can be trusted, what each model adds."""

import numpy as np
import pandas as pd

from base.command import run as run_command
from ensemble.evidence import Estimate, Tally, gain, score
from ensemble.oof import oof_table
from folds.metrics import iou_of_counts
from reports.alone import section_command
from reports.figures import ACCENT, ACCENT2, GRID, HEAT, MUTED, SERIES, WIDTH, canvas, finish, look, name_axis
from reports.look import OofLook, expected_calibration_error, tally_by_group
from reports.material import Material
from reports.page import Facts, Figure, Note, Part, Section, TableView

DRAWS = 1000
CONFIDENCE = 0.95


def section(material: Material) -> Section:
    table = oof_table(material.run.dir)
    seen, names = material.look, material.classes.names
    group_n = material.oof.group_N[seen.tile_n][seen.drawn_n]
    blend = tally_by_group(np.stack([tile.conf_CC for tile in seen.drawn()]), group_n)
    estimate = score(blend)
    blend_row = table[table.kind == "blend"].iloc[-1]
    models = table[table.kind == "model"].sort_values("miou", ascending=False)
    facts = [
        (f"{blend_row.miou:.4f}", "mIoU of the blend", interval_text(estimate)),
        *([(f"{models.iloc[0].miou:.4f}", "best model", str(models.iloc[0]["name"]))] if len(models) else []),
    ]
    facts += _weakest(table, names)
    intervals_C2 = class_intervals(blend)
    parts: list[Part] = [Facts(facts), draw_iou(table, names, intervals_C2, estimate)]
    parts.append(Note(
        f"Intervals: {CONFIDENCE:.0%}, from resampling the groups of {seen.scope()}. Pixels of one scene err together, "
        f"so groups are what there are many independent ones of: here {len(np.unique(group_n))}."
    ))  # fmt: skip
    parts += [_table(table, names), draw_confusion(seen.conf_CC, names, seen.scope())]
    parts += [_confusion_table(seen.conf_CC, material), draw_reliability(seen, material.blend.kinds)]
    parts += _steps(material)
    parts += _worth(material, seen, group_n)
    lead = (
        "Every train tile as predicted by the members that saw neither it nor its group. This is the only score of "
        "the run that is not flattered by training."
    )
    return Section("oof", "Out of fold", lead, parts)


def interval_text(estimate: Estimate) -> str:
    return f"{estimate.low:.3f} to {estimate.high:.3f} with {CONFIDENCE:.0%} confidence"


def class_intervals(tally: Tally, draws: int = DRAWS) -> np.ndarray:
    """(C, 2) percentile interval of each class's IoU over resampled groups; NaN where a class is in no draw."""
    num_groups = len(tally.hit_GC)
    times_DG = np.random.default_rng(0).multinomial(num_groups, np.full(num_groups, 1 / num_groups), draws)
    iou_DC = iou_of_counts(times_DG @ tally.hit_GC, times_DG @ tally.union_GC)
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    there_C = ~np.isnan(iou_DC).all(0)
    interval_C2 = np.full((iou_DC.shape[1], 2), np.nan)
    interval_C2[there_C] = np.nanquantile(iou_DC[:, there_C], tails, axis=0).T
    return interval_C2


def draw_iou(table: pd.DataFrame, names: tuple[str, ...], interval_C2: np.ndarray, estimate: Estimate) -> Figure:
    """A row per class, the mean on top: models as small marks, the blend as a dot with its interval."""
    rows = ["mIoU", *names]
    columns = ["miou", *names]
    models = table[table.kind == "model"].reset_index(drop=True)
    blend = table[table.kind == "blend"].iloc[-1]
    low_high = np.vstack([[estimate.low, estimate.high], interval_C2])
    with look():
        drawn = canvas(WIDTH, 1.1 + 0.32 * len(rows))
        axes = drawn.add_subplot()
        for row, (low, high) in enumerate(low_high):
            axes.hlines(row, low, high, color=ACCENT, linewidth=7, alpha=0.22)
        for m, model in models.iterrows():
            axes.plot(
                model[columns],
                np.arange(len(rows)),
                "|",
                markersize=13,
                markeredgewidth=2,
                color=SERIES[(m + 1) % len(SERIES)],
                label=model["name"],
            )
        axes.plot(blend[columns], np.arange(len(rows)), "o", markersize=7, color=ACCENT, label="blend")
        name_axis(axes, rows)
        axes.get_yticklabels()[0].set_fontweight("bold")
        axes.axhline(0.5, color=GRID, linewidth=1)
        axes.set_xlim(-0.01, 1.01)
        axes.set_xlabel("IoU")
        drawn.legend(loc="outside upper right", ncols=min(len(models) + 1, 7))
        said = ", ".join(f"{name} {blend[name]:.2f}" for name in names if not pd.isna(blend[name]))
        alt = f"OOF IoU of the blend: mean {blend.miou:.4f} ({interval_text(estimate)}); {said}."
        return finish(drawn, "oof-iou", "IoU by class", alt)


def _weakest(table: pd.DataFrame, names: tuple[str, ...]) -> list[tuple[str, str, str]]:
    blend = table[table.kind == "blend"].iloc[-1][list(names)].astype(float).dropna().sort_values()
    return [(f"{blend.iloc[0]:.3f}", "IoU of the weakest class", str(blend.index[0]))] if len(blend) else []


def _table(table: pd.DataFrame, names: tuple[str, ...]) -> TableView:
    """oof.csv, with the name first."""
    shown = table.copy()
    what = [column for column in ("kind", "fold", "seed", "tiles") if column in shown]
    figures = [column for column in shown if column not in (*what, "name")]
    shown = shown[["name", *what, *figures]].rename(columns={"miou": "mIoU"})
    formats = {column: "{:.4f}" for column in shown if column in names or column == "mIoU" or "miou" in column}
    caption = "Each score from one summed confusion matrix of all tiles; written to oof.csv."
    return TableView("oof", "Members, models, blend", shown, formats, caption, folded=len(shown) > 14)


def draw_confusion(conf_CC: np.ndarray, names: tuple[str, ...], scope: str) -> Figure:
    """Row-normalised; a cell's text is its percentage where it is 1 % or more."""
    share_CC = conf_CC / np.maximum(conf_CC.sum(1, keepdims=True), 1)
    size = 2.0 + 0.48 * len(names)
    with look():
        drawn = canvas(min(size + 1.2, WIDTH), size)
        axes = drawn.add_subplot()
        axes.grid(False)
        axes.pcolormesh(share_CC, cmap=HEAT, vmin=0, vmax=1, edgecolors=GRID, linewidth=0.6)
        axes.invert_yaxis()
        axes.set_aspect("equal")
        for row, column in zip(*np.nonzero(share_CC >= 0.005), strict=True):
            share = share_CC[row, column]
            axes.text(column + 0.5, row + 0.5, f"{100 * share:.0f}", ha="center", va="center", fontsize=8,
                      color="#ffffff" if share > 0.5 else "#1e2a36")  # fmt: skip
        ticks = np.arange(len(names)) + 0.5
        axes.set_xticks(ticks, names, rotation=45, ha="left", rotation_mode="anchor")
        axes.set_yticks(ticks, names)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_ylabel("mask")
        axes.set_xlabel("prediction, % of the mask's class")
        axes.xaxis.set_label_position("bottom")
        off_CC = share_CC - np.diag(np.diag(share_CC))
        worst = [np.unravel_index(flat, off_CC.shape) for flat in np.argsort(-off_CC, axis=None)[:3]]
        said = "; ".join(f"{off_CC[t, p]:.0%} of {names[t]} is called {names[p]}" for t, p in worst)
        alt = f"Confusion matrix of the blend. Most confused: {said}."
        return finish(drawn, "oof-confusion", "What is taken for what", alt, f"{alt.split('. ', 1)[1]} From {scope}.")


def _confusion_table(conf_CC: np.ndarray, material: Material) -> TableView:
    names = material.classes.names
    table = pd.DataFrame(conf_CC, columns=[f"as {name}" for name in names])
    table.insert(0, "mask", names)
    table["pixels"] = conf_CC.sum(1)
    formats = dict.fromkeys(table.columns[1:], "{:,}")
    return TableView(
        "confusion",
        "Confusion in pixels",
        table,
        formats,
        "Rows: mask; columns: prediction.",
        dict(material.legend),
        folded=True,
    )


def draw_reliability(seen: OofLook, kinds: dict[str, str]) -> Figure:
    """Accuracy by confidence, of the plain mean and of the blend, over how many pixels have that confidence."""
    plain_B3 = np.sum([tile.plain_bins for tile in seen.drawn()], axis=0)
    blend_B3 = np.sum([tile.blend_bins for tile in seen.drawn()], axis=0)
    calibrated = any(kinds.get(step, "none") != "none" for step in ("temperatures", "calibration", "specialists"))
    curves = [("plain mean", plain_B3, ACCENT2)] + ([("blend", blend_B3, ACCENT)] if calibrated else [])
    errors = {what: expected_calibration_error(bins_B3) for what, bins_B3, _ in curves}
    with look():
        drawn = canvas(6.4, 4.6)
        axes, below = drawn.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for what, bins_B3, color in curves:
            there = bins_B3[:, 0] > bins_B3[:, 0].sum() * 1e-5
            confidence, accuracy = bins_B3[there, 1] / bins_B3[there, 0], bins_B3[there, 2] / bins_B3[there, 0]
            axes.plot(
                confidence,
                accuracy,
                "o-",
                markersize=4,
                linewidth=1.4,
                color=color,
                label=f"{what}, error {errors[what]:.3f}",
            )
            middle = (np.arange(len(bins_B3)) + 0.5) / len(bins_B3)
            below.step(middle, bins_B3[:, 0] / bins_B3[:, 0].sum(), where="mid", color=color, linewidth=1.4)
        axes.set_ylabel("share that is right")
        axes.legend(loc="upper left")
        axes.set_ylim(0, 1.02)
        axes.set_xlim(0, 1.01)
        below.set_ylabel("pixels")
        below.set_yticks([])
        below.set_xlabel("probability of the likeliest class")
        said = ", ".join(f"{what} {error:.3f}" for what, error in errors.items())
        alt = f"Reliability diagram: share of right pixels by confidence. Expected calibration error: {said}."
        caption = (
            "On the dashed line, pixels of which the models are 80 % sure are right 8 times in 10; below it they are "
            "too sure."
        )
        if not calibrated:
            caption += " The blend is not calibrated: it is the plain mean."
        return finish(drawn, "oof-reliability", "Can confidence be trusted?", alt, caption)


def _steps(material: Material) -> list[Part]:
    """What each step of the blend brought, as `ensemble.blend` wrote it down."""
    path = material.run.blend_dir / "steps.csv"
    if not path.exists():
        return [Note("The blend is the plain mean of its models; there are no steps to show.")]
    steps = pd.read_csv(path)
    formats = dict.fromkeys(steps.select_dtypes("float"), "{:.4f}")
    return [
        TableView(
            "steps",
            "What each step of the blend brought",
            steps,
            formats,
            "Honest: on folds that the step was not fitted on.",
        )
    ]


def _worth(material: Material, seen: OofLook, group_n: np.ndarray) -> list[Part]:
    """What each model adds to the mean of all others, against what its training cost."""
    models = list(material.oof.models)
    if len(models) < 2:
        return [Note("One model only: there is no marginal value to compare.", "missing")]
    plain = tally_by_group(np.stack([tile.plain_conf_CC for tile in seen.drawn()]), group_n)
    cost_M = training_seconds(material, models)
    rows = []
    for m, model in enumerate(models):
        without = tally_by_group(np.stack([tile.without_conf_MCC[m] for tile in seen.drawn()]), group_n)
        worth = gain(plain, without)
        rows.append(
            {"model": model, "gain": worth.value, "from": worth.low, "to": worth.high, "minutes": cost_M[m] / 60}
        )
    table = pd.DataFrame(rows).sort_values("gain", ascending=False, ignore_index=True)
    caption = (
        f"Gain in mIoU of the plain mean of all models over that without the model, with its {CONFIDENCE:.0%} "
        f"interval; minutes of computing of all its members. From {seen.scope()}."
    )
    formats = dict.fromkeys(["gain", "from", "to"], "{:+.4f}") | {"minutes": "{:,.1f}"}
    return [
        draw_worth(table),
        TableView("worth", "What each model adds, in numbers", table, formats, caption, folded=True),
    ]


def training_seconds(material: Material, models: list[str]) -> list[float]:
    """Per model, all attempts of all members; NaN where no job was recorded."""
    path = material.run.dir / "jobs.csv"
    if not path.exists():
        return [float("nan")] * len(models)
    jobs = pd.read_csv(path)
    by_model = jobs.groupby(jobs.job.str.split("/").str[0]).wall_s.sum()
    return [float(by_model.get(model, float("nan"))) for model in models]


def draw_worth(table: pd.DataFrame) -> Figure:
    with look():
        drawn = canvas(WIDTH, 0.9 + 0.34 * len(table))
        axes = drawn.add_subplot()
        rows = np.arange(len(table))
        axes.axvline(0, color=MUTED, linewidth=1)
        axes.hlines(rows, table["from"], table["to"], color=ACCENT, linewidth=7, alpha=0.22)
        axes.plot(table["gain"], rows, "o", color=ACCENT, markersize=7)
        cost = [f"  {minutes:,.0f} min" if minutes == minutes else "" for minutes in table.minutes]
        name_axis(axes, [f"{model}{text}" for model, text in zip(table.model, cost, strict=True)])
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:+.3g}" if value else "0")
        axes.set_xlabel("gain in mIoU of the mean over all models, against leaving this one out")
        best = table.iloc[0]
        said = ", ".join(f"{row.model} {row.gain:+.4f}" for row in table.itertuples())
        alt = f"Marginal value of each model in mIoU, with intervals: {said}. {best.model} adds most."
        return finish(drawn, "oof-worth", "What each model adds, and what it costs", alt)


if __name__ == "__main__":
    run_command(section_command("reports.oof", __doc__, section))
