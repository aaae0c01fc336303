"""Why is the board lower than the OOF score? The round trip first, then leaks, flattery, members and shift."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from base.command import add_json, split_operands, stage_parser, write_figures
from base.command import run as run_command
from base.errors import UserError
from config import Experiment, Run, load_experiment
from ensemble.apply import labels_of
from ensemble.fitted import FittedBlend
from ensemble.oof import oof_table
from ensemble.provenance import changes_since, made_from, run_of_receipt
from ensemble.source import Source
from ensemble.stores import ProvenStores
from folds.audit import band_table
from folds.folds_csv import folds_of
from folds.links import Links, open_links
from folds.metrics import confusion, mean_iou
from folds.reader import TileReader
from folds.scan import Scan, open_scan
from folds.shift import band_shift
from folds.tiles import sources_hash, tiles_of
from reports import causes
from reports.causes import Finding
from submissions.layout import Layout
from submissions.receipt import read_receipt
from submissions.score import confusion_of_zip
from submissions.verify import verify_submission
from submissions.write import Labels, write_zip

SAMPLED = 64  # tiles per set on which the probabilities are looked at


@dataclass(frozen=True)
class Predictions:
    """What the stores say of a run. The rest of the diagnosis reads tiles, folds, zip and receipt."""

    changed: list[str]
    """What the zip would be made from now and was not then."""
    oof_labels: Callable[[], Labels]
    """(name, (H, W) indices) of each train tile, by the blend that made the zip."""
    oof_miou: float
    """Of those labels, counted from the stores."""
    miou_of: dict[str, dict[str, float]]
    """Model -> member -> OOF mIoU on its fold."""
    sure_oof: dict[str, float]
    """Model -> mean largest probability of the OOF pixels."""
    sure_test: dict[str, float]
    kinds: dict[str, str]
    """What each step of that blend came to."""


def diagnose(run: Run, zip_path: Path, predictions: Predictions) -> dict[str, list[Finding] | None]:
    """Every test by its title, with what it found; None where the receipt or the data lack what it needs."""
    experiment = run.experiment
    tiles = tiles_of(run)
    receipt = read_receipt(zip_path)
    fold_N = fold_of_rows(run, tiles)
    sources = sources_hash(tiles, Path(experiment.data.root))
    scan = open_scan(run, tiles, sources)
    links = open_links(run, tiles, scan, sources)
    honest = receipt.get("honest_miou")
    verdict = verify_submission(zip_path, experiment, tiles, receipt.get("class_shares_oof"))
    from_zip = score_from_zip(run, tiles[(tiles.split == "test") | (fold_N >= 0)], predictions.oof_labels())
    return {
        "the zip verifies": causes.of_verify(verdict.problems),
        "the run is still what the zip was made from": causes.stale(predictions.changed),
        "OOF labels survive the way into a zip": causes.round_trip(from_zip, predictions.oof_miou),
        "no neighbour nor copy that was found lies in another fold": causes.leak(links, fold_N),
        "the blend scores as well on folds it was not fitted on": None
        if honest is None
        else causes.in_sample(predictions.oof_miou, honest),
        "no member is broken": causes.weak_member(predictions.miou_of),
        "test tiles look like train tiles": shift_of(scan, links, tiles, experiment),
        "what was fitted on members holds for their means": causes.fold_mean(
            predictions.sure_oof, predictions.sure_test, predictions.kinds
        ),
    }


def score_from_zip(run: Run, tiles: pd.DataFrame, labels: Labels) -> float:
    """mIoU of OOF labels against the mask files after they went through the writer of submissions and its reader."""
    layout = Layout.of(run.experiment, tiles, split="train")
    train = tiles[tiles.split == "train"].set_index("name")
    reader = TileReader.of(run.experiment.data)  # the labels of the zip may be others than the masks'
    with tempfile.TemporaryDirectory(dir=run.dir) as folder:
        path = Path(folder) / "oof.zip"
        write_zip(layout, labels, path)
        conf_CC = confusion_of_zip(path, layout, lambda name: reader.truth(train.image[name], train["mask"][name]))
    return mean_iou(conf_CC)


def fold_of_rows(run: Run, tiles: pd.DataFrame) -> np.ndarray:
    """(N,) fold of each row of the tile table; -1 for tiles without one."""
    folds = folds_of(run).set_index("name").fold
    fold_N = tiles.name.map(folds).fillna(-1).to_numpy(np.int64)
    return np.where(tiles.split == "train", fold_N, -1)


def shift_of(scan: Scan, links: Links, tiles: pd.DataFrame, experiment: Experiment) -> list[Finding]:
    """`causes.shift` on mean, spread and quantiles of each band. Scenes of test tiles are the recovered mosaics."""
    is_test_N, seen_N = (tiles.split == "test").to_numpy(), scan.data_N > 0
    if not (is_test_N & seen_N).any():
        return []
    quantiles = np.quantile(np.asarray(scan.sample_NPB, np.float64), (0.05, 0.25, 0.75, 0.95), axis=1)
    feature_NF = np.concatenate([scan.mean_NB, scan.std_NB, *quantiles], axis=1)
    scenes = np.where(is_test_N, "test/" + links.places.mosaic.astype(str), tiles.group.astype(str))
    group_N = pd.factorize(scenes)[0]
    moved_by_band = band_shift(band_table(scan, tiles.split.to_numpy(), experiment.data.bands))
    adapts = experiment.predict.adapt
    return causes.shift(feature_NF[seen_N], is_test_N[seen_N], group_N[seen_N], moved_by_band, adapts)


def predictions_of(run: Run, zip_path: Path) -> Predictions:
    """From the stores of a run, with the blend that the zip's receipt holds.

    Raises:
        UserError: the receipt holds no blend, or the run lacks stores.
    """
    receipt = read_receipt(zip_path)
    if "fitted" not in receipt:
        raise UserError(f"{zip_path}: no blend in its receipt, so its labels came from elsewhere; only verify can help")
    stores, blend = ProvenStores(run), FittedBlend.of_json(receipt["fitted"])
    oof, test = stores.oof, stores.unseen
    changed = changes_since(receipt, made_from(run, blend, test))
    labelled = enumerate(labels_of(blend, oof))
    miou = mean_iou(sum(confusion(index_HW, oof.truth(i), len(oof.classes)) for i, (_, index_HW) in labelled))
    if not np.isclose(miou, receipt["oof_miou"], rtol=0, atol=1e-9):  # a csv on the way may cost the last digit
        changed.append(f"OOF mIoU {receipt['oof_miou']:.4f} -> {miou:.4f}")
    table = oof_table(run.blend_dir)
    members = table[(table.kind == "member") & table.fold.notna()]
    return Predictions(
        changed=[change for change in changed if not change.startswith("code_version ")],
        oof_labels=lambda: labels_of(blend, oof),
        oof_miou=miou,
        miou_of={
            str(model): {f"fold{row.fold}-seed{row.seed}": float(row.miou) for row in rows.itertuples()}
            for model, rows in members.groupby("name")
        },
        sure_oof=mean_sureness(oof),
        sure_test=mean_sureness(test),
        kinds=blend.kinds,
    )


def mean_sureness(source: Source) -> dict[str, float]:
    """Model -> mean largest probability, over SAMPLED tiles evenly spread."""
    some = np.unique(np.linspace(0, len(source.names) - 1, SAMPLED).astype(int)).tolist()
    sure = {}
    for model in source.models:
        peak = []
        for i in some:
            (probs_CHW,) = source.probs(i, [model])
            scale = 255 if probs_CHW.dtype == np.uint8 else 1
            peak.append(float(probs_CHW.max(0).mean(dtype=np.float64)) / scale)
        sure[model] = float(np.mean(peak))
    return sure


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("reports.diagnose", __doc__, "submissions/zips/demo.zip", operands="ZIP")
    add_json(parser)
    args = parser.parse_intermixed_args(argv)
    (zip_path,), overrides = split_operands(args.overrides, 1)
    path = Path(zip_path)
    run = run_of_receipt(load_experiment(args.config, overrides), read_receipt(path))
    outcome = diagnose(run, path, predictions_of(run, path))
    for title, findings in outcome.items():
        print(f"{'?  ' if findings is None else 'NO ' if findings else 'yes'}  {title}")
        for finding in findings or []:
            print(f"     {finding.what}")
            if finding.advice:
                print(f"     try: {finding.advice}")
    found = [finding for findings in outcome.values() for finding in findings or []]
    print(causes.verdict(found))
    first = next((cause for cause in causes.CAUSES if cause in {finding.cause for finding in found}), None)
    write_figures(args.json, {"cause": first, "findings": [[finding.cause, finding.what] for finding in found]})


if __name__ == "__main__":
    run_command(main)
