"""How wide a student is beside its teacher, and how wrong its quantised layers are, as bars."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from experiments.reporting.charts import line_chart
from experiments.reporting.columns import count

WORST = 3
"""Quantised layers that are named above their table."""


def bar(value: float, most: float, words: str, outline: float | None = None, colour: int = 0) -> dict[str, Any]:
    """A filled bar and its number in words.

    Args:
        value: its length, of ``most`` at full length; below 0 no bar is drawn, nor if ``most`` is not above 0.
        outline: length of an empty bar around it, such as the teacher's.
        colour: number of one of the page's colours.
    """

    def length(part: float) -> str:
        return f"{100 * min(max(part / most, 0.0), 1.0):.4g}%" if most > 0 else "0%"

    around = None if outline is None else length(outline)
    return {"fill": length(value), "outline": around, "words": words, "colour": colour}


def widths_part(widths: Mapping[str, Any]) -> dict[str, Any] | None:
    """How wide the student is, block by block and part by part, within its teacher's outlines.

    Args:
        widths: ``teacher`` and ``student``, each as :func:`experiments.widths.widths_of` gives them.
    """
    if not widths:
        return None
    teacher, student = widths["teacher"], widths["student"]
    blocks = []
    if teacher["kind"] == student["kind"] == "vit":
        most = {key: max(*teacher[key], *student[key]) for key in ("attention", "mlp")}
        pairs = zip(student["attention"], teacher["attention"], student["mlp"], teacher["mlp"], strict=True)
        for attention, full_attention, mlp, full_mlp in pairs:
            heads = [(n, part // n) for n, part in ((student["heads"], attention), (teacher["heads"], full_attention))]
            words = " of ".join(f"{number} × {width}" for number, width in heads)
            blocks.append(
                (
                    bar(attention, most["attention"], words, full_attention),
                    bar(mlp, most["mlp"], f"{mlp:,} of {full_mlp:,}", full_mlp),
                )
            )
    own, full = student["parts"], teacher["parts"]
    most_parameters = max(*own.values(), *full.values())
    if list(own) == list(full):
        bars = [bar(n, most_parameters, f"{count(n)} of {count(full[name])}", full[name]) for name, n in own.items()]
        parts = [("part", list(zip(own, bars, strict=True)))]
    else:
        # One table each, to the same scale.
        parts = [
            (f"part of the {who}", [(name, bar(n, most_parameters, count(n), colour=c)) for name, n in of.items()])
            for who, of, c in (("teacher", full, 7), ("student", own, 0))
        ]
    about = f"{_encoder('Teacher', teacher)} {_encoder('Student', student)}"
    return {"about": about, "blocks": blocks, "parts": parts}


def _encoder(who: str, widths: Mapping[str, Any]) -> str:
    """One sentence on an encoder."""
    if widths["kind"] == "vit":
        blocks, heads = len(widths["attention"]), widths["heads"]
        return f"{who}: ViT, embedding {widths['embedding']:,}, {blocks} blocks, {heads} heads."
    names = {"tiny_vit": "TinyViT", "timm": "a backbone of timm", "hiera": "Hiera"}
    kind = names.get(widths["kind"].removesuffix("_maps"), widths["kind"])
    sizes = ", ".join(f"{channels:,}" for channels in widths["channels"])
    where = "stage" if "depths" in widths else "feature map"
    depths = f"; blocks by stage {', '.join(map(str, widths['depths']))}" if "depths" in widths else ""
    return f"{who}: {kind}, channels by {where} {sizes}{depths}."


def quantisation_part(quantisation: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """How wrong each quantised layer is, from ``quantisation.json`` (:mod:`compressors.quantize.layer_errors`)."""
    if quantisation is None:
        return None
    layers, keys = quantisation["layers"], ("output_sqnr_db", "weight_sqnr_db")
    most = max((layer[key] for layer in layers for key in keys if layer[key] is not None), default=0.0)
    lines = []
    for layer in layers:
        weight, activation = layer["weight_bits"], layer["activation_bits"]
        bits = f"{'-' if weight is None else f'W{weight}'} {'float' if activation is None else f'A{activation}'}"
        bars = [
            None if layer[key] is None else bar(layer[key], most, f"{layer[key]:.1f} dB", colour=colour)
            for key, colour in zip(keys, (0, 7), strict=True)
        ]
        lines.append({"name": layer["layer"], "bars": bars, "bits": bits, "kind": layer["kind"]})
    outputs = [(layer["output_sqnr_db"], layer["layer"]) for layer in layers if layer["output_sqnr_db"] is not None]
    worst = [(name, f"{value:.1f} dB") for value, name in sorted(outputs)[:WORST]]
    # Files of earlier versions call them pictures.
    images = quantisation.get("images", quantisation.get("pictures"))
    judged = f"{images} calibration images, grids judged by {quantisation.get('metric')}"
    about = f"{len(layers):,} layers on {judged}"
    if quantisation.get("order") == "sequential":
        about += "; layers see what the quantised ones before them give, whose error is in theirs"
    mixed = quantisation.get("mixed_precision")
    return {"about": about, "worst": worst, "lines": lines, "mixed": None if mixed is None else _front(mixed)}


def _front(mixed: Mapping[str, Any]) -> dict[str, Any]:
    """What a budget buys, as a chart and a line."""
    start = (mixed["lowest"] / mixed["highest"], mixed["expected_loss"])
    # Files of earlier versions know one kind of budget.
    spent = [one.get("spent", one.get("bit_operations")) for one in mixed["front"]]
    losses = [one["expected_loss"] for one in mixed["front"]]
    points = [start, *zip((each / mixed["highest"] for each in spent), losses, strict=True)]
    # Without an upgrade the axis would have one place.
    chart = line_chart({"expected loss": [(100 * share, loss) for share, loss in points]}) if len(points) > 1 else None
    # A layer is on the front once for each width that it may get.
    layers = len({one["layer"] for one in mixed["front"]})
    chosen, of = len(mixed["chosen"]), mixed.get("of", "bit_operations")
    along = f"{of.replace('_', '-')}, % of eight bits everywhere"
    if of == "milliseconds":
        along = f"milliseconds of all layers in {mixed['runtime']}, % of those in float"
        about = (
            f"{chosen} of {layers} layers are float, within {mixed['budget']:.4g} ms of {mixed['runtime']} for all "
            f"layers ({mixed['lowest']:.3g} with eight bits everywhere, {mixed['highest']:.3g} in float)"
        )
    else:
        others = Counter(bits for bits in mixed.get("bits", {}).values() if bits < 8)
        between = "".join(f", {count} have {bits}" for bits, count in sorted(others.items(), reverse=True))
        about = (
            f"{chosen - others.total()} of {layers} layers have eight bits{between}, within "
            f"{100 * mixed['budget']:.4g} % of the {of.replace('_', '-')} that eight bits everywhere have"
        )
    return {"about": about, "along": along, "chart": chart and {"title": "loss expected of the other layers", **chart}}
