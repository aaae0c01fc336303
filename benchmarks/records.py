"""What was measured, as benchmarks/results/NAME.jsonl keeps it: a line a run. And what it says of the targets."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT
from benchmarks.targets import Target

RESULTS = ROOT / "benchmarks" / "results"
Record = dict[str, Any]
"""benchmark, command, device, figures, machine, versions, commit, dirty, date, seconds: see `benchmarks.run`.
By hand, a note where a run did not come to its end."""


def keep(record: Record, results: Path = RESULTS) -> None:
    """Append a record as one line, with one write."""
    results.mkdir(parents=True, exist_ok=True)
    with open(results / f"{record['benchmark']}.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


@dataclass(frozen=True)
class Measured:
    """A target's value on one kind of machine; None: no run there gave it."""

    target: Target
    value: float | None
    record: Record | None

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        if self.target.least is None and self.target.most is None:
            return ""
        return "holds" if self.target.meets(self.value) else "falls short"


def read_results(folder: Path = RESULTS) -> list[Record]:
    """All records, each benchmark's in the order in which they were kept."""
    lines = [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text("utf-8").splitlines()]
    return [json.loads(line) for line in lines]


def machine_name(record: Record) -> str:
    machine = record["machine"]
    gpus = f", {len(machine['gpus'])} x {machine['gpus'][0]}" if machine["gpus"] else ""
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB{gpus}"


def value_in(target: Target, record: Record) -> float | None:
    value, per = record["figures"].get(target.figure), record["figures"].get(target.per, 1)
    return None if value is None or not per else value / per


def measured(target: Target, records: Sequence[Record]) -> list[Measured]:
    """The latest value on each machine that has one, in the order of the machines' first records; one None if none.

    The latest of all where the target says that the machine makes no difference.
    """
    latest = {
        "anywhere" if target.anywhere else machine_name(record): Measured(target, value, record)
        for record in records
        if (record["benchmark"], record["device"]) == (target.benchmark, target.device)
        and (value := value_in(target, record)) is not None
    }
    return list(latest.values()) or [Measured(target, None, None)]
