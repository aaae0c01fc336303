"""What is promised is told by a benchmark, what is told is on the page, and a run is recorded whole or not at all."""

import ast
import json
import re
import shutil
import sys
from dataclasses import replace
from functools import cache
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from base.errors import UserError
from benchmarks import measure, prediction, records, run, table
from benchmarks.catalogue import BENCHMARKS, METAVARS
from benchmarks.intervals import PIXELS, world
from benchmarks.machine import describe_machine
from benchmarks.main_job import over_best_member
from benchmarks.records import keep, measured, read_results
from benchmarks.scaling import exponent
from benchmarks.targets import TARGETS, Target

MACHINE = {"cpu": "one", "cores": 2, "memory_gib": 4, "gpus": []}
TARGET = Target(3, "folds", "speed", "how fast", least=0.5)


def source_of(benchmark: str) -> str:
    """The source of a benchmark and of what it takes from its own package."""
    seen, waiting = {}, [BENCHMARKS[benchmark].module]
    while waiting:
        module = waiting.pop()
        path = records.ROOT / "benchmarks" / f"{module}.py"
        if module in seen or not path.exists():
            continue
        seen[module] = path.read_text(encoding="utf-8")
        waiting += re.findall(r"from benchmarks\.(\w+) import", seen[module])
    return "\n".join(seen.values())


@cache
def names_in(benchmark: str) -> tuple[set[str], list[str]]:
    """The strings of a benchmark's source, and its f-strings as patterns: f"{part}_exponent" is `\\w*_exponent`."""
    nodes = list(ast.walk(ast.parse(source_of(benchmark))))
    strings = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    patterns = [
        "".join(re.escape(part.value) if isinstance(part, ast.Constant) else r"\w*" for part in node.values)
        for node in nodes
        if isinstance(node, ast.JoinedStr)
    ]
    return strings, [pattern for pattern in patterns if re.search("[a-z]{3}", pattern)]


def tells(benchmark: str, figure: str) -> bool:
    """Whether the figure is in the benchmark's results or its source, whole or put together."""
    strings, patterns = names_in(benchmark)
    told = {name for each in read_results() if each["benchmark"] == benchmark for name in each["figures"]}
    head, _, tail = figure.partition("_")
    return figure in told | strings or {head, tail} <= strings or any(re.fullmatch(each, figure) for each in patterns)


def record(figures: dict, machine: str = "one", **more) -> dict:
    return {
        "benchmark": "folds", "command": "python -m benchmarks.folds", "device": "cpu", "figures": figures,
        "machine": MACHINE | {"cpu": machine}, "versions": {"python": "3"}, "commit": "c0ffee", "dirty": False,
        "date": "2020-01-01", "seconds": 1.0,
    } | more  # fmt: skip


def test_every_benchmark_is_there_and_knows_the_options_it_is_given():
    for name, benchmark in BENCHMARKS.items():
        assert find_spec(f"benchmarks.{benchmark.module}"), name
        words = Path(find_spec(f"benchmarks.{benchmark.module}").origin).read_text(encoding="utf-8")
        assert "add_json(parser)" in words, name
        assert set(benchmark.needs) <= set(benchmark.options) <= set(METAVARS), name
        assert all(f'"{word}"' in words for word in benchmark.options.values()), name


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.benchmark}-{target.figure}-{target.per}")
def test_the_figure_of_every_target_is_one_that_its_benchmark_tells(target):
    assert [figure for figure in (target.figure, target.per) if figure and not tells(target.benchmark, figure)] == []


def required(name: str) -> set[str]:
    """The names under which what a requirements file asks for is imported."""
    lines = (records.ROOT / name).read_text(encoding="utf-8").splitlines()
    asked = {re.split(r"[=\s]", line)[0].lower() for line in lines if re.match(r"\w", line)}
    return {package for package, held_by in packages_distributions().items() if asked & {d.lower() for d in held_by}}


@pytest.mark.parametrize("path", sorted((records.ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_can_be_asked_for_help_where_no_peer_is_installed(path):
    """A peer is imported by the part that measures it, so that `--help`, and all else, works without it."""
    tops = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            tops |= {name.partition(".")[0] for name in names}
    ours = {folder.parent.name for folder in records.ROOT.glob("*/__init__.py")} | {"tests"}
    assert tops - required("requirements.txt") - ours - sys.stdlib_module_names == set()


def test_a_figure_that_nobody_tells_is_seen():
    assert tells("scaling", "folds_exponent")
    assert not tells("scaling", "folds_exponents")
    assert not tells("submissions", "verify_9000_s")


def test_the_page_is_what_the_results_say():
    assert table.PAGE.read_text(encoding="utf-8") == table.render(read_results())


def test_results_name_no_folder_of_the_machine():
    for each in read_results():
        words = json.dumps(each).replace("\\", "")
        assert not re.search(r"(?<![\w.<])/(?:\w+/)", words), each["command"]


@pytest.mark.parametrize(("names", "said"), [(["foldz"], "did you mean folds"), (["ingredients"], "--naip DIR")])
def test_a_name_that_cannot_be_run_is_refused_before_anything_runs(names, said):
    with pytest.raises(UserError, match=said):
        run.wanted(["folds", *names], {})


@pytest.mark.parametrize("names", [[], ["prediction"], ["scaling", "ensemble"]])
def test_parts_are_of_one_benchmark_that_has_them(names):
    with pytest.raises(UserError, match="ensemble or scaling; asked for "):
        run.wanted(names, {"--only": "copies"})
    assert run.wanted(["scaling"], {"--only": "copies"}) == ["scaling"]


def test_all_leaves_out_what_lacks_an_option(capsys):
    assert run.wanted([], {}) == [name for name, benchmark in BENCHMARKS.items() if not benchmark.needs]
    assert "left out: ingredients needs --naip DIR" in capsys.readouterr().out
    assert run.wanted([], {"--naip": "x", "--runs": "y"}) == list(BENCHMARKS)


@pytest.fixture
def played(tmp_path, monkeypatch):
    """An interpreter that plays every benchmark: `jobs` fails, `store` tells nothing, the others tell their words."""
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/bash\n"
        "[[ $2 == benchmarks.jobs ]] && exit 1\n"
        "[[ $2 == benchmarks.store_formats ]] && exit 0\n"
        'printf \'{"words": "%s"}\' "$(echo "${@:3:$#-4}" | wc -w)" > "${@: -1}"\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(run.sys, "executable", str(python))
    monkeypatch.setattr(run, "keep", lambda each: keep(each, tmp_path / "results"))
    page, results = tmp_path / "page", tmp_path / "results"
    monkeypatch.setattr(run, "write_page", lambda: page.write_text(str(len(read_results(results)))))
    return tmp_path / "results"


def test_what_fails_is_named_at_the_end_and_the_others_go_on(played, capfd):
    assert run.main(["jobs", "store", "folds", "--naip", "/secret/place"]) == 3
    (line,) = read_results(played)
    assert line["benchmark"] == "folds"
    assert line["command"] == "python -m benchmarks.folds --naip DIR"
    assert line["figures"] == {"words": "2"}
    assert line["machine"] == describe_machine()
    assert "failed: jobs, store" in capfd.readouterr().err
    assert "secret" not in (played / "folds.jsonl").read_text()


def test_a_run_that_ends_well_leaves_a_line_each_time(played):
    assert run.main(["submissions"]) == run.main(["submissions", "--device", "cuda"]) == 0
    lines = read_results(played)
    assert len(lines) == 2
    assert (played.parent / "page").read_text() == "2"  # made of both
    assert {line["device"] for line in lines} == {"cpu"}  # it takes no device


def test_the_record_of_a_part_says_so_and_names_no_folder(played):
    assert run.main(["ensemble", "--only", "demo", "--demo", "/secret/demo.yaml"]) == 0
    (line,) = read_results(played)
    assert line["command"] == "python -m benchmarks.ensemble --demo CONFIG --only demo"
    assert line["figures"] == {"words": "4"}


def test_the_latest_value_of_each_machine_counts_and_null_is_none():
    found = measured(TARGET, [record({"speed": 0.1}), record({"speed": 0.7}), record({"speed": None}),
                              record({"speed": 0.2}, machine="two"), record({"speed": 9}, device="cuda"),
                              record({"speed": 9}, benchmark="jobs")])  # fmt: skip
    assert [(each.value, each.verdict) for each in found] == [(0.7, "holds"), (0.2, "falls short")]
    (absent,) = measured(TARGET, [record({"speed": None})])
    assert absent.verdict == "not measured"


def test_where_the_machine_makes_no_difference_the_latest_of_all_counts():
    target = replace(TARGET, anywhere=True)
    lines = [record({"speed": 0.1}), record({"speed": 0.7}, machine="two"), record({"speed": None})]
    assert [each.value for each in measured(target, lines)] == [0.7]
    assert [each.value for each in measured(target, lines[::-1])] == [0.1]


def test_a_bound_holds_at_its_edge_and_not_beyond():
    assert TARGET.meets(0.5)
    assert not TARGET.meets(0.499)
    most = Target(3, "folds", "time", "how long", most=2.0)
    assert most.meets(2.0)
    assert not most.meets(2.001)
    share = Target(3, "folds", "hits", "found", least=1, per="tries")
    assert [each.value for each in measured(share, [record({"hits": 3, "tries": 4})])] == [0.75]
    assert measured(share, [record({"hits": 0, "tries": 0})])[0].value is None


def test_what_falls_short_or_is_not_measured_stands_first():
    targets = [Target(3, "folds", "fine", "a fine figure", least=0), TARGET, Target(8, "jobs", "gone", "an absent one")]
    page = table.render([record({"fine": 1, "speed": 0.2})], targets)
    first, _, rest = page.partition("\n## folds:")
    assert "| 3 | how fast | at least 0.5 | 0.2 | falls short | A | `python -m benchmarks.folds` |" in first
    assert "| 8 | an absent one | for comparison | `python -m benchmarks.run jobs` |" in first
    assert "a fine figure" not in first
    assert "| a fine figure | at least 0 | 1 | holds | A |" in rest
    assert "commit c0ffee" in rest


@pytest.mark.parametrize("power", [0.0, 1.0, 1.15, 2.0])
def test_the_exponent_of_a_power_is_that_power(power):
    sizes = [1_000, 4_000, 16_000, 64_000]
    assert exponent(sizes, [3e-5 * size**power for size in sizes]) == pytest.approx(power)
    assert exponent(sizes, 3e-5 * np.array(sizes) ** power + 1) <= power + 1e-9


def test_a_blend_stands_beside_the_best_member_of_each_fold_on_the_same_tiles():
    """The second fold is easier: its members are above the blend on all tiles, and below the blend on their own."""
    rows = [("member", "a", 0, 0.40), ("member", "b", 0, 0.44), ("member", "a", 1, 0.61), ("member", "b", 1, 0.58),
            ("model", "a", None, 0.51), ("blend", "blend", 0, 0.45), ("blend", "blend", 1, 0.64),
            ("blend", "blend", None, 0.55)]  # fmt: skip
    made = pd.DataFrame(rows, columns=["kind", "name", "fold", "miou"])
    assert over_best_member(made) == pytest.approx(0.01)
    assert over_best_member(made.replace(0.64, 0.605)) == pytest.approx(-0.005)


def test_worlds_of_the_intervals_are_what_they_are_called():
    plain, again = (world(np.random.default_rng(2), 7, 2) for _ in range(2))
    alone = world(np.random.default_rng(2), 7, alone=True)[0].truth_GC
    sizes = world(np.random.default_rng(2), 40, sizes=1.0)[0].truth_GC.sum(1)
    assert (plain[1].hit_GC == again[1].hit_GC).all()
    assert (plain[0].hit_GC != plain[1].hit_GC).any()
    assert (plain[0].truth_GC.sum(1) == PIXELS).all()
    assert (alone.sum(1) == PIXELS).all()
    assert (alone > 0).sum(0)[-1] == 1
    assert ((alone > 0).sum(0)[:-1] > 4).all()
    assert 0.7 < np.log(sizes).std() < 1.3


def test_a_prediction_is_not_charged_with_removing_the_store_of_the_round_before(tmp_path, monkeypatch):
    path, clock = tmp_path / "store", [0.0]
    remove = shutil.rmtree

    def slowly(path, **how):
        clock[0] += 100.0
        remove(path, **how)

    def write():
        assert not path.exists()
        path.mkdir()
        clock[0] += 3.0

    monkeypatch.setattr(shutil, "rmtree", slowly)
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    assert [prediction.seconds_of_new(path, write) for _ in range(2)] == [3.0, 3.0]
