"""docs/benchmarks.md from benchmarks/results/*.jsonl and the targets: what falls short stands first.

python -m benchmarks.table      after an edit by hand; `benchmarks.run` makes the page itself

A target's value is the latest on each kind of machine, or the latest of all where the machine makes no difference;
lines stay where they are, so that older ones can be read.
"""

from collections.abc import Sequence

from base.command import plain_parser, run
from base.files import write_text
from benchmarks.catalogue import BENCHMARKS, METAVARS
from benchmarks.machine import ROOT
from benchmarks.records import Measured, Record, machine_name, measured, read_results
from benchmarks.targets import TARGETS, UNTOLD, Target, told

PAGE = ROOT / "docs" / "benchmarks.md"

HEAD = """# Benchmarks

`python -m benchmarks.run [NAME...]` keeps what it measures in `benchmarks/results/` and makes this page of it; `--help`
tells the names. Peers and limits are measured beside ours in one run, so that ratios hold on any machine; absolute
times hold on the machine named. "x" is times: above 1, ours is faster, unless the line says what is over what.
"""


def render(records: Sequence[Record], targets: Sequence[Target] = TARGETS) -> str:
    """The page."""
    machines = list(dict.fromkeys(map(machine_name, records)))
    letter = {machine: chr(ord("A") + i) for i, machine in enumerate(machines)}
    rows = [found for target in targets for found in measured(target, records)]
    short = [row for row in rows if row.verdict == "falls short"]
    absent = [row for row in rows if row.value is None]
    parts = [HEAD, _machines(letter, records), "## What falls short, or is not measured\n"]
    parts += [_table(short, letter, whole=True)] if short else ["No measured figure falls short of its bound.\n"]
    parts += [_absent(absent)] if absent else []
    parts += [_untold()]
    for name, benchmark in BENCHMARKS.items():
        of_it = [row for row in rows if row.target.benchmark == name and row.value is not None]
        if of_it:
            parts.append(f"## {name}: {benchmark.what}\n")
            parts.append(_table(of_it, letter))
            parts.append(_commands(of_it, letter))
    return "\n".join(parts)


def _machines(letter: dict[str, str], records: Sequence[Record]) -> str:
    lines = [f"- {letter[machine]}: {machine}" for machine in letter]
    return "\n".join(["Machines:\n", *lines, ""]) if lines else "Nothing is measured yet.\n"


def _table(rows: Sequence[Measured], letter: dict[str, str], whole: bool = False) -> str:
    """A line per row; `whole`: with the issue and the command, where no heading tells them."""
    head = ["issue"] * whole + ["figure", "bound", "measured", "", "on"] + ["command"] * whole
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        target, record = row.target, row.record
        cells = [target.what, target.bound, told(row.value, target.unit), row.verdict, letter[machine_name(record)]]
        if whole:
            cells = [str(target.issue), *cells, f"`{record['command']}`"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _absent(rows: Sequence[Measured]) -> str:
    """What no run has told yet, and the benchmark that would."""
    head = "| issue | figure | bound | would be told by |\n|---|---|---|---|"
    lines = []
    for target in (row.target for row in rows):
        words = [f"python -m benchmarks.run {target.benchmark}"]
        data = [option for option in ("--naip", "--demo") if option in BENCHMARKS[target.benchmark].options]
        words += [f"[{option} {METAVARS[option]}]" for option in data]
        words += [] if target.device == "cpu" else [f"--device {target.device}"]
        command = " ".join(words)
        lines.append(f"| {target.issue} | {target.what} | {target.bound} | `{command}` |")
    return "\n".join(["Not measured:\n", head, *lines, ""])


def _untold() -> str:
    lines = [f"| {each.issue} | {each.what} | {each.where} |" for each in UNTOLD]
    head = "| issue | what was asked for | what there is |\n|---|---|---|"
    return "\n".join(["Given by no benchmark as a figure:\n", head, *lines, ""])


def _commands(rows: Sequence[Measured], letter: dict[str, str]) -> str:
    """The runs that the rows were taken from."""
    used = {id(row.record): row.record for row in rows}.values()
    lines = [
        f"- on {letter[machine_name(record)]}: `{record['command']}`, {record['seconds']:.0f} s, "
        f"commit {record['commit'] or 'unknown'}{' with changes' if record['dirty'] else ''}, "
        f"Python {record['versions']['python']}, torch {record['versions'].get('torch', 'none')}"
        f"{'; ' + record['note'] if 'note' in record else ''}"
        for record in used
    ]
    return "\n".join([*lines, ""])


def write_page() -> list[Record]:
    """Make docs/benchmarks.md of all results, which are returned."""
    records = read_results()
    write_text(PAGE, render(records))
    return records


def main(argv: list[str] | None = None) -> None:
    parser = plain_parser("benchmarks.table", __doc__)
    parser.parse_args(argv)
    records = write_page()
    rows = [found for target in TARGETS for found in measured(target, records)]
    counts = {what: sum(row.verdict == what for row in rows) for what in ("holds", "falls short", "not measured")}
    print(f"docs/benchmarks.md: {len(records)} runs; " + ", ".join(f"{count} {what}" for what, count in counts.items()))


if __name__ == "__main__":
    run(main)
