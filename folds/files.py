"""Which files are the tiles of a data set: images, the masks that belong to them, and the names of both."""

import glob
import os
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from base.errors import UserError, counted, listed, refuse_all
from config.data import NAME, Data


def find_tiles(data: Data) -> pd.DataFrame:
    """The files of a data set, sorted by name: columns name, split, image, mask; paths relative to `data.root`.

    A file that both `train_images` and `train_masks` match is what the longer of the two says: a_mask.png beside a.png.

    Raises:
        UserError: no image, an image without mask, a mask without image, a link that leads nowhere, or a name that
            stands for two files.
    """
    root = Path(data.root)
    image_paths, mask_paths = _apart(_matches(root, data.train_images), _matches(root, data.train_masks), data)
    test_paths = _matches(root, data.test_images) if data.test_images else []
    remedy = "draw them: python -m folds.landscape --config FILE" if data.generate else "set data.root=DIR"
    problems = [
        f"no {split} tiles: nothing matches {pattern} in {root.absolute()}{_why(root, pattern)}; {remedy}"
        for split, pattern, paths in (("train", data.train_images, image_paths), ("test", data.test_images, test_paths))
        if pattern and not paths
    ]
    if problems:
        raise UserError("; ".join(problems))
    _refuse_other_encodings(root, [*image_paths, *mask_paths, *test_paths])
    images, masks = _by_name(data.train_images, image_paths), _by_name(data.train_masks, mask_paths)
    test = _by_name(data.test_images, test_paths) if data.test_images else {}
    problems = _several(images, masks, test)
    gone = [path for path in (*image_paths, *mask_paths, *test_paths) if not (root / path).exists()]
    if gone:
        problems.append(
            f"{len(gone)} files are links that lead nowhere: {listed(gone)}; fetch what they stand for, as with "
            f"git annex get or dvc pull"
        )
    lone_images = [paths[0] for name, paths in images.items() if name not in masks]
    lone_masks = [paths[0] for name, paths in masks.items() if name not in images]
    if lone_images:
        problems.append(f"{len(lone_images)} images have no mask {data.train_masks}: {listed(lone_images)}")
    if lone_masks:
        problems.append(f"{len(lone_masks)} masks have no image {data.train_images}: {listed(lone_masks)}")
    refuse_all(f"tiles in {root}", problems)
    rows = [(name, "train", paths[0], masks[name][0]) for name, paths in images.items()]
    rows += [(name, "test", paths[0], None) for name, paths in test.items()]
    return pd.DataFrame(rows, columns=["name", "split", "image", "mask"])


def full_names(tiles: pd.DataFrame) -> np.ndarray:
    """(N,) str: split/name, since a test tile may have the name of a train tile."""
    return (tiles.split + "/" + tiles.name).to_numpy(str)


def find_test_masks(data: Data, names: list[str]) -> dict[str, str]:
    """Test tile -> the mask that `data.test_masks` has of it, relative to `data.root`.

    Raises:
        UserError: no `data.test_masks`, or tiles that have none or several.
    """
    if data.test_masks is None:
        raise UserError("data.test_masks is not set: there are no test labels to score against")
    root = Path(data.root)
    found = _by_name(data.test_masks, _matches(root, data.test_masks))
    missing = [name for name in names if name not in found]
    problems = [f"{len(missing)} test tiles have no mask {data.test_masks}: {listed(missing)}"] if missing else []
    problems += _several({name: found[name] for name in names if name in found})
    refuse_all(str(root), problems)
    return {name: found[name][0] for name in names}


def as_glob(pattern: str) -> str:
    return pattern.replace(NAME, "*")


def _apart(image_paths: list[str], mask_paths: list[str], data: Data) -> tuple[list[str], list[str]]:
    """Images and masks, where a file that both patterns match belongs to the longer one."""
    if len(as_glob(data.train_masks)) > len(as_glob(data.train_images)):
        masks = set(mask_paths)
        return [path for path in image_paths if path not in masks], mask_paths
    images = set(image_paths)
    return image_paths, [path for path in mask_paths if path not in images]


def _by_name(pattern: str, paths: list[str]) -> dict[str, list[str]]:
    """Paths that match a pattern by the name that each stands for, sorted by name."""
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(_name(pattern, path), []).append(path)
    return dict(sorted(found.items()))


def _refuse_other_encodings(root: Path, paths: list[str]) -> None:
    """Names that no table could hold: Python has lone surrogates in the place of bytes that are no UTF-8."""
    odd = [path for path in paths if any("\ud800" <= sign <= "\udfff" for sign in path)]
    if odd:
        shown = listed(os.fsencode(path).decode("utf-8", "backslashreplace") for path in odd)
        raise UserError(f"{root}: {len(odd)} file names are no UTF-8: {shown}; rename the files, as convmv does")


def _several(*found: dict[str, list[str]]) -> list[str]:
    """One problem that lists each name of several files once: where images have it twice, masks mostly do too."""
    paths_of: dict[str, list[str]] = {}
    for paths_by_name in found:
        for name, paths in paths_by_name.items():
            if len(paths) > 1:
                paths_of.setdefault(name, paths)
    if not paths_of:
        return []
    twice = [f"{name} ({' and '.join(paths)})" for name, paths in paths_of.items()]
    remedy = "a name must be unique over all folders: rename the files, or link them into one folder"
    return [f"{counted(len(twice), 'name')} of several files: {listed(twice, 3)}; {remedy}"]


def _name(pattern: str, path: str) -> str:
    """What stands for {name} in a path; the file's stem where the pattern has no {name}."""
    parts, found = PurePosixPath(pattern).parts, PurePosixPath(path).parts
    back = next((len(parts) - at for at, part in enumerate(parts) if NAME in part), None)  # ** stands before it, if any
    if back is None:
        return PurePosixPath(path).stem
    before, after = parts[-back].split(NAME)
    return found[-back].removeprefix(before).removesuffix(after)


def _matches(root: Path, pattern: str) -> list[str]:
    # Sorted and with forward slashes: the same table on every file system and operating system.
    return sorted(Path(path).as_posix() for path in glob.glob(as_glob(pattern), root_dir=root, recursive=True))


def _why(root: Path, pattern: str) -> str:
    """What keeps a folder from being looked into, if that is the reason."""
    folder = root
    for part in Path(as_glob(pattern)).parent.parts:
        if any(sign in part for sign in "*?["):
            break
        folder /= part
        if not folder.is_dir():
            break
    if not folder.exists():
        return f" (there is no {folder})"
    return "" if os.access(folder, os.R_OK | os.X_OK) else f" (no permission to read {folder})"
