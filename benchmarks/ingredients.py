"""What does each ingredient of training change in OOF mIoU? naip, one thing changed at a time, two seeds, three folds.

python -m benchmarks.ingredients --data DIR --runs DIR [--only NAME ...] [--json FILE]

Half-resolution copies of the naip tiles (128 px of 1.2 m) keep it to minutes a variant; Unet/resnet18 from random
weights. What is finished under --runs is not made again, so variants can be made one at a time with --only. A
difference is worth something where it is larger than chance makes it, which is told from the spread between seeds.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from PIL import Image
from scipy.special import fdtri, stdtrit

from base.command import add_json, plain_parser, run, write_figures
from base.errors import UserError, nearest, refuse_all
from base.progress import track
from base.screen import screen, text_table
from config import Run, load_experiment, open_run
from ensemble.stores import ProvenStores
from folds.assign import make_folds
from folds.metrics import confusion, iou_per_class, mean_iou

CONFIG = "configs/naip.yaml"
FAR = 0.9  # seeds of a variant are far apart where such a share of variances that are like the others' are smaller
BASE = "base"
COMMON = (
    "models=[{name: unet_r18, arch: Unet, encoder: resnet18}]",
    "data.test_images=null",
    "predict.tta=none",
    "train.epochs=12",
    "train.batch=4",  # a quarter of the pixels a tile: as many steps, of fewer pixels, as at full resolution
    "train.ema.decay=0.98",  # beside the weights; it changes none of them
    "jobs.devices=cpu",
    "jobs.threads=1",
)


@dataclass(frozen=True)
class Variant:
    name: str
    what: str
    """What is changed, as a person reads it."""
    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1)
    members_of: str | None = None
    """The variant whose members predict once more; None: it has its own."""


DICE, D4 = "{name: dice}", "{name: d4, p: 1.0}"
VARIANTS = (
    Variant(BASE, "ce + dice, no weights, uniform, d4, AdamW 1e-3, warm-up cosine"),
    Variant("ema", "weights: EMA .98 of the base's", ("predict.weights=ema",), members_of=BASE),
    Variant("swa", "weights: SWA of the last 4 epochs at lr 5e-4",
            ("train.swa={start_epoch: 8, lr: 5.0e-4}", "predict.weights=swa")),
    Variant("ce", "loss: ce", ("train.loss=[{name: ce}]",)),
    Variant("focal_dice", "loss: focal + dice", ("train.loss=[{name: focal}, {name: dice}]",)),
    Variant("ce_lovasz", "loss: ce + lovasz", ("train.loss=[{name: ce}, {name: lovasz}]",)),
    Variant("log_inverse", "class weights: log_inverse", ("train.class_weights.name=log_inverse",)),
    Variant("repeat", "sampler: repeat_factor .7", ("train.sampler={name: repeat_factor, threshold: 0.7}",)),
    Variant("no_augment", "augment: nothing", ("train.augment=[]",)),
    Variant("affine", "augment: d4 + shift_scale_rotate", (f"train.augment=[{D4}, {{name: shift_scale_rotate}}]",)),
    Variant("radiometry", "augment: d4 + brightness_contrast + band_gain",
            (f"train.augment=[{D4}, {{name: brightness_contrast}}, {{name: band_gain}}]",)),
    Variant("cutmix", "augment: d4 + cutmix", (f"train.augment=[{D4}, {{name: cutmix}}]",)),
    Variant("copy_paste", "augment: copy_paste of building and bare_land + d4",
            ("train.augment=[{name: copy_paste, params: {classes: [building, bare_land]}}, " + D4 + "]",)),
    Variant("lr", "lr 3e-3", ("train.lr=3.0e-3",)),
    Variant("ndvi", "NDVI as a fifth band", ("data.derived=[ndvi]",)),
)  # fmt: skip
BY_NAME = {variant.name: variant for variant in VARIANTS}


def halve(source: Path, target: Path) -> None:
    """The train tiles at half their resolution: images the mean of 2x2 pixels, masks their most frequent label.

    Where two labels are equally frequent, that of the upper left pixel counts.
    """
    if (target / "tiles.csv").exists():
        return
    if not (source / "tiles.csv").exists():
        raise UserError(f"--data {source}: no tiles.csv; it is the folder of the naip data set")
    (target / "train").mkdir(parents=True, exist_ok=True)
    for path in track(sorted((source / "train").glob("*.tif")), "half-resolution tiles"):
        with rasterio.open(path) as file:
            image_BHW, profile = file.read(), file.profile
        bands, height, width = image_BHW.shape
        mean_BHW = image_BHW.reshape(bands, height // 2, 2, width // 2, 2).mean((2, 4))
        profile.update(height=height // 2, width=width // 2)
        with rasterio.open(target / "train" / path.name, "w", **profile) as file:
            file.write(np.rint(mean_BHW).astype(image_BHW.dtype))
        mask = path.with_suffix(".png")
        Image.fromarray(majority(np.array(Image.open(mask)))).save(target / "train" / mask.name)
    shutil.copy(source / "tiles.csv", target)  # last: it says that the copy is whole


def majority(label_HW: np.ndarray) -> np.ndarray:
    """(H, W) uint8 -> (H / 2, W / 2)."""
    four = np.stack([label_HW[row::2, column::2] for row in (0, 1) for column in (0, 1)])
    votes = (four[:, None] == four).sum(1)  # how many of the four say the same
    return np.take_along_axis(four, votes.argmax(0)[None], 0)[0]  # the first of equals


def run_of(variant: Variant, args: argparse.Namespace) -> tuple[Run, list[str]]:
    """The run of a variant, and the overrides that make it."""
    own = BY_NAME[variant.members_of] if variant.members_of else variant
    overrides = [*COMMON, *own.overrides, *variant.overrides, f"name={own.name}", f"seeds={[*variant.seeds]}"]
    overrides += [f"data.root={args.runs / 'tiles'}", f"runs_dir={args.runs}", *args.overrides]
    return open_run(load_experiment(CONFIG, overrides)), overrides


def make(variant: Variant, args: argparse.Namespace) -> None:
    """Train and predict what is left of a variant, through the project's own grid.

    Raises:
        UserError: a member failed; the grid has said which.
    """
    experiment_run, overrides = run_of(variant, args)
    make_folds(experiment_run)
    if subprocess.run([sys.executable, "-m", "pipeline.cv", "--config", CONFIG, *overrides]).returncode:
        raise UserError(f"variant {variant.name}: its grid did not finish; the same command goes on")


def scores(variant: Variant, args: argparse.Namespace) -> pd.DataFrame:
    """A row per seed: mIoU and IoU per class of all three folds' held-out tiles, from one confusion matrix."""
    experiment_run = run_of(variant, args)[0]
    source, seeds = ProvenStores(experiment_run).oof, experiment_run.experiment.seeds
    num_classes = len(source.classes)
    conf = {seed: np.zeros((num_classes, num_classes), np.int64) for seed in seeds}
    for i in range(len(source.names)):
        for member in source.members(i, source.models[0]):
            conf[member.seed] += confusion(source.member_probs(i, member).argmax(0), source.truth(i), num_classes)
    rows = [{"miou": mean_iou(c), **dict(zip(source.classes, iou_per_class(c), strict=True))} for c in conf.values()]
    return pd.DataFrame(rows, index=pd.Index(seeds, name="seed"))


def compare(found: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """A row per variant: means over its seeds, the difference to the base with the same seeds, and their noise.

    `noise` is the standard error of such a difference, from the variances between seeds of all variants together:
    of two seeds alone it could not be told. Seeds pair the first weights and the order of tiles, which after some
    hundred steps no longer matters; so it is that of independent runs. A variant whose own seeds lie far further apart
    than those of the others counts with its own variance instead. `reach` is the noise times Student's t: chance makes
    a difference as large one time in twenty.
    """
    variances = pd.DataFrame({name: (frame.miou.var(), len(frame) - 1) for name, frame in found.items()}).T
    variances.columns = ["variance", "freedom"]
    base = found[BASE]
    rows = []
    for name, frame in found.items():
        paired = frame.miou - base.miou.loc[frame.index]
        noise, freedom = (0.0, np.nan) if name == BASE else _noise(name, len(frame), variances[variances.freedom > 0])
        rows.append(
            {"variant": name, **frame.mean().to_dict(), "difference": paired.mean(),
             "least": paired.min(), "most": paired.max(), "spread": frame.miou.max() - frame.miou.min(),
             "noise": noise, "reach": noise * stdtrit(freedom, 0.975)}
        )  # fmt: skip
    return pd.DataFrame(rows).set_index("variant")


def _noise(name: str, seeds: int, variances: pd.DataFrame) -> tuple[float, float]:
    """Standard error of a variant's difference to the base, and its degrees of freedom; NaN without a second seed."""
    pooled, freedom = _pooled(variances)
    others, freedom_of_others = _pooled(variances.drop(index=name, errors="ignore"))
    if name in variances.index and freedom_of_others:
        own, freedom_of_own = variances.loc[name]
        if own > others * fdtri(freedom_of_own, freedom_of_others, FAR):
            # Welch's: two variances, and the degrees of freedom that their sum comes to.
            freedom = (own + others) ** 2 / (own**2 / freedom_of_own + others**2 / freedom_of_others)
            return np.sqrt((own + others) / seeds), freedom
    return np.sqrt(2 * pooled / seeds), freedom


def _pooled(variances: pd.DataFrame) -> tuple[float, float]:
    freedom = variances.freedom.sum()
    return ((variances.variance * variances.freedom).sum() / freedom if freedom else np.nan), freedom


def show(table: pd.DataFrame, classes: Sequence[str]) -> None:
    rows = []
    for name, row in table.sort_values("miou", ascending=False).iterrows():
        difference = "" if name == BASE else f"{row.difference:+.4f} ({row.least:+.4f} to {row.most:+.4f})"
        loud = abs(row.difference) > row.reach
        rows.append((
            f"{'* ' if loud else ''}{name}: {BY_NAME[name].what}", f"{row.miou:.4f}", difference,
            f"{row.noise:.4f}", *(f"{row[each]:.3f}" for each in classes)
        ))  # fmt: skip
    title = "OOF of half-resolution naip: mean over seeds; difference to the base seed by seed"
    columns = ("variant", "mIoU", "difference (least to most)", "noise", *classes)
    console = screen(width=190)
    console.print(text_table(title, columns, rows))
    console.print(
        "* more than chance makes of a variant one time in twenty (Student's t); of many it makes one far more often.\n"
        "noise: standard error of a difference between independent runs, from the spread of all variants' seeds, or of "
        "the\nvariant's own where they lie far further apart"
    )


def main(argv: list[str] | None = None) -> None:
    names = ", ".join(BY_NAME)
    parser = plain_parser("benchmarks.ingredients", f"{__doc__}\n{names}")
    parser.add_argument("--data", metavar="DIR", type=Path, required=True, help="the naip data set")
    parser.add_argument("--runs", metavar="DIR", type=Path, required=True, help="where tiles and members are kept")
    parser.add_argument("--only", metavar="NAME", nargs="+", default=[*BY_NAME], help="variants, beside the base")
    parser.add_argument("--overrides", metavar="key=value", nargs="+", default=[], help="for all of them")
    add_json(parser)
    args = parser.parse_args(argv)
    refuse_all("--only", [f"{name}{nearest(name, [*BY_NAME])}" for name in args.only if name not in BY_NAME])
    halve(args.data, args.runs / "tiles")
    chosen = [variant for variant in VARIANTS if variant.name in {BASE, *args.only}]
    for variant in chosen:
        make(variant, args)
    table = compare({variant.name: scores(variant, args) for variant in chosen})
    classes = [spec.name for spec in load_experiment(CONFIG).data.classes]
    show(table, classes)
    write_figures(args.json, {
        f"{name}_{column}": float(value) for name, row in table.iterrows() for column, value in row.items()
    })  # fmt: skip


if __name__ == "__main__":
    run(main)
