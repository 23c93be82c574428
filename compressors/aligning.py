"""SlimSAM's two distillation losses: bottleneck aligning and embedding aligning (section 3.2, eqs. 5 to 8)."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from compressors.distill.losses import embedding_mse
from data.batches import ImageBatch
from teachers.image_encoder import ImageEncoder

Loss = Callable[[ImageBatch, int], Mapping[str, Tensor]]
TeacherEmbedding = Callable[[ImageBatch], Tensor]
"""Gives the teacher's embeddings of a batch."""

ALIGNED_SHARE = 0.5
"""Features are aligned in the first half of the steps (epochs 0 to 9 of the published 20)."""


def feature_weight(kind: str, step: int, steps: int) -> float:
    """The weight ``a`` of intermediate features at a step; 0 in the second half.

    - ``constant``: 0.5 (eq. 6).
    - ``dynamic``: falls in ten stairs, ``(N - n - 1) / N`` at stair ``n`` of ``N = 10`` (eq. 8).
    - ``released``: ``(10 - n) / 11``, the stairs of the released code.
    - ``none``: 0 throughout.
    """
    if kind == "none" or step >= ALIGNED_SHARE * steps:
        return 0.0
    if kind == "constant":
        return 0.5
    stair = int(10 * step / (ALIGNED_SHARE * steps))
    return (10 - stair) / 11 if kind == "released" else (10 - stair - 1) / 10


def embedding_only(student: ImageEncoder, teacher_embeddings: TeacherEmbedding) -> Loss:
    """The image embedding alone."""

    def loss(batch: ImageBatch, step: int) -> dict[str, Tensor]:
        return {"embedding": embedding_mse(student(batch.images), teacher_embeddings(batch), batch.valid)}

    return loss


def bottleneck_aligning(
    student: ImageEncoder,
    v0: ImageEncoder,
    teacher_embeddings: TeacherEmbedding,
    *,
    steps: int,
    weights: str = "constant",
    global_qkv: bool = True,
) -> Loss:
    """Step 1: widths inside the blocks are still the teacher's, so q/k/v and MLP activations can be compared.

    ``(1 - a) MSE(t1, t0) + a (windowed q/k/v + global q/k/v + MLP)``.

    Args:
        teacher_embeddings: the final embeddings of ``v0``.
        weights: how ``a`` goes; see :func:`feature_weight`.
        global_qkv: whether q/k/v of global blocks are aligned; the released code compares them with themselves.
    """
    depth = student.config.depth
    qkv = [f"blocks.{i}.attn.qkv" for i in range(depth)]
    whole = [qkv[i] for i in student.config.global_blocks]
    windowed = [path for path in qkv if path not in whole]
    groups = {"window_qkv": windowed, "mlp": [f"blocks.{i}.mlp.act" for i in range(depth)]}
    if global_qkv:
        groups["global_qkv"] = whole
    groups = {name: paths for name, paths in groups.items() if paths}
    tapped = [path for paths in groups.values() for path in paths]

    def loss(batch: ImageBatch, step: int) -> dict[str, Tensor]:
        weight = feature_weight(weights, step, steps)
        if not weight:
            return {"embedding": embedding_mse(student(batch.images), teacher_embeddings(batch), batch.valid)}
        final, reference = _run(v0, batch, tapped, teacher=True)
        embedding, seen = _run(student, batch, tapped)
        terms = {"embedding": (1 - weight) * embedding_mse(embedding, final, batch.valid)}
        return terms | {name: weight * _features_mse(seen, reference, paths) for name, paths in groups.items()}

    return loss


def embedding_aligning(
    student: ImageEncoder,
    v1: ImageEncoder,
    teacher_embeddings: TeacherEmbedding,
    *,
    steps: int,
    weights: str = "dynamic",
) -> Loss:
    """Step 2: the embedding width is that of step 1's student ``v1``, so the residual stream can be compared with its.

    ``(1 - a) MSE(t2, t0) + a MSE(stream2, stream1) + a MSE(t2, t1)``.

    Args:
        teacher_embeddings: the final embeddings of the teacher, ``t0``.
        weights: how ``a`` goes; see :func:`feature_weight`.
    """
    depth = student.config.depth
    stream = [f"blocks.{i}.{norm}:in" for i in range(depth) for norm in ("norm1", "norm2")] + ["neck.0:in"]

    def loss(batch: ImageBatch, step: int) -> dict[str, Tensor]:
        weight = feature_weight(weights, step, steps)
        embedding, seen = _run(student, batch, stream if weight else [])
        terms = {"embedding": (1 - weight) * embedding_mse(embedding, teacher_embeddings(batch), batch.valid)}
        if weight:
            earlier, reference = _run(v1, batch, stream, teacher=True)
            terms["stream"] = weight * _features_mse(seen, reference, stream)
            terms["earlier"] = weight * embedding_mse(embedding, earlier, batch.valid)
        return terms

    return loss


def _run(
    encoder: ImageEncoder, batch: ImageBatch, paths: Sequence[str], teacher: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    with torch.set_grad_enabled(not teacher), Taps(encoder, paths) as features:
        return encoder(batch.images), features


def _features_mse(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], paths: Sequence[str]) -> Tensor:
    """Mean over blocks of the squared error, as one MSE over the stacked features is."""
    errors = [F.mse_loss(student[path].float(), teacher[path].float()) for path in paths]
    return torch.stack(errors).mean()


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
