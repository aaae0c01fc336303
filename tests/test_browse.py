"""The page to look through tiles with: what it lists and shows is true, and nobody but this machine is answered."""

import base64
import contextlib
import http.client
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from base.errors import UserError
from config import Run, load_experiment
from folds.metrics import iou_per_class, mean_iou
from reports import tile_scores
from reports.browse import main, open_port
from reports.figures import DARK, LIGHT
from reports.material import Material
from reports.tile_scores import make_tile_scores
from reports.tile_view import TileView
from tests.chromium import contrast, open_browser, open_tab, text_colors
from tests.played_run import play, played_config

ROOT = Path(__file__).parents[1]
uvicorn = pytest.importorskip("uvicorn", reason="pip install -r requirements-browse.txt")
pytest.importorskip("fastapi", reason="pip install -r requirements-browse.txt")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return played_config(tmp_path_factory.mktemp("played"))


@pytest.fixture(scope="module")
def played(config) -> Run:
    return play(config)


@pytest.fixture(scope="module")
def view(played) -> TileView:
    return TileView(Material(played))


@pytest.fixture(scope="module")
def port(view):
    """Where the page is served, by the server that people get."""
    from reports.browse_app import make_app

    with open_port(0) as opened:
        server = uvicorn.Server(uvicorn.Config(make_app(view), log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        yield opened.getsockname()[1]
        server.should_exit = True
        thread.join()


@pytest.fixture
def ask(port):
    """(status, headers, body) of a request."""

    def asked(path: str, method: str = "GET", host: str = "localhost"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=180)
        connection.request(method, path, headers={"Host": f"{host}:{port}"})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, answer.headers, body

    return asked


@pytest.fixture
def tiles(ask):
    """The list for a query."""
    return lambda query="": json.loads(ask(f"/api/tiles?{query}")[2])["tiles"]


# The score of every tile


def test_scores_are_those_of_the_report_tile_by_tile(view):
    material = view.material
    table, seen = make_tile_scores(material), material.look
    assert seen.complete
    assert table.name.tolist() == material.oof.names
    names = list(material.classes.names)
    for i, tile in enumerate(seen.tiles):
        np.testing.assert_allclose(table.loc[i, names].to_numpy(float), iou_per_class(tile.conf_CC), atol=6e-5)
        assert table.miou[i] == pytest.approx(mean_iou(tile.conf_CC), abs=6e-5)


def test_scores_are_kept_until_they_or_the_blend_are_others(config, played, view, monkeypatch):
    make_tile_scores(view.material)
    path = played.dir / "tile_scores.csv"
    kept, made = path.read_text(), []
    count = tile_scores.tile_scores
    monkeypatch.setattr(tile_scores, "tile_scores", lambda material: made.append(1) or count(material))
    make_tile_scores(view.material)
    assert made == []
    path.write_text(kept + "\n")
    make_tile_scores(view.material)
    assert made == [1]
    assert path.read_text() == kept
    blend = played.blend_dir / "blend.json"
    text = blend.read_text()
    try:
        blend.write_text(f"{text} ")
        make_tile_scores(Material(Run(load_experiment(config))))
    finally:
        blend.write_text(text)
    assert made == [1, 1]


# The list


def test_the_list_holds_every_train_tile_once_and_begins_with_the_worst(view, tiles):
    everything = tiles()
    assert sorted(row[0] for row in everything) == list(range(len(view.material.train)))
    iou = [row[3] for row in everything]
    assert iou == sorted(iou)
    assert [row[3] for row in tiles("order=best")] == iou[::-1]
    assert [row[1] for row in tiles("order=name")] == sorted(view.material.train.name)


def test_filters_part_the_list(view, tiles):
    everything = {row[0] for row in tiles()}
    of_fold = [{row[0] for row in tiles(f"fold={fold}")} for fold in view.folds]
    assert set.union(*of_fold) == everything
    assert sum(map(len, of_fold)) == len(everything)
    low, high = tiles("high=0.5"), tiles("low=0.5001")
    assert {row[0] for row in low + high} == everything
    assert max(row[3] for row in low) <= 0.5 < min(row[3] for row in high)


def test_a_class_filter_keeps_tiles_that_hold_the_class_and_scores_it(view, tiles):
    classes, pack = view.material.classes, view.material.pack
    c = classes.names.index("water")
    rows = {row[0]: row[3] for row in tiles("class=water")}
    for n in range(len(pack.train_names)):
        shown = view.tile(n)["classes"][c]
        assert (n in rows) == bool((pack.train_mask_NHW[n] == c).any() or shown["predicted"] > 0)
        if n in rows:
            assert rows[n] == pytest.approx(shown["iou"], abs=2e-4)


def test_equally_bad_tiles_are_ranked_by_how_much_is_lost(view, tiles):
    px_N = view.material.hist_NC[:, view.material.classes.names.index("bareland")]
    lost = [px_N[row[0]] for row in tiles("class=bareland") if row[3] == 0]
    assert len(lost) > 1
    assert lost == sorted(lost, reverse=True)


# A tile


def picture(shown: dict, label: str) -> np.ndarray:
    (src,) = [each["src"] for each in shown["pictures"] if each["label"] == label]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(src.split(",", 1)[1]))).convert("RGB"))


def test_a_tile_is_shown_as_it_is(ask, view):
    material = view.material
    status, headers, body = ask("/api/tiles/7")
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    shown = json.loads(body)
    assert shown["name"] == material.train.name[7]
    assert shown["fold"] == material.fold_N[7]
    labels = ["image", "near infrared", "mask", "prediction", "confidence", "errors"]
    assert [each["label"] for each in shown["pictures"]] == labels
    assert [each["label"] for each in shown["maps"]] == list(material.classes.names)
    assert all(len(each["alt"]) >= 8 for each in shown["pictures"] + shown["maps"])
    truth_HW = material.pack.train_mask_NHW[7]
    np.testing.assert_array_equal(picture(shown, "mask"), material.classes.to_rgb(truth_HW))
    # The colours of the prediction, counted against the mask's, are the score that is said.
    colors = {color: c for c, color in enumerate(material.classes.colors)}
    said_HW = np.apply_along_axis(lambda rgb: colors[tuple(rgb.tolist())], 2, picture(shown, "prediction"))
    assert shown["wrong"] == pytest.approx((said_HW != truth_HW).mean(), abs=1e-4)
    for column in ("mask", "predicted", "probability"):
        assert sum(each[column] for each in shown["classes"]) == pytest.approx(1, abs=0.001)


def test_a_run_without_predictions_shows_images_and_masks_and_says_why(played, tmp_path):
    shutil.copytree(Path(played.experiment.runs_dir), tmp_path / "runs")
    run = Run(played.experiment.model_copy(update={"runs_dir": str(tmp_path / "runs")}))
    for path in run.dir.glob("members/*/*/oof-*"):
        shutil.rmtree(path)
    view = TileView(Material(run))
    assert "have no OOF predictions" in view.missing
    shown = view.tile(3)
    assert [each["label"] for each in shown["pictures"]] == ["image", "near infrared", "mask"]
    assert shown["miou"] is None
    assert not shown["maps"]
    listed = view.select("water", None, 0, 1, "worst")
    has_N = view.material.hist_NC[:, view.material.classes.names.index("water")] > 0
    assert sorted(row[0] for row in listed) == np.flatnonzero(has_N).tolist()


# Who is answered


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.168.0.9", ""])
@pytest.mark.parametrize("path", ["/", "/api/tiles", "/api/tiles/0"])
def test_other_names_than_this_machines_are_refused(ask, host, path):
    status, _, body = ask(path, host=host)
    assert status == 400
    assert b"000" not in body
    assert ask("/", host="127.0.0.1")[0] == ask("/", host="localhost")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/api/tiles", "/api/tiles/0"])
def test_only_get_is_answered(ask, method, path):
    assert ask(path, method=method)[0] == 405


@pytest.mark.parametrize(
    "path",
    ["/../experiment.yaml", "/..%2f..%2fetc/passwd", "/api/tiles/..%2f..%2fetc%2fpasswd", "/api/tiles/../../tiles.csv",
     "/templates/browse.js", "/docs", "/openapi.json", "/browse.js/../browse.py"],
)  # fmt: skip
def test_no_path_leads_to_a_file(ask, path):
    status, _, body = ask(path)
    assert status in (404, 422)
    assert len(body) < 400


@pytest.mark.parametrize(
    ("path", "status"),
    [("/api/tiles/100000", 404), ("/api/tiles/-1", 422), ("/api/tiles/x", 422), ("/api/tiles?class=lava", 422),
     ("/api/tiles?low=2", 422), ("/api/tiles?low=nan", 422), ("/api/tiles?fold=x", 422), ("/api/tiles?order=;", 422)],
)  # fmt: skip
def test_what_does_not_exist_is_said(ask, path, status):
    found, _, body = ask(path)
    assert found == status
    assert json.loads(body)["detail"]


def test_the_page_asks_nobody_else(ask):
    texts = [ask(path)[2].decode() for path in ("/", "/browse.js", "/browse.css")]
    assert not [text for text in texts if re.search(r"https?://|//[a-z]+\.|@import|url\(", text)]
    assert "default-src 'none'" in ask("/")[1]["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in ask("/api/tiles")[1]


# The command


def test_a_port_in_use_is_said(port):
    with pytest.raises(UserError, match=rf"port {port} is in use; choose another one with --port"):
        open_port(port)


def test_a_server_that_is_not_installed_is_said(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match=r"uvicorn is not installed.*pip install -r requirements-browse.txt"):
        main(["--config", str(config), "--port", "0"])


def test_ctrl_c_ends_it_without_a_word(config, played):
    command = [sys.executable, "-m", "reports.browse", "--config", str(config), "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = process.stdout.readline()
    assert re.match(r"http://127\.0\.0\.1:\d+/   \d+ tiles; Ctrl-C ends it", said), said + process.stderr.read()
    address = re.search(r":(\d+)/", said)[1]
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", int(address), timeout=180)) as connection:
        connection.request("GET", "/")
        assert connection.getresponse().read().startswith(b"<!doctype html>")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert not errors


# In a browser


@pytest.fixture(scope="module")
def browser():
    with open_browser() as opened:
        yield opened


@pytest.fixture
def opened(browser, port):
    """(page in a browser of a given width and theme, what it complained of), a tile shown."""

    def of(width: int = 1400, theme: str = "light", query: str = ""):
        tab, complaints = open_tab(browser, width, theme)
        tab.goto(f"http://127.0.0.1:{port}/?{query}")
        tab.wait_for_selector("#pictures img")
        return tab, complaints

    yield of
    for context in browser.contexts:
        context.close()


def shows(tab, place: str) -> None:
    """Wait until the status says where we are, as in "2 of 54", and the tile is the one it names."""
    tab.wait_for_function(
        "place => { const said = document.getElementById('place').textContent;"
        " return said.startsWith(`${place}: `) && said.endsWith(document.getElementById('name').textContent); }",
        arg=place,
    )


def test_one_can_page_and_filter(opened, tiles):
    tab, complaints = opened()
    everything, water = tiles(), tiles("class=water&order=best")
    total = len(everything)
    shows(tab, f"1 of {total}")
    assert tab.inner_text("#name") == everything[0][1]
    assert tab.locator("#previous").is_disabled()
    tab.keyboard.press("ArrowRight")
    shows(tab, f"2 of {total}")
    tab.get_by_role("button", name="next").click()
    shows(tab, f"3 of {total}")
    tab.keyboard.press("ArrowLeft")
    shows(tab, f"2 of {total}")
    assert tab.inner_text("#name") == everything[1][1]
    assert tab.locator("#list [aria-current]").inner_text().startswith(everything[1][1])
    tab.locator("#list button").nth(4).click()
    shows(tab, f"5 of {total}")

    tab.locator("[name=order]").select_option("best first")
    tab.locator("[name=class]").select_option("water")
    tab.wait_for_function("count => document.getElementById('count').textContent === `${count} tiles`", arg=len(water))
    names = [text.split("\n")[0] for text in tab.locator("#list button").all_inner_texts()]
    assert names == [row[1] for row in water][: len(names)]
    tab.locator("[name=high]").fill("0")
    tab.keyboard.press("Enter")
    none = len(tiles("class=water&high=0"))
    tab.wait_for_function("count => document.getElementById('count').textContent.startsWith(`${count} tile`)", arg=none)
    assert not complaints


def test_the_address_brings_back_what_was_looked_at(opened, tiles):
    name = tiles("fold=1&order=best")[3][1]
    tab, complaints = opened(query=f"fold=1&order=best&tile={name}")
    shows(tab, f"4 of {len(tiles('fold=1'))}")
    assert tab.inner_text("#name") == name
    assert tab.locator("[name=fold]").input_value() == "1"
    tab.locator("[name=fold]").select_option("all")
    shows(tab, f"{[row[1] for row in tiles('order=best')].index(name) + 1} of {len(tiles())}")
    assert not complaints


def test_nothing_found_is_said(opened, tiles):
    tab, complaints = opened()
    tab.locator("[name=high]").fill("0.1")
    tab.locator("[name=low]").fill("0.9")
    tab.locator("[name=low]").press("Enter")
    tab.wait_for_function("() => document.getElementById('place').textContent === 'No tile is like that.'")
    assert tab.locator("#shown").is_hidden()
    tab.locator("[name=high]").fill("1")
    tab.locator("[name=low]").fill("0")
    tab.locator("[name=low]").press("Enter")
    # Which tile it is depends on what the first of the two changes alone found in time: what is shown stays.
    tab.wait_for_function(
        "total => document.getElementById('place').textContent.includes(` of ${total}: `)", arg=len(tiles())
    )
    assert tab.locator("#shown").is_visible()
    assert not complaints


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 1400])
def test_the_page_fits_loads_its_pictures_and_can_be_read(opened, view, width, theme):
    tab, complaints = opened(width, theme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.evaluate("Promise.all([...document.images].map(each => each.decode()))")
    assert tab.evaluate("[...document.images].length") == 6 + len(view.material.classes)
    colors, behind = text_colors(tab)
    assert behind == {"light": LIGHT, "dark": DARK}[theme]["surface"]
    for color in colors:
        assert contrast(color, behind) >= 4.5, color
    assert not complaints


def test_what_cannot_be_seen_is_said(opened):
    tab, _ = opened()
    assert tab.evaluate("[...document.images].every(each => each.alt.length >= 8)")
    assert tab.evaluate("[...document.querySelectorAll('select, input')].every(each => each.labels.length === 1)")
    assert tab.locator("#place").get_attribute("role") == "status"
    levels = tab.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(each => +each.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.innerText") == "Skip to the tile"
