"""Labels -> the zip: one file per test tile, the same bytes for the same labels, verified before it gets its name."""

import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from base.command import run, stage_parser
from base.errors import UserError, listed, refuse_all
from base.files import hash_file, whole_file
from base.progress import track
from base.threads import in_threads
from config import Run, load_experiment, open_run
from folds.images import read_mask
from folds.tiles import make_tiles
from submissions import png
from submissions.formats import assemble, encode
from submissions.layout import Layout, Tile
from submissions.ledger import add_to_ledger, ledger_path
from submissions.problems import describe
from submissions.receipt import find_receipt, names_of, write_receipt
from submissions.verify import verify_submission

Labels = Iterable[tuple[str, np.ndarray]]


def write_submission(run: Run, tiles: pd.DataFrame, labels: Labels, receipt: dict[str, Any]) -> Path:
    """Write `run.zip_path`, its receipt and its row of the ledger.

    Args:
        tiles: the tile table; its test tiles are what is handed in.
        labels: (name, (H, W) uint8 indices 0..C-1) of every test tile, in any order, each asked for only when the ones
            before it are nearly written.
        receipt: what the labels were made from; see `submissions/receipt.py` for the keys that others read.

    Returns:
        The path of the zip. Doubts about its content (class shares and the like) are printed to stderr and kept in the
        receipt under `warnings`: an untrained network makes a doubtful zip, not a wrong one.

    Raises:
        UserError: labels of a tile are missing, given twice, of no test tile, or of another size than its image; or
            the file that came out does not verify; or another run or blend has a zip of this name. What was there
            stands as it was.
    """
    layout = Layout.of(run.experiment, tiles)
    path = run.zip_path
    _refuse_anothers(path, names_of(run))
    with whole_file(path) as aside:
        write_zip(layout, labels, aside)
        verdict = verify_submission(aside, run.experiment, tiles, receipt.get("class_shares_oof"))
        refuse_all(f"{path} came out wrong and was thrown away", describe(verdict.broken))
    warnings = describe(verdict.problems)
    for warning in warnings:
        print(f"{path.name}: {warning}", file=sys.stderr)
    about = {
        "zip": path.name,
        "sha256": hash_file(path),
        "bytes": path.stat().st_size,
        "format": layout.format,
        "encoder": png.ENCODER if layout.format in ("png", "color_png") else layout.format,
        "tiles": len(layout.tiles),
        "class_shares": verdict.class_shares,
        "warnings": warnings,
    }
    add_to_ledger(ledger_path(run.experiment), write_receipt(path, receipt, about))
    return path


def write_zip(layout: Layout, labels: Labels, path: Path, threads: int | None = None) -> None:
    """Write the zip alone: encoded in threads into a scratch file in the order that comes, put in order at the end.

    Memory does not grow with the tiles, and neither order nor threads change a byte.
    """
    with tempfile.TemporaryFile(dir=path.parent) as scratch:
        place_of = _encode_all(layout, labels, scratch, threads)
        refuse_all("labels for the submission", _missing(layout, place_of))
        assemble(layout, _in_order(layout, place_of, scratch), path)


def labels_in(folder: Path, layout: Layout) -> Iterator[tuple[str, np.ndarray]]:
    """(name, indices) of every test tile, from a folder of label PNGs called NAME.png.

    Raises:
        UserError: no such folder, PNGs that are missing or of no test tile, or a value that is no label.
    """
    found = {path.stem: path for path in sorted(folder.glob("*.png"))}
    problems = _missing(layout, found)
    extra = [path.name for name, path in found.items() if name not in layout.tiles]
    if extra:
        problems.append(f"{len(extra)} PNGs are of no test tile: {listed(extra)}")
    refuse_all(f"label PNGs in {folder}", problems)
    for name, path in found.items():
        yield name, layout.classes.to_index(read_mask(path), where=str(path))


def main(argv: list[str] | None = None) -> None:
    parser = stage_parser("submissions.write", __doc__, "--labels DIR")
    parser.add_argument("--labels", metavar="DIR", required=True, help="folder of label PNGs called NAME.png")
    args = parser.parse_intermixed_args(argv)
    run = open_run(load_experiment(args.config, args.overrides))
    tiles = make_tiles(run)
    folder = Path(args.labels)
    layout = Layout.of(run.experiment, tiles)
    labels = track(labels_in(folder, layout), "write tiles", total=len(layout.tiles))
    path = write_submission(run, tiles, labels, names_of(run) | {"labels": str(folder)})
    print(f"{path}: written and verified; receipt and ledger row are there")


def _refuse_anothers(path: Path, names: dict[str, str]) -> None:
    """Blend "b" of run "a" and run "a.b" have zips of one name."""
    receipt = find_receipt(path) if path.exists() else {}
    others = {key: receipt[key] for key, name in names.items() if receipt.get(key, name) != name}
    if others:
        whose = " and ".join(f"{key} {name!r}" for key, name in others.items())
        raise UserError(
            f"{path} is of {whose}: give this one another name (name=... or blend.name=...), or move that zip with its "
            f"receipt"
        )


def _encode_all(layout: Layout, labels: Labels, scratch: BinaryIO, threads: int | None) -> dict[str, tuple[int, int]]:
    """Encode every tile into `scratch`. Returns name -> (offset, length)."""

    def work(item: tuple[Tile, np.ndarray]) -> tuple[str, bytes]:
        tile, index_HW = item
        return tile.name, encode(layout, tile, layout.classes.to_label(index_HW))

    place_of = {}
    for name, data in in_threads(work, _checked(layout, labels), threads):
        place_of[name] = (scratch.tell(), len(data))
        scratch.write(data)
    return place_of


def _checked(layout: Layout, labels: Labels) -> Iterator[tuple[Tile, np.ndarray]]:
    """The labels with their tiles; refuses what does not fit before it is encoded."""
    seen = set()
    for name, index_HW in labels:
        tile = layout.tiles.get(name)
        if tile is None or name in seen:
            raise UserError(f"labels for the submission: {name} {'comes twice' if tile else 'is no test tile'}")
        if index_HW.shape != (tile.height, tile.width) or index_HW.dtype != np.uint8:
            raise UserError(
                f"labels for the submission: {name} is {index_HW.dtype} {'x'.join(map(str, index_HW.shape))}; "
                f"its image needs uint8 {tile.height}x{tile.width}"
            )
        seen.add(name)
        yield tile, index_HW


def _missing(layout: Layout, found: Iterable[str]) -> list[str]:
    missing = [name for name in layout.tiles if name not in found]
    return [f"{len(missing)} test tiles have none: {listed(missing)}"] if missing else []


def _in_order(layout: Layout, place_of: dict[str, tuple[int, int]], scratch: BinaryIO) -> Iterator[tuple[Tile, bytes]]:
    for name, tile in layout.tiles.items():
        offset, length = place_of[name]
        scratch.seek(offset)
        yield tile, scratch.read(length)


if __name__ == "__main__":
    run(main)
