"""Block reconstruction: what rounds a block's weights and activations learns to answer as the float block does.

BRECQ (Li et al. 2021, arXiv 2102.05426, algorithm 1) takes block after block in the order of the computation, each on
what the quantised blocks before it give, against what the float model gives; QDrop (Wei et al. 2022, arXiv 2203.05740)
leaves part of its inputs and activations float while it learns. A block of the mask decoder holds attention of both
directions, as the joint units of CAR-SAM do. All units are one stage of the training loop, one after the other.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from compressors.distill.engine import Engine
from compressors.distill.stage import Stage
from compressors.distill.state import Progress
from compressors.optimizer_settings import OptimizerConfig
from compressors.quantize.learned import Learners
from compressors.quantize.recording import recordable
from core.errors import InputError
from core.protocols import Prompt
from core.seeding import generator_for, seed_for
from students.quantized.layers import QuantizedLayer, QuantizedProduct
from students.quantized.plan import set_quantizing
from teachers.sam import Sam
from teachers.two_way_transformer import CrossAttention

STAGE = "reconstruction"
WARMUP, FIRST_SHARPNESS, LAST_SHARPNESS = 0.2, 20.0, 2.0
"""For this share of a unit's steps roundings are free; then their exponent falls (AdaRound, section 5)."""
UNDECIDED = 0.01
"""Weight of the mean of AdaRound's regulariser beside an error relative to the variance of what is reconstructed."""


def blocks(model: nn.Module) -> list[str]:
    """Paths of the units of a planned model: each block around an attention, and what lies beside the blocks.

    Beside them are patch embedding and neck, and the mask decoder's last attention, upscaling, hypernetworks and head
    of predicted IoUs. An image encoder without attention (a backbone of convolutions) has the blocks of its stages as
    units, and what lies beside these: stem, changes of resolution, projections and neck.
    """
    found: list[str] = []

    def visit(path: str, module: nn.Module, is_unit: Callable[[nn.Module], bool]) -> None:
        if not _layers(module):
            return
        if is_unit(module):
            found.append(path)
            return
        for name, child in module.named_children():
            visit(f"{path}.{name}", child, is_unit)

    for name in ("image_encoder", "mask_decoder"):
        part = model.get_submodule(name)
        if any(map(_is_attention, part.modules())):
            visit(name, part, _has_one_attention)
        else:
            for child, module in part.named_children():
                visit(f"{name}.{child}", module, _has_no_blocks)
    return found


def _layers(module: nn.Module) -> int:
    return sum(isinstance(part, QuantizedLayer | QuantizedProduct) for part in module.modules())


def _is_attention(module: nn.Module) -> bool:
    return hasattr(module, "qkv") or isinstance(module, CrossAttention)


def _has_one_attention(module: nn.Module) -> bool:
    """Whether attention is nowhere inside but in a module's own children: a block, or what has none."""
    inside = [name for name, part in module.named_modules() if _is_attention(part)]
    return all("." not in name for name in inside) and not isinstance(module, nn.ModuleList)


def _has_no_blocks(module: nn.Module) -> bool:
    """Whether no container inside holds blocks, which have several layers each: a block, or what lies beside them."""
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        # Of timm's chains of stages too.
        return False
    containers = (part for part in module.modules() if isinstance(part, nn.Sequential | nn.ModuleList | nn.ModuleDict))
    return not any(_layers(child) > 1 for container in containers for child in container.children())


@dataclass(frozen=True)
class UnitCall:
    """One call of a unit.

    Attributes:
        name: of the image.
        quantised: positional arguments, as the quantised model before the unit gives them.
        exact: the same as the float model does.
        outputs: of the float model, whatever holds them.
    """

    name: str
    quantised: tuple[Any, ...]
    exact: tuple[Any, ...]
    outputs: tuple[Tensor, ...]

    @property
    def joinable(self) -> bool:
        """Whether it takes a tensor to one of as many images, as blocks of the encoder do."""
        (given, *others), (output, *more) = self.exact, self.outputs
        return not others and not more and isinstance(given, Tensor) and len(given) == len(output)


@dataclass(frozen=True)
class UnitCalls:
    """Some calls of a unit, on the device of the model already."""

    calls: tuple[UnitCall, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the images."""
        return tuple(call.name for call in self.calls)

    def joined(self) -> Sequence[UnitCall]:
        """As few calls as they can be put together to."""
        if not all(call.joinable for call in self.calls):
            return self.calls
        of_parts = ([getattr(call, part)[0] for call in self.calls] for part in ("quantised", "exact", "outputs"))
        quantised, exact, outputs = ((torch.cat(part),) for part in of_parts)
        return [UnitCall("", quantised, exact, outputs)]

    def pin_memory(self) -> Self:
        """Itself."""
        return self

    def to(self, device: torch.device) -> Self:
        """Itself."""
        return self


Call = tuple[str, Tensor, tuple[Prompt, ...]]
"""An image's name, the image ``[1, 3, S, S]``, and its prompts."""


@dataclass(frozen=True)
class Reconstruction:
    """How units learn.

    Attributes:
        units: ``blocks`` (:func:`blocks`), or ``layers``, each alone (AdaRound).
        learn: ``rounding`` of weights, ``scales`` of activations, or ``both``.
        steps: of each unit.
        lr: of roundings; scales learn more slowly (:data:`compressors.quantize.learned.GRID_RATE`).
        batch: calls of the unit a step.
        drop: the probability that an input or an activation of the unit stays float in a step.
        seed: of what is drawn.
        channel_groups: how many groups of channels a grid has once its unit has learned; 0: those that it has.
    """

    units: str
    learn: str
    steps: int
    lr: float
    batch: int
    drop: float
    seed: int
    channel_groups: int = 0

    def run(self, model: Sam, exact: Sam, calls: Sequence[Call], engine: Engine, key: str) -> Progress:
        """Let all units of a calibrated model learn, in place; it ends with grids that know of none of this.

        Args:
            exact: the float model, with the same modules.
            calls: images and prompts.
            engine: computes in float32, whatever its precision: bfloat16 rounds like 8 bits.
            key: what must be equal for a saved state to be continued.
        """
        work = _Work(self, model, exact, calls)
        stage = Stage(
            name=STAGE,
            key=key,
            model=nn.ModuleList(work.learners),
            batch=work.batch,
            batch_size=self.batch,
            loss=work.loss,
            steps=self.steps * len(work.units),
            optimisation=OptimizerConfig(lr=self.lr),
            accumulates=False,
        )
        # Batches depend on what was learned by then: none is made ahead.
        progress = replace(engine, workers=0, precision="float32").fit(stage)
        work.settle()
        return progress


class _Work:
    """The units of a model, what learns of each, and the calls of the one whose turn it is."""

    def __init__(self, how: Reconstruction, model: Sam, exact: Sam, calls: Sequence[Call]) -> None:
        self.how, self.model, self.exact, self.calls = how, model, exact, calls
        named = blocks(model) if how.units == "blocks" else list(recordable(model))
        in_order = _in_order(exact, named, calls[:1])
        found = {path: Learners(model.get_submodule(path), how.learn, how.channel_groups) for path in in_order}
        # Products have no rounding, and weights alone no scales of activations.
        found = {path: learners for path, learners in found.items() if len(learners.learners)}
        if not found:
            raise InputError(
                f"method.learn={how.learn}: nothing that is reconstructed has such; give method.learn=both"
            )
        self.units, self.learners = list(found), list(found.values())
        self._turn = -1
        self._calls: list[UnitCall] = []
        self._variances: list[Tensor] = []
        self._embeddings: dict[int, list[Any]] = {}

    def settle(self, turn: int | None = None) -> None:
        """Write what was learned into the units before one, or into all."""
        for learners in self.learners[:turn]:
            learners.settle()

    def batch(self, places: range) -> UnitCalls:
        """Some calls of the unit whose turn it is at these places."""
        turn = places.start // (self.how.steps * self.how.batch)
        if turn != self._turn:
            self._begin(turn)
        generators = (generator_for(self.how.seed, STAGE, place) for place in places)
        drawn = [int(torch.randint(len(self._calls), (), generator=generator)) for generator in generators]
        return UnitCalls(tuple(self._calls[i] for i in drawn))

    def _begin(self, turn: int) -> None:
        self.settle(turn)
        set_quantizing(self.model, True)
        path, self._turn = self.units[turn], turn
        pairs = zip(self._observed(self.model, path), self._observed(self.exact, path), strict=True)
        self._calls = [UnitCall(name, args, exact, outputs) for (_, args, _), (name, exact, outputs) in pairs]
        by_output = zip(*(call.outputs for call in self._calls), strict=True)
        self._variances = [torch.cat([x.flatten() for x in same]).var().clamp(min=1e-12) for same in by_output]

    @torch.no_grad()
    def _observed(self, model: Sam, path: str) -> list[tuple[str, tuple[Any, ...], tuple[Tensor, ...]]]:
        """The image's name, arguments and outputs of all calls of a unit."""
        found: list[tuple[str, tuple[Any, ...], tuple[Tensor, ...]]] = []
        of_encoder, kept = path.startswith("image_encoder"), self._embeddings.setdefault(id(model), [])
        unit, given = model.get_submodule(path), list[tuple[Any, ...]]()
        # On large maps a product of attention is called once a head.
        once = of_encoder and not isinstance(unit, QuantizedProduct)

        # Copies: residual sums and activations of many backbones change tensors in place.
        def before(_: Any, args: tuple[Any, ...]) -> None:
            given.append(tuple(x.clone() if isinstance(x, Tensor) else x for x in args))

        for number, (name, image, prompts) in enumerate(self.calls):

            def after(_: Any, args: tuple[Any, ...], output: Any, name: str = name) -> None:
                found.append((name, given.pop(), tuple(tensor.clone() for tensor in _tensors(output))))
                if once:
                    raise _Seen

            hooks = unit.register_forward_pre_hook(before), unit.register_forward_hook(after)
            try:
                if of_encoder:
                    with suppress(_Seen):
                        model.encode(image)
                    continue
                # Once the decoder's turn comes, the encoder changes no more.
                if number == len(kept):
                    kept.append(model.encode(image))
                for prompt in prompts:
                    model.decode_frame(kept[number], prompt)
            finally:
                for hook in hooks:
                    hook.remove()
        return found

    def loss(self, batch: UnitCalls, step: int) -> dict[str, Tensor]:
        """How far the unit is from its float answers, and what decides roundings."""
        unit, learners = self.model.get_submodule(self.units[self._turn]), self.learners[self._turn]
        device = batch.calls[0].outputs[0].device
        generator = torch.Generator(device).manual_seed(seed_for(self.how.seed, STAGE, "drop", step))
        errors = []
        progress = step % self.how.steps / self.how.steps
        learners.merge(progress)
        with learners.in_place(self.how.drop, generator):
            for call in batch.joined():
                pairs = zip(call.quantised, call.exact, strict=True)
                found = unit(*(self._mixed(quantised, exact, generator) for quantised, exact in pairs))
                errors.append(self._error(found, call.outputs))
        terms = {"error": torch.stack(errors).mean()}
        share = (progress - WARMUP) / (1 - WARMUP)
        if share >= 0 and (roundings := learners.roundings):
            sharpness = FIRST_SHARPNESS + (LAST_SHARPNESS - FIRST_SHARPNESS) * share
            count = sum(rounding.logits.numel() for rounding in roundings)
            terms["undecided"] = UNDECIDED * torch.stack([r.undecided(sharpness) for r in roundings]).sum() / count
        return terms

    def _error(self, found: Any, outputs: tuple[Tensor, ...]) -> Tensor:
        """The squared error relative to the variance, summed over what the unit gives."""
        parts = zip(_tensors(found), outputs, self._variances, strict=True)
        return torch.stack([(a - b).square().mean() / variance for a, b, variance in parts]).sum()

    def _mixed(self, quantised: Any, exact: Any, generator: torch.Generator) -> Any:
        """A unit's input, in part as the float model has it (QDrop)."""
        if not self.how.drop or not isinstance(quantised, Tensor):
            return quantised
        chance = torch.rand(quantised.shape, generator=generator, device=quantised.device)
        # As torch.where, but faster on a CPU; exact at 0 and 1.
        return torch.lerp(quantised, exact, (chance < self.how.drop).to(quantised.dtype))


class _Seen(Exception):
    """Raised once a unit of the encoder has answered that does so once an image: what follows is not needed."""


def _tensors(output: Any) -> tuple[Tensor, ...]:
    """What a unit gave, whatever holds it."""
    if isinstance(output, Tensor):
        return (output,)
    values = output.values() if isinstance(output, dict) else output
    return tuple(tensor for value in values for tensor in _tensors(value))


def _in_order(model: Sam, paths: list[str], calls: Sequence[Call]) -> list[str]:
    """The units that the model calls, in the order in which it first does."""
    called: dict[str, None] = {}
    hooks = [
        model.get_submodule(path).register_forward_pre_hook(lambda _, args, path=path: called.setdefault(path))
        for path in paths
    ]
    with torch.no_grad():
        for _, image, prompts in calls:
            embedding = model.encode(image)
            for prompt in prompts:
                model.decode_frame(embedding, prompt)
    for hook in hooks:
        hook.remove()
    return list(called)
