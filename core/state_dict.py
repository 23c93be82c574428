"""The one state dict in what a training program saved: in containers within containers, its names behind a prefix.

Containers and prefixes are one thing here: ``{"model": {"module.image_encoder.x": ...}}`` holds the tensor
``model.module.image_encoder.x``. What stands before the names that the model has is left out, and said.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from core.errors import InputError
from core.untrusted import one_line

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts of names that DataParallel, torch.compile, FSDP and activation checkpointing add, wherever they wrap."""
# What optimizers keep may have the names and shapes of the weights.
_NOT_WEIGHTS = re.compile(r"(^|[._])(optim|optimizers?|grads?|gradients?)([._]|$)", re.IGNORECASE)
_DEEPEST, _MOST_CONTAINERS = 8, 10_000


@dataclass(frozen=True)
class FoundState:
    """A state dict.

    Attributes:
        tensors: by the model's own names.
        entry: what stood before the names: keys of containers and prefixes, joined by dots.
        note: what was left out, in words; empty where nothing was.
    """

    tensors: dict[str, Tensor]
    entry: str = ""
    note: str = ""


@dataclass(frozen=True)
class _Leaf:
    """A value in a container: the keys that lead to the container, its key there, and its name without wrappers."""

    path: tuple[str, ...]
    key: Any
    value: Any
    name: str


def find_state(
    stored: object, anchors: Sequence[Sequence[str]], parts: Sequence[str], origin: str, entry: str | None = None
) -> FoundState:
    """The one model in what a file holds.

    Args:
        stored: what was read.
        anchors: names by which the model is found: of each group any one.
        parts: first parts of the model's names, which may be containers of their own; none: it is in one container.
        origin: where it came from, for messages.
        entry: which of several models is meant, as a refusal lists them; whatever stands beside it is left out.

    Raises:
        InputError: there is none, or several that differ; a name stands twice or for something else than a tensor.
    """
    leaves = list(_leaves(stored))
    found = _prefixes(leaves, anchors)
    if not found:
        return _without_anchors(stored, leaves, origin)
    label = {prefix: prefix.removesuffix(".") or "." for prefix in found}
    if entry is not None:
        found = [prefix for prefix in found if label[prefix] == entry]
        if not found:
            raise InputError(f"{origin}: has no entry {entry}; it has {', '.join(map(one_line, label.values()))}")
    models = [_model(leaves, prefix, anchors, parts, origin, entry is not None) for prefix in found]
    if not all(_same(models[0].tensors, other.tensors) for other in models[1:]):
        names = [one_line(label[prefix]) for prefix in found]
        raise InputError(
            f"{origin}: holds {len(names)} models ({', '.join(names[:5])}); name one, checkpoint.entry={names[0]} "
            "(where another setting names the file, give what convert makes of it so)"
        )
    return models[0]


def _leaves(stored: object) -> Iterator[_Leaf]:
    """Everything in containers, which may contain themselves, that is no container."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), stored)] if isinstance(stored, Mapping) else []
    for _ in range(_MOST_CONTAINERS):
        if not waiting:
            return
        path, container = waiting.pop(0)
        for key, value in container.items():
            if not isinstance(value, Mapping):
                yield _Leaf(path, key, value, _name((*path, *str(key).split("."))))
            elif len(path) < _DEEPEST:
                waiting.append(((*path, str(key)), value))


def _name(parts: Sequence[str]) -> str:
    return ".".join(part for part in parts if part not in WRAPPERS)


def _prefixes(leaves: Sequence[_Leaf], anchors: Sequence[Sequence[str]]) -> list[str]:
    """What stands before anchors; where some models have all groups of anchors, only those."""
    found: dict[str, set[int]] = {}
    for leaf in leaves:
        for group, names in enumerate(anchors):
            for anchor in names:
                if isinstance(leaf.value, Tensor) and f".{leaf.name}".endswith(f".{anchor}"):
                    found.setdefault(leaf.name.removesuffix(anchor), set()).add(group)
    found = {prefix: groups for prefix, groups in found.items() if not _NOT_WEIGHTS.search(prefix)}
    whole = [prefix for prefix, groups in found.items() if len(groups) == len(anchors)]
    return whole or list(found)


def _model(
    leaves: Sequence[_Leaf],
    prefix: str,
    anchors: Sequence[Sequence[str]],
    parts: Sequence[str],
    origin: str,
    chosen: bool,
) -> FoundState:
    """The tensors behind a prefix; what else stands in their container counts as theirs, unless they were chosen."""
    anchored = {prefix + anchor for names in anchors for anchor in names}
    homes = {leaf.path for leaf in leaves if leaf.name in anchored and isinstance(leaf.value, Tensor)}
    tensors: dict[str, Tensor] = {}
    left_out: dict[str, None] = {}
    for leaf in leaves:
        below = leaf.name.startswith(prefix)
        name = leaf.name.removeprefix(prefix) if below else str(leaf.key)
        of_part = below and name.partition(".")[0] in parts
        if not of_part and (leaf.path not in homes or (chosen and not below)):
            continue
        if not isinstance(leaf.value, Tensor) or not isinstance(leaf.key, str):
            if of_part or isinstance(leaf.value, Tensor):
                what = f"{one_line(str(leaf.key))} is a {type(leaf.value).__name__}"
                raise InputError(f"{origin}: holds what is not a dict of tensors by name: its entry {what}")
            continue
        if name in tensors and tensors[name] is not leaf.value:
            raise InputError(f"{origin}: holds two tensors for {one_line(name)}; save one model alone")
        tensors[name] = leaf.value
        if below:
            left_out |= dict.fromkeys(_taken_off(leaf.key, name))
    paths = {".".join(takewhile(lambda key: key not in parts, path)) for path in homes} - {""}
    notes = [f"read from its entry {one_line(path)}" for path in sorted(paths)]
    notes += [f"names without {', '.join(map(one_line, left_out))}"] if left_out else []
    return FoundState(tensors, prefix.removesuffix("."), "; ".join(notes))


def _taken_off(key: str, name: str) -> list[str]:
    """The prefix that a key has and a name has not, and the wrappers within."""
    parts, first = key.split("."), name.partition(".")[0]
    start = parts.index(first) if first in parts else 0
    return [".".join([*parts[:start], ""])] * bool(start) + [f"{p}." for p in parts[start:] if p in WRAPPERS]


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        a is b or (a.dtype == b.dtype and torch.equal(a, b)) for a, b in ((one[key], other[key]) for key in one)
    )


def _without_anchors(stored: object, leaves: Sequence[_Leaf], origin: str) -> FoundState:
    """The one container that holds tensors alone: its reader says what is lacking there."""
    containers: dict[tuple[str, ...], dict[str, Tensor] | None] = {}
    for leaf in leaves:
        tensors = containers.setdefault(leaf.path, {})
        if tensors is not None and isinstance(leaf.key, str) and isinstance(leaf.value, Tensor):
            tensors[leaf.name.removeprefix(_name(leaf.path)).removeprefix(".")] = leaf.value
        else:
            containers[leaf.path] = None
    shallow = {path: s for path, s in containers.items() if len(path) < 2 and not _NOT_WEIGHTS.search(".".join(path))}
    states = [state for state in shallow.values() if state]
    if len(states) == 1:
        return FoundState(states[0])
    what = f"a {type(stored).__name__}"
    if isinstance(stored, Mapping):
        keys = ", ".join(one_line(str(key)) for key in list(stored)[:5])
        what = f"a dict with keys {keys}" if stored else "a dict that is empty"
    raise InputError(
        f"{origin}: holds {what}, not a dict of tensors by name; save it with torch.save(model.state_dict())"
    )
