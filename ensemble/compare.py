"""Compare blends of one or several runs: honest mIoU with intervals, and each difference to the first in pairs.

python -m ensemble.compare runs/demo runs/demo_b4
python -m ensemble.compare runs/demo runs/demo:plain          two blends of one run, by name
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from base.command import add_json, plain_parser, write_figures
from base.command import run as run_command
from base.errors import UserError, listed
from base.screen import screen, text_table
from base.tables import read_csv, records
from config.data import COMPARE_COLUMNS, STEP_COLUMNS
from ensemble.build import GROUPS, STEPS, read_groups
from ensemble.evidence import UNKNOWN, Estimate, Tally, gain, score


@dataclass(frozen=True)
class Compared:
    """A blend's honest counts as they lie on disk."""

    label: str
    classes: list[str]
    groups: list[str]
    tally: Tally
    miou_in_sample: float


def read_compared(operand: str) -> Compared:
    """The blend that `runs/NAME` or `runs/NAME:BLEND` means.

    Raises:
        UserError: no such blend; names those that are there.
    """
    run_dir, _, name = operand.partition(":")
    folder = Path(run_dir) / "blend" / (name or "blend")
    if not (folder / GROUPS).exists():
        there = sorted(path.parent.name for path in (Path(run_dir) / "blend").glob(f"*/{GROUPS}"))
        known = f"; it has {listed(there)}" if there else ""
        raise UserError(f"{operand}: no blend at {folder}{known}. Run: python -m ensemble.blend --config FILE")
    steps = read_csv(folder / STEPS)
    groups, tally = read_groups(folder)
    classes = steps.columns[len(STEP_COLUMNS) :].tolist()
    return Compared(operand, classes, groups, tally, float(steps.miou_in_sample[steps.ships].iloc[0]))


def difference(to: Compared, base: Compared) -> Estimate:
    """Gain in honest mIoU, paired over groups; UNKNOWN where they were scored on other tiles."""
    if to.groups != base.groups or to.classes != base.classes:
        return UNKNOWN
    return gain(to.tally, base.tally) if np.array_equal(to.tally.truth_GC, base.tally.truth_GC) else UNKNOWN


def compare(operands: list[str]) -> pd.DataFrame:
    """A row per blend; `difference` is its gain over the first, NaN where tiles, groups or classes differ."""
    blends = [read_compared(operand) for operand in operands]
    rows = [
        {"blend": blend.label}
        | score(blend.tally).columns("miou")
        | {"miou_in_sample": blend.miou_in_sample}
        | difference(blend, blends[0]).columns("difference")
        | dict(zip(blend.classes, blend.tally.iou_C, strict=True))
        for blend in blends
    ]
    return pd.DataFrame(rows)


def show(table: pd.DataFrame, console: Console) -> None:
    """The scores, then IoU per class, a row per class."""
    rows = []
    for i, row in enumerate(table.to_dict("records")):
        other = pd.isna(row["difference"])
        rows.append((
            row["blend"],
            f"{row['miou']:.4f}",
            f"{row['miou_low']:.4f} {row['miou_high']:.4f}",
            f"{row['miou_in_sample']:.4f}",
            "" if i == 0 else "other tiles" if other else f"{row['difference']:+.4f}",
            "" if i == 0 or other else f"{row['difference_low']:+.4f} {row['difference_high']:+.4f}",
        ))  # fmt: skip
    console.print(text_table(
        "Honest mIoU", ("blend", "mIoU", "95 %", "in-sample", "difference", "95 %"), rows, title_justify="left",
        caption="difference: to the first, paired over groups; certain where the interval does not hold 0",
    ))  # fmt: skip
    by_class = [
        (name, *("-" if pd.isna(iou) else f"{iou:.3f}" for iou in table[name]))
        for name in table.columns[len(COMPARE_COLUMNS) :]
    ]
    console.print(text_table("IoU per class", ("", *table.blend), by_class, overflow="fold", title_justify="left"))


def main(argv: list[str] | None = None) -> None:
    parser = plain_parser("ensemble.compare", __doc__)
    parser.add_argument("blends", nargs="+", metavar="RUN[:BLEND]", help="folder of a run, and one of its blends")
    add_json(parser)
    args = parser.parse_args(argv)
    table = compare(args.blends)
    write_figures(args.json, {"rows": records(table)})
    show(table, screen())


if __name__ == "__main__":
    run_command(main)
