"""What a person can mend is a `UserError`: one line, `error: what was found; what was expected; what to run`.

Everything else that is raised is a bug of ours and keeps its traceback.
"""

import difflib
from collections.abc import Iterable, Sequence

SHOWN = 10  # offenders named in a message; the rest is a count


class UserError(Exception):
    """A mistake in data, configuration or order of commands. `base.command.run` prints it and exits with 2."""


def listed(items: Iterable[object], shown: int = SHOWN) -> str:
    """The first `shown` items joined by commas, and how many more there are: "a, b and 12 more"."""
    names = [str(item) for item in items]
    head = ", ".join(names[:shown])
    return head if len(names) <= shown else f"{head} and {len(names) - shown} more"


def counted(number: int, noun: str) -> str:
    """ "1 tile", "2 tiles"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def refuse_all(headline: str, problems: Sequence[str]) -> None:
    """Raise one `UserError` that lists every problem; do nothing when there is none."""
    if problems:
        shown = "; ".join(problems[:SHOWN])
        more = "" if len(problems) <= SHOWN else f"; and {len(problems) - SHOWN} more"
        raise UserError(f"{headline}: {shown}{more}")


def nearest(name: str, known: Sequence[str]) -> str:
    """ "; did you mean X?" for a name that nearly is one of `known`, else the list of them."""
    same = [each for each in known if each.lower() == name.lower()]
    close = same or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"
