"""Pages looked at in a real browser: Debian's chromium, where it is installed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CHROMIUM = Path("/usr/bin/chromium")


@contextmanager
def open_browser() -> Iterator[Any]:
    """A browser of playwright's; skips the test, with the reason, where there is none."""
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install -r requirements-dev.txt")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield opened
        opened.close()


def open_tab(browser: Any, width: int, theme: str = "light", **settings: Any) -> tuple[Any, list[str]]:
    """(an empty tab of a given width and theme, the list of what it will complain of)."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, **settings)
    tab = context.new_page()
    tab.set_default_timeout(180_000)  # a busy machine is no fault of the page's
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    return tab, complaints


def luminance(color: str) -> float:
    """Relative luminance of "#rrggbb" (WCAG 2.2)."""
    channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def contrast(one: str, other: str) -> float:
    """Between two colours, 1 to 21 (WCAG 2.2)."""
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def text_colors(tab: Any) -> tuple[list[str], str]:
    """The computed colours of all texts of a page, and the colour behind them; "#rrggbb"."""
    colors, behind = tab.evaluate(
        """() => {
            const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
            const colors = new Set();
            while (texts.nextNode()) {
                const parent = texts.currentNode.parentElement;
                if (texts.currentNode.data.trim() && !parent.closest('script, style')) {
                    colors.add(getComputedStyle(parent).color);
                }
            }
            return [[...colors], getComputedStyle(document.body).backgroundColor];
        }"""
    )
    return [_hexed(color) for color in colors], _hexed(behind)


def _hexed(color: str) -> str:
    return "#" + "".join(f"{int(part):02x}" for part in re.findall(r"\d+", color)[:3])
