"""How wrong each quantised layer is, as bars in the order of the network."""

from collections.abc import Mapping
from typing import Any

from experiments.pages.bars import bar
from experiments.pages.page import text

WORST = 3
"""Layers that are named above the table."""


def quantisation_part(quantisation: Mapping[str, Any] | None) -> str:
    """Bars of ``quantisation.json``, whose lines :func:`compressors.quantize.layer_errors.layer_error` makes.

    Returns:
        HTML; nothing where there is no such file.

    Raises:
        ValueError: it is not what a calibration writes.
    """
    if quantisation is None:
        return ""
    try:
        return _shown(quantisation)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _shown(quantisation: Mapping[str, Any]) -> str:
    layers = quantisation["layers"]
    known = {
        key: [layer[key] for layer in layers if layer[key] is not None] for key in ("weight_sqnr_db", "output_sqnr_db")
    }
    most = max((max(values) for values in known.values() if values), default=0.0)
    lines = []
    for layer in layers:
        weight, given = layer["weight_bits"], layer["activation_bits"]
        bits = f"{'-' if weight is None else f'W{weight}'} {'float' if given is None else f'A{given}'}"
        lines.append(
            f"<tr><th>{text(layer['layer'])}</th>"
            f"<td>{_decibels(layer['output_sqnr_db'], most, 0)}</td>"
            f"<td>{_decibels(layer['weight_sqnr_db'], most, 7)}</td>"
            f"<td>{text(bits)}</td><td>{text(layer['kind'])}</td></tr>"
        )
    outputs = [layer for layer in layers if layer["output_sqnr_db"] is not None]
    worst = sorted(outputs, key=lambda layer: (layer["output_sqnr_db"], layer["layer"]))[:WORST]
    named = ", ".join(f"<code>{text(layer['layer'])}</code> ({layer['output_sqnr_db']:.1f} dB)" for layer in worst)
    order = quantisation.get("order")
    through = "; layers see what the quantised ones before them give, whose error is in theirs" * (
        order == "sequential"
    )
    return (
        "<p>Signal to quantisation noise, in decibels: more is better, and 20 more is a tenth of the error. "
        f"{len(layers):,} layers on {text(quantisation.get('pictures'))} calibration pictures, grids judged by "
        f"{text(quantisation.get('metric'))}{through}.{f' Worst outputs: {named}.' if named else ''}</p>"
        '<div class="scroll tall" tabindex="0"><table class="bars"><thead><tr><th>layer</th><th>output</th>'
        f"<th>weight</th><th>bits</th><th>kind</th></tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _decibels(value: float | None, most: float, colour: int) -> str:
    if value is None:
        return '<span class="quiet">-</span>'
    return bar(value, most, f"{value:.1f} dB", colour=colour)
