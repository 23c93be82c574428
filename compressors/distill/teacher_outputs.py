"""The frozen teacher's image embeddings, computed once a picture."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from compressors.distill.engine import Engine
from core.checkpoint import weights_sha256
from data.batches import ImageBatch
from data.embeddings import DiskEmbeddings, Embeddings, MemoryEmbeddings
from teachers.image_encoder import ImageEncoder

PREPROCESSING = "longer side, bilinear on uint8, zero-padded, 1"
"""How pictures are brought into the frame; to be changed whenever that changes what comes out."""


@dataclass
class TeacherEmbeddings:
    """Gives the teacher's embeddings of a batch, from where they are kept or from the teacher.

    Pictures are encoded one at a time and rounded to float16 whether or not they are kept, so that what a student sees
    depends on the picture alone: not on its neighbours, nor on what an earlier run left.

    Attributes:
        encoder: the teacher's, frozen.
        engine: whose device and precision it computes in.
        kept: where embeddings are kept; None computes them each time.
        computed: how many pictures were encoded.
    """

    encoder: ImageEncoder
    engine: Engine
    kept: Embeddings | None = None
    computed: int = 0
    _maker: bytes = field(init=False)
    _encode: Callable[[Tensor], Tensor] = field(init=False)

    def __post_init__(self) -> None:
        # A wrapper, so that the teacher itself stays as it is for whoever else uses it.
        self._encode = torch.compile(self.encoder) if self.engine.compile else self.encoder
        frame, device = self.encoder.config.image_size, self.engine.device.type
        # Another number of threads adds in another order, so that some embeddings differ in their last bit.
        exactly = (device, self.engine.compile, *([torch.get_num_threads()] if device == "cpu" else []))
        parts = (weights_sha256(self.encoder), PREPROCESSING, frame, self.engine.precision, *exactly)
        self._maker = hashlib.sha256(repr(parts).encode()).digest()

    def __call__(self, batch: ImageBatch) -> Tensor:
        """Embeddings, float32 ``[B, C, g, g]``, on the device of the batch's images."""
        return torch.stack([self._one(batch, i).float() for i in range(len(batch.names))])

    def _one(self, batch: ImageBatch, i: int) -> Tensor:
        key = hashlib.sha256(self._maker + batch.digests[i]).digest() if batch.digests else None
        # An empty store is false, so it is asked for by identity.
        if self.kept is not None and key is not None:
            record = self.kept.get(key)
            if record is not None:
                return record[0].to(batch.images.device, non_blocking=True)
        with torch.no_grad(), self.engine.autocast():
            embedding = self._encode(batch.images[i : i + 1])[0].half()
        self.computed += 1
        if self.kept is not None and key is not None:
            self.kept.put(key, embedding, batch.valid[i])
        return embedding


def keeper(mode: str, folder: Path, encoder: ImageEncoder) -> Embeddings | None:
    """Where embeddings of an encoder are kept.

    Args:
        mode: ``disk`` (in ``folder``, for this run and all others), ``memory`` (for this run) or ``off``.
    """
    if mode == "off":
        return None
    if mode == "memory":
        return MemoryEmbeddings()
    return DiskEmbeddings(folder, encoder.config.out_channels, encoder.config.grid)
