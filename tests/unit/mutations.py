"""Ways to spoil a valid file, for fuzzing: in its bytes, and in the structure of its JSON."""

import copy
from typing import Any

from hypothesis import strategies as st

_SEGMENTATIONS: tuple[Any, ...] = (
    *([[1, 1, 5, 1, 5, 5]], [[1, 2, 3]], [["a"] * 6], [[[1, 1], [5, 5], [1, 5]]], [[1e6, 0, -1e6, 0] * 3]),
    *({"size": [8, 10], "counts": [80]}, {"size": [8, 10], "counts": "0"}, {"size": [8, 10], "counts": []}),
    *({"size": [2**16, 2**16], "counts": [2**32]}, {"size": None, "counts": "1"}),
)
STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 0.5, -0.5, 1e9, 1e15, 1e16, 1e308, float("nan"), float("inf"), float("-inf")),
    *(2**31, 2**32, 2**63, -(2**63), 10**400, "", "0", "1", "\u00e9", "a\nb", "\x00", "\ud800", "..", "/etc/passwd"),
    *("x" * 5000, [], {}, [[]], [{}], [None], [1, 2, 3, 4], [1e6, 0, -1e6, 0] * 3),
    *_SEGMENTATIONS,
)
"""Values that are wrong somewhere."""


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in JSON content, its own, ``()``, first."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(place for key, value in items for place in places(value, (*path, key)))]


@st.composite
def spoiled(draw: st.DrawFn, content: Any, most: int = 3) -> Any:
    """A copy of JSON content with one to ``most`` values exchanged, removed or repeated."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, most))):
        path = draw(st.sampled_from(places(content)))
        if not path:
            how = "replace"
        else:
            how = draw(st.sampled_from(["replace", "replace", "remove", "repeat", "rename"]))
        new = copy.deepcopy(draw(st.sampled_from(STRANGE)))
        if not path:
            # Seldom: there is little to find in a file of one value.
            content = new if draw(st.integers(0, 9)) == 0 else content
            continue
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        last = path[-1]
        if how == "remove":
            del parent[last]
        elif how == "repeat" and isinstance(parent, list):
            parent.insert(last, copy.deepcopy(parent[last]))
        elif how == "rename" and isinstance(parent, dict):
            parent[f"{last}_"] = parent.pop(last)
        else:
            parent[last] = new
    return content


@st.composite
def damaged(draw: st.DrawFn, content: bytes, most: int = 4) -> bytes:
    """A copy of a file's bytes with one to ``most`` places overwritten, cut out, cut off, inserted or repeated."""
    for _ in range(draw(st.integers(1, most))):
        start = draw(st.integers(0, max(0, len(content) - 1)))
        length = draw(st.sampled_from([1, 1, 2, 4, 16, 200]))
        # Most formats have what decides at their beginning.
        start = draw(st.sampled_from([start, start % 64]))
        new = draw(
            st.sampled_from([b"\x00", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80"])
            | st.binary(min_size=1, max_size=8)
        )
        kind = draw(st.sampled_from(["write", "write", "remove", "cut", "insert", "repeat"]))
        if kind == "write":
            content = content[:start] + new + content[start + len(new) :]
        elif kind == "remove":
            content = content[:start] + content[start + length :]
        elif kind == "cut":
            content = content[:start]
        elif kind == "insert":
            content = content[:start] + new + content[start:]
        else:
            content = content[: start + length] + content[start:]
    return content
