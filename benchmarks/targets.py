"""What the project promised to measure: every number of its issues, with the figure that answers it.

A target without a bound is a figure that stands beside others, for comparison.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    issue: int
    benchmark: str
    """A name of `benchmarks.catalogue`."""
    figure: str
    what: str
    """A line of docs/benchmarks.md."""
    least: float | None = None
    most: float | None = None
    unit: str = ""
    """"%": shares, shown times 100; "x": times as fast or as large; else shown after the number."""
    per: str | None = None
    """The value is the figure divided by this one."""
    device: str = "cpu"
    anywhere: bool = False
    """It is about what comes out or what is held, not about time: the latest value counts, whatever machine gave it."""

    def meets(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    @property
    def bound(self) -> str:
        if self.least is not None and self.least == self.most:
            return told(self.least, self.unit)
        sides = [f"at least {told(self.least, self.unit)}" if self.least is not None else "",
                 f"at most {told(self.most, self.unit)}" if self.most is not None else ""]  # fmt: skip
        return ", ".join(filter(None, sides)) or "for comparison"


def told(value: float, unit: str) -> str:
    if unit == "%":
        return f"{100 * value:.3g} %"
    number = f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"
    return f"{number}{unit}" if unit in ("", "x") else f"{number} {unit}"


SIZES = {"unet_r18": "Unet/resnet18", "upp_b4": "UNet++/efficientnet-b4", "segformer_b5": "Segformer/mit_b5"}
"""The networks that are measured on a GPU."""

MAIN = (
    Target(2, "main", "demo_s", "run_cv.sh on the demo", most=360, unit="s"),
    Target(2, "main", "demo_mib", "run_cv.sh on the demo: peak memory of all its processes", most=4096, unit="MiB"),
    Target(2, "main", "demo_over_best_model", "demo: honest mIoU of the blend above the best model's, all tiles",
           least=0, anywhere=True),
    Target(2, "main", "demo_over_best_member", "demo: above a fold's best member's on its tiles, the least",
           least=0, anywhere=True),
    Target(6, "main", "demo_over_uniform", "demo: above the uniform mean's", least=-0.001, anywhere=True),
    Target(6, "main", "demo_honest_gap", "demo: honest mIoU away from the true test mIoU", most=0.02, anywhere=True),
    Target(2, "main", "naip_miou", "naip: honest mIoU of the blend of two backbones", least=0.699, anywhere=True),
    Target(6, "main", "naip_over_uniform", "naip: above the uniform mean's", least=-0.001, anywhere=True),
    Target(2, "main", "naip_zip_errors", "naip: errors that verify finds in the zip", most=0, anywhere=True),
    Target(2, "main", "tests_s", "run_tests.sh", most=480, unit="s"),
)  # fmt: skip

FOLDS = (
    Target(3, "folds", "max_rel_dev", "worst deviation of a class, 16,017 tiles, 5 folds", most=0.001, unit="%"),
    Target(3, "folds", "kfold_max_rel_dev", "worst deviation of a class by sklearn's KFold", unit="%"),
    Target(3, "folds", "stratified_max_rel_dev", "worst deviation of a class by StratifiedKFold", unit="%"),
    Target(3, "folds", "multilabel_max_rel_dev", "worst deviation of a class by iterative-stratification", unit="%"),
    Target(3, "folds", "assign_s", "seconds to assign them", most=1, unit="s"),
    Target(3, "folds", "grouped_max_rel_dev", "worst deviation in 400 groups, of StratifiedGroupKFold's", most=1 / 3,
           unit="x", per="sgkf_grouped_max_rel_dev"),
    Target(3, "folds", "naip_precision", "neighbours found on naip: precision", least=1, unit="%"),
    Target(3, "folds", "naip_recall", "neighbours found on naip: recall", least=0.99, unit="%"),
    Target(3, "folds", "drawn_precision", "neighbours found on the generated competition: precision", least=0.99,
           unit="%"),
    Target(3, "folds", "drawn_recall", "neighbours found on the generated competition: recall", least=0.95, unit="%"),
    Target(3, "folds", "mosaic_16k_s", "neighbours among 16,017 tiles", most=120, unit="s"),
    Target(3, "folds", "mosaic_16k_mib", "neighbours among 16,017 tiles: peak memory", most=2048, unit="MiB"),
    Target(3, "folds", "duplicates_16k_s", "copies among 16,017 tiles", most=120, unit="s"),
)  # fmt: skip

TRAINING = (
    Target(4, "training", "efficiency", "a training epoch over the bare network, Unet/resnet18", least=0.95, unit="x"),
    Target(4, "training", "efficiency_ce", "the same over a bare loop with cross-entropy alone", unit="x"),
    Target(4, "training", "vs_reference_loop", "against the reference's loop", least=2, unit="x"),
    Target(4, "training", "compile_gain", "a training epoch with train.compile, against without", unit="x"),
    Target(4, "training", "resume_identical", "killed runs that end with the same weights and log", least=1, unit="%",
           per="resume_tries"),
    Target(4, "training", "resume_tries", "runs killed", least=20),
    Target(4, "training", "memory_growth_kib_epoch", "memory that an epoch adds", most=16, unit="KiB"),
    Target(4, "training", "open_16k_s", "16,017 packed tiles opened", most=1, unit="s"),
    Target(4, "training", "open_16k_mib", "16,017 packed tiles: memory beyond the page cache", most=200, unit="MiB"),
    Target(4, "training", "efficiency_unet_r18", "GPU: a training epoch over the bare network, Unet/resnet18",
           least=0.9, unit="x", device="cuda"),
    Target(4, "training", "efficiency_upp_b4", "GPU: the same, UNet++/efficientnet-b4", least=0.95, unit="x",
           device="cuda"),
    Target(10, "training", "efficiency_segformer_b5", "GPU: the same, Segformer/mit_b5 (85 M parameters)", unit="x",
           device="cuda"),
    Target(4, "training", "compile_gain_unet_r18", "GPU: Unet/resnet18 with train.compile, against without", unit="x",
           device="cuda"),
    Target(4, "training", "vs_reference_loop", "GPU: against the reference's loop", least=3, unit="x", device="cuda"),
)  # fmt: skip

PREDICTION = (
    Target(5, "prediction", "efficiency", "prediction over the bare network, no views", least=0.95, unit="x"),
    Target(5, "prediction", "efficiency_d4", "prediction, eight views, over an eighth of that", least=0.95, unit="x"),
    Target(5, "prediction", "vs_reference_loop", "against the reference's loop", least=2.5, unit="x"),
    Target(5, "prediction", "vs_ttach", "against ttach's wrapper", least=1, unit="x"),
    Target(5, "prediction", "ttach_max_diff", "largest difference of a probability from ttach's", most=1e-3),
    Target(5, "prediction", "bytes_vs_npz", "bytes of the store over nnU-Net's npz", most=1 / 8, unit="x"),
    Target(5, "prediction", "read_vs_npz", "reading the store against reading npz", least=5, unit="x"),
    Target(5, "prediction", "argmax_flips", "labels that storing changes", most=0),
    Target(5, "prediction", "stored_miou_diff", "mIoU of a stored mean of three, away from the floats'", most=1e-4),
    Target(5, "prediction", "memory_ratio", "peak memory of 4,000 tiles over that of 200", most=1.1, unit="x"),
    Target(5, "prediction", "provenance_caught", "spoiled runs that are refused", least=1, unit="%",
           per="provenance_tried"),
    Target(5, "prediction", "provenance_tried", "runs spoiled", least=12),
    Target(5, "prediction", "false_alarms", "clean runs that are refused", most=0),
    Target(5, "prediction", "kills_identical", "killed predictions that end with the same store", least=1, unit="%",
           per="kills"),
    *(Target(5, "prediction", f"efficiency_{suffix}", f"GPU: prediction over the bare network, no views, {name}",
             least=0.95, unit="x", device="cuda") for suffix, name in SIZES.items()),
    *(Target(5, "prediction", f"efficiency_d4_{suffix}", f"GPU: eight views, over an eighth of that, {name}",
             least=0.95, unit="x", device="cuda") for suffix, name in SIZES.items()),
    Target(5, "prediction", "vs_reference_loop", "GPU: against the reference's loop", unit="x", device="cuda"),
    Target(5, "prediction", "vs_ttach", "GPU: against ttach's wrapper", least=1, unit="x", device="cuda"),
    Target(5, "prediction", "ttach_max_diff", "GPU: largest difference of a probability from ttach's", most=1e-3,
           device="cuda"),
    Target(5, "prediction", "argmax_flips", "GPU: labels that storing changes", most=0, device="cuda"),
)  # fmt: skip

ENSEMBLE = (
    Target(6, "ensemble", "rule_gain", "mIoU that the rule gains, competition's shares, calibrated", least=0.012),
    Target(6, "ensemble", "gate_loss", "mIoU that the gate loses where nothing helps", most=0.001),
    Target(6, "ensemble", "noise_covered", "intervals of a gain by noise that hold 0", least=0.95, unit="%",
           per="noise_runs"),
    Target(6, "ensemble", "interval_holds", "intervals of a mIoU that hold the truth, of 3 to 40 groups", least=0.91,
           unit="%", anywhere=True),
    Target(6, "ensemble", "interval_holds_sizes", "the same where groups differ in size, 3 to 13 groups", least=0.91,
           unit="%", anywhere=True),
    Target(6, "ensemble", "interval_holds_alone", "the same where a class is in one group", unit="%", anywhere=True),
    Target(6, "ensemble", "chance_certain", "best of three candidates that gains by chance and is called certain",
           most=0.04, unit="%", anywhere=True),
    Target(6, "ensemble", "chance_ships", "steps with three candidates that gain by chance of which one would ship",
           most=0.13, unit="%", anywhere=True),
    Target(6, "ensemble", "rare_gain", "mean IoU gained in the specialists' classes, true test labels", least=0.03,
           anywhere=True),
    Target(6, "ensemble", "honest_gap", "honest score away from the true one", most=0.02, anywhere=True),
    Target(6, "ensemble", "fitted", "fitted blend's mIoU over the best single member's", least=1, unit="x",
           per="best_single"),
    Target(6, "ensemble", "fitted", "fitted blend's mIoU over the best pair's", least=1, unit="x", per="best_pair"),
    Target(6, "ensemble", "fitted", "fitted blend's mIoU over the uniform mean's", least=1, unit="x", per="uniform"),
    Target(6, "ensemble", "fit_s", "weights fitted, 8 models x 16,017 tiles", most=120, unit="s"),
    Target(6, "ensemble", "fit_mib", "weights fitted: peak memory", most=1024, unit="MiB"),
    Target(6, "ensemble", "apply_tiles_s", "tiles labelled by 8 models", least=150, unit="tiles/s"),
    Target(6, "ensemble", "vs_nnunet", "8 models to label PNGs, against nnU-Net's own ensembling", least=5, unit="x"),
)  # fmt: skip

SUBMISSIONS = (
    Target(7, "submissions", "corruptions_caught", "corrupted zips that are refused", least=1, unit="%",
           per="corruptions_tried"),
    Target(7, "submissions", "corruptions_tried", "zips corrupted", least=25),
    Target(7, "submissions", "false_alarms", "good zips that are refused", most=0),
    Target(7, "submissions", "verify_7000_s", "7,000 tiles verified", most=15, unit="s"),
    Target(7, "submissions", "write_tiles_s", "tiles written", least=400, unit="tiles/s"),
    Target(7, "submissions", "write_vs_plain", "tiles written, against Pillow and zipfile", least=1, unit="x"),
)  # fmt: skip

JOBS = (
    Target(8, "jobs", "makespan_ratio", "24 jobs on 4 slots, over the best possible", most=1.1, unit="x"),
    Target(8, "jobs", "overhead_s", "a job over the bare command", most=1.5, unit="s"),
    Target(8, "jobs", "faults_identical", "faults after which the zip is the same", least=1, unit="%",
           per="faults_tried"),
    Target(8, "jobs", "orphans", "processes left behind", most=0),
)  # fmt: skip

REPORT = (
    Target(9, "report", "report_16k_s", "report of 16,017 tiles, nothing in the page cache", most=60, unit="s"),
    Target(9, "report", "report_16k_mib", "report of 16,017 tiles: its size", most=25 * 1e6 / 2**20, unit="MiB"),
    Target(9, "report", "report_16k_peak_mib", "report of 16,017 tiles: peak memory", unit="MiB"),
    Target(9, "suspects", "suspects_precision", "label flips planted in the demo, among as many first suspects",
           least=0.5, unit="%"),
)  # fmt: skip

PEERS = (
    Target(10, "peers", "confusion_vs_torchmetrics", "confusion matrix against torchmetrics", unit="x"),
    Target(
        10,
        "peers",
        "confusion_vs_torchmetrics_unchecked",
        "confusion matrix against torchmetrics without its checks",
        unit="x",
    ),
    Target(10, "peers", "confusion_vs_sklearn", "confusion matrix against scikit-learn", unit="x"),
    Target(10, "peers", "jaccard_vs_torchmetrics", "mIoU against MulticlassJaccardIndex", unit="x"),
    Target(10, "peers", "jaccard_diff", "difference of that mIoU", unit=""),
    Target(10, "peers", "blend_vs_monai", "mean and argmax of 8 members against MONAI's MeanEnsemble", unit="x"),
    Target(10, "peers", "blend_stored_vs_monai", "the same, ours from stored bytes", unit="x"),
    Target(10, "peers", "blend_same_as_monai", "labels that are MONAI's", unit="%"),
)

LIMITS = (
    Target(10, "limits", "memory_copy_mib_s", "bytes copied in memory", unit="MiB/s"),
    Target(10, "limits", "store_read_cache_mib_s", "store read from the cache, as decoded", unit="MiB/s"),
    Target(10, "limits", "disk_read_mib_s", "bytes read from disk", unit="MiB/s"),
    Target(10, "limits", "store_read_disk_mib_s", "store read from disk, as stored", unit="MiB/s"),
    Target(10, "limits", "disk_write_mib_s", "bytes written to disk", unit="MiB/s"),
    Target(10, "limits", "store_write_mib_s", "store written, as stored", unit="MiB/s"),
    Target(10, "limits", "disk_tiles_s", "tiles of 8 members that the disk could feed", unit="tiles/s"),
    Target(10, "limits", "blend_tiles_s", "tiles of 8 members read and blended", unit="tiles/s"),
)

STEEPEST = 1.15  # exponent of time
TABLE_KIB = 2.0  # memory that a tile may cost: its row in the tables


def grows(part: str, what: str, exponent: float | None = STEEPEST, kib: float | None = TABLE_KIB) -> tuple[Target, ...]:
    return (
        Target(10, "scaling", f"{part}_exponent", f"{what}: exponent of time", most=exponent),
        Target(10, "scaling", f"{part}_last_exponent", f"{what}: exponent of time between the two largest",
               most=exponent),
        Target(10, "scaling", f"{part}_kib_a_tile", f"{what}: memory that grows", most=kib, unit="KiB a tile",
               anywhere=True),
    )  # fmt: skip


SCALING = (
    *grows("scan", "tiles read for the audit"),
    *grows("pack", "tiles packed"),
    *grows("folds", "folds assigned"),
    *grows("audit", "audit of data and folds"),
    *grows("mosaic", "neighbours found", exponent=None, kib=None),
    *grows("duplicates", "copies found"),
    *grows("store", "store written and read"),
    *grows("weights", "sample drawn, weights fitted"),
    *grows("blend", "blend applied"),
    *grows("zip", "zip written and verified"),
)

TARGETS = (*MAIN, *FOLDS, *TRAINING, *PREDICTION, *ENSEMBLE, *SUBMISSIONS, *JOBS, *REPORT, *SCALING, *PEERS, *LIMITS)


@dataclass(frozen=True)
class Untold:
    """A number of an issue that no benchmark gives as a figure."""

    issue: int
    what: str
    where: str
    """What there is instead."""


UNTOLD = (
    Untold(4, "what each ingredient of training changes in OOF mIoU on naip",
           "a table: `python -m benchmarks.run ingredients --naip DIR --runs RUNS`, docs/results.md"),
    Untold(7, "the same sha256 of a zip on any machine, in any order, with any workers",
           "a law in `tests/test_submissions_write.py`; one machine"),
    Untold(10, "GPU: load, transfer, forward, backward, step of a training step",
           "printed by `python -m benchmarks.training --device cuda`"),
)  # fmt: skip
