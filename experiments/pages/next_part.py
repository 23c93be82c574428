"""What can be done with a run's student, as commands."""

import shlex
from collections.abc import Mapping, Sequence

from experiments.pages.page import text
from experiments.pages.run_record import RunRecord

_SCORED = {"data.shapes.Shapes": "shapes", "data.coco.Coco": "coco", "data.lvis.Lvis": "lvis", "data.sa1b.Sa1b": "sa1b"}
"""Names of evaluations, by the class of the data that were scored."""


def next_part(record: RunRecord) -> str:
    """Commands that take the student further."""
    row = record.student
    runs, name = record.mapping("config").get("runs", "runs"), row.run_id
    if row.status != "finished" or name is None:
        return ""
    student = shlex.quote(f"{runs}/{name}/student.safetensors")
    commands = [
        ("score it under other protocols", f"evaluate checkpoint={student} {_data(record)}"),
        ("masks of a picture", f"predict checkpoint={student} image=photo.jpg box=[120,90,560,470]"),
    ]
    method = record.mapping("config").get("method")
    twin = isinstance(method, Mapping) and method.get("twin")
    # Runtimes compute in eight bits, and know no twin grids.
    if row.weight_bits is None or (row.weight_bits == row.activation_bits == 8 and not twin):
        int8 = "" if row.weight_bits is None else " precision=int8"
        onnx = shlex.quote(f"{name}-onnx")
        commands.append(("files for ONNX Runtime", f"export checkpoint={student} to=onnx{int8} out={onnx}"))
    commands += _conversion(record, student, name)
    if row.weight_bits is None:
        commands.append(("quantise it to 8 bits", f"method=ptq method.init={student}"))
    return "".join(
        f"<p>{text(what)}</p><pre class='command'>python -m experiments {text(line)}</pre>" for what, line in commands
    )


def _data(record: RunRecord) -> str:
    """The evaluation on the data that were scored."""
    evaluation = record.mapping("config").get("evaluation")
    data = evaluation.get("data") if isinstance(evaluation, Mapping) else None
    data = data if isinstance(data, Mapping) else {}
    words = [f"evaluation={_SCORED.get(str(data.get('_target_')), 'shapes')}_box"]
    if data.get("root"):
        words.append(shlex.quote(f"data.root={data['root']}"))
    return " ".join(words)


def _conversion(record: RunRecord, student: str, name: str) -> Sequence[tuple[str, str]]:
    """Another project's layout, where there is one for this shape."""
    widths = record.mapping("widths").get("student")
    if record.student.weight_bits is not None or not isinstance(widths, Mapping) or widths.get("kind") != "vit":
        return ()
    uniform = all(isinstance(widths.get(k), list) and len(set(map(str, widths[k]))) == 1 for k in ("attention", "mlp"))
    if uniform:
        folder = shlex.quote(f"{name}-hf")
        return (("a folder for Hugging Face's SamModel", f"convert checkpoint={student} to=hf out={folder}"),)
    return (("Meta's layout", f"convert checkpoint={student} to=meta out={shlex.quote(f'{name}.pth')}"),)
