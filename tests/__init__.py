"""A package of its own: some peers install one named `tests` too, which must not be taken for this one."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch reads it: the tests are small, and there is one per core
