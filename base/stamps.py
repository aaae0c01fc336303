"""What a result was made from: the keys and the input files, written beside it, compared before it is used.

A stamp stands in `stamp.json` inside a result that is a folder, in `NAME.stamp.json` beside one that is a file. It is
written without outputs when a long stage begins, and with their hashes when it has ended.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from base.files import hash_file, read_json, write_json


@dataclass(frozen=True)
class Stamp:
    keys: dict[str, Any]
    """Flat experiment keys and their values."""
    inputs: dict[str, str]
    """Input name -> sha256."""
    outputs: dict[str, str] = field(default_factory=dict)
    """Output file name -> sha256; empty until the stage has ended."""

    @property
    def finished(self) -> bool:
        return bool(self.outputs)

    def differences(self, keys: dict[str, Any], inputs: dict[str, str]) -> list[str]:
        """What would be different if the result were made now, as "train.lr 0.001 -> 0.002"; empty: nothing."""
        changed = [
            f"{key} {_shown(self.keys, key)} -> {_shown(keys, key)}"
            for key in sorted(self.keys.keys() | keys.keys())
            if self.keys.get(key) != keys.get(key)
        ]
        gone = [f"{name} is no part of it any more" for name in sorted(self.inputs.keys() - inputs.keys())]
        other = [f"{name} has other content" for name in inputs if self.inputs.get(name) != inputs[name]]
        return changed + gone + other


def stamp_path(artifact: Path, is_folder: bool) -> Path:
    return artifact / "stamp.json" if is_folder else artifact.with_name(artifact.name + ".stamp.json")


def write_stamp(path: Path, stamp: Stamp) -> None:
    write_json(path, asdict(stamp))


def read_stamp(path: Path) -> Stamp | None:
    return Stamp(**read_json(path)) if path.exists() else None


def hash_files(paths: list[Path]) -> dict[str, str]:
    """sha256 of each file that exists, by file name."""
    return {path.name: hash_file(path) for path in paths if path.exists()}


def _shown(keys: dict[str, Any], key: str) -> str:
    return "(none)" if key not in keys else str(keys[key])
