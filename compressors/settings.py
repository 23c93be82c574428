"""What the methods of this project can be set to, and what is refused. Nothing here imports PyTorch.

The settings of a method stand here rather than beside it so that help and wrong settings need not wait for PyTorch. A
class ``<Method>Settings`` is found by its name; a method without one has its settings in its own class.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from core.errors import InputError
from students.quantized.scheme import Scheme
from students.student import Student

IMPORTANCE = ("disturbed_taylor", "taylor", "hessian", "magnitude", "random")
NORMALISATIONS = ("mean", "max", "sum", "gaussian", "standardization")
FEATURE_WEIGHTS = ("constant", "dynamic", "released", "none")
METRICS = ("hessian", "mse", "cosine", "minmax")


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights are updated.

    Attributes:
        lr: highest learning rate.
        optimizer: ``adam``, ``adamw``, or ``muon`` (on the weights of linear layers, AdamW on the rest).
        betas: of Adam.
        weight_decay: on weights of two dimensions or more (``adamw``), on nothing else.
        schedule: ``constant``, ``cosine`` (to zero at the last step), ``step`` (by ``factor`` at each milestone) or
            ``plateau`` (by ``factor``, when validation stops rising).
        milestones: shares of the steps after which ``step`` acts.
        warmup: steps of linear warm-up.
        clip: largest norm of the gradient; 0 for none.
        accumulate: batches a step; their gradients are averaged.
        patience: validations without a better figure before ``plateau`` acts.
        factor: what ``plateau`` and ``step`` multiply the learning rate by.
        ema: decay of an exponential moving average of the weights, with which the stage then ends; 0 for none.

    Raises:
        ValueError: a setting is none of its choices, or a number is out of its range.
    """

    lr: float = 1e-4
    optimizer: str = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: int = 0
    clip: float = 0.0
    accumulate: int = 1
    patience: int = 4
    factor: float = 0.5
    milestones: tuple[float, ...] = (0.6, 0.85)
    ema: float = 0.0

    choices: ClassVar[Mapping[str, Sequence[str]]] = {
        "optimizer": ("adam", "adamw", "muon"),
        "schedule": ("constant", "cosine", "step", "plateau"),
    }

    def __post_init__(self) -> None:
        for name, allowed in self.choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        # Written so that NaN fails too.
        for name, sound, range_ in (
            ("lr", 0 < self.lr < math.inf, "above 0 and finite"),
            ("betas", len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas), "two numbers in [0, 1)"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0"),
            ("warmup", self.warmup >= 0, "at least 0"),
            ("clip", 0 <= self.clip < math.inf, "at least 0"),
            ("accumulate", self.accumulate >= 1, "at least 1"),
            ("patience", self.patience >= 0, "at least 0"),
            ("factor", 0 < self.factor <= 1, "in (0, 1]"),
            ("milestones", all(0 <= share <= 1 for share in self.milestones), "shares of the steps, in [0, 1]"),
            ("ema", 0 <= self.ema < 1, "in [0, 1)"),
        ):
            if not sound:
                raise ValueError(f"{name}={getattr(self, name)} must be {range_}")

    def lr_at(self, step: int, steps: int, plateau: float = 1.0) -> float:
        """Learning rate of a step in ``[0, steps)``; ``plateau`` is the factor that schedule has reached."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.schedule == "cosine":
            return self.lr * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        if self.schedule == "step":
            return self.lr * warm * self.factor ** sum(step >= share * steps for share in self.milestones)
        return self.lr * warm * (plateau if self.schedule == "plateau" else 1.0)


class MethodSettings:
    """What the settings of every method have.

    Attributes:
        choices: the values of settings that are words; others are refused.
    """

    choices: ClassVar[Mapping[str, Sequence[str]]] = {}

    def __post_init__(self) -> None:
        for name, allowed in self.choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise InputError(f"method.{name}={value} is not one of {', '.join(allowed)}")

    # What a method may have as a setting, in place of these.

    @property
    def init(self) -> str | None:
        """A model to begin with; methods with this setting may follow another method (``then=``)."""
        return None

    @property
    def validations(self) -> int:
        """How often a stage is scored on labelled training images."""
        return 0

    @property
    def reads_labels(self) -> bool:
        """Whether masks of the training images are used."""
        return self.validations > 0


@dataclass(frozen=True)
class SlimSamSettings(MethodSettings):
    """Of :class:`compressors.slimsam.SlimSam`.

    Attributes:
        ratio: share of the channels removed, in (0, 1).
        importance: ``disturbed_taylor`` (SlimSAM, section 3.3), ``taylor`` or ``hessian`` (both read labels),
            ``magnitude``, ``random``.
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
        align_global_qkv: whether q/k/v of global blocks are aligned in step 1; the released code leaves them out.
        steps: optimizer steps of each of the two distillations (of one that cuts at once: half of its steps).
        batch: images a batch.
        validations: how often each distillation is scored on labelled training images; its best weights are kept,
            and the plateau schedule goes by them. 0 for never.
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
    align_global_qkv: bool = True
    steps: int = 250
    batch: int = 12
    validations: int = 0
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
    }

    def __post_init__(self) -> None:
        check_ratio(self.ratio)
        super().__post_init__()
        check_at_least(self, importance_images=1, steps=1, batch=1, validations=0)
        if not self.noise > 0:
            raise InputError(f"method.noise={self.noise} must be above 0, or every channel scores the same")
        if self.optimisation.schedule == "plateau" and not self.validations:
            raise InputError("method.optimisation.schedule=plateau goes by validation; give method.validations=20")


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
        distillation: ``decoupled`` (section 3.2: the embedding is the target), ``coupled`` (the counter-example: masks
            are the target, image encoder and mask decoder learn together), ``semi_coupled`` (the decoder stays frozen).
        loss: of ``decoupled``: ``mse``, or ``root``, the third-party training code's root of the squared error summed
            over channels.
        padding: ``ignore`` leaves out the cells of zero padding, ``count`` does not.
        prompts: points, and as many boxes, an image, where masks are the target.
        steps: half of the optimizer steps. SlimSAM distils twice, so equal ``steps`` see equally many images.
        decoder_steps: optimizer steps of fine-tuning the mask decoder afterwards on the teacher's masks; 0 for none.
        batch: images a batch.
        optimisation: of the distillation.
        decoder_lr: highest learning rate of fine-tuning the decoder.
    """

    student: Student = field(default_factory=Student)
    distillation: str = "decoupled"
    loss: str = "mse"
    padding: str = "ignore"
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
        check_at_least(self, prompts=1, steps=1, decoder_steps=0, batch=1)
        check_above_zero(self, "decoder_lr")
        check_unvalidated(self.optimisation)


@dataclass(frozen=True)
class TinySamSettings(MethodSettings):
    """Of :class:`compressors.tinysam.TinySam`.

    Attributes:
        student: the image encoder to be distilled, from random weights.
        init: a model to begin with instead (a file of any layout, or a released model's name), decoder included.
        embedding, token, output: weights of the three distances to the teacher; the paper does not give them.
        annotations: weight of the losses against annotated masks.
        hard_prompts: each point is where the student's mask is missing; false draws it anywhere in the mask.
        hard_masks: the output's distance weighs more where the student is behind its teacher.
        epsilon: of that weight.
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
    prompts: int = 64
    boxes: str = "also"
    decoder: str = "trained"
    steps: int = 250
    batch: int = 1
    optimisation: OptimizerConfig = field(default_factory=OptimizerConfig)

    choices: ClassVar[Mapping[str, Sequence[str]]] = {
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


@dataclass(frozen=True)
class PtqSettings(Scheme, MethodSettings):
    """Of :class:`compressors.ptq.Ptq`.

    Attributes:
        init: the model to quantise (a file of any layout, or a released model's name); None: the teacher itself.
        metric: what grids are judged by; see :func:`compressors.quantize.objective.distance`.
        gradient: of the hessian metric; see :mod:`compressors.quantize.objective`.
        order: whether layers are calibrated on what the float model gives them (``parallel``) or on what the quantised
            layers before them do (``sequential``).
        candidates, lowest, highest, rounds: see :class:`compressors.quantize.search.Search`.
        images: images to calibrate on.
        prompts: points, and as many boxes, an image.
    """

    init: str | None = None
    metric: str = "hessian"
    gradient: str = "fisher"
    order: str = "parallel"
    candidates: int = 100
    lowest: float = 0.01
    highest: float = 1.2
    rounds: int = 3
    images: int = 8
    prompts: int = 8

    choices: ClassVar[Mapping[str, Sequence[str]]] = {
        "metric": METRICS,
        "gradient": ("fisher", "perturbed"),
        "order": ("parallel", "sequential"),
        "weights": ("channel", "tensor"),
        "activations": ("asymmetric", "symmetric"),
        "products": ("tensor", "head", "float"),
        "convolution_outputs": ("quantized", "float"),
        "decoder": ("quantized", "float"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, candidates=1, rounds=1, images=1, prompts=1)
        for name, allowed in (("weight_bits", range(2, 9)), ("activation_bits", (*range(2, 9), 32))):
            if getattr(self, name) not in allowed:
                more = ", or 32 for none" if 32 in allowed else ""
                raise InputError(f"method.{name}={getattr(self, name)} must be 2 to 8{more}")
        if not 0 < self.lowest <= self.highest:
            raise InputError(f"method.lowest={self.lowest} must be above 0 and at most method.highest={self.highest}")


def check_at_least(settings: object, **least: int) -> None:
    """Refuse numbers below what each setting needs.

    Raises:
        InputError: the message has the least value.
    """
    for name, value in least.items():
        if getattr(settings, name) < value:
            raise InputError(f"method.{name}={getattr(settings, name)} must be at least {value}")


def check_ratio(ratio: float) -> None:
    """Refuse a share of channels that would leave all of them, or none.

    Raises:
        InputError: the message has two that work.
    """
    if not 0 < ratio < 1:
        raise InputError(f"ratio={ratio} is outside (0, 1); try ratio=0.5 or ratio=0.77")


def check_above_zero(settings: object, *names: str) -> None:
    """Refuse numbers that are not above zero.

    Raises:
        InputError: the message has the key and the value.
    """
    for name in names:
        if not getattr(settings, name) > 0:
            raise InputError(f"method.{name}={getattr(settings, name)} must be above 0")


def check_unvalidated(optimisation: OptimizerConfig) -> None:
    """Refuse a schedule that goes by validation, of a method that has none.

    Raises:
        InputError: the message has the schedules that are left.
    """
    if optimisation.schedule == "plateau":
        raise InputError(
            "method.optimisation.schedule=plateau goes by validation, which this method has none of; "
            "choose constant, cosine or step"
        )
