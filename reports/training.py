"""The training: loss, learning rate and validation score of every member, and what each cost."""

import numpy as np
import pandas as pd

from base.command import run as run_command
from base.errors import UserError
from base.tables import read_csv
from config import Member, Run
from pipeline.job_state import log_tail
from pipeline.record import read_log
from pipeline.wording import clock, figures_in
from reports.alone import section_command
from reports.figures import SERIES, WIDTH, canvas, finish, look
from reports.material import Material
from reports.page import Facts, Figure, Note, Part, Section, TableView


def section(material: Material) -> Section:
    run = material.run
    logs = {member: log for member in run.members() if (log := read_log(run.member_dir(member))) is not None}
    if not logs:
        raise UserError("no member has begun to train. Run: python -m pipeline.cv --config FILE")
    table = member_table(run, logs)
    total_s, wanted = table["wall s"].sum(), len(list(run.members()))
    peak = table["peak MiB"].max()
    facts = Facts(
        [
            (f"{len(logs)} of {wanted}", "members", "models × folds × seeds"),
            (clock(total_s) if total_s else "–", "of computing", "all attempts of all members"),
            (f"{peak / 1024:.1f} GiB" if peak == peak else "–", "most memory", "of one member"),
            (str(run.experiment.train.epochs), "epochs", f"batches of {run.experiment.train.batch}"),
        ]
    )
    parts: list[Part] = [facts, draw_curves(logs)]
    if len(logs) < wanted:
        text = f"{wanted - len(logs)} members have not begun to train. Run: python -m pipeline.cv --config FILE"
        parts.append(Note(text, "missing"))
    if not any(log.val_miou.notna().any() for log in logs.values()):
        parts.append(
            Note("No validation during training (train.validate_every is 0); the OOF score follows below.", "missing")
        )
    formats = {
        "loss": "{:.4f}", "best val mIoU": "{:.4f}", "OOF mIoU": "{:.4f}", "wall s": "{:,.0f}", "peak MiB": "{:,.0f}",
        "img/s": "{:,.0f}",
    }  # fmt: skip
    caption = "Loss of the last epoch; time and memory over all attempts; speed as last logged."
    parts.append(TableView("members", "Members", table, formats, caption, folded=len(table) > 12))
    lead = "Curves of one model should lie together: a fold that stands apart has other data, or a run gone wrong."
    return Section("training", "Training", lead, parts)


def member_table(run: Run, logs: dict[Member, pd.DataFrame]) -> pd.DataFrame:
    jobs = _jobs(run)
    oof = (
        read_csv(run.oof_csv, dtype={"name": str})
        if run.oof_csv.exists()
        else pd.DataFrame(columns=["kind", "name", "fold", "seed", "miou"])
    )
    oof = oof[oof.kind == "member"]
    rows = []
    for member, log in logs.items():
        own = jobs[jobs.job == str(member)]
        score = oof[(oof.name == member.model.name) & (oof.fold == member.fold) & (oof.seed == member.seed)].miou
        rows.append(
            {
                "model": member.model.name,
                "fold": member.fold_name,
                "seed": member.seed,
                "epochs": int(log.epoch.max()),
                "loss": log.loss.iloc[-1],
                "best val mIoU": log.val_miou.max(),
                "OOF mIoU": score.iloc[0] if len(score) else np.nan,
                "wall s": own.wall_s.sum() if len(own) else np.nan,
                "peak MiB": own.peak_mib.max() if len(own) else np.nan,
                "img/s": _speed(run, member),
                "device": own.device.iloc[-1] if len(own) else "",
                "attempts": len(own),
            }
        )
    return pd.DataFrame(rows)


def _jobs(run: Run) -> pd.DataFrame:
    path = run.jobs_csv
    columns = ["job", "device", "wall_s", "peak_mib"]
    return (
        read_csv(path) if path.exists() else pd.DataFrame(columns=columns).astype({"wall_s": float, "peak_mib": float})
    )


def _speed(run: Run, member: Member) -> float:
    """img/s as the job's newest attempt said it last; NaN if it did not."""
    lines = log_tail(run.jobs_dir, str(member), lines=None)
    return float(figures_in(lines).get("img/s", "nan"))


def draw_curves(logs: dict[Member, pd.DataFrame]) -> Figure:
    """Three panels; a colour per model, a thin line per member, a thick one for their mean."""
    models = list(dict.fromkeys(member.model.name for member in logs))
    validated = any(log.val_miou.notna().any() for log in logs.values())
    panels = [("loss", "Loss"), ("lr", "Learning rate")] + ([("val_miou", "Validation mIoU")] if validated else [])
    with look():
        drawn = canvas(WIDTH, 3.1)
        grid = drawn.subplots(1, len(panels), squeeze=False)[0]
        for axes, (column, title) in zip(grid, panels, strict=True):
            for m, model in enumerate(models):
                color = SERIES[m % len(SERIES)]
                own = [
                    log.set_index("epoch")[column].dropna()
                    for member, log in logs.items()
                    if member.model.name == model
                ]
                own = [curve for curve in own if len(curve)]
                for curve in own:
                    # A single epoch is a point, not a line.
                    axes.plot(
                        curve.index, curve, color=color, linewidth=0.8, alpha=0.45, marker="." if len(curve) < 3 else ""
                    )
                if own:
                    mean = pd.concat(own, axis=1).mean(axis=1)
                    axes.plot(mean.index, mean, color=color, linewidth=2, label=model)
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            if column != "lr":
                axes.margins(y=0.08)
            else:
                axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 0))
                axes.yaxis.get_offset_text().set_fontsize(8)
        handles, labels = grid[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside upper right", ncols=min(len(models), 6))
        last = {
            model: np.mean([log.loss.iloc[-1] for member, log in logs.items() if member.model.name == model])
            for model in models
        }
        said = ", ".join(f"{model} {loss:.3f}" for model, loss in last.items())
        alt = f"Curves of {len(logs)} members of {len(models)} models over the epochs. Mean loss at the end: {said}."
        caption = "Thin: members; thick: the mean over a model's members."
        return finish(drawn, "training-curves", "Curves", alt, caption)


if __name__ == "__main__":
    run_command(section_command("reports.training", __doc__, section))
