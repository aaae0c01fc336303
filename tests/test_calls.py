"""Every call of a function or class of ours fits its definition, also in code that no test runs (benchmarks)."""

import ast
import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))


def imported(tree: ast.Module) -> dict[str, object]:
    """The names that a module takes from our packages, and what they stand for."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0]
    nodes = [node for node in nodes if node.module.partition(".")[0] in OURS]
    return {
        alias.asname or alias.name: getattr(import_module(node.module), alias.name, None)
        for node in nodes
        for alias in node.names
    }


def is_error(value: object) -> bool:
    """Exceptions have no signature of their own."""
    return isinstance(value, type) and issubclass(value, Exception)


def misfits(source: str) -> Iterator[str]:
    """Calls whose arguments cannot be bound; what comes by * or ** is not looked into."""
    tree = ast.parse(source)
    known = {name: value for name, value in imported(tree).items() if callable(value) and not is_error(value)}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known):
            continue
        starred = any(isinstance(each, ast.Starred) for each in node.args) or any(not k.arg for k in node.keywords)
        signature = inspect.signature(known[node.func.id])
        positional = [each for each in node.args if not isinstance(each, ast.Starred)]
        named = {each.arg: each for each in node.keywords if each.arg}
        try:
            (signature.bind_partial if starred else signature.bind)(*positional, **named)
        except TypeError as error:
            yield f"line {node.lineno}: {node.func.id}: {error}"


@pytest.mark.parametrize("package", OURS)
def test_what_we_call_takes_what_we_give_it(package):
    found = {
        str(path.relative_to(ROOT)): problems
        for path in sorted((ROOT / package).glob("**/*.py"))
        if (problems := list(misfits(path.read_text(encoding="utf-8"))))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("write_store(path, names, classes, 1, 2, {}, waiting=0)", "unexpected keyword argument 'waiting'"),
        ("write_store(path, names)", "missing a required argument: 'classes'"),
        ("write_store(*a, b=1)", "unexpected keyword argument 'b'"),
        ("write_store(1, 2, 3, 4, 5, 6, 7, 8, 9)", "too many positional arguments"),
    ],
)
def test_a_call_that_does_not_fit_is_seen(call, said):
    assert [said in each for each in misfits(f"from pipeline.store import write_store\n{call}")] == [True]


def test_a_call_that_fits_is_let_through():
    calls = "write_store(p, n, c, 1, 2, {}, in_turn=True)\nwrite_store(*a, in_turn=True)\nwrite_store(p, **more)"
    assert list(misfits(f"from pipeline.store import write_store\n{calls}")) == []
