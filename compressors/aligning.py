"""SlimSAM's two distillation losses: bottleneck aligning and embedding aligning (section 3.2, eqs. 5 to 8)."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from compressors.distill.losses import embedding_mse, over_cells
from compressors.distill.stage import Frozen
from data.batches import ImageBatch
from teachers.attention import merge_windows

TeacherEmbedding = Callable[[ImageBatch], Any]
"""Gives the teacher's embeddings of a batch."""


@dataclass(frozen=True)
class Loss:
    """The terms of a batch at a step, and what they need of encoders that are not trained."""

    terms: Callable[[ImageBatch, int], Mapping[str, Tensor]]
    frozen: Frozen[ImageBatch, Any]

    def __call__(self, batch: ImageBatch, step: int) -> Mapping[str, Tensor]:
        """See :attr:`compressors.distill.stage.Stage.loss`."""
        return self.terms(batch, step)


ALIGNED_SHARE = 0.5
"""Of the steps in which features are aligned where no number of epochs is given (10 of the published 20 epochs)."""
STAIRS = 10
"""In which the weight falls where no number of epochs is given, else one an epoch."""


@dataclass(frozen=True)
class Aligned:
    """For how long intermediate features are aligned, from the first step on.

    Attributes:
        steps: optimizer steps, exact where an epoch is no whole number of them; the weight is 0 from there on. Training
            may end before.
        stairs: the paper's ``N``, in which they are divided.
    """

    steps: Fraction | float
    stairs: int = STAIRS

    @classmethod
    def during(cls, steps: int, epochs: int, steps_per_epoch: Fraction | float) -> Self:
        """For some epochs, however long is trained (the paper: 10), a stair each; with 0, for half of the ``steps``."""
        exact = Fraction(steps_per_epoch).limit_denominator(10**6)
        return cls(epochs * exact, epochs) if epochs else cls(ALIGNED_SHARE * steps)


def feature_weight(kind: str, step: int, aligned: Aligned) -> float:
    """The weight ``a`` of intermediate features at a step; 0 once they are no longer aligned.

    - ``constant``: 0.5 (eq. 6).
    - ``dynamic``: falls in stairs, ``(N - n - 1) / N`` at stair ``n`` of ``N`` (eq. 8).
    - ``released``: ``(N - n) / (N + 1)``, the stairs of the released code.
    - ``none``: 0 throughout.
    """
    if kind == "none" or step >= aligned.steps:
        return 0.0
    if kind == "constant":
        return 0.5
    count = aligned.stairs
    stair = int(count * step / aligned.steps)
    return (count - stair) / (count + 1) if kind == "released" else (count - stair - 1) / count


def embedding_only(student: Any, teacher_embeddings: TeacherEmbedding, padding: str = "ignore") -> Loss:
    """The image embedding alone.

    Args:
        padding: which distances leave out the cells of zero padding: ``ignore``: all; ``count``: none, as in the
            released code; ``embedding``: that of final embeddings alone, not that of intermediate features.
    """

    def loss(batch: ImageBatch, step: int) -> dict[str, Tensor]:
        found, expected = student(batch.images), frozen(batch, step)
        return {"embedding": embedding_mse(found, expected, _valid(batch, padding))}

    frozen = Frozen[ImageBatch, Any](lambda batch, step: teacher_embeddings(batch))
    return Loss(loss, frozen)


def bottleneck_aligning(
    student: Any,
    v0: Any,
    teacher_embeddings: TeacherEmbedding,
    *,
    aligned: Aligned,
    weights: str = "constant",
    global_qkv: bool = True,
    padding: str = "ignore",
) -> Loss:
    """Step 1: widths inside the blocks are still the teacher's, so q/k/v and MLP activations can be compared.

    ``(1 - a) MSE(t1, t0) + a (windowed q/k/v + global q/k/v + MLP)``.

    Args:
        teacher_embeddings: the final embeddings of ``v0``.
        aligned, weights: how ``a`` goes; see :func:`feature_weight`.
        global_qkv: whether q/k/v of global blocks are aligned; the released code compares them with themselves.
        padding: as of :func:`embedding_only`.
    """
    blocks = student.config.block_paths
    qkv = [f"{block}.attn.qkv" for block in blocks]
    whole = [qkv[i] for i in student.config.global_blocks]
    windowed = [path for path in qkv if path not in whole]
    groups = {"window_qkv": windowed, "mlp": [f"{block}.mlp.act" for block in blocks]}
    if global_qkv:
        groups["global_qkv"] = whole
    groups = {name: paths for name, paths in groups.items() if paths}
    tapped = [path for paths in groups.values() for path in paths]

    def of_teacher(batch: ImageBatch, step: int) -> tuple[Any, dict[str, Tensor]]:
        if not feature_weight(weights, step, aligned):
            return teacher_embeddings(batch), {}
        return _run(v0, batch, tapped)

    frozen = Frozen(of_teacher)

    def loss(batch: ImageBatch, step: int) -> Mapping[str, Tensor]:
        weight = feature_weight(weights, step, aligned)
        final, reference = frozen(batch, step)
        embedding, seen = _run(student, batch, tapped if weight else [])
        if not weight:
            return {"embedding": embedding_mse(embedding, final, _valid(batch, padding))}
        terms = {"embedding": (1 - weight) * embedding_mse(embedding, final, _valid(batch, padding))}
        distance = _distance(student, batch, padding)
        return terms | {name: weight * distance(seen, reference, paths) for name, paths in groups.items()}

    return Loss(loss, frozen)


def embedding_aligning(
    student: Any,
    v1: Any,
    teacher_embeddings: TeacherEmbedding,
    *,
    aligned: Aligned,
    weights: str = "dynamic",
    padding: str = "ignore",
) -> Loss:
    """Step 2: the embedding width is that of step 1's student ``v1``, so the residual stream can be compared with its.

    ``(1 - a) MSE(t2, t0) + a MSE(stream2, stream1) + a MSE(t2, t1)``.

    Args:
        teacher_embeddings: the final embeddings of the teacher, ``t0``.
        aligned, weights: how ``a`` goes; see :func:`feature_weight`.
        padding: as of :func:`embedding_only`.
    """
    config = student.config
    stream = [f"{block}.{norm}:in" for block in config.block_paths for norm in ("norm1", "norm2")]
    stream += [f"{layer}:in" for layer in config.neck_paths]

    def of_frozen(batch: ImageBatch, step: int) -> tuple[Any, Any]:
        aligning = feature_weight(weights, step, aligned)
        return teacher_embeddings(batch), _run(v1, batch, stream) if aligning else None

    frozen = Frozen(of_frozen)

    def loss(batch: ImageBatch, step: int) -> dict[str, Tensor]:
        weight = feature_weight(weights, step, aligned)
        embedding, seen = _run(student, batch, stream if weight else [])
        valid = _valid(batch, padding)
        target, of_v1 = frozen(batch, step)
        terms = {"embedding": (1 - weight) * embedding_mse(embedding, target, valid)}
        if weight:
            earlier, reference = of_v1
            terms["stream"] = weight * _distance(student, batch, padding)(seen, reference, stream)
            terms["earlier"] = weight * embedding_mse(embedding, earlier, valid)
        return terms

    return Loss(loss, frozen)


def _run(encoder: Any, batch: ImageBatch, paths: Sequence[str]) -> tuple[Any, dict[str, Tensor]]:
    with Taps(encoder, paths) as features:
        return encoder(batch.images), features


def _valid(batch: ImageBatch, padding: str) -> Tensor | None:
    return None if padding == "count" else batch.valid


def _distance(
    encoder: Any, batch: ImageBatch, padding: str
) -> Callable[[Mapping[str, Tensor], Mapping[str, Tensor], Sequence[str]], Tensor]:
    """Mean over blocks of the squared error of features, as one MSE over the stacked features is."""
    # Of encoders with a window of their own in each stage images fill the frame: there is no padding to leave out.
    grid, window = encoder.config.grid, getattr(encoder.config, "window_size", 0)
    padded = (grid + -grid % (window or 1),) * 2

    def of_path(found: Tensor, expected: Tensor, path: str) -> Tensor:
        if padding != "ignore" or not window:
            return F.mse_loss(found.float(), expected.float())
        errors = (found.float() - expected.float()).square().mean(1 if path == "neck.0:in" else -1)
        # A window may be larger than the grid: then there are as many as images, of another size.
        if errors.shape != batch.valid.shape:
            errors = merge_windows(errors[..., None], window, padded, (grid, grid))[..., 0]
        return over_cells(errors, batch.valid)

    def distance(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], paths: Sequence[str]) -> Tensor:
        return torch.stack([of_path(student[path], teacher[path], path) for path in paths]).mean()

    return distance


class Taps:
    """Keeps what flows into or out of named modules, for as long as the ``with`` block lasts.

    Compiled models run uncompiled meanwhile: a compiled graph has no modules to look into.

    Args:
        model: whose modules are tapped.
        paths: module paths as in ``model.named_modules()``; ``path:in`` keeps the module's first input instead of its
            output.

    Raises:
        AttributeError: there is no module at a path.
    """

    def __init__(self, model: nn.Module, paths: Sequence[str]) -> None:
        self.model, self.paths = model, tuple(paths)
        self.features: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        self._eager: AbstractContextManager[Any] = nullcontext()

    def __enter__(self) -> dict[str, Tensor]:
        # Every module is found before the first hook is set: an unknown path leaves no hook behind.
        modules = [self.model.get_submodule(path.removesuffix(":in")) for path in self.paths]
        for path, module in zip(self.paths, modules, strict=True):
            if path.endswith(":in"):
                self._handles.append(module.register_forward_pre_hook(self._keep_input(path)))
            else:
                self._handles.append(module.register_forward_hook(self._keep_output(path)))
        if self.paths:
            # Takes effect when it is made.
            self._eager = torch.compiler.set_stance("force_eager")
        return self.features

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._eager.__exit__(kind, error, at)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _keep_input(self, path: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.features[path] = inputs[0]

        return hook

    def _keep_output(self, path: str) -> Any:
        def hook(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            self.features[path] = output

        return hook
