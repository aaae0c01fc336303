"""What an audit finds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from config.data import AuditError


@dataclass(frozen=True)
class Finding:
    kind: str
    severity: Literal["error", "warning"]
    """An error stops the run unless `folds.allow` names its kind."""
    what: str
    tiles: list[str] = field(default_factory=list)
    """All tiles tiles_of_pairs, as split/name."""


def error(kind: AuditError, what: str, tiles: Sequence[str] = ()) -> Finding:
    return Finding(kind, "error", what, list(tiles))


def tiles_of_pairs(tile_names: np.ndarray, a_P: np.ndarray, b_P: np.ndarray) -> list[str]:
    """The tiles of pairs, each once."""
    return np.unique(tile_names[np.concatenate([a_P, b_P])]).tolist()
