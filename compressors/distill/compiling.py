"""``torch.compile`` around models that are trained, and off again."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def compiled(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Compile a model's forward (and so its backward) in place for as long as the block lasts.

    Parameters, names and state stay as they are. A forward that is tapped runs uncompiled (see
    :class:`compressors.distill.taps.Taps`).
    """
    if wanted:
        model.compile()
    try:
        yield
    finally:
        # nn.Module.compile() has no opposite.
        model._compiled_call_impl = None
