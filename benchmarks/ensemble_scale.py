"""8 models x 16,017 tiles: how long fitting takes and how much memory, how fast tiles are labelled, beside nnU-Net.

A part of `benchmarks.ensemble`. The stores are written by the project's own writer from members that err as networks
do; 64 tiles stand for 16,017, so reading comes from the page cache and never waits for the disk.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from scipy.ndimage import gaussian_filter

from base.memory import keep_freed_memory
from base.threads import in_threads
from benchmarks.environment import CACHE
from benchmarks.measure import in_own_process, peak_mib, seconds, told
from benchmarks.nnunet import Peer, make_environment, write_predictions
from benchmarks.synthetic import SHARES
from config.ensemble import PLAIN_MEAN, Blend
from ensemble.apply import labels_of
from ensemble.fit import fit_blend
from ensemble.fitted import FittedBlend, uniform_blend
from ensemble.honest import fit_honestly
from ensemble.sample import draw_sample
from ensemble.stores import Stores
from pipeline.store import Store, open_store, write_store
from submissions import png
from tests.played_run import member_probs

WEIGHTS_ALONE = Blend.model_validate(PLAIN_MEAN | {"weights": "direct"})
MODELS, TILES, PX, DISTINCT = 8, 16_017, 256, 64
PEER_TILES, REPEATS = 40, 5
CORES = 2


def scale() -> dict[str, Any]:
    """8 models x 16,017 tiles: fit weights; label tiles; the same tiles by nnU-Net's code."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = make_stores(folder)
        spent, mib, blend = in_own_process(fit_at_scale, source)
        figures: dict[str, Any] = {"fit_s": sum(spent.values()), "fit_mib": mib}
        print(f"fit: {MODELS} models x {TILES} tiles: " + ", ".join(f"{k} {s:.1f} s" for k, s in spent.items())
              + f"; peak {mib:.0f} MiB")  # fmt: skip
        return figures | apply_at_scale(folder, source, blend)


@dataclass(frozen=True)
class RepeatedStores(Stores):
    """DISTINCT stored tiles of each model under the names of many tiles, as an OOF source."""

    stores: dict[str, Store]
    truth_path: Path

    @property
    def fold_N(self) -> np.ndarray:
        return np.arange(len(self.names)) % 5

    @property
    def group_N(self) -> np.ndarray:
        return np.arange(len(self.names))

    @property
    def hist_NC(self) -> np.ndarray:
        truth_NHW = np.load(self.truth_path)
        hist_NC = np.stack([np.bincount(t.ravel(), minlength=len(SHARES)) for t in truth_NHW])
        return hist_NC[np.arange(len(self.names)) % DISTINCT]

    def truth(self, i: int) -> np.ndarray:
        return np.load(self.truth_path, mmap_mode="r")[i % DISTINCT]

    def _stored(self, i: int, model: str) -> list[tuple[Store, int]]:
        return [(self.stores[model], i % DISTINCT)]

    def of(self, count: int) -> "RepeatedStores":
        """So many of its tiles."""
        return replace(self, names=self.names[:count])


def make_stores(folder: Path) -> RepeatedStores:
    """Stores of DISTINCT tiles by MODELS members that err as networks do."""
    truth_NHW = np.stack(Parallel(n_jobs=CORES)(delayed(_draw_truth)(i) for i in range(DISTINCT)))
    np.save(folder / "truth.npy", truth_NHW)
    paths = tuple(folder / f"model{m}" for m in range(MODELS))
    Parallel(n_jobs=CORES)(delayed(_write_member)(path, m, truth_NHW) for m, path in enumerate(paths))
    stored = sum((path / "probs.bin").stat().st_size for path in paths) / DISTINCT
    raw = MODELS * len(SHARES) * PX * PX
    print(f"stores: {MODELS} models, {DISTINCT} tiles for {TILES}; a tile by all models is {stored / 1024:.0f} KiB "
          f"of {raw / 1024:.0f} KiB raw")  # fmt: skip
    stores = {path.name: open_store(path) for path in paths}
    classes = next(iter(stores.values())).classes
    names = [f"{i:06d}" for i in range(TILES)]
    return RepeatedStores(tuple(classes), tuple(stores), {}, names, stores, folder / "truth.npy")


def fit_at_scale(source: RepeatedStores) -> tuple[dict[str, float], float, FittedBlend]:
    """Seconds of the sample and of the weights, peak MiB of the process, and the blend of all steps."""
    begin = time.perf_counter()
    sample = draw_sample(source, Blend().sample_pixels)
    drawn = time.perf_counter()
    fit_blend(sample, WEIGHTS_ALONE)
    weighed = time.perf_counter()
    mib = peak_mib()
    blend = fit_blend(sample, Blend()).blend
    fitted = time.perf_counter()
    fit_honestly(sample, Blend())
    honest = time.perf_counter()
    everything = peak_mib()
    print(f"beside it: all steps under auto {fitted - weighed:.1f} s, their honest fit {honest - fitted:.1f} s, "
          f"{len(sample.truth_P)} pixels, peak of all {everything:.0f} MiB; {blend.kinds}", flush=True)  # fmt: skip
    return {"sample": drawn - begin, "weights": weighed - drawn}, mib, blend


def apply_at_scale(folder: Path, source: RepeatedStores, blend: FittedBlend) -> dict[str, Any]:
    """Tiles labelled per second by the fitted blend, what reading alone takes, and nnU-Net on the same tiles."""
    keep_freed_memory()  # as the command does
    some = source.of(600)
    blend = blend if len(blend.models) == MODELS else uniform_blend(source.classes, source.models)
    rates: dict[str, list[float]] = {"fitted": [], "uniform": [], "reading alone": []}
    works: dict[str, Callable[[], Any]] = {
        "fitted": lambda: _drain(labels_of(blend, some)),
        "uniform": lambda: _drain(labels_of(uniform_blend(source.classes, source.models), some)),
        "reading alone": lambda: _drain(in_threads(lambda i: some.probs(i, some.models).shape, range(len(some.names)))),
    }
    for _ in range(REPEATS):
        for what, work in works.items():
            rates[what].append(len(some.names) / seconds(work))
    print("apply: " + ", ".join(f"{what} {told(r, 0)} tiles/s" for what, r in rates.items())
          + f" ({blend.kinds or 'uniform'})")  # fmt: skip
    return {"apply_tiles_s": statistics.median(rates["fitted"])} | against_nnunet(folder, source)


def against_nnunet(folder: Path, source: RepeatedStores) -> dict[str, Any]:
    """The uniform mean of 8 members, files to label PNGs, by us and by nnunetv2; the same tiles, in turns."""
    python = make_environment(CACHE / "nnunet")
    if python is None:
        return {"vs_nnunet": None}
    tiles = source.of(PEER_TILES)
    probs_NMCHW = np.stack([tiles.probs(i, tiles.models) for i in range(PEER_TILES)])
    peer = Peer(python, write_predictions(folder / "nnunet", probs_NMCHW), processes=CORES)
    blend = uniform_blend(tiles.classes, tiles.models)
    ours_s, theirs_s = [], []
    out = folder / "labels"
    out.mkdir()
    for _ in range(REPEATS):
        ours_s.append(seconds(lambda: _write_labels(blend, tiles, out)))
        theirs_s.append(peer.run())
    theirs = peer.labels()
    same = np.mean([(labels == theirs[i]).mean() for i, (_, labels) in enumerate(labels_of(blend, tiles))])
    peer.close()
    ratio = statistics.median(theirs_s) / statistics.median(ours_s)
    print(f"nnunetv2: {PEER_TILES / statistics.median(theirs_s):.1f} tiles/s, ours "
          f"{PEER_TILES / statistics.median(ours_s):.1f}, files to PNGs: {ratio:.1f} times as fast; "
          f"{same:.4%} of the labels are the same")  # fmt: skip
    return {"vs_nnunet": ratio}


def _draw_truth(i: int) -> np.ndarray:
    """(H, W) uint8 of blobs whose classes have the competition's shares, every class somewhere."""
    rng = np.random.default_rng([i, 5])
    height = gaussian_filter(rng.normal(size=(PX, PX)), 14)
    patch = (np.argsort(np.argsort(height.ravel())).reshape(PX, PX) * 40) // (PX * PX)  # 40 bands of equal area
    class_of_band = rng.choice(len(SHARES), 40, p=0.7 * SHARES + 0.3 / len(SHARES))
    return class_of_band[patch].astype(np.uint8)


def _write_member(path: Path, m: int, truth_NHW: np.ndarray) -> None:
    rng = np.random.default_rng([m, 6])
    names, classes = [f"{i:06d}" for i in range(DISTINCT)], [f"class{c}" for c in range(len(SHARES))]
    with write_store(path, names, classes, PX, PX, {"model": path.name}) as writer:
        for truth_HW in truth_NHW:
            writer.append(member_probs(rng, truth_HW, len(SHARES), 8.0 - m / 2)[None])


def _write_labels(blend: FittedBlend, source: RepeatedStores, out: Path) -> None:
    def write(named: tuple[str, np.ndarray]) -> None:
        (out / f"{named[0]}.png").write_bytes(png.encode(named[1]))

    _drain(in_threads(write, labels_of(blend, source)))


def _drain(items: Iterable) -> None:
    for _ in items:
        pass
