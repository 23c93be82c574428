"""Post-training quantisation, as in TinySAM (Shu et al. 2023, arXiv 2312.13789, section 3.4) and PTQ4ViT."""

import json
from dataclasses import dataclass, fields, replace
from typing import ClassVar

from compressors.method import Compressed, Compressor, RunContext
from compressors.quantize.calibration import Calibration
from compressors.quantize.search import Search
from compressors.settings import PtqSettings
from core import distributed
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
class Ptq(PtqSettings, Compressor):
    """A scheme, and how its grids are found on a few images without labels."""

    paper: ClassVar[str] = "arXiv 2312.13789"

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
        """Calibrate on the first images of the training order, then keep codes instead of weights."""
        if len(data) < self.images:
            raise InputError(f"method.images={self.images}: {data.name} has only {len(data)} training images")
        # A student may have another model's decoder: see MobileSAM's decoder_of.
        frame = ("side of the frame", "grid")
        model = teacher if self.init is None else context.initial(self.init, teacher, frame).to(context.engine.device)
        student = planned_copy(model, self.scheme())
        batches = ImageBatches(data, model.input_size, model.config.encoder.grid, context.seed)
        images = [batches(range(i, i + 1)).to(context.engine.device) for i in range(self.images)]
        calibration = Calibration(
            Search(self.metric, self.candidates, self.lowest, self.highest, self.rounds),
            self.gradient,
            self.order,
            self.prompts,
            context.seed,
            self.bias_correction,
        )
        state = context.folder / "calibration.safetensors"
        errors = calibration.run(student, images, state, context.key(replace(self, init=None)))
        if distributed.is_main():
            about = {"images": self.images, "metric": self.metric, "order": self.order, "layers": errors}
            write_text(context.folder / ERRORS, json.dumps(about, indent=1, allow_nan=False) + "\n")
        pack(student)
        student.name = f"{model.name}-w{self.weight_bits}a{self.activation_bits}"
        return Compressed(student.eval().requires_grad_(False), ())
