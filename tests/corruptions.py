"""Every way we know to spoil a submission, each with the kind of problem that must be reported.

Used by tests/test_submissions_verify.py and by benchmarks/submissions.py.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image

from submissions import geotiff, png, rle
from submissions.layout import CSV_NAME, Layout
from tests.tiny import write_mask, write_tif

HEIGHT, WIDTH = 40, 56
# Shares as uneven as the competition's; ten labels that begin at 1.
SHARES = np.array([0.20, 0.46, 0.06, 0.05, 0.03, 0.05, 0.03, 0.03, 0.06, 0.03])
CLASSES = [{"label": c + 1, "name": f"class{c}", "color": [25 * c, 255 - 20 * c, 9 * c]} for c in range(10)]


def draw_labels(rng: np.random.Generator) -> np.ndarray:
    """(HEIGHT, WIDTH) uint8 labels: strips and a patch, each of a class drawn by SHARES."""
    labels = rng.choice(10, size=HEIGHT // 4, p=SHARES).astype(np.uint8) + 1
    label_HW = np.repeat(labels, 4)[:, None].repeat(WIDTH, axis=1)
    top, left = rng.integers(1, HEIGHT // 2), rng.integers(1, WIDTH // 2)
    label_HW[top : top + 9, left : left + 13] = rng.choice(10, p=SHARES) + 1
    return label_HW


def write_competition(root: Path, train: int = 60, test: int = 24, seed: int = 0) -> dict:
    """Georeferenced tiles under `root`; the `data` section that reads them."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("test", test)):
        for i in range(count):
            path = root / split / f"{i:06d}.tif"
            write_tif(path, rng.integers(1, 255, (HEIGHT, WIDTH, 4), dtype=np.uint8))
            with rasterio.open(path, "r+") as file:
                file.crs = "EPSG:32650"
                file.transform = rasterio.Affine(0.6, 0, 500_000 + i * WIDTH * 0.6, 0, -0.6, 4_000_000)
            if split == "train":
                write_mask(root / split / f"{i:06d}.png", draw_labels(rng))
    return {"root": str(root), "classes": CLASSES}


@dataclass
class Zip:
    """A submission in the making: spoil any of it, then write it."""

    layout: Layout
    labels: dict[str, np.ndarray]
    entries: list[tuple[str, bytes]] = field(default_factory=list)
    compression: int = zipfile.ZIP_STORED

    def __post_init__(self) -> None:
        self.encode()

    def encode(self) -> None:
        """Files of `labels`, whatever their values."""
        layout, tiles = self.layout, self.layout.tiles
        if layout.format == "rle":
            rows = [rle.encode(label_HW, name, layout.classes.labels) for name, label_HW in self.labels.items()]
            self.entries = [(CSV_NAME, b"".join([f"{rle.HEADER}\n".encode(), *rows]))]
        elif layout.format == "geotiff":
            self.entries = [(layout.entry(tiles[n]), geotiff.encode(v, tiles[n].image)) for n, v in self.labels.items()]
        elif layout.format == "color_png":
            colors = np.array(layout.classes.colors, np.uint8)
            self.entries = [(layout.entry(tiles[n]), png.encode(colors[v - 1])) for n, v in self.labels.items()]
        else:
            self.entries = [(layout.entry(tiles[n]), png.encode(v)) for n, v in self.labels.items()]

    def relabel(self, change: Callable[[np.ndarray], np.ndarray], tiles: int | None = None) -> None:
        for name in list(self.labels)[:tiles]:
            self.labels[name] = change(self.labels[name]).astype(np.uint8)
        self.encode()

    def rename(self, change: Callable[[str], str], files: int | None = None) -> None:
        self.entries = [(change(n) if files is None or i < files else n, d) for i, (n, d) in enumerate(self.entries)]

    def replace(self, data: bytes, i: int = 3) -> None:
        self.entries[i] = (self.entries[i][0], data)

    def save(self, **arguments) -> None:
        """The fourth tile as another program would write it: arguments of Pillow's `save`, and `mode`."""
        mode, buffer = arguments.pop("mode", "L"), io.BytesIO()
        image = Image.fromarray(self.labels["000003"])
        image = image.convert(mode) if mode != "I;16" else Image.fromarray(self.labels["000003"].astype(np.uint16))
        image.save(buffer, arguments.pop("format", "png"), **arguments)
        self.replace(buffer.getvalue())

    def csv(self, change: Callable[[str], str]) -> None:
        self.replace(change(self.entries[0][1].decode()).encode(), 0)

    def write(self, path: Path) -> None:
        with zipfile.ZipFile(path, "w", self.compression) as archive:
            for name, data in self.entries:
                info = zipfile.ZipInfo(name)
                info.compress_type = self.compression
                archive.writestr(info, data)


CORRUPTIONS: dict[str, tuple[str, str, Callable[[Zip, Path], None]]] = {}


def corruption(kind: str, format: str = "png"):
    """Register a function that spoils a `Zip` in place, or that writes the path itself and returns True."""

    def register(spoil):
        CORRUPTIONS[spoil.__name__] = (kind, format, spoil)
        return spoil

    return register


def write_spoiled(name: str, good: Zip, path: Path) -> None:
    if not CORRUPTIONS[name][2](good, path):
        good.write(path)


# Names and folders


@corruption("missing")
def one_tile_missing(z, path):
    del z.entries[5]


@corruption("missing")
def nothing_in_it(z, path):
    z.entries = []


@corruption("extra")
def a_readme_too(z, path):
    z.entries.append(("results/readme.txt", b"best so far"))


@corruption("extra")
def finder_droppings(z, path):
    z.entries.append(("__MACOSX/results/._000003.png", b"\0\5\x16\7"))


@corruption("extra")
def a_train_tile_too(z, path):
    z.entries.append(("results/000055.png", z.entries[0][1]))


@corruption("extra")
def a_zip_in_the_zip(z, path):
    z.write(path)
    z.entries = [("submission.zip", path.read_bytes())]


@corruption("duplicate")
def one_tile_twice(z, path):
    name, data = z.entries[0]
    z.entries.append((name.replace("000000", "00000@"), data))
    z.write(path)  # zipfile warns of a name that comes twice, so it is changed in the bytes
    path.write_bytes(path.read_bytes().replace(b"00000@", b"000000"))
    return True


@corruption("misnamed")
def leading_zeros_lost(z, path):
    z.rename(lambda name: f"results/{int(Path(name).stem)}.png")


@corruption("misnamed")
def extension_in_capitals(z, path):
    z.rename(lambda name: name.replace(".png", ".PNG"), files=2)


@corruption("misnamed")
def png_called_tif(z, path):
    z.rename(lambda name: name.replace(".png", ".tif"))


@corruption("folder")
def another_folder(z, path):
    z.rename(lambda name: name.replace("results", "result"))


@corruption("folder")
def no_folder(z, path):
    z.rename(lambda name: Path(name).name)


@corruption("folder")
def one_folder_too_many(z, path):
    z.rename(lambda name: f"submission/{name}")


@corruption("path")
def backslashes(z, path):
    z.rename(lambda name: name.replace("/", "\\"))


@corruption("path")
def climbs_out(z, path):
    z.rename(lambda name: f"../{name}", files=1)


@corruption("path")
def climbs_out_inside(z, path):
    z.rename(lambda name: f"results/../{name}", files=1)


@corruption("path")
def absolute_path(z, path):
    z.rename(lambda name: f"/{name}", files=1)


@corruption("path")
def drive_letter(z, path):
    z.rename(lambda name: f"C:/{name}", files=1)


@corruption("path")
def symbolic_link(z, path):
    with zipfile.ZipFile(path, "w") as archive:
        for i, (name, data) in enumerate(z.entries):
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o120777 if i == 2 else 0o100644) << 16
            archive.writestr(info, b"/etc/hostname" if i == 2 else data)
    return True


# The archive


@corruption("encrypted")
def password(z, path):
    z.write(path)
    data = bytearray(path.read_bytes())
    for magic, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.find(magic) + at] |= 1
    path.write_bytes(data)
    return True


@corruption("archive")
def upload_cut_off(z, path):
    z.write(path)
    path.write_bytes(path.read_bytes()[:-700])
    return True


@corruption("archive")
def an_error_page(z, path):
    path.write_bytes(b"<!DOCTYPE html><title>Service unavailable</title>" * 9)
    return True


@corruption("archive")
def empty_file(z, path):
    path.write_bytes(b"")
    return True


@corruption("archive")
def directory_bomb(z, path):
    z.entries += [("x" * 9999 + str(i), b"") for i in range(300)]


@corruption("unreadable")
def a_bit_flipped(z, path):
    z.write(path)
    data = bytearray(path.read_bytes())
    data[data.find(b"IDAT") + 9] ^= 4
    path.write_bytes(data)
    return True


@corruption("unreadable")
def unusual_compression(z, path):
    z.compression = zipfile.ZIP_LZMA


@corruption("oversized")
def zip_bomb(z, path):
    z.compression = zipfile.ZIP_DEFLATED
    z.replace(bytes(50_000_000))


@corruption("oversized")
def zip_bomb_that_lies(z, path):
    z.compression = zipfile.ZIP_DEFLATED
    z.replace(z.entries[3][1] + bytes(5_000_000))


# One file


@corruption("size")
def png_that_claims_gigabytes(z, path):
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    z.replace(_png(head, zlib.compress(bytes(1000))))


@corruption("unreadable")
def png_cut_off(z, path):
    z.replace(z.entries[3][1][:-20])


@corruption("unreadable")
def png_of_nothing(z, path):
    z.replace(b"")


@corruption("unreadable")
def png_checksum_wrong(z, path):
    data = bytearray(z.entries[3][1])
    data[data.find(b"IDAT") + 9] ^= 4
    z.replace(bytes(data))


@corruption("unreadable")
def png_pixels_cut_off(z, path):
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 0)
    z.replace(_png(head, zlib.compress(bytes([0, *range(1, WIDTH)]))))


@corruption("unreadable")
def jpeg_called_png(z, path):
    z.save(format="jpeg")


@corruption("mode")
def palette(z, path):
    z.save(mode="P")


@corruption("mode")
def rgb(z, path):
    z.save(mode="RGB")


@corruption("mode")
def rgba(z, path):
    z.save(mode="RGBA")


@corruption("mode")
def grey_and_alpha(z, path):
    z.save(mode="LA")


@corruption("mode")
def sixteen_bits(z, path):
    z.save(mode="I;16")


@corruption("mode")
def one_bit(z, path):
    z.save(mode="1")


@corruption("mode")
def animated(z, path):
    z.save(save_all=True, append_images=[Image.new("L", (WIDTH, HEIGHT), 2)])


@corruption("size")
def transposed(z, path):
    z.relabel(np.transpose, tiles=4)


@corruption("size")
def half_the_size(z, path):
    z.relabel(lambda label_HW: label_HW[::2, ::2])


@corruption("size")
def last_row_lost(z, path):
    z.relabel(lambda label_HW: label_HW[:-1], tiles=1)


# Values and content


@corruption("zero_based")
def indices(z, path):
    z.relabel(lambda label_HW: label_HW - 1)


@corruption("labels")
def one_too_high(z, path):
    z.relabel(lambda label_HW: label_HW + 1)


@corruption("labels")
def scaled_to_be_seen(z, path):
    z.relabel(lambda label_HW: label_HW * 25)


@corruption("labels")
def ignore_left_in(z, path):
    z.relabel(lambda label_HW: np.where(label_HW == 2, 255, label_HW), tiles=3)


@corruption("shifted")
def labels_rolled_up(z, path):
    z.relabel(lambda label_HW: label_HW % 10 + 1)


@corruption("shifted")
def labels_rolled_down(z, path):
    z.relabel(lambda label_HW: (label_HW + 8) % 10 + 1)


@corruption("shifted")
def labels_shifted_and_clipped(z, path):
    z.relabel(lambda label_HW: np.minimum(label_HW + 1, 10))


@corruption("constant")
def forest_everywhere(z, path):
    z.relabel(lambda label_HW: np.full_like(label_HW, 2))


@corruption("constant")
def a_batch_is_blank(z, path):
    z.relabel(lambda label_HW: np.full_like(label_HW, 1), tiles=10)


@corruption("shares")
def a_class_forgotten(z, path):
    z.relabel(lambda label_HW: np.where(label_HW == 1, 4, label_HW))


@corruption("shares")
def a_rare_class_forgotten(z, path):
    z.relabel(lambda label_HW: np.where(label_HW == 10, 1, label_HW))


@corruption("copies")
def one_mask_for_all(z, path):
    first = next(iter(z.labels.values()))
    z.relabel(lambda label_HW: first)


# GeoTIFFs


@corruption("georeference", "geotiff")
def coordinates_lost(z, path):
    z.replace(_tif(z, transform=rasterio.Affine.identity()))


@corruption("georeference", "geotiff")
def another_zone(z, path):
    z.replace(_tif(z, crs="EPSG:32651"))


@corruption("georeference", "geotiff")
def one_pixel_off(z, path):
    place = rasterio.Affine(0.6, 0, 500_000 + 3 * WIDTH * 0.6 + 0.6, 0, -0.6, 4_000_000)
    z.replace(_tif(z, crs="EPSG:32650", transform=place))


@corruption("georeference", "geotiff")
def two_tiles_swapped(z, path):
    (a, first), (b, second) = z.entries[:2]
    z.entries[:2] = [(a, second), (b, first)]


@corruption("labels", "color_png")
def a_color_of_no_class(z, path):
    color_HW3 = np.tile(np.array(CLASSES[3]["color"], np.uint8), (HEIGHT, WIDTH, 1))
    color_HW3[7, 9] += 1
    z.replace(png.encode(color_HW3))


@corruption("mode", "color_png")
def labels_in_the_place_of_colors(z, path):
    z.replace(png.encode(z.labels["000003"]))


@corruption("mode", "color_png")
def colors_with_alpha(z, path):
    z.save(mode="RGBA")


@corruption("mode", "geotiff")
def two_bands(z, path):
    z.replace(_tif(z, bands=2))


@corruption("mode", "geotiff")
def floats(z, path):
    z.replace(_tif(z, dtype="float32"))


@corruption("size", "geotiff")
def tif_of_another_size(z, path):
    z.labels["000003"] = z.labels["000003"][:-2]
    z.replace(_tif(z))


@corruption("unreadable", "geotiff")
def tif_cut_off(z, path):
    z.replace(z.entries[3][1][:-40])


@corruption("unreadable", "geotiff")
def png_called_a_tif(z, path):
    z.replace(png.encode(z.labels["000003"]))


@corruption("zero_based", "geotiff")
def tif_of_indices(z, path):
    z.relabel(lambda label_HW: label_HW - 1)


# Run-length codes


@corruption("rows", "rle")
def header_lost(z, path):
    z.csv(lambda text: text.split("\n", 1)[1])


@corruption("rows", "rle")
def semicolons(z, path):
    z.csv(lambda text: text.replace(",", ";"))


@corruption("missing", "rle")
def rows_of_a_tile_lost(z, path):
    z.csv(lambda text: "\n".join(line for line in text.split("\n") if not line.startswith("000007,")))


@corruption("extra", "rle")
def rows_of_a_stranger(z, path):
    z.csv(lambda text: text + "000099,1,1 5\n")


@corruption("duplicate", "rle")
def a_row_twice(z, path):
    z.csv(lambda text: "\n".join(line for old in text.split("\n") for line in [old] * (1 + old.startswith("000007,2"))))


@corruption("duplicate", "rle")
def rows_apart(z, path):
    z.csv(lambda text: text + text.split("\n")[1] + "\n")


@corruption("labels", "rle")
def a_class_of_its_own(z, path):
    z.csv(lambda text: text.replace("000004,10,", "000004,11,"))


@corruption("zero_based", "rle")
def runs_from_zero(z, path):
    z.csv(lambda text: _shift_runs(text, -1))


@corruption("runs", "rle")
def runs_from_two(z, path):
    z.csv(lambda text: _shift_runs(text, 1))


@corruption("runs", "rle")
def a_length_lost(z, path):
    z.csv(lambda text: "\n".join(line.rsplit(" ", 1)[0] if line.startswith("000003,") else line
                                 for line in text.split("\n")))  # fmt: skip


@corruption("runs", "rle")
def letters_in_runs(z, path):
    z.csv(lambda text: text.replace(" 4 ", " four ", 1))


@corruption("runs", "rle")
def a_class_row_lost(z, path):
    z.csv(lambda text: "\n".join(line for line in text.split("\n") if not line.startswith("000003,2,")))


@corruption("oversized", "rle")
def endless_line(z, path):
    z.compression = zipfile.ZIP_DEFLATED
    z.csv(lambda text: text + "000003,1," + "1 1 " * 5_000_000)


@corruption("oversized", "rle")
def endless_rows(z, path):
    z.compression = zipfile.ZIP_DEFLATED
    z.csv(lambda text: text + "x,1,\n" * 200_000)


@corruption("missing", "rle")
def csv_called_otherwise(z, path):
    z.rename(lambda name: "predictions.csv")


def _shift_runs(text: str, by: int) -> str:
    lines = text.rstrip("\n").split("\n")
    shifted = lines[:1]
    for line in lines[1:]:
        name, label, runs = line.split(",")
        numbers = [int(v) + (by if i % 2 == 0 else 0) for i, v in enumerate(runs.split())]
        shifted.append(f"{name},{label},{' '.join(map(str, numbers))}")
    return "\n".join(shifted) + "\n"


def _tif(z: Zip, bands: int = 1, dtype: str = "uint8", crs=None, transform=None) -> bytes:
    """The fourth tile as a GeoTIFF of another make; by default where its image lies."""
    with rasterio.open(z.layout.tiles["000003"].image) as image:
        place = {"crs": crs or image.crs, "transform": transform or image.transform}
    label_HW = z.labels["000003"]
    with rasterio.MemoryFile() as memory:
        height, width = label_HW.shape
        with memory.open(driver="GTiff", width=width, height=height, count=bands, dtype=dtype, **place) as file:
            file.write(np.stack([label_HW] * bands).astype(dtype))
        return bytes(memory.getbuffer())


def _png(head: bytes, pixels: bytes) -> bytes:
    chunks = [(b"IHDR", head), (b"IDAT", pixels), (b"IEND", b"")]
    return png.SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
