"""What changed from one submission to another: class pairs, tiles, pictures, and what that should do to the mIoU."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from base.command import add_json, run, split_operands, stage_parser, write_figures
from base.progress import track
from config import Experiment, Run, load_experiment
from config.ensemble import Submission
from folds.classes import ClassTable
from folds.metrics import confusion, mean_iou
from folds.tiles import tiles_of
from submissions.formats import read_submission
from submissions.layout import Layout
from submissions.receipt import find_receipt

SHOWN = 12  # rows of a printed table
PICTURES = 6  # tiles that are drawn


@dataclass(frozen=True)
class Comparison:
    pairs_CC: np.ndarray
    """(C, C) int64 pixels, rows class in A, columns class in B."""
    changed: pd.Series
    """Changed share of each tile, by name, the most changed first."""
    examples: list[tuple[str, np.ndarray, np.ndarray]]
    """Name, (H, W) indices of A and of B, of the PICTURES most changed tiles, the most changed first."""

    @property
    def changed_share(self) -> float:
        return 1 - float(np.trace(self.pairs_CC)) / self.pairs_CC.sum()


def compare(a: Iterator[tuple[str, np.ndarray]], b: Iterator[tuple[str, np.ndarray]], num_classes: int) -> Comparison:
    """Compare two submissions tile by tile; both give the same names in the same order, as `read_submission` does."""
    pairs_CC = np.zeros((num_classes, num_classes), np.int64)
    changed: dict[str, float] = {}
    examples: list[tuple[float, str, np.ndarray, np.ndarray]] = []  # a heap: the least changed of them first
    for (name, a_HW), (other, b_HW) in zip(a, b, strict=True):
        if name != other:
            raise ValueError(f"tiles out of step: {name} and {other}")
        pairs_CC += confusion(b_HW, a_HW, num_classes)
        changed[name] = float((a_HW != b_HW).mean())
        if changed[name]:
            example = (changed[name], name, a_HW, b_HW)
            heapq.heappushpop(examples, example) if len(examples) == PICTURES else heapq.heappush(examples, example)
    order = pd.Series(changed, dtype=float).sort_values(ascending=False, kind="stable")
    return Comparison(pairs_CC, order, [example[1:] for example in sorted(examples, reverse=True)])


def expected_change(pairs_CC: np.ndarray, conf_a_CC: np.ndarray, conf_b_CC: np.ndarray) -> tuple[float, float, float]:
    """The change in mIoU from A to B that their honest confusions let expect: (A believed, expected, B believed).

    What is the truth t of a pixel that A calls a and B calls b? Each honest confusion, read down a column, says
    P(t | a) and P(t | b), and P(t) is the truth's share. `expected` takes the two for independent given the truth
    (naive Bayes): P(t | a, b) ~ P(t | a) P(t | b) / P(t). Beside it stand what follows if A alone is believed,
    P(t | a), and if B alone is. Each gives an expected confusion of A and one of B on the test pixels, with the same
    truth; the difference of their mIoU is returned.

    Two blends of the same members err together, so `expected` makes too much of what they say as one; and all three
    suppose that a prediction is right on the test tiles as often as out of fold. It is a bet, not a score.

    Args:
        pairs_CC: pixels, rows class in A, columns class in B.
        conf_a_CC: honest confusion of A, rows truth, columns prediction.
        conf_b_CC: of B.
    """
    given_a_TA, given_b_TB = _truth_given(conf_a_CC), _truth_given(conf_b_CC)
    total_T = conf_a_CC.sum(1) + conf_b_CC.sum(1)
    share_T = total_T / total_T.sum()
    only_a = np.broadcast_to(given_a_TA[:, :, None], (*given_a_TA.shape, len(share_T)))
    only_b = np.broadcast_to(given_b_TB[:, None, :], only_a.shape)
    joint = np.divide(only_a * only_b, share_T[:, None, None], out=np.zeros(only_a.shape),
                      where=share_T[:, None, None] > 0)  # fmt: skip
    mass = joint.sum(0)
    # A pair that the confusions call impossible (no common truth): both are believed by half.
    both = np.where(mass > 0, joint / np.where(mass > 0, mass, 1), (only_a + only_b) / 2)
    return tuple(_difference(pairs_CC, truth_TAB) for truth_TAB in (only_a, both, only_b))


def honest_confusion(receipt: dict[str, Any], classes: ClassTable) -> np.ndarray | None:
    """(C, C) honest confusion of a receipt, rows truth; None if it holds none of this many classes."""
    conf = np.array(receipt.get("honest_confusion") or [], np.float64)
    return conf if conf.shape == (len(classes), len(classes)) else None


def layout_for(path: Path, experiment: Experiment, tiles: pd.DataFrame) -> Layout:
    """The layout to read a zip with: what its receipt says of it, else what the experiment does."""
    receipt = find_receipt(path)
    said = receipt.get("experiment", {}).get("submission", {})
    update = said | {key: receipt[key] for key in ("format",) if key in receipt}
    submission = Submission.model_validate(experiment.submission.model_dump(mode="json") | update)
    return Layout.of(experiment.model_copy(update={"submission": submission}), tiles)


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("submissions.compare", __doc__, "A.zip B.zip", operands="A B")
    parser.add_argument("--pictures", metavar="FILE", help="where to draw image | A | B (default: beside A)")
    add_json(parser)
    args = parser.parse_intermixed_args(argv)
    operands, overrides = split_operands(args.overrides, 2)
    path_a, path_b = map(Path, operands)
    experiment = load_experiment(args.config, overrides)
    tiles = tiles_of(Run(experiment))
    layouts = [layout_for(path, experiment, tiles) for path in (path_a, path_b)]
    classes = layouts[0].classes
    a = track(read_submission(path_a, layouts[0]), "compare", total=len(layouts[0].tiles))
    comparison = compare(iter(a), read_submission(path_b, layouts[1]), len(classes))
    print_comparison(comparison, classes)
    confs = [honest_confusion(find_receipt(path), classes) for path in (path_a, path_b)]
    figures = {"changed_share": comparison.changed_share, "expected_change": None}
    if all(conf is None for conf in confs):
        print("expected change in mIoU: unknown; neither receipt holds an honest confusion")
    else:
        # A zip without one is taken to err like the other.
        conf_a, conf_b = (confs[i] if confs[i] is not None else confs[1 - i] for i in (0, 1))
        if_a, expected, if_b = expected_change(comparison.pairs_CC, conf_a, conf_b)
        figures["expected_change"] = expected
        print(f"expected change in mIoU: {expected:+.4f} ({if_a:+.4f} if only A is believed, {if_b:+.4f} if only B)")
    if comparison.examples:
        from submissions.pictures import draw_changes  # matplotlib takes a second to import

        picture = Path(args.pictures or path_a.with_name(f"{path_a.stem}-to-{path_b.stem}.png"))
        images = {name: layouts[0].tiles[name].image for name, _, _ in comparison.examples}
        draw_changes(comparison.examples, images, (path_a.stem, path_b.stem), experiment.data, picture)
        print(f"pictures of the {len(images)} most changed tiles, image | A | B: {picture}")
    write_figures(args.json, figures)


def print_comparison(comparison: Comparison, classes: ClassTable) -> None:
    pairs_CC, total = comparison.pairs_CC, comparison.pairs_CC.sum()
    print(f"{comparison.changed_share:.3%} of the pixels changed, in {(comparison.changed > 0).sum()} of "
          f"{len(comparison.changed)} tiles")  # fmt: skip
    changes = [(pairs_CC[a, b], a, b) for a in range(len(classes)) for b in range(len(classes)) if a != b]
    rows = [
        {"from": classes.names[a], "to": classes.names[b], "pixels": n, "share": f"{n / total:.3%}",
         "of the class": f"{n / max(pairs_CC[a].sum(), 1):.1%}"}
        for n, a, b in sorted(changes, key=lambda change: -change[0])[:SHOWN] if n
    ]  # fmt: skip
    if rows:
        print(pd.DataFrame(rows).to_string(index=False))
        most = comparison.changed[comparison.changed > 0].head(PICTURES)
        print("most changed tiles: " + ", ".join(f"{name} {share:.1%}" for name, share in most.items()))


def _truth_given(conf_CC: np.ndarray) -> np.ndarray:
    """(truth, prediction) P(truth | prediction); a class that was never predicted is taken to be right."""
    count_C = conf_CC.sum(0)
    return np.where(count_C > 0, conf_CC / np.maximum(count_C, 1), np.eye(len(conf_CC)))


def _difference(pairs_CC: np.ndarray, truth_TAB: np.ndarray) -> float:
    """mIoU of B less mIoU of A when the truth of the pixels of each pair (a, b) is spread as truth_TAB[:, a, b]."""
    pixels_TAB = truth_TAB * pairs_CC
    return float(mean_iou(pixels_TAB.sum(1)) - mean_iou(pixels_TAB.sum(2)))


if __name__ == "__main__":
    run(main)
