"""How members predict, how they are blended, what is handed in, and on what machine."""

from typing import Literal

from pydantic import Field

from config.base import Section


class Predict(Section):
    tta: Literal["none", "hflip", "flips", "d4"] = "flips"
    """Views averaged at prediction: none, a horizontal flip, both flips (4 views), or all 8 of the square."""
    batch: int = Field(16, ge=1)
    """Tiles per forward pass, views not counted."""
    weights: Literal["last", "best"] = "last"
    """Which weights predict. best is the epoch that scored highest on the held-out fold: optimistic, and named so."""


class Blend(Section):
    name: str = Field("blend", pattern=r"^[A-Za-z0-9_.-]+$")
    """Several blends of one run live side by side under their names."""
    models: list[str] | None = None
    """Names of the models that are blended; null: all of them."""


class Submission(Section):
    format: Literal["png"] = "png"
    """png: a zip of one-channel PNGs."""
    folder: str = "results"
    """Folder inside the zip."""


class Jobs(Section):
    """The machine. Nothing here changes a result, so nothing here makes one stale."""

    device: str = "auto"
    """auto: every GPU, else the CPU; or cpu, cuda:0, ..."""
    loader_workers: int = Field(0, ge=0)
    """Processes that load and augment for one member; 0: the training process does it."""
    threads: int = Field(0, ge=0)
    """CPU threads of one job; 0: the cores divided by the jobs that run side by side."""
    parallel: int = Field(0, ge=0)
    """Jobs side by side; 0: one per device, on a CPU one per two cores."""
