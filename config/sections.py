"""How sections nest: laying one set of keys over another, and saying where in them a mistake is."""

import difflib
import re
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel

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


def explain(section: type[BaseModel], error: Any, at: str = "") -> str:
    """One mistake found by pydantic, as "train.optmizer: unknown key; did you mean train.optimizer?".

    Args:
        at: where the section stands, with a dot behind: "models.unet.train."
    """
    parents, kinds = _walk(section, error["loc"][:-1])
    if error["loc"] and not _is_tag(kinds, error["loc"][-1]):
        parents.append(str(error["loc"][-1]))
    path = at + ".".join(parents)
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        last, prefix = parents[-1], path.removesuffix(parents[-1])
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
    message = error["msg"].removeprefix("Value error, ")
    found = "" if kind == "value_error" else f"{error['input']!r}: "
    return f"{path}: {found}{message}" if path else message


def _walk(section: type[BaseModel], loc: Sequence[str | int]) -> tuple[list[str], Kinds]:
    """The readable parts of a pydantic location, and the classes of the section that it ends in.

    pydantic puts the kind's name into the location, ("schedule", "poly", "power"): it is no key, and is left out.
    """
    parts: list[str] = []
    kinds: Kinds = [section]
    for part in loc:
        if _is_tag(kinds, part):
            kinds = [kind for kind in kinds if part in names_of(kind)]
            continue
        parts.append(str(part))
        if isinstance(part, str):
            kinds = kinds_at(kinds, part)
    return parts, kinds


def _is_tag(kinds: Kinds, part: str | int) -> bool:
    return len(kinds) > 1 and any(part in names_of(kind) for kind in kinds)


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)
