"""YAML as a person writes it: a key that stands twice is a mistake, not the later one's victory."""

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value} is given twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return node


def read_yaml(text: str) -> Any:
    """The value of a YAML text; plain values only, no Python objects.

    Raises:
        ValueError: no YAML, or a key is given twice; the message is one line with the place.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
        unquoted = error.context == "while scanning an alias" or "{name}" in line
        hint = "; a value that begins with * or { stands in quotes: '*.tif'" if unquoted else ""
        raise ValueError(f"{error.problem or error.context}{place}{hint}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
