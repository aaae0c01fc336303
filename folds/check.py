"""The audit of data and folds: bands, classes, copies, neighbours, leaks -> check.csv, check.json, mosaic/*.png.

What is wrong is an error or a warning; errors stop the run with exit code 2 unless `folds.allow` names their kind.
`--folds FILE` audits another folds file (columns name and fold) on the same tiles.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from base.command import run, stage_parser
from base.errors import counted, refuse_all
from base.files import write_json
from base.screen import screen, text_table
from base.tables import write_csv
from config import Run, load_experiment, open_run
from folds.assign import assign_folds, deviation_table, least_deviation, make_folds, relative_deviation
from folds.audit import (
    band_table,
    beside_findings,
    carried_findings,
    class_table,
    data_findings,
    nodata_findings,
)
from folds.classes import ClassTable
from folds.files import find_test_masks, full_names
from folds.findings import Finding
from folds.fold_audit import AuditedFolds, fold_findings
from folds.folds_csv import fold_violations, read_folds
from folds.georeference import Beside
from folds.groups import audited_places, whole_groups
from folds.images import nodata_tag
from folds.links import Links, open_links
from folds.pictures import write_mosaics
from folds.scan import Scan, open_scan
from folds.tiles import hist_of, make_tiles, sources_hash

CHECK_CSV, CHECK_JSON = "check.csv", "check.json"


@dataclass(frozen=True)
class Audited:
    """What is audited: a run's tiles, and what their pixels and coordinates tell of them."""

    tiles: pd.DataFrame
    sources: str
    """`folds.tiles.sources_hash` of the table."""
    scan: Scan
    links: Links
    beside: Beside
    hist_NC: np.ndarray
    """Of the train tiles."""

    @property
    def train(self) -> pd.DataFrame:
        return self.tiles[self.tiles.split == "train"]


@dataclass(frozen=True)
class FoldAudit:
    """What was found in folds."""

    findings: list[Finding]
    fold_N: np.ndarray | None = None
    """Of the train tiles; None: they are unfit to train on."""
    figures: dict[str, Any] = field(default_factory=dict)


def check(run: Run, folds_file: Path | None, console: Console) -> list[Finding]:
    """Print the audit, write `check.csv`, `check.json` and the pictures of the mosaics; return what was found.

    Args:
        folds_file: another folds file to audit, of which nothing is written; None: the run's own.
    """
    names, k = ClassTable.of(run.experiment.data).names, run.experiment.folds.k
    audited = open_audited(run)
    bands, counts, findings = audit_data(run, audited)
    console.print(_on_screen("bands", bands), _on_screen("classes of the train tiles", counts))
    for line in filter(None, [say_neighbours(audited.links), say_places(audited.beside)]):
        console.print(line, soft_wrap=True)
    of_folds = audit_folds(run, audited, folds_file)
    findings += of_folds.findings
    if of_folds.fold_N is not None:
        console.print(deviation_table(audited.hist_NC, of_folds.fold_N, k, names))
        console.print(say_deviation(of_folds.figures), soft_wrap=True)

    written = []
    if folds_file is None:
        neighbours = {"pairs": len(audited.links.neighbours), **audited.links.evidence}
        _write_findings(run.dir, findings, {
            "bands": bands.to_dict("records"), "classes": counts.to_dict("records"), "neighbours": neighbours,
            "copies": len(audited.links.copies), "folds": of_folds.figures,
        })  # fmt: skip
        written += [CHECK_CSV, CHECK_JSON]
    pictures = write_mosaics(run, audited.tiles, audited.links.places, audited.scan)
    written += [f"{counted(len(pictures), 'picture')} in mosaic/"] if pictures else []
    if written:
        console.print(f"{run.dir}: {', '.join(written)}", soft_wrap=True)
    return findings


def open_audited(run: Run) -> Audited:
    """A run's tiles with all that an audit asks of them; what is not there yet is made."""
    data = run.experiment.data
    tiles = make_tiles(run)
    if data.test_masks and (tiles.split == "test").any():
        find_test_masks(data, tiles.name[tiles.split == "test"].tolist())  # there, before time is spent; not read yet
    sources = sources_hash(tiles, Path(data.root))
    scan = open_scan(run, tiles, sources)
    links = open_links(run, tiles, scan, sources)
    hist_NC = hist_of(tiles, ClassTable.of(data))
    return Audited(tiles, sources, scan, links, audited_places(run, tiles, links), hist_NC)


def audit_data(run: Run, audited: Audited) -> tuple[pd.DataFrame, pd.DataFrame, list[Finding]]:
    """`band_table`, `class_table`, and what is wrong with images and masks."""
    data, tiles, links, beside = run.experiment.data, audited.tiles, audited.links, audited.beside
    bands = band_table(audited.scan, tiles.split.to_numpy(), data.bands)
    counts = class_table(audited.train, audited.hist_NC, ClassTable.of(data).names)
    tile_names, train_N = full_names(tiles), (tiles.split == "train").to_numpy()
    tag = nodata_tag(Path(data.root) / tiles.image.iloc[0])
    borders_P2 = links.neighbours[["a", "b"]].to_numpy(np.int64)
    findings = [
        *data_findings(tiles, audited.scan, links, audited.hist_NC, bands),
        *nodata_findings(audited.scan, tile_names, data.nodata, tag),
        *carried_findings(tile_names, beside),
        *beside_findings(tile_names, train_N, np.concatenate([borders_P2, beside.shared_P2, beside.touching_P2])),
    ]
    return bands, counts, findings


def audit_folds(run: Run, audited: Audited, folds_file: Path | None) -> FoldAudit:
    """What is wrong with folds, and how even they are.

    Args:
        folds_file: None: the run's own, made if they are not there.
    """
    asked, train, hist_NC = run.experiment.folds, audited.train, audited.hist_NC
    folds = read_folds(folds_file) if folds_file else make_folds(run)
    violations = fold_violations(train, folds, asked.k)
    if violations:
        return FoldAudit([Finding("unfit_folds", "error", violation) for violation in violations])
    fold_of = dict(zip(folds.name, folds.fold, strict=True))
    fold_N = np.array([fold_of[name] for name in train.name])
    whole_N = whole_groups(run, audited.tiles, audited.scan, audited.sources)
    ours = folds_file is None and asked.file is None
    names = ClassTable.of(run.experiment.data).names
    of_folds = AuditedFolds(train, fold_N, hist_NC, names, asked, whole_N, ours)
    findings = fold_findings(of_folds, audited.links, audited.beside)
    return FoldAudit(findings, fold_N, _fold_figures(hist_NC, fold_N, train.group.to_numpy(), asked.k, asked.seed))


def _write_findings(folder: Path, findings: list[Finding], about: dict[str, Any]) -> None:
    """Of the run's own folds, which its report shows; of another folds file nothing is kept."""
    records = [{"severity": f.severity, "kind": f.kind, "what": f.what, "tiles": f.tiles} for f in findings]
    rows = [(r["severity"], r["kind"], len(r["tiles"]), r["what"]) for r in records]
    write_csv(folder / CHECK_CSV, pd.DataFrame(rows, columns=["severity", "kind", "tiles", "what"]))
    write_json(folder / CHECK_JSON, about | {"findings": records})


def say_neighbours(links: Links) -> str:
    """How many neighbours there are, and how much that says."""
    borders, pairs = links.evidence["borders"], len(links.neighbours)
    sizes = links.places.mosaic.value_counts()
    undecided = borders["undecided"] / max(sum(borders.values()), 1)
    doubt = f"{undecided:.0%} of the borders fit several tiles and say nothing (water, bare ground, shadow)"
    if not pairs and undecided > 0.5:
        return f"no neighbours found, which says little: {doubt}"
    doubt = f"; {doubt}" if undecided >= 0.005 else ""
    if not pairs:
        return f"no neighbours found: leaks of this kind are unlikely{doubt}"
    mosaics = counted((sizes > 1).sum(), "mosaic")
    found = f"neighbours: {counted(pairs, 'pair')} of {sizes[sizes > 1].sum()} tiles in {mosaics}"
    return (
        f"{found}, the largest of {sizes.max()} tiles; {links.evidence['mirrored'] or 'no'} false ones expected{doubt}"
    )


def say_places(beside: Beside) -> str:
    """How many neighbours there are by coordinates; empty: none."""
    shared, touching = len(beside.shared_P2), len(beside.touching_P2)
    if not shared + touching:
        return ""
    return f"by their coordinates: {counted(shared, 'pair')} of tiles that share pixels, and {touching} that only touch"


def say_deviation(figures: dict[str, Any]) -> str:
    """How uneven folds are, beside what could be reached."""
    return (
        f"the worst deviation is {figures['worst_deviation']:.2%}; our assignment reaches "
        f"{figures['assigned_worst_deviation']:.2%} with these groups, and no folds can go below "
        f"{figures['least_worst_deviation']:.2%}"
    )


def _fold_figures(hist_NC: np.ndarray, fold_N: np.ndarray, group_N: np.ndarray, k: int, seed: int) -> dict[str, Any]:
    deviation_KC = relative_deviation(hist_NC, fold_N, k)
    assigned_N = assign_folds(hist_NC, group_N, k, seed)
    return {
        "worst_deviation": float(np.abs(deviation_KC).max()),
        "assigned_worst_deviation": float(np.abs(relative_deviation(hist_NC, assigned_N, k)).max()),
        "least_worst_deviation": least_deviation(hist_NC, group_N, k),
        "tiles": np.bincount(fold_N, minlength=k).tolist(),
    }


def _on_screen(title: str, table: pd.DataFrame) -> Table:
    shares = {"share", "zero", "full"}
    rows = [
        [
            f"{value:.2%}" if column in shares else f"{value:.4g}" if isinstance(value, float) else str(value)
            for column, value in zip(table.columns, row, strict=True)
        ]
        for row in table.itertuples(index=False)
    ]
    words = [column for column in table if not pd.api.types.is_numeric_dtype(table[column])]
    return text_table(title, table.columns, rows, left=words)


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("folds.check", __doc__)
    parser.add_argument("--folds", metavar="FILE", type=Path, help="audit this folds file instead of the run's own")
    args = parser.parse_intermixed_args(argv)
    run = open_run(load_experiment(args.config, args.overrides))
    console = screen()
    findings = check(run, args.folds, console)
    allowed = run.experiment.folds.allow
    errors = [finding for finding in findings if finding.severity == "error" and finding.kind not in allowed]
    for finding in findings:
        if finding not in errors:
            state = "allowed" if finding.severity == "error" else finding.severity
            console.print(f"{state}: {finding.kind}: {finding.what}", soft_wrap=True)
    kinds = sorted({finding.kind for finding in errors} - {"unfit_folds"})
    accept = f" (to go on all the same: folds.allow=[{', '.join(kinds)}])" if kinds else ""
    refuse_all(
        f"the audit found {counted(len(errors), 'error')}{accept}", [f"{error.kind}: {error.what}" for error in errors]
    )


if __name__ == "__main__":
    run(main)
