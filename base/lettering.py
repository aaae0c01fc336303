"""Names in drawings: as they are written, no mathematics, and in a font that has their letters where there is one."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import matplotlib as mpl
from matplotlib.font_manager import fontManager

FONT = "DejaVu Sans"  # comes with matplotlib
# Asked in this order for letters that it lacks: what systems usually have for Chinese, Japanese and Korean.
FALLBACKS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei", "Droid Sans Fallback", "Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB",
    "Heiti SC", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS",
)  # fmt: skip
NO_LETTER = "Glyph .* missing from font"  # as matplotlib warns, once for each letter and drawing


@contextmanager
def lettering() -> Iterator[None]:
    """For drawing inside a `with`. Where no font has a letter, that is said once, and not for each.

    Ticks of a logarithmic axis, which matplotlib writes as mathematics, need a formatter of their own here.
    """
    installed = {font.name for font in fontManager.ttflist}  # for any other, matplotlib warns at each text
    families = [FONT, *(font for font in FALLBACKS if font in installed)]
    with (
        mpl.rc_context({"text.parse_math": False, "font.family": families}),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.filterwarnings("always", message=NO_LETTER)
        yield
    for each in caught:
        if "missing from font" not in str(each.message):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
        else:
            _say_that_letters_miss()


@cache
def _say_that_letters_miss() -> None:
    print(
        "no installed font has the letters of some names: they are boxes in the PNG files, and letters on the page. "
        f"A font that has them, such as Noto Sans CJK, is seen after: rm {mpl.get_cachedir()}/fontlist*.json",
        file=sys.stderr,
    )
