"""What a person sees while a member trains: one bar with loss, lr, img/s and the time left; plain lines elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.curves import Curves, Row

PLAIN_EVERY_S = 30.0  # between lines when nobody watches a terminal


class TrainProgress:
    """A context manager around the loop. On a terminal a bar, in a log file a line now and then and one per epoch."""

    def __init__(self, name: str, epochs: int, first_epoch: int, curves: Curves | None = None) -> None:
        """
        Args:
            curves: where else the epochs are to be seen.
        """
        self.name, self.epochs, self.first_epoch, self.curves = name, epochs, first_epoch, curves
        self.started = self.printed = time.monotonic()
        self.tiles = 0
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self.task = self.bar.add_task(name, total=1.0, completed=first_epoch / epochs, figures="")

    def __enter__(self) -> "TrainProgress":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    @property
    def tiles_per_s(self) -> float:
        return self.tiles / max(time.monotonic() - self.started, 1e-9)

    def step(self, epoch: int, micro_step: int, micro_steps: int, loss: float, lr: float, tiles: int) -> None:
        self.tiles += tiles
        figures = f"epoch {epoch + 1}/{self.epochs}  loss {loss:.4f}  lr {lr:.1e}  {self.tiles_per_s:.0f} img/s"
        self.bar.update(self.task, completed=(epoch + micro_step / micro_steps) / self.epochs, figures=figures)
        if self.bar.disable and time.monotonic() - self.printed > PLAIN_EVERY_S:
            self.printed = time.monotonic()
            print(f"{self.name}: {figures}", flush=True)

    def epoch(self, row: Row) -> None:
        if self.curves:
            self.curves.epoch(row)
        if self.bar.disable:
            scored = "" if row["val_miou"] is None else f"  val mIoU {row['val_miou']:.4f}"
            print(
                f"{self.name}: epoch {row['epoch']}/{self.epochs}  loss {row['loss']:.4f}  lr {row['lr']:.1e}{scored}"
                f"  {self.tiles_per_s:.0f} img/s",
                flush=True,
            )
