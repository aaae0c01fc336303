"""One command line for every stage: `python -m folds.assign --config FILE key=value ...`.

Exit codes: 0 done; 2 something the person can mend (one line `error: ...` on stderr); 3 some jobs failed; 130 stopped
by Ctrl-C (also one line); 1 a bug of ours, with its traceback.
"""

import argparse
import errno
import io
import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from base.errors import UserError
from base.files import write_json

DEFAULT_CONFIG = "configs/demo.yaml"
HELP_COLUMNS = 100

# What a person can mend outside the program. Any other OSError is a bug until proven otherwise.
MENDABLE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "no file may be that large here (ulimit -f, or the file system)",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EISDIR: "a folder stands where a file is needed",
    errno.EEXIST: "a file stands where a folder is needed",
}


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Prose of a docstring is filled to the screen, HELP_COLUMNS at most; tables and examples stay as written."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        width = min(width, HELP_COLUMNS)
        paragraphs = [
            # Two blanks in a row: columns, or an indented command.
            part if "  " in part else textwrap.fill(part, width, break_long_words=False, break_on_hyphens=False)
            for part in text.strip().split("\n\n")
        ]
        return "\n\n".join(paragraphs)


def plain_parser(module: str, what: str) -> argparse.ArgumentParser:
    """The parser of a command that reads no experiment, as `stage_parser` is of those that do."""
    return argparse.ArgumentParser(prog=f"python -m {module}", description=what, formatter_class=HelpFormatter)


def stage_parser(module: str, what: str, example: str = "", operands: str = "") -> argparse.ArgumentParser:
    """The parser that all stages share: `--config FILE` and `key=value` overrides; a stage adds its own to it.

    Args:
        module: as a person types it, "folds.assign".
        what: the first line of the help.
        example: the rest of an example command line, after `python -m MODULE --config FILE`.
        operands: names of the words that are no overrides, as in "ZIP"; `split_operands` takes them out.
    """
    command = f"python -m {module} --config {DEFAULT_CONFIG} {example}".strip()
    parser = plain_parser(module, what)
    parser.epilog = f"example:\n  {command}"
    parser.add_argument("--config", default=DEFAULT_CONFIG, metavar="FILE", help="experiment (default: %(default)s)")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar=f"{operands} key=value".strip(),
        help=f"{operands}{operands and ', and '}changes of any key of the experiment, as in train.epochs=3",
    )
    return parser


def split_operands(words: list[str], *counts: int) -> tuple[list[str], list[str]]:
    """The words without "=" and the overrides among the positional words of a command.

    Not positionals of argparse: next to `overrides`, which takes any number, it cannot tell which is which.

    Args:
        counts: how many operands there may be.

    Raises:
        UserError: another number of operands.
    """
    operands = [word for word in words if "=" not in word]
    if len(operands) not in counts:
        expected = " or ".join(map(str, counts))
        found = f"found {len(operands)} ({' '.join(operands)})" if operands else "found none"
        raise UserError(f"expected {expected} words that are no key=value, {found}; see --help")
    return operands, [word for word in words if "=" in word]


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", help="also write the figures to FILE")


def write_figures(path: str | None, figures: dict[str, Any]) -> None:
    """The `--json FILE` of a command that prints figures; nothing when the option was not given."""
    if path:
        write_json(Path(path), figures)


def run(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and leave with its exit code. Errors of the user's become one line on stderr.

    What stdout's encoding lacks is printed as "?": no sign in a table may end a command before its results are written.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # stderr writes such letters as escapes by itself
        sys.stdout.reconfigure(errors="replace")
    try:
        code = main() or 0
        sys.stdout.flush()
    except UserError as error:
        code = _fail(str(error))
    except KeyboardInterrupt:
        code = _fail("stopped by the keyboard; run the same command again to go on", code=130)
    except BrokenPipeError:  # `... | head` closed our output: no error, and nothing more to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        code = _fail(f"{error.filename or 'writing'}: {MENDABLE[error.errno]}; nothing half-written was left behind")
    sys.exit(code)


def _fail(message: str, code: int = 2) -> int:
    sys.stdout.flush()
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    called_in, here = os.environ.get("FOLDSCAPE_CALLED_IN"), Path.cwd()
    if called_in and f"{here}/" in message:
        print(f"relative paths, in the config and in key=value, are of {here}, not of {called_in}", file=sys.stderr)
    return code
