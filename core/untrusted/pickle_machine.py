"""Pickled PyTorch objects, read as tensors and records: nothing a file names is imported, called or looked up.

``torch.save(model)`` writes a program for the pickle machine. This file has a small machine of its own, in which a
class is a name, a call is a record of its arguments, and only a few calls mean something: containers and tensors.
Python's unpickler, restricted by ``find_class``, would not do: it hashes tuples nested a million times, which ends the
process, allocates what a memo index asks for, and sets attributes on whatever ``find_class`` returned.
"""

import io
import pickletools
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.errors import InputError
from core.plain_file import check_regular
from core.untrusted.zip_format import (
    PICKLE_LIMIT,
    STORAGES,
    Storage,
    TorchZip,
    one_line,
    opened_zip,
    pickle_members,
    view,
)

# Calls with a meaning; STORAGES are referred to, never called.
_REBUILT = {
    "_codecs.encode",
    "builtins.set",
    "collections.Counter",
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_tensor_v2",
}
# Values of modules' attributes, and settings that training programs save beside the weights: recorded although they
# are of no package of the caller.
_RECORDED = {
    *("functools.partial", "torch._C._nn.gelu", "torch.device", "argparse.Namespace"),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("numpy.dtype", "numpy.ndarray"),
}
# Types of numbers stand as attributes of torch.
_DTYPES = {f"torch.{name}" for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)}
NOTE = "sampress"
"""The one entry that is kept of an ordered dict's attribute ``_metadata``: a text, in state dicts of this project."""
# A method that was set on an instance, as SlimSAM's training does, is pickled as getattr(instance, name): recorded in
# just this form.
_BOUND_METHOD = "builtins.getattr"
_LONGEST_NAME = 300
DAMAGED = (
    zipfile.BadZipFile,
    struct.error,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    OSError,
    EOFError,
    RuntimeError,
    NotImplementedError,
)
"""What zipfile, pickletools and torch raise where bytes make no sense."""


@dataclass(frozen=True, eq=False, repr=False)
class Reference:
    """A class or function that a file names; it was not imported.

    Attributes:
        name: module and name, joined by a dot.
    """

    name: str


@dataclass(eq=False, repr=False)
class Record:
    """An object of a class that was not imported.

    Attributes:
        kind: full name of the class, or of the function that would have made the object.
        arguments: what it would have been called with.
        state: what would have become its attributes; a dict for modules.
    """

    kind: str
    arguments: tuple[Any, ...] = ()
    state: Any = None


def read_inert(path: Path, packages: tuple[str, ...]) -> Any:
    """Read what ``torch.save`` wrote into a zip file, without running any of it.

    Args:
        path: the file. The format before PyTorch 1.6, which is not a zip file, is refused.
        packages: packages whose classes may occur (as :class:`Record`) and whose functions may be referred to (as
            :class:`Reference`). They need not be installed, and are not imported.

    Returns:
        The object: tensors (on the CPU, of the stored dtype; a parameter becomes a tensor), :class:`Record`,
        :class:`Reference`, numbers, texts, and lists, tuples and dicts of these; a set becomes a list. What the file
        shares is shared, so the result may contain itself, and may be nested without limit.

    Raises:
        InputError: the file is missing, damaged or not such a zip file; has compressed, encrypted or unsafely named
            members, or tensors that leave their storage; or asks for a class or function that is not allowed, which
            the message names.
    """
    check_regular(path)
    try:
        with open(path, "rb") as stream:
            if stream.read(4) != b"PK\x03\x04":
                raise InputError("not a zip file of torch.save (PyTorch's format before 1.6 is not read)")
        with opened_zip(path) as archive:
            file = TorchZip(archive, path.stat().st_size)
            return Machine(file.storage, packages).run(io.BytesIO(file.pickle()))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except DAMAGED as error:
        raise InputError(f"{path}: truncated or not a PyTorch file ({one_line(str(error))}); fetch it again") from error


def mentions(path: Path, text: str) -> bool:
    """Whether a file is a zip file of ``torch.save`` whose pickle has a text in its bytes; nothing is interpreted."""
    try:
        with opened_zip(path) as archive:
            pickles = pickle_members(archive)
            if len(pickles) != 1 or archive.getinfo(pickles[0]).compress_type != zipfile.ZIP_STORED:
                return False
            with archive.open(pickles[0]) as stream:
                return text.encode() in stream.read(PICKLE_LIMIT)
    except DAMAGED:
        return False


_MARK = object()


class Machine:
    """Interprets one pickle. Its memory grows with the number of opcodes, and nothing recurses.

    Args:
        storage: gives the storage of a type, by its key and number of values.
        packages: as of :func:`read_inert`.
    """

    def __init__(self, storage: Callable[[torch.dtype, str, int], Storage], packages: tuple[str, ...]) -> None:
        self._storage, self._packages = storage, packages
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, program: io.BytesIO) -> Any:
        """The object that a pickle describes; the program is read up to its end.

        Raises:
            InputError: it is damaged, or asks for what is not allowed. Messages do not name the file.
        """
        with warnings.catch_warnings():
            # Of escapes in a damaged name, which is refused for what it is.
            warnings.simplefilter("ignore", DeprecationWarning)
            return self._interpret(program)

    def _interpret(self, program: io.BytesIO) -> Any:
        for opcode, operand, _ in pickletools.genops(program):
            name = opcode.name
            argument: Any = operand
            if name in _LITERALS:
                self._stack.append(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name]())
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                self._stack.append(self._memo[argument])
            elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
                self._memo[argument] = self._top()
            elif name == "MEMOIZE":
                self._memo[len(self._memo)] = self._top()
            elif name == "GLOBAL":
                self._refer(*argument.split(" ", 1))
            elif name in _ACTIONS:
                _ACTIONS[name](self)
            elif name == "STOP":
                value = self._pop()
                if self._stack:
                    raise InputError("its pickle is damaged: it ends with several objects")
                return value
            elif name not in ("PROTO", "FRAME"):
                what = f" for {one_line(argument.replace(' ', '.'))}" if name == "INST" else ""
                raise InputError(f"uses the pickle opcode {name}{what}, which is refused; torch.save does not use it")
        raise InputError("its pickle is truncated")

    def _top(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise InputError("its pickle is damaged: an opcode lacks its operand")
        return self._stack[-1]

    def _pop(self) -> Any:
        value = self._top()
        self._stack.pop()
        return value

    def _pop_to_mark(self) -> list[Any]:
        """What was pushed since the last mark, which goes too."""
        values: list[Any] = []
        while self._stack and self._stack[-1] is not _MARK:
            values.append(self._stack.pop())
        if not self._stack:
            raise InputError("its pickle is damaged: an opcode lacks its mark")
        self._stack.pop()
        return values[::-1]

    def _refer(self, module: object, attribute: object) -> None:
        if type(module) is not str or type(attribute) is not str:
            raise InputError("its pickle is damaged: the name of a class is no text")
        if len(module) + len(attribute) > _LONGEST_NAME:
            raise InputError(_refusal(module))
        # Pickles of protocol 2 have Python 2's name.
        name = f"{'builtins' if module == '__builtin__' else module}.{attribute}"
        of_package = any(f"{module}.".startswith(f"{package}.") for package in self._packages)
        # A dotted attribute would be an attribute of an attribute.
        sound = attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))
        if not (of_package and sound) and name not in {*_REBUILT, *_RECORDED, *_DTYPES, *STORAGES, _BOUND_METHOD}:
            raise InputError(_refusal(name))
        self._stack.append(Reference(name))

    def refer_by_stack(self) -> None:
        attribute, module = self._pop(), self._pop()
        self._refer(module, attribute)

    def make_tuple(self, count: int | None = None) -> None:
        values = self._pop_to_mark() if count is None else [self._pop() for _ in range(count)][::-1]
        self._stack.append(tuple(values))

    def make_list(self) -> None:
        self._stack.append(self._pop_to_mark())

    def make_dict(self) -> None:
        values = self._pop_to_mark()
        self._stack.append({})
        self._set(values)

    def extend(self, single: bool = False) -> None:
        values = [self._pop()] if single else self._pop_to_mark()
        target = self._top()
        if type(target) is not list:
            raise InputError("its pickle is damaged: it adds items to what is no list or set")
        target.extend(values)

    def set_items(self, single: bool = False) -> None:
        self._set([self._pop(), self._pop()][::-1] if single else self._pop_to_mark())

    def _set(self, values: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(values) % 2:
            raise InputError("its pickle is damaged: it sets items of what is no dict")
        for key in values[::2]:
            # Python hashes a tuple by recursion without a limit.
            if type(key) not in (str, int):
                raise InputError(f"a dict has a {type(key).__name__} as a key; only texts and integers are read")
        expected = len(target) + len(values) // 2
        target.update(zip(values[::2], values[1::2], strict=True))
        if len(target) != expected:
            raise InputError("a dict has one key twice, so it does not say which value is meant")

    def call(self, keywords: bool = False) -> None:
        """A call, or the making of an object; keywords for ``__new__``, which no module has, are dropped."""
        if keywords:
            self._pop()
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Reference) or type(arguments) is not tuple:
            raise InputError("its pickle is damaged: it calls what is neither a class nor a function")
        self._stack.append(self._called(function.name, arguments))

    def _called(self, name: str, arguments: tuple[Any, ...]) -> Any:
        match name.rpartition(".")[2] if name in _REBUILT else "", arguments:
            case "OrderedDict", ():
                return OrderedDict()
            # Bytes, in pickles of protocol 2.
            case "encode", (str(content), "latin1"):
                return content.encode("latin1")
            case "Counter", (dict(counts),):
                return counts
            case "set", (list(items),):
                return items
            case "Size", (tuple(sizes),):
                return sizes
            case "_rebuild_tensor_v2", (Storage() as storage, offset, tuple(size), tuple(stride), *_):
                return view(storage, offset, size, stride)
            case "_rebuild_parameter" | "_rebuild_parameter_with_state", (Tensor() as data, *_):
                return data
        if name == _BOUND_METHOD:
            match arguments:
                case (Record(kind=kind), str(attribute)) if kind not in _RECORDED and attribute.isidentifier():
                    return Record(name, arguments)
            raise InputError(_refusal(name))
        if name in _REBUILT or name in STORAGES:
            raise InputError(f"its pickle is damaged: it calls {name} as torch.save does not")
        return Record(name, arguments)

    def build(self) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, Record):
            target.state = state
        elif not isinstance(target, dict):
            raise InputError(f"its pickle is damaged: it sets attributes of a {type(target).__name__}")
        elif isinstance(target, OrderedDict) and isinstance(state, dict):
            # What else it would have as attributes is dropped.
            metadata = state.get("_metadata")
            if isinstance(metadata, dict) and isinstance(metadata.get(NOTE), str):
                target.__dict__["_metadata"] = {NOTE: metadata[NOTE]}

    def load_storage(self) -> None:
        match self._pop():
            # The old format adds a part, which is None for what is a whole storage.
            case ("storage", Reference(name=name), str(key), str(), int(count), *rest) if name in STORAGES and not any(
                part is not None for part in rest
            ):
                self._stack.append(self._storage(STORAGES[name], key, count))
            case _:
                raise InputError("its pickle refers to something outside of it that is no storage of a tensor")


def _refusal(name: str) -> str:
    kind = name.removeprefix("torch._utils._rebuild_")
    if kind != name and kind.isidentifier():
        return f"holds a tensor of a kind that is refused ({kind}); only plain tensors with values are read"
    return f"asks for {one_line(name)}, which is refused; only tensors are read"


_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("STRING", "SHORT_BINSTRING", "BINSTRING", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
    "MARK": lambda: _MARK,
}
_ACTIONS: dict[str, Callable[[Machine], None]] = {
    "TUPLE": Machine.make_tuple,
    "TUPLE1": lambda machine: machine.make_tuple(1),
    "TUPLE2": lambda machine: machine.make_tuple(2),
    "TUPLE3": lambda machine: machine.make_tuple(3),
    "LIST": Machine.make_list,
    "DICT": Machine.make_dict,
    "APPEND": lambda machine: machine.extend(single=True),
    "APPENDS": Machine.extend,
    "ADDITEMS": Machine.extend,
    "SETITEM": lambda machine: machine.set_items(single=True),
    "SETITEMS": Machine.set_items,
    "STACK_GLOBAL": Machine.refer_by_stack,
    "REDUCE": Machine.call,
    "NEWOBJ": Machine.call,
    "NEWOBJ_EX": lambda machine: machine.call(keywords=True),
    "BUILD": Machine.build,
    "BINPERSID": Machine.load_storage,
}
