"""What can be wrong with a submission, in one table."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from base.errors import listed

ERROR, WARNING = "error", "warning"
SHOWN = 4  # findings of one kind that are printed, and files named for each

# What must hold. A broken law is a problem of that kind.
KINDS = {
    "archive": "a whole zip, no larger than its tiles can need",
    "encrypted": "no entry needs a password",
    "path": "entries are plain files with relative paths, '/' between folders and no '..'",
    "folder": "every file lies in submission.folder",
    "misnamed": "every file is called after its test tile",
    "extra": "nothing but the test tiles is in it",
    "duplicate": "every test tile is in it once",
    "missing": "every test tile is in it",
    "oversized": "no file unpacks to more than a label tile can need",
    "unreadable": "every file is whole and of the format that its name says",
    "mode": "one band of 8 bits, grey, without palette; RGB for `color_png`",
    "size": "every tile has its image's height and width",
    "georeference": "every tile lies where its image lies",
    "rows": "the csv has its header and, per row, a tile, a class label and runs",
    "runs": "runs are pairs of start and length, 1-based, ascending, and cover every pixel once",
    "zero_based": "values are labels, not indices 0..C-1; runs start at pixel 1, not 0",
    "labels": "every value is the label, or the colour, of a class",
    "constant": "tiles are not all one class",
    "shifted": "class shares are not those of the neighbouring labels",
    "shares": "class shares are near those of the out-of-fold labels",
    "copies": "different images have different masks",
}
# A zip can be in perfect form and still hold nonsense. These kinds are judged from statistics: they are shouted, but
# they do not keep the zip of an untrained network from being written.
CONTENT = ("constant", "shifted", "shares", "copies")


@dataclass(frozen=True)
class Problem:
    kind: str
    """A key of KINDS."""
    what: str
    """What was found."""
    where: str = ""
    """The entry of the zip; empty: the submission as a whole."""
    severity: str = ERROR
    """error or warning."""


class FlawError(Exception):
    """One entry is wrong: raised by decoders, turned into a `Problem` by whoever knows the entry's name."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind = kind
        self.what = what

    def at(self, where: str) -> Problem:
        return Problem(self.kind, self.what, where)


def describe(problems: Iterable[Problem]) -> list[str]:
    """Lines such as "error: size: 32x32; its image is 64x64 (2 files: a.png, b.png)", in the order of KINDS.

    Findings of one kind beyond SHOWN are counted: a thousand spoiled tiles fit a screen.
    """
    by_kind: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for problem in problems:
        by_kind[problem.kind, problem.severity][problem.what].append(problem.where)
    lines = []
    for kind, severity in sorted(by_kind, key=lambda key: list(KINDS).index(key[0])):
        findings = sorted(by_kind[kind, severity].items(), key=lambda finding: -len(finding[1]))
        for what, where in findings[:SHOWN]:
            files = f" ({len(where)} files: {listed(where, SHOWN)})" if any(where) else ""
            lines.append(f"{severity}: {kind}: {what}{files}".replace("(1 files", "(1 file"))
        if len(findings) > SHOWN:
            more = sum(len(where) for _, where in findings[SHOWN:])
            lines.append(f"{severity}: {kind}: {more} more files with other findings of this kind")
    return lines
