"""nnU-Net's own ensembling, timed: in an environment that is made here and shares this one's torch.

Run by `benchmarks.ensemble`. Inside the other environment this module is the program that calls nnunetv2, so it imports
nothing heavy at the top.
"""

import json
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import environment
from benchmarks.machine import ROOT

VERSION = "2.8.1"
TOOK = "took "  # before the seconds, on a line of their own: nnunetv2 prints to stdout, too


def make_environment(folder: Path) -> Path | None:
    """The python of an environment that has nnunetv2, or None if the package cannot be had."""
    return environment.make_environment(folder, [f"nnunetv2=={VERSION}"])


def write_predictions(folder: Path, probs_NMCHW: np.ndarray) -> list[Path]:
    """A folder per member as nnUNetv2_predict --save_probabilities leaves it: float32 npz and properties per case."""
    num_classes = probs_NMCHW.shape[2]
    labels = {"background": 0} | {f"class{c}": c for c in range(1, num_classes)}
    folders = []
    for m in range(probs_NMCHW.shape[1]):
        member = folder / f"member{m}"
        member.mkdir(parents=True)
        (member / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".png"}))
        (member / "plans.json").write_text(json.dumps({"image_reader_writer": "NaturalImage2DIO"}))
        for i, probs_MCHW in enumerate(probs_NMCHW):
            probabilities = probs_MCHW[m].astype(np.float32)[:, None] / 255
            np.savez_compressed(member / f"{i:06d}.npz", probabilities=probabilities)
            with open(member / f"{i:06d}.pkl", "wb") as file:
                pickle.dump({}, file)
        folders.append(member)
    return folders


class Peer:
    """A process of the other environment that ensembles when told to, so that its start is not timed."""

    def __init__(self, python: Path, folders: list[Path], processes: int):
        self._out = tempfile.TemporaryDirectory()
        arguments = [str(processes), self._out.name, *map(str, folders)]
        self._process = subprocess.Popen(
            [python, "-W", "ignore", "-m", "benchmarks.nnunet", *arguments], cwd=ROOT, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.run()  # warm: workers started, files in the page cache

    def run(self) -> float:
        """Seconds for all cases."""
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(TOOK):
                return float(line.removeprefix(TOOK))
        raise RuntimeError(f"nnunetv2 {VERSION} ended with exit code {self._process.wait()}")

    def labels(self) -> list[np.ndarray]:
        """What it wrote."""
        from PIL import Image

        return [np.array(Image.open(path)) for path in sorted(Path(self._out.name).glob("*.png"))]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._out.cleanup()


def main() -> None:
    """Inside the other environment: for each line of stdin, merge all cases with nnunetv2's code; print the seconds."""
    from multiprocessing import get_context

    from nnunetv2.ensembling.ensemble import merge_files
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    processes, out, *folders = sys.argv[1:]
    folders = [Path(folder) for folder in folders]
    plans = PlansManager(json.loads((folders[0] / "plans.json").read_text()))
    dataset = json.loads((folders[0] / "dataset.json").read_text())
    cases = sorted(path.stem for path in folders[0].glob("*.npz"))
    jobs = [
        ([str(folder / f"{case}.npz") for folder in folders], str(Path(out) / case), ".png",
         plans.image_reader_writer_class(), plans.get_label_manager(dataset), False)
        for case in cases
    ]  # fmt: skip
    # The pool that nnUNetv2_ensemble itself uses; made once here, so that its start does not count against it.
    with get_context("spawn").Pool(int(processes)) as pool:
        pool.starmap(merge_files, jobs[: 2 * int(processes)])
        for _ in sys.stdin:
            begin = time.perf_counter()
            pool.starmap(merge_files, jobs)
            print(f"{TOOK}{time.perf_counter() - begin}", flush=True)


if __name__ == "__main__":
    main()
