"""The page in a real browser: what it shows is what is in the cube, and nothing leaves the machine."""

from __future__ import annotations

import base64
import http.client
import io
import json
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from browsers import CHROMIUM, FLAGS
from command_line import started
from PIL import Image

import cloudsen12_cube as c12
from cloudsen12_cube import schema
from cloudsen12_cube.cli.commands import main
from cloudsen12_cube.dataset.class_views import classes
from cloudsen12_cube.format import BandStatistics, StatisticsSource
from cloudsen12_cube.plotting import browser as browse
from cloudsen12_cube.plotting import tiles
from cloudsen12_cube.training import CubeStatistics

HOSTILE = "ROI_0001</script><img src=x onerror=\"document.title='broken'\">{{data}}"


@pytest.fixture(scope="module")
def tree(cube: Path) -> xr.DataTree:
    return c12.open_cube(cube)


@contextmanager
def running(cube: xr.DataTree) -> Iterator[tuple[str, int]]:
    with browse.server(cube) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/", int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def address(tree: xr.DataTree) -> Iterator[tuple[str, int]]:
    with running(tree) as at:
        yield at


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


class Tab:
    """A page of the browser that notes every request and every complaint."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.page = browser.new_page(**({"viewport": {"width": 1360, "height": 820}} | options))
        self.page.set_default_timeout(20_000)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complaints.append(message.text))

    def open(self, url: str) -> Tab:
        self.page.goto(url)
        self.page.wait_for_selector("#colour option", state="attached")
        return self

    def go_to(self, roi: str) -> None:
        self.page.fill("#search", roi)
        self.page.press("#search", "Enter")
        self.wait()

    def wait(self) -> None:
        """Wait until each date has its pictures, or a note; `wait_for_function` is an eval, which the page forbids."""
        self.page.wait_for_selector(".frame")
        self.page.wait_for_selector(".frame.waiting", state="detached")
        for _ in range(200):
            count = "all => all.filter(one => one.dataset.note === undefined || (one.src && !one.naturalWidth)).length"
            if not self.page.eval_on_selector_all(".frame img", count):
                return
            self.page.wait_for_timeout(25)
        raise AssertionError("pictures are still missing after five seconds")

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.page.locator(selector).all_inner_texts()
        return found

    def pixels(self, selector: str) -> npt.NDArray[np.uint8]:
        """Decode what an image element shows."""
        return decode(self.page.locator(selector).first.get_attribute("src"))


def decode(uri: str) -> npt.NDArray[np.uint8]:
    image = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    return np.asarray(image.convert("RGBA"))


@pytest.fixture
def tab(chromium: Any, address: tuple[str, int]) -> Iterator[Tab]:
    tab = Tab(chromium).open(address[0])
    yield tab
    tab.page.close()
    assert tab.complaints == []
    assert all(url.startswith((address[0], "data:")) for url in tab.requests)


# ---- in the browser


def test_it_counts_and_filters_as_the_catalogue_does(tab: Tab, tree: xr.DataTree) -> None:
    root = tree.to_dataset()
    assert tab.texts("#counts") == ["4 ROIs, 20 patches"]
    chips = tab.page.locator(".chip")
    for name, text in (
        ("cloud_coverage", "cloudy"),
        ("label_type", "high"),
        ("difficulty", "unknown"),
        ("split", "train"),
    ):
        chips.locator(f"xpath=self::*[@data-filter='{name}' and text()='{text}']").click()
        values = root[name].broadcast_like(root["s2_id_gee"]).transpose("roi", "time").values
        match = np.isnan(values.astype(float)) if text == "unknown" else values == text
        rois, patches = int(match.any(axis=1).sum()), int(match.sum())
        assert tab.texts("#counts") == [f"{rois} of 4 ROIs, {patches} of 20 patches"]
        assert len(tab.page.evaluate("page.map.points")) == rois
        tab.page.click("#reset")
    assert tab.texts("#counts") == ["4 ROIs, 20 patches"]


def test_two_values_of_a_property_widen_and_two_properties_narrow(tab: Tab, tree: xr.DataTree) -> None:
    cover = tree["cloud_coverage"].values
    high = (tree["label_type"].values == "high")[:, None]
    tab.page.click(".chip:text-is('cloudy')")
    tab.page.click(".chip:text-is('cloud-free')")
    wide = (cover == "cloudy") | (cover == "cloud-free")
    assert f", {wide.sum()} of 20" in tab.texts("#counts")[0]
    tab.page.click(".chip:text-is('high')")
    assert f", {(wide & high).sum()} of 20" in tab.texts("#counts")[0]


def test_a_click_shows_the_dates_and_the_pixels_of_the_cube(tab: Tab, tree: xr.DataTree) -> None:
    roi = str(tree["roi"].values[1])
    x, y = tab.page.evaluate("page.map.place(page.map.points.find(point => point.index === 1))")
    tab.page.locator("canvas").click(position={"x": x, "y": y})
    tab.wait()
    assert tab.texts("h2") == [roi]
    images = tree["s2l1c"].to_dataset().sel(roi=roi)
    assert tab.texts("figcaption b") == [str(day)[:10] for day in images["datetime"].values]
    for t in range(5):
        frame = f"figure:nth-child({t + 1})"
        expected = tiles.image_tile(images.isel(time=t), "s2l1c").pixels
        np.testing.assert_array_equal(tab.pixels(f"{frame} .rgb")[..., :3], np.round(expected * 255))
        assert_labels(tab.pixels(f"{frame} .label"), tree, roi, t, tab.page.input_value("#layer"))


def assert_labels(shown: npt.NDArray[np.uint8], tree: xr.DataTree, roi: str, time: int, of: str) -> None:
    labels = tree["labels"].to_dataset()["labels"].sel(roi=roi, time=time)
    codes = classes(labels, of).values
    colors = {row.code: row.color for row in schema.CLASSES} | {255: schema.UNLABELLED_COLOR}
    for code, color in colors.items():
        here = codes == code
        assert (shown[here][:, 3] == (0 if code == 0 else 255)).all()  # clear alone lets the image through
        if code:
            assert (shown[here][:, :3] == list(bytes.fromhex(color[1:]))).all()


def test_layer_opacity_and_size_of_a_picture(tab: Tab, tree: xr.DataTree) -> None:
    roi = str(tree["roi"].values[0])
    tab.go_to(roi)
    for layer in ("sen2cor", "s2cloudless"):
        tab.page.select_option("#layer", layer)
        tab.page.wait_for_selector(f".label[alt='labels of {layer}']", state="attached")
        tab.wait()
        assert_labels(tab.pixels(".label"), tree, roi, 0, layer)
    tab.page.locator("#opacity").fill("25")
    assert tab.page.locator(".label").first.evaluate("one => one.style.opacity") == "0.25"
    small = tab.page.locator(".frame").first.bounding_box()["width"]
    tab.page.locator(".frame").first.click()
    assert tab.page.locator(".frame").first.bounding_box()["width"] > 1.8 * small
    tab.page.click(".step[title='Next ROI']")
    tab.wait()
    assert tab.texts("h2") == [str(tree["roi"].values[1])]
    assert tab.page.input_value("#layer") == "s2cloudless"


def test_it_can_be_used_by_keyboard_alone(tab: Tab, tree: xr.DataTree) -> None:
    rois = set(tree["roi"].values.tolist())
    tab.page.focus("canvas")
    seen = set()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowUp", "ArrowDown", "ArrowDown"):
        tab.page.keyboard.press(key)
        seen |= set(tab.texts("h2"))
    assert len(seen) >= 3
    assert seen <= rois
    before = tab.page.evaluate("page.map.view.scale")
    tab.page.keyboard.press("+")
    assert tab.page.evaluate("page.map.view.scale") == pytest.approx(1.6 * before)
    tab.page.focus(".step")
    tab.page.keyboard.press("Enter")
    tab.wait()
    assert tab.page.evaluate("document.activeElement.className") == "step"


def test_every_property_colours_the_map(tab: Tab, tree: xr.DataTree) -> None:
    names = tab.page.eval_on_selector_all("#colour option", "all => all.map(one => one.value)")
    assert names[:4] == ["label_type", "split", "cloud_coverage", "difficulty"]
    assert {"land_cover", "datetime", "s2_view_sun_elevation", "longitude"} <= set(names)
    for name in names:
        tab.page.select_option("#colour", name)
        colors = tab.page.evaluate("page.map.points.map(point => point.color)")
        assert len(colors) == 4
        assert all(color.startswith(("#", "rgb")) for color in colors)
    tab.page.select_option("#colour", "label_type")
    colors = tab.page.evaluate("Object.fromEntries(page.map.points.map(point => [point.index, point.color]))")
    kinds = tree["label_type"].values.tolist()
    assert (
        len({(kinds[int(index)], color) for index, color in colors.items()})
        == len(set(kinds))
        == len(set(colors.values()))
    )
    counts = tab.page.eval_on_selector_all("#legend .count", "all => all.map(one => Number(one.textContent))")
    assert counts == [kinds.count(kind) for kind in ("high", "scribble", "nolabel") if kind in kinds]


@pytest.mark.parametrize(
    ("width", "height", "scheme"), [(1360, 820, "light"), (1360, 820, "dark"), (390, 800, "light")]
)
def test_it_fits_the_window(
    chromium: Any, address: tuple[str, int], tree: xr.DataTree, tmp_path: Path, width: int, height: int, scheme: str
) -> None:
    tab = Tab(chromium, viewport={"width": width, "height": height}, color_scheme=scheme).open(address[0])
    tab.go_to(str(tree["roi"].values[0]))
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    tab.page.screenshot(path=tmp_path / "page.png", full_page=True)
    shot = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
    assert len(np.unique(shot.reshape(-1, 3), axis=0)) > 500  # a page that is drawn: land, points, five images
    assert (shot[2, 2] < 80).all() == (scheme == "dark")
    tab.page.close()


@pytest.mark.parametrize("served", [True, False])
def test_the_page_may_ask_nobody_else(
    chromium: Any, address: tuple[str, int], tree: xr.DataTree, tmp_path: Path, served: bool
) -> None:
    browse.export(tree, tmp_path / "page.html", 0)
    tab = Tab(chromium).open(address[0] if served else (tmp_path / "page.html").as_uri())
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = f"http://127.0.0.1:{other.getsockname()[1]}/"
        assert tab.page.evaluate("place => fetch(place).then(() => 'sent', () => 'refused')", place) == "refused"
        for kind in ("img", "iframe", "script", "link"):
            tab.page.evaluate(_LOAD, [kind, place])
        for _ in range(200):
            if sum("Content Security Policy" in text for text in tab.complaints) >= 5:
                break
            tab.page.wait_for_timeout(25)
        assert len(tab.complaints) >= 5
        assert received(other) == b""
    tab.page.close()


def received(other: socket.socket) -> bytes:
    """Gather what was sent to a socket; a browser may open a connection before its policy forbids to use it."""
    other.settimeout(0.3)
    data = b""
    with suppress(TimeoutError):
        while True:
            connection, _ = other.accept()
            connection.settimeout(0.3)
            with connection, suppress(TimeoutError):
                data += connection.recv(100)
    return data


_LOAD = """([kind, place]) => {
    const where = kind === "link" ? { href: place, rel: "stylesheet" } : { src: place };
    const element = Object.assign(document.createElement(kind), where);
    document.body.append(element);
}"""


# ---- what a cube may say


def renamed(tree: xr.DataTree, name: str) -> xr.DataTree:
    """Give the first ROI another id, and the first patch and the title that name in every text."""
    rois = np.array([name, *tree["roi"].values[1:]], dtype="T")
    nodes = {path: node.to_dataset(inherit=False).assign_coords(roi=rois) for path, node in tree.subtree_with_keys}
    root = nodes.pop(".").load().copy(deep=True)
    texts = [str(variable) for variable, array in root.data_vars.items() if array.dtype.kind == "T"]
    assert len(texts) > 12
    for text in texts:
        root[text][(0,) * root[text].ndim] = name
    made = xr.DataTree.from_dict({"/": root, **nodes})
    made.attrs["title"] = name
    return made


def test_hostile_text_stays_text(chromium: Any, tree: xr.DataTree, tmp_path: Path) -> None:
    evil = renamed(tree, HOSTILE)
    browse.export(evil, tmp_path / "page.html", 1)
    with running(evil) as (url, _):
        for place in (url, (tmp_path / "page.html").as_uri()):
            tab = Tab(chromium).open(place)
            tab.go_to(HOSTILE)
            assert tab.texts("h2") == [HOSTILE]
            assert HOSTILE in tab.texts(".chip")
            for name in tab.page.eval_on_selector_all("#colour option", "all => all.map(one => one.value)"):
                tab.page.select_option("#colour", name)
            assert tab.page.title() == "CloudSEN12 cube"
            assert tab.page.locator("img[src=x]").count() == 0
            assert tab.complaints == []
            tab.page.close()


def test_hostile_text_stays_text_in_notebooks(chromium: Any, tree: xr.DataTree) -> None:
    evil = renamed(tree, HOSTILE)
    origin = StatisticsSource(HOSTILE, 1, 1, HOSTILE, HOSTILE)
    band = BandStatistics(HOSTILE, 1, *[0.0] * (len(fields(BandStatistics)) - 2))
    shown = [
        evil.cloudsen12,
        evil,
        evil.to_dataset(),
        evil.to_dataset().cloudsen12,
        evil["s2l1c"]["s2l1c"].rename(HOSTILE).cloudsen12,
        CubeStatistics(origin, {HOSTILE: [band]}, {HOSTILE: [0] * 5}),
    ]
    for part in shown:
        tab = Tab(chromium)
        tab.page.set_content(f"<title>notebook</title>{part._repr_html_()}")
        assert tab.page.title() == "notebook"
        assert tab.page.locator("img[src=x]").count() == 0
        assert tab.complaints == []
        tab.page.close()


def test_a_damaged_chunk_is_named_and_hides_nothing_else(chromium: Any, cube: Path, tmp_path: Path) -> None:
    place = tmp_path / "c.zarr"
    shutil.copytree(cube, place)
    victim = sorted(path for path in (place / "s2l1c" / "s2l1c" / "c").rglob("*") if path.is_file())[0]
    data = bytearray(victim.read_bytes())
    fifth = len(data) // 5
    data[2 * fifth : 3 * fifth] = bytes(fifth)  # the middle date's bands, and no more than a neighbour's
    victim.write_bytes(data)
    tree = c12.open_cube(place)
    notes = [one["note"] for one in browse.pictures(tree, str(tree["roi"].values[0]), "rgb") if one]
    bad = [t for t, note in enumerate(notes) if note.startswith("cannot be read")]
    assert bad
    assert not {0, 4} & set(bad)
    with running(tree) as (url, _):
        tab = Tab(chromium).open(url)
        tab.go_to(str(tree["roi"].values[0]))
        shown = tab.page.eval_on_selector_all(".rgb", "all => all.map(one => !one.hidden)")
        assert [t for t, there in enumerate(shown) if not there] == bad
        assert "cannot be read" in tab.texts(".note:not([hidden])")[0]
        tab.page.close()


def test_cubes_without_images_or_labels(chromium: Any, cube: Path) -> None:
    for products, images, layers in ((["labels"], False, 10), (["s2l2a"], True, 0), (["s1"], False, 0)):
        tree = c12.open_cube(cube, products=products)
        told = browse.catalogue(tree)
        assert (told["pictures"], len(told["layers"])) == (images, layers)
        with running(tree) as (url, _):
            tab = Tab(chromium).open(url)
            tab.go_to(str(tree["roi"].values[0]))
            assert ("no images in this cube" in " ".join(tab.texts(".note"))) is not images
            assert tab.page.locator("#layer").count() == (layers > 0)
            assert tab.complaints == []
            tab.page.close()


# ---- the file


def test_the_file_needs_no_server(chromium: Any, tree: xr.DataTree, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    assert browse.export(tree, path, 2) == path.stat().st_size
    tab = Tab(chromium).open(path.as_uri())
    first, second = (str(roi) for roi in tree["roi"].values[:2])
    tab.go_to(first)
    assert tab.page.eval_on_selector_all(".rgb", "all => all.filter(one => one.naturalWidth === 48).length") == 5
    assert_labels(tab.pixels(".label"), tree, first, 0, tab.page.input_value("#layer"))
    tab.go_to(second)
    assert "brings no pictures" in tab.texts(".note")[0]
    assert tab.complaints == []
    assert all(url.startswith(("file://", "data:")) for url in tab.requests)
    tab.page.close()


def test_pictures_in_a_file_are_small_and_invent_no_class(tree: xr.DataTree) -> None:
    roi = str(tree["roi"].values[0])
    whole, small = (browse.pictures(tree, roi, "sen2cor", size) for size in (None, 16))
    for one, other in zip(whole, small, strict=True):
        assert one is not None
        assert other is not None
        pixels = decode(other["src"])
        assert pixels.shape == (16, 16, 4)
        assert set(map(tuple, pixels.reshape(-1, 4))) <= set(map(tuple, decode(one["src"]).reshape(-1, 4)))


def test_every_picture_of_labels_is_the_layer(tree: xr.DataTree) -> None:
    unlabelled = 0
    for roi in tree["roi"].values.tolist():
        for layer in browse.layers(tree):
            for time, drawn in enumerate(browse.pictures(tree, roi, layer)):
                assert drawn is not None
                shown = decode(drawn["src"])
                assert_labels(shown, tree, roi, time, layer)
                grey = list(bytes.fromhex(schema.UNLABELLED_COLOR[1:]))
                count = int((shown[..., :3] == grey).all(axis=-1).sum())
                assert (drawn["note"] == "unlabelled") == (count == shown[..., 0].size)
                unlabelled += count
    assert unlabelled > 10_000  # scribbles leave most pixels open: never clear


# ---- the server


def ask(port: int, path: str, host: str | None = None, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_the_server_answers_to_known_addresses_alone(address: tuple[str, int]) -> None:
    port = address[1]
    assert ask(port, "/")[0] == ask(port, "/catalogue.json")[0] == ask(port, "/pictures/0/rgb.json")[0] == 200
    for path in (
        "/../pyproject.toml",
        "/pictures/../../etc/passwd",
        "/pictures/4/rgb.json",
        "/pictures/-1/rgb.json",
        "/pictures/0/manual.json",
        "/pictures/0/..%2f..%2frgb.json",
        "/pictures/%30/rgb.json",
        "/page.html",
    ):
        assert ask(port, path) == (404, b"no such page")
    assert ask(port, "/", method="POST")[0] == 501


def test_another_name_of_this_machine_is_refused(address: tuple[str, int]) -> None:
    port = address[1]
    assert ask(port, "/catalogue.json", f"localhost:{port}")[0] == 200
    for host in (f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}"):
        assert ask(port, "/catalogue.json", host) == (403, b"only for this machine")


def test_it_listens_on_loopback_alone_and_names_a_taken_port(tree: xr.DataTree) -> None:
    with browse.server(tree) as server:
        assert isinstance(server, ThreadingHTTPServer)
        assert server.socket.getsockname()[0] == "127.0.0.1"
        with pytest.raises(c12.errors.CubeError, match="give another --port"):
            browse.server(tree, int(server.server_address[1]))
    with pytest.raises(c12.errors.CubeError, match="port 99999 cannot be used"):
        browse.server(tree, 99999)


def test_a_browser_that_leaves_is_no_fault(address: tuple[str, int], capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", address[1])) as leaving:
            leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset when closed
            leaving.sendall(f"GET /catalogue.json HTTP/1.1\r\nHost: 127.0.0.1:{address[1]}\r\n\r\n".encode())
    assert ask(address[1], "/catalogue.json")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_a_link_leads_to_its_roi(chromium: Any, address: tuple[str, int], tree: xr.DataTree) -> None:
    roi = str(tree["roi"].values[2])
    for link, heads in ((roi, [roi]), ("ROI_0", []), ("%", [])):
        tab = Tab(chromium).open(f"{address[0]}#{link}")
        assert tab.texts("h2") == heads
        assert tab.complaints == []
        tab.page.close()


def test_the_catalogue_of_the_page_is_the_cubes(tree: xr.DataTree, address: tuple[str, int]) -> None:
    told = json.loads(ask(address[1], "/catalogue.json")[1])
    root = tree.to_dataset()
    assert told["rois"] == root["roi"].values.tolist()
    for column in told["columns"]:
        values = root[column["name"]].broadcast_like(root["s2_id_gee"]).transpose("roi", "time").values.ravel()
        for value, stored in zip(column["values"], values, strict=True):
            if column["kind"] == "time":
                assert np.datetime64(value, "s") == stored.astype("M8[s]")
            elif column["kind"] == "float":
                assert (value is None) if np.isnan(stored) else (value == pytest.approx(stored, rel=1e-6))
            else:
                assert (column["categories"][value] if value is not None else "") == str(stored)


# ---- the command


def test_the_command_writes_a_file(cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "page.html"
    assert main(["browse", str(cube), "--out", str(path), "--pictures", "1"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{path}: ")
    assert len(told.splitlines()) == 1
    assert path.read_text().startswith("<!doctype html>")


def test_the_command_serves_until_it_is_interrupted(cube: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "cloudsen12_cube", "browse", str(cube), "--no-open"]
    with started(command, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        port = int(line.split("/")[2].split(":")[1])
        assert line == f"http://127.0.0.1:{port}/ (Ctrl-C stops)\n"
        assert ask(port, "/")[0] == 200
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
