"""One look for all drawings. They are drawn once in light colours; on the page those become variables of its theme."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import NullFormatter

from base.lettering import lettering
from reports.page import Figure

# Light theme. Each is used for nothing else, so that `_themed` can tell them apart in the SVG. All text colours have a
# contrast of at least 4.5 on the surface of their theme; tests/test_reports.py computes it.
LIGHT = {
    "ink": "#1f2a37", "muted": "#55606f", "grid": "#dde2e7", "surface": "#fdfdfc", "accent": "#0f6b5c",
    "accent2": "#b4541a", "blue": "#4567ad", "plum": "#a0417f", "olive": "#7d6e15", "sky": "#2a7690",
    "violet": "#7a589f", "slate": "#637082",
}  # fmt: skip
DARK = {
    "ink": "#e6eaee", "muted": "#a3aeba", "grid": "#343d47", "surface": "#171c21", "accent": "#5cc7b2",
    "accent2": "#f0a36b", "blue": "#8fb0f0", "plum": "#e291c6", "olive": "#cfc05c", "sky": "#7cc5de",
    "violet": "#c0a3e3", "slate": "#a9b5c4",
}  # fmt: skip
INK, MUTED, GRID, SURFACE, ACCENT, ACCENT2, *OTHERS = LIGHT.values()
# Lines that are no class: told apart in both themes, and with the marks beside them also by the colour-blind.
SERIES = (ACCENT, ACCENT2, *OTHERS)
MARKS = "osD^vPX*"
FONT = "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', 'DejaVu Sans', sans-serif"
HEAT = LinearSegmentedColormap.from_list("calm", ["#f4f6f5", "#b9d9d0", "#5ba896", "#17705f", "#0b4038"])
DPI = 144
WIDTH = 10.0  # inches of a drawing that fills the page

RC = {
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.facecolor": SURFACE,
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.solid_capstyle": "round",
    "savefig.facecolor": SURFACE,
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": GRID,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.color": GRID,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 9,
}


@contextmanager
def look() -> Iterator[None]:
    """The style, for drawing inside a `with`; other drawings of the process keep theirs."""
    with mpl.rc_context(RC), lettering():
        yield


def canvas(width_in: float, height_in: float) -> Canvas:
    """An empty drawing; inches at 96 px on the page."""
    return Canvas(figsize=(width_in, height_in), layout="constrained")


def finish(drawn: Canvas, name: str, title: str, alt: str, caption: str = "") -> Figure:
    """The drawing as SVG and PNG. Call it inside `look()`."""
    svg, png = io.StringIO(), io.BytesIO()
    drawn.draw_without_rendering()
    drawn.set_layout_engine("none")  # the layout stands: working it out again for each format takes half of the time
    with mpl.rc_context({"svg.hashsalt": name}):  # without it, names inside the file are random
        drawn.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    drawn.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    width, height = (round(side * 96) for side in drawn.get_size_inches())
    return Figure(name, title, alt, caption, _themed(svg.getvalue()), png.getvalue(), (width, height))


def css(color: tuple[int, int, int]) -> str:
    """A colour of the class table as CSS."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def unit(color: tuple[int, int, int]) -> tuple[float, ...]:
    """A colour of the class table for matplotlib."""
    return tuple(value / 255 for value in color)


def color_and_mark(n: int) -> tuple[str, str]:
    """Of the n-th of several series; no two of the first 64 share both."""
    return SERIES[n % len(SERIES)], MARKS[(n + n // len(SERIES)) % len(MARKS)]


def text_on(color: tuple[float, ...]) -> str:
    """Black or white, whichever stands out more from a colour (red, green, blue in 0..1): at least 4.58 to 1."""
    channels = np.array(color[:3])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)  # WCAG 2.2
    return "#000000" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "#ffffff"


def name_axis(axes: Axes, names: tuple[str, ...] | list[str]) -> None:
    """Names down the y axis, the first on top, no grid along it."""
    axes.set_yticks(np.arange(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def share_floor(shares: np.ndarray) -> float:
    """Where a log axis of shares begins: a decade below the smallest one, whose bar so has a length too."""
    return max(shares[shares > 0].min(), 1e-6) / 10


def share_axis(axes: Axes, begin: float) -> None:
    """Shares along the x axis from `begin` to all, on a log scale, in percent."""
    axes.set_xscale("log")
    axes.set_xlim(begin, 1.15)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axes.xaxis.set_minor_formatter(NullFormatter())  # of few decades matplotlib names the steps between, in TeX


def _themed(svg: str) -> str:
    """Colours of the look -> CSS variables, which the SVG sets itself for light and dark; the page's fonts."""
    for role, color in LIGHT.items():
        svg = svg.replace(color, f"var(--{role})")
    svg = svg.replace("'DejaVu Sans'", FONT)
    light, dark = ("".join(f"--{role}:{color};" for role, color in theme.items()) for theme in (LIGHT, DARK))
    style = f"<style>svg{{{light}}}@media screen and (prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    head, tail = svg[svg.index("<svg") :].split(">", 1)
    return f"{head}>{style}{tail}"
