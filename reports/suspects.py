"""Likely label errors: patches where out-of-fold predictions contradict the mask, and are sure of it.

    python -m reports.suspects --config FILE      reads every train tile -> runs/<name>/suspects.csv

How sure the models are is not enough to go by. They are sure of their own habits too: where a tenth of all grass is
taken for farmland, farmland in place of grass says little about the mask. So the margin is discounted by how often that
pair is confused at all, which is the thought of confident learning (Northcutt et al. 2021), for patches.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from base.command import run as run_command
from base.command import stage_parser
from base.files import hash_file, whole_file
from config import Run, load_experiment
from pipeline.store import MANIFEST
from reports.look import OofLook, look_at_oof
from reports.material import Material
from reports.patches import Patch

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
SHOWN = 15  # on the screen


def suspicion(patch: Patch, conf_CC: np.ndarray) -> float:
    """How much speaks for an error of the mask and against one of the prediction; at most 1.

    Args:
        conf_CC: confusion of all predictions, rows the mask: how often each pair is confused at all.
    """
    truth_px = max(conf_CC[patch.label].sum(), 1)
    habit = conf_CC[patch.label, patch.suggested] / truth_px
    return (patch.p_suggested - patch.p_label) * (1 - habit)


def suspects_table(
    found: Sequence[tuple[str, int, Patch]], conf_CC: np.ndarray, class_names: Sequence[str]
) -> pd.DataFrame:
    """All patches with a positive score, the most suspicious first.

    Args:
        found: (tile, fold, patch).
    """
    rows = [
        (name, fold, class_names[patch.label], class_names[patch.suggested], patch.px, *patch.box, patch.p_label,
         patch.p_suggested, suspicion(patch, conf_CC))
        for name, fold, patch in found
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
    path = run.dir / "suspects.csv"
    inputs = {str(member): hash_file(store.path / MANIFEST) for member, store in source.stores.items()}
    all_keys = run.blend_keys | {"suspects.tiles": len(source.names)}
    if run.is_fresh(path, all_keys, inputs, is_folder=False):
        return pd.read_csv(path, dtype={"name": str}), len(source.names)
    seen = look_at_oof(source, material.blend_of, len(source.names)) if everything else material.look
    table = suspects_of(seen, material)
    with whole_file(path) as aside:
        table.to_csv(aside, index=False, float_format="%.4f")
    run.finish(path, all_keys | {"suspects.tiles": len(seen.tiles)}, inputs, [path], is_folder=False)
    return table, len(seen.tiles)


def suspects_of(seen: OofLook, material: Material) -> pd.DataFrame:
    source = material.oof
    found = [
        (source.names[i], int(source.fold_N[i]), patch)
        for i, tile in zip(seen.tile_n, seen.tiles, strict=True)
        for patch in tile.patches
    ]
    return suspects_table(found, seen.conf_CC, source.classes)


def main(argv: list[str] | None = None) -> None:
    args = stage_parser("reports.suspects", __doc__).parse_intermixed_args(argv)
    material = Material(Run(load_experiment(args.config, args.overrides)))
    table, tiles = make_suspects(material, everything=True)
    if len(table):
        print(table.head(SHOWN).to_string(index=False, float_format="{:.3f}".format))
    print(f"{material.run.dir / 'suspects.csv'}: {len(table)} patches in {tiles} tiles, the most suspicious first")


if __name__ == "__main__":
    run_command(main)
