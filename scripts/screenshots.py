"""Pictures for the documentation, of a report or of the page of python -m reports.browse:

python scripts/screenshots.py runs/demo/report.html docs/img
python scripts/screenshots.py "http://127.0.0.1:8050/?class=construction" docs/img
"""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

# name, width and height in px, theme, the heading at the top of the picture
REPORT = [
    ("report-data", 1180, 1000, "light", None),
    ("report-oof", 1180, 1000, "light", "#oof"),
    ("report-tiles", 1180, 1000, "light", "#tiles"),
    ("report-dark", 1180, 1000, "dark", "#folds"),
    ("report-phone", 390, 844, "dark", "#oof"),
]
BROWSE = [
    ("report-browse", 1400, 1000, "light", None),
]


def main(page: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    is_served = page.startswith("http://")
    address = page if is_served else Path(page).resolve().as_uri()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for name, width, height, theme, at in BROWSE if is_served else REPORT:
            tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
            tab.goto(address)
            tab.wait_for_selector("img")
            tab.evaluate("document.querySelectorAll('img').forEach(each => { each.loading = 'eager'; })")
            tab.wait_for_load_state("networkidle")
            if at:
                tab.add_style_tag(content="html { scroll-behavior: auto !important; }")
                tab.evaluate(f"document.querySelector('{at}').scrollIntoView()")
            tab.wait_for_timeout(300)
            tab.screenshot(path=folder / f"{name}.png")
            tab.close()
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
