"""The submission: are its class shares believable, does it verify, what was it made from, what did the boards say."""

from pathlib import Path

import numpy as np
import pandas as pd

from base.command import run as run_command
from base.errors import UserError
from base.files import hash_file
from config import Run
from config.experiment import flat
from folds.files import find_test_masks
from folds.metrics import mean_iou
from folds.reader import TileReader
from reports.alone import section_command
from reports.figures import (
    ACCENT,
    ACCENT2,
    GRID,
    MUTED,
    SERIES,
    WIDTH,
    canvas,
    finish,
    look,
    name_axis,
    share_axis,
    share_floor,
)
from reports.material import Material
from reports.page import Facts, Figure, Gallery, Note, Part, Section, Strip, TableView
from reports.pictures import drawing, error_rgb, overlay, photo
from submissions.formats import read_submission
from submissions.layout import Layout
from submissions.ledger import SHA_SHOWN, fit_line, ledger_path, read_ledger, scored_boards
from submissions.plot import draw_scores
from submissions.problems import describe
from submissions.receipt import find_receipt
from submissions.score import score_submission
from submissions.verify import Verdict, verify_submission

SAMPLES = 8
MOVED = 2.0  # times more or less of a class in test than in OOF that is called out
RARE = 0.001  # below this share nothing is called out: a factor of two is chance


def section(material: Material) -> Section:
    run = material.run
    path = run.zip_path
    if not len(material.test):
        raise UserError("there is nothing to hand in: the data set has no test tiles (data.test_images is null)")
    if not path.exists():
        raise UserError(f"{path}: no zip yet. Run: python -m ensemble.blend --config FILE")
    receipt = find_receipt(path)
    verdict = verify_submission(path, run.experiment, material.tiles, receipt.get("class_shares_oof"))
    errors, warnings = len(verdict.errors), len(verdict.problems) - len(verdict.errors)
    facts = [
        (path.name, "zip", f"{path.stat().st_size / 2**20:.2f} MiB, {run.experiment.submission.format}"),
        (f"{errors} errors", "verify", f"{warnings} warnings, {verdict.tiles:,} tiles read"),
    ]
    parts: list[Part] = []
    if run.experiment.data.test_masks and not verdict.broken:
        conf_CC = score_submission(path, run.experiment, material.tiles)
        facts.append((f"{mean_iou(conf_CC):.4f}", "test mIoU", "by data.test_masks, which nothing was made from"))
    parts.append(Facts(facts))
    parts += [Note(line, "warning") for line in describe(verdict.problems)]
    if receipt and receipt["sha256"] != hash_file(path):
        parts.append(Note("The zip is not the one that its receipt was written for: other bytes.", "warning"))
    if other := other_blend(material):
        parts.append(Note(f"The zip is of {other}, which this report does not show.", "warning"))
    parts += _shares(material, verdict, receipt)
    if not verdict.broken:
        parts.append(_samples(material, path))
    parts += _receipt(receipt)
    parts += ledger_parts(material)
    lead = "What is handed in, read back from the zip itself."
    return Section("submission", "Submission", lead, parts)


def other_blend(material: Material) -> str:
    """What the zip is of by its receipt, where that is a blend and not the one that is shown; else nothing."""
    receipt = find_receipt(material.run.zip_path)
    try:
        shown = material.fitted.blend.to_json() if material.fitted else None
    except UserError:
        shown = None
    if receipt.get("fitted", shown) == shown:
        return ""
    return f"another blend (honest mIoU {receipt['honest_miou']:.4f})"


def _shares(material: Material, verdict: Verdict, receipt: dict) -> list[Part]:
    names = material.classes.names
    train_C = material.hist_NC.sum(0) / material.hist_NC.sum()
    test_C = np.array([verdict.class_shares[name] for name in names])
    try:
        conf_CC = material.look.conf_CC
        oof_C = conf_CC.sum(0) / conf_CC.sum()
    except UserError:
        oof_C = None
    if "class_shares_oof" in receipt:
        oof_C = np.array([receipt["class_shares_oof"][name] for name in names])
    parts: list[Part] = [draw_shares(names, train_C, oof_C, test_C)]
    base_C = train_C if oof_C is None else oof_C
    ratio_C = np.divide(test_C, base_C, out=np.full(len(names), np.inf), where=base_C > 0)
    moved = [
        f"{names[c]} {100 * base_C[c]:.2g} % to {100 * test_C[c]:.2g} %"
        for c in range(len(names))
        if max(test_C[c], base_C[c]) > RARE and not 1 / MOVED < ratio_C[c] < MOVED
    ]
    if moved:
        what = "OOF" if oof_C is not None else "train masks"
        parts.append(
            Note(f"Shares that differ by more than {MOVED:g} times from {what} to test: {'; '.join(moved)}.", "warning")
        )
    return parts


def draw_shares(names: tuple[str, ...], train_C: np.ndarray, oof_C: np.ndarray | None, test_C: np.ndarray) -> Figure:
    marks = [("train masks", train_C, "|", MUTED)]
    marks += [("OOF predictions", oof_C, "o", ACCENT)] if oof_C is not None else []
    marks += [("test predictions", test_C, "D", ACCENT2)]
    everything = np.concatenate([share_C for _, share_C, _, _ in marks])
    floor = share_floor(everything)
    with look():
        drawn = canvas(WIDTH, 1.1 + 0.3 * len(names))
        axes = drawn.add_subplot()
        rows = np.arange(len(names))
        shares = np.maximum(np.stack([share_C for _, share_C, _, _ in marks]), floor)
        axes.hlines(rows, shares.min(0), shares.max(0), color=GRID, linewidth=3)
        for what, share_C, shape, color in marks:
            axes.plot(
                np.maximum(share_C, floor),
                rows,
                shape,
                color=color,
                markersize=12 if shape == "|" else 6,
                markeredgewidth=2 if shape == "|" else 0,
                label=what,
            )
        share_axis(axes, floor * 0.9)
        name_axis(axes, names)
        axes.set_xlabel("share of the pixels (log scale)")
        drawn.legend(loc="outside upper right", ncols=3)
        said = "; ".join(f"{name} {test_C[c]:.2%}" for c, name in enumerate(names))
        alt = f"Class shares of train masks, OOF and test predictions. Test: {said}."
        caption = "Test far from OOF means another landscape, or a blend that fails there."
        return finish(drawn, "submission-shares", "Class shares: train, OOF, test", alt, caption)


def _samples(material: Material, path: Path) -> Gallery:
    """Evenly spaced test tiles with the labels that stand in the zip."""
    experiment, classes = material.run.experiment, material.classes
    layout = Layout.of(experiment, material.tiles)
    names = list(layout.tiles)
    chosen = {names[i] for i in np.unique(np.linspace(0, len(names) - 1, SAMPLES).astype(int))}
    row_of = {name: row for row, name in enumerate(material.pack.test_names)}
    image_of = material.tiles[material.tiles.split == "test"].set_index("name").image
    mask_of = find_test_masks(experiment.data, sorted(chosen)) if experiment.data.test_masks else {}
    strips = []
    for name, index_HW in read_submission(path, layout):
        if name not in chosen:
            continue
        rgb = material.stretch.true_color(material.pack.test_image_NHWB[row_of[name]])
        thumbs = [
            photo(rgb, f"Test tile {name}", "image"),
            drawing(classes.to_rgb(index_HW), f"Labels of {name} in the zip", "labels"),
        ]
        if experiment.data.test_masks:
            truth_HW = TileReader.of(experiment.data).truth(image_of[name], mask_of[name])
            thumbs += [
                drawing(classes.to_rgb(truth_HW), f"True mask of {name}", "truth"),
                photo(error_rgb(rgb, index_HW, truth_HW), f"Errors in {name}, in red", "errors"),
            ]
        else:
            thumbs.append(photo(overlay(rgb, index_HW, classes), f"Labels over {name}", "over the image"))
        strips.append(Strip(thumbs, name))
    caption = f"{len(strips)} of {len(names):,} test tiles, evenly spaced."
    return Gallery("submission-samples", "From the zip", strips, caption, legend=material.legend)


def _receipt(receipt: dict) -> list[Part]:
    if not receipt:
        return [Note("The zip has no receipt: what it was made from is not known.", "missing")]
    values = flat(
        {
            key: value
            for key, value in receipt.items()
            if key not in ("class_shares", "class_shares_oof", "honest_confusion")
        }
    )
    table = pd.DataFrame({"key": list(values), "value": [_short(value) for value in values.values()]})
    return [
        TableView("receipt", "Receipt", table, caption="What the zip was made from; beside it as JSON.", folded=True)
    ]


def _short(value: object) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    # A sha256 is recognised by its first digits; in full it stands in the receipt.
    return f"{text[:12]}…" if len(text) == 64 and all(c in "0123456789abcdef" for c in text) else text


def ledger_parts(material: Material) -> list[Part]:
    path = ledger_path(material.run.experiment)
    ledger = read_ledger(path)
    if ledger.empty:
        return [Note(f"{path}: no zip was entered in the ledger.", "missing")]
    shown = ledger.assign(sha256=ledger.sha256.str[:SHA_SHOWN], created=ledger.created.str[:10])
    shown["difference"] = shown.score - shown.honest_miou
    formats = dict.fromkeys(["oof_miou", "honest_miou", "score"], "{:.4f}") | {"difference": "{:+.4f}"}
    caption = "All zips beside this one, and what the boards said of them."
    parts: list[Part] = []
    boards = boards_of(zips_of(material.run), scored_boards(ledger))
    if not boards:
        said = "No board has scored a zip of this run yet. Enter a score: python -m submissions.ledger score ZIP SCORE"
        parts.append(Note(said))
    elif pd.concat(boards.values()).honest_miou.nunique() > 1:  # of one honest score the table says all
        parts.append(draw_boards(boards))
    parts.append(TableView("ledger", "Ledger", shown, formats, caption, strong=material.run.zip_path.name))
    return parts


def zips_of(run: Run) -> set[str]:
    """Names of the zips of all blends of a run."""
    blend = run.experiment.blend
    names = {blend.name, *(folder.name for folder in (run.dir / "blend").glob("*"))}
    named = [run.experiment.model_copy(update={"blend": blend.model_copy(update={"name": name})}) for name in names]
    return {Run(experiment).zip_path.name for experiment in named}


def boards_of(zips: set[str], boards: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The boards that have scored one of the zips, with all they have scored: others are of other competitions."""
    return {board: rows for board, rows in boards.items() if rows["zip"].isin(zips).any()}


def draw_boards(boards: dict[str, pd.DataFrame]) -> Figure:
    """The board's score by the honest one: a point per zip, a line per board that has enough."""
    lines = [fit_line(board, rows.honest_miou.to_numpy(), rows.score.to_numpy()) for board, rows in boards.items()]
    with look():
        drawn = canvas(6.4, 4.2)
        draw_scores(drawn.add_subplot(), boards, [line for line in lines if line], SERIES, MUTED)
        drawn.legend(loc="outside upper right", ncols=3)
        pairs = "; ".join(
            f"{row.zip} honest {row.honest_miou:.4f}, board {row.score:.4f}"
            for row in pd.concat(boards.values()).itertuples()
        )
        alt = f"Board scores by honest score: {pairs}."
        return finish(drawn, "submission-boards", "Honest score and board", alt)


if __name__ == "__main__":
    run_command(section_command("reports.submission", __doc__, section))
