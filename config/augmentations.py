"""The augmentations by name, with the arguments that each takes. `pipeline/augment.py` builds them.

The arguments are albumentations' own where the augmentation is. They stand here as plain names because reading an
experiment must not import albumentations; a test compares them with its signatures.
"""

from typing import Any

from pydantic import Field, model_validator

from base.errors import nearest
from config.base import Section

_WARP = {"interpolation", "border_mode", "fill"}

AUGMENTATIONS: dict[str, set[str]] = {
    # The square's symmetries.
    "d4": set(),
    "hflip": set(),
    "vflip": set(),
    "rotate90": set(),
    "transpose": set(),
    # Where pixels lie. What comes from outside the tile is ignored.
    "shift_scale_rotate": {
        "scale", "translate_percent", "translate_px", "rotate", "shear", "keep_ratio", "balanced_scale", *_WARP
    },
    "random_resized_crop": {"scale", "ratio", "interpolation"},
    "grid_distortion": {"num_steps", "distort_limit", "normalized", *_WARP},
    # What pixels measure.
    "brightness_contrast": {"brightness_limit", "contrast_limit", "brightness_by_max"},
    "gamma": {"gamma_limit"},
    "noise": {"std_range", "mean_range", "per_channel", "noise_scale_factor"},
    "blur": {"blur_limit", "sigma_limit"},
    "band_gain": {"gain", "offset"},
    "percent_stretch": {"percent"},
    # What is hidden; the mask stays, so that the network learns to tell from what is around it.
    "coarse_dropout": {"num_holes_range", "hole_height_range", "hole_width_range", "fill"},
    # Two tiles.
    "copy_paste": {"classes"},
    "cutmix": {"alpha"},
    "mixup": {"alpha"},
}  # fmt: skip


class Augmentation(Section):
    name: str
    """An augmentation of `pipeline/augment.py`."""
    p: float = Field(0.5, ge=0, le=1)
    """Probability that it is applied to a tile."""
    params: dict[str, Any] = {}
    """Its own arguments."""

    @model_validator(mode="after")
    def _known(self) -> "Augmentation":
        if self.name not in AUGMENTATIONS:
            raise ValueError(f"unknown augmentation {self.name!r}{nearest(self.name, [*AUGMENTATIONS])}")
        known = sorted(AUGMENTATIONS[self.name])
        unknown = [
            f"unknown argument {key!r}" + (nearest(key, known) if known else "; it takes none")
            for key in self.params
            if key not in known
        ]
        if unknown:
            raise ValueError(f"{self.name}: {', '.join(unknown)}")
        classes = self.params.get("classes")
        if self.name == "copy_paste" and not (classes and isinstance(classes, list)):
            raise ValueError("copy_paste: params.classes names the classes that are pasted, as in {classes: [grass]}")
        return self
