"""The page in a real browser: every mode, keyboard and mouse, both themes, a phone's width, nothing from elsewhere."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.serving.conftest import data_uri, encoded
from tests.serving.live import Live

import chiasm
from chiasm.serving.engine import BatchingEngine
from chiasm.serving.local import LocalHost
from chiasm.serving.settings import Settings

KEY = "k-page"
CHROMIUM = os.environ.get("CHIASM_CHROMIUM") or shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and os.environ.get("CHIASM_CI") != "1", reason="needs Debian's chromium"
)


@pytest.fixture(scope="module")
def live(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Live:
    names = ("llava", "clip", "albef")
    hosts = {name: LocalHost(BatchingEngine(chiasm.load(str(tiny_folder(name))))) for name in names}
    return Live(hosts, Settings(max_new_tokens=24, api_key=KEY), tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        made = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def page(browser: Any, live: Live) -> Iterator[Any]:
    """The page of a visitor who gave the key; nothing may be logged, refused by the policy, or asked of others."""
    context = browser.new_context(color_scheme="light", viewport={"width": 390, "height": 780})
    context.set_default_timeout(60_000)
    made, wrong = context.new_page(), []
    made.on("pageerror", lambda error: wrong.append(str(error)))
    refused = "the server responded with a status of 40"  # the browser's own note of a refusal that the page shows
    made.on("console", lambda message: None if refused in message.text else wrong.append(message.text))
    made.on("request", lambda asked: None if asked.url.startswith((live.url, "data:")) else wrong.append(asked.url))
    made.goto(live.url)
    made.get_by_label("This server asks for an API key").fill(KEY)
    made.keyboard.press("Enter")
    made.wait_for_selector("#modes label")
    yield made
    assert wrong == []
    context.close()


def picture(name: str = "red.png") -> Any:
    return {"name": name, "mimeType": "image/png", "buffer": encoded(size=(80, 60))}


def colours(page: Any) -> list[list[int]]:
    spelled = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    return [[int(n) for n in text[4:-1].split(",")] for text in page.evaluate(spelled)]


def test_chat_by_keyboard_streams_what_the_interface_says(page: Any, live: Live) -> None:
    page.set_input_files("#files", [picture()])
    page.wait_for_selector("#tray img")
    page.locator("#text").focus()
    page.keyboard.type("What is this?")
    page.keyboard.press("Enter")
    page.wait_for_selector(".theirs[aria-busy=false]")
    content = [
        {"type": "image_url", "image_url": {"url": data_uri(encoded(size=(80, 60)))}},
        {"type": "text", "text": "What is this?"},
    ]
    body = {"model": "llava", "messages": [{"role": "user", "content": content}]}
    _, _, told = live.ask("POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {KEY}"})
    assert page.locator(".theirs .text").text_content() == told["choices"][0]["message"]["content"]
    assert page.evaluate("turns.map((turn) => turn.role)") == ["user", "assistant"]
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type("and more")
    page.keyboard.press("Enter")
    page.wait_for_selector("article:nth-of-type(4)[aria-busy=false]")
    assert page.evaluate("turns.length") == 4, "the conversation goes on"


def test_labels_have_bars_and_places_are_drawn_in_the_pictures_pixels(page: Any) -> None:
    page.select_option("#model", "clip")
    page.set_input_files("#files", [picture()])
    page.wait_for_selector("#tray img")
    page.fill("#text", "red, blue")
    page.click("#send")
    page.wait_for_selector(".bars")
    shares = [float(text.split()[0]) for text in page.locator(".share").all_text_contents()]
    widths = page.evaluate("[...document.querySelectorAll('.fill')].map((bar) => parseFloat(bar.style.width))")
    assert widths == pytest.approx(shares, abs=0.06) and sum(shares) == pytest.approx(100, abs=0.2)
    page.select_option("#model", "albef")
    page.get_by_role("radio", name="Find").check(force=True)
    page.set_input_files("#files", [picture()])
    page.wait_for_selector("#tray img")
    page.fill("#text", "red")
    page.click("#send")
    page.wait_for_selector(".stage svg")
    assert page.locator(".stage svg").get_attribute("viewBox") == "0 0 80 60"
    drawn = page.evaluate("[...document.querySelectorAll('.stage rect, .stage circle')].length")
    over, under = page.evaluate(
        "['svg', 'img'].map((part) => document.querySelector(`.stage ${part}`).getBoundingClientRect().width)"
    )
    assert drawn >= 1 and over == pytest.approx(under, abs=1)


def test_what_the_model_sees_both_themes_a_phone_and_mistakes(page: Any) -> None:
    page.get_by_role("radio", name="What it sees").check(force=True)
    page.set_input_files("#files", [picture(), {"name": "a.txt", "mimeType": "text/plain", "buffer": b"x"}])
    page.wait_for_selector("#tray img")
    page.click("#send")
    page.wait_for_selector(".crops img")
    assert "tokens" in page.locator(".theirs h2").first.text_content()
    page.get_by_role("radio", name="Ask").check(force=True)
    broken = {"name": "broken.png", "mimeType": "image/png", "buffer": encoded()[:40]}
    page.set_input_files("#files", [broken])
    page.wait_for_selector("#tray img")
    page.fill("#text", "<img src=x onerror=alert(1)> what?")
    page.click("#send")
    page.wait_for_selector(".wrong")
    assert "picture_truncated" in page.locator(".wrong").text_content()
    assert page.evaluate("turns.length") == 0, "what was not answered isn't carried along"
    (light, ink), _ = colours(page), page.click("#theme")
    dark, pale = colours(page)
    assert min(light) > 200 > 100 > max(ink) and max(dark) < 60 < 180 < min(pale)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing reaches beyond a phone's width"
    named = "[...document.querySelectorAll('button, select, textarea, input')].filter((e) => e.offsetParent !== null)"
    unnamed = page.evaluate(f"{named}.filter((e) => !(e.labels?.length || e.ariaLabel || e.textContent.trim())).length")
    assert unnamed == 0 and page.evaluate("[...document.images].every((image) => image.alt)")


def test_pictures_can_be_dropped_and_pasted(page: Any) -> None:
    for kind, carrier in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(
            """([kind, carrier]) => {
                const held = new DataTransfer();
                held.items.add(new File([new Uint8Array([1])], `${kind}.png`, { type: "image/png" }));
                const event = new Event(kind, { bubbles: true, cancelable: true });
                Object.defineProperty(event, carrier, { value: held });
                document.body.dispatchEvent(event);
            }""",
            [kind, carrier],
        )
        page.wait_for_selector(f"#tray img[alt='{kind}.png']", state="attached")
    assert page.locator("#camera").get_attribute("capture") == "environment"
    page.get_by_label("Remove drop.png").click()
    assert page.locator("#tray li").count() == 1
