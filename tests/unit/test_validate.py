"""Everything that can be typed wrong is refused in one line with status 2, and nothing is written."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core.provenance import ROOT
from experiments.cli.command_line import main
from experiments.config.files import CONF
from teachers.catalog import MODELS
from teachers.sam import Sam

TRUNCATED = "teacher.checkpoint=truncated.pth"

REFUSED = [
    ("method=slimsam ratio=1.5", ["ratio=1.5", "(0, 1)", "ratio=0.5"]),
    ("method=slimsam ratio=0", ["ratio=0", "(0, 1)"]),
    ("method=slimsam ratio=nan", ["ratio=nan", "(0, 1)"]),
    ("method=slimsam ratio=abc", ["ratio=abc", "a number"]),
    ("method=slimsam ratio=", ["ratio=", "a number"]),
    ("method=slimsam", ["ratio is missing", "ratio=0.5"]),
    ("methd=slimsam", ["methd is no setting", "did you mean method?"]),
    ("method=slimsam steps=4", ["steps is no setting; did you mean method.steps?"]),
    ("ratio=0.5 device=cpu", ["device is no setting; did you mean engine.device?"]),
    ("ratio=0.5 precision=x", ["did you mean evaluation.precision or engine.precision?"]),
    ("evaluate checkpoint=sam_pocket root=x", ["root is no setting; did you mean data.root?"]),
    ("xyzzy=3", ["xyzzy is no setting", "method", "teacher"]),
    ("+foo=3 ratio=0.5", ["foo is no setting"]),
    ("+method.foo=3 ratio=0.5", ["method.foo is no setting"]),
    ("method=slimsm ratio=0.5", ["method=slimsm is unknown", "did you mean slimsam?"]),
    (
        "method=slimsam ratio=0.5 then=mobilesam",
        ["then=mobilesam: mobilesam takes no model to begin with", "choose ptq or tinysam"],
    ),
    ("method=slimsam ratio=0.5 teacher=sam_vitb", ["teacher=sam_vitb is unknown", "sam_vit_b"]),
    ("ratio=0.5 data=imagenet", ["data=imagenet is unknown", "coco"]),
    ("method=ptq method.init=gone.safetensors", ["method.init=gone.safetensors is neither a file nor a model"]),
    (
        "method=tinysam method.init=sam_pocket student=tiny_vit_5m",
        ["student=tiny_vit_5m: the student is that of method.init=sam_pocket; give one of the two"],
    ),
    (
        "variant=student_resnet method=tinysam method.init=sam_pocket",
        ["student.kind=timm, student.name=resnet10t: the student is that of method.init=sam_pocket"],
    ),
    ("ratio=0.5 method.stpes=5", ["method.stpes is no setting", "did you mean method.steps?"]),
    ("ratio=0.5 method.steps=many", ["method.steps=many", "a whole number"]),
    ("ratio=0.5 method.patience_step_1=None", ["method.patience_step_1=None: give a whole number, or null"]),
    ("ratio=0.5 method.patience_step_1=-1", ["method.patience_step_1=-1 must be at least 0, or null"]),
    ("method=mobilesam method.high_res=x", ["method.high_res=x: give a number, such as 0.5, or null"]),
    ("method=mobilesam method.high_res=-1", ["method.high_res=-1.0 must be at least 0, or null"]),
    ("method=ptq method.init=None", ["method.init=None is neither a file nor a model", ", null"]),
    ("everything checkpoint=sam_pocket image=x generator.coarse_points_per_side=None", ["a whole number, or null"]),
    ("ratio=0.5 method.steps=0", ["method.steps=0", "at least 1"]),
    ("ratio=0.5 method.optimisation.schedule=cosin", ["method.optimisation", "cosin", "cosine"]),
    ("ratio=0.5 method._target_=os.system", ["_target_=os.system", "compressors"]),
    ("ratio=0.5 method._target_=compressors.slimsam.Slim", ["compressors.slimsam has no Slim"]),
    ("ratio=0.5,0.7", ["ratio", "add -m"]),
    ("ratio=[0.5", ["ratio=[0.5", "cannot be read"]),
    ("ratio=0.5 lastly=ptq", ["lastly", "no second", "then="]),
    ("ratio=0.5 then=tinysam lastly=slimsam", ["lastly=slimsam: slimsam takes no model", "ptq or tinysam"]),
    ("ratio=0.5 then=tinysam lastly=ptq lastly.weight_bits=9", ["lastly.weight_bits", "9"]),
    ("ratio=0.5 seed=1.5", ["seed=1.5", "a whole number"]),
    ("ratio=0.5 seed=99999999999999999999", ["seed=99999999999999999999 must fit into 64 bits"]),
    ("--cfg job -m ratio=0.5,0.77", ["--cfg and --info show the settings of one run"]),
    ("--cfg job ratio=0.5,0.77", ["--cfg and --info show the settings of one run"]),
    ("--resolve ratio=0.5", ["--resolve"]),
    ("ratio=0.5 seed=null", ["seed", "null"]),
    ("ratio=0.5 teacher=null", ["teacher=null", "sam_pocket"]),
    ("ratio=0.5 name=../x", ["name=../x"]),
    ("ratio=0.5 format=xml", ["format=xml", "table, json"]),
    ("ratio=0.5 data=coco", ["data.root is missing", "data.root=FOLDER"]),
    ("ratio=0.5 evaluation=coco", ["evaluation.data.root is missing", "evaluation.data.root=FOLDER"]),
    ("ratio=0.77 data=coco data.root=/nowhere", ["/nowhere", "no such folder"]),
    ("ratio=0.77 data=sa1b data.root=/nowhere", ["/nowhere", "no such folder"]),
    ("ratio=0.5 data.count=0", ["count is 0", "at least 1"]),
    ("ratio=0.5 evaluation.images=0", ["evaluation.images=0", "at least 1"]),
    ("ratio=0.5 evaluation.protocol=box@9", ["evaluation.protocol=box@9", "box_point@1"]),
    ("ratio=0.5 engine.device=cuda:99", ["engine.device=cuda:99"]),
    ("ratio=0.5 engine.device=tpu", ["engine.device=tpu is unknown", "cpu"]),
    ("ratio=0.5 engine.precision=float16 engine.device=cpu", ["engine.precision=float16", "CUDA"]),
    ("ratio=0.5 engine.precision=int8", ["engine.precision=int8", "bfloat16"]),
    (f"ratio=0.5 {TRUNCATED}", ["truncated.pth", "truncated"]),
    ("ratio=0.5 teacher.checkpoint=other.pth", ["other.pth", "missing image_encoder.pos_embed"]),
    ("ratio=0.5 teacher.checkpoint=nowhere.pth", ["nowhere.pth", "no such file"]),
    ("evaluate", ["checkpoint is missing", "sam_pocket"]),
    ("evaluate checkpoint=sam_poket", ["sam_poket", "did you mean sam_pocket"]),
    ("evaluate checkpoint=truncated.pth", ["truncated.pth"]),
    ("evaluate checkpoint=truncated.safetensors", ["truncated.safetensors"]),
    ("evaluate checkpoint=sam_pocket method=slimsam", ["method is no setting; there are checkpoint, data"]),
    ("evaluate checkpoint=sam_pocket data.bogus=1", ["data.bogus is no", "data has missing, root, split, unusable"]),
    ("everything checkpoint=sam_pocket data.splt=1", ["data.splt is no setting; did you mean data.split?"]),
    ("compare data.split=train", ["data.split is no setting; data has missing, root, unusable"]),
    ("evaluate checkpoint=sam_pocket checkpoint.entr=1", ["checkpoint.entr is no setting", "checkpoint.entry"]),
    (
        "everything checkpoint=sam_pocket image=x data.split=train",
        ["data.split='train': nothing is chosen for evaluation", "evaluation=NAME"],
    ),
    *(
        (
            f"evaluate checkpoint=sam_pocket evaluation.protocols=[{name}]",
            [f"protocol {name} is box_single@1 and point_best_of_3@1, in one row", "leave protocols empty"],
        )
        for name in ("box_point", "box_point@1")
    ),
    ("evaluate checkpoint=sam_pocket data=coco", ["data is no choice here; give what it has: data.root"]),
    ("evaluate checkpoint=sam_pocket evaluation.batch=8", ["is called evaluation.prompt_batch_size now"]),
    ("method=scratch method.optimisation.rate=1", ["method.optimisation.rate is called method.optimisation.lr now"]),
    ("method=scratch teacher.recipe.rate=1", ["teacher.recipe.rate is called teacher.recipe.lr now"]),
    ("method=scratch logger.pictures=8", ["logger.pictures is called logger.images now"]),
    ("evaluate checkpoint=sam_pocket evaluation.image_batch_size=0", ["evaluation.image_batch_size=0", "at least 1"]),
    ("evaluate checkpoint=sam_pocket evaluation.workers=-1", ["evaluation.workers=-1", "at least 0"]),
    ("evaluate checkpoint=sam_pocket evaluation=coco data.root=/nowhere", ["/nowhere"]),
    ("cost teacher=sam_vit_b method=slimsam", ["ratio is missing"]),
    ("cost teacher=sam_vit_b method=slimsam ratio=2", ["ratio=2"]),
    ("leaderboard results=false published=false", ["no finished run"]),
    ("leaderboard data=shape", ["data=shape", "did you mean shapes"]),
    ("leaderboard protocol=box@9", ["protocol=box@9", "no row has it"]),
    ("evalute checkpoint=sam_pocket", ["evalute is no command", "did you mean evaluate?"]),
    ("ratio=0.5 slimsam", ["'slimsam' is no setting", "key=value"]),
    ("--verbose", ["--verbose is no option", "--help"]),
]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, with a whole, a truncated and a foreign checkpoint in another one beside it."""
    folder = tmp_path / "files"
    folder.mkdir()
    torch.save(Sam(MODELS["sam_pocket"].config).state_dict(), folder / "pocket.pth")
    torch.save({"weight": torch.zeros(3)}, folder / "other.pth")
    whole = (folder / "pocket.pth").read_bytes()
    for name in ("truncated.pth", "truncated.safetensors"):
        (folder / name).write_bytes(whole[: len(whole) // 2])
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def _arguments(command: str, folder: Path) -> list[str]:
    """A command's words, with the checkpoints' names as paths."""
    names = [path.name for path in folder.iterdir()]
    words = command.split(" ")
    for name in names:
        words = [word.replace(f"={name}", f"={folder / name}") for word in words]
    return words


def test_bad_input_is_refused_in_one_line(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for command, said in REFUSED:
        status = main(_arguments(command, workplace.parent / "files"))
        output = capsys.readouterr()
        line = output.err
        ok = status == 2 and not output.out and line.count("\n") == 1 and line.startswith("error: ")
        if not ok or not all(part in line for part in said):
            wrong.append(f"{command}: status {status}, said {line!r} and {output.out!r}")
        left = [path.name for path in workplace.rglob("*")]
        if left:
            wrong.append(f"{command}: left {left}")
            break
    assert not wrong, "\n".join(wrong)


def test_ratio_is_refused_by_a_method_without_one(workplace: Path) -> None:
    from omegaconf import OmegaConf

    from core.errors import InputError
    from experiments.config.compose import settings_of

    cfg = OmegaConf.create(
        {"format": "table", "ratio": 0.5, "method": {"_target_": "compressors.x.MobileSam", "steps": 1}}
    )
    with pytest.raises(InputError, match=r"ratio=0\.5: MobileSam takes no ratio; leave it out"):
        settings_of(cfg)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("evaluation.jitter=0.5", r"evaluation\.jitter=0\.5: runs are scored by box_point@1, which has no use for it"),
        ("evaluation.seed=7", r"evaluation\.seed=7: runs are scored by"),
        ("evaluation.reference=sam_vit_h", r"evaluation\.reference=sam_vit_h: runs are scored by"),
        ("evaluation.max_detections=3", r"evaluation\.max_detections=3: runs are scored by"),
        ("evaluation.backend=official", r"evaluation\.backend=official: runs are scored by"),
        ("evaluation.protocols=[box_single]", r"evaluation\.protocols=\[box_single\]: runs are scored by box_point@1"),
    ],
)
def test_a_run_takes_no_setting_that_has_no_effect_on_it(given: str, message: str) -> None:
    from hydra import compose, initialize_config_module

    from core.errors import InputError
    from experiments.config.compose import settings_of
    from experiments.config.targets import register

    register()
    with initialize_config_module("conf", version_base="1.3"), pytest.raises(InputError, match=message):
        settings_of(compose("config", ["ratio=0.5", given]))


@pytest.mark.parametrize("given", ["method=mobilesam method.decoder_of=mine", "method=ptq method.init=mine"])
def test_a_model_that_is_not_there_is_refused_before_the_first_image(
    given: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("experiments.runs.run.contents_of_run", lambda _: pytest.fail("images are read"))
    assert main(given.split(" ")) == 2
    setting = given.partition(" ")[2]
    assert capsys.readouterr().err.startswith(f"error: {setting} is neither a file nor a model; choose one of")


def test_a_refused_run_leaves_what_was_there(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = workplace / "runs" / "earlier"
    kept.mkdir(parents=True)
    (kept / "note.txt").write_text("mine")
    assert main(["method=slimsam", "ratio=1.5", "force=true"]) == 2
    assert [path.name for path in workplace.rglob("*")] == ["runs", "earlier", "note.txt"]


def test_runs_may_lie_at_home(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra import compose, initialize_config_module

    from experiments.config.compose import settings_of
    from experiments.config.targets import register

    monkeypatch.setenv("HOME", str(workplace))
    register()
    with initialize_config_module("conf", version_base="1.3"):
        settings = settings_of(compose("config", ["ratio=0.5", "runs='~/mine'"]))
    assert settings.runs == str(workplace / "mine")
    assert settings.engine.cache_folder == str(workplace / "mine" / ".embeddings")


# timm, torchvision and the compiler take seconds to import, which only what needs them waits for.
IMPORTS = """
import sys
from experiments.__main__ import command
status = command()
import experiments.evaluate, experiments.everything.command, experiments.commands.predict, experiments.runs.run
heavy = {"timm", "torchvision", "torch._dynamo", "torch.utils.flop_counter", "transformers"} & set(sys.modules)
sys.exit(f"imports {heavy}" if heavy else status)
"""


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        pytest.param(["-m", "experiments"], ["method=slimsam", "ratio=1.5"], marks=pytest.mark.slow),
        (["-c", IMPORTS], ["methd=slimsam"]),
    ],
)
def test_as_a_command(program: list[str], arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, *program, *arguments]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert done.returncode == 2
    assert not done.stdout
    assert done.stderr.count("\n") == 1 and arguments[-1].partition("=")[0] in done.stderr
    assert not list(tmp_path.iterdir())


LIGHT = """
import sys
from experiments.__main__ import command
status = command()
sys.exit("imports torch" if "torch" in sys.modules else status)
"""


@pytest.mark.parametrize(
    "words",
    [
        "method=slimsam ratio=2",
        *(pytest.param(w, marks=pytest.mark.slow) for w in ("methd=slimsam", "ratio=0.5 data=coco data.root=/nowhere")),
    ],
)
def test_what_is_wrong_with_settings_is_said_without_waiting_for_pytorch(words: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIGHT, *words.split()]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr


def test_a_file_that_refers_to_an_old_name_learns_the_new_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (CONF / "method" / "scratch.yaml").read_text(encoding="utf-8")
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text(text.replace("recipe.lr", "recipe.rate"), encoding="utf-8")
    assert main(["--config-dir", str(tmp_path), "method=mine", "ratio=0.5", f"runs={tmp_path}"]) == 2
    assert "'teacher.recipe.rate' not found; it is called teacher.recipe.lr now" in capsys.readouterr().err
