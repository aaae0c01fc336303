"""What an audit finds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from base.errors import counted, listed
from config.data import AuditError


@dataclass(frozen=True)
class Finding:
    kind: str
    severity: Literal["error", "warning"]
    """An error stops the run unless `folds.allow` names its kind."""
    what: str
    tiles: list[str] = field(default_factory=list)
    """All tiles that it concerns, as split/name."""


def error(kind: AuditError, what: str, tiles: Sequence[str] = ()) -> Finding:
    return Finding(kind, "error", what, list(tiles))


def warning(kind: str, what: str, tiles: Sequence[str] = ()) -> Finding:
    return Finding(kind, "warning", what, list(tiles))


def tiles_warning(kind: str, tiles: np.ndarray, noun: str, what: str, remedy: str = "") -> list[Finding]:
    """A warning that says how many tiles it concerns, and names the first; none if there are no such tiles.

    Args:
        noun: one of them.
        what: of one or several, what is the matter with them.
    """
    concerned = tiles.tolist()
    said = f"{counted(len(concerned), noun)} {what}: {listed(concerned, 5)}{remedy}"
    return [warning(kind, said, concerned)] if concerned else []


def tiles_of_pairs(tile_names: np.ndarray, pairs_P2: np.ndarray) -> list[str]:
    """The tiles of pairs, each once."""
    return np.unique(tile_names[pairs_P2]).tolist()
