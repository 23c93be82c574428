"""The types of the settings that commands share: engine, teacher, student, data sets, evaluation.

A field's metadata says whether it makes two runs different ones: ``NO_IDENTITY`` for what does not, ``BY_CONTENT`` for
files, of which the content counts and not the name. Everything else does. Nothing here imports PyTorch or Hydra.
"""

from dataclasses import dataclass, field
from typing import Any

MISSING: Any = "???"
"""What must be given, as OmegaConf writes it."""
NO_IDENTITY = {"identity": False}
BY_CONTENT = {"identity": "content"}


@dataclass
class EngineConfig:
    """Where students are trained, and how.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<number>``.
        precision: of training: ``auto``, ``float32``, ``bfloat16`` or ``float16``, in autocast over float32 weights.
        threads: of the CPU, for each operator of a process; null: ``OMP_NUM_THREADS``, else one where a run's teacher
            is small, else as many as the process may use. A run goes on with the number that it began with.
        workers: threads that prepare batches ahead of training (with ``threads=1`` also the teacher's answers to them);
            null: one on the CPU, beside an accelerator up to eight.
        compile: whether the student is compiled (``torch.compile``); pays on a GPU and in long runs.
        cache: whether the teacher's embeddings are kept on ``disk``, in ``memory``, or not (``off``).
        cache_folder: where on disk; all runs share it.
    """

    device: str = field(default="auto", metadata=NO_IDENTITY)
    precision: str = field(default="auto", metadata=NO_IDENTITY)
    threads: int | None = None
    workers: int | None = field(default=None, metadata=NO_IDENTITY)
    compile: bool = False
    cache: str = field(default="disk", metadata=NO_IDENTITY)
    cache_folder: str = field(default="runs/.embeddings", metadata=NO_IDENTITY)


@dataclass
class RecipeConfig:
    """How a teacher is distilled where a method's settings do not say otherwise.

    Attributes:
        steps: optimizer steps of each of a method's two stages.
        batch: images a batch.
        accumulate: batches a step.
        lr: highest learning rate.
        optimizer: ``adam``, ``adamw`` or ``muon``.
        importance_images: images behind the scores of channels.
        aligned_epochs: for how many epochs SlimSAM aligns features; 0 for half of the steps.
        feature_padding: SlimSAM's ``method.padding``: whether distances leave out zero padding: ``ignore`` does in all,
            ``count`` in none, ``embedding`` in those of embeddings alone.
        scratch_lr, scratch_optimizer: as ``lr`` and ``optimizer``, of methods that take a student of another
            architecture (MobileSAM, TinySAM), whatever it begins with: random weights, ImageNet's, or
            ``method.init``.
        prompts: masks an image, of methods that train on masks.
    """

    steps: int = MISSING
    batch: int = MISSING
    accumulate: int = MISSING
    lr: float = MISSING
    optimizer: str = MISSING
    importance_images: int = MISSING
    aligned_epochs: int = 0
    feature_padding: str = "ignore"
    scratch_optimizer: str = MISSING
    scratch_lr: float = MISSING
    prompts: int = MISSING


@dataclass
class TeacherConfig:
    """A named model, a file of weights if not its own, and how and into what it is distilled.

    Attributes:
        name: of the model, as ``teacher=`` lists them.
        checkpoint: a file of weights; null: the one in the package, or the published file where ``torch.hub`` keeps it.
        student: what it is distilled into by methods that take a student, where ``student=`` is not given.
    """

    name: str = MISSING
    checkpoint: str | None = field(default=None, metadata=NO_IDENTITY)
    student: str = field(default=MISSING, metadata=NO_IDENTITY)
    recipe: RecipeConfig = field(default_factory=RecipeConfig, metadata=NO_IDENTITY)


@dataclass
class StudentConfig:
    """Arguments of :class:`students.student.Student`.

    Attributes:
        kind: of image encoder: ``tiny_vit`` or ``timm``.
        name: of its shape, or of the backbone in ``timm``.
        stages: feature maps to use, as ``timm`` numbers them; empty: by the teacher's grid.
        weights: a file of ImageNet weights of this backbone to begin with.
    """

    kind: str = MISSING
    name: str = MISSING
    stages: list[int] = field(default_factory=list)
    weights: str | None = field(default=None, metadata=BY_CONTENT)


@dataclass
class ShapesData:
    """Arguments of :class:`data.shapes.Shapes`.

    Attributes:
        split: ``train`` or ``validation``, two independent streams.
        count: number of images.
        seed: of the whole data set.
        size: the longer side in pixels; half of the images are square, the others 4:3 or 3:4.
        difficulty: 0 (flat, clear fills on a plain ground) to 1 (texture, shade, clutter, noise, kindred colours).
    """

    _target_: str = "data.shapes.Shapes"
    split: str = MISSING
    count: int = MISSING
    seed: int = 0
    size: int = 128
    difficulty: float = 0.5


@dataclass
class AnnotatedData:
    """What data sets with one annotation file have.

    Attributes:
        root: folder that holds ``annotations/``, ``train2017/`` and ``val2017/``.
        split: ``validation`` or ``train``.
        annotations: annotation file, if it is not where the layout puts it.
        labels: whether annotations are read; without them an annotation file only says which images there are.
        crowd: whether crowd regions count like any instance.
        least_area: annotations whose area is below are left out, in pixels.
        missing: images that are missing, damaged or of another size than listed: ``refuse`` the command, or ``skip``
            and count them with their instances.
        unusable: likewise of annotations that cannot be used.
    """

    _target_: str = MISSING
    root: str = field(default=MISSING, metadata=NO_IDENTITY)
    split: str = MISSING
    annotations: str | None = field(default=None, metadata=NO_IDENTITY)
    labels: bool = True
    crowd: bool = False
    least_area: float = 1.0
    missing: str = "refuse"
    unusable: str = "refuse"


@dataclass
class CocoData(AnnotatedData):
    """Arguments of :class:`data.coco.Coco`.

    Attributes:
        images: folder of images, if it is not where the layout puts it. The layout's own annotation file does not
            speak for it: without labels and annotations, all images in it are taken.
    """

    _target_: str = "data.coco.Coco"
    images: str | None = field(default=None, metadata=NO_IDENTITY)


@dataclass
class LvisData(AnnotatedData):
    """Arguments of :class:`data.lvis.Lvis`."""

    _target_: str = "data.lvis.Lvis"


@dataclass
class Sa1bData:
    """Arguments of :class:`data.sa1b.Sa1b`.

    Attributes:
        root: folder of the files, or of shards (``sa_000000.tar`` as downloaded, ``sa_000000/``) that hold them, at any
            depth.
        split: ``validation``, ``train`` or ``all``.
        validation_count: how many images are kept for validation.
        labels: whether the JSON beside each image is read.
        missing: images that are missing, damaged, of another size than listed or without a JSON that can be read:
            ``refuse`` the command, or ``skip`` and count them with their instances. They count in the split.
        unusable: likewise of annotations that cannot be used.
        names: a text file of the images to take of the split, one name a line.
        share: of the split's images, drawn by their numbers: 0.01 takes a hundredth.
        count: so many of the split's images, drawn likewise.
        subset_seed: of both draws.
    """

    _target_: str = "data.sa1b.Sa1b"
    root: str = field(default=MISSING, metadata=NO_IDENTITY)
    split: str = MISSING
    validation_count: int = 50
    labels: bool = True
    missing: str = "refuse"
    unusable: str = "refuse"
    # Which images these are, their content says.
    names: str | None = field(default=None, metadata=NO_IDENTITY)
    share: float | None = field(default=None, metadata=NO_IDENTITY)
    count: int | None = field(default=None, metadata=NO_IDENTITY)
    subset_seed: int = field(default=0, metadata=NO_IDENTITY)


@dataclass
class DataFolder:
    """Where the images of a data set lie, of those that lie somewhere.

    Attributes:
        root: folder of the data set, laid out as it is published.
        missing: what becomes of images that cannot be used: ``refuse`` the command, or ``skip`` and count them.
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


@dataclass
class EvaluationConfig:
    """What models are scored on, and how often their latency is taken.

    Attributes:
        protocol: prompts and choice of masks, of runs and of ``evaluate`` where ``protocols`` names none.
        protocols: names of :data:`evaluation.protocols.PROTOCOLS`, all scored in one pass, a row each.
        backend: of average precision: ``faster`` (faster-coco-eval) or ``official`` (pycocotools, lvis).
        max_detections: of a detector's boxes at most so many an image, the best ones; null: all.
        jitter: noise on ground-truth boxes, as a share of their sides; null: as the protocol has it.
        reference: the model whose masks are the truth, of protocols that compare with a model's.
        seed: of what protocols draw.
        image_batch_size: images encoded together; null: one on the CPU, eight on an accelerator.
        workers: processes that read images ahead; null: none on the CPU, beside an accelerator up to eight.
        images: at most so many of the data set, the first ones; null: all, but of endless ``shapes`` 200 in a run.
        prompt_batch_size: prompts decoded together.
        latency_runs: timed rounds.
        precision: what models compute in while they are scored and timed; ``float32`` is the reference.
    """

    protocol: str = "box_point@1"
    protocols: list[str] = field(default_factory=list, metadata=NO_IDENTITY)
    backend: str = field(default="faster", metadata=NO_IDENTITY)
    max_detections: int | None = field(default=None, metadata=NO_IDENTITY)
    jitter: float | None = field(default=None, metadata=NO_IDENTITY)
    reference: str | None = field(default=None, metadata=NO_IDENTITY)
    seed: int = field(default=0, metadata=NO_IDENTITY)
    image_batch_size: int | None = field(default=None, metadata=NO_IDENTITY)
    workers: int | None = field(default=None, metadata=NO_IDENTITY)
    images: int | None = None
    prompt_batch_size: int = 64
    latency_runs: int = field(default=20, metadata=NO_IDENTITY)
    precision: str = "float32"
    data: Any = MISSING


@dataclass
class ProposalsConfig:
    """What the masks of whole images are scored on.

    Attributes:
        protocol: what is compared with what.
        images: at most so many of the data set, the first ones; null: all, but of endless ``shapes`` 50.
        precision: what models compute in.
    """

    protocol: str = "everything@1"
    images: int | None = None
    precision: str = "float32"
    data: Any = MISSING
