"""What exported files score against the model that they were made of: tables of docs/export.md.

Their rows lie in ``results/exported/``.
"""

from dataclasses import dataclass
from pathlib import Path

from core.errors import InputError
from core.provenance import ROOT
from core.result import ResultRow
from evaluation.paired_seeds import ImageScores, are_paired, crossed_difference
from experiments.paper_table import interval_in_points
from experiments.reporting.columns import COLUMNS, share
from experiments.reporting.text_tables import plain_table
from experiments.result_file import BY_IMAGE, read_result

NAME = "exported"
"""The folder of ``results/``, of what ``evaluate`` wrote: ``MODEL.json``, and ``MODEL-FILE-RUNTIME.json``."""
COMPARED = {
    f"{NAME}_int8": ("sam_pocket-simulated", ("sam_pocket-int8-", "sam_pocket-int8_openvino-")),
    f"{NAME}_weights": ("sam_pocket", ("sam_pocket-fp32-", "sam_pocket-w8_", "sam_pocket-w4_")),
    f"{NAME}_tiny_vit": ("tiny_vit_5m", ("tiny_vit_5m-signed-", "tiny_vit_5m-defaults-")),
}
"""By the name of the table: the file of the model, and how the names of those compared with it begin, in order."""


@dataclass(frozen=True)
class Scored:
    """One file: its first row, of boxes and points, and both scores image by image."""

    row: ResultRow
    scores: ImageScores | None

    @classmethod
    def read(cls, path: Path) -> "Scored":
        """As ``evaluate`` wrote it.

        Raises:
            InputError: damaged, or of another version.
        """
        rows, about = read_result(path)
        return cls(rows[0], ImageScores.from_dict(about.get(BY_IMAGE)))


def exported_table(name: str, folder: Path = ROOT / "results" / NAME) -> str:
    """One of :data:`COMPARED`: a line a file, its differences to the model in points, paired, as Markdown.

    Raises:
        InputError: a file was scored on other instances than the model, on one image, or without scores image by image.
    """
    of, beginnings = COMPARED[name]
    if not (folder / f"{of}.json").is_file():
        return "No row is committed yet: the commands below make them."
    model = Scored.read(folder / f"{of}.json")
    row = model.row
    assert row.miou is not None and row.miou_point is not None and row.instances is not None
    lines = []
    for path in (path for beginning in beginnings for path in sorted(folder.glob(f"{beginning}*.json"))):
        found = Scored.read(path)
        _, file, runtime = path.stem.split("-")
        differences = [_difference(path, found, model, column) for column in ("miou", "miou_point")]
        lines.append([file.replace("_", " "), runtime, *differences, _size(found.row)])
    about = (
        f"The model itself: box {share(row.miou)}, one point {share(row.miou_point)}, {_size(row)}. "
        f"Protocol `{row.protocol}`, held-out `{row.data}`, "
        f"{row.instances:,} instances in {row.images:,} images; {row.device}. File less model, in points, with 95 % "
        "intervals over images (one seed)."
    )
    return f"{about}\n\n{plain_table(['file', 'runtime', 'box', 'one point', 'both files'], lines)}"


def _size(row: ResultRow) -> str:
    return COLUMNS["size_bytes"].shown(row.size_bytes)


def _difference(path: Path, found: Scored, model: Scored, column: str) -> str:
    if found.scores is None or model.scores is None or not are_paired([found.scores, model.scores], column):
        raise InputError(
            f"{path}: was not scored on the instances of its model, image by image, in two images or more; evaluate "
            "both again"
        )
    return interval_in_points(crossed_difference([found.scores], [model.scores], column), digits=2)
