"""The types of the settings that commands share, and of those of teachers and students."""

from dataclasses import dataclass, field

from omegaconf import MISSING


@dataclass
class CommandConfig:
    """What every command has."""

    format: str = "table"
    runs: str = "runs"


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
class EngineConfig:
    """Where students are trained, and how.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<number>``.
        precision: of training, in autocast over float32 weights.
        threads: of the CPU, for each process; null: ``OMP_NUM_THREADS``, else as many as the process may use. A run
            goes on with the number that it began with.
        workers: threads that make batches ahead; null: one on the CPU, beside an accelerator up to eight.
        compile: whether the student is compiled (``torch.compile``); pays on a GPU and in long runs.
        cache: whether the teacher's embeddings are kept on ``disk``, in ``memory``, or not (``off``).
        cache_folder: where on disk; all runs share it.
    """

    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    workers: int | None = None
    compile: bool = False
    cache: str = "disk"
    cache_folder: str = "runs/.embeddings"


@dataclass
class RecipeConfig:
    """How a teacher is distilled where a method's settings do not say otherwise.

    Attributes:
        steps: optimizer steps of each of a method's two stages.
        batch: pictures a batch.
        accumulate: batches a step.
        rate: highest learning rate.
        optimizer: of :class:`compressors.distill.optimizer.OptimizerConfig`.
        importance_images: pictures behind the scores of channels.
        scratch_rate, scratch_optimizer: of students that begin from random weights.
        prompts: masks a picture, of methods that train on masks.
    """

    steps: int = MISSING
    batch: int = MISSING
    accumulate: int = MISSING
    rate: float = MISSING
    optimizer: str = MISSING
    importance_images: int = MISSING
    scratch_optimizer: str = MISSING
    scratch_rate: float = MISSING
    prompts: int = MISSING


@dataclass
class TeacherConfig:
    """A named model, a file of weights if not its own, and how and into what it is distilled.

    Attributes:
        name: of :data:`teachers.catalog.MODELS`.
    """

    name: str = MISSING
    checkpoint: str | None = None
    student: str = MISSING
    recipe: RecipeConfig = field(default_factory=RecipeConfig)


@dataclass
class StudentConfig:
    """Arguments of :class:`students.student.Student`.

    Attributes:
        kind: of image encoder: ``tiny_vit`` or ``timm``.
        name: of its shape, or of the backbone in ``timm``.
        stages: feature maps to use, as ``timm`` numbers them; empty: by the teacher's grid.
    """

    kind: str = MISSING
    name: str = MISSING
    stages: list[int] = field(default_factory=list)
    weights: str | None = None
