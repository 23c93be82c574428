"""The types of every data set's settings."""

from dataclasses import dataclass

from omegaconf import MISSING

from data.shapes import DIFFICULTY


@dataclass
class ShapesData:
    """Arguments of :class:`data.shapes.Shapes`."""

    _target_: str = "data.shapes.Shapes"
    split: str = MISSING
    count: int = MISSING
    seed: int = 0
    size: int = 128
    difficulty: float = DIFFICULTY


@dataclass
class CocoData:
    """Arguments of :class:`data.coco.Coco`."""

    _target_: str = "data.coco.Coco"
    root: str = MISSING
    split: str = MISSING
    annotations: str | None = None
    images: str | None = None
    labels: bool = True
    crowd: bool = False
    least_area: float = 1.0
    missing: str = "refuse"
    unusable: str = "refuse"


@dataclass
class LvisData:
    """Arguments of :class:`data.lvis.Lvis`."""

    _target_: str = "data.lvis.Lvis"
    root: str = MISSING
    split: str = MISSING
    annotations: str | None = None
    labels: bool = True
    crowd: bool = False
    least_area: float = 1.0
    missing: str = "refuse"
    unusable: str = "refuse"


@dataclass
class Sa1bData:
    """Arguments of :class:`data.sa1b.Sa1b`."""

    _target_: str = "data.sa1b.Sa1b"
    root: str = MISSING
    split: str = MISSING
    validation_count: int = 50
    labels: bool = True
    missing: str = "refuse"
    unusable: str = "refuse"


@dataclass
class DataFolder:
    """Where the pictures of a data set lie, of those that lie somewhere.

    Attributes:
        root: the folder, as the data set's own layout has it.
        missing: what becomes of pictures that cannot be used: ``refuse`` the command, or ``skip`` and count them.
        unusable: likewise of annotations.
    """

    root: str | None = None
    missing: str = "refuse"
    unusable: str = "refuse"


DATA: dict[str, type[ShapesData] | type[CocoData] | type[LvisData] | type[Sa1bData]] = {
    "shapes": ShapesData,
    "coco": CocoData,
    "lvis": LvisData,
    "sa1b": Sa1bData,
}
"""By the name they are chosen by."""
