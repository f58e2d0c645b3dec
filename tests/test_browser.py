"""The widgets in JupyterLab and the exported page, as a user's hands meet them.

Skipped where no Chromium or Chrome is found: see tests/browser.py.
"""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import urlopen

import browser
import nbformat
import pytest
import torch
from jupyter_client import BlockingKernelClient
from nbformat import v4

from sos.analysis import editing
from sos.distributions.low_rank_normal import LowRankNormal
from sos.system import paths
from sos.widgets import Editor, export_page

pytestmark = pytest.mark.skipif(
    browser.executable() is None, reason="no Chromium or Chrome found; set SOS_CHROMIUM to one"
)

SHAPE = (3, 24, 20)
SETUP = """
import torch
from sos.distributions import LowRankNormal
from sos.widgets import Editor, Pad, Sampler
generator = torch.Generator().manual_seed(0)
size = 3 * 24 * 20
factor = 0.1 * torch.randn(size, 6, generator=generator)
p = LowRankNormal(torch.full((size,), 0.5), factor, 1e-3)
"""
CANVAS = ".sos canvas[role=application]"


def distribution() -> LowRankNormal:
    names: dict = {}
    exec(SETUP, names)
    return names["p"]


@pytest.fixture(scope="module")
def chromium():
    with browser.launched() as running:
        yield running


# ---- a running JupyterLab


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A server with one notebook: its address, and the folder of its connection files."""
    folder, runtime = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("runtime")
    cells = [SETUP, "editor = Editor(p, (3, 24, 20)); editor", "sampler = Sampler(p, (3, 24, 20))",
             "sampler", "pad = Pad(p, (3, 24, 20)); pad", "print('READY')"]  # fmt: skip
    notebook = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, folder / "widgets.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join(filter(None, [str(paths.ROOT), os.environ.get("PYTHONPATH")]))
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
         f"--port={port}", "--IdentityProvider.token=", "--ServerApp.password=",
         f"--ServerApp.root_dir={folder}", "--LabApp.news_url=", "--ServerApp.port_retries=0"],
        env=os.environ | {"JUPYTER_RUNTIME_DIR": str(runtime), "PYTHONPATH": path,
                          "JUPYTERLAB_SETTINGS_DIR": str(runtime / "settings"),
                          "JUPYTERLAB_WORKSPACES_DIR": str(runtime / "workspaces")},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(f"{address}/api"), 60)
        yield address, runtime
    finally:
        server.terminate()
        server.wait(20)


def answers(url: str) -> bool:
    try:
        return urlopen(url, timeout=2).status == 200
    except (URLError, OSError):
        return False


def wait_for(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "gave up waiting"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def opened(lab, chromium):
    """The notebook in JupyterLab with all cells run, and a function that asks its kernel."""
    address, runtime = lab
    with browser.page(chromium, 1400, 2600) as page:
        page.goto(f"{address}/lab/tree/widgets.ipynb?reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        wait_for(lambda: json.load(urlopen(f"{address}/api/sessions")), 60)
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=60_000)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        ready = "() => [...document.querySelectorAll('.jp-OutputArea-output')]"
        page.wait_for_function(
            f"{ready}.some((e) => e.textContent.includes('READY'))", timeout=120_000
        )
        page.wait_for_selector(CANVAS)
        with kernel_of(address, runtime) as ask:
            yield page, ask


@contextmanager
def kernel_of(address, runtime):
    (session,) = json.load(urlopen(f"{address}/api/sessions"))
    file = runtime / f"kernel-{session['kernel']['id']}.json"
    client = BlockingKernelClient(connection_file=str(file))
    client.load_connection_file()
    client.start_channels()

    def ask(expression: str):
        reply = client.execute(
            "", user_expressions={"x": f"__import__('json').dumps({expression})"}
        )
        while True:
            message = client.get_shell_msg(timeout=30)
            if message["parent_header"].get("msg_id") == reply:
                break
        result = message["content"]["user_expressions"]["x"]
        assert result["status"] == "ok", result
        return json.loads(result["data"]["text/plain"][1:-1].replace("\\'", "'"))

    try:
        yield ask
    finally:
        client.stop_channels()


def stroke(page, canvas, start, end) -> None:
    """Draws from start to end, in shares of the canvas."""
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=8)
    page.mouse.up()


def test_painting_in_jupyterlab_reaches_the_kernel(opened):
    page, ask = opened
    assert ask("editor.position") == 0
    root = page.locator(".sos").first
    canvas = root.locator("canvas[role=application]")
    stroke(page, canvas, (0.2, 0.25), (0.7, 0.25))
    wait_for(lambda: ask("editor.position") == 1, 10)
    # What JavaScript painted is what Python's brush would paint, and what follows is the same.
    strokes = [editing.Stroke(**one) for one in ask("editor.strokes")]
    path = [(0.2 * 20, 0.25 * 24), (0.7 * 20, 0.25 * 24)]
    expected = set(editing.brush(path, 3, SHAPE))
    assert len(expected ^ set(strokes[0].pixels)) <= 4  # the mouse moves in whole screen pixels
    mean = torch.tensor(ask("editor.conditional.mean.tolist()"))
    again = editing.condition(distribution(), strokes, SHAPE).mean
    torch.testing.assert_close(mean, again)
    shown = page.evaluate(
        """() => { const c = document.querySelector('.sos canvas');
        return Array.from(c.getContext('2d').getImageData(0, 0, 20, 24).data); }"""
    )
    pixels = torch.tensor(shown).view(24, 20, 4)[..., :3].permute(2, 0, 1).flatten()
    assert (pixels - (255 * again).clamp(0, 255)).abs().max() < 0.51

    root.locator("summary").click()
    slider = root.locator(".sos-components input").first
    slider.fill("2.5")
    wait_for(lambda: ask("editor.scales[0]") == 2.5, 10)
    assert ask("editor.view") == "sample"
    root.get_by_role("button", name="Undo").click()
    wait_for(lambda: ask("editor.position") == 0, 10)
    assert ask("len(editor.strokes)") == 1 and ask("editor.edits") == []
    root.get_by_role("button", name="Redo").click()
    wait_for(lambda: ask("editor.position") == 1, 10)
    assert page.errors == []


def test_arrow_keys_stay_in_the_widget(opened):
    page, ask = opened
    root = page.locator(".sos").first
    root.get_by_role("button", name="Reset").click()
    wait_for(lambda: ask("editor.position") == 0, 10)
    root.locator("canvas[role=application]").focus()
    for key in ("ArrowLeft", "ArrowUp", "Shift+ArrowUp", "Space"):
        page.keyboard.press(key)
    wait_for(lambda: ask("editor.position") == 1, 10)
    (one,) = ask("editor.strokes")
    middle = one["pixels"][len(one["pixels"]) // 2]
    assert divmod(middle, 20) == (12 - 6, 10 - 1)
    page.keyboard.press("Control+z")
    wait_for(lambda: ask("editor.position") == 0, 10)
    slider = root.locator(".sos-components input").nth(2)
    slider.focus()
    before = ask("editor.scales[2]")
    page.keyboard.press("ArrowRight")
    wait_for(lambda: ask("editor.scales[2]") == pytest.approx(before + 0.1), 10)


def test_the_kernel_moves_the_picture(opened):
    page, ask = opened
    script = "() => document.querySelector('.sos canvas').toDataURL()"
    before = page.evaluate(script)
    ask("editor.paint([5, 6, 7], [1.0, 0.0, 0.0])")
    page.wait_for_function(f"(before) => ({script})() !== before", arg=before, timeout=10_000)
    assert "3 pixels edited" in page.locator(".sos-status").first.inner_text()


def test_sampler_in_jupyterlab(opened):
    page, ask = opened
    handle = page.locator(".jupyter-widgets .noUi-handle").first
    handle.scroll_into_view_if_needed()
    before = ask("hash(bytes(sampler._picture.value))")
    handle.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    wait_for(lambda: ask("sampler.sliders[0].value") == pytest.approx(1.5), 10)
    assert ask("hash(bytes(sampler._picture.value))") != before
    page.get_by_role("button", name="Reset", exact=True).last.click()
    wait_for(lambda: ask("sampler.sliders[0].value") == 1.0, 10)
    noise = ask("sampler.noise_factor.tolist()")
    page.locator("button.jupyter-button", has_text="New sample").click()
    wait_for(lambda: ask("sampler.noise_factor.tolist()") != noise, 10)


def test_pad_in_jupyterlab(opened):
    page, ask = opened
    pad = page.locator(".sos-pad")
    stroke(page, pad, (0.5, 0.5), (0.25, 0.75))
    wait_for(lambda: ask("pad.x") == pytest.approx(0.25, abs=0.02), 10)
    assert ask("pad.y") == pytest.approx(0.75, abs=0.02)
    pad.focus()
    page.keyboard.press("ArrowRight")
    wait_for(lambda: ask("pad.x") == pytest.approx(0.27, abs=0.02), 10)
    assert page.errors == []


# ---- the page


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    names = {
        "one": distribution(),
        "two": LowRankNormal(distribution().mean, -distribution().cov_factor),
    }
    return export_page(tmp_path_factory.mktemp("page") / "p.html", names, SHAPE, "Page")


@pytest.fixture
def shown(target, chromium):
    with browser.page(chromium, touch=True) as page:
        page.goto(target.as_uri())
        page.wait_for_function("globalThis.sos")
        yield page
        assert page.refused == [] and page.errors == []


def state(page, name, widget="editor"):
    return page.evaluate(f"sos.{widget}.get('{name}')")


def picture(page, selector="#editor canvas"):
    return page.evaluate(f"document.querySelector('{selector}').toDataURL()")


def settle(page):
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_page_paints_scales_and_undoes_without_a_network(shown):
    blank = picture(shown)
    stroke(shown, shown.locator(f"#editor {CANVAS.split()[1]}"), (0.3, 0.3), (0.6, 0.6))
    settle(shown)
    painted = picture(shown)
    assert state(shown, "position") == 1 and painted != blank
    shown.locator("#editor summary").click()
    shown.locator("#editor .sos-components input").nth(1).fill("-3")
    settle(shown)
    assert state(shown, "scales")[1] == -3 and picture(shown) != painted
    shown.get_by_role("button", name="All to 1").click()
    shown.get_by_role("radio", name="mean").check()
    settle(shown)
    assert picture(shown) == painted
    shown.get_by_role("button", name="Undo").click()
    settle(shown)
    assert state(shown, "position") == 0 and picture(shown) == blank
    shown.get_by_role("button", name="Redo").click()
    settle(shown)
    assert picture(shown) == painted


def test_page_agrees_with_python(shown):
    stroke(shown, shown.locator(f"#editor {CANVAS.split()[1]}"), (0.3, 0.3), (0.6, 0.6))
    settle(shown)
    strokes = [editing.Stroke(**one) for one in state(shown, "strokes")]
    editor = Editor(distribution(), SHAPE, strokes=state(shown, "strokes"), position=1)
    expected = editor.image()
    assert torch.equal(expected.flatten(), editing.condition(distribution(), strokes, SHAPE).mean)
    data = shown.evaluate(
        """() => { const c = document.querySelector('#editor canvas');
        return Array.from(c.getContext('2d').getImageData(0, 0, 20, 24).data); }"""
    )
    pixels = torch.tensor(data).view(24, 20, 4)[..., :3].permute(2, 0, 1)
    assert (pixels - (255 * expected).clamp(0, 255)).abs().max() <= 2  # the page has half precision


def test_touch_draws(shown):
    box = shown.locator(f"#editor {CANVAS.split()[1]}").bounding_box()
    client = shown.context.new_cdp_session(shown)
    at = {"x": box["x"] + 0.5 * box["width"], "y": box["y"] + 0.5 * box["height"]}
    client.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [at]})
    further = at | {"x": at["x"] + 0.25 * box["width"]}
    client.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [further]})
    client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    shown.wait_for_function("sos.editor.get('position') === 1")
    columns = [pixel % 20 for pixel in state(shown, "strokes")[0]["pixels"]]
    assert max(columns) - min(columns) >= 5


def test_hovering_and_strokes_off_the_canvas_change_nothing(shown):
    blank = picture(shown)
    canvas = shown.locator(f"#editor {CANVAS.split()[1]}")
    box = canvas.bounding_box()
    shown.mouse.move(box["x"] + 30, box["y"] + 30)
    shown.mouse.move(box["x"] + 90, box["y"] + 60, steps=4)
    settle(shown)
    assert picture(shown) == blank and state(shown, "strokes") == []
    stroke(shown, canvas, (1.4, 0.5), (1.8, 0.9))  # begins beside the canvas
    assert state(shown, "strokes") == []
    stroke(shown, canvas, (0.9, 0.5), (1.7, 0.5))  # leaves it
    columns = [pixel % 20 for pixel in state(shown, "strokes")[0]["pixels"]]
    assert max(columns) == 19


def test_colours_are_picked_from_the_picture(shown):
    shown.evaluate("sos.editor.set('colour', [1, 0, 0])")
    canvas = shown.locator(f"#editor {CANVAS.split()[1]}")
    shown.get_by_role("button", name="Pick").click()
    canvas.click(position={"x": 100, "y": 100})
    assert state(shown, "strokes") == []
    assert state(shown, "colour") == pytest.approx([0.5] * 3, abs=0.01)  # the mean is gray
    canvas.click(position={"x": 100, "y": 100})
    assert state(shown, "position") == 1


def test_another_distribution_starts_afresh(shown):
    first = picture(shown)
    shown.get_by_role("button", name="New sample").click()
    settle(shown)
    sample = picture(shown)
    assert sample != first
    stroke(shown, shown.locator(f"#editor {CANVAS.split()[1]}"), (0.3, 0.3), (0.6, 0.6))
    shown.get_by_role("button", name="two").click()
    settle(shown)
    assert state(shown, "strokes") == [] and state(shown, "position") == 0
    assert shown.get_by_role("button", name="two").get_attribute("aria-pressed") == "true"
    shown.get_by_role("button", name="one").click()  # nothing that was painted there is lost
    settle(shown)
    assert len(state(shown, "strokes")) == state(shown, "position") == 1
    shown.get_by_role("button", name="Undo").click()
    settle(shown)
    assert picture(shown) == sample


def test_a_narrow_screen_scrolls_down_only(shown):
    shown.set_viewport_size({"width": 390, "height": 800})
    shown.locator("#editor summary").click()
    settle(shown)
    assert shown.evaluate("document.documentElement.scrollWidth") <= 390
    widths = shown.locator("#editor .sos-components input").evaluate_all(
        "all => all.map((one) => one.clientWidth)"
    )
    assert min(widths) >= 40


def test_zoom_stops_where_it_would_not_show(shown):
    larger, smaller = (shown.get_by_role("button", name=name, exact=True) for name in "+\u2212")
    canvas = shown.locator(f"#editor {CANVAS.split()[1]}")
    for _ in range(20):
        if larger.is_enabled():
            larger.click()
    assert larger.is_disabled()
    widest = canvas.bounding_box()["width"]
    smaller.click()
    settle(shown)
    assert canvas.bounding_box()["width"] < widest and larger.is_enabled()


def test_the_keyboard_is_never_lost(shown):
    canvas = shown.locator(f"#editor {CANVAS.split()[1]}")
    shown.get_by_role("button", name="Pick").click()
    canvas.focus()
    shown.keyboard.press("ArrowLeft")
    assert shown.locator(".sos-ring").is_visible()
    shown.keyboard.press("Escape")
    assert shown.get_by_role("button", name="Pick").get_attribute("aria-pressed") == "false"
    shown.keyboard.press("Space")
    assert state(shown, "position") == 1
    undo = shown.get_by_role("button", name="Undo")
    undo.focus()
    shown.keyboard.press("Enter")
    assert undo.is_disabled()
    assert shown.evaluate("document.activeElement.textContent") == "Redo"


def test_uncertainty_keeps_its_scale_under_sliders(shown):
    shown.get_by_label("uncertainty").check()
    shown.evaluate("sos.editor.set('scales', sos.editor.get('scales').map(() => 5))")
    settle(shown)
    bright = shown.evaluate(
        """() => { const c = document.querySelector('.sos-map canvas');
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        let n = 0; for (let i = 0; i < d.length; i += 4) n += d[i] > 235 && d[i + 1] > 225;
        return n / (c.width * c.height); }"""
    )
    assert 0 < bright < 0.2  # the most uncertain pixel has the brightest colour, few others do


def test_every_control_has_a_name(shown):
    shown.locator("#editor summary").click()
    nameless = shown.evaluate(
        """() => [...document.querySelectorAll('input, button, canvas[role]')].filter((e) =>
        !(e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label'))).length"""
    )
    assert nameless == 0
    focusable = shown.locator("#editor :is(input, button, canvas[tabindex])").count()
    for _ in range(focusable + 4):
        shown.keyboard.press("Tab")
    assert shown.evaluate("document.activeElement.closest('#editor, #pad, #chooser') !== null")


def test_png_has_the_picture_pixel_for_pixel(shown, tmp_path):
    from PIL import Image

    with shown.expect_download() as download:
        shown.get_by_role("button", name="Save PNG").click()
    download.value.save_as(tmp_path / "sos.png")
    assert Image.open(tmp_path / "sos.png").size == (20, 24)


# ---- what stands over and beside the picture


EDGES = "document.querySelector('#editor .sos-outline path').getAttribute('d')"


def canvas_of(shown):
    return shown.locator(f"#editor {CANVAS.split()[1]}")


def pixels_of(page, selector) -> torch.Tensor:
    """The red, green and blue of a canvas (3, H, W)."""
    height, width, data = page.evaluate(
        """(selector) => { const c = document.querySelector(selector);
        const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);
        return [c.height, c.width, Array.from(data)]; }""",
        selector,
    )
    return torch.tensor(data).view(height, width, 4)[..., :3].permute(2, 0, 1)


@pytest.mark.parametrize("std", [0, 0.2])
def test_strokes_are_outlined_and_the_picture_is_not_touched(shown, std):
    shown.evaluate(f"sos.editor.set('std', {std})")
    assert shown.evaluate(EDGES) == ""
    stroke(shown, canvas_of(shown), (0.3, 0.3), (0.6, 0.6))
    settle(shown)
    lines, painted = shown.evaluate(EDGES), picture(shown)
    assert len(lines) > 20
    shown.get_by_label("outlines").uncheck()
    settle(shown)
    assert shown.evaluate(EDGES) == "" and picture(shown) == painted
    shown.get_by_label("outlines").check()
    settle(shown)
    assert shown.evaluate(EDGES) == lines
    shown.get_by_role("button", name="Undo").click()
    settle(shown)
    assert shown.evaluate(EDGES) == ""


@pytest.mark.parametrize("view", ["mean", "sample"])
def test_the_original_and_back(shown, view):
    shown.get_by_role("radio", name=view).check()
    settle(shown)
    blank, button = picture(shown), shown.get_by_role("button", name="Original")
    stroke(shown, canvas_of(shown), (0.3, 0.3), (0.6, 0.6))
    settle(shown)
    painted = picture(shown)
    button.click()
    settle(shown)
    assert picture(shown) == blank != painted and shown.evaluate(EDGES) == ""
    assert button.get_attribute("aria-pressed") == "true"
    assert "without the strokes" in shown.locator("#editor figcaption").first.inner_text()
    canvas_of(shown).focus()
    shown.keyboard.press("o")
    settle(shown)
    assert picture(shown) == painted and button.get_attribute("aria-pressed") == "false"
    shown.keyboard.press("O")
    settle(shown)
    assert picture(shown) == blank and state(shown, "position") == 1
    shown.keyboard.press("Space")  # what is painted is seen, and said
    settle(shown)
    assert state(shown, "position") == 2 and not state(shown, "original")
    assert "edited picture" in shown.locator(".sos-notice").inner_text()


def test_uncertainty_stands_beside_the_picture_with_its_scale(shown):
    before = picture(shown)
    shown.get_by_label("uncertainty").check()
    settle(shown)
    assert picture(shown) == before
    left, right = canvas_of(shown).bounding_box(), shown.locator(".sos-map canvas").bounding_box()
    assert right["x"] >= left["x"] + left["width"] and right["width"] == left["width"]
    std = distribution().variance.view(3, -1).mean(0).sqrt()
    numbers = shown.locator(".sos-bar span").all_inner_texts()
    expected = [0, std.max().item() / 2, std.max().item()]
    assert [float(number) for number in numbers] == pytest.approx(expected, rel=0.05)
    assert f"{std.mean().item():.2g}" in shown.locator(".sos-map figcaption").inner_text()
    # The map has the order of the standard deviations, here by green, which rises all along.
    green = pixels_of(shown, ".sos-map canvas")[1].flatten()
    order = std.argsort()
    assert (green[order].diff() >= -1).all() and green[order[-1]] == 249
    shown.evaluate("sos.editor.set('std', 0)")
    stroke(shown, canvas_of(shown), (0.5, 0.5), (0.5, 0.5))
    settle(shown)
    (one,) = state(shown, "strokes")
    known = pixels_of(shown, ".sos-map canvas").flatten(1)[:, one["pixels"]]
    assert (known == torch.tensor([[13], [8], [135]])).all()  # exact: nothing is uncertain
    shown.set_viewport_size({"width": 390, "height": 844})
    settle(shown)
    above, below = canvas_of(shown).bounding_box(), shown.locator(".sos-map canvas").bounding_box()
    assert below["y"] >= above["y"] + above["height"]


def test_a_changed_view_is_announced(shown):
    notice = shown.locator(".sos-notice")
    assert notice.get_attribute("aria-live") == "polite" and notice.inner_text() == ""
    shown.locator("#editor summary").click()
    shown.locator("#editor .sos-components input").first.fill("2")
    settle(shown)
    assert state(shown, "view") == "sample" and "from the mean to a sample" in notice.inner_text()
    shown.get_by_role("radio", name="mean").check()
    assert notice.inner_text() == ""
    shown.get_by_role("radio", name="sample").check()  # by hand nothing needs saying
    shown.locator("#editor .sos-components input").first.fill("3")
    assert notice.inner_text() == ""


def test_thumbnails_are_the_means(shown):
    for k, name in enumerate(["one", "two"]):
        button = shown.get_by_role("button", name=name, exact=True)
        assert button.inner_text() == "" and button.locator("canvas").is_visible()
        found = pixels_of(shown, f"#chooser button:nth-of-type({k + 1}) canvas")
        assert (found - 127.5).abs().max() <= 1  # both means are gray


def test_one_distribution_needs_no_chooser(tmp_path, chromium):
    target = export_page(tmp_path / "p.html", {"one": distribution()}, SHAPE, "Page")
    with browser.page(chromium) as page:
        page.goto(target.as_uri())
        page.wait_for_function("globalThis.sos")
        assert page.locator("#chooser").is_hidden()
        assert page.get_by_label("show the true picture").is_hidden()


@pytest.fixture
def several(tmp_path, chromium):
    """A page with a colour and a gray distribution; the true picture of the gray one is known."""
    small = (1, 12, 16)
    stream = torch.Generator().manual_seed(1)
    p = LowRankNormal(
        torch.rand(192, generator=stream), torch.randn(192, 3, generator=stream), 0.01
    )
    truth = torch.rand(small, generator=stream)
    target = export_page(
        tmp_path / "p.html", {"colour": distribution(), "gray": p},
        {"colour": SHAPE, "gray": small}, "Page", truths={"gray": truth},
        groups={"First": ["colour"], "Second": ["gray"]},
    )  # fmt: skip
    with browser.page(chromium) as page:
        page.goto(target.as_uri())
        page.wait_for_function("globalThis.sos")
        yield page, p, small, truth
        assert page.refused == [] and page.errors == []


def test_distributions_of_several_shapes(several):
    page, p, small, _ = several
    blank = picture(page)
    stroke(page, canvas_of(page), (0.3, 0.3), (0.6, 0.6))
    settle(page)
    painted, pad = picture(page), picture(page, "#pad canvas")
    assert page.get_by_role("group", name="Second").get_by_role("button").count() == 1
    page.get_by_role("button", name="gray").click()
    settle(page)
    settle(page)
    shown = pixels_of(page, "#editor canvas")
    assert shown.shape == (3, 12, 16)
    assert (shown - 255 * p.mean.view(small)).abs().max() <= 1.5
    stroke(page, canvas_of(page), (0.2, 0.5), (0.8, 0.5))
    page.get_by_role("radio", name="sample").check()
    settle(page)
    strokes = state(page, "strokes")
    assert len(strokes) == 1 and len(strokes[0]["colour"]) == 1
    options = {name: state(page, name) for name in ("strokes", "omega", "seed", "view")}
    expected = Editor(p, small, **options).image()
    found = pixels_of(page, "#editor canvas")
    assert (found - 255 * expected.clamp(0, 1)).abs().max() <= 4  # half precision, factors of 1
    page.get_by_role("button", name="colour").click()
    page.get_by_role("radio", name="mean").check()
    settle(page)
    settle(page)
    assert picture(page) == painted and picture(page, "#pad canvas") == pad
    page.get_by_role("button", name="Undo").click()
    settle(page)
    assert picture(page) == blank


def test_the_true_picture_and_the_error_to_it(several):
    page, p, small, truth = several
    switch = page.get_by_label("show the true picture")
    assert switch.is_hidden()
    page.get_by_role("button", name="gray").click()
    settle(page)
    settle(page)
    switch.check()
    settle(page)
    assert (pixels_of(page, ".sos-truth canvas") - 255 * truth).abs().max() < 0.7
    boxes = [one.bounding_box() for one in (canvas_of(page), page.locator(".sos-truth canvas"))]
    assert boxes[0]["width"] == boxes[1]["width"] and boxes[0]["y"] == boxes[1]["y"]
    editor = Editor(p, small, truth=truth)
    caption = page.locator(".sos-truth figcaption")
    for _ in range(2):
        assert float(caption.inner_text().split(": ")[1]) == pytest.approx(editor.rmse, abs=1e-3)
        stroke(page, canvas_of(page), (0.2, 0.5), (0.8, 0.5))
        settle(page)
        editor.strokes = state(page, "strokes")
        editor.position = 1
    page.get_by_role("button", name="colour").click()
    settle(page)
    settle(page)
    assert switch.is_hidden() and page.locator(".sos-truth").is_hidden()


def test_on_phones_picture_and_controls_are_seen_together(shown):
    shown.set_viewport_size({"width": 390, "height": 844})
    shown.locator("#editor summary").click()
    controls = [shown.get_by_label("Softness")]
    controls += [shown.get_by_title(f"Scale of component {number}") for number in (1, 6)]
    for with_map in (False, True):
        shown.get_by_label("uncertainty").set_checked(with_map)
        settle(shown)
        for control in controls:
            control.evaluate("(e) => e.scrollIntoView({ block: 'end' })")
            settle(shown)
            below = control.bounding_box()
            above = shown.locator("#editor .sos-pictures").bounding_box()
            assert above["y"] >= -1 and above["y"] + above["height"] <= below["y"]
            assert below["y"] + below["height"] <= 845


def test_on_its_side_a_phone_shows_picture_and_controls_beside_each_other(shown):
    shown.set_viewport_size({"width": 844, "height": 390})
    shown.locator("#editor").evaluate("(e) => e.scrollIntoView()")
    left, right = (one.bounding_box() for one in (canvas_of(shown), shown.get_by_label("Softness")))
    assert left["x"] + left["width"] <= right["x"]
    for box in (left, right):
        assert box["y"] >= 0 and box["y"] + box["height"] <= 390


def test_the_page_explains_and_cites(shown):
    text = shown.locator("main").inner_text()
    assert "Softness, σ" in text and "Noise length" in text
    assert "Langley" in shown.locator("footer").inner_text()
    stroke(shown, canvas_of(shown), (0.3, 0.3), (0.6, 0.6))
    settle(shown)
    editor = Editor(distribution(), SHAPE, strokes=state(shown, "strokes"))
    length = editing.noise_length(distribution(), editor.edits, SHAPE)
    status = shown.locator("#editor .sos-status").inner_text()
    assert f": {length:.1f}; a random draw has about √R = 2.4" in status
