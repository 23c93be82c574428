"""Grids that were found so far, in a file, so that a calibration that was stopped goes on where it was."""

import json
import time
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from core.checkpoint import read_safetensors, write_safetensors
from core.errors import InputError
from core.plain_file import parse_json
from students.quantized.layers import QuantizedLayer, QuantizedProduct
from students.quantized.quantizers import TwinQuantizer, UniformQuantizer

SAVE_EVERY_S = 10.0


class Found:
    """The layers whose grids are found, and the file that keeps them.

    Args:
        path: of the file; what it holds is put into the model if it was written for the same ``key``.
        key: what must be equal.
        model: whose quantisers' buffers are kept.
    """

    def __init__(self, path: Path, key: str, model: nn.Module) -> None:
        self.path, self.key, self.model = path, key, model
        self.done: list[str] = []
        self.errors: list[dict[str, Any]] = []
        self._saved = time.monotonic()
        if path.is_file():
            self._go_on(path)

    def add(self, layer: str, error: dict[str, Any]) -> None:
        """Note a layer and how wrong it is; now and then everything is written."""
        self.done.append(layer)
        self.errors.append(error)
        if time.monotonic() - self._saved > SAVE_EVERY_S:
            self.save()

    def _go_on(self, path: Path) -> None:
        """Take what a file holds; from one that is damaged, of another key or of an earlier version, nothing."""
        try:
            tensors, metadata = read_safetensors(path)
            if metadata.get("key") != json.dumps(self.key):
                return
            done, errors = (parse_json(metadata[name]) for name in ("done", "errors"))
        except (InputError, KeyError, ValueError):
            return
        grids = self._grids()
        same = grids.keys() == tensors.keys() and all(
            (tensor.shape, tensor.dtype) == (grids[name].shape, grids[name].dtype) and bool(tensor.isfinite().all())
            for name, tensor in tensors.items()
        )
        layers = {
            path for path, module in self.model.named_modules() if isinstance(module, QuantizedLayer | QuantizedProduct)
        }
        listed = isinstance(done, list) and isinstance(errors, list) and len(done) == len(errors)
        if not same or not listed or not all(type(name) is str and name in layers for name in done):
            return
        for name, tensor in tensors.items():
            grids[name].copy_(tensor)
        self.done, self.errors = done, errors

    def save(self) -> None:
        """Write the grids of the layers that are done."""
        write_safetensors(self.path, self._grids(), {"key": self.key, "done": self.done, "errors": self.errors})
        self._saved = time.monotonic()

    def _grids(self) -> dict[str, Tensor]:
        return {
            f"{path}.{name}": buffer
            for path, module in self.model.named_modules()
            if isinstance(module, UniformQuantizer | TwinQuantizer)
            for name, buffer in module.named_buffers(recurse=False)
        }
