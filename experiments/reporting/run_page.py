"""The page of one run: what it found, how it went, where it comes from, and how to go on; one file, no network.

Each part is plain values here and laid out in ``run.html.j2``, which takes everything for text.
"""

import base64
import io
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from core.checkpoint import write_text
from core.progress import say
from core.result import ResultRow
from experiments.config.groups import DATA
from experiments.reporting.bars import quantisation_part, widths_part
from experiments.reporting.charts import stage_charts
from experiments.reporting.columns import COLUMNS, POCKET_NOTE, count, known_columns, pocket_teachers, share, size
from experiments.reporting.pages import link, render
from experiments.reporting.run_record import PAGE, RunRecord, read_run
from experiments.reporting.run_report import COST, PROTOCOL, QUALITY, TRAINING, conditions, figures, heading
from experiments.result_file import command_of

IMAGE = "masks.png"
MOST_BYTES = 2_000_000
"""Of an image as it is; a larger one is made smaller, to a width of :data:`WIDTH` pixels."""
WIDTH = 1600
QUANTISED_NOTE = (
    "latencies are PyTorch's, which computes with the numbers that codes stand for; exported files use integers"
)
FILES = {
    "result.json": "rows, settings, provenance and hashes",
    "failed.json": "what a failed run leaves instead: its reason, settings and provenance",
    "student.safetensors": "the student: weights, shape and facts of its making",
    "masks.png": "example masks of teacher and student",
    "metrics.csv": "what was logged while it trained: stage, step, metric, value",
    "quantisation.json": "signal to noise of every quantised layer",
    "calibration.safetensors": "grids of a calibration, from which a stopped one goes on",
    "sensitivity.safetensors": "likewise of the measurement by which method.budget chooses layers",
    "layer_times.json": "milliseconds of each layer, by which method.budget_of=milliseconds chooses",
    "instances.jsonl": "one record an instance, from which any average can be made anew",
}
ENDINGS = {
    ".jsonl": "log of a stage, a line an entry",
    ".state": "what a stopped stage goes on from",
    "_pruned.safetensors": "the cut encoder before it is distilled",
}
"""What files of other names are, by their endings."""
_CARDS = ("parameters", "macs_full", "macs_modules", "size_bytes", "encoder_latency_ms", "decoder_latency_ms")
_OF_ROW = ("run_id", "schema_version", "skipped", "axes", "float_macs")


def run_page(path: Path, at: Path | None = None) -> str:
    """The page of a run, of a failed run, of an evaluation, or of a committed result file.

    Args:
        path: ``result.json`` or ``failed.json`` in a run's own folder, whose logs, images and ``quantisation.json``
            are shown too, as far as they can be read; or a result file of another name, of which only its own
            content is.
        at: the folder the page will lie in, from which files are linked; None: beside the result file.

    Raises:
        InputError: the result file is damaged.
    """
    record = read_run(path)
    parts: list[tuple[str, str, Callable[[RunRecord], Any]]] = [
        ("comparison", "Comparison", _comparison),
        ("protocols", "Protocol", _protocols),
        ("masks", "Example masks", lambda run: None if run.folder is None else image_data(run.folder / IMAGE)),
        ("curves", "Training", lambda run: [stage_charts(stage) for stage in run.stages if stage.series]),
        ("widths", "Widths", lambda run: widths_part(run.mapping("widths"))),
        ("quantisation", "Quantisation", lambda run: quantisation_part(run.quantisation)),
        ("next", "How to go on", _next),
        ("provenance", "Provenance", _provenance),
        ("settings", "Settings", lambda run: as_yaml(run.mapping("config"))),
        ("files", "Files", lambda run: _files(run, at or path.parent)),
    ]
    shown = []
    for name, title, make in parts:
        try:
            shown.append({"name": name, "title": title, "data": make(record), "problem": ""})
        except Exception as error:
            # A damaged file hides no other part.
            reason = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
            shown.append({"name": name, "title": title, "data": None, "problem": reason})
    row = record.student
    return render(
        "run.html.j2",
        _name(record),
        ["style.css", "run.css"],
        about=_about(row),
        failure=(row.reason or "no reason was kept") if row.status == "failed" else "",
        conditions=_conditions(record),
        notes=[
            *record.problems,
            *([QUANTISED_NOTE] if row.status == "finished" and row.weight_bits is not None else []),
            *([POCKET_NOTE] if pocket_teachers(one.teacher for one in record.rows) else []),
        ],
        cards=_cards(record),
        sections=[part for part in shown if part["data"] or part["problem"]],
    )


def write_run_page(path: Path) -> None:
    """Write ``report.html`` beside a result file, atomically. What keeps a page from being made stops nothing.

    A run is finished by its result; why a page could not be made stands in one line on standard error.
    """
    try:
        write_text(path.parent / PAGE, run_page(path))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        say(f"{path.parent / PAGE} was not written ({reason}); the result is not affected")


def _name(record: RunRecord) -> str:
    row = record.student
    if record.evaluated:
        return f"{row.student or row.teacher or row.method} on {row.data}"
    return row.run_id or record.source.stem


def _about(row: ResultRow) -> str:
    """What made the model, in a line."""
    parts = [row.method]
    parts += [f"ratio {row.ratio:g}"] if row.ratio is not None else []
    parts += [f"teacher {row.teacher}"] if row.teacher else []
    parts += [f"named {row.variant}"] if row.variant else []
    parts += [f"seed {row.seed}"] if row.seed is not None else []
    return ", ".join(parts)


def _conditions(record: RunRecord) -> str:
    """What was measured on what."""
    protocols = {row.protocol for row in record.rows if row.protocol}
    if len(protocols) < 2:
        return conditions(record.rows)
    row = record.student
    on = f"{len(protocols)} protocols on {row.data}: {row.images or 0:,} images"
    return ", ".join(str(part) for part in (on, row.device, row.precision) if part)


def _cards(record: RunRecord) -> list[dict[str, Any]]:
    """The student's main figures, each with the teacher's where there is one."""
    row, teacher = record.student, record.teacher
    if record.is_by_protocol:
        scores = [(one, "ap" if one.ap is not None else "miou") for one in record.rows[:4]]
        cards = [_card(f"{COLUMNS[name].label}, {one.protocol}", one, None, name) for one, name in scores]
    else:
        cards = [_card("mIoU, box", row, teacher, "miou"), _card("mIoU, one point", row, teacher, "miou_point")]
    if row.weight_bits is not None:
        operations = "" if row.bit_operations is None else f"{count(row.bit_operations)} bit operations"
        bits = f"W{row.weight_bits}A{row.activation_bits}"
        beside = [("", operations), *([("simulated", row.simulated)] if row.simulated else [])]
        cards.append({"label": "bits", "value": bits, "raw": row.bit_operations, "beside": beside})
    cards += [_card(COLUMNS[name].label, row, teacher, name) for name in _CARDS]
    return [card for card in cards if card is not None]


def _card(label: str, row: ResultRow, teacher: ResultRow | None, name: str) -> dict[str, Any] | None:
    value = getattr(row, name)
    if value is None:
        return None
    reference = None if teacher is None else getattr(teacher, name)
    # Of a time the ratio over rounds, as in the table and the leaderboard: a quotient of two medians is another figure.
    in_turns = getattr(row, f"{name.removesuffix('_ms')}_ratio", None)
    # Each line: what is emphasised, and the rest.
    beside: list[tuple[str, str]] = []
    if reference is not None:
        beside.append(("", f"teacher {COLUMNS[name].shown(reference)}"))
        if name.startswith(("miou", "ap")):
            beside.append((f"{100 * (value - reference):+.2f} points", ""))
        elif in_turns is not None:
            beside.append((f"{100 * in_turns:.3g} %", "of it, in turns"))
        elif reference:
            beside.append((f"{100 * value / reference:.3g} %", "of it"))
    elif name == "miou" and row.miou_low is not None and row.miou_high is not None:
        beside.append(("", f"95 %: {share(row.miou_low)} to {share(row.miou_high)}"))
    if name.endswith("_ms") and row.device:
        beside.append(("", row.device))
    return {"label": label, "value": COLUMNS[name].shown(value), "raw": value, "beside": beside}


def _comparison(record: RunRecord) -> dict[str, Any] | None:
    """All rows side by side (under several protocols a column for each), then every column as it stands in the file."""
    rows = record.ordered
    if record.is_by_protocol:
        heads, lines = [str(row.protocol) for row in rows], figures(rows, PROTOCOL)
    else:
        heads = [heading(row).replace("\n", " ") for row in rows]
        groups = (QUALITY, COST, TRAINING)
        lines = [line for names in groups for line in figures(rows, names, record.teacher)]
    names = [name for name in known_columns([vars(row) for row in rows]) if name not in _OF_ROW]
    raw = [(name, [getattr(row, name) for row in rows]) for name in names]
    return {"heads": heads, "lines": lines, "raw_heads": [str(row.student or row.method) for row in rows], "raw": raw}


def _protocols(record: RunRecord) -> dict[str, Any] | None:
    """Every choice behind each protocol, and what the rules left out; nothing where rows do not say."""
    rows = [row for row in record.rows if row.axes] if record.is_by_protocol else []
    names = [name for name in dict.fromkeys(name for row in rows for name in row.axes or {}) if name != "name"]
    lines = [(name.replace("_", " "), [(row.axes or {}).get(name, "") for row in rows]) for name in names]
    left_out = ", ".join(f"{reason} {number:,}" for reason, number in record.student.skipped.items())
    found = {"heads": [str(row.protocol) for row in rows], "lines": lines, "left_out": left_out}
    return found if lines or left_out else None


def image_data(path: Path) -> str:
    """An image as an address that holds it; nothing where there is none.

    Raises:
        ValueError: the file is no PNG, or is damaged.
    """
    if not path.is_file():
        return ""
    content, kind = path.read_bytes(), "png"
    if not content.startswith(b"\x89PNG"):
        raise ValueError("no PNG file")
    if len(content) > MOST_BYTES:
        content, kind = _smaller(content), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _smaller(content: bytes) -> bytes:
    # Here, because most pages need no Pillow.
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            shown = image.convert("RGBA")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from None
    ground = Image.new("RGB", shown.size, "white")
    ground.paste(shown, mask=shown.getchannel("A"))
    ground.thumbnail((WIDTH, 4 * WIDTH))
    stream = io.BytesIO()
    ground.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def _next(record: RunRecord) -> list[tuple[str, str]]:
    """Commands that take the student further, each with what it does."""
    row = record.student
    runs, name = record.mapping("config").get("runs", "runs"), row.run_id
    if row.status != "finished" or name is None:
        return []
    student = shlex.quote(f"{runs}/{name}/student.safetensors")
    data = record.mapping("config", "evaluation", "data")
    name_of_data = next((name for name, schema in DATA.items() if schema()._target_ == data.get("_target_")), "shapes")
    scored = f"evaluation={name_of_data}_box"
    root = " " + shlex.quote(f"data.root={data['root']}") if data.get("root") else ""
    commands = [
        ("score it under other protocols", f"evaluate checkpoint={student} {scored}{root}"),
        ("masks of an image", f"predict checkpoint={student} image=photo.jpg box=[120,90,560,470]"),
    ]
    if row.weight_bits is None or (row.weight_bits == row.activation_bits == 8 and row.simulated is None):
        int8 = "" if row.weight_bits is None else " precision=int8"
        out = shlex.quote(f"{name}-onnx")
        commands.append(("files for ONNX Runtime", f"export checkpoint={student} to=onnx{int8} out={out}"))
    widths = record.mapping("widths", "student")
    if row.weight_bits is None and widths.get("kind") == "vit":
        of_blocks = [widths.get(key) for key in ("attention", "mlp")]
        uniform = all(isinstance(part, list) and len(set(map(str, part))) == 1 for part in of_blocks)
        what, to, out = ("Meta's layout", "meta", f"{name}.pth")
        if uniform:
            what, to, out = ("a folder for Hugging Face's SamModel", "hf", f"{name}-hf")
        commands.append((what, f"convert checkpoint={student} to={to} out={shlex.quote(out)}"))
    if row.weight_bits is None:
        commands.append(("quantise it to 8 bits", f"method=ptq method.init={student}"))
    return [(what, f"python -m experiments {line}") for what, line in commands]


def _provenance(record: RunRecord) -> dict[str, Any]:
    """Code, versions, machine and hashes."""
    known = record.mapping("provenance")
    versions = record.mapping("provenance", "versions")
    dirty = ", with changes that are not committed" if known.get("git_dirty") is True else ""
    lines = {
        "date": known.get("utc"),
        "revision": f"{known['git_sha']}{dirty}" if known.get("git_sha") else record.student.git_sha,
        "device": known.get("device") or record.student.device,
        "platform": known.get("platform"),
        "CUDA of PyTorch": known.get("cuda"),
        "processor cores": known.get("cpu_count"),
        "threads": known.get("threads"),
        "load average of the last minute": known.get("load_average"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or None,
        **{key.replace("_", " "): value for key, value in record.about.items() if isinstance(value, str)},
        "constraints sha256": known.get("constraints_sha256"),
    }
    facts = [(key, value) for key, value in lines.items() if value is not None]
    return {"command": command_of(record.about, record.evaluated) or "", "facts": facts}


class _Yaml(yaml.SafeDumper):
    """Lists in one line."""


_Yaml.add_representer(list, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, True))


def as_yaml(settings: Mapping[str, Any]) -> str:
    """Settings as YAML, in the order of the file; nothing where there are none."""
    return yaml.dump(dict(settings), Dumper=_Yaml, sort_keys=False, allow_unicode=True, width=110) if settings else ""


def _files(record: RunRecord, at: Path) -> dict[str, Any]:
    """What lies in the run's folder, with sizes, linked from a page in the folder ``at``."""
    lines: Sequence[Any] = ()
    if record.folder is not None:
        paths = [
            path for path in sorted(record.folder.iterdir()) if not path.name.startswith(".") and path.name != PAGE
        ]
        lines = [
            (
                path.name,
                link(path, at),
                _size(path),
                FILES.get(path.name) or next((what for end, what in ENDINGS.items() if path.name.endswith(end)), ""),
            )
            for path in paths
        ]
    return {"source": record.source.name, "lines": lines}


def _size(path: Path) -> str:
    if path.is_dir():
        return "folder"
    number = path.stat().st_size
    return size(number) if number >= 1e5 else f"{number:,} bytes"
