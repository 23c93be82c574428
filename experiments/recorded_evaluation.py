"""An evaluation that was written before: its rows, its records and the settings behind them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.plain_file import home_path
from core.provenance import redact_paths
from core.result import ResultRow
from data.content import ImageContent
from evaluation.protocols import PROTOCOLS
from evaluation.records import INSTANCES, InstanceRecord, read_images, read_instances
from experiments.config.files import nearest
from experiments.result_file import NAME, read_result

FOLDER = "evaluations"
"""Below the folder of runs."""
# What was scored is compared image by image.
_CITATIONS = ("source", "interval", "data_sha256")
# Where images lie and how many were scored: instances are paired by their ids, and single ones are counted.
_NOT_CONTENT = (
    *("root", "annotations", "images", "count", "validation_count", "labels", "missing"),
    *("names", "share", "subset_seed"),
)


@dataclass(frozen=True)
class RecordedEvaluation:
    """What ``evaluate`` wrote into a folder.

    Attributes:
        rows: the scored model's, one a protocol, and perhaps baselines'.
        records: by protocol.
        config: the settings; empty where the file tells none.
        images: what was scored, by id; empty where images are made, and of evaluations before this was written.
    """

    folder: Path
    rows: list[ResultRow]
    records: dict[str, list[InstanceRecord]]
    config: dict[str, Any]
    images: dict[int, ImageContent]

    @property
    def is_unknown(self) -> bool:
        """Whether images were read, and nothing says which."""
        return not self.images and self.setting("evaluation", "data", "root") is not None

    def axes(self, protocol: str) -> dict[str, str]:
        """Every choice of a protocol: as its row has it, else as the protocol of that name is defined."""
        row = next((row for row in self.rows if row.protocol == protocol and row.axes is not None), None)
        if row is not None and row.axes is not None:
            # A reference is known by its weights, wherever they lie.
            left_out = (*_CITATIONS, "reference") if "reference_sha256" in row.axes else _CITATIONS
            return {name: value for name, value in row.axes.items() if name not in left_out}
        known = PROTOCOLS[protocol].axes() if protocol in PROTOCOLS else {}
        return {name: value for name, value in known.items() if name not in _CITATIONS}

    def setting(self, *keys: str) -> Any:
        """A setting by its path; None where the file tells none."""
        node: Any = self.config
        for key in keys:
            node = node.get(key) if isinstance(node, Mapping) else None
        return node

    def name(self) -> str:
        """The model, in a word or three."""
        row = self.rows[0]
        if row.method == "teacher":
            return row.teacher or "teacher"
        return row.student or " ".join([row.method, *([] if row.ratio is None else [f"{row.ratio:g}"])])

    def about(self) -> str:
        """The model, its file if it has one, and what it computed on, in a line."""
        row, checkpoint = self.rows[0], self.setting("checkpoint")
        file = redact_paths(checkpoint) if isinstance(checkpoint, str) and checkpoint != self.name() else None
        seed = None if row.seed is None else f"seed {row.seed}"
        return ", ".join(part for part in (self.name(), file, seed, row.variant, row.device, row.precision) if part)


def read_evaluation(key: str, given: str, runs: Path) -> RecordedEvaluation:
    """Read the folder of an evaluation, given as a path or by its name.

    Args:
        key: the setting, for messages.

    Raises:
        InputError: there is none, or it holds no instances.
    """
    folder = home_path(given)
    if not folder.is_dir():
        folder = runs / FOLDER / given
    if not folder.is_dir():
        known = [path.name for path in sorted((runs / FOLDER).glob("*")) if path.is_dir()]
        hint = (
            nearest(given, known) if known else "write one with: evaluate checkpoint=sam_pocket evaluation=shapes_box"
        )
        raise InputError(f"{key}={given}: no such folder, nor one in {runs / FOLDER}; {hint}")
    if not (folder / NAME).is_file():
        raise InputError(f"{key}={given}: holds no {NAME}; give a folder that evaluate has finished")
    rows, about = read_result(folder / NAME)
    if not (folder / INSTANCES).is_file():
        raise InputError(
            f"{key}={given}: holds no {INSTANCES}; give an evaluation with ground-truth prompts (runs and average "
            "precision keep no figures of single instances)"
        )
    config = about.get("config")
    config = config if isinstance(config, dict) else {}
    return RecordedEvaluation(folder, rows, read_instances(folder), config, read_images(folder))


def check_comparable(first: RecordedEvaluation, second: RecordedEvaluation) -> None:
    """Refuse evaluations of different data, or of a protocol that meant something else in each.

    Raises:
        InputError: the message names what differs, and both values.
    """
    one, other = first.rows[0].data, second.rows[0].data
    if one != other:
        raise _differing("data", one, other)
    settings = [_content(evaluation) for evaluation in (first, second)]
    for key in settings[0]:
        if key in settings[1] and settings[0][key] != settings[1][key]:
            raise _differing(f"evaluation.data.{key}", settings[0][key], settings[1][key])
    for image_id, ours in first.images.items():
        theirs = second.images.get(image_id, ours)
        for what, part in (("the annotation file of image", "annotations_sha256"), ("image", "image_sha256")):
            hashes = [getattr(image, part) for image in (ours, theirs)]
            if hashes[0] != hashes[1]:
                raise _differing(f"{what} {image_id}", *map(_short, hashes))
    for protocol in (name for name in first.records if name in second.records):
        one_axes, other_axes = first.axes(protocol), second.axes(protocol)
        for axis in dict.fromkeys([*one_axes, *other_axes]):
            if one_axes.get(axis) != other_axes.get(axis):
                raise _differing(f"{protocol}: {axis}", one_axes.get(axis), other_axes.get(axis))


def _content(evaluation: RecordedEvaluation) -> dict[str, Any]:
    """The settings that say which images and annotations a data set holds."""
    data = evaluation.setting("evaluation", "data")
    return {k: v for k, v in data.items() if k not in _NOT_CONTENT} if isinstance(data, Mapping) else {}


def _short(sha256: str | None) -> str:
    return "unreadable" if sha256 is None else f"sha256 {sha256[:12]}"


def _differing(what: str, one: object, other: object) -> InputError:
    return InputError(f"{what} is {one} in the first and {other} in the second; compare evaluations under equal ones")
