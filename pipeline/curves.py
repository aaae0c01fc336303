"""TensorBoard scalars of a member: what log.csv says, one point per epoch -> `members/.../tensorboard/`."""

import shutil
from pathlib import Path
from types import TracebackType

Row = dict[str, float | int | None]


class Curves:
    """A context manager that writes the epochs of a training."""

    def __init__(self, folder: Path, past: list[Row]) -> None:
        """
        Args:
            past: epochs that are done. They are written again, so that a resumed run has each epoch once, whatever
                was written after its checkpoint.
        """
        # Here, since TensorBoard is no requirement: config/training.py refuses `tensorboard: true` without it.
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder, ignore_errors=True)
        self.writer = SummaryWriter(folder)
        for row in past:
            self.epoch(row)

    def epoch(self, row: Row) -> None:
        for name, value in row.items():
            if name != "epoch" and value is not None:
                self.writer.add_scalar(name, value, row["epoch"])
        self.writer.flush()

    def __enter__(self) -> "Curves":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.close()
