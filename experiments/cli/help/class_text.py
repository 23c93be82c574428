"""What a class says of its settings, read from its source: nothing is imported, so that ``--help`` answers at once."""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
"""The folder that holds the packages."""


@dataclass(frozen=True)
class Setting:
    """One setting of a class.

    Attributes:
        name: as it is typed.
        type: its annotation, as it is written.
        default: as it is written; None where there is none.
        line: what the docstring, or else a comment above it, says of it; may be empty.
        home: the module that declares it, where the names in its annotation have their meaning.
    """

    name: str
    type: str
    default: str | None
    line: str
    home: str


@cache
def class_settings(module: str, name: str) -> tuple[Setting, ...]:
    """The settings of a dataclass, or the arguments of a class, in order; those of the classes it extends come first.

    Args:
        module: with dots, of a package of this project; classes of others have none here.
    """
    found = find_class(module, name)
    if found is None:
        return ()
    home, node = found
    settings: dict[str, Setting] = {}
    for base in node.bases:
        if isinstance(base, ast.Name):
            settings |= {setting.name: setting for setting in class_settings(home, base.id)}
    lines = documented(ast.get_docstring(node) or "")
    for part, type_, default, comment in [*_fields(node, home), *_arguments(node, home)]:
        line = lines.get(part) or comment
        if part in settings and not line:
            line = settings[part].line
        settings[part] = Setting(part, type_, default, line, home)
    return tuple(settings.values())


def find_class(module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    """The module that defines a class, and its definition, wherever ``module`` has it from."""
    tree = _tree(module)
    if tree is None:
        return None
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return find_class(node.module, alias.name)
    return None


def documented(docstring: str) -> dict[str, str]:
    """The lines below ``Attributes:`` or ``Args:`` of a docstring, by name, in plain words."""
    lines: dict[str, str] = {}
    inside, names, indent = False, [""], 0
    for text in inspect.cleandoc(docstring).splitlines():
        if re.fullmatch(r"[A-Z]\w+:", text):
            inside = text in ("Attributes:", "Args:")
        elif inside and (match := re.match(r"( +)([\w, ]+?): (.*)", text)) and len(match[1]) <= (indent or 4):
            names, indent = match[2].split(", "), len(match[1])
            lines |= dict.fromkeys(names, match[3])
        elif inside and text.strip():
            lines |= {name: f"{lines.get(name, '')} {text.strip()}".strip() for name in names}
    return {name: plain(line) for name, line in lines.items() if name}


def plain(text: str) -> str:
    """Without the marks of reStructuredText, and without a full stop behind a single sentence."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"\1", text).replace("``", "").strip()
    return text.removesuffix(".") if ". " not in text else text


@cache
def assigned(module: str, name: str) -> ast.expr | None:
    """What a module gives a name, unevaluated; looked up where it is imported from."""
    tree = _tree(module)
    for node in tree.body if tree else ():
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return getattr(node, "value", None)
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return assigned(node.module, alias.name)
    return None


@cache
def _source(module: str) -> str | None:
    path = ROOT.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file.read_text(encoding="utf-8")
    return None


@cache
def _tree(module: str) -> ast.Module | None:
    source = _source(module)
    return None if source is None else ast.parse(source)


def _fields(node: ast.ClassDef, home: str) -> Iterator[tuple[str, str, str | None, str]]:
    """The fields of a dataclass: name, type, default, and the comment right above."""
    source = (_source(home) or "").splitlines()
    for part in node.body:
        if not isinstance(part, ast.AnnAssign) or not isinstance(part.target, ast.Name):
            continue
        type_ = ast.unparse(part.annotation)
        if type_.startswith("ClassVar"):
            continue
        above = source[part.lineno - 2].strip()
        comment = plain(above.removeprefix("#")) if above.startswith("#") else ""
        yield part.target.id, type_, _default(part.value, home), comment


def _arguments(node: ast.ClassDef, home: str) -> Iterator[tuple[str, str, str | None, str]]:
    """The arguments of a class that is not a dataclass."""
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            arguments = part.args.args[1:]
            defaults = [None] * (len(arguments) - len(part.args.defaults)) + part.args.defaults
            for argument, default in zip(arguments, defaults, strict=True):
                yield argument.arg, ast.unparse(argument.annotation or ast.Name("Any")), _default(default, home), ""


def _default(value: ast.expr | None, home: str) -> str | None:
    """A default as it would be typed; None for what must be given, and for what a class of settings makes."""
    if isinstance(value, ast.Call):
        factory = next((ast.unparse(word.value) for word in value.keywords if word.arg == "default_factory"), "")
        return {"list": "[]", "dict": "{}"}.get(factory)
    if value is None or (isinstance(value, ast.Name) and value.id == "MISSING"):
        return None
    if isinstance(value, ast.Constant):
        known = {None: "null", True: "true", False: "false"}
        return known[value.value] if value.value is None or isinstance(value.value, bool) else str(value.value)
    if isinstance(value, ast.Tuple | ast.List):
        return f"[{', '.join(str(_default(part, home)) for part in value.elts)}]"
    if isinstance(value, ast.Name) and (named := assigned(home, value.id)) is not None:
        return _default(named, home)
    return ast.unparse(value)
