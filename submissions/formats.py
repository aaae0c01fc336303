"""The formats of a submission behind three functions: a tile's piece, the zip of all pieces, and the way back."""

import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from base.errors import UserError
from base.threads import in_threads
from submissions import geotiff, png, rle
from submissions.archive import DAMAGED, match_entries, open_archive, read_entry, readable
from submissions.layout import CSV_NAME, Layout, Tile
from submissions.problems import FlawError, Problem

Seen = TypeVar("Seen")
Look = Callable[[Tile, np.ndarray], Seen]


def encode(layout: Layout, tile: Tile, label_HW: np.ndarray) -> bytes:
    """One tile's piece of the submission: a file, or the rows of the csv."""
    if layout.format == "png":
        return png.encode(label_HW)
    if layout.format == "color_png":
        return png.encode(layout.classes.to_rgb(layout.classes.to_index(label_HW)))
    if layout.format == "geotiff":
        return geotiff.encode(label_HW, tile.image)
    return rle.encode(label_HW, tile.name, layout.classes.labels)


def assemble(layout: Layout, pieces: Iterable[tuple[Tile, bytes]], path: Path) -> None:
    """Write the zip at `path` from the pieces, given in the order of `layout.tiles`.

    Stored, not deflated: PNG and LZW are compressed already, and what deflate makes of a csv differs between versions
    of zlib. No time, owner nor machine enters: the same pieces give the same zip.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        if layout.format != "rle":
            for tile, data in pieces:
                archive.writestr(_info(layout.entry(tile)), data)
            return
        with archive.open(_info(CSV_NAME), "w", force_zip64=True) as csv:
            csv.write(f"{rle.HEADER}\n".encode())
            for _, data in pieces:
                csv.write(data)


def walk(path: Path, layout: Layout, look: Look, threads: int | None = None) -> Iterator[Problem | tuple[Tile, Seen]]:
    """Every problem of form, and `look(tile, label_HW)` of every tile that can be read; in the order of the tiles.

    `look` runs in threads and may raise FlawError. Memory is that of a few tiles, whatever the zip holds or claims.
    """
    try:
        with open_archive(path, layout) as archive:
            if layout.format == "rle":
                yield from _walk_csv(archive, layout, look)
            else:
                yield from _walk_files(archive, layout, look, threads)
    except FlawError as flaw:
        yield flaw.at("")


def read_submission(path: Path, layout: Layout) -> Iterator[tuple[str, np.ndarray]]:
    """(name, (H, W) uint8 indices 0..C-1) of every tile, in the order of their names.

    Raises:
        UserError: the zip has any problem of form, or labels of no class.
    """
    for found in walk(path, layout, lambda tile, label_HW: label_HW):
        if isinstance(found, Problem):
            where = f"{found.where}: " if found.where else ""
            raise UserError(
                f"{path}: {where}{found.what}. All problems: python -m submissions.verify {path} --config FILE"
            )
        tile, label_HW = found
        yield tile.name, layout.classes.to_index(label_HW, where=f"{path}: {tile.name}")


def _walk_files(
    archive: zipfile.ZipFile, layout: Layout, look: Look, threads: int | None
) -> Iterator[Problem | tuple[Tile, Seen]]:
    entries, problems = match_entries(archive.infolist(), layout)
    yield from problems

    def read(entry: tuple[Tile, zipfile.ZipInfo]) -> Problem | tuple[Tile, Seen]:
        tile, info = entry
        try:
            data = read_entry(archive, info, tile.max_bytes)
            return tile, look(tile, _decode(layout, tile, data))
        except FlawError as flaw:
            return flaw.at(info.orig_filename)

    yield from in_threads(read, entries, threads)


def _decode(layout: Layout, tile: Tile, data: bytes) -> np.ndarray:
    """(H, W) labels of a tile's file."""
    if layout.format == "png":
        return png.decode(data, tile.height, tile.width)
    if layout.format == "geotiff":
        return geotiff.decode(data, tile.height, tile.width, tile.image)
    color_HW3 = png.decode(data, tile.height, tile.width, png.RGB)
    try:
        return layout.classes.to_label(layout.classes.of_colors(color_HW3))
    except UserError as error:
        raise FlawError("labels", str(error)) from None


def _walk_csv(archive: zipfile.ZipFile, layout: Layout, look: Look) -> Iterator[Problem | tuple[Tile, Seen]]:
    infos = [info for info in archive.infolist() if info.orig_filename == CSV_NAME]
    yield from (
        Problem("extra", f"expected nothing but {CSV_NAME}", info.orig_filename)
        for info in archive.infolist()
        if info not in infos
    )
    if len(infos) != 1:
        kind, what = ("duplicate", "stands in the zip twice") if infos else ("missing", "not in the zip")
        yield Problem(kind, what, CSV_NAME)
        return
    if problem := readable(infos[0]):
        yield problem
        return
    try:
        with archive.open(infos[0]) as csv:
            for found in rle.read_tiles(csv, layout):
                if isinstance(found, Problem):
                    yield found
                    continue
                tile, rows = found
                try:
                    yield tile, look(tile, rle.decode(rows, tile.height, tile.width))
                except FlawError as flaw:
                    yield flaw.at(tile.name)
    except DAMAGED as error:
        yield Problem("unreadable", f"damaged entry ({error})", CSV_NAME)


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system = 3  # Unix, on every system: else the byte tells Windows from the rest
    info.external_attr = 0o644 << 16
    return info
