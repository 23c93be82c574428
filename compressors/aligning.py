"""SlimSAM's two distillation losses: bottleneck aligning and embedding aligning (section 3.2, eqs. 5 to 8)."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from compressors.distill.losses import embedding_mse
from compressors.distill.taps import Taps
from data.batches import ImageBatch
from teachers.image_encoder import ImageEncoder

Loss = Callable[[ImageBatch, int], Mapping[str, Tensor]]

ALIGNED_SHARE = 0.5
"""Features are aligned in the first half of the steps (epochs 0 to 9 of the published 20)."""


def bottleneck_aligning(student: ImageEncoder, v0: ImageEncoder, *, steps: int, features: bool = True) -> Loss:
    """Step 1: widths inside the blocks are still the teacher's, so q/k/v and MLP activations can be compared.

    ``(1 - a) MSE(t1, t0) + a (windowed q/k/v + global q/k/v + MLP)``, where ``a`` is 0.5 in the first half and then 0.
    Global q/k/v are aligned too; the released code compares them with themselves.
    """
    depth = student.config.depth
    qkv = [f"blocks.{i}.attn.qkv" for i in range(depth)]
    global_qkv = [qkv[i] for i in student.config.global_blocks]
    window_qkv = [path for path in qkv if path not in global_qkv]
    mlp = [f"blocks.{i}.mlp.act" for i in range(depth)]

    def loss(batch: ImageBatch, step: int) -> dict[str, Tensor]:
        weight = 0.5 if features and step < ALIGNED_SHARE * steps else 0.0
        paths = [*qkv, *mlp] if weight else []
        wanted, reference = _run(v0, batch, paths, teacher=True)
        embedding, seen = _run(student, batch, paths)
        terms = {"embedding": (1 - weight) * embedding_mse(embedding, wanted, batch.valid)}
        if weight:
            for name, group in (("window_qkv", window_qkv), ("global_qkv", global_qkv), ("mlp", mlp)):
                if group:
                    terms[name] = weight * _features_mse(seen, reference, group)
        return terms

    return loss


def embedding_aligning(
    student: ImageEncoder, v0: ImageEncoder, v1: ImageEncoder, *, steps: int, features: bool = True
) -> Loss:
    """Step 2: the embedding width is that of step 1's student ``v1``, so the residual stream can be compared with its.

    ``(1 - a) MSE(t2, t0) + a MSE(stream2, stream1) + a MSE(t2, t1)``, where ``a`` falls in ten stairs over the first
    half: ``a = (N - n - 1) / N`` at stair ``n`` of ``N = 10`` (eq. 8), then 0.
    """
    depth = student.config.depth
    stream = [f"blocks.{i}.{norm}:in" for i in range(depth) for norm in ("norm1", "norm2")] + ["neck.0:in"]

    def loss(batch: ImageBatch, step: int) -> dict[str, Tensor]:
        stair = int(10 * step / (ALIGNED_SHARE * steps))
        weight = max(0.0, (10 - stair - 1) / 10) if features else 0.0
        paths = stream if weight else []
        wanted, _ = _run(v0, batch, [], teacher=True)
        embedding, seen = _run(student, batch, paths)
        terms = {"embedding": (1 - weight) * embedding_mse(embedding, wanted, batch.valid)}
        if weight:
            earlier, reference = _run(v1, batch, paths, teacher=True)
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
    errors = [(student[path].float() - teacher[path].float()).square().mean() for path in paths]
    return torch.stack(errors).mean()
