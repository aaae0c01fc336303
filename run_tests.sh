#!/usr/bin/env bash
# What a person and CI run before a change lands: lint, format, all tests. Extra arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source scripts/environment.sh requirements.txt requirements-dev.txt requirements-browse.txt

"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
# A process per core, four at most; a file's tests share their fixtures. Long files first: see tests/conftest.py.
"$PYTHON" -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
