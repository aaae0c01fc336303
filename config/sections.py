"""How sections nest: laying one set of keys over another, and saying where in them a mistake is."""

import difflib
import re
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from base.errors import nearest

Kinds = list[type[BaseModel]]  # the classes that a section can be: one, or several told apart by `name`


def kinds_in(annotation: Any) -> Kinds:
    """The section classes inside an annotation such as `list[Model]`, `Landscape | None` or `Constant | Poly`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for inner in get_args(annotation) for kind in kinds_in(inner)]


def kinds_at(kinds: Kinds, key: str) -> Kinds:
    """The classes of the section under a key of a section; none for a plain value."""
    fields = [kind.model_fields[key] for kind in kinds if key in kind.model_fields]
    return kinds_in(fields[0].annotation) if fields else []


def names_of(kind: type[BaseModel]) -> list[str]:
    """The values of `name` that stand for one class of a section that comes in kinds."""
    return list(get_args(kind.model_fields["name"].annotation))


def merged(under: dict[str, Any], over: dict[str, Any], kinds: Kinds) -> dict[str, Any]:
    """`over` laid on `under`, both raw keys of the section `kinds`: sections merge, all else (lists too) is replaced.

    A section whose kind changes is replaced as a whole: keys of the old kind would be unknown to the new one.
    """
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        inner = kinds_at(kinds, key)
        both_sections = isinstance(value, dict) and isinstance(below, dict)
        if both_sections and not changes_kind(below, value, inner):
            result[key] = merged(below, value, inner)
        else:
            result[key] = value
    return result


def changes_kind(under: dict[str, Any], over: dict[str, Any], kinds: Kinds) -> bool:
    """Whether `over` names another kind than `under`; one that names none keeps the kind."""
    return len(kinds) > 1 and "name" in over and over["name"] != under.get("name")


def mistakes(section: type[BaseModel], error: ValidationError, at: str = "") -> list[str]:
    """What pydantic found, as "train.optmizer: unknown key; did you mean train.optimizer?", once for each path.

    Args:
        at: where the section stands, with a dot behind: "models.unet.train."
    """
    by_path: dict[str, str] = {}
    for each in error.errors():
        parts, kinds = _walk(section, each["loc"])
        path = at + ".".join(parts)
        # A value that can be of several types is found wrong once for each: the first is enough.
        by_path.setdefault(path, _explain(each, path, kinds))
    return list(by_path.values())


def _explain(error: Any, path: str, kinds: Kinds) -> str:
    """One mistake; `kinds` are the classes of the section that the path's last key stands in."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        last = str(error["loc"][-1])
        prefix = path.removesuffix(last)
        known = sorted({name for each in kinds for name in each.model_fields})
        close = difflib.get_close_matches(last, known, n=1, cutoff=0.5)
        return f"{path}: unknown key" + (f"; did you mean {prefix}{close[0]}?" if close else nearest(last, known))
    if kind == "missing":
        return f"{path}: missing"
    if kind == "union_tag_not_found":
        return f"{path}.name: missing"
    if kind == "union_tag_invalid":
        return f"{path}.name: unknown {context['tag']!r}{nearest(context['tag'], _quoted(context['expected_tags']))}"
    if kind == "literal_error":
        return f"{path}: unknown {error['input']!r}{nearest(str(error['input']), _quoted(context['expected']))}"
    if kind in ("model_type", "model_attributes_type"):
        inner = kinds_at(kinds, str(error["loc"][-1]))
        example = next(iter(inner[0].model_fields)) if len(inner) == 1 else "name"
        return f"{path}: {error['input']!r}: expected keys, as in {{{example}: ...}}"
    message = error["msg"].removeprefix("Value error, ")
    found = "" if kind == "value_error" else f"{error['input']!r}: "
    return f"{path}: {found}{message}" if path else message


def _walk(section: type[BaseModel], loc: Sequence[str | int]) -> tuple[list[str], Kinds]:
    """The readable parts of a pydantic location, and the classes of the section that the last of them stands in.

    pydantic also names the kind, ("schedule", "poly", "power"), and the type that it tried, ("tta", "list[...]"): these
    are no keys, and are left out.
    """
    parts: list[str] = []
    kinds: Kinds = [section]
    around, names_type = kinds, False
    for part in loc:
        if names_type:
            names_type = False
        elif _is_tag(kinds, part):
            kinds = [kind for kind in kinds if part in names_of(kind)]
        else:
            parts.append(str(part))
            around = kinds
            if isinstance(part, str):
                names_type = _has_several_types(kinds, part)
                kinds = kinds_at(kinds, part)
    return parts, around


def _has_several_types(kinds: Kinds, key: str) -> bool:
    """Whether a key's plain value is of one type or another, as in `str | list[str]`."""
    annotations = [kind.model_fields[key].annotation for kind in kinds if key in kind.model_fields]
    return any(
        get_origin(annotation) in (Union, UnionType)
        and len(set(get_args(annotation)) - {NoneType}) > 1
        and not kinds_in(annotation)
        for annotation in annotations
    )


def _is_tag(kinds: Kinds, part: str | int) -> bool:
    return len(kinds) > 1 and any(part in names_of(kind) for kind in kinds)


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)
