"""Blend the models and build the submission: fit on OOF, score honestly, label the test tiles, write the zip."""

import sys
from pathlib import Path
from typing import Any

from base.command import run as run_command
from base.command import stage_parser
from base.errors import UserError, listed, refuse_all
from base.files import hash_file, hash_value, whole_file
from base.memory import keep_freed_memory
from base.screen import screen
from base.stamps import FileResult
from config import Experiment, Run, open_run
from ensemble.apply import labels_of
from ensemble.build import RunBlend, add_name_option, build_blend, named_experiment
from ensemble.evidence import Estimate
from ensemble.fitted import FittedBlend
from ensemble.fold_means import draw_opinions, fold_mean_gain
from ensemble.oof import make_table
from ensemble.provenance import changes_since, made_from, run_of_receipt, store_hashes
from ensemble.show import show_blend, show_models
from ensemble.stores import ProvenStores, UnseenStores, excerpt_stores
from folds.classes import ClassTable
from folds.metrics import mean_iou
from folds.tiles import tiles_of
from submissions.layout import Layout
from submissions.receipt import differences, find_receipt, read_receipt, receipt_path
from submissions.score import score_submission
from submissions.write import write_submission, write_zip


def make_submission(stores: ProvenStores, built: RunBlend) -> Path | None:
    """Write the zip, verified, with its receipt, unless it holds already; None when there is no test set."""
    run = stores.run
    tiles = tiles_of(run)
    if not (tiles.split == "test").any():
        return None
    source = stores.unseen
    inputs = store_hashes(run, source) | {"blend": hash_value(built.blend.to_json())}
    result = FileResult(run.zip_path, run.blend_keys, inputs)
    if receipt_path(run.zip_path).exists() and result.is_fresh():
        return run.zip_path
    receipt = made_from(run, built.blend, source) | scores_of(built, ClassTable.of(run.experiment.data))
    gain = gain_of_fold_means(run, built, source)
    receipt["fold_mean_gain"] = gain and gain.value
    receipt["fold_mean_interval"] = gain and [gain.low, gain.high]
    path = write_submission(run, tiles, labels_of(built.blend, source), receipt)
    result.finish()
    return path


def scores_of(built: RunBlend, classes: ClassTable) -> dict[str, Any]:
    """What the receipt says of the blend's worth."""
    said_C = built.honest_conf_CC.sum(0)
    return {
        "oof_miou": float(built.row.miou_in_sample),
        "honest_miou": float(built.row.miou),
        "honest_interval": [float(built.row.miou_low), float(built.row.miou_high)],
        "class_shares_oof": dict(zip(classes.names, (said_C / said_C.sum()).tolist(), strict=True)),
        "honest_confusion": built.honest_conf_CC.tolist(),
    }


def gain_of_fold_means(run: Run, built: RunBlend, source: UnseenStores) -> Estimate | None:
    """mIoU that test tiles gain over the honest score by the mean over folds; None where it cannot be told."""
    excerpts = excerpt_stores(run, source)
    if excerpts is None:
        return None
    opinions = draw_opinions(built.blend, built.blend_of, source, excerpts)
    counted_C = (built.honest_conf_CC.sum(0) + built.honest_conf_CC.sum(1)) > 0
    honest = Estimate(float(built.row.miou), float(built.row.miou_low), float(built.row.miou_high))
    return fold_mean_gain(opinions, honest, counted_C)


def make_again(experiment: Experiment, receipt_file: Path) -> Path:
    """The zip of a receipt, byte for byte, at its old place. Keys of the blend are the receipt's, not `experiment`'s.

    Raises:
        UserError: stores, tiles, folds or experiment are not what they were, or the bytes came out different; says
            what has changed.
    """
    receipt = read_receipt(receipt_file)
    if "fitted" not in receipt or "experiment" not in receipt:
        raise UserError(f"{receipt_file}: no blend in this receipt; its labels came from elsewhere, or from older code")
    run = run_of_receipt(experiment, receipt)
    source = ProvenStores(run).unseen
    blend = FittedBlend.of_json(receipt["fitted"])
    now = made_from(run, blend, source)
    code = [change for change in differences(receipt, now) if change.startswith("code_version ")]
    said = [change for change in changes_since(receipt, now) if change not in code]
    refuse_all(f"{receipt_file}: what it was made from has changed", said)
    path = receipt_file.parent / receipt["zip"]
    with whole_file(path) as aside:
        write_zip(Layout.of(run.experiment, tiles_of(run)), labels_of(blend, source), aside)
        if hash_file(aside) != receipt["sha256"]:
            raise UserError(
                f"{receipt_file}: other bytes came out, from the same inputs; {listed(code) or 'same code'}"
            )
    return path


def zip_miou(run: Run, path: Path) -> float:
    """mIoU of a zip where the test tiles' masks are known."""
    return mean_iou(score_submission(path, run.experiment, tiles_of(run)))


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("ensemble.blend", __doc__, "--name mine blend.weights=greedy")
    add_name_option(parser)
    parser.add_argument("--from", dest="receipt", metavar="RECEIPT", help="make the zip of a receipt again, and no fit")
    args = parser.parse_intermixed_args(argv)
    experiment = named_experiment(args)
    keep_freed_memory()  # one tile's probabilities are as large as the next one's
    if args.receipt:
        print(f"{make_again(experiment, Path(args.receipt))}: made again, the same bytes")
        return
    run = open_run(experiment)
    stores = ProvenStores(run)
    stores.prove("oof", "test")  # of test tiles too, before time is spent on the fit
    built = build_blend(stores)
    table = make_table(stores, built)
    console = screen()
    show_models(table, console)
    show_blend(built, console)
    path = make_submission(stores, built)
    receipt = find_receipt(path) if path else {}
    if interval := receipt.get("fold_mean_interval"):  # an older receipt has none: how far to believe it, nobody knows
        gain, (low, high) = receipt["fold_mean_gain"], interval
        told = f"about {gain:+.4f} ({low:+.4f} to {high:+.4f}, docs/ensemble.md)"
        print(f"where test tiles are like train tiles, the mean over folds adds {told}")
    if path and run.experiment.data.test_masks:
        try:
            print(f"test mIoU {zip_miou(run, path):.4f} by data.test_masks, honest OOF mIoU {built.row.miou:.4f}")
        except UserError as error:  # no fault of the zip, which is written and verified
            print(f"not scored by data.test_masks: {error}", file=sys.stderr)
    print(f"zip: {path}" if path else "no zip: the data set has no test tiles (data.test_images)")


if __name__ == "__main__":
    run_command(main)
