"""Label errors of a known place: a share of the objects of masks gets another label."""

import cv2
import numpy as np
import pandas as pd

MIN_PX, MIN_WIDTH_PX = 16, 4  # smaller or thinner ones are no objects


def plant_flips(truth_NHW: np.ndarray, num_classes: int, share: float, seed: int) -> list[tuple[int, np.ndarray]]:
    """Give `share` of all objects another label, in place; (tile, where) of each."""
    rng = np.random.default_rng(seed)
    objects = []
    for i, truth_HW in enumerate(truth_NHW):
        for c in range(num_classes):
            region_HW, stats = cv2.connectedComponentsWithStats((truth_HW == c).astype(np.uint8), connectivity=4)[1:3]
            for region in range(1, len(stats)):
                where_HW = region_HW == region
                width_px = 2 * cv2.distanceTransform(np.pad(where_HW, 1).astype(np.uint8), cv2.DIST_L2, 3).max()
                if where_HW.sum() >= MIN_PX and width_px >= MIN_WIDTH_PX:
                    objects.append((i, c, where_HW))
    planted = []
    for pick in rng.choice(len(objects), round(share * len(objects)), replace=False):
        i, c, where_HW = objects[pick]
        truth_NHW[i][where_HW] = (c + rng.integers(1, num_classes)) % num_classes
        planted.append((i, where_HW))
    return planted


def planted_share(suspects: pd.DataFrame, planted: list[tuple[int, np.ndarray]], names: list[str]) -> float:
    """Share of the rows of suspects.csv at least half of whose pixels lie in a planted error, by their box.

    Args:
        names: of the tiles, in the order of the masks.
    """
    number_of = {name: i for i, name in enumerate(names)}

    def is_planted(row) -> bool:
        box = np.s_[row.top : row.top + row.height, row.left : row.left + row.width]
        return any(i == number_of[row.name] and where_HW[box].sum() >= row.px / 2 for i, where_HW in planted)

    return float(np.mean([is_planted(row) for row in suspects.itertuples(index=False)]))
