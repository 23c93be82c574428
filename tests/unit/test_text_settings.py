"""Text on the command line and in files of settings arrives as it was typed, in every setting that is text."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from core import provenance
from experiments.cli.command_line import main
from experiments.cli.completion.candidates import candidates
from experiments.config.targets import method_options, register
from experiments.config.words import (
    any_text_settings,
    hydra_words,
    literal,
    quoted,
    text_settings,
    typed_value,
    typed_words,
)
from experiments.runs import torchrun

NASTY = (
    *("é/coco", "日本語/图", "🐻", "photo (1).png", "epoch=3-step=5.png", "a,b", "it's; #1 & <x>", 'say "x"', "{x}[0]"),
    *("2024_05_01", "1e5", "3.10", "true", "$HOME/${x}", "a:b!", "~nobody_of_that_name/x", " a ", "'a' 'b'"),
)
"""What goes through the whole command line."""
MORE = (
    *(
        "",
        "#1",
        "R&D",
        "a=b=c",
        "=",
        "[x]",
        "a^b",
        "x~",
        "$",
        "@x",
        "${",
        "\\${x}",
        "a\\",
        "\\\\",
        "a\\'b",
        "*",
        "?",
        "%d",
        "+1",
    ),
    *(
        "-1",
        "'",
        "'a",
        "a\tb",
        "a\nb",
        "|",
        "`",
        "False",
        "NULL",
        "none",
        "nan",
        "inf",
        "0x10",
        "1_000",
        "017",
        "12",
        "yes",
    ),
    *("choice(a,b)", "range(3)", "int(3)", "\\,", "a\\=b", ".", "..", "v1.0/a.b", "null,null", "[a,b]", "'a','b'"),
)
EVALUATE = (
    *("checkpoint", "runs", "out", "detections", "data.root", "evaluation.reference", "evaluation.data.annotations"),
    *("evaluation.data.images", "engine.cache_folder"),
)
RUN = (
    *("teacher.checkpoint", "method.init", "then.init", "logger.project", "logger.entity", "data.annotations"),
    *("evaluation.data.root", "runs", "data.root"),
)
Captured = Callable[..., list[Any]]


@pytest.fixture
def registered() -> None:
    """The schema as it is without settings of one's own."""
    if "slimsam" not in method_options():
        register()


@pytest.fixture
def captured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[Any]]:
    """Runs a command line up to the point where its command would begin; gives the settings of each job.

    Each has ``argv``: what its result would record as the command.
    """
    jobs: list[Any] = []

    def note(parsed: Any, cfg: Any) -> list[Any]:
        jobs.append(SimpleNamespace(**vars(parsed), argv=provenance.command_line()))
        return []

    monkeypatch.setattr("experiments.runs.job.function_of", lambda command: note)
    monkeypatch.setattr("experiments.runs.job.check_settings", lambda settings: None)
    monkeypatch.chdir(tmp_path)

    def run(*words: str, status: int = 0) -> list[Any]:
        jobs.clear()
        assert main(words) == status, capsys.readouterr().err
        return list(jobs)

    return run


def at(job: Any, key: str) -> Any:
    for part in key.split("."):
        job = getattr(job, part)
    return job


@pytest.mark.parametrize(
    ("words", "keys", "texts"),
    [
        (("evaluate", "evaluation=coco"), EVALUATE, NASTY[:9]),
        (("evaluate", "evaluation=coco"), EVALUATE, NASTY[9:]),
        (("method=ptq", "then=tinysam", "logger=wandb", "data=coco", "evaluation=coco"), RUN, NASTY[5:14]),
    ],
)
def test_text_arrives_and_is_recorded_as_typed(
    words: Sequence[str], keys: Sequence[str], texts: Sequence[str], captured: Captured
) -> None:
    typed = [f"{key}={text}" for key, text in zip(keys, texts, strict=True)]
    (job,) = captured(*words, *typed, "engine.threads=3")
    assert [f"{key}={at(job, key)}" for key in keys] == typed and job.engine.threads == 3
    assert job.argv == [word for word in (*words, *typed, "engine.threads=3") if word != "evaluate"]


def test_names_and_lists(captured: Captured) -> None:
    words = ("method=ptq", "name=2024_05_01", "method.float_layers=[]", "logger=wandb")
    (job,) = captured(*words, "logger.tags=[1e5, é b,'x,y', null,[z]]")
    assert (job.name, job.logger.tags, job.method.float_layers) == (
        "2024_05_01",
        ["1e5", "é b", "x,y", "null", "[z]"],
        [],
    )


def test_null_unsets_what_can_be_unset_and_is_text_elsewhere_and_in_quotes(captured: Captured) -> None:
    (job,) = captured("ratio=0.5", "name=null", "teacher.checkpoint=null", "runs=null", "data=coco", "data.root=null")
    assert (job.name, job.teacher.checkpoint, job.runs, job.data.root) == (None, None, "null", "null")
    (job,) = captured(
        "ratio=0.5", "name='null'", 'teacher.checkpoint="null"', "runs='a,b'", "data=coco", "data.root=''"
    )
    assert (job.name, job.teacher.checkpoint, job.runs, job.data.root) == ("null", "null", "a,b", "")


def test_the_home_folder(captured: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    keys = ("checkpoint", "runs", "out", "detections", "data.root", "evaluation.reference", "engine.cache_folder")
    (job,) = captured("evaluate", "evaluation=coco", *(f"{key}=~/{key}" for key in keys))
    assert [at(job, key) for key in keys] == [str(tmp_path / key) for key in keys]
    (job,) = captured("ratio=0.5", "runs=~", "data=coco", "data.root='~/x'", "logger=wandb", "logger.project=~x")
    assert (job.runs, job.data.root, job.logger.project) == (str(tmp_path), str(tmp_path / "x"), "~x")
    (job,) = captured("compare", "~/a", "~")
    assert (job.first, job.second) == (str(tmp_path / "a"), str(tmp_path))
    jobs = captured("-m", "ratio=0.5", "seed=0,1", "runs=~/swept")
    assert [job.runs for job in jobs] == [str(tmp_path / "swept")] * 2


def test_signs_that_were_escaped_for_hydra_still_name_the_file_that_is_there(
    captured: Captured, tmp_path: Path
) -> None:
    (tmp_path / "epoch=3, last.ckpt").touch()
    typed = "epoch\\=3\\, last.ckpt"
    (job,) = captured("evaluate", f"checkpoint={typed}", f"out={typed}")
    assert (job.checkpoint, job.out) == ("epoch=3, last.ckpt", "epoch=3, last.ckpt")


def test_bare_words_of_compare(captured: Captured, tmp_path: Path) -> None:
    (tmp_path / "epoch=3").mkdir()
    (job,) = captured("compare", "epoch=3", "v1.0 [é],(b)", "count=3", "out=1e5")
    assert (job.first, job.second, job.count, job.out) == ("epoch=3", "v1.0 [é],(b)", 3, "1e5")


@dataclass
class _Logger:
    project: str = ""
    entity: str | None = None
    tags: list[str] | None = None
    referring: str = "${logger.project}"
    around: str = "a/${logger.project}"


@dataclass
class _Settings:
    logger: _Logger = field(default_factory=_Logger)


def read(words: Sequence[str]) -> _Logger:
    """What Hydra's grammar and OmegaConf make of words."""
    cfg = OmegaConf.structured(_Settings)
    for override in OverridesParser.create().parse_overrides(list(words)):
        OmegaConf.update(cfg, override.key_or_group, override.value())
    found: Any = OmegaConf.to_object(cfg)
    return found.logger  # type: ignore[no-any-return]


def values(word: str, sweep: bool = True) -> list[Any]:
    """What a word gives, one after the other where it is a sweep."""
    (override,) = OverridesParser.create().parse_overrides(hydra_words("run", [word], sweep))
    key = override.key_or_group.rpartition(".")[2]
    words = (
        [f"logger.{key}={part}" for part in override.sweep_string_iterator()] if override.is_sweep_override() else []
    )
    assert len(words) > 1 or not words
    return [getattr(read([part]), key) for part in words or [f"logger.{key}={override.get_value_element_as_str()}"]]


def test_a_sweep_over_texts(registered: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for typed, several in {
        "A,é b": ["A", "é b"],
        "'A,B'": ["A,B"],
        "'A,B', 2017_08,\"it's\"": ["A,B", "2017_08", "it's"],
        "'tis,'twas": ["'tis", "'twas"],
        "choice(A, 'x,y')": ["A", "x,y"],
        "choice(A)": ["A"],
        "range(3)": ["range(3)"],
        "null,x": [None, "x"],
    }.items():
        assert values(f"logger.entity={typed}") == several, typed
    for typed in ("A,B", "choice(a,b)", "'a','b'"):
        assert values(f"logger.entity={typed}", sweep=False) == [typed], "without -m a comma is a comma"
    (tmp_path / "A,B").mkdir()
    assert values("logger.entity=A,B") == ["A,B"], "the name of a folder that is there"
    assert values("logger.tags=[a,b],['c,d']") == [["a", "b"], ["c,d"]]
    assert values("logger.tags=[a,b]") == [["a", "b"]]


def test_jobs_of_a_sweep_get_their_texts(captured: Captured) -> None:
    jobs = captured(
        "-m", "method=slimsam,mobilesam", "ratio=0.5", "data=coco", "data.root=é ${x},B", "evaluation=shapes"
    )
    assert [(job.data.root, job.ratio) for job in jobs] == [("é ${x}", 0.5), ("B", 0.5), ("é ${x}", None), ("B", None)]
    assert {tuple(job.argv) for job in jobs} == {
        ("-m", "method=slimsam,mobilesam", "ratio=0.5", "data=coco", "data.root=é ${x},B", "evaluation=shapes")
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("seed=range(0)",), "seed=range(0): gives no value, so nothing would run; give at least one"),
        (("method=glob(foo*)",), "method=glob(foo*): gives no value"),
        (("name=a,",), "name=a,: a value of the sweep is empty; give one, in quotes if a comma belongs to it"),
        (("runs=a${x}", "hydra/launcher=joblib", "seed=0,1"), "a launcher cannot write to a folder with ${ in its"),
    ],
)
def test_an_empty_sweep_is_refused(
    words: Sequence[str], said: str, captured: Captured, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert captured("-m", "ratio=0.5", *words, status=2) == []
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("data=é", "data=é is unknown; choose one of coco, lvis, sa1b, shapes"),
        ("dta.root=é/x", "dta.root is no setting; did you mean data?"),
        ("ratio=é", "'ratio=é' cannot be read"),
        ("logger.project=???", "logger.project is missing"),
        ("logger.tags=a", "give a list"),
        ("data.root=\udce9", "'data.root=\\udce9' is not UTF-8"),
        ("teacher.name=a\nb\x1b[2J", "teacher 'a\\nb\\x1b[2J' is unknown"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    word: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ratio=0.5", "logger=wandb", "logger.mode=disabled", word]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and "\x1b" not in error


def test_files_of_settings(captured: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own (é)" / "experiment").mkdir(parents=True)
    folder = tmp_path / "own (é)" / "experiment"
    (folder / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [{override /logger: wandb}, {override /data: coco}]\nname: 2024_05_01\n"
        "ratio: 5_0e-2\nseed: 0x10\nlogger: {project: 3.10, tags: [1e5, true, 017, x], scores: 1_0}\n"
        "data: {root: ~/2017_08, annotations: 2017_08}\nevaluation: {data: {root: 1_000}}\nruns: ~/runs\n"
    )
    (folder / "swept.yaml").write_text(
        "# @package _global_\nratio: 0.5\nhydra: {mode: MULTIRUN, sweeper: {params: {name: 017, runs: 'é,b (1)'}}}\n"
    )
    (job,) = captured("--config-dir", str(tmp_path / "own (é)"), "experiment=mine", "evaluation=coco")
    assert (job.name, job.ratio, job.seed, job.logger.scores) == ("2024_05_01", 0.5, 16, 10)
    assert (job.logger.project, job.logger.tags) == ("3.10", ["1e5", "true", "017", "x"])
    assert (job.data.root, job.data.annotations) == (str(tmp_path / "2017_08"), "2017_08")
    assert (job.evaluation.data.root, job.runs) == ("1_000", str(tmp_path / "runs"))
    jobs = captured("--config-dir=~/own (é)", "experiment=swept", "teacher.checkpoint=A,B")
    assert [(job.name, job.runs, job.teacher.checkpoint) for job in jobs] == [
        ("017", runs, file) for runs in ("é", "b (1)") for file in ("A", "B")
    ]


def test_processes_of_one_run_get_the_same_text(captured: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Sequence[str]] = []

    def start(command: Sequence[str], **_: Any) -> Any:
        started.append(command)
        return SimpleNamespace(returncode=0, stdout='{"rows": []}')

    monkeypatch.setattr(torchrun.subprocess, "run", start)
    texts = {"runs": "a,b ${x} é", "name": "null", "teacher.checkpoint": "'x'", "data.root": "it's \\"}
    words = ["ratio=0.5", "format=json", "data=coco", *(f"{key}={typed_value(text)}" for key, text in texts.items())]
    assert captured(*words, "processes=2") == []
    (command,) = started
    (job,) = captured(*command[command.index("experiments") + 1 :])
    assert {key: at(job, key) for key in texts} == texts


signs = "'\"\\${}[]() ,:=#!&;<>^~|?*.@%+-\té1e_nul"
texts = (
    st.text(st.sampled_from(signs), max_size=14)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
).filter(lambda text: text != "???")
MANY = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@MANY
@given(text=texts, other=texts)
@example(text="\\${x}\\", other="a\\\\'")
@example(text="'", other="'a' 'b'")
@example(text="x", other="null")
def test_any_text_arrives(text: str, other: str, registered: None) -> None:
    in_quotes = re.fullmatch(r"(['\"]).*\1", text, re.DOTALL) is not None
    words = [f"logger.project={quoted(text) if in_quotes else text}", f"logger.entity={typed_value(other)}"]
    for_hydra = hydra_words("run", words, sweep=False)
    logger = read(for_hydra)
    assert (logger.project, logger.entity) == (text, other)
    assert (logger.referring, logger.around) == (text, f"a/{text}")
    assert hydra_words("run", typed_words("run", for_hydra), sweep=False) == for_hydra
    cfg = OmegaConf.create({"text": ""})
    cfg.text = literal(text)
    assert cfg.text == text


@pytest.mark.parametrize("text", [*NASTY, *MORE])
def test_nasty_texts(text: str, registered: None) -> None:
    (word,) = hydra_words("run", [f"logger.project={text}"], sweep=False)
    assert read([word]).project == text and typed_words("run", [word]) == [f"logger.project={text}"]


@MANY
@given(several=st.lists(texts, min_size=2, max_size=4))
def test_any_texts_in_lists_and_sweeps(several: list[str], registered: None) -> None:
    (word,) = hydra_words("run", [f"logger.tags={typed_value(several)}"], sweep=False)
    assert read([word]).tags == several
    (word,) = hydra_words("run", [f"logger.project=choice({','.join(map(quoted, several))})"], sweep=True)
    (override,) = OverridesParser.create().parse_overrides([word])
    assert [read([f"logger.project={value}"]).project for value in override.sweep_string_iterator()] == several


def test_which_settings_are_text(registered: None) -> None:
    run, evaluate = text_settings("run"), text_settings("evaluate")

    def named(known: Mapping[str, Any], key: str) -> tuple[bool, bool, bool] | None:
        kind = known[key]
        return None if kind is None else (kind.optional, kind.several, kind.path)

    assert named(run, "data.root") == (False, False, True) and named(evaluate, "data.root") == (True, False, True)
    assert named(run, "name") == (True, False, False) and named(run, "packages") == (False, True, False)
    for key in ("ratio", "seed", "force", "method.steps", "evaluation.images", "method.annotations", "processes"):
        assert named(run, key) is None, key
    assert "method" not in run and "teacher" not in run and "hydra.sweep.dir" not in run
    known = any_text_settings()
    for key in candidates().paths:
        key = {"data": "dataset"}.get(key, key)
        assert known[key] is not None, f"{key} takes files"
