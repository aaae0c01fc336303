"""Likely label errors: patches where out-of-fold predictions contradict the mask, and are sure of it.

    python -m reports.suspects --config FILE      reads every train tile -> runs/<name>/suspects.csv

How sure the models are is not enough to go by: they are sure of their own habits too. Where half of all grass is called
forest, forest in place of grass says little about the mask, however sure. So each patch is held against all pixels that
were predicted alike: of those with as little probability for the mask's class, how many have a mask that agrees with
the prediction, for each that has the patch's? Thoughts of confident learning (Northcutt et al. 2021), for patches.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from base.command import run as run_command
from base.command import stage_parser
from base.stamps import FileResult
from base.tables import read_csv, write_csv
from reports.look import OofLook, look_at_oof
from reports.material import Material, run_to_look_at
from reports.patches import FLOOR, HABIT_STEP, Habits, Patch, probability_bin

SUSPECTS = "suspects.csv"
COLUMNS = [
    "name",
    "fold",
    "label",
    "suggested",
    "px",
    "top",
    "left",
    "height",
    "width",
    "p_label",
    "p_suggested",
    "score",
]
PRIOR_PX = 12  # of the habits' sample: a pair seen in fewer pixels says nothing
SHOWN = 15  # on the screen


def suspicion(patch: Patch, habits: Habits, counted: bool = True) -> float:
    """How much speaks for an error of the mask and against one of the prediction, in nats; above 0: more than nothing.

    The odds by habit, from all pixels but the patch's own, plus how much likelier the models hold their own class.

    Args:
        counted: whether the patch's pixels are among those of the habits.
    """
    pair = patch.suggested, patch.label, probability_bin(patch.p_label)
    agree = habits.agree_CCB[pair]
    differ = max(habits.differ_CCB[pair] - counted * patch.px / HABIT_STEP**2, 0)
    odds = (agree + PRIOR_PX) / (differ + PRIOR_PX)
    return float(np.log(odds) + np.log((patch.p_suggested + FLOOR) / (patch.p_label + FLOOR)))


def suspects_table(
    found: Sequence[tuple[str, int, Patch, bool]], habits: Habits, class_names: Sequence[str]
) -> pd.DataFrame:
    """All patches with a positive score, the most suspicious first.

    Args:
        found: (tile, fold, patch, whether its pixels are among those of the habits).
    """
    rows = [
        (name, fold, class_names[patch.label], class_names[patch.suggested], patch.px, *patch.box, patch.p_label,
         patch.p_suggested, suspicion(patch, habits, counted))
        for name, fold, patch, counted in found
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=COLUMNS)
    table = table[table.score > 0].sort_values(["score", "name", "top", "left"], ascending=[False, True, True, True])
    return table.reset_index(drop=True)


def make_suspects(material: Material, everything: bool = False) -> tuple[pd.DataFrame, int]:
    """Write `suspects.csv` unless a wider search than this one's holds already.

    Args:
        everything: read all tiles; else those of the report's sample.

    Returns:
        The table, and how many tiles were searched.
    """
    run, source = material.run, material.oof
    path = run.dir / SUSPECTS

    inputs = material.oof_inputs()

    def of_search(tiles: int) -> FileResult:
        return FileResult(path, run.blend_keys | {"suspects.tiles": tiles}, inputs)

    if of_search(len(source.names)).is_fresh():
        return read_csv(path, dtype=dict.fromkeys(("name", "label", "suggested"), str)), len(source.names)
    seen = look_at_oof(source, material.blend_of, len(source.names)) if everything else material.look
    table = suspects_of(seen, material)
    write_csv(path, table, float_format="%.4f")
    of_search(len(seen.tiles)).finish()
    return table, len(seen.tiles)


def suspects_of(seen: OofLook, material: Material) -> pd.DataFrame:
    source = material.oof
    found = [
        (source.names[i], int(source.fold_N[i]), patch, bool(drawn))
        for i, drawn, tile in zip(seen.tile_n, seen.drawn_n, seen.tiles, strict=True)
        for patch in tile.patches
    ]
    return suspects_table(found, seen.habits(), source.classes)


def main(argv: list[str] | None = None) -> None:
    args = stage_parser("reports.suspects", __doc__).parse_intermixed_args(argv)
    material = Material(run_to_look_at(args.config, args.overrides))
    table, tiles = make_suspects(material, everything=True)
    if len(table):
        print(table.head(SHOWN).to_string(index=False, float_format="{:.3f}".format))
    print(f"{material.run.dir / SUSPECTS}: {len(table)} patches in {tiles} tiles, the most suspicious first")


if __name__ == "__main__":
    run_command(main)
