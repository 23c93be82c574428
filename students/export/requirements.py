"""The extra ``export``: packages that only exporting and running exported files need."""

import importlib.util
from collections.abc import Iterable

from core.errors import InputError

WRITES: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch": (),
}
"""What writing a format, and checking what was written, imports."""


def require(packages: Iterable[str], what: str) -> None:
    """Refuse in one line what cannot work here.

    Args:
        what: key and value that ask for the packages, for the message.

    Raises:
        InputError: one is not installed.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{what} needs {', '.join(missing)}; install with: pip install 'sampress[export]'")
