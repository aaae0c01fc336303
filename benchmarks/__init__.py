"""Figures: each module measures one part and prints them; `--json FILE` writes them flat."""
