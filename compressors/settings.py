"""What the methods of this project can be set to, and what is refused. Nothing here imports PyTorch.

The settings of a method stand here rather than beside it so that help and wrong settings need not wait for PyTorch. A
class ``<Method>Settings`` is found by its name; a method without one has its settings in its own class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from compressors.optimizer_settings import OptimizerConfig
from compressors.ptq_settings import PtqSettings as PtqSettings
from compressors.setting_checks import (
    MethodSettings,
    check_above_zero,
    check_at_least,
    check_ratio,
    check_unvalidated,
)
from core.errors import InputError
from students.quantized.scheme import SINCE
from students.student import Student

IMPORTANCE = ("disturbed_taylor", "taylor", "group_fisher", "hessian", "magnitude", "random")
BLIND = ("magnitude", "random")
"""Importances that are read off the weights, or drawn."""
NORMALISATIONS = ("mean", "max", "sum", "gaussian", "standardization")
FEATURE_WEIGHTS = ("constant", "dynamic", "released", "none")


@dataclass(frozen=True)
class SlimSamSettings(MethodSettings):
    """Of :class:`compressors.slimsam.SlimSam`.

    Attributes:
        ratio: share of the channels removed, in (0, 1).
        importance: ``disturbed_taylor`` (SlimSAM, section 3.3), ``taylor``, ``group_fisher`` (a group's joint gradient)
            or ``hessian`` (weight by weight; all three read labels), ``magnitude``, ``random``.
        importance_images: images behind the gradients.
        noise: standard deviation of the disturbance of the embedding.
        scope: ``local`` cuts every block alike; ``global`` cuts where scores are lowest, and leaves ragged blocks.
        normalisation: how ``global`` makes the scores of blocks comparable.
        embedding: ``free`` keeps the best channels of the residual stream; ``tied`` keeps one pattern in every head's
            slice of it, as the released code does.
        rel_pos: ``keep`` indexes the tables of relative positions by the kept channels; ``reset`` zeroes them.
        softmax: ``fold`` keeps the temperature of attention when heads get narrower; ``rescale`` lets it change.
        alternate: two steps of cutting and distilling; false cuts everything at once and distils the embedding.
        bottleneck_weights, embedding_weights: how the weight of intermediate features goes in step 1 and in step 2;
            see :func:`compressors.aligning.feature_weight`. ``none`` aligns the final embedding alone.
        aligned_epochs: for how many epochs features are aligned in each step (the paper: 10, however long is trained);
            0 for half of the steps.
        until: ``step_2``; or ``step_1``, whose student has a narrow embedding alone (tables 4 and 13 score it).
        align_global_qkv: whether q/k/v of global blocks are aligned in step 1; the released code leaves them out.
        padding: cells of zero padding are left out of every distance to the teacher (``ignore``), of none (``count``),
            or of that of final embeddings alone (``embedding``). The disturbed distance behind the scores leaves them
            out in every case.
        steps: optimizer steps of each of the two distillations (of one that cuts at once: half of its steps).
        batch: images a batch.
        validations: how often each distillation is scored on labelled training images (less often where its steps
            do not divide by it); its best weights are kept, and the plateau schedule goes by them. 0 for never.
        keep_best: false ends with the last weights all the same.
        patience_step_1: of the plateau schedule in step 1; None: that of ``optimisation``, as in step 2.
        optimisation: of both distillations.
    """

    ratio: float
    importance: str = "disturbed_taylor"
    importance_images: int = 256
    noise: float = 0.01
    scope: str = "local"
    normalisation: str = "gaussian"
    embedding: str = "free"
    rel_pos: str = "keep"
    softmax: str = "fold"
    alternate: bool = True
    bottleneck_weights: str = "constant"
    embedding_weights: str = "dynamic"
    aligned_epochs: int = 0
    until: str = "step_2"
    align_global_qkv: bool = True
    padding: str = "ignore"
    steps: int = 250
    batch: int = 12
    validations: int = 0
    keep_best: bool = True
    patience_step_1: int | None = None
    optimisation: OptimizerConfig = field(default_factory=OptimizerConfig)

    choices: ClassVar[Mapping[str, Sequence[str]]] = {
        "importance": IMPORTANCE,
        "scope": ("local", "global"),
        "normalisation": NORMALISATIONS,
        "embedding": ("free", "tied"),
        "rel_pos": ("keep", "reset"),
        "softmax": ("fold", "rescale"),
        "bottleneck_weights": FEATURE_WEIGHTS,
        "embedding_weights": FEATURE_WEIGHTS,
        "until": ("step_2", "step_1"),
        "padding": ("ignore", "count", "embedding"),
    }

    def __post_init__(self) -> None:
        check_ratio(self.ratio)
        super().__post_init__()
        least_one = {"importance_images": 1, "steps": 1, "batch": 1}
        check_at_least(self, **least_one, validations=0, aligned_epochs=0, patience_step_1=0)
        if self.until == "step_1" and not self.alternate:
            raise InputError("method.until=step_1 ends the first of two steps; method.alternate=false has one alone")
        check_above_zero(self, "noise")
        if self.optimisation.schedule == "plateau" and not self.validations:
            raise InputError("method.optimisation.schedule=plateau goes by validation; give method.validations=20")

    @property
    def aligns(self) -> bool:
        """Whether intermediate features are aligned in any step."""
        weights = (self.bottleneck_weights, self.embedding_weights)[: 1 if self.until == "step_1" else 2]
        return self.alternate and any(kind != "none" for kind in weights)

    def purposes(self) -> Mapping[str, tuple[str, ...]]:
        """See :class:`compressors.setting_checks.MethodSettings`."""
        of_both_steps = ("bottleneck_weights", "embedding_weights", "aligned_epochs", "align_global_qkv")
        # Step 1 cuts the embedding, of which there is one width, and no head.
        of_step_2 = ("embedding_weights", "scope", "normalisation", "softmax")
        idle = {
            "method.scope=global": ("normalisation",) if self.scope == "local" and self.until == "step_2" else (),
            "method.importance=disturbed_taylor": () if self.importance == "disturbed_taylor" else ("noise",),
            "importances that look at images": ("importance_images",) if self.importance in BLIND else (),
            "method.alternate=true": () if self.alternate else of_both_steps,
            "method.until=step_2": () if self.until == "step_2" else of_step_2,
            "features of step 1": ("align_global_qkv",) if self.alternate and self.bottleneck_weights == "none" else (),
            "features that are aligned": ("aligned_epochs",) if self.alternate and not self.aligns else (),
            "method.validations above 0": () if self.validations else ("keep_best",),
        }
        plateau = self.optimisation.schedule == "plateau" and self.alternate
        return idle | {"two steps by method.optimisation.schedule=plateau": () if plateau else ("patience_step_1",)}


@dataclass(frozen=True)
class ScratchSettings(MethodSettings):
    """Of :class:`compressors.scratch.Scratch`.

    Attributes:
        ratio: share of the channels missing from every width, in (0, 1).
        steps: half of the optimizer steps. SlimSAM distils twice, so equal ``steps`` see equally many images.
        batch: images a batch.
        optimisation: of the distillation.
    """

    ratio: float
    steps: int = 250
    batch: int = 12
    optimisation: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        check_ratio(self.ratio)
        check_at_least(self, steps=1, batch=1)
        check_unvalidated(self.optimisation)


@dataclass(frozen=True)
class MobileSamSettings(MethodSettings):
    """Of :class:`compressors.mobilesam.MobileSam`.

    Attributes:
        student: the image encoder to be distilled.
        decoder_of: the model whose prompt encoder and mask decoder the student gets: a name, a file of any layout, of
            another generation too; None: the teacher. ``decoupled`` then compares embeddings through a learned 1 x 1
            projection, and has encoder and decoder learn the teacher's masks besides.
        distillation: ``decoupled`` (section 3.2: the embedding is the target), ``coupled`` (the counter-example: masks
            are the target, image encoder and mask decoder learn together,
            the decoder beginning as the teacher's), ``semi_coupled`` (the decoder stays frozen).
        loss: of ``decoupled``: ``mse``, or ``root``, the third-party training code's root of the squared error summed
            over channels.
        padding: ``ignore`` leaves out the cells of zero padding, ``count`` does not.
        high_res: weight of the distance of each high-resolution feature beside that of the embedding, of a teacher
            that has them (SAM 2); None: 1.
        prompts: points, and as many boxes, an image, where masks are the target.
        steps: half of the optimizer steps. SlimSAM distils twice, so equal ``steps`` see equally many images.
        decoder_steps: optimizer steps of fine-tuning the mask decoder afterwards on the teacher's masks; 0 for none.
        batch: images a batch.
        optimisation: of the distillation.
        decoder_lr: highest learning rate of fine-tuning the decoder.
    """

    student: Student = field(default_factory=Student)
    decoder_of: str | None = field(default=None, metadata={"identity": "model"})
    distillation: str = "decoupled"
    loss: str = "mse"
    padding: str = "ignore"
    high_res: float | None = field(default=None, metadata=SINCE)
    prompts: int = 4
    steps: int = 250
    decoder_steps: int = 0
    batch: int = 12
    optimisation: OptimizerConfig = field(default_factory=OptimizerConfig)
    decoder_lr: float = 1e-4

    choices: ClassVar[Mapping[str, Sequence[str]]] = {
        "distillation": ("decoupled", "coupled", "semi_coupled"),
        "loss": ("mse", "root"),
        "padding": ("ignore", "count"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, prompts=1, steps=1, decoder_steps=0, batch=1, high_res=0)
        check_above_zero(self, "decoder_lr")
        check_unvalidated(self.optimisation)
        for name, default in (("loss", "mse"), ("padding", "ignore")):
            if self.distillation != "decoupled" and getattr(self, name) != default:
                raise InputError(
                    f"method.{name}={getattr(self, name)}: of distances between embeddings, and with "
                    f"method.distillation={self.distillation} masks are the only target; leave it out"
                )

    def purposes(self) -> Mapping[str, tuple[str, ...]]:
        """See :class:`compressors.setting_checks.MethodSettings`."""
        masks = self.distillation != "decoupled" or self.decoder_steps or self.decoder_of is not None
        return {
            "masks as the target": () if masks else ("prompts",),
            "method.decoder_steps above 0": () if self.decoder_steps else ("decoder_lr",),
        }


@dataclass(frozen=True)
class TinySamSettings(MethodSettings):
    """Of :class:`compressors.tinysam.TinySam`.

    Attributes:
        student: the image encoder to be distilled, without ``init``.
        init: a model to begin with instead (a file of any layout, or a released model's name), decoder included.
        embedding, token, output: weights of the three distances to the teacher; the paper does not give them.
        annotations: weight of the losses against annotated masks.
        hard_prompts: each point is where the student's mask is missing; false draws it anywhere in the mask.
        hard_masks: the output's distance weighs more where the student is behind its teacher.
        epsilon: of that weight.
        tiny_masks: what IoUs take for a mask that covers no cell by half: its fullest cells (``cell``, as prompts do),
            or nothing (``none``), so that an empty answer is right.
        prompts: masks an image, each prompted by a point, a box, or both.
        boxes: box prompts: ``none`` (the paper describes points alone), ``also``, ``alone``. Without them
            the single-mask answer to boxes is forgotten.
        decoder: whether the student's mask decoder is ``trained`` or ``frozen``.
        steps: half of the optimizer steps. SlimSAM distils twice, so equal ``steps`` see equally many images.
        batch: images a batch.
        optimisation: of everything.
    """

    student: Student = field(default_factory=Student)
    init: str | None = None
    embedding: float = 1.0
    token: float = 1.0
    output: float = 0.1
    annotations: float = 1.0
    hard_prompts: bool = True
    hard_masks: bool = True
    epsilon: float = 1e-6
    tiny_masks: str = "cell"
    prompts: int = 64
    boxes: str = "also"
    decoder: str = "trained"
    steps: int = 250
    batch: int = 1
    optimisation: OptimizerConfig = field(default_factory=OptimizerConfig)

    choices: ClassVar[Mapping[str, Sequence[str]]] = {
        "tiny_masks": ("cell", "none"),
        "boxes": ("none", "also", "alone"),
        "decoder": ("trained", "frozen"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, embedding=0, token=0, output=0, annotations=0, prompts=1, steps=1, batch=1)
        check_above_zero(self, "epsilon")
        check_unvalidated(self.optimisation)
        if not (self.embedding or self.token or self.output or self.annotations):
            raise InputError("method.embedding, token, output and annotations are all 0; give one of them a weight")

    def purposes(self) -> Mapping[str, tuple[str, ...]]:
        """See :class:`compressors.setting_checks.MethodSettings`."""
        of_masks = bool(self.token or self.output or self.annotations)
        ious = self.annotations or (self.output and self.hard_masks)
        return {
            "points": ("hard_prompts",) if self.boxes == "alone" and of_masks else (),
            "method.output above 0": () if self.output else ("hard_masks", "epsilon"),
            "method.hard_masks=true": ("epsilon",) if self.output and not self.hard_masks else (),
            "IoUs, of method.hard_masks and method.annotations,": ("tiny_masks",) if not ious else (),
            "method.token, output or annotations above 0": () if of_masks else ("hard_prompts", "boxes"),
        }
