"""What a command returns: rows, which ``format=json`` prints."""

from typing import Any, Protocol


class Row(Protocol):
    """A line of a command's answer, such as :class:`core.result.ResultRow`."""

    def to_dict(self) -> dict[str, Any]:
        """Its columns by name, as JSON takes them."""
        ...
