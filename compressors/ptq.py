"""Post-training quantisation, as in TinySAM (Shu et al. 2023, arXiv 2312.13789, section 3.4) and PTQ4ViT."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch

from compressors.distill.state import Progress
from compressors.method import Compressed, Compressor, RunContext
from compressors.ptq_settings import PtqSettings
from compressors.quantize.absorbing import absorb_errors
from compressors.quantize.calibration import Calibration, answers
from compressors.quantize.decoder_attention import fold_signs
from compressors.quantize.mixed_precision import MixedPrecision, choose_float_layers, choose_layers
from compressors.quantize.reconstruction import Reconstruction
from compressors.quantize.search import Search
from core import distributed
from core.checkpoint import write_text
from core.errors import InputError
from data.batches import ImageBatch, ImageBatches
from data.sample import ImageData
from students.export.layer_times import LayerTime, kept_layer_times
from students.quantized.plan import NONE_WIDER, keep_groups, pack, plan_of, planned_copy, simulated, widened
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
        batches = ImageBatches(data, model.input_size, model.config.encoder.grid, context.seed)
        images = [batches(range(i, i + 1)).to(context.engine.device) for i in range(self.images)]
        calibration = Calibration(
            Search(self.metric, self.candidates, self.lowest, self.highest, self.rounds, self.weights_in_search),
            self.gradient,
            self.order,
            self.prompts,
            context.seed,
            self.bias_correction,
            self.pcc,
        )
        key = context.key(replace(self, init=None))
        # Grids are found for the groups of channels that there are at first.
        scheme = replace(self.scheme(), channel_groups=self.first_channel_groups or self.channel_groups)
        about = {"images": self.images, "metric": self.metric, "order": self.order}
        widths: dict[str, int] = {}
        if self.budget is not None:
            # In sequential order a layer's error would hold those of the layers before it, which its bits cannot mend.
            sensitivity = replace(calibration, sensitivity=True, order="parallel")
            mixed = self._mixed(model, scheme, sensitivity, images, context, key)
            if self.budget_of == "milliseconds":
                scheme = replace(scheme, float_layers=(*scheme.float_layers, *mixed.chosen))
            else:
                eight = (path for path, bits in mixed.bits.items() if bits == 8)
                scheme = replace(scheme, eight_bit_layers=(*scheme.eight_bit_layers, *eight))
                widths = {path: bits for path, bits in mixed.bits.items() if bits < 8}
            about["mixed_precision"] = mixed.to_dict()
        student = self._planned(model, scheme, calibration, images, widths)
        exact = copy.deepcopy(student)
        errors = calibration.run(student, images, context.folder / "calibration.safetensors", key)
        calls = calibration.calls(exact, images) if self.mac or self.reconstruct != "none" else []
        if self.mac:
            about["absorbed"] = absorb_errors(student, exact, calls, calibration.search)
        if distributed.is_main():
            about["layers"] = errors
            write_text(context.folder / ERRORS, json.dumps(about, indent=1, allow_nan=False) + "\n")
        stages: tuple[Progress, ...] = ()
        if self.reconstruct != "none":
            work = [(image.names[0], *call) for image, call in zip(images, calls, strict=True)]
            stages = (self._reconstruction(context.seed).run(student, exact, work, context.engine, key),)
            keep_groups(student, self.channel_groups)
        pack(student)
        ending = "-mixed" if scheme.eight_bit_layers or self.budget is not None else ""
        student.name = f"{model.name}-w{self.weight_bits}a{self.activation_bits}{ending}"
        return Compressed(student.eval().requires_grad_(False), stages)

    def _mixed(
        self,
        model: Sam,
        scheme: Scheme,
        calibration: Calibration,
        images: list[ImageBatch],
        context: RunContext,
        key: str,
    ) -> MixedPrecision:
        """What the budget buys, by what each layer loses with the fewest bits everywhere, and with those in between."""
        assert self.budget is not None
        few = self._planned(model, scheme, calibration, images)
        times = self._layer_times(few, context, key) if self.budget_of == "milliseconds" else None
        lines = calibration.run(few, images, context.folder / "sensitivity.safetensors", key)
        if times is not None:
            losses = {line["layer"]: line["expected_loss"] for line in lines if line["kind"] != "product"}
            return choose_float_layers(times, losses, self.budget, self.runtime)
        levels: dict[int, dict[str, float]] = {}
        for bits in self.levels:
            levels[bits] = {}
            # What eight bits lose is small beside few; beside more it may not be.
            if len(self.levels) > 1:
                wider = self._planned(model, widened(scheme, bits), calibration, images)
                state = context.folder / f"sensitivity_{bits}.safetensors"
                levels[bits] = _expected(calibration.run(wider, images, state, key))
        return choose_layers(model, scheme, _expected(lines), self.budget, self.budget_of, levels)

    def _layer_times(self, planned: Sam, context: RunContext, key: str) -> dict[str, LayerTime]:
        """Measured by the first process, and kept: what a run went by is what it goes on by."""
        plan = plan_of(planned)
        assert plan is not None
        if faults := simulated(plan):
            raise InputError(f"method.budget_of=milliseconds: no runtime computes with {' or '.join(faults)}")

        kept = context.folder / "layer_times.json"
        times = distributed.from_main(lambda: kept_layer_times(kept, key, planned, self.runtime))
        # Refused before sensitivity is measured, if it is.
        choose_float_layers(times, dict.fromkeys(plan.layers, 0.0), self.budget or 0.0, self.runtime)
        return times

    def _planned(
        self,
        model: Sam,
        scheme: Scheme,
        calibration: Calibration,
        images: list[ImageBatch],
        widths: Mapping[str, int] = NONE_WIDER,
    ) -> Sam:
        """A copy with grids that are not set, its decoder's keys of one mode if these are to be."""
        student = planned_copy(model, scheme, widths)
        if self.big:
            of_first = calibration.calls(student, images[:1])[0]
            with torch.no_grad():
                fold_signs(student, lambda: answers(student, of_first))
        return student

    def _reconstruction(self, seed: int) -> Reconstruction:
        how = self.reconstruct, self.learn, self.steps, self.lr, self.batch, self.drop
        return Reconstruction(*how, seed, self.channel_groups)


def _expected(lines: list[dict[str, Any]]) -> dict[str, float]:
    """The loss expected by each layer."""
    return {line["layer"]: line["expected_loss"] for line in lines}
