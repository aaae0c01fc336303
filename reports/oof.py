"""The out-of-fold score: by class, what is confused, whether confidence can be trusted, what each model adds."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from base.command import run as run_command
from ensemble.build import RunBlend
from ensemble.evidence import CONFIDENCE, Estimate, Tally, class_intervals, score
from reports.alone import section_command
from reports.figures import ACCENT, ACCENT2, GRID, HEAT, MUTED, SERIES, WIDTH, canvas, finish, look, name_axis, text_on
from reports.look import OofLook, tally_by_group
from reports.material import Material
from reports.page import Facts, Figure, Note, Part, Section, TableView
from reports.steps import blend_steps, model_worth, specialists_part

BESIDE, ABOVE = 3.2, 2.0  # inches that the confusion matrix leaves for names
LEAST_PT = 4.0  # letters in its cells are not drawn smaller: thousands of specks take half a minute


def section(material: Material) -> Section:
    table = material.scores
    seen, names = material.look, material.classes.names
    group_n = material.oof.group_N[seen.tile_n][seen.drawn_n]
    blend = tally_by_group(np.stack([tile.conf_CC for tile in seen.drawn()]), group_n)
    scored = blend_scores(material, table, blend)
    models = table[table.kind == "model"].sort_values("miou", ascending=False)
    facts = [
        (f"{scored.estimate.value:.4f}", "honest mIoU of the blend", interval_text(scored.estimate)),
        *([(f"{models.iloc[0].miou:.4f}", "best model", str(models.iloc[0]["name"]))] if len(models) else []),
    ]
    weakest = scored.iou_by_class.dropna().sort_values()
    if len(weakest):
        facts.append((f"{weakest.iloc[0]:.3f}", "IoU of the weakest class", str(weakest.index[0])))
    if material.fitted:
        remark = "the same, on the tiles it was fitted on"
        facts.append((f"{material.fitted.row.miou_in_sample:.4f}", "in-sample", remark))
    parts: list[Part] = [Facts(facts), draw_iou(models, scored, class_intervals(blend))]
    parts.append(Note(
        f"Intervals: {CONFIDENCE:.0%}, from leaving out each group of {seen.scope()}. Pixels of one scene err "
        f"together, so groups are what there are many independent ones of: here {len(np.unique(group_n))}."
    ))  # fmt: skip
    parts += [_table(table, names), *_confusion(material), draw_reliability(seen, material.fitted)]
    parts += [*blend_steps(material), *model_worth(material), specialists_part(material, table)]
    lead = (
        "Every train tile as predicted by the members that saw neither it nor its group. This is the only score of "
        "the run that is not flattered by training."
    )
    return Section("oof", "Out of fold", lead, parts)


@dataclass(frozen=True)
class BlendScores:
    """The blend's mIoU with its interval, and its IoU by class name."""

    estimate: Estimate
    iou_by_class: pd.Series


def blend_scores(material: Material, table: pd.DataFrame, sampled: Tally) -> BlendScores:
    """Of the honest blend on all tiles; where none was fitted, of the plain mean as `oof.csv` has it.

    Args:
        sampled: the blend's counts on the tiles looked at, for the interval where none is known.
    """
    names = list(material.classes.names)
    if material.fitted:
        row = material.fitted.row
        return BlendScores(Estimate(row.miou, row.miou_low, row.miou_high), row[names].astype(float))
    row = table[table.kind == "blend"].iloc[-1]
    around = score(sampled)
    return BlendScores(Estimate(row.miou, around.low, around.high), row[names].astype(float))


def interval_text(estimate: Estimate) -> str:
    if np.isnan(estimate.low):
        return "without an interval: there is one group"
    return f"{estimate.low:.3f} to {estimate.high:.3f} with {CONFIDENCE:.0%} confidence"


def draw_iou(models: pd.DataFrame, blend: BlendScores, interval_C2: np.ndarray) -> Figure:
    """A row per class, the mean on top: models as small marks, the blend as a dot with its interval."""
    names = list(blend.iou_by_class.index)
    rows, columns = ["mIoU", *names], ["miou", *names]
    low_high = np.vstack([[blend.estimate.low, blend.estimate.high], interval_C2])
    iou = np.array([blend.estimate.value, *blend.iou_by_class])
    with look():
        drawn = canvas(WIDTH, 1.1 + 0.32 * len(rows))
        axes = drawn.add_subplot()
        axes.hlines(np.arange(len(rows)), low_high[:, 0], low_high[:, 1], color=ACCENT, linewidth=7, alpha=0.22)
        for m, model in enumerate(models.to_dict("records"), start=1):
            figures = [model[column] for column in columns]
            axes.plot(figures, np.arange(len(rows)), "|", markersize=13, markeredgewidth=2,
                      color=SERIES[m % len(SERIES)], label=model["name"])  # fmt: skip
        axes.plot(iou, np.arange(len(rows)), "o", markersize=7, color=ACCENT, label="blend")
        name_axis(axes, rows)
        axes.get_yticklabels()[0].set_fontweight("bold")
        axes.axhline(0.5, color=GRID, linewidth=1)
        axes.set_xlim(-0.01, 1.01)
        axes.set_xlabel("IoU")
        drawn.legend(loc="outside upper right", ncols=min(len(models) + 1, 7))
        said = ", ".join(f"{name} {value:.2f}" for name, value in blend.iou_by_class.dropna().items())
        alt = f"OOF IoU of the blend: mean {blend.estimate.value:.4f} ({interval_text(blend.estimate)}); {said}."
        return finish(drawn, "oof-iou", "IoU by class", alt)


def _table(table: pd.DataFrame, names: tuple[str, ...]) -> TableView:
    """oof.csv, with the name first."""
    shown = table[table.kind != "step"]  # they are drawn by themselves
    what = [column for column in ("kind", "fold", "seed", "weights", "tta", "tiles") if column in shown]
    figures = [column for column in shown if column not in (*what, "name")]
    shown = shown[["name", *what, *figures]]
    shown = shown.rename(columns={"miou": "mIoU", "miou_low": "from", "miou_high": "to", "miou_in_sample": "in-sample"})
    formats = dict.fromkeys(["mIoU", "from", "to", "in-sample", *names], "{:.4f}")
    caption = "Each score from one summed confusion matrix of all tiles; written to oof.csv."
    return TableView("oof", "Members, models, blend", shown, formats, caption, folded=len(shown) > 14)


def draw_confusion(conf_CC: np.ndarray, names: tuple[str, ...], scope: str) -> Figure:
    """Row-normalised; a cell's text is its percentage where it is 1 % or more, and letters are large enough to be read:
    the table of the report has all numbers."""
    share_CC = conf_CC / np.maximum(conf_CC.sum(1, keepdims=True), 1)
    cell = min(0.48, (WIDTH - BESIDE) / len(names))  # inches; of many classes, cells and letters are small
    side = cell * len(names)
    with look():
        drawn = canvas(BESIDE + side, ABOVE + side)
        axes = drawn.add_subplot()
        axes.grid(False)
        axes.pcolormesh(share_CC, cmap=HEAT, vmin=0, vmax=1, edgecolors=GRID, linewidth=0.6)
        axes.invert_yaxis()
        axes.set_aspect("equal")
        fontsize = min(8, 40 * cell)
        for row, column in zip(*np.nonzero(share_CC >= (0.005 if fontsize >= LEAST_PT else np.inf)), strict=True):
            share = share_CC[row, column]
            axes.text(column + 0.5, row + 0.5, f"{100 * share:.0f}", ha="center", va="center",
                      fontsize=fontsize, color=text_on(HEAT(share)))  # fmt: skip
        ticks = np.arange(len(names)) + 0.5
        axes.set_xticks(ticks, names, rotation=45, ha="left", rotation_mode="anchor")
        axes.set_yticks(ticks, names)
        axes.xaxis.tick_top()
        axes.tick_params(length=0, labelsize=min(8.5, 58 * cell))
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


def draw_reliability(seen: OofLook, fitted: RunBlend | None) -> Figure:
    """Accuracy by confidence, of the plain mean and of the blend, over how many pixels have that confidence."""
    plain_B3 = np.sum([tile.plain_bins for tile in seen.drawn()], axis=0)
    blend_B3 = np.sum([tile.blend_bins for tile in seen.drawn()], axis=0)
    kinds = fitted.blend.kinds if fitted else {}
    calibrated = any(kinds.get(step, "none") != "none" for step in ("temperatures", "calibration", "specialists"))
    curves = [("plain mean", plain_B3, ACCENT2)] + ([("blend", blend_B3, ACCENT)] if calibrated else [])
    ece = calibration_errors(fitted) if fitted else {}
    names = {what: f"{what}, ece {ece[what]:.4f}" if ece else what for what, *_ in curves}
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
                label=names[what],
            )
            middle = (np.arange(len(bins_B3)) + 0.5) / len(bins_B3)
            below.step(middle, bins_B3[:, 0] / bins_B3[:, 0].sum(), where="mid", color=color, linewidth=1.4)
        axes.set_ylabel("share that is right")
        axes.legend(loc="upper left")
        axes.set_ylim(0, 1.02)
        axes.set_xlim(0, 1.01)
        below.set_ylabel("pixels")
        below.set_yticks([])
        below.set_xlabel("probability of the label")
        alt = f"Reliability diagram: share of right pixels by confidence, of the {' and the '.join(names.values())}."
        caption = (
            "On the dashed line, pixels of which the models are 80 % sure are right 8 times in 10; below it they are "
            "too sure."
        )
        if ece:
            caption += " ece: expected calibration error, as in the table of the steps."
        if not calibrated:
            caption += " The blend is not calibrated: its probabilities are those of its models, combined."
        return finish(drawn, "oof-reliability", "Can confidence be trusted?", alt, caption)


def calibration_errors(fitted: RunBlend) -> dict[str, float]:
    """Expected calibration error of the plain mean and of the blend, as the table of its steps has it."""
    ece = fitted.steps.set_index("step").ece
    # Post-processing has no probabilities: the blend's are those of the step before.
    return {"plain mean": ece.iloc[0], "blend": ece.loc[: fitted.stage].dropna().iloc[-1]}


def _confusion(material: Material) -> list[Part]:
    """Of the honest blend on all tiles where it was fitted, else of the plain mean on the sample."""
    names, seen = material.classes.names, material.look
    fitted = material.fitted
    conf_CC, scope = (fitted.honest_conf_CC, f"all {seen.total:,} tiles") if fitted else (seen.conf_CC, seen.scope())
    table = pd.DataFrame(conf_CC, columns=[f"as {name}" for name in names])
    table.insert(0, "mask", names)
    table["pixels"] = conf_CC.sum(1)
    formats = dict.fromkeys(table.columns[1:], "{:,.0f}")
    numbers = TableView(
        "confusion",
        "Confusion in pixels",
        table,
        formats,
        "Rows: mask; columns: prediction.",
        dict(material.legend),
        True,
    )
    return [draw_confusion(conf_CC, names, scope), numbers]


if __name__ == "__main__":
    run_command(section_command("reports.oof", __doc__, section))
