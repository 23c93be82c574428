"""A number as a bar: plain HTML in a table's cell, readable without colours and on a phone."""

from experiments.pages.page import text


def bar(value: float, most: float, told: str, outline: float | None = None, colour: int = 0) -> str:
    """A filled bar and its number in words.

    Args:
        value: its length, of ``most`` at full length; below 0 no bar is drawn.
        most: of all bars beside it; nothing is drawn if it is not above 0.
        told: plain text beside the bar.
        outline: length of an empty bar around it, such as the teacher's.
        colour: number of one of the page's colours.
    """
    parts = [f'<i class="fill" style="width:{_share(value, most)};background:var(--c{colour})"></i>']
    if outline is not None:
        parts.append(f'<i class="outline" style="width:{_share(outline, most)}"></i>')
    return f'<span class="bar" aria-hidden="true">{"".join(parts)}</span><span class="told">{text(told)}</span>'


def _share(value: float, most: float) -> str:
    return f"{100 * min(max(value / most, 0.0), 1.0):.4g}%" if most > 0 else "0%"
