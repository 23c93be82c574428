"""The text of ``--help``, with every choice that ``conf/`` offers."""

from experiments.schema import CONF
from students.catalog import RELEASED

_HEAD = """usage: python -m experiments [evaluate|cost|convert|export|predict|everything|compare|table|leaderboard]
                             [key=value ...] [-m] [--cfg job]

Compress the Segment Anything Model, and measure what that costs and keeps.

commands
  (none)        compress a teacher by a method, score both, write runs/<run_id>/ and the leaderboard
  evaluate      score one model: checkpoint=NAME|FILE, or an exported folder (runtime=onnxruntime|openvino)
  cost          parameters and MACs of a teacher and its student, without weights or data
  convert       write a checkpoint in another layout: checkpoint=NAME|FILE to=hf|meta|mobile_sam|sampress out=PATH
  export        write a model for another runtime: checkpoint=NAME|FILE to=onnx|openvino|torch
                precision=fp32|bf16|int8 out=FOLDER
  predict       masks of one picture: checkpoint=NAME|FILE image=FILE box=[x0,y0,x1,y1] points=[[x,y],...] out=FOLDER
  everything    all masks of pictures: checkpoint=NAME|FILE image=FILE|FOLDER out=FOLDER
                (or how good they are: evaluation=shapes instead of image)
  compare       two evaluations, instance by instance: FOLDER FOLDER, or first=FOLDER second=FOLDER
                (count=N protocol=NAME; out=FOLDER: all pairs, a page and pictures of the extremes)
  table         measured rows, seeds together, and published figures: protocol=NAME data=NAME runs=FOLDER|none
                results=true|false format=table|csv|markdown|latex|json out=FILE
  leaderboard   put all finished runs into runs/leaderboard.csv and show them
"""
_TAIL = """
checkpoint=... (evaluate, convert, export, predict, everything)
  a file or folder, recognised by what is in it; a model of the catalogue; or a released one:
  {released}

settings (every command: format=table|json, runs=FOLDER)
  ratio=R       share of the channels to cut, in (0, 1)
  seed=N        of everything random; default 0
  cache=MODE    of the teacher's embeddings: disk (shared by all runs), memory (of this run), off
  force=true    start this run over
  name=TEXT     first part of the run's name
  -m            run every combination of values given as a,b,c
  --cfg job     show all settings, with the choices made, and stop

examples
  python -m experiments method=slimsam ratio=0.77
  python -m experiments method=slimsam ratio=0.77 then=ptq
  python -m experiments -m method=slimsam,scratch ratio=0.5,0.77 seed=0,1
  python -m experiments evaluate checkpoint=sam_pocket evaluation=coco data.root=FOLDER
  python -m experiments everything experiment=everything_pocket checkpoint=sam_pocket image=photo.jpg out=FOLDER"""
_GROUPS = ("method", "then", "student", "teacher", "data", "evaluation", "engine", "generator", "variant", "experiment")


def help_text() -> str:
    """Commands, every choice with its line, settings and examples."""
    parts = [_HEAD]
    for group in _GROUPS:
        lines = [f"  {name:<22}  {line}" for name, line in choices(group).items()]
        parts.append("\n".join([f"{group}=...", *lines, ""]))
    return "\n".join(parts) + _TAIL.format(released=", ".join(RELEASED))


def choices(group: str) -> dict[str, str]:
    """The files of a group of ``conf/``, each with what its first comment says."""
    return {
        path.stem: _first_comment(path.read_text(encoding="utf-8")) for path in sorted((CONF / group).glob("*.yaml"))
    }


def _first_comment(text: str) -> str:
    comments = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]
    return next((comment for comment in comments if not comment.startswith("@package")), "")
