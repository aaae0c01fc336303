"""What a tile is: where images and masks lie, bands, classes, groups and folds."""

from string import Formatter
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from config.base import Folder, Section

Color = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
LANDSCAPE_CLASSES = (
    "farmland", "forest", "grass", "road", "urban", "rural", "industrial", "construction", "water", "bareland"
)  # fmt: skip
"""What the generated competition draws; `data.classes` gives them labels and colours."""
AuditError = Literal[
    "class_absent_in_fold", "class_in_few_groups", "copies_across_folds", "dead_band", "neighbours_across_folds",
    "one_label_masks", "overlaps_across_folds",
]  # fmt: skip
TILE_COLUMNS = ("name", "split", "image", "mask", "height", "width", "group", "sha256")
"""Columns of `tiles.csv`; a column of pixel counts per class follows. sha256 begins the hash of image and mask."""
OOF_COLUMNS = (
    "kind", "name", "fold", "seed", "weights", "tta", "tiles", "miou", "miou_low", "miou_high", "miou_in_sample"
)  # fmt: skip
"""Columns of `oof.csv`; a column of IoU per class follows."""
STEP_COLUMNS = (
    "step", "kind", "agree", "ships", "miou", "miou_low", "miou_high", "gain", "gain_low", "gain_high",
    "miou_in_sample", "ece",
)  # fmt: skip
"""Columns of a blend's `steps.csv`; the same follows."""
COMPARE_COLUMNS = (
    "blend", "miou", "miou_low", "miou_high", "miou_in_sample", "difference", "difference_low", "difference_high"
)  # fmt: skip
"""Columns of what `ensemble.compare` makes; the same follows."""
NAME = "{name}"
"""Where the name of a tile stands in a pattern of files."""
Nodata = Annotated[float, Field(allow_inf_nan=False)] | Literal["nan"] | None
IGNORE_INDEX = 255  # inside the program; a mask on disk may use any value for it, or none


class ClassSpec(Section):
    label: int = Field(ge=0, le=255)
    """The value in the mask PNG."""
    name: str = Field(min_length=1)
    """Column name in every table."""
    color: Color
    """R, G, B in 0..255, for pictures."""


class Landscape(Section):
    """The generated demo competition: `folds/landscape.py` draws it into `data.root` when this section is there."""

    seed: int = Field(0, ge=0)
    """Other seeds draw other landscapes."""
    train_scenes: int = Field(8, ge=2)
    """Scenes cut into train tiles; a scene is a group that nobody is told of."""
    test_scenes: int = Field(2, ge=1)
    """Scenes cut into test tiles."""
    scene_tiles: int = Field(5, ge=2)
    """A scene is this many tiles wide and high. Drawing one takes about 60 bytes of memory per pixel."""
    tile_px: int = Field(128, ge=32, multiple_of=32)
    """Side of a tile in pixels."""
    test_shift: float = Field(1.0, ge=0, le=4)
    """How far the light and the sensor gain of test scenes lie from those of train scenes; 0: no shift."""
    floor: float = Field(0.006, ge=0, le=0.03)
    """Least average share of a class. The competition's rarest has 0.0008: too little for every fold of a small set."""


class Data(Section):
    root: Folder = "."
    """Folder that every other path of this section is relative to."""
    train_images: str = "train/*.tif"
    """Glob of the train images. A tile's name is its file's stem, or what stands for {name}: train/{name}_sat.jpg."""
    train_masks: str = "train/{name}.png"
    """Mask of the tile {name}; a glob too, as in train/*/masks/{name}.png. A file that both patterns match is what the
    longer one says."""
    test_images: str | None = "test/*.tif"
    """Glob of the test images, as of the train images; null: there is no test set."""
    test_masks: str | None = None
    """Mask of the test tile {name}, where test labels are known: the zip is scored with them, and nothing reads them
    before; null: they are not."""
    mask_values: Literal["labels", "colors"] = "labels"
    """What a mask holds: labels, in one band; or the classes' colours, in three."""
    bands: list[str] = Field(["red", "green", "blue", "nir"], min_length=1)
    """Names of the image's bands in file order; their count is checked against the files."""
    derived: list[Literal["ndvi"]] = []
    """Bands computed in float from the others and appended. ndvi = (nir - red) / (nir + red), in [-1, 1]."""
    normalize: Literal["dataset", "tile"] = "dataset"
    """Each band to mean 0 and std 1: by the train tiles' statistics, or by each tile's own (for shifted test sets)."""
    ignore_label: int | None = Field(None, ge=0, le=255)
    """Mask value that is neither trained on nor scored; null: every pixel counts."""
    ignore_color: Color | None = None
    """The same for masks of colours."""
    nodata: Nodata = None
    """The value that images have where they have no data: in all bands, of floats in any, and of floats NaN beside it;
    nan: NaN and infinities. Such pixels are neither trained on nor scored, and count in no statistic; null: every pixel
    has data."""
    classes: list[ClassSpec] = Field(min_length=2, max_length=255)
    """The classes in index order."""
    generate: Landscape | None = None
    """Draw a demo competition into `root` before anything else; null: the data is there."""

    @field_validator("nodata", mode="before")
    @classmethod
    def _nan_by_name(cls, value: object) -> object:
        # YAML has nan and .nan; a NaN would differ from itself wherever keys are compared.
        return "nan" if isinstance(value, float) and value != value else value

    @model_validator(mode="after")
    def _consistent(self) -> "Data":
        names = self.class_names
        for what, values in (
            ("classes: label", [c.label for c in self.classes]),
            ("classes: name", names),
            ("bands:", self.bands),
        ):
            twice = sorted({str(v) for v in values if values.count(v) > 1})
            if twice:
                raise ValueError(f"{what} {', '.join(twice)} is given twice")
        taken = sorted({*TILE_COLUMNS, *OOF_COLUMNS, *STEP_COLUMNS, *COMPARE_COLUMNS, "all"} & set(names))
        if taken:
            raise ValueError(
                f"classes: name {', '.join(taken)} is taken: by a column of tables that have one for each class, or by "
                f"the target of models of all of them"
            )
        if self.ignore_label in [c.label for c in self.classes]:
            raise ValueError(f"ignore_label {self.ignore_label} is also the label of a class")
        self._patterns_name_tiles()
        self._masks_can_be_read()
        if "ndvi" in self.derived and not {"red", "nir"} <= set(self.bands):
            raise ValueError(f"derived ndvi needs bands red and nir; there are {', '.join(self.bands)}")
        if self.generate:
            self._must_be_what_is_drawn()
        return self

    @property
    def class_names(self) -> list[str]:
        return [each.name for each in self.classes]

    @property
    def input_channels(self) -> int:
        """What a network sees of a pixel: the bands and what is computed from them."""
        return len(self.bands) + len(self.derived)

    def _patterns_name_tiles(self) -> None:
        for key in ("train_images", "train_masks", "test_images", "test_masks"):
            pattern = getattr(self, key)
            if pattern is None or (key.endswith("images") and not _fields(pattern)):
                continue
            if _fields(pattern) != ["name"]:
                raise ValueError(f"{key} {pattern!r} must hold {{name}} once, and no other braces")
            before, after = pattern.split(NAME)
            if "**" in after or any(sign in before.split("/")[-1] + after.split("/")[0] for sign in "*?["):
                raise ValueError(f"{key} {pattern!r} must have no wildcard beside {{name}}, and no ** after it")
        if self.train_images.replace(NAME, "*") == self.train_masks.replace(NAME, "*"):
            raise ValueError(f"train_images and train_masks match the same files, {self.train_images}")

    def _masks_can_be_read(self) -> None:
        if self.mask_values == "labels":
            if self.ignore_color:
                raise ValueError("ignore_color is for masks of colours; those of labels have ignore_label")
            return
        if self.ignore_label is not None:
            raise ValueError("ignore_label is for masks of labels; those of colours have ignore_color")
        colors = [tuple(c.color) for c in self.classes] + ([tuple(self.ignore_color)] if self.ignore_color else [])
        twice = sorted({color for color in colors if colors.count(color) > 1})
        if twice:
            raise ValueError(f"mask_values colors: {', '.join(map(str, twice))} is given twice")

    def _must_be_what_is_drawn(self) -> None:
        names = self.class_names
        if sorted(names) != sorted(LANDSCAPE_CLASSES):
            raise ValueError(f"generate draws the classes {', '.join(LANDSCAPE_CLASSES)}; found {', '.join(names)}")
        for key, drawn in (
            ("bands", ["red", "green", "blue", "nir"]),
            ("train_images", "train/*.tif"),
            ("train_masks", "train/{name}.png"),
            ("test_images", "test/*.tif"),
            ("mask_values", "labels"),
            ("nodata", None),
        ):
            if getattr(self, key) != drawn:
                raise ValueError(f"generate writes {key} {drawn}; found {getattr(self, key)}")


def _fields(pattern: str) -> list[str]:
    """What stands in the braces of a pattern; with anything that is not plain `{name}` told apart from it."""
    try:
        parts = Formatter().parse(pattern)
        return [f"{name}{convert or ''}{form}" for _, name, form, convert in parts if name is not None]
    except ValueError:  # a lone brace
        return []


class Folds(Section):
    k: int = Field(5, ge=2)
    """Number of folds."""
    groups: Literal["none", "column", "georeference", "georeference+duplicates", "mosaic", "mosaic+duplicates"] = (
        "mosaic+duplicates"
    )
    """Tiles that must stay in one fold: none (each tile alone); a column of `groups_csv`; tiles that overlap, touch or
    are near each other by their files' coordinates; the tiles of one scene, found by their borders; or either of these
    together with copies of each other."""
    groups_csv: str = "tiles.csv"
    """For `groups: column`: a csv under data.root with one row per train tile."""
    groups_column: str = "scene"
    """For `groups: column`: its column with the group."""
    name_column: str = "name"
    """For `groups: column`: its column with the tile's name."""
    gap_tiles: float = Field(0.0, ge=0)
    """For `groups: georeference`: tiles no further apart than this many sides of a tile, along each axis, stay
    together; 0: those that overlap or touch."""
    block_tiles: int | None = Field(None, ge=2)
    """For mosaics and georeference: cut them into blocks of this many tiles in width and height, for scenes so large
    that whole ones cannot be balanced, or are fewer than k. Neighbours across blocks may then stand on both sides, but
    never tiles whose coordinates overlap; null: never cut. With a column, only folds.cut has blocks, of scenes."""
    split_groups_of: list[str] = []
    """Classes that live in too few groups: the tiles that hold one of them leave their groups, so that every fold can
    have some. Neighbours may then stand on both sides."""
    seed: int = Field(0, ge=0)
    """Order among equals in the assignment."""
    file: str | None = None
    """A csv with columns name and fold, made by hand or elsewhere, used instead of the assignment; null: assign. Its
    folds must not split the groups."""
    allow: list[AuditError] = []
    """Errors of the audit that do not stop the run."""

    @model_validator(mode="after")
    def _asks_for_nothing_in_vain(self) -> "Folds":
        if self.gap_tiles and not self.by_place:
            raise ValueError(f"gap_tiles is for groups georeference; groups is {self.groups}, which knows no distances")
        if self.block_tiles and self.groups == "none":
            raise ValueError("block_tiles cuts groups into blocks; groups is none, each tile alone")
        return self

    @property
    def by_place(self) -> bool:
        """Groups are made of the tiles' coordinates."""
        return self.groups.startswith("georeference")

    @property
    def by_borders(self) -> bool:
        """Groups are made of the mosaics that borders tell of."""
        return self.groups.startswith("mosaic")

    @property
    def joins_copies(self) -> bool:
        return self.groups.endswith("+duplicates")

    @property
    def has_blocks(self) -> bool:
        """`block_tiles` cuts such groups."""
        return self.by_place or self.by_borders
