"""Post-training quantisation, as in TinySAM (Shu et al. 2023, arXiv 2312.13789, section 3.4) and PTQ4ViT."""

import json
from dataclasses import dataclass, fields, replace
from typing import ClassVar

from compressors.method import Compressed, Compressor, RunContext, check_at_least
from compressors.quantize.calibration import Calibration
from compressors.quantize.objective import GRADIENTS, METRICS
from compressors.quantize.search import Search
from core import processes
from core.checkpoint import write_text
from core.errors import InputError
from data.batches import ImageBatches
from data.sample import ImageData
from students.quantized.plan import pack, planned_copy
from students.quantized.scheme import Scheme
from teachers.sam import Sam, SamConfig

ERRORS = "quantisation.json"
"""How wrong each layer is, written into the run's folder."""


@dataclass(frozen=True)
class Ptq(Scheme, Compressor):
    """A scheme, and how its grids are found on a few pictures without labels.

    Attributes:
        init: the model to quantise (a file of any layout, or a released model's name); None: the teacher itself.
        metric: what grids are judged by; see :func:`compressors.quantize.objective.distance`.
        gradient: of the hessian metric; see :mod:`compressors.quantize.objective`.
        order: whether layers are calibrated on what the float model gives them (``parallel``) or on what the quantised
            layers before them do (``sequential``).
        candidates, lowest, highest, rounds: see :class:`compressors.quantize.search.Search`.
        images: pictures to calibrate on.
        prompts: points, and as many boxes, a picture.
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

    paper: ClassVar[str] = "arXiv 2312.13789"
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "metric": METRICS,
        "gradient": GRADIENTS[:2],
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

    def scheme(self) -> Scheme:
        """What is quantised, and how."""
        chosen = {part.name: getattr(self, part.name) for part in fields(Scheme)}
        return Scheme(**{**chosen, "float_layers": tuple(self.float_layers)})

    def shape(self, teacher: SamConfig) -> SamConfig:
        """Quantising changes no shape."""
        if self.init is not None:
            raise NotImplementedError("the shape is that of method.init")
        return teacher

    def compress(self, teacher: Sam, data: ImageData, context: RunContext) -> Compressed:
        """Calibrate on the first pictures of the training order, then keep codes instead of weights."""
        if len(data) < self.images:
            raise InputError(f"method.images={self.images}: {data.name} has only {len(data)} training pictures")
        model = teacher if self.init is None else context.initial(self.init, teacher).to(context.engine.device)
        student = planned_copy(model, self.scheme())
        batches = ImageBatches(data, model.input_size, model.config.encoder.grid, context.seed)
        pictures = [batches(range(i, i + 1)).to(context.engine.device) for i in range(self.images)]
        calibration = Calibration(
            Search(self.metric, self.candidates, self.lowest, self.highest, self.rounds),
            self.gradient,
            self.order,
            self.prompts,
            context.seed,
        )
        state = context.folder / "calibration.safetensors"
        errors = calibration.run(student, pictures, state, context.key(replace(self, init=None)))
        if processes.is_first():
            about = {"pictures": self.images, "metric": self.metric, "order": self.order, "layers": errors}
            write_text(context.folder / ERRORS, json.dumps(about, indent=1, allow_nan=False) + "\n")
        pack(student)
        student.name = f"{model.name}-w{self.weight_bits}a{self.activation_bits}"
        return Compressed(student.eval().requires_grad_(False), ())
