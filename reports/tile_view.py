"""What the browser of tiles shows: the list of tiles that are asked for, and everything about one of them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from base.errors import UserError
from config.data import IGNORE_INDEX
from folds.metrics import confusion, iou_per_class, mean_over_classes
from reports.figures import css
from reports.material import Material
from reports.page import Thumb
from reports.pictures import confidence_rgb, drawing, error_rgb, photo
from reports.render import data_uri
from reports.tile_scores import make_tile_scores

Order = Literal["worst", "best", "name"]


@dataclass(frozen=True)
class TileView:
    """The train tiles of a run, by their position in the tile table. Without predictions: images and masks alone."""

    material: Material

    @cached_property
    def missing(self) -> str:
        """Why there are no predictions; nothing where there are."""
        try:
            self.material.oof, self.material.fitted  # noqa: B018
        except UserError as error:
            return str(error)
        return ""

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per train tile: name, fold, group, miou, and the IoU of each class; NaN where nothing was predicted.

        Raises:
            UserError: there is no tile table or no fold yet.
        """
        train, names = self.material.train, ["miou", *self.material.classes.names]
        table = pd.DataFrame({"name": train.name, "fold": self.material.fold_N, "group": train.group})
        if self.missing:
            return table.assign(**dict.fromkeys(names, np.nan))
        scores = make_tile_scores(self.material).set_index("name")[names]
        return table.join(scores, on="name")

    @cached_property
    def folds(self) -> list[int]:
        return sorted(self.table.fold.unique().tolist())

    @cached_property
    def _oof_of(self) -> dict[int, int]:
        """Position in the tile table -> position among the predictions."""
        return {} if self.missing else {int(row): i for i, row in enumerate(self.material.oof.row_N)}

    def select(self, class_name: str, fold: int | None, low: float, high: float, order: Order) -> list[list[Any]]:
        """[position, name, fold, IoU] of the tiles asked for; IoU is of the class, or mIoU where none is named.

        Of equal IoU, tiles with more of the class come first; tiles without IoU come last.

        Args:
            class_name: only tiles with it in mask or prediction; empty: all tiles.
            low, high: only tiles whose IoU lies between; tiles without one only where they are 0 and 1.
        """
        table = self.table
        iou_N = table[class_name or "miou"].to_numpy(float)
        px_N = np.zeros(len(table), np.int64)
        keep_N = (low <= iou_N) & (iou_N <= high) | (np.isnan(iou_N) & (low == 0) & (high == 1))
        if class_name:
            px_N = self.material.hist_NC[:, self.material.classes.names.index(class_name)]
            keep_N &= ~np.isnan(iou_N) | (px_N > 0)
        if fold is not None:
            keep_N &= table.fold.to_numpy() == fold
        name_N = table.name.to_numpy(str)
        if order == "name":
            ranked_N = np.argsort(name_N, kind="stable")
        else:
            ranked_N = np.lexsort([name_N, -px_N, iou_N if order == "worst" else -iou_N])
        chosen = table.iloc[ranked_N[keep_N[ranked_N]]]
        iou = [_number(value) for value in iou_N[chosen.index]]
        columns = chosen.index.tolist(), chosen.name.tolist(), chosen.fold.tolist(), iou
        return [list(row) for row in zip(*columns, strict=True)]

    def tile(self, n: int) -> dict[str, Any]:
        """Tile n: its pictures and what is known of each class, as values for JSON."""
        material, classes = self.material, self.material.classes
        name, fold, group = self.table.loc[n, ["name", "fold", "group"]]
        truth_HW = np.asarray(material.pack.train_mask_NHW[n])
        image_HWB = material.pack.train_image_NHWB[n]
        rgb, side_px = material.stretch.true_color(image_HWB), max(truth_HW.shape)
        pictures = [photo(rgb, f"Tile {name} in true colour", "image", side_px)]
        if material.stretch.false:
            false = material.stretch.false_color(image_HWB)
            pictures.append(photo(false, f"Tile {name}, near infrared as red", "near infrared", side_px))
        pictures.append(drawing(classes.to_rgb(truth_HW), f"Mask of {name}", "mask", side_px))
        shown: dict[str, Any] = {"name": name, "fold": int(fold), "group": group, "miou": None, "wrong": None}
        columns: dict[str, list[Any]] = {"mask": _shares(truth_HW, len(classes))}
        maps: list[Thumb] = []
        if n in self._oof_of:
            i = self._oof_of[n]
            probs_CHW, index_HW = material.oof_labels(i)
            iou_C = iou_per_class(confusion(index_HW, truth_HW, len(classes)))
            counted_HW = truth_HW != IGNORE_INDEX
            wrong = ((index_HW != truth_HW) & counted_HW).sum() / max(counted_HW.sum(), 1)
            shown |= {"miou": _number(mean_over_classes(iou_C)), "wrong": _number(wrong)}
            columns["predicted"] = _shares(index_HW, len(classes))
            columns["iou"] = [_number(iou) for iou in iou_C]
            columns["probability"] = [_number(mean) for mean in probs_CHW.mean((1, 2))]
            sure = confidence_rgb(probs_CHW.max(0))
            pictures += [
                drawing(classes.to_rgb(index_HW), f"Out-of-fold prediction of {name}", "prediction", side_px),
                photo(sure, f"Confidence in {name}, bright where sure", "confidence", side_px),
                photo(error_rgb(rgb, index_HW, truth_HW), f"Errors in {name}, in red", "errors", side_px),
            ]
            maps = [
                photo(confidence_rgb(probs_HW), f"Probability of {class_name}, bright where high", class_name)
                for class_name, probs_HW in zip(classes.names, probs_CHW, strict=True)
            ]
        rows = [
            {"name": class_name, "color": css(color)} | {column: values[c] for column, values in columns.items()}
            for c, (class_name, color) in enumerate(zip(classes.names, classes.colors, strict=True))
        ]
        return shown | {"pictures": _inlined(pictures), "classes": rows, "maps": _inlined(maps)}


def _shares(index_HW: np.ndarray, num_classes: int) -> list[float]:
    """Share of the tile that each class covers."""
    return (np.bincount(index_HW.ravel(), minlength=256)[:num_classes] / index_HW.size).round(4).tolist()


def _number(value: float) -> float | None:
    return None if value != value else round(float(value), 4)


def _inlined(thumbs: list[Thumb]) -> list[dict[str, str]]:
    return [{"label": thumb.label, "alt": thumb.alt, "src": data_uri(thumb.data, thumb.mime)} for thumb in thumbs]
