"""The report of a run: one HTML file to look at, and its figures as PNG -> `runs/<name>/report.html`, `report/`."""

from datetime import UTC, datetime
from glob import glob
from pathlib import Path

from base.command import run as run_command
from base.command import stage_parser
from base.errors import UserError
from base.files import hash_stats
from base.stamps import FileResult, hash_files
from base.version import code_version
from config import Run, stale_members
from folds.check import CHECK_CSV
from folds.files import as_glob
from folds.pictures import FOLDER as MOSAICS
from pipeline.record import LOG
from pipeline.store import MANIFEST
from reports import data, folds, oof, submission, tiles, training
from reports.material import Material, run_to_look_at
from reports.page import Facts, Section
from reports.render import FOLDER, built, render, write_page, write_pngs
from reports.suspects import SUSPECTS
from submissions.ledger import ledger_path
from submissions.receipt import receipt_path

REPORT = "report.html"
SECTIONS = {
    "data": ("Data", data.section),
    "folds": ("Folds", folds.section),
    "training": ("Training", training.section),
    "oof": ("Out of fold", oof.section),
    "tiles": ("Tiles", tiles.section),
    "submission": ("Submission", submission.section),
}


def build_sections(material: Material) -> list[Section]:
    """All sections; one whose results are not there says so."""
    return [built(name, title, build, material) for name, (title, build) in SECTIONS.items()]


def summary(material: Material) -> Facts:
    """What stands on top: the scores, and what they stand on."""
    run = material.run
    items = []
    try:
        blend = material.scores.query("kind == 'blend'").iloc[-1]
        between = f"{blend.miou_low:.3f} to {blend.miou_high:.3f}, "
        items.append((f"{blend.miou:.4f}", "OOF mIoU of the blend", f"{between}{int(blend.tiles):,} tiles"))
    except UserError:
        items.append(("–", "OOF mIoU of the blend", f"not there yet: see {SECTIONS['oof'][0]}"))
    items.append((str(len(run.experiment.models)), "models", ", ".join(m.name for m in run.experiment.models[:3])))
    items.append((f"{run.experiment.folds.k} × {len(run.experiment.seeds)}", "folds × seeds", ""))
    items.append((run.zip_path.name, "to hand in", _of_zip(material)))
    return Facts(items)


def _of_zip(material: Material) -> str:
    path = material.run.zip_path
    if not path.exists():
        return "not there yet"
    size = f"{path.stat().st_size / 2**20:.2f} MiB"
    try:
        other = submission.other_blend(material)
    except UserError:  # a damaged receipt, of which the section tells
        other = ""
    return f"{size}, of {other}" if other else size


def make_report(run: Run) -> bool:
    """Write the report unless it holds already; whether it was written."""
    inputs = report_inputs(run)
    if report_result(run, inputs).is_fresh():
        return False
    material = Material(run)
    sections = build_sections(material)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    stale = stale_members(run)
    footer = f"Foldscape {code_version()} · {now}"
    if stale:
        footer += f" · {len(stale)} members were trained on other keys or files than those of now"
    write_pngs(run.dir / FOLDER, sections)
    write_page(run.dir / REPORT, render(sections, run.experiment.name, summary(material), footer))
    report_result(run, inputs).finish()
    return True


def report_result(run: Run, inputs: dict[str, str]) -> FileResult:
    """The page, of `report_inputs`."""
    keys = run.folds_keys | run.blend_keys | {"data.test_masks": run.experiment.data.test_masks}
    keys["members"] = [str(member) for member in run.members()]
    # As it is by now: the report writes the suspects, or shows those of a wider search.
    return FileResult(run.dir / REPORT, keys, inputs | hash_files([run.dir / SUSPECTS]))


def report_inputs(run: Run) -> dict[str, str]:
    """Hashes of all that the report is drawn from, large files by their manifests."""
    paths = [run.tiles_csv, run.folds_csv, run.dir / CHECK_CSV, run.dir / folds.LEAK, run.jobs_csv]
    paths += [run.zip_path, receipt_path(run.zip_path), ledger_path(run.experiment)]
    inputs = {"code": code_version()} | hash_files(paths)
    for pattern in (f"members/*/*/{LOG}", f"members/*/*/oof-*/{MANIFEST}", f"test/*/{MANIFEST}", f"{MOSAICS}/*.png",
                    f"blend/{run.experiment.blend.name}/*"):  # fmt: skip
        inputs[pattern] = _listing(run.dir, pattern)
    data = run.experiment.data
    if data.test_masks:
        inputs["data.test_masks"] = _listing(Path(data.root), as_glob(data.test_masks))
    return inputs


def _listing(folder: Path, pattern: str) -> str:
    names = sorted(glob(pattern, root_dir=folder, recursive=True))
    return hash_stats(folder, [name for name in names if (folder / name).is_file()])


def main(argv: list[str] | None = None) -> None:
    args = stage_parser("reports.build", __doc__).parse_intermixed_args(argv)
    run = run_to_look_at(args.config, args.overrides)
    written = make_report(run)
    path = run.dir / REPORT
    print(f"report: {path} ({path.stat().st_size / 2**20:.1f} MiB{'' if written else ', as it was'})")


if __name__ == "__main__":
    run_command(main)
