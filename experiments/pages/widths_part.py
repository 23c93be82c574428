"""How wide the student is, block by block, as bars within its teacher's outlines."""

from collections.abc import Mapping
from typing import Any

from experiments.pages.bars import bar
from experiments.pages.page import text
from experiments.report import count


def widths_part(widths: Mapping[str, Any]) -> str:
    """Bars for each block and each part.

    Args:
        widths: ``teacher`` and ``student``, each as :func:`experiments.widths.widths_of` gives them.

    Returns:
        HTML; nothing where the file holds no widths.

    Raises:
        ValueError: they are not what ``widths_of`` gives.
    """
    if not widths:
        return ""
    try:
        teacher, student = widths["teacher"], widths["student"]
        said = f"<p>{_said('Teacher', teacher)} {_said('Student', student)}</p>"
        blocks = _blocks(teacher, student) if teacher["kind"] == student["kind"] == "vit" else ""
        return said + blocks + _parts(teacher["parts"], student["parts"])
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _said(who: str, widths: Mapping[str, Any]) -> str:
    """One sentence on an encoder."""
    if widths["kind"] == "vit":
        blocks, heads = len(widths["attention"]), widths["heads"]
        return text(f"{who}: ViT, embedding {widths['embedding']:,}, {blocks} blocks, {heads} heads.")
    kind = {"tiny_vit": "TinyViT", "timm": "a backbone of timm"}.get(widths["kind"], widths["kind"])
    sizes = ", ".join(f"{channels:,}" for channels in widths["channels"])
    where = "stage" if "depths" in widths else "feature map"
    depths = f"; blocks by stage {', '.join(map(str, widths['depths']))}" if "depths" in widths else ""
    return text(f"{who}: {kind}, channels by {where} {sizes}{depths}.")


def _blocks(teacher: Mapping[str, Any], student: Mapping[str, Any]) -> str:
    """Attention and MLP of each block of two ViTs."""
    lines = []
    wide = {key: max(*teacher[key], *student[key]) for key in ("attention", "mlp")}
    pairs = zip(student["attention"], teacher["attention"], student["mlp"], teacher["mlp"], strict=True)
    for number, (attention, whole_attention, mlp, whole_mlp) in enumerate(pairs):
        heads = student["heads"]
        told = f"{heads} × {attention // heads} of {teacher['heads']} × {whole_attention // teacher['heads']}"
        lines.append(
            f"<tr><th>{number}</th><td>{bar(attention, wide['attention'], told, whole_attention)}</td>"
            f"<td>{bar(mlp, wide['mlp'], f'{mlp:,} of {whole_mlp:,}', whole_mlp)}</td></tr>"
        )
    head = "<th>block</th><th>attention, heads × dimension</th><th>MLP</th>"
    return (
        f"<h3>Width of each block</h3>{KEY}<div class='scroll' tabindex='0'><table class='bars'><thead><tr>{head}</tr>"
        f"</thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


KEY = (
    '<p class="quiet small"><span class="bar key"><i class="fill" style="width:55%;background:var(--c0)"></i>'
    '<i class="outline" style="width:100%"></i></span> filled: student; outline: teacher</p>'
)


def _parts(teacher: Mapping[str, int], student: Mapping[str, int]) -> str:
    """Parameters by part: one table where both have the same parts, else one each, to the same scale."""
    most = max(*teacher.values(), *student.values())
    if list(teacher) == list(student):
        lines = "".join(
            f"<tr><th>{_name(name)}</th><td>{bar(n, most, f'{count(n)} of {count(whole)}', whole)}</td></tr>"
            for (name, n), whole in zip(student.items(), teacher.values(), strict=True)
        )
        return f"<h3>Parameters of each part</h3>{KEY}{_table('part', 'parameters', lines)}"
    tables = []
    for who, parts, colour in (("teacher", teacher, 7), ("student", student, 0)):
        lines = "".join(
            f"<tr><th>{_name(name)}</th><td>{bar(n, most, count(n), colour=colour)}</td></tr>"
            for name, n in parts.items()
        )
        tables.append(f"<div>{_table(f'part of the {who}', 'parameters', lines)}</div>")
    return f"<h3>Parameters of each part</h3><div class='beside-each-other'>{''.join(tables)}</div>"


def _name(name: str) -> str:
    return text(name.replace("_", " "))


def _table(first: str, second: str, lines: str) -> str:
    return (
        f"<div class='scroll' tabindex='0'><table class='bars'><thead><tr><th>{text(first)}</th><th>{text(second)}</th>"
        f"</tr></thead><tbody>{lines}</tbody></table></div>"
    )
