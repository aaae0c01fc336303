"""Sections -> one HTML file that needs nothing else, and the same figures as PNG files."""

import base64
from collections.abc import Callable, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from base.errors import UserError
from base.files import whole_file, write_text
from reports.figures import DARK, LIGHT
from reports.material import Material
from reports.page import Facts, Figure, Gallery, Note, Part, Section, TableView
from reports.pictures import contact_sheet

TEMPLATES = Path(__file__).parent / "templates"
FOLDER = "report"  # of a run: its pictures, and pages of single sections
KINDS = {Note: "note", Facts: "facts", Figure: "figure", Gallery: "gallery", TableView: "table"}


def built(name: str, title: str, build: Callable[[Material], Section], material: Material) -> Section:
    """A section; where its results are not there yet, one that says so and what to run."""
    try:
        return build(material)
    except UserError as error:
        return Section(name, title, "", [Note(str(error), "missing")])


def render(sections: Sequence[Section], title: str, summary: Facts, footer: str) -> str:
    """The page."""
    inlined = {"style": Markup(stylesheet("style.css")), "script": Markup(text_of("sort.js"))}
    page = templates().get_template("report.html.j2")
    return page.render(sections=sections, title=title, summary=summary, footer=footer, **inlined)


def templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"kind_of": lambda part: KINDS[type(part)]}
    environment.filters |= {"uri": data_uri, "svg_uri": lambda svg: data_uri(svg.encode(), "image/svg+xml")}
    return environment


def text_of(name: str) -> str:
    """A file of the templates as it is."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def stylesheet(*names: str) -> str:
    """Style files, after the colours of both themes as variables; paper is always light."""
    light, dark = ("".join(f"--{role}: {color}; " for role, color in theme.items()) for theme in (LIGHT, DARK))
    themes = f":root {{ {light}}}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark}}} }}\n"
    return themes + "".join(text_of(name) for name in names)


def write_page(path: Path, html: str) -> None:
    write_text(path, html)


def write_pngs(folder: Path, sections: Sequence[Section]) -> list[Path]:
    """Every figure and gallery of the sections as a PNG file; returns their paths.

    Pictures that a section had before and has no more are removed: they would be taken for those of now.
    """
    paths = [_write(folder / f"{part.name}.png", data) for part, data in _pngs(sections)]
    for section in sections:
        for old in set(folder.glob(f"{section.name}-*.png")).difference(paths):
            old.unlink()
    return paths


def _pngs(sections: Sequence[Section]) -> list[tuple[Figure | Gallery, bytes]]:
    parts: list[Part] = [part for section in sections for part in section.parts]
    figures = [(part, part.png) for part in parts if isinstance(part, Figure)]
    return figures + [(part, contact_sheet(part.strips)) for part in parts if isinstance(part, Gallery)]


def _write(path: Path, data: bytes) -> Path:
    with whole_file(path) as aside:
        aside.write_bytes(data)
    return path


def data_uri(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"
