"""Completion as a shell does it: the script is loaded and its function called with the line that was typed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from compressors.distill.optimizer import OptimizerConfig
from evaluation.protocols import PROTOCOLS
from experiments.cli.command_line import main
from experiments.cli.completion.candidates import Candidates, candidates
from experiments.cli.completion.command import SHELLS, posix_tables, script
from experiments.config.files import choices
from experiments.config.schema import COMMANDS

SHELLS_HERE = {shell: shutil.which(shell) for shell in SHELLS}
_ASK = """
source "$1"
COMP_LINE=$2 COMP_POINT=${#2}
read -ra COMP_WORDS <<< "$COMP_LINE"
[[ $COMP_LINE == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
name=${COMP_WORDS[0]##*/}
function=$(complete -p "$name"); function=${function#* -F }; function=${function%% *}
"$function" "$name" "" ""
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def known() -> Candidates:
    return candidates()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all three scripts."""
    folder = tmp_path_factory.mktemp("scripts")
    for shell in SHELLS:
        (folder / shell).write_text(script(shell))
    return folder


def replies(file: Path, line: str, folder: Path, before: str = "") -> list[str]:
    """What bash would offer at the end of a line.

    Args:
        folder: where the user is.
        before: commands of the user's own before the script is loaded.
    """
    bash = SHELLS_HERE["bash"]
    if bash is None:
        pytest.skip("bash is not installed")
    done = subprocess.run(
        [bash, "--norc", "-c", before + _ASK, "bash", str(file), line],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C"},
        check=False,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return [reply for reply in done.stdout.splitlines() if reply]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_is_printed(shell: str, written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    output = capsys.readouterr()
    assert output.out == (written / shell).read_text() and not output.err


@pytest.mark.parametrize("shell", SHELLS)
def test_its_syntax(shell: str, written: Path) -> None:
    program = SHELLS_HERE[shell]
    if program is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([program, "-n", str(written / shell)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("sampress lead", ["leaderboard"]),
        ("sampress method=sl", ["slimsam"]),
        ("sampress met", None),
        ("sampress method=ptq method.weight_b", ["method.weight_bits="]),
        ("sampress method=mobilesam method.weight_b", []),
        ("sampress method.imp", ["method.importance=", "method.importance_images="]),
        ("sampress method=ptq method.metric=mi", ["minmax"]),
        ("sampress then=tinysam then.box", ["then.boxes="]),
        ("sampress data=coco data.ro", ["data.root="]),
        ("sampress data.ro", []),
        ("sampress -m method=slimsam,pt", ["slimsam,ptq"]),
        ("sampress force=", ["true", "false"]),
        ("sampress hydra/launcher=submitit_", ["submitit_local", "submitit_slurm"]),
        ("sampress table format=l", ["latex"]),
        ("sampress run format=", ["table", "json"]),
        ("sampress export to=", ["onnx", "openvino", "torch"]),
        ("sampress export precision=", ["fp32", "bf16", "int8", "w8", "w4"]),
        ("sampress latency precision=", ["float32", "bfloat16", "float16"]),
        ("sampress convert to=h", ["hf"]),
        ("sampress evaluate evaluation.protocols=[box_single@1,edge", ["[box_single@1,edgesam@2"]),
        ("sampress completion ", list(SHELLS)),
        ("sampress --", ["--help", "--cfg"]),
        ("python -m experiments cost teacher=sam_p", ["sam_photo", "sam_pocket"]),
        ("python3 -m experiments method=ti", ["tinysam"]),
        (".venv/bin/python -m experiments doc", ["doctor"]),
        ("torchrun --nproc-per-node=2 -m experiments evaluate evaluation=coco_cl", ["coco_clicks"]),
        ("python -m something method=sl", []),
        ("python fi", []),
        ("python ", []),
    ],
)
def test_what_bash_offers(line: str, offered: list[str] | None, written: Path, tmp_path: Path) -> None:
    found = replies(written / "bash", line, tmp_path)
    if offered is None:
        assert "method=" in found and all(reply.startswith("met") and reply.endswith("=") for reply in found)
    else:
        assert found == offered


def test_files_where_a_path_is_needed(written: Path, tmp_path: Path) -> None:
    (tmp_path / "coco data").mkdir()
    (tmp_path / "cobalt.json").touch()
    found = replies(written / "bash", "sampress evaluate data.root=co", tmp_path)
    assert sorted(found) == ["cobalt.json", "coco\\ data/"]
    found = replies(written / "bash", "sampress evaluate checkpoint=co", tmp_path)
    assert len(found) == 2
    assert replies(written / "bash", "sampress evaluate checkpoint=mob", tmp_path) == ["mobile_sam"]
    assert replies(written / "bash", "sampress method=ptq method.weights=co", tmp_path) == [], "no path, by its choices"


@pytest.mark.parametrize(
    ("name", "typed", "offered"),
    [
        ("coco data", "data.root=co", "coco\\ data/"),
        ("coco data", "data.root=coco\\ d", "coco\\ data/"),
        ("coco data", "data.root='coco d", "coco data/"),
        ("coco data", 'data.root="coco d', "coco data/"),
        ("coco data", "'data.root=coco d", "data.root=coco data/"),
        ("a,b", "data.root=a\\,", "a\\,b/"),
        ("a,b", "data.root=a,", "a\\,b/"),
        ("epoch=3", "data.root=epoch=", "3/"),
        ("epoch=3", "data.root=epoch\\=", "epoch=3/"),
        ("2024: x (1)", "data.root=2024:", "\\ x\\ \\(1\\)/"),
        ("it's", 'data.root="it', "it's/"),
    ],
)
def test_names_that_a_shell_would_take_apart(
    name: str, typed: str, offered: str, written: Path, tmp_path: Path
) -> None:
    (tmp_path / name).mkdir()
    assert replies(written / "bash", f"sampress evaluate {typed}", tmp_path) == [offered]


def test_bare_words_of_compare_are_folders(written: Path, tmp_path: Path) -> None:
    (tmp_path / "v1.0 b").mkdir()
    assert replies(written / "bash", "sampress compare v1", tmp_path) == ["v1.0\\ b/"]


def test_other_calls_of_python_keep_their_completion(written: Path, tmp_path: Path) -> None:
    own = '_mine() { COMPREPLY=("mine of $1"); }\ncomplete -F _mine python\n'
    assert replies(written / "bash", "python x", tmp_path, own) == ["mine of python"]
    assert replies(written / "bash", "python -m pip ", tmp_path, own) == ["mine of python"]
    assert replies(written / "bash", "python -m experiments method=sl", tmp_path, own) == ["slimsam"]
    twice = f'{own}source "$1"\n'
    assert replies(written / "bash", "python x", tmp_path, twice) == ["mine of python"], "loaded twice"


def test_words_are_whole_where_bash_does_not_split_them(written: Path, tmp_path: Path) -> None:
    assert replies(written / "bash", "sampress method=sl", tmp_path, "COMP_WORDBREAKS=' '\n") == ["method=slimsam"]


def test_every_command_key_and_choice_is_known(known: Candidates) -> None:
    assert known.commands == tuple(COMMANDS)
    for group in (
        "method",
        "teacher",
        "student",
        "data",
        "evaluation",
        "generator",
        "logger",
        "variant",
        "then",
        "lastly",
    ):
        assert known.values[group] == tuple(choices(group))
    assert known.values["evaluation.protocols"] == tuple(PROTOCOLS)
    assert {"ratio", "data.root", "evaluation.data.root", "method"} <= {*known.keys["run"], *known.below["data=coco"]}
    assert known.defaults["run method"] == "slimsam" and known.defaults["run logger"] == "csv"
    assert {"data.root", "image", "out", "runs", "checkpoint", "detections", "method.init"} <= set(known.paths)
    assert not {"method.weights", "method.annotations", "evaluation.images", "method.images"} & set(known.paths)


def test_values_are_those_that_the_program_takes(known: Candidates) -> None:
    keys = {key for keys in (*known.keys.values(), *known.below.values()) for key in keys}
    for key in known.values:
        command, _, name = key.rpartition(" ")
        assert name in known.keys[command] if command else name in keys, f"{key}: no such setting any more"
    for optimizer in known.values["method.optimisation.optimizer"]:
        for schedule in known.values["method.optimisation.schedule"]:
            assert OptimizerConfig(optimizer=optimizer, schedule=schedule).schedule == schedule


def test_a_name_that_a_shell_would_run_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    from core.errors import InputError

    with pytest.raises(InputError, match="rename it"):
        posix_tables(Candidates(("run", "$(reboot)"), {}, {}, {}, {}, ()))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["completion"], "shell is missing; give shell=bash, zsh or fish"),
        (["completion", "tcsh"], "shell=tcsh is unknown; choose one of bash, zsh, fish"),
        (["completion", "bash", "format=json"], "format=json: completion prints a script"),
    ],
)
def test_what_is_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert said in output.err and output.err.count("\n") == 1
