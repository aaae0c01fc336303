"""README and docs say what works: their YAML is an experiment, their commands, options, keys, links and paths exist.

Nothing long is run: tests/test_main_job.py runs the main job, and every stage is run by its own tests.
"""

import ast
import importlib
import re
import runpy
import shlex
import warnings
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from config import load_experiment
from config.experiment import Experiment
from config.sections import kinds_at

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")
FILES = {"csv", "json", "md", "py"}
OURS = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def command_lines(text: str) -> list[list[str]]:
    """The words of every indented command. What stands behind two blanks or a # explains it; an option does not."""
    lines = re.findall(r"^    ((?:python -m|bash) .*)$", text.replace("\\\n", " "), re.MULTILINE)
    shown = [re.split(r" #|(?<=\S) {2,}(?!--)", line)[0] for line in lines]
    return [shlex.split(line) for line in shown]


COMMANDS = sorted({tuple(words) for page in PAGES for words in command_lines(page.read_text(encoding="utf-8"))})


@pytest.fixture
def mine(tmp_path) -> Path:
    """README's own experiment, as a person would save it."""
    path = tmp_path / "mine.yaml"
    path.write_text(blocks(README, "yaml")[0])
    return path


def test_the_first_example_is_a_whole_experiment(mine):
    experiment = load_experiment(mine)
    assert experiment.name == "mine"
    assert len(experiment.models) == 2


@pytest.mark.parametrize("text", blocks(README, "yaml")[1:])
def test_every_other_example_changes_an_experiment(mine, tmp_path, text):
    values = yaml.safe_load(text)
    child = tmp_path / "child.yaml"
    child.write_text("extends: mine.yaml\n" + text)
    changed, before = load_experiment(child).model_dump(), load_experiment(mine).model_dump()
    for section, keys in values.items():
        assert {key: changed[section][key] for key in keys} == keys
        assert changed[section] != before[section]


def help_of(module: str, capsys, monkeypatch) -> str:
    """What `python -m MODULE --help` prints; in this process, since many import torch."""
    monkeypatch.setattr("sys.argv", [module, "--help"])
    with pytest.raises(SystemExit) as left, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it was imported before: that is the point
        runpy.run_module(module, run_name="__main__")
    assert not left.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_exists_with_its_options_and_keys(words, mine, capsys, monkeypatch):
    if words[0] == "bash":
        assert (ROOT / words[1]).is_file()
        arguments = words[2:]
        configs = [word for word in arguments if word.endswith(".yaml")]
    else:
        arguments = words[3:]
        known = help_of(words[2], capsys, monkeypatch)
        options = [word for word in arguments if word.startswith("--")]
        assert [option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", known)] == []
        configs = [value for option, value in pairwise(arguments) if option == "--config"]
    if words[1] == "run_tests.sh":
        assert all((ROOT / word).exists() for word in arguments if word.endswith(".py"))
        return
    stands_for = {"FILE": "configs/demo.yaml", "C": "configs/demo.yaml", "configs/mine.yaml": mine}
    stands_for["/data/mine_512/mine_512.yaml"] = mine  # which folds.cut writes, and which extends it
    path = stands_for.get(configs[0], configs[0]) if configs else "configs/demo.yaml"
    overrides = [word for word in arguments if "=" in word and not word.startswith(("-", "["))]
    load_experiment(path, overrides)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_that_a_page_names_can_be_run(page):
    text = page.read_text(encoding="utf-8")
    modules = set(re.findall(r"python -m ([a-z_]+(?:\.[a-z_0-9]+)+)", text))
    assert [module for module in modules if module.split(".")[0] in OURS and find_spec(module) is None] == []
    for module in modules:
        if module.split(".")[0] in OURS:
            assert "__main__" in Path(find_spec(module).origin).read_text(encoding="utf-8"), module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    named = re.findall(rf"`((?:{'|'.join(sorted(OURS))}|configs|docs|tests)/[\w./-]+\.(?:py|yaml|md|png))`", text)
    # Of another's data, or made by the example in README.
    made = {"configs/mine.yaml"}
    assert [path for path in named if path not in made and not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_that_a_page_names_are_keys(page):
    """`train.optmizer` in a page misleads as much as in a config."""
    sections = "|".join(name for name in Experiment.model_fields if kinds_at([Experiment], name))
    text = page.read_text(encoding="utf-8")
    for section, key in set(re.findall(rf"`({sections})\.([a-z_]+)(?=[.`=:])", text)):
        if key in FILES or (find_spec(section) and find_spec(f"{section}.{key}")):
            continue  # `folds.csv`, or a module: `folds.check`
        kinds = kinds_at([Experiment], section)
        assert any(key in kind.model_fields for kind in kinds), f"{section}.{key}"


def test_the_notebook_example_names_what_there_is():
    for text in blocks(README, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
