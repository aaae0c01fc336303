"""Imports go one way, floor by floor, and the floors that need no torch do not load it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Each package with all that it may import. What stands in neither direction must not be imported.
BELOW = {
    "base": set(),
    "config": {"base"},
    "folds": {"base", "config"},
    "models": {"base", "config"},
    "pipeline": {"base", "config", "folds", "models"},
    "submissions": {"base", "config", "folds"},
    "ensemble": {"base", "config", "folds", "models", "pipeline", "submissions"},
    "reports": {"base", "config", "folds", "models", "pipeline", "submissions", "ensemble"},
}


def imported_packages(path: Path) -> set[str]:
    """Top-level packages that a file imports, inside functions too."""
    packages = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            packages.add(node.module.split(".")[0])
    return packages


@pytest.mark.parametrize("package", ["pipeline", "submissions", "ensemble", "reports"])
def test_tables_are_asked_of_the_run(package):
    """`tiles_of` and `folds_of` refuse tables that were made with other keys; `read_tiles` and `read_folds` do not."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("folds."):
                assert not {"read_tiles", "read_folds"} & {alias.name for alias in node.names}, path


@pytest.mark.parametrize("package", BELOW)
def test_no_import_runs_up(package):
    files = sorted((ROOT / package).rglob("*.py"))
    upward = {
        str(path.relative_to(ROOT)): sorted(wrong)
        for path in files
        if (wrong := (imported_packages(path) & BELOW.keys()) - BELOW[package] - {package})
    }
    assert not upward
    assert files or package == "reports"


def test_tables_are_printed_in_one_way():
    """`base/screen.py` shows names as they are; rich's own tables and consoles take brackets in them for markup."""
    bars = {ROOT / "base" / "progress.py", ROOT / "pipeline" / "progress.py"}  # on stderr
    for package in (*BELOW, "benchmarks"):
        for path in {*(ROOT / package).rglob("*.py")} - bars - {ROOT / "base" / "screen.py"}:
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
            assert not {"Table", "Console"} & called, path


def test_bars_are_drawn_in_one_way():
    """On stderr, and on a terminal alone; rich's own `track` draws on stdout, among what a command says."""
    for package in (*BELOW, "benchmarks"):
        for path in {*(ROOT / package).rglob("*.py")} - {ROOT / "base/progress.py", ROOT / "pipeline/progress.py"}:
            assert "rich.progress" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize(
    "module",
    ["config", "folds.tiles", "folds.assign", "folds.check", "submissions.write", "submissions.verify", "ensemble.oof",
     "ensemble.blend", "pipeline.store", "pipeline.pack", "pipeline.record", "pipeline.cv", "reports.build"],
)  # fmt: skip
def test_starts_without_torch(module):
    assert not loads(module, "torch")


@pytest.mark.parametrize("package", ["folds", "ensemble", "submissions", "reports"])
def test_packages_without_networks_start_without_torch(package):
    """`ensemble.predict` alone runs some."""
    files = sorted((ROOT / package).rglob("*.py"))
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files} - {"ensemble.predict"}
    assert not loads(", ".join(sorted(names)), "torch")


@pytest.mark.parametrize("module", ["pipeline.grid", "reports.training"])
def test_what_only_tells_of_jobs_starts_without_what_runs_them(module):
    assert not loads(module, "pipeline.jobs")


def loads(module: str, other: str) -> bool:
    """Whether importing one module, or several with commas between, loads another."""
    code = f"import sys, {module}; sys.exit({other!r} in sys.modules)"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode != 0
