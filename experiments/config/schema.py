"""The types of every command's settings. A wrong name or type stops a command before anything else happens."""

from dataclasses import dataclass, field
from typing import Any

from experiments.config.groups import (
    MISSING,
    NO_IDENTITY,
    DataFolder,
    EngineConfig,
    EvaluationConfig,
    ProposalsConfig,
    StudentConfig,
    TeacherConfig,
)


@dataclass
class CommandConfig:
    """What every command has.

    Attributes:
        format: ``table``, or ``json``: {"rows": [...]} on standard output, and nothing else there.
        runs: folder of runs, of evaluations and of ``leaderboard.csv``.
    """

    format: str = field(default="table", metadata=NO_IDENTITY)
    runs: str = field(default="runs", metadata=NO_IDENTITY)


@dataclass
class ModelConfig(CommandConfig):
    """What every command about one model has.

    Attributes:
        checkpoint: a model's name or file.
        decoder_heads: heads of the mask decoder, for a checkpoint that does not say them.
        entry: which of several models in the checkpoint is meant.
    """

    checkpoint: str = MISSING
    decoder_heads: int | None = None
    entry: str | None = None


@dataclass
class SegmenterConfig(ModelConfig):
    """What commands that answer prompts have.

    Attributes:
        checkpoint: a model's name or file, or an exported folder.
        runtime: of an exported folder, where several can run its files: ``onnxruntime``, ``openvino`` or
            ``openvino_bf16`` (in bfloat16 whatever the files do not quantise); null: its format's own.
    """

    runtime: str | None = None
    engine: EngineConfig = field(default_factory=EngineConfig)


@dataclass
class RunConfig(CommandConfig):
    """A compression run.

    Attributes:
        ratio: share of the channels to cut, of methods that cut.
        seed: of everything random.
        cache: of the teacher's embeddings: ``disk`` (shared by all runs), ``memory`` (of this run), ``off``.
        force: whether to throw away what this run has and start over.
        name: first part of the run's name, instead of the method.
        processes: on this machine, one a device; more than one are started by ``torchrun``.
        packages: packages of one's own, whose classes a method's ``_target_`` may name.
        logger: where the figures of training go.
        then: a second method, for what the first one made.
        lastly: a third method, for what the second one made.
    """

    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    student: StudentConfig = field(default_factory=StudentConfig, metadata=NO_IDENTITY)
    method: Any = MISSING
    data: Any = MISSING
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    ratio: float | None = None
    seed: int = 0
    cache: str = field(default="disk", metadata=NO_IDENTITY)
    force: bool = field(default=False, metadata=NO_IDENTITY)
    name: str | None = field(default=None, metadata=NO_IDENTITY)
    processes: int = field(default=1, metadata=NO_IDENTITY)
    packages: list[str] = field(default_factory=list, metadata=NO_IDENTITY)
    logger: Any = field(default=MISSING, metadata=NO_IDENTITY)
    then: Any = field(default=None, metadata=NO_IDENTITY)
    lastly: Any = field(default=None, metadata=NO_IDENTITY)


@dataclass
class EvaluateConfig(SegmenterConfig):
    """One model, scored.

    Attributes:
        detections: a detector's boxes, a JSON file in COCO's results format.
        out: the folder for records and rows; null: ``<runs>/evaluations/<name>``.
    """

    detections: str | None = None
    out: str | None = None
    data: DataFolder = field(default_factory=DataFolder)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


@dataclass
class CostConfig(CommandConfig):
    """What a teacher and a student cost.

    Attributes:
        method: null: the teacher alone.
        ratio: share of the channels to cut, of methods that cut.
        packages: packages of one's own, whose classes a method's ``_target_`` may name.
    """

    packages: list[str] = field(default_factory=list)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    method: Any = None
    ratio: float | None = None


@dataclass
class LatencyConfig(CommandConfig):
    """Several models, timed in turns in one process.

    Attributes:
        checkpoint: names or files of models, or exported folders, separated by commas; the first is the reference.
        results: whether the models of the committed rows are timed too, by their shapes: weights do not change times.
        batch: images that are encoded together, and boxes on one image that are decoded together.
        rounds: timed rounds; in each, every model has its turn.
        precision: what PyTorch computes in: ``float32``, ``bfloat16`` or ``float16``.
        runtime: of all exported folders: ``onnxruntime``, ``openvino`` or ``openvino_bf16``; null: each format's own. A
            folder followed by ``@`` and a name has one of its own.
        out: a JSON file of rows; null: nothing is written.
    """

    checkpoint: str = MISSING
    results: bool = False
    batch: int = 1
    rounds: int = 50
    precision: str = "float32"
    runtime: str | None = None
    out: str | None = None
    engine: EngineConfig = field(default_factory=EngineConfig)


@dataclass
class ConvertConfig(ModelConfig):
    """A checkpoint, the layout it shall have, and where to write that.

    Attributes:
        to: ``hf`` (a folder), ``meta``, ``mobile_sam`` or ``sampress`` (files).
        out: the file or folder to write.
    """

    to: str = MISSING
    out: str = MISSING


@dataclass
class ExportConfig(ModelConfig):
    """A model, and the files it shall become.

    Attributes:
        to: format of the files: ``onnx``, ``openvino`` or ``torch``.
        precision: ``fp32``, ``bf16``, ``int8`` (of a quantised checkpoint), ``w8`` or ``w4`` (weights alone).
        group_size: of ``w8`` and ``w4``: inputs of a linear layer that share a scale: 32, 64 or 128.
        upscale: whether the decoder also gives masks of the image's size, as SAM's own ONNX files do.
        out: the folder to write.
    """

    to: str = "onnx"
    precision: str = "fp32"
    group_size: int = 32
    upscale: bool = True
    out: str = MISSING


@dataclass
class PredictConfig(SegmenterConfig):
    """One prompt on one image.

    Attributes:
        image: an image's file.
        box: ``[x0, y0, x1, y1]`` in pixels of the image.
        points: ``[[x, y], ...]`` in pixels of the image.
        labels: one a point: 1 foreground, 0 background; null: all foreground.
        multimask: three candidates instead of one mask.
        out: the folder for the masks and the overlay; earlier ones of an image of this name are replaced or removed.
    """

    image: str = MISSING
    box: list[float] | None = None
    # The pairs are checked by the command: inside nested lists OmegaConf takes no whole number for a float.
    points: list[Any] | None = None
    labels: list[int] | None = None
    multimask: bool = False
    out: str = "."


@dataclass
class EverythingConfig(SegmenterConfig):
    """All masks of images, or their scores on a data set.

    Attributes:
        generator: settings of :class:`evaluation.everything.EverythingSettings`.
        image: an image's file, or a folder of images.
        evaluation: a data set with masks, instead of ``image``; ``data`` says where it lies.
        out: the folder for what is written; null: ``everything`` for images, ``<runs>/everything`` for scores.
        draw: whether each image is drawn with its masks.
        force: whether to do again what is there already.
    """

    generator: Any = MISSING
    image: str | None = None
    evaluation: ProposalsConfig | None = None
    data: DataFolder = field(default_factory=DataFolder)
    out: str | None = None
    draw: bool = True
    force: bool = False


@dataclass
class CompareConfig(CommandConfig):
    """Two evaluations, instance by instance.

    Attributes:
        first: the first evaluation: a folder that ``evaluate`` wrote, or its name in ``<runs>/evaluations``.
        second: the second one, of the same instances.
        count: single instances to show on each side, at most.
        protocol: only this one; null: every one that both have.
        out: the folder for the pairs, the page and the images; null: nothing is written.
        data: where the images lie now, if elsewhere than when they were scored.
    """

    first: str = MISSING
    second: str = MISSING
    count: int = 10
    protocol: str | None = None
    out: str | None = None
    data: DataFolder = field(default_factory=DataFolder)
    engine: EngineConfig = field(default_factory=EngineConfig)


@dataclass
class TableConfig(CommandConfig):
    """Every measured row, and what papers say, in one table for each data set and protocol.

    Attributes:
        format: ``table``, ``csv``, ``markdown``, ``latex``, or ``json``: {"rows": [...]} and nothing else.
        results: whether the committed rows count, beside those below ``runs``.
        protocol: only this one; null: all.
        dataset: only this data set, given as ``data=NAME``; null: all.
        out: a file; null: standard output.
    """

    results: bool = True
    protocol: str | None = None
    dataset: str | None = None
    out: str | None = None


@dataclass
class LeaderboardConfig(CommandConfig):
    """Every row that was measured, and what papers say, as CSV, Markdown and one page that needs no network.

    Attributes:
        out: the folder of ``leaderboard.csv``, ``.md`` and ``.html``; null: the folder of runs.
        results: whether the committed rows count, beside those below ``runs``.
        published: whether the figures of papers are there too, marked as such.
        protocol: only this one; null: all.
        dataset: only this data set, given as ``data=NAME``; null: all.
        pages: whether every run gets a page of its own, in ``out/pages``.
    """

    out: str | None = None
    results: bool = True
    published: bool = True
    protocol: str | None = None
    dataset: str | None = None
    pages: bool = True


@dataclass
class DoctorConfig(CommandConfig):
    """What is installed and found here.

    Attributes:
        data: where images are looked for.
        engine: its device is tried.
    """

    data: DataFolder = field(default_factory=DataFolder)
    engine: EngineConfig = field(default_factory=EngineConfig)


@dataclass
class CompletionConfig(CommandConfig):
    """A script for a shell.

    Attributes:
        shell: ``bash``, ``zsh`` or ``fish``.
    """

    shell: str = MISSING


COMMANDS: dict[str, type[CommandConfig]] = {
    "run": RunConfig,
    "evaluate": EvaluateConfig,
    "cost": CostConfig,
    "latency": LatencyConfig,
    "convert": ConvertConfig,
    "export": ExportConfig,
    "predict": PredictConfig,
    "everything": EverythingConfig,
    "compare": CompareConfig,
    "table": TableConfig,
    "leaderboard": LeaderboardConfig,
    "doctor": DoctorConfig,
    "completion": CompletionConfig,
}
FORMATS = ("table", "json")
TABLE_FORMATS = ("table", "csv", "markdown", "latex", "json")
CACHES = ("disk", "memory", "off")
WORDS: dict[str, tuple[str, ...]] = {"compare": ("first", "second"), "completion": ("shell",)}
"""Settings that a command also takes as bare words, in this order."""
RENAMED = {
    "evaluation.batch": "evaluation.prompt_batch_size",
    "evaluation.encoded": "evaluation.image_batch_size",
    "evaluation.top": "evaluation.max_detections",
    "logger.pictures": "logger.images",
    "method.optimisation.rate": "method.optimisation.lr",
    "method.decoder_rate": "method.decoder_lr",
    "teacher.recipe.rate": "teacher.recipe.lr",
    "teacher.recipe.scratch_rate": "teacher.recipe.scratch_lr",
}
"""Settings that had another name in the version before; an error names the new one."""
_OF_CHECKPOINTS = {"checkpoint.decoder_heads": "decoder_heads", "checkpoint.entry": "entry"}
_OF_SCORED = {"data.split": "evaluation.data.split", **_OF_CHECKPOINTS}
OTHER_NAMES = {
    "table": {"data": "dataset"},
    "leaderboard": {"data": "dataset"},
    "evaluate": _OF_SCORED,
    "everything": _OF_SCORED,
    "convert": _OF_CHECKPOINTS,
    "export": _OF_CHECKPOINTS,
    "predict": _OF_CHECKPOINTS,
}
"""Settings that are typed by another name too: Hydra takes a key of the name of a folder in ``conf/`` for a file there
and has no settings below one that is a text, and what ``evaluation`` scores is said by ``data`` like the folder that it
lies in."""
