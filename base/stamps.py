"""What a result was made from: the keys and the input files, written beside it, compared before it is used.

A stamp stands in `stamp.json` inside a result that is a folder, in `NAME.stamp.json` beside one that is a file. It is
written without outputs when a long stage begins, and with their hashes when it has ended.
"""

from abc import ABC, abstractmethod
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
        gone = [f"{name} is no part of it any more" for name in sorted(self.inputs.keys() - inputs.keys())]
        other = [f"{name} has other content" for name in inputs if self.inputs.get(name) != inputs[name]]
        return changes(self.keys, keys) + gone + other


@dataclass(frozen=True)
class Result(ABC):
    """What a stage makes: where it lies, and from what it would be made now. A `FileResult` or a `FolderResult`."""

    path: Path
    keys: dict[str, Any]
    inputs: dict[str, str]

    @property
    @abstractmethod
    def stamp_path(self) -> Path:
        """Where it is said what it was made from."""

    def is_fresh(self) -> bool:
        """Whether it is whole and would come out the same now."""
        stamp = read_stamp(self.stamp_path)
        whole = stamp is not None and stamp.finished and self.path.exists()
        return whole and not stamp.differences(self.keys, self.inputs)

    def begin(self) -> None:
        """Say from what it is about to be made, so that a half-made one is never taken for another."""
        self._write_stamp({})

    def _write_stamp(self, outputs: dict[str, str]) -> None:
        write_json(self.stamp_path, asdict(Stamp(self.keys, self.inputs, outputs)))


class FileResult(Result):
    """One file; an edited one is not fresh."""

    @property
    def stamp_path(self) -> Path:
        return file_stamp(self.path)

    def is_fresh(self) -> bool:
        return super().is_fresh() and read_stamp(self.stamp_path).outputs.get(self.path.name) == hash_file(self.path)

    def finish(self) -> None:
        """Say that it is whole."""
        self._write_stamp(hash_files([self.path]))


class FolderResult(Result):
    """A folder; whether its files are as they were written is asked by who reads them."""

    @property
    def stamp_path(self) -> Path:
        return folder_stamp(self.path)

    def finish(self, outputs: list[Path]) -> None:
        """Say that it is whole, and which of its files it is made of."""
        self._write_stamp(hash_files(outputs))


def file_stamp(path: Path) -> Path:
    return path.with_name(path.name + ".stamp.json")


def folder_stamp(path: Path) -> Path:
    return path / "stamp.json"


def read_stamp(path: Path) -> Stamp | None:
    return Stamp(**read_json(path)) if path.exists() else None


def hash_files(paths: list[Path]) -> dict[str, str]:
    """sha256 of each file that exists, by file name."""
    return {path.name: hash_file(path) for path in paths if path.exists()}


def changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Flat keys whose values differ, as "train.lr 0.001 -> 0.002"."""
    return [
        f"{key} {then.get(key, '(none)')} -> {now.get(key, '(none)')}"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key)
    ]
