"""Labels as run-length codes in a csv, the way Kaggle counts: pixels 1, 2, ... down the columns, per class.

    ImageId,ClassId,EncodedPixels
    000001,1,1 40 301 7
    000001,2,41 260

A pair is the first pixel of a run and its length. A tile has one row per class; a class that it lacks has no runs.
A name with a comma or a quote stands in quotes, as csv has it.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from submissions.layout import Layout, Tile
from submissions.problems import FlawError, Problem

QUOTED = re.compile(r'"((?:[^"]|"")*)",')
HEADER = "ImageId,ClassId,EncodedPixels"
Rows = dict[int, str]  # label -> runs, of one tile


def encode(label_HW: np.ndarray, name: str, labels: tuple[int, ...]) -> bytes:
    """The rows of one tile, one per class in the order of the table."""
    quoted = '"' + name.replace('"', '""') + '"' if set(name) & set(',"') else name
    pixels = label_HW.ravel(order="F")
    starts = np.flatnonzero(np.concatenate([[True], pixels[1:] != pixels[:-1]]))
    lengths = np.diff(starts, append=pixels.size)
    rows = []
    for label in labels:
        runs = pixels[starts] == label
        pairs = np.stack([starts[runs] + 1, lengths[runs]], axis=1)
        rows.append(f"{quoted},{label},{' '.join(map(str, pairs.ravel().tolist()))}\n")
    return "".join(rows).encode()


def decode(rows: Rows, height: int, width: int) -> np.ndarray:
    """(H, W) uint8 labels from the rows of one tile.

    Raises:
        FlawError: runs that are no ascending pairs of numbers, lie outside the tile, overlap, or leave pixels out.
    """
    pixels = height * width
    # Differences along the pixels: a run adds its label where it starts and takes it away behind its end.
    label_step, cover_step = np.zeros(pixels + 1, np.int64), np.zeros(pixels + 1, np.int64)
    for label, text in rows.items():
        start, stop = _runs(text, pixels)
        for step, value in ((label_step, label), (cover_step, 1)):
            np.add.at(step, start, value)
            np.add.at(step, stop, -value)
    cover = np.cumsum(cover_step[:-1])
    if (cover != 1).any():
        raise FlawError("runs", f"{(cover == 0).sum()} pixels have no class, {(cover > 1).sum()} have several")
    return np.cumsum(label_step[:-1]).astype(np.uint8).reshape(width, height).T


def read_tiles(file: BinaryIO, layout: Layout) -> Iterator[Problem | tuple[Tile, Rows]]:
    """The rows of each tile, tile by tile, and what is wrong with rows and names.

    Memory is that of one tile: the rows of a tile must stand together, and there is a longest line and a last one.
    """
    longest = max(map(_longest_line, layout.tiles.values()))
    rows_due = len(layout.tiles) * len(layout.classes)
    header = file.readline(longest).decode("utf-8", "replace").rstrip("\r\n").removeprefix("\ufeff")
    if header != HEADER:
        yield Problem("rows", f"the first line is {header[:60]!r}; expected {HEADER}")
    seen: set[str] = set()
    name, rows = "", {}
    for number, line in enumerate(iter(lambda: file.readline(longest), b""), start=2):
        if len(line) >= longest or number > rows_due + 1000:
            what = "a line is longer" if len(line) >= longest else "there are more rows"
            yield Problem("oversized", f"{what} than the tiles can need; nothing after it is read", f"line {number}")
            return
        cells = _cells(line.decode("utf-8", "replace").rstrip("\r\n"))
        flaw = _row_flaw(cells, layout)
        if flaw:
            yield flaw.at(f"line {number}")
            continue
        if cells[0] != name:
            if rows:
                yield layout.tiles[name], rows
            name, rows = cells[0], {}
            if name in seen:
                yield Problem("duplicate", "rows of this tile stand in two places", name)
            seen.add(name)
        if int(cells[1]) in rows:
            yield Problem("duplicate", "two rows for one tile and class", f"line {number}")
        rows[int(cells[1])] = cells[2]
    if rows:
        yield layout.tiles[name], rows
    yield from (Problem("missing", "test tiles without a row", tile) for tile in layout.tiles if tile not in seen)


def _cells(line: str) -> list[str]:
    """Of a row, whose name may stand in quotes. Not by module csv: it has a limit of 131,072 characters a cell."""
    quoted = QUOTED.match(line)
    if not quoted:
        return line.split(",")
    return [quoted[1].replace('""', '"'), *line[quoted.end() :].split(",")]


def _longest_line(tile: Tile) -> int:
    """More bytes than any row of a tile can have: as many runs as pixels, two numbers and two blanks each."""
    pixels = tile.height * tile.width
    return pixels * (2 * len(str(pixels)) + 2) + 1024


def _row_flaw(cells: list[str], layout: Layout) -> FlawError | None:
    if len(cells) != 3:
        return FlawError("rows", f"{len(cells)} columns; expected 3")
    if cells[0] not in layout.tiles:
        return FlawError("extra", "no test tile is called so")
    labels = [str(label) for label in layout.classes.labels]
    if cells[1] not in labels:
        return FlawError("labels", f"ClassId {cells[1][:20]!r}; labels are {', '.join(labels)}")
    return None


def _runs(text: str, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """First pixels (0-based) and the pixels behind the last ones."""
    try:
        numbers = np.array(text.split(), np.int64)
    except (ValueError, OverflowError):
        raise FlawError("runs", "something that is no number") from None
    if len(numbers) % 2:
        raise FlawError("runs", f"{len(numbers)} numbers; expected pairs of start and length")
    start, length = numbers[::2], numbers[1::2]
    if (start == 0).any():
        raise FlawError("zero_based", "a run starts at pixel 0; the first pixel is 1")
    if (start < 0).any() or (length < 1).any() or (np.diff(start) <= 0).any():
        raise FlawError("runs", "starts and lengths must be positive, and starts ascend")
    stop = start - 1 + length
    if (stop > pixels).any():
        raise FlawError("runs", f"a run ends behind the tile's last pixel {pixels}")
    return start - 1, stop
