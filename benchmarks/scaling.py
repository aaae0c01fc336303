"""How time and memory grow from 1,000 to 64,000 tiles, stage by stage.

python -m benchmarks.scaling [--json FILE] [--only PART,...]

Every measurement is a process of its own, the median of as many rounds as fit in ROUNDS_S. Time is the processor time
of the work alone, which others on the machine do not lengthen; wall time stands beside it. Memory is the peak during
the work above what the input took. The exponent is the slope of log time against log tiles by least squares (and,
beside it, between the two largest sizes, where fixed costs weigh least); growth of memory is KiB a tile by least
squares. Synthetic tiles of 64 x 64, a few of them standing for all: see benchmarks/scaling_parts.py for what each part
does. The search for neighbours compares every border with every other; it ends at 16,000 tiles.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from base.command import add_json, plain_parser, run, write_figures
from base.errors import nearest, refuse_all
from base.screen import screen, text_table
from benchmarks.measure import peak_mib, seconds
from benchmarks.scaling_parts import PARTS

SIZES = (1_000, 4_000, 16_000, 64_000)
SIZES_OF = {"mosaic": SIZES[:-1]}  # 14 s at 16,000 tiles, and 16 times that at 64,000
ROUNDS, ROUNDS_S = 3, 8.0


def measure(part: str, tiles: int) -> dict[str, float]:
    """Processor seconds (s) and seconds by the clock (wall_s) of the work, and MiB that it needed above its input. In
    this process, which should be a fresh one."""
    with tempfile.TemporaryDirectory() as folder:
        work = PARTS[part](tiles, Path(folder))
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: see proc_pid_clear_refs(5)
        before, used = peak_mib(), time.process_time()
        wall = seconds(work)
        return {"s": time.process_time() - used, "wall_s": wall, "mib": peak_mib() - before}


def measure_apart(part: str, tiles: int) -> dict[str, float]:
    """`measure` in fresh processes: the median of the rounds that fit in ROUNDS_S, one at least."""
    command = [sys.executable, "-m", "benchmarks.scaling", "--measure", part, str(tiles)]
    rounds: list[dict[str, float]] = []
    while len(rounds) < ROUNDS and sum(each["wall_s"] for each in rounds) < ROUNDS_S:
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rounds.append(json.loads(said.splitlines()[-1]))
    return {key: float(np.median([each[key] for each in rounds])) for key in rounds[0]}


def exponent(tiles: Sequence[int], times: Sequence[float]) -> float:
    """Slope of log time against log tiles by least squares."""
    return float(np.polyfit(np.log(tiles), np.log(times), 1)[0])


def main(argv: list[str] | None = None) -> None:
    parser = plain_parser("benchmarks.scaling", __doc__)
    parser.add_argument("--only", metavar="PARTS", help=f"of {', '.join(PARTS)}, separated by commas")
    parser.add_argument("--measure", nargs=2, metavar=("PART", "TILES"), help=argparse.SUPPRESS)
    add_json(parser)
    args = parser.parse_args(argv)
    if args.measure:
        print(json.dumps(measure(args.measure[0], int(args.measure[1]))))
        return
    parts = args.only.split(",") if args.only else list(PARTS)
    refuse_all("--only", [f"{part}: no such part{nearest(part, list(PARTS))}" for part in parts if part not in PARTS])

    rows: list[tuple[str, ...]] = []
    figures: dict[str, float] = {}
    for part in parts:
        sizes = SIZES_OF.get(part, SIZES)
        found = {size: measure_apart(part, size) for size in sizes}
        times, mib = ([each[key] for each in found.values()] for key in ("s", "mib"))
        slopes = exponent(sizes, times), exponent(sizes[-2:], times[-2:])
        kib_a_tile = float(np.polyfit(sizes, mib, 1)[0]) * 1024
        cells = [f"{each['s']:.2f} ({each['wall_s']:.2f}) s  {each['mib']:.0f} MiB" for each in found.values()]
        told = [f"{slopes[0]:.2f}", f"{slopes[1]:.2f}", f"{kib_a_tile:.2f}"]
        print(f"{part}: {', '.join(cells)}; exponent {told[0]}, {told[1]} at the end; {told[2]} KiB a tile", flush=True)
        rows.append((part, *cells, *[""] * (len(SIZES) - len(sizes)), *told))
        figures |= {f"{part}_exponent": slopes[0], f"{part}_last_exponent": slopes[1], f"{part}_kib_a_tile": kib_a_tile}
        figures |= {f"{part}_{size}_{key}": value for size, each in found.items() for key, value in each.items()}
    columns = ("part", *(f"{size:,}" for size in SIZES), "exponent", "at the end", "KiB a tile")
    screen(width=150).print(text_table("processor seconds (by the clock), MiB above the input", columns, rows))
    write_figures(args.json, {name: round(value, 4) for name, value in figures.items()})


if __name__ == "__main__":
    run(main)
