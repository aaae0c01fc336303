"""The out-of-fold IoU of every single train tile -> `runs/<name>/tile_scores.csv`. Reads all predictions, once."""

import numpy as np
import pandas as pd

from base.stamps import FileResult
from base.tables import read_csv, write_csv
from base.threads import track_in_threads
from folds.metrics import confusion, iou_per_class, mean_over_classes
from reports.material import Material


def make_tile_scores(material: Material) -> pd.DataFrame:
    """Write `tile_scores.csv` unless it holds already; return it.

    Returns:
        A row per train tile with a prediction: name, fold, group, miou, and a column per class. They are of the blend
        that was fitted without the tile's fold. NaN: a class that neither mask nor prediction of the tile holds; miou
        is the mean over the others.

    Raises:
        UserError: there are no out-of-fold predictions.
    """
    run = material.run
    path = run.dir / "tile_scores.csv"
    result = FileResult(path, run.blend_keys, material.oof_inputs())
    if not result.is_fresh():
        table = tile_scores(material)
        write_csv(path, table, float_format="%.4f")
        result.finish()
    texts = {"name": str, "group": str}
    return read_csv(path, dtype=texts)


def tile_scores(material: Material) -> pd.DataFrame:
    source, num_classes = material.oof, len(material.classes)

    def iou(i: int) -> np.ndarray:
        _, index_HW = material.oof_labels(i)
        return iou_per_class(confusion(index_HW, source.truth(i), num_classes))

    count = len(source.names)
    iou_NC = np.stack(list(track_in_threads(iou, range(count), "score tiles")))
    table = pd.DataFrame({
        "name": source.names,
        "fold": source.fold_N,
        "group": material.train.group.to_numpy()[source.row_N],
        "miou": mean_over_classes(iou_NC),
    })  # fmt: skip
    return pd.concat([table, pd.DataFrame(iou_NC, columns=list(source.classes))], axis=1)
