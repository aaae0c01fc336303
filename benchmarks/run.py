"""Run benchmarks, each in a process of its own, and keep their figures in benchmarks/results/NAME.jsonl.

A line of a result is one run: figures, command, machine, versions, commit, date, seconds. docs/benchmarks.md is made of
them. A benchmark that fails is named at the end (exit code 3); the others go on.
"""

import datetime
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.table import Table

from base.command import plain_parser, run
from base.errors import UserError, listed, nearest, refuse_all
from base.files import read_json
from base.screen import screen, text_table
from benchmarks.catalogue import BENCHMARKS, METAVARS, PATHS
from benchmarks.machine import ROOT, describe_commit, describe_machine, describe_versions
from benchmarks.records import Record, keep, measured
from benchmarks.table import write_page
from benchmarks.targets import TARGETS, told

FAILED = 3


def wanted(names: list[str], given: dict[str, str]) -> list[str]:
    """The names asked for, or all of them but those that need an option which is not there.

    Raises:
        UserError: a name that is not known, or that needs an option which is not there; parts of what has none.
    """
    unknown = [
        f"{name}: no such benchmark{nearest(name, list(BENCHMARKS))}" for name in names if name not in BENCHMARKS
    ]
    refuse_all("benchmarks", unknown)
    in_parts = [name for name, benchmark in BENCHMARKS.items() if "--only" in benchmark.options]
    if "--only" in given and (len(names) != 1 or names[0] not in in_parts):
        asked = listed(names or ["all"])
        raise UserError(f"--only: parts of one benchmark, which may be {' or '.join(in_parts)}; asked for {asked}")
    lacking = {}
    for name in names or BENCHMARKS:
        needs = [f"{option} {METAVARS[option]}" for option in BENCHMARKS[name].needs if option not in given]
        if needs:
            lacking[name] = f"{name} needs {' '.join(needs)}"
    if names:
        refuse_all("benchmarks", list(lacking.values()))
    for reason in lacking.values():
        print(f"left out: {reason}")
    return [name for name in names or BENCHMARKS if name not in lacking]


def measure(name: str, given: dict[str, str]) -> Record | None:
    """Run one benchmark with its output on our screen. Returns its record, or None if it failed."""
    words = [f"benchmarks.{BENCHMARKS[name].module}"]
    shown = [*words]
    for option, word in BENCHMARKS[name].options.items():
        if option in given:
            words += [word, given[option]]
            shown += [word, METAVARS[option] if option in PATHS else given[option]]
    before = describe_commit()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        code = subprocess.run([sys.executable, "-m", *words, "--json", str(figures)], cwd=ROOT).returncode
        if code or not figures.exists():
            return None
        values = read_json(figures)
    return {
        "benchmark": name,
        "command": f"python -m {' '.join(shown)}",
        "device": given.get("--device", "cpu") if "--device" in BENCHMARKS[name].options else "cpu",
        "figures": values,
        "machine": describe_machine(),
        "versions": describe_versions(),
        **before,  # of the code that ran, not of what was edited meanwhile
        "date": datetime.date.today().isoformat(),
        "seconds": round(time.perf_counter() - started, 1),
    }


def verdicts(record: Record) -> Table | None:
    """What a run came to beside what was promised; None where it answers no target."""
    rows = [each for target in TARGETS for each in measured(target, [record]) if each.value is not None]
    if not rows:
        return None
    cells = [(row.target.what, row.target.bound, told(row.value, row.target.unit), row.verdict) for row in rows]
    return text_table("", ("figure", "bound", "measured", ""), cells, left=("figure", "bound", ""))


def main(argv: list[str] | None = None) -> int:
    known = "\n".join(f"  {name:12} {benchmark.what}" for name, benchmark in BENCHMARKS.items())
    parser = plain_parser("benchmarks.run", f"{__doc__}\n{known}")
    parser.epilog = "example:\n  python -m benchmarks.run folds submissions --naip DIR"
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run (default: all)")
    parser.add_argument("--naip", metavar="DIR", help="the naip data set, for those that measure on real tiles")
    parser.add_argument("--runs", metavar="RUNS", help="folder where trained members are kept for the next time")
    parser.add_argument("--demo", metavar="CONFIG", help="a finished run on generated tiles, for ensemble")
    parser.add_argument(
        "--only", metavar="PARTS", help="of ensemble or scaling, separated by commas (see their --help)"
    )
    parser.add_argument("--device", metavar="DEVICE", help="cuda: on the GPU, those that can (default: cpu)")
    args = parser.parse_args(argv)
    given = {f"--{key}": value for key, value in vars(args).items() if key != "names" and value is not None}
    given |= {key: str(Path(given[key]).absolute()) for key in PATHS if key in given}

    failed = []
    for name in wanted(args.names, given):
        print(f"\n== {name}: {BENCHMARKS[name].what}", flush=True)
        record = measure(name, given)
        if record is None:
            failed.append(name)
            continue
        keep(record)
        write_page()
        if table := verdicts(record):
            screen(width=120).print(table)
        print(f"-- {name}: {record['seconds']:.0f} s, kept in benchmarks/results/{name}.jsonl", flush=True)
    if failed:
        print(f"\nfailed: {', '.join(failed)}; see above", file=sys.stderr)
    return FAILED if failed else 0


if __name__ == "__main__":
    run(main)
