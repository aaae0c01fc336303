"""Write: what goes in comes out in every format, and the bytes depend on the labels alone."""

import hashlib
import io
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.control import GroundControlPoint

from base.errors import UserError
from base.files import hash_file
from config import load_experiment, open_run
from folds.classes import ClassTable
from folds.images import read_mask, write_image
from folds.tiles import make_tiles
from submissions import geotiff, png, rle
from submissions.formats import read_submission, walk
from submissions.layout import Layout
from submissions.ledger import ledger_path, read_ledger
from submissions.problems import FlawError
from submissions.receipt import differences, names_of, read_receipt, receipt_path
from submissions.score import score_submission
from submissions.verify import verify_submission
from submissions.write import labels_in, main, write_submission, write_zip
from tests.corruptions import draw_labels, write_competition
from tests.tiny import tiny_values, write_config, write_mask

FORMATS = ["png", "color_png", "geotiff", "rle"]
TAG_OF_SCALE, TAG_OF_MATRIX = 33550, 34264  # by which a GeoTIFF says where it lies
RECEIPT = {"oof_miou": 0.52, "honest_miou": 0.5, "weights": {"unet": 0.6, "fpn": 0.4}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The `data` section of a georeferenced competition: 40 train and 10 test tiles of 40x56 pixels."""
    return write_competition(tmp_path_factory.mktemp("data"), train=40, test=10, seed=3)


@pytest.fixture
def opened(data, tmp_path):
    """format -> (run, tile table, labels in 0..C-1 by name); results under tmp_path."""
    config = write_config(tmp_path / "c.yaml", tiny_values(tmp_path, tmp_path) | {"data": data, "folds": {"k": 3}})

    def open_it(format="png", *overrides):
        run = open_run(load_experiment(config, [f"submission.format={format}", *overrides]))
        tiles = make_tiles(run)
        rng = np.random.default_rng(5)
        labels = {name: draw_labels(rng) - 1 for name in sorted(tiles.name[tiles.split == "test"])}
        return run, tiles, labels

    return open_it


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("folder", ["results", "null", "a/b"])
def test_what_goes_in_comes_out(opened, format, folder):
    run, tiles, labels = opened(format, f"submission.folder={folder}")
    path = write_submission(run, tiles, labels.items(), RECEIPT)
    back = dict(read_submission(path, Layout.of(run.experiment, tiles)))
    assert list(back) == list(labels)
    assert all(np.array_equal(back[name], labels[name]) for name in labels)
    read = dict(walk(path, Layout.of(run.experiment, tiles), lambda tile, label_HW: label_HW))
    assert all(np.array_equal(label_HW, labels[tile.name] + 1) for tile, label_HW in read.items())


def test_colours_are_those_of_the_classes_to_any_reader(opened):
    run, tiles, labels = opened("color_png")
    path = write_submission(run, tiles, labels.items(), RECEIPT)
    colors = np.array([spec.color for spec in run.experiment.data.classes], np.uint8)
    with zipfile.ZipFile(path) as archive:
        for name, index_HW in labels.items():
            picture = Image.open(io.BytesIO(archive.read(f"results/{name}.png")))
            assert picture.mode == "RGB"
            assert np.array_equal(np.asarray(picture), colors[index_HW])


@pytest.mark.parametrize("format", ["png", "geotiff", "rle"])
def test_a_board_that_wants_other_names_and_values_gets_them(opened, tmp_path, format):
    """And whatever reads the zip again takes them for the classes that they are."""
    count = len(opened()[0].experiment.data.classes)
    values = [(7 * c + 3) % 11 for c in range(count)]
    overrides = [f"submission.labels={values}", f"data.test_masks='{tmp_path}/truth/*/m_{{name}}.png'"]
    if format != "rle":
        overrides.append("submission.file=x_{name}.label")
    run, tiles, labels = opened(format, *overrides)
    path = write_submission(run, tiles, labels.items(), RECEIPT)
    layout = Layout.of(run.experiment, tiles)
    back = dict(read_submission(path, layout))
    assert all(np.array_equal(back[name], labels[name]) for name in labels)
    read = dict(walk(path, layout, lambda tile, label_HW: label_HW))
    assert all(np.array_equal(label_HW, np.array(values)[labels[tile.name]]) for tile, label_HW in read.items())
    if format != "rle":
        with zipfile.ZipFile(path) as archive:
            extension = ".png" if format == "png" else ".tif"
            assert archive.namelist() == [f"results/x_{name}.label{extension}" for name in sorted(labels)]
    masks = ClassTable.of(run.experiment.data)
    for n, (name, index_HW) in enumerate(labels.items()):
        truth_HW = np.where(np.indices(index_HW.shape)[1] < 9, (index_HW + 1) % count, index_HW)
        write_mask(tmp_path / "truth" / str(n % 2) / f"m_{name}.png", masks.to_label(truth_HW))
    conf_CC = score_submission(path, run.experiment, tiles)
    wrong = sum(9 * index_HW.shape[0] for index_HW in labels.values())
    assert conf_CC.sum() - np.trace(conf_CC) == wrong > 0
    plain, *_ = opened(format)
    kinds = {problem.kind for problem in verify_submission(path, plain.experiment, tiles).problems}
    assert kinds & ({"labels", "rows"} if format == "rle" else {"extra"})


def test_a_file_that_kept_the_tiles_own_name_is_known_for_what_it_is(opened):
    run, tiles, labels = opened("png")
    path = write_submission(run, tiles, labels.items(), RECEIPT)
    renamed = load_experiment(run.dir / "experiment.yaml", ["submission.file='{name}_label'"])
    problems = verify_submission(path, renamed, tiles).problems
    assert {problem.kind for problem in problems} == {"misnamed"}
    assert len(problems) == len(labels)
    assert "files are called NAME_label.png, as in results/" in problems[0].what


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["submission.labels=[0, 1]"], "submission.labels: 2 values for "),
        (["submission.labels=[0, 1, 1]"], "a value stands for two classes"),
        (["submission.file=label"], "submission.file: 'label'"),
        (["submission.file='../{name}'"], "submission.file"),
        (["submission.file='{name}_x'", "submission.format=rle"], "format rle has no files of tiles"),
        (["submission.labels=[0, 1, 2, 3, 4]", "submission.format=color_png"], "holds the classes' colours"),
        (
            [
                "data.classes.field.color=[1, 2, 3]",
                "data.classes.forest.color=[1, 2, 3]",
                "submission.format=color_png",
            ],
            r"two classes have the colour \(1, 2, 3\)",
        ),
    ],
)
def test_names_and_values_that_no_zip_can_have(tmp_path, overrides, message):
    config = write_config(tmp_path / "c.yaml", tiny_values(tmp_path, tmp_path))
    with pytest.raises(UserError, match=message):
        load_experiment(config, overrides)


@pytest.mark.parametrize("format", FORMATS)
def test_the_bytes_do_not_depend_on_order_nor_threads(opened, tmp_path, format):
    run, tiles, labels = opened(format)
    layout = Layout.of(run.experiment, tiles)
    rng = np.random.default_rng(0)
    hashes = set()
    for threads in (1, 2, 7):
        order = rng.permutation(list(labels)).tolist()
        write_zip(layout, [(name, labels[name]) for name in order], tmp_path / "x.zip", threads)
        hashes.add(hash_file(tmp_path / "x.zip"))
    assert len(hashes) == 1


@pytest.mark.parametrize("format", FORMATS)
def test_entries_tell_neither_time_nor_machine(opened, tmp_path, format):
    run, tiles, labels = opened(format)
    write_zip(Layout.of(run.experiment, tiles), labels.items(), tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        infos = archive.infolist()
    assert [info.filename for info in infos] == sorted(info.filename for info in infos)
    for info in infos:
        assert info.date_time == (1980, 1, 1, 0, 0, 0)
        assert (info.create_system, info.external_attr >> 16, info.comment) == (3, 0o644, b"")
        assert info.compress_type == zipfile.ZIP_STORED


def test_the_bytes_are_these_on_every_machine():
    """Fails where another encoder, or another version of it, is at work: then no receipt can be checked any more."""
    row, column = np.indices((96, 64))
    label_HW = (1 + (row // 7 * 5 + column // 11 + (row * column) % 13 // 12) % 10).astype(np.uint8)
    assert hashlib.sha256(png.encode(label_HW)).hexdigest()[:16] == "a3c014ac05eaaf4c"
    assert hashlib.sha256(rle.encode(label_HW, "a", tuple(range(1, 11)))).hexdigest()[:16] == "21a3d93814e0b439"


@settings(max_examples=60)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 255), st.integers(0, 2**32 - 1))
def test_every_size_and_content_survives(height, width, top, seed):
    rng = np.random.default_rng(seed)
    label_HW = rng.integers(0, top + 1, (height, width), dtype=np.uint8)
    label_HW[rng.integers(height) :, :] = rng.integers(0, top + 1)
    assert np.array_equal(png.decode(png.encode(label_HW), height, width), label_HW)
    rows = rle.encode(label_HW, "x", tuple(range(top + 1))).decode().splitlines()
    runs = {int(label): text for _, label, text in (row.split(",") for row in rows)}
    assert np.array_equal(rle.decode(runs, height, width), label_HW)


def test_names_with_commas_and_quotes_survive_a_csv(opened):
    run, tiles, labels = opened("rle")
    odd = {name: f'{name}, "the {n}th"' if n % 2 else name for n, name in enumerate(labels)}
    tiles = tiles.assign(name=tiles.name.where(tiles.split != "test", tiles.name.map(odd)))
    labels = {odd[name]: label_HW for name, label_HW in labels.items()}
    path = write_submission(run, tiles, labels.items(), RECEIPT)
    back = dict(read_submission(path, Layout.of(run.experiment, tiles)))
    assert all(np.array_equal(back[name], labels[name]) for name in labels)
    read = dict(walk(path, Layout.of(run.experiment, tiles), lambda tile, label_HW: label_HW))
    assert all(np.array_equal(label_HW, labels[tile.name] + 1) for tile, label_HW in read.items())
    with zipfile.ZipFile(path) as archive, archive.open("submission.csv") as file:
        read = pd.read_csv(file, dtype=str, keep_default_na=False)
    assert set(read.ImageId) == set(labels)


def test_other_readers_see_the_same_pngs(tmp_path):
    label_HW = draw_labels(np.random.default_rng(0))
    (tmp_path / "x.png").write_bytes(png.encode(label_HW))
    with Image.open(tmp_path / "x.png") as file:
        assert file.mode == "L"
        assert np.array_equal(np.asarray(file), label_HW)
    assert np.array_equal(read_mask(tmp_path / "x.png"), label_HW)


def test_run_lengths_count_as_kaggle_does():
    """Down the columns, from 1: the example of every Kaggle page, '1 3 10 5' is pixels 1,2,3,10,11,12,13,14."""
    mask_HW = np.zeros((5, 4), np.uint8)
    mask_HW.T.flat[[0, 1, 2, 9, 10, 11, 12, 13]] = 1
    assert rle.encode(mask_HW, "x", (0, 1)).decode() == "x,0,4 6 15 6\nx,1,1 3 10 5\n"


def test_geotiffs_lie_where_their_images_lie(opened, tmp_path):
    run, tiles, labels = opened("geotiff")
    layout = Layout.of(run.experiment, tiles)
    for name, tile in layout.tiles.items():
        (tmp_path / "x.tif").write_bytes(geotiff.encode(labels[name], tile.image))
        with rasterio.open(tmp_path / "x.tif") as file, rasterio.open(tile.image) as image:
            assert (file.crs, file.transform) == (image.crs, image.transform)
            assert file.crs.to_epsg() == 32650
            assert np.array_equal(file.read(1), labels[name])


def test_tiles_without_coordinates_make_tiffs_without(tmp_path):
    label_HW = draw_labels(np.random.default_rng(0))
    write_mask(tmp_path / "image.png", label_HW)
    data = geotiff.encode(label_HW, tmp_path / "image.png")
    with Image.open(io.BytesIO(data)) as file:
        assert not {TAG_OF_SCALE, TAG_OF_MATRIX} & set(file.tag_v2)  # an identity would be a place too
    assert np.array_equal(geotiff.decode(data, *label_HW.shape, tmp_path / "image.png"), label_HW)


def write_pointed(path, points, crs="EPSG:4326"):
    """An image that ground control points (row, col, x, y) place."""
    write_image(path, np.full((40, 56, 4), 7, np.uint8), gcps=[GroundControlPoint(*point) for point in points], crs=crs)


def test_ground_control_points_come_with_the_labels_and_are_asked_of_them(tmp_path):
    label_HW = draw_labels(np.random.default_rng(0))
    corners = [(0, 0, 10.5, 50.25), (0, 56, 11.75, 50.0), (40, 0, 10.25, 49.5), (40, 56, 11.5, 49.125)]
    image, other = tmp_path / "image.tif", tmp_path / "other.tif"
    write_pointed(image, corners)
    data = geotiff.encode(label_HW, image)
    assert np.array_equal(geotiff.decode(data, *label_HW.shape, image), label_HW)
    (tmp_path / "x.tif").write_bytes(data)
    with rasterio.open(tmp_path / "x.tif") as file:
        points, crs = file.gcps
    assert crs == "EPSG:4326"
    assert [(p.row, p.col, p.x, p.y) for p in points] == corners
    moved = [(*corners[0][:2], 10.5, 50.5), *corners[1:]]
    for elsewhere in ({"points": moved}, {"points": corners[:3]}, {"points": corners, "crs": "EPSG:4258"}):
        write_pointed(other, **elsewhere)
        with pytest.raises(FlawError, match="lies elsewhere"):
            geotiff.decode(data, *label_HW.shape, other)
    write_image(other, np.full((40, 56, 4), 7, np.uint8))
    for placed, asked in ((data, other), (geotiff.encode(label_HW, other), image)):
        with pytest.raises(FlawError, match="lies elsewhere"):
            geotiff.decode(placed, *label_HW.shape, asked)


def test_the_receipt_tells_the_zip_and_what_changed(opened):
    run, tiles, labels = opened()
    path = write_submission(run, tiles, labels.items(), RECEIPT)
    receipt = read_receipt(path)
    assert receipt["sha256"] == hash_file(path)
    assert receipt["tiles"] == 10
    assert receipt["weights"] == RECEIPT["weights"]
    counts = np.bincount(np.stack(list(labels.values())).ravel(), minlength=10)
    assert list(receipt["class_shares"].values()) == pytest.approx(counts / counts.sum())
    assert differences(receipt, RECEIPT) == []
    now = {"oof_miou": 0.52, "weights": {"unet": 0.5, "fpn": 0.4}, "decision": "rule"}
    assert differences(receipt, now) == [
        "decision (none) -> rule",
        "honest_miou 0.5 -> (none)",
        "weights.unet 0.6 -> 0.5",
    ]


def test_no_receipt_and_a_strange_one_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="no such receipt"):
        read_receipt(tmp_path / "a.zip")
    for text, message in (("{", "damaged"), ("[]", "lacks"), ('{"zip": "a"}', "lacks sha256")):
        receipt_path(tmp_path / "a.zip").write_text(text)
        with pytest.raises(UserError, match=message):
            read_receipt(tmp_path / "a.zip")


def test_the_ledger_gets_one_row_for_the_same_bytes(opened):
    run, tiles, labels = opened()
    for _ in range(2):
        path = write_submission(run, tiles, labels.items(), RECEIPT)
    ledger = read_ledger(ledger_path(run.experiment))
    assert ledger["zip"].tolist() == [path.name]
    assert ledger.sha256.tolist() == [hash_file(path)]
    assert ledger.honest_miou.tolist() == [0.5]


def spoil_missing(labels):
    del labels["000004"]


def spoil_extra(labels):
    labels["000044"] = labels["000004"]


def spoil_size(labels):
    labels["000004"] = labels["000004"].T


def spoil_type(labels):
    labels["000004"] = labels["000004"].astype(np.int64)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(spoil_missing, "000004"), (spoil_extra, "000044 is no test"), (spoil_size, "56x40"), (spoil_type, "int64")],
)
def test_labels_that_do_not_fit_leave_the_old_zip_as_it_was(opened, spoil, message):
    run, tiles, labels = opened()
    path = write_submission(run, tiles, labels.items(), RECEIPT)
    before = sorted((file.name, hash_file(file)) for file in path.parent.iterdir())
    labels = {name: label_HW[::-1] for name, label_HW in labels.items()}
    spoil(labels)
    with pytest.raises(UserError, match=message):
        write_submission(run, tiles, labels.items(), RECEIPT)
    assert sorted((file.name, hash_file(file)) for file in path.parent.iterdir()) == before


def test_a_tile_that_comes_twice_is_refused(opened):
    run, tiles, labels = opened()
    with pytest.raises(UserError, match="000002 comes twice"):
        write_submission(run, tiles, [*labels.items(), ("000002", labels["000002"])], RECEIPT)


def test_an_index_that_is_no_class_is_a_bug_of_the_caller(opened):
    run, tiles, labels = opened()
    labels["000003"] = np.full((40, 56), 255, np.uint8)
    with pytest.raises(IndexError):
        write_submission(run, tiles, labels.items(), RECEIPT)
    assert not run.zip_path.exists()


def test_labels_that_leave_pixels_without_a_class_are_refused(opened, tmp_path):
    """As `ensemble.predict` writes them where an image has no data."""
    run, tiles, labels = opened("png", "data.ignore_label=0")
    for name, index_HW in labels.items():
        label_HW = index_HW + 1
        label_HW[0, :3] = 0
        write_mask(tmp_path / "labels" / f"{name}.png", label_HW.astype(np.uint8))
    layout = Layout.of(run.experiment, tiles)
    with pytest.raises(UserError, match=r"png: holds labels 0; known are 1, .* has one of them everywhere"):
        dict(labels_in(tmp_path / "labels", layout))


def test_a_zip_of_another_run_is_not_written_over(opened):
    run, tiles, labels = opened("png", "name=a", "blend.name=b")
    receipt = RECEIPT | names_of(run)
    path = write_submission(run, tiles, labels.items(), receipt)
    before = hash_file(path), hash_file(receipt_path(path))
    other, tiles, _ = opened("png", "name=a.b")
    assert other.zip_path == path
    with pytest.raises(UserError, match=r"a\.b\.zip is of run 'a' and blend 'b': give this one another name"):
        write_submission(other, tiles, labels.items(), RECEIPT)
    assert (hash_file(path), hash_file(receipt_path(path))) == before
    assert write_submission(run, tiles, labels.items(), receipt) == path


def test_a_doubtful_zip_is_written_and_says_so(opened, capsys):
    """An untrained network: one class everywhere."""
    run, tiles, labels = opened()
    path = write_submission(run, tiles, [(name, np.zeros((40, 56), np.uint8)) for name in labels], RECEIPT)
    assert any("every tile is one class only (class0)" in warning for warning in read_receipt(path)["warnings"])
    assert "one class only" in capsys.readouterr().err


def test_a_zip_that_comes_out_wrong_gets_no_name(opened, monkeypatch):
    run, tiles, labels = opened()
    honest = png.encode
    monkeypatch.setattr(png, "encode", lambda label_HW: honest(label_HW)[:-9])
    with pytest.raises(UserError, match=r"came out wrong and was thrown away.*truncated PNG"):
        write_submission(run, tiles, labels.items(), RECEIPT)
    assert list(run.zip_path.parent.iterdir()) == []


def test_labels_are_asked_for_as_the_writing_goes(opened, tmp_path):
    """A submission never stands in memory whole: at most a few tiles per thread are taken ahead."""
    run, tiles, labels = opened()
    taken, most, done = 0, 0, 0
    honest = png.encode

    def slowly():
        nonlocal taken, most
        for name in labels:
            taken += 1
            most = max(most, taken - done)
            yield name, labels[name]

    def counting(label_HW):
        nonlocal done
        data = honest(label_HW)
        done += 1
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(png, "encode", counting)
        write_zip(Layout.of(run.experiment, tiles), slowly(), tmp_path / "x.zip", threads=1)
    assert most <= 5


def test_the_command_packs_a_folder_of_pngs(opened, tmp_path, capsys):
    run, tiles, labels = opened()
    for name, label_HW in labels.items():
        write_mask(tmp_path / "labels" / f"{name}.png", label_HW + 1)
    command = ["--config", str(tmp_path / "c.yaml"), "--labels", str(tmp_path / "labels")]
    main(command)
    assert "written and verified" in capsys.readouterr().out
    first = hash_file(run.zip_path)
    write_submission(run, tiles, labels.items(), RECEIPT)
    assert hash_file(run.zip_path) == first
    (tmp_path / "labels" / "000000.png").rename(tmp_path / "labels" / "0.png")
    with pytest.raises(UserError, match=r"1 test tiles have none: 000000; 1 PNGs are of no test tile: 0\.png"):
        main(command)


def test_a_strange_folder_is_refused_when_the_experiment_is_read(tmp_path, data):
    config = write_config(tmp_path / "c.yaml", tiny_values(tmp_path, tmp_path) | {"data": data})
    for folder in ("../up", "/root", "a\\b", "a/../b", "a/"):
        with pytest.raises(UserError, match=r"submission\.folder"):
            load_experiment(config, [f"submission.folder={folder}"])


def test_commands_run_as_modules_without_torch():
    script = "import sys, submissions.write, submissions.compare; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("cut", [3, 20, 40])
def test_a_png_cut_anywhere_is_a_flaw_and_no_traceback(cut):
    with pytest.raises(FlawError):
        png.decode(png.encode(draw_labels(np.random.default_rng(0)))[:cut], 40, 56)


@settings(max_examples=150)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_flipped_byte_anywhere_is_a_flaw(at, change):
    label_HW = draw_labels(np.random.default_rng(0))
    data = bytearray(png.encode(label_HW))
    data[at % len(data)] ^= change
    with pytest.raises(FlawError):
        png.decode(bytes(data), 40, 56)


def test_without_libdeflate_the_labels_are_the_same(monkeypatch):
    label_HW = np.random.default_rng(3).integers(1, 11, (40, 56)).astype(np.uint8)
    ours = png.encode(label_HW)
    monkeypatch.setattr(png, "deflate", None)
    assert png.encode(label_HW) != ours
    np.testing.assert_array_equal(png.decode(png.encode(label_HW), 40, 56), label_HW)
