"""Intermediate features by module path, read while a model runs."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


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
