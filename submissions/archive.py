"""A zip from a stranger, read in place: nothing is unpacked to disk, and no read is larger than what is due."""

import io
import re
import stat
import struct
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from zipfile import ZipFile, ZipInfo

from base.errors import UserError
from submissions.layout import Layout, Tile
from submissions.problems import FlawError, Problem

DAMAGED = (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, struct.error, zlib.error)
# Graders' unzippers know these two; bzip2, lzma and deflate64 are a gamble.
COMPRESSIONS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
ENTRY_BYTES = 1024  # of the zip's directory per tile: 46 bytes, the name and what packers add. Measured: 60 to 150
WINDOWS_ROOT = re.compile(r"^[A-Za-z]:")


class _Bounded(io.FileIO):
    """A file that refuses to be read in pieces larger than `limit`: zipfile reads a zip's whole directory at once."""

    limit: int

    def read(self, size: int = -1) -> bytes:
        if size > self.limit:
            raise FlawError("archive", f"its directory has {size:,} bytes; {self.limit:,} are plenty for these tiles")
        return super().read(size)


@contextmanager
def open_archive(path: Path, layout: Layout) -> Iterator[ZipFile]:
    """The open zip.

    Raises:
        UserError: no such file.
        FlawError: it is no zip, it is truncated, or its directory is far too large.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such zip. Run: python -m ensemble.blend --config FILE")
    with _Bounded(path) as file:
        largest = max(tile.max_bytes for tile in layout.tiles.values())
        file.limit = 2**20 + ENTRY_BYTES * len(layout.tiles) + largest
        try:
            archive = ZipFile(file)
        except DAMAGED as error:
            raise FlawError("archive", f"no zip, or truncated ({error})") from None
        with archive:
            yield archive


def read_entry(archive: ZipFile, info: ZipInfo, max_bytes: int) -> bytes:
    """All bytes of an entry, its checksum compared.

    Raises:
        FlawError: it unpacks to more than `max_bytes`, whatever the directory claims, or it is damaged.
    """
    try:
        with archive.open(info) as file:
            data = file.read(max_bytes + 1)
    except DAMAGED as error:
        raise FlawError("unreadable", f"damaged entry ({_without_name(error, info)})") from None
    if len(data) > max_bytes:
        raise FlawError("oversized", f"unpacks to more than {max_bytes:,} bytes, the most that a tile can need")
    return data


def readable(info: ZipInfo) -> Problem | None:
    """What keeps an entry from being read at all, if anything."""
    name = info.orig_filename  # as it stands in the zip; `filename` is already mended by zipfile
    parts = name.split("/")
    if name.startswith("/") or WINDOWS_ROOT.match(name):
        return Problem("path", "absolute path", name)
    if ".." in parts or "\\" in name or "\0" in name:
        return Problem("path", "path with '..', a backslash or a zero byte", name)
    if stat.S_IFMT(info.external_attr >> 16) == stat.S_IFLNK:
        return Problem("path", "symbolic link", name)
    if info.flag_bits & 0x1:
        return Problem("encrypted", "needs a password", name)
    if info.compress_type not in COMPRESSIONS:
        return Problem("unreadable", f"compression method {info.compress_type}; expected stored or deflated", name)
    return None


def match_entries(infos: Iterable[ZipInfo], layout: Layout) -> tuple[list[tuple[Tile, ZipInfo]], list[Problem]]:
    """Which entry is which tile's, in the order of the tiles, and everything wrong with names and folders."""
    tile_of = {layout.entry(tile): tile for tile in layout.tiles.values()}
    guess = _guesses(layout)
    found: dict[str, ZipInfo] = {}
    problems: list[Problem] = []
    meant = set()
    for info in infos:
        name = info.orig_filename
        if name.endswith("/") and layout.folder and f"{layout.folder}/".startswith(name):
            continue  # packers write an entry for the folder itself
        tile = tile_of.get(name)
        flaw = readable(info)
        if tile is None:
            tile = guess(name)
            flaw = flaw or _misplaced(name, tile, layout)
        elif tile.name in found:
            flaw = flaw or Problem("duplicate", "stands in the zip twice", name)
        if flaw:
            problems.append(flaw)
            meant.add(tile.name if tile else None)
        else:
            found[tile.name] = info
    problems += [
        Problem("missing", "test tiles without a file", layout.entry(tile))
        for name, tile in layout.tiles.items()
        if name not in found and name not in meant
    ]
    return [(tile, found[name]) for name, tile in layout.tiles.items() if name in found], problems


def _misplaced(name: str, tile: Tile | None, layout: Layout) -> Problem:
    """What a name is that is no tile's own."""
    if tile is None:
        return Problem("extra", "no test tile is called so", name)
    wanted = PurePosixPath(layout.entry(tile))
    example = layout.entry(next(iter(layout.tiles.values())))
    if PurePosixPath(name).name == wanted.name:
        folder = str(PurePosixPath(name).parent)
        return Problem("folder", f"lies in {folder!r}; expected {str(wanted.parent)!r}", name)
    called = layout.file.replace("{name}", "NAME") + wanted.suffix
    return Problem("misnamed", f"a test tile is meant, but files are called {called}, as in {example}", name)


def _guesses(layout: Layout) -> Callable[[str], Tile | None]:
    """name -> the tile that was probably meant: letter case, leading zeros and the extension do not count."""
    by_key = defaultdict(list)
    for tile in layout.tiles.values():
        stem = PurePosixPath(layout.entry(tile)).stem
        for key in {tile.name.casefold(), _number(tile.name), stem.casefold(), _number(stem)}:
            by_key[key].append(tile)

    def guess(name: str) -> Tile | None:
        stem = PurePosixPath(name.replace("\\", "/")).stem
        tiles = by_key.get(stem.casefold()) or by_key.get(_number(stem)) or []
        return tiles[0] if len(tiles) == 1 else None

    return guess


def _number(stem: str) -> str:
    return str(int(stem)) if stem.isascii() and stem.isdigit() else stem.casefold()


def _without_name(error: Exception, info: ZipInfo) -> str:
    return str(error).replace(repr(info.orig_filename), "").strip() or type(error).__name__
