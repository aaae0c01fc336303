#!/usr/bin/env bash
# What a person and CI run before a change lands: lint, format, all tests. Extra arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source scripts/environment.sh requirements.txt requirements-dev.txt

"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
# One thread: the tests are small, and sums come out the same on any number of cores.
OMP_NUM_THREADS=1 "$PYTHON" -m pytest "$@"
