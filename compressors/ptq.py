"""Post-training quantisation, as in TinySAM (Shu et al. 2023, arXiv 2312.13789, section 3.4) and PTQ4ViT."""

import copy
import json
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch

from compressors.distill.state import Progress
from compressors.method import Compressed, Compressor, RunContext
from compressors.quantize.calibration import Calibration, answers
from compressors.quantize.decoder_attention import fold_signs
from compressors.quantize.reconstruction import Reconstruction
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
    stages: ClassVar[tuple[str, ...]] = ("reconstruction",)

    def scheme(self) -> Scheme:
        """What is quantised, and how."""
        chosen = {part.name: getattr(self, part.name) for part in fields(Scheme)}
        chosen |= {name: tuple(chosen[name]) for name in ("float_layers", "eight_bit_layers")}
        return Scheme(**chosen)

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
            self.pcc,
        )
        if self.big:
            of_first = calibration.calls(student, images[:1])[0]
            with torch.no_grad():
                fold_signs(student, lambda: answers(student, of_first))
        exact = copy.deepcopy(student)
        state = context.folder / "calibration.safetensors"
        key = context.key(replace(self, init=None))
        errors = calibration.run(student, images, state, key)
        if distributed.is_main():
            about = {"images": self.images, "metric": self.metric, "order": self.order, "layers": errors}
            write_text(context.folder / ERRORS, json.dumps(about, indent=1, allow_nan=False) + "\n")
        stages: tuple[Progress, ...] = ()
        if self.reconstruct != "none":
            calls = zip(images, calibration.calls(exact, images), strict=True)
            work = [(image.names[0], *call) for image, call in calls]
            stages = (self._reconstruction(context.seed).run(student, exact, work, context.engine, key),)
        pack(student)
        mixed = "-mixed" if self.eight_bit_layers else ""
        student.name = f"{model.name}-w{self.weight_bits}a{self.activation_bits}{mixed}"
        return Compressed(student.eval().requires_grad_(False), stages)

    def _reconstruction(self, seed: int) -> Reconstruction:
        return Reconstruction(self.reconstruct, self.learn, self.steps, self.lr, self.batch, self.drop, seed)
