"""The benchmarks by name: the module that measures, what it says, and which options of `benchmarks.run` it takes."""

from dataclasses import dataclass, field

METAVARS = {"--naip": "DIR", "--runs": "RUNS", "--demo": "CONFIG", "--device": "DEVICE", "--only": "PARTS"}
"""The options of `benchmarks.run`, and what stands for their values in its help."""
PATHS = ("--naip", "--runs", "--demo")
"""Those whose values are of this machine, and so stand in no record."""


@dataclass(frozen=True)
class Benchmark:
    what: str
    module: str
    options: dict[str, str] = field(default_factory=dict)
    """An option of `benchmarks.run` -> the module's own word for it."""
    needs: tuple[str, ...] = ()
    """Options without which it measures nothing."""


BENCHMARKS = {
    "main": Benchmark("run_cv.sh and run_tests.sh as a person runs them", "main_job", {"--naip": "--naip"}),
    "folds": Benchmark("folds shared out evenly, neighbours and copies found", "folds", {"--naip": "--naip"}),
    "training": Benchmark(
        "the training loop against the bare network, and resume", "training", {"--device": "--device"}
    ),
    "ingredients": Benchmark(
        "what each ingredient of training changes in OOF mIoU, on naip",
        "ingredients",
        {"--naip": "--data", "--runs": "--runs"},
        needs=("--naip", "--runs"),
    ),
    "prediction": Benchmark(
        "prediction against the bare network, and provenance",
        "prediction",
        {"--naip": "--data", "--runs": "--runs", "--device": "--device"},
    ),
    "store": Benchmark("ways to keep probabilities on disk", "store_formats"),
    "ensemble": Benchmark(
        "the blend: its gain, its honesty, its speed", "ensemble", {"--demo": "--demo", "--only": "--only"}
    ),
    "submissions": Benchmark("zips: faults caught, seconds to write and verify", "submissions"),
    "jobs": Benchmark("the grid of jobs: idle time, and faults survived", "jobs"),
    "report": Benchmark("the report of 16,017 tiles: seconds, size, memory", "report_scale", {"--runs": "--run"}),
    # Not --runs: the masks that it spoils must not lie where another benchmark looks for the demo's.
    "suspects": Benchmark("planted label errors found at the top of suspects.csv", "suspects"),
    "scaling": Benchmark("how time and memory grow from 1,000 to 64,000 tiles", "scaling", {"--only": "--only"}),
    "peers": Benchmark("metric and mean beside torchmetrics, scikit-learn and MONAI", "peers"),
    "limits": Benchmark("store and blend beside the bandwidth of memory and disk", "limits"),
}
