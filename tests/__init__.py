"""A package of its own: some peers install one named `tests` too, which must not be taken for this one."""
