"""What reaches the screen: names as they are written, whatever brackets and colons they hold."""

import io

import pytest
from rich.console import Console

from base.screen import screen, text_table
from folds import assign, check
from tests.tiny import tiny_values, write_config, write_tiny

NAMES = ("a [/b]", "field [dry]", "[red]bare[/red]", ":seedling:", "back\\")


@pytest.mark.parametrize("console", [screen(), Console(width=100)], ids=["ours", "another"])
def test_a_table_shows_every_name_as_it_is_written(console):
    console.file = io.StringIO()
    rows = [(name, f"{n}.25", name) for n, name in enumerate(NAMES)]
    console.print(text_table(NAMES[0], NAMES[1:4], rows, foot=(NAMES[4], "7"), caption=NAMES[1] * 2))
    lines = console.file.getvalue().splitlines()
    assert lines[0].strip() == NAMES[0]
    assert [cell.strip() for cell in lines[2].strip("┃").split("┃")] == list(NAMES[1:4])
    body = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert body == [*map(list, rows), [NAMES[4], "7", ""]]
    assert lines[-1].strip() == NAMES[1] * 2


def test_a_line_is_printed_as_it_is_written():
    console = screen()
    console.file = io.StringIO()
    console.print("runs/[v2]/a [/b] :seedling:")
    assert console.file.getvalue() == "runs/[v2]/a [/b] :seedling:\n"


def test_figures_stand_to_the_right_but_for_the_columns_that_are_named():
    console = screen(width=40)
    console.file = io.StringIO()
    for left in (None, ("n", "what")):
        console.print(text_table("", ("name", "n", "what"), [("a", "1", "b"), ("long name", "234", "wxyz")], left=left))
    first = [line for line in console.file.getvalue().splitlines() if " a " in line]
    assert first == ["│ a         │   1 │    b │", "│         a │ 1   │ b    │"]


def test_a_row_may_be_shorter_and_only_the_first_ones_need_a_style():
    console = Console(width=40, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(text_table("", ("job", "state"), [("a", "done"), ("b", "left"), ("and 3 more",)], styles=["red"]))
    lines = console.file.getvalue().splitlines()
    assert ["\x1b[31m" in line for line in lines if " done" in line or " left" in line] == [True, False]
    assert any("and 3 more" in line for line in lines)


def test_classes_with_brackets_are_shown_by_the_audit_of_folds(tmp_path, capsys):
    root = write_tiny(tmp_path / "data")
    values = tiny_values(root, tmp_path)
    values["data"]["classes"] = [
        spec | {"name": name} for spec, name in zip(values["data"]["classes"], NAMES[:3], strict=True)
    ]
    values["folds"]["allow"] = ["class_in_few_groups", "class_absent_in_fold"]
    config = str(write_config(tmp_path / "tiny.yaml", values))
    assign.main(["--config", config])
    of_folds = capsys.readouterr().out
    assert all(f"│ {name} " in of_folds for name in NAMES[:3])
    check.main(["--config", config])
    audited = capsys.readouterr().out
    assert all(audited.count(f"│ {name} ") == 2 for name in NAMES[:3])  # classes of the train tiles, and each fold
