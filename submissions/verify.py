"""Is this zip what the graders expect? Every problem of form and content is listed; exit code 2 if one is an error."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from base.command import add_json, run, split_operands, stage_parser, write_figures
from base.errors import UserError, listed
from base.files import hash_file
from base.progress import track
from config import Experiment, Run, load_experiment
from folds.tiles import hist_of, tiles_of
from submissions import content
from submissions.formats import walk
from submissions.layout import Layout, Tile
from submissions.problems import CONTENT, ERROR, WARNING, FlawError, Problem, describe
from submissions.receipt import find_receipt

ENOUGH = 0.9  # share of tiles that must be right in form before their content is judged as a whole


@dataclass(frozen=True)
class Verdict:
    problems: list[Problem]
    class_shares: dict[str, float]
    """Share of the area per class, over the tiles that could be read."""
    tiles: int
    """Tiles that could be read and are right in form."""

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity == ERROR]

    @property
    def broken(self) -> list[Problem]:
        """Errors of form: with any of these a grader would refuse or misread the zip."""
        return [problem for problem in self.errors if problem.kind not in CONTENT]


def verify_submission(
    path: Path,
    experiment: Experiment,
    tiles: pd.DataFrame,
    expected_shares: dict[str, float] | None = None,
) -> Verdict:
    """Read a submission through once and say everything that is wrong with it.

    Args:
        tiles: the tile table, train tiles included.
        expected_shares: class shares of the OOF labels; None: those of the train masks.

    Raises:
        UserError: no such file, no test tiles, or expected shares of other classes.
    """
    layout = Layout.of(experiment, tiles)
    classes = layout.classes
    if expected_shares and set(expected_shares) != set(classes.names):
        raise UserError(
            f"class_shares_oof are of {listed(expected_shares)}; data.classes are {listed(classes.names)}. Is --config "
            f"that of the zip?"
        )

    def look(tile: Tile, label_HW: np.ndarray) -> tuple[np.ndarray, int]:
        counts = np.bincount(label_HW.ravel(), minlength=256)
        _refuse_unknown(counts, layout)
        return counts[list(classes.labels)], hash(label_HW.tobytes())

    problems, hists, twins = [], [], {}
    walked = walk(path, layout, look)
    for found in track(walked, "verify", total=len(layout.tiles)):
        if isinstance(found, Problem):
            problems.append(found)
            continue
        tile, (hist_C, digest) = found
        hists.append(hist_C)
        if (hist_C > 0).sum() > 1:
            twins.setdefault(digest, []).append(tile)
    problems += _copies(twins)
    hist_NC = np.array(hists).reshape(-1, len(classes))
    if len(hists) >= ENOUGH * len(layout.tiles):
        train_NC = hist_of(tiles, classes)
        expected_C = content.shares(train_NC.sum(0))
        if expected_shares:
            expected_C = np.array([expected_shares[name] for name in classes.names])
        limit = content.innocent_distance(tiles, classes, len(hists))
        problems += content.judge(hist_NC, expected_C, limit, train_NC, classes)
    found_shares = dict(zip(classes.names, content.shares(hist_NC.sum(0)).tolist(), strict=True))
    return Verdict(problems, found_shares, len(hists))


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("submissions.verify", __doc__, "submissions/zips/demo.zip", operands="ZIP")
    add_json(parser)
    args = parser.parse_intermixed_args(argv)
    (zip_path,), overrides = split_operands(args.overrides, 1)
    experiment = load_experiment(args.config, overrides)
    path = Path(zip_path)
    receipt = find_receipt(path)
    verdict = verify_submission(path, experiment, tiles_of(Run(experiment)), receipt.get("class_shares_oof"))
    if receipt and receipt["sha256"] != hash_file(path):
        changed = Problem("archive", "not the zip that its receipt was written for: other bytes", severity=WARNING)
        verdict.problems.append(changed)
    if receipt and receipt["format"] != experiment.submission.format:
        said = f"its receipt says another format; judge it as that with submission.format={receipt['format']}"
        verdict.problems.append(Problem("archive", said, severity=WARNING))
    print(f"{path}: {verdict.tiles} tiles are right in form")
    print("  ".join(f"{name} {share:.2%}" for name, share in verdict.class_shares.items()))
    lines = describe(verdict.problems)
    print("\n".join(lines or ["nothing is wrong with it"]))
    errors = len(verdict.errors)
    write_figures(args.json, {"tiles": verdict.tiles, "errors": errors, "warnings": len(verdict.problems) - errors})
    if errors:
        kinds = list(dict.fromkeys(problem.kind for problem in verdict.errors))
        raise UserError(f"{path}: {errors} errors ({', '.join(kinds)}); do not hand it in")


def _refuse_unknown(counts: np.ndarray, layout: Layout) -> None:
    """Raise a FlawError if values of a tile, given as 256 counts, are no labels."""
    values = np.flatnonzero(counts)
    unknown = sorted(set(values.tolist()) - set(layout.classes.labels))
    if not unknown:
        return
    labels = ", ".join(map(str, layout.classes.labels))
    if values.max() < len(layout.classes):
        raise FlawError("zero_based", f"values look like indices 0..{len(layout.classes) - 1}; labels are {labels}")
    raise FlawError("labels", f"values {', '.join(map(str, unknown[:5]))} are no labels; labels are {labels}")


def _copies(twins: dict[int, list[Tile]]) -> list[Problem]:
    """Tiles with one and the same mask of several classes although their images differ."""
    problems = []
    for tiles in twins.values():
        if len(tiles) > 1 and len({hash_file(tile.image) for tile in tiles if tile.image.exists()}) != 1:
            what = "the same mask stands under several names"
            problems += [Problem("copies", what, tile.name, WARNING) for tile in tiles]
    return problems


if __name__ == "__main__":
    run(main)
