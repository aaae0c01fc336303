"""Run a stage as run_cv.sh does, `python -m base.stage folds.tiles --config FILE ...`: what goes wrong before its first
line is said in one line too. Importing torch takes seconds, in which somebody may press Ctrl-C, and may fail.
"""

import runpy
import sys
from pathlib import Path

from base.command import run
from base.errors import UserError


def main() -> None:
    module = sys.argv.pop(1)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if (Path(__file__).parent.parent / package).exists():
            raise  # a module of ours: a bug
        raise UserError(
            f"{sys.executable} has no package {package}. Run: {sys.executable} -m pip install -r requirements.txt"
        ) from None


if __name__ == "__main__":
    run(main)
