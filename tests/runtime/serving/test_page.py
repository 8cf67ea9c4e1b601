"""The page at ``/`` in a real browser: Debian's Chromium, headless, driven by Selenium."""

from __future__ import annotations

import ast
import base64
import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

REQUIRED = os.environ.get("TRT_VAR_REQUIRE_BROWSER") == "1"  # what is missing is then a failure


def module(name: str) -> Any:
    return importlib.import_module(name) if REQUIRED else pytest.importorskip(name)


for needed in ("starlette", "uvicorn"):
    module(needed)
webdriver = module("selenium.webdriver")
Keys = module("selenium.webdriver.common.keys").Keys
PointerInput = module("selenium.webdriver.common.actions.pointer_input").PointerInput
ActionBuilder = module("selenium.webdriver.common.actions.action_builder").ActionBuilder

FLAGS = (
    "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update"
)
LAST_SEED = str(2**64 - 1)  # no JavaScript number
# what happens on the page is written down there: events are over before a test could look
WITNESS = """
window.seen = {pictures: [], texts: [], violations: []};
addEventListener('securitypolicyviolation', (event) => seen.violations.push(event.violatedDirective + event.blockedURI));
addEventListener('DOMContentLoaded', () => {
  const picture = document.getElementById('picture'), status = document.getElementById('status');
  if (!picture) return;
  new MutationObserver(() => seen.pictures.push(picture.src)).observe(picture, {attributeFilter: ['src']});
  new MutationObserver((all) => seen.texts.push(...all.flatMap((one) => [...one.addedNodes].map((node) => node.data))))
    .observe(status, {childList: true});
});
"""


def wait(condition: Callable[[], Any], what: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service that draws digits."""
    options = "--engines digits --backend exact --batch 4 --port 0"  # exact: nothing depends on the processor
    command = [sys.executable, "-m", "trt_var", "serve", *options.split()]
    said = tmp_path_factory.mktemp("service") / "said.txt"
    with said.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    def address() -> list[str]:
        assert process.poll() is None, said.read_text()
        return re.findall(r"http://127\.0\.0\.1:[1-9]\d*", said.read_text())

    try:
        wait(address, "the service starts", 60)
        yield address()[0]
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        (pytest.fail if REQUIRED else pytest.skip)("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS.split(), "disable-sync", f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as browser:
        browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WITNESS})
        yield browser


class Page:
    """The page, freshly loaded."""

    def __init__(self, driver: Any, address: str) -> None:
        self.driver, self.address = driver, address
        self.emulate()

    def emulate(self, width: int = 1200, scheme: str = "light", motion: str = "no-preference") -> None:
        """Load the page on another device."""
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
        media = {"features": [{"name": name, "value": value} for name, value in features.items()]}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        self.driver.get(self.address)
        wait(lambda: self["draw"].is_enabled(), "the page is ready")

    def __getitem__(self, name: str) -> Any:
        return self.driver.find_element("id", name)

    def value(self, name: str) -> str:
        return str(self[name].get_attribute("value"))

    def many(self, name: str, tag: str) -> list[Any]:
        return list(self[name].find_elements("tag name", tag))

    def shown(self) -> list[str]:
        return list(self["caption"].text.split("\n")[:3])

    def js(self, code: str, *given: Any) -> Any:
        return self.driver.execute_script(code, *given)

    def type(self, name: str, text: str) -> None:
        self[name].send_keys(Keys.CONTROL, "a")
        self[name].send_keys(text or Keys.BACKSPACE)

    def options(self) -> list[str]:
        items = "document.querySelectorAll('#class-list:not([hidden]) li')"
        return list(self.js(f"return [...{items}].map((one) => one.textContent)"))

    def choose(self, query: str, label: int) -> None:
        self.type("class-input", query)
        wait(lambda: any(one.startswith(str(label)) for one in self.options()), f"{query!r} is found")
        next(one for one in self.many("class-list", "li") if one.text.startswith(str(label))).click()

    def draw(self, button: str = "draw") -> NDArray[np.uint8]:
        self.js("seen.pictures = []; seen.texts = []")
        self[button].click()
        return self.finished()

    def finished(self) -> NDArray[np.uint8]:
        wait(lambda: any(text.startswith("done") for text in self.js("return seen.texts")), "a picture is drawn")
        return pixels(self["picture"].get_attribute("src"))

    def set(self, name: str, value: str) -> None:
        """A slider, as a hand would move it."""
        moved = "arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
        self.js(f"arguments[0].value = arguments[1]; {moved}", self[name], value)

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def tab_to(self, name: str) -> None:
        for _ in range(60):
            if self.js("return document.activeElement.id") == name:
                return
            self.press(Keys.TAB)
        raise AssertionError(f"{name} is not reached with the Tab key")

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def mask(self) -> NDArray[np.bool_]:
        """Where the mask that the page would send is clear."""
        return pixels(self["mask-save"].get_attribute("href"), "RGBA")[:, :, 3] == 0


def pixels(url: str, mode: str = "RGB") -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2]))).convert(mode))


@pytest.fixture
def page(browser: Any, service: str) -> Iterator[Page]:
    """At the end, nothing may have been refused by the policy or written to the console."""
    browser.get_log("browser")
    page = Page(browser, service)
    yield page
    assert page.js("return seen.violations") == []
    assert page.errors() == []


def test_a_class_is_searched_and_the_picture_grows(page: Page) -> None:
    page.type("class-input", "tw")
    wait(lambda: page.options() == ["2two"], "the class is found")
    page["class-input"].send_keys(Keys.ARROW_DOWN)
    assert page["class-input"].get_attribute("aria-activedescendant") == "class-option-0"
    page["class-input"].send_keys(Keys.ENTER)
    assert page["class-input"].get_attribute("value") == "2: two" and not page["class-list"].is_displayed()

    page.type("seed", "7")
    picture = page.draw()
    drawn = list(dict.fromkeys(page.js("return seen.pictures")))
    assert len(drawn) >= 3 and np.array_equal(pixels(drawn[-1]), picture)
    texts = [text for text in page.js("return seen.texts") if text.startswith("scale")]
    scales = [f"scale {k} of 6, {'drafter' if k <= 4 else 'refiner'}" for k in range(1, 7)]
    # previews may be left out where drawing is faster than sending
    assert len(texts) >= 3 and texts == sorted(set(texts)) and set(texts) <= set(scales) and texts[-1] == scales[-1]
    assert picture.shape == (32, 32, 3) and page["picture"].value_of_css_property("image-rendering") == "pixelated"
    assert "two" in page["picture"].get_attribute("alt") and page.shown() == ["2: two", "seed 7", "N 4"]


def test_the_same_settings_draw_the_same_picture_from_gallery_and_code(page: Page) -> None:
    page.choose("", 5)
    page.set("n-draft", "3")
    page.type("seed", LAST_SEED)
    page.many("more", "summary")[0].click()
    page.type("temperature", "1,1,1,0.9,0.9,0.9")
    first = page.draw()
    assert f"seed {LAST_SEED}" in page["caption"].text

    curl = shlex.split(page["curl"].text.partition("|")[0].replace("\\\n", " "))
    body = curl[curl.index("-d") + 1]
    asked = {"model": "digits", "prompt": "5", "seed": 2**64 - 1, "n_draft": 3, "temperature": [1, 1, 1, 0.9, 0.9, 0.9]}
    assert json.loads(body) == asked
    url = next(one for one in curl if one.startswith("http"))
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert np.array_equal(pixels(f"base64,{json.load(answer)['data'][0]['b64_json']}"), first)
    program = ast.walk(ast.parse(page["python"].text))
    given = {node.arg: ast.unparse(node.value) for node in program if isinstance(node, ast.keyword)}
    assert ast.literal_eval(given["extra_body"]) | {"prompt": "5", "model": "digits"} == asked
    assert (given["prompt"], given["model"], given["base_url"]) == ("'5'", "'digits'", f"'{page.address}/v1'")

    page.choose("nine", 9)
    page.type("seed", "")
    page.set("n-draft", "6")
    assert not np.array_equal(page.draw(), first)
    page.many("gallery", "button")[1].click()
    assert [page.value(name) for name in ("class-input", "seed", "n-draft")] == ["5: five", LAST_SEED, "3"]
    assert np.array_equal(page.draw(), first)
    assert page.many("gallery", "a")[0].get_attribute("download") == f"digits-5-seed{LAST_SEED}-n3.png"


def test_n_is_chosen_from_what_is_served(page: Page) -> None:
    model = page.js("return fetch('/v1/models').then((answer) => answer.json())")["data"][0]
    assert int(page["n-draft"].get_attribute("max")) == len(model["n_draft"]["serves"]) - 1
    for position, n in enumerate(model["n_draft"]["serves"]):
        page.set("n-draft", str(position))
        assert page["n-draft-value"].text == str(n) and f'"n_draft": {n}' in page["curl"].text
        measured = str(n) in model["seconds"]
        assert page["n-draft-time"].text.startswith("measured" if measured else "not measured")


def test_a_random_seed_is_rolled_and_shown(page: Page) -> None:
    page["dice"].click()
    assert 0 <= int(page.value("seed")) < 2**64
    page.type("seed", "")
    page.draw()
    used = page["shown-seed"].text.removeprefix("seed ")
    page["keep-seed"].click()
    assert page.value("seed") == used and f'"seed": {used}' in page["curl"].text


def drag(page: Page, kind: str) -> None:
    """Over the middle of the mask, from left to right."""
    pointer = ActionBuilder(page.driver, mouse=PointerInput(kind, kind))
    quarter = page["mask-canvas"].size["width"] // 4
    pointer.pointer_action.move_to(page["mask-canvas"], -quarter, 0).pointer_down()
    pointer.pointer_action.move_to(page["mask-canvas"], quarter, 0).pointer_up()
    page.js("arguments[0].scrollIntoView({block: 'center'})", page["mask-canvas"])
    pointer.perform()


@pytest.mark.parametrize("kind", ["mouse", "touch"])
def test_a_painted_part_is_redrawn(page: Page, kind: str) -> None:
    if kind == "touch":
        page.emulate(width=390)
    page.choose("one", 1)
    before = page.draw()
    page["mask-mode"].click()
    drag(page, kind)
    mask = page.mask()
    assert mask[16, 8:25].all() and not mask[:8].any() and not mask[24:].any(), mask.any(axis=1)
    for erased in (True, False):
        page["erase"].click()
        drag(page, kind)
        assert page.mask().any() != erased
    page.choose("eight", 8)
    assert "/v1/images/edits" in page["curl"].text and "images.edit(" in page["python"].text
    after = page.draw("inpaint")
    assert np.array_equal(after[~mask], before[~mask]) and not np.array_equal(after[mask], before[mask])
    assert "redrawn" in page["gallery"].text
    page["mask-clear"].click()
    page["inpaint"].click()
    wait(lambda: "Nothing is marked" in page["error"].text, "an empty mask is said to be one")


def test_it_is_used_without_a_mouse(page: Page) -> None:
    page.tab_to("class-input")
    page.press("thr")
    wait(lambda: page.options() == ["3three"], "the class is found")
    page.press(Keys.ARROW_DOWN, Keys.ENTER)
    page.tab_to("seed")
    page.press("11")
    page.tab_to("n-draft")
    page.press(Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page["n-draft-value"].text == "2" and page["n-draft"].get_attribute("aria-valuetext") == "2"
    page.tab_to("draw")
    assert page.js("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press(Keys.ENTER)
    before = page.finished()
    assert page.shown() == ["3: three", "seed 11", "N 2"]

    page.tab_to("mask-mode")
    page.press(Keys.SPACE)
    page.tab_to("mask-canvas")
    page.press(*[Keys.ARROW_DOWN] * 3, *[Keys.ARROW_RIGHT] * 3, Keys.SPACE)
    assert page["status"].text == "row 4, column 4 of 8: redrawn"
    mask = page.mask()
    assert mask[12, 12]
    page.tab_to("inpaint")
    page.js("seen.texts = []")
    page.press(Keys.ENTER)
    assert np.array_equal(page.finished()[~mask], before[~mask])
    assert page.js("return document.activeElement.id") == "inpaint"


def test_everything_has_a_name(page: Page) -> None:
    page.draw()
    page["mask-mode"].click()
    page.many("more", "summary")[0].click()
    controls = page.driver.find_elements("css selector", "input, select, button, a, canvas, summary, pre, [role]")
    shown = [one for one in controls if one.is_displayed() and one.get_attribute("id") not in ("status", "error")]
    assert len(shown) > 20
    assert [one.get_attribute("outerHTML")[:80] for one in shown if not one.accessible_name] == []


REFUSED = [("seed", "-5", "seeds must lie in 0"), ("class-input", "tabby", "tabby"), ("cfg", "1000", "cfg is 1000")]


@pytest.mark.parametrize(("name", "value", "said"), REFUSED)
def test_what_the_server_refuses_is_said(page: Page, name: str, value: str, said: str) -> None:
    page.many("more", "summary")[0].click()
    page.type(name, value)
    page["draw"].click()
    wait(lambda: page["error"].text, "an error is shown")
    assert page["error"].get_attribute("role") == "alert" and said in page["error"].text
    assert page[name].get_attribute("aria-invalid") == "true"
    assert all("400" in message for message in page.errors())  # the browser says so, too

    page.choose("4", 4)
    page.type("seed", "5")
    page.type("cfg", "")
    page.draw()
    assert not page["error"].text and page[name].get_attribute("aria-invalid") is None


def test_drawing_is_cancelled(page: Page) -> None:
    page.js("document.getElementById('draw').click(); setTimeout(() => document.getElementById('cancel').click(), 100)")
    wait(lambda: page["status"].text == "cancelled", "it is cancelled")
    assert not page["error"].text and not page["picture"].is_displayed() and not page["cancel"].is_displayed()
    assert not page.many("gallery", "li")
    page.draw()


@pytest.mark.parametrize("width", [320, 390, 768, 1200])
def test_nothing_is_scrolled_sideways(page: Page, width: int) -> None:
    page.emulate(width)
    page.type("seed", LAST_SEED)
    page.draw()
    page["mask-mode"].click()
    page.many("more", "summary")[0].click()
    assert page.js("return document.documentElement.scrollWidth") <= width
    beyond = "!one.closest('pre') && one.getBoundingClientRect().right > innerWidth"
    assert page.js(f"return [...document.querySelectorAll('body *')].filter((one) => {beyond}).length") == 0


def test_dark_where_the_system_is(page: Page) -> None:
    def brightness(name: str, of: str) -> float:
        return float(np.mean([int(part) for part in re.findall(r"\d+", page[name].value_of_css_property(of))[:3]]))

    for scheme, dark in (("light", False), ("dark", True)):
        page.emulate(scheme=scheme)
        for name in ("class-input", "python", "error"):
            difference = brightness(name, "color") - brightness(name, "background-color")
            assert abs(difference) > 100 and (difference > 0) == dark, (scheme, name)


def test_nothing_moves_where_that_is_not_wanted(page: Page) -> None:
    page.emulate(motion="reduce")
    page.draw()
    assert len(page.js("return seen.pictures")) == 1
    assert len(page.many("scales", "img")) >= 3


def test_the_page_is_one_file_and_its_policy_strict(service: str) -> None:
    with urllib.request.urlopen(service, timeout=30) as answer:
        text, policy = answer.read().decode(), answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and text.count("<script") == text.count("<style") == 1
    assert not re.search(r"<[^>]+\s(on\w+|style)=", text) and not re.search(r"(src|href)=\"(https?:)?//", text)
