"""What the blend is made of: what each step brought, what each model adds and costs, what part specialists have."""

import numpy as np
import pandas as pd

from ensemble.evidence import CONFIDENCE, SHIPS
from reports.figures import ACCENT, ACCENT2, MUTED, WIDTH, canvas, finish, look, name_axis
from reports.material import Material
from reports.page import Figure, Note, Part, TableView


def blend_steps(material: Material) -> list[Part]:
    """What each step of the blend brought, and what else was tried."""
    if material.fitted is None:
        return [Note("No fitted blend yet: what is seen here is the plain mean of the models. "
                     "Run: python -m ensemble.blend --config FILE", "missing")]  # fmt: skip
    steps, candidates = material.fitted.steps, material.fitted.candidates
    names = material.classes.names
    shown = steps.assign(kind=steps.kind.fillna(""), ships=steps.ships.map({True: "ships", False: ""}))
    shown = shown.rename(columns={"miou": "mIoU", "miou_low": "from", "miou_high": "to", "miou_in_sample": "in-sample"})
    formats = dict.fromkeys(["mIoU", "from", "to", "in-sample", "ece", *names], "{:.4f}")
    formats |= dict.fromkeys(["gain", "gain_low", "gain_high"], "{:+.4f}")
    caption = (
        "Each step fitted without the fold that it is scored on. Gains are over the step before; ece is the expected "
        "calibration error."
    )
    parts: list[Part] = [
        draw_steps(steps),
        TableView("steps", "The steps in numbers", shown, formats, caption, folded=True),
    ]
    if len(candidates):
        tried = candidates.assign(ships=candidates.ships.map({True: "ships", False: ""}))
        formats = dict.fromkeys(["gain", "low", "high"], "{:+.4f}")
        caption = (
            f"Gain over leaving the step out, on folds not fitted on; the interval ({SHIPS:.0%}) is wider the more was "
            f"tried."
        )
        if not material.fitted.steps_pay:
            caption += " All steps together do not pay, so the plain mean ships."
        parts.append(TableView("candidates", "What was tried", tried, formats, caption, folded=True))
    return parts


def draw_steps(steps: pd.DataFrame) -> Figure:
    """Honest mIoU after each step with its interval, the in-sample one beside it."""
    rows = np.arange(len(steps))
    labels = [
        f"{row.step}: {row.kind}" if isinstance(row.kind, str) and row.kind else row.step for row in steps.itertuples()
    ]
    with look():
        drawn = canvas(WIDTH, 1.1 + 0.36 * len(steps))
        axes = drawn.add_subplot()
        axes.hlines(rows, steps.miou_low, steps.miou_high, color=ACCENT, linewidth=7, alpha=0.22)
        axes.plot(steps.miou_in_sample, rows, "|", color=ACCENT2, markersize=13, markeredgewidth=2, label="in-sample")
        axes.plot(steps.miou, rows, "o", color=ACCENT, markersize=7, label="honest")
        name_axis(axes, labels)
        for tick, ships in zip(axes.get_yticklabels(), steps.ships, strict=True):
            tick.set_fontweight("bold" if ships else "normal")
        axes.set_xlabel("mIoU")
        drawn.legend(loc="outside upper right", ncols=2)
        ships = steps[steps.ships].iloc[0]
        alt = (
            f"Honest mIoU after each step of the blend, from {steps.miou.iloc[0]:.4f} for the plain mean to "
            f"{ships.miou:.4f} for what ships, {ships.step}."
        )
        caption = (
            "Honest: by fits that never saw the scored fold. The gap to in-sample is what fitting flatters itself by."
        )
        return finish(drawn, "oof-steps", "What each step of the blend brought", alt, caption)


def model_worth(material: Material) -> list[Part]:
    """What each model adds to the blend, against what it costs."""
    if material.fitted is None:
        return []
    table = material.fitted.models.sort_values("worth", ascending=False, ignore_index=True)
    if table.worth.isna().all():
        return [Note("The blend is of one model: there is no marginal value to compare.", "missing")]
    caption = (
        f"Worth: what the blend's honest mIoU loses without the model, all else fitted anew, with its {CONFIDENCE:.0%} "
        "interval. Seconds: of all its members for 1,000 test tiles on this machine."
    )
    formats = {"weight": "{:.3f}", "s_per_1000_tiles": "{:,.1f}"}
    formats |= dict.fromkeys(["worth", "worth_low", "worth_high"], "{:+.4f}")
    parts: list[Part] = [draw_worth(table)]
    parts.append(TableView("worth", "What each model is worth, in numbers", table, formats, caption, folded=True))
    errors = material.fitted.errors
    if len(errors) > 1:
        errors = errors.reset_index(names="model")
        caption = "Correlation of being wrong, pixel by pixel: models that err together add little to each other."
        formats = dict.fromkeys(errors.columns[1:], "{:.2f}")
        parts.append(TableView("errors", "How errors go together", errors, formats, caption, folded=True))
    return parts


def draw_worth(table: pd.DataFrame) -> Figure:
    """A row per model: its worth with the interval; weight and seconds beside its name."""
    rows = np.arange(len(table))
    with look():
        drawn = canvas(WIDTH, 1.0 + 0.36 * len(table))
        axes = drawn.add_subplot()
        axes.axvline(0, color=MUTED, linewidth=1)
        axes.hlines(rows, table.worth_low, table.worth_high, color=ACCENT, linewidth=7, alpha=0.22)
        axes.plot(table.worth, rows, "o", color=ACCENT, markersize=7)
        name_axis(axes, [_named(row) for row in table.itertuples()])
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:+.3g}" if value else "0")
        axes.set_xlabel("honest mIoU of the blend less that without the model")
        said = ", ".join(f"{row.model} {row.worth:+.4f}" for row in table.dropna(subset="worth").itertuples())
        alt = f"What each model is worth to the blend in mIoU: {said}."
        return finish(drawn, "oof-worth", "What each model adds, and what it costs", alt)


def _named(row) -> str:
    cost = f", {row.s_per_1000_tiles:,.0f} s per 1,000 tiles" if row.s_per_1000_tiles == row.s_per_1000_tiles else ""
    return f"{row.model} · weight {row.weight:.2f}{cost}"


def specialists_part(material: Material, table: pd.DataFrame) -> Part:
    """What each model of one class scores, and what part it has in the blend."""
    rows = table[table.kind == "specialist"]
    if rows.empty:
        return Note("No specialists: no blended model has a single class as its target (models: target).", "missing")
    names, targets = material.classes.names, material.oof.specialists
    blend = table[table.kind == "blend"].iloc[-1]
    part = {specialist.name: specialist for specialist in material.blend.specialists}
    class_of = {name: names[targets[name]] for name in rows["name"]}
    shown = pd.DataFrame({
        "specialist": list(class_of),
        "class": list(class_of.values()),
        "own IoU": [row[class_of[row["name"]]] for _, row in rows.iterrows()],
        "blend IoU": [blend[class_name] for class_name in class_of.values()],
        "share": [part[name].share if name in part else 0.0 for name in class_of],
        "threshold": [part[name].threshold if name in part else None for name in class_of],
    }).astype({"threshold": float})  # fmt: skip
    formats = {"own IoU": "{:.4f}", "blend IoU": "{:.4f}", "share": "{:.2f}", "threshold": "{:.2f}"}
    caption = (
        "IoU of the specialist's class, its own at probability 0.5 and the blend's; its share of the class's "
        "probability in the blend, and the probability above which it decides alone."
    )
    return TableView("specialists", "Specialists", shown, formats, caption)
