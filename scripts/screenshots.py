"""Pictures of a report for the documentation:   python scripts/screenshots.py runs/demo/report.html docs"""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

# name, width and height in px, theme, the heading at the top of the picture
SHOTS = [
    ("report-data", 1180, 1000, "light", None),
    ("report-oof", 1180, 1000, "light", "#oof"),
    ("report-tiles", 1180, 1000, "light", "#tiles"),
    ("report-dark", 1180, 1000, "dark", "#folds"),
    ("report-phone", 390, 844, "dark", "#oof"),
]


def main(report: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for name, width, height, theme, at in SHOTS:
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
            page.goto(report.resolve().as_uri())
            page.evaluate("document.querySelectorAll('img').forEach(each => { each.loading = 'eager'; })")
            page.wait_for_load_state("networkidle")
            if at:
                page.add_style_tag(content="html { scroll-behavior: auto !important; }")
                page.evaluate(f"document.querySelector('{at}').scrollIntoView()")
            page.wait_for_timeout(300)
            page.screenshot(path=folder / f"{name}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
