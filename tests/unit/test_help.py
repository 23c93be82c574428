"""Help names every command, choice and setting, in lines that fit, without waiting for PyTorch."""

import dataclasses
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from evaluation.protocols import PROTOCOLS
from experiments.cli.command_line import main
from experiments.cli.help import GUIDES, WIDTH, help_text
from experiments.cli.setting_lines import CHOICES, choice_settings, command_settings, method_settings, read_attributes
from experiments.config.files import CONF, choices, first_comment, owner_of, read_settings
from experiments.config.groups import DATA
from experiments.config.schema import COMMANDS, OTHER_NAMES
from experiments.config.targets import target_class
from students.export.runtimes import READS

ROOT = Path(__file__).resolve().parents[2]
METHODS = sorted(choices("method"))
OPEN = ("method", "data", "then", "lastly", "logger", "generator")
"""Settings typed ``Any``, whose own settings depend on a choice."""


def words(text: str) -> str:
    """Text with one space between words, as line breaks do not matter."""
    return " ".join(text.split())


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def keys_of(schema: Any, prefix: str = "") -> set[str]:
    """Every setting of a schema by its dotted key, found by importing it, as Hydra does."""
    found = set()
    for part in dataclasses.fields(schema):
        value = part.default_factory() if part.default_factory is not dataclasses.MISSING else part.default
        if dataclasses.is_dataclass(value):
            found |= keys_of(value, f"{prefix}{part.name}.")
        elif part.name not in OPEN:
            found.add(prefix + part.name)
    return found


def test_the_overview_has_every_choice(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "-h") == printed(capsys, "--help") == help_text() + "\n"
    text = help_text()
    for group in ("method", "teacher", "student", "data", "evaluation", "logger", "experiment"):
        for name, line in choices(group).items():
            start = line[:20]
            assert line and f"  {name} " in text and start in text, f"{group}={name}"
    assert all(f"{variant}" in text for variant in choices("variant"))
    assert all(f"\n  {command} " in text and guide.line in text for command, guide in GUIDES.items())
    assert "\n  box_point@1 " in text, "the protocol of runs"
    assert "submitit_slurm" in text and text.count("\n  python -m experiments ") >= 3


def test_a_default_from_another_setting_names_one_that_the_command_has() -> None:
    shown = {}
    for command in COMMANDS:
        lines = command_settings(command)
        first = {line.key.partition(".")[0] for line in lines}
        for line in lines:
            assert set(re.findall(r"<(\w+)", line.default or "")) <= first, f"{command} {line.key}={line.default}"
            if line.key == "engine.cache":
                shown[command] = line.default
    assert shown.pop("run") == "<cache>"
    assert set(shown) >= {"evaluate", "predict", "latency", "everything", "compare", "doctor"}
    assert set(shown.values()) == {"off"}


def test_every_protocol_has_a_line() -> None:
    text = help_text()
    for name in PROTOCOLS:
        family = name.partition("_clicks_")[0] if "_clicks_" in name else name
        assert f"  {family}" in text or (name.startswith("clicks_") and "  clicks_2..9@1 " in text), name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_setting_of_a_command_has_a_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, command, "--help")
    settings = {setting.key: setting for setting in command_settings(command)}
    typed = {name: typed for typed, name in OTHER_NAMES.get(command, {}).items()}
    expected = {typed.get(key, key) for key in keys_of(COMMANDS[command]())} - {"evaluation", "evaluation.data"}
    assert expected <= set(settings) | {"evaluation"}, "the schema's own settings"
    for key in expected:
        setting = settings[key]
        assert setting.line and setting.type, f"{key}: give it a line below Attributes: of its class"
        assert f"  {key}={setting.type}" in text and words(setting.line) in words(text), key
        assert setting.default is None or f"default {setting.default})" in words(text), key
    assert f"writes {GUIDES[command].writes.split(' ')[0]}" in text
    assert text.startswith(f"usage: python -m experiments {GUIDES[command].usage}")
    assert len(GUIDES[command].examples) >= 3 and all(example in text for example in GUIDES[command].examples)


@pytest.mark.parametrize("command", ["evaluate", "everything"])
def test_what_scores_a_data_set_lists_the_settings_of_each(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, command, "--help")
    assert "\n  data.split=str " in text and "(default <evaluation.data.split>)" in words(text)
    for name, schema in DATA.items():
        (block,) = re.findall(rf"^settings of evaluation\.data, of {name}\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
        for part in dataclasses.fields(schema)[1:]:
            assert f"  evaluation.data.{part.name}=" in block, f"{name}: {part.name}"
    assert "evaluation.data.root=str folder of the files" in words(text) and "(default <data.root>)" in words(text)
    assert "evaluation.data.missing=str images" in words(text) and "(default <data.missing>)" in words(text)
    assert "must be given" not in text.partition("settings of evaluation.data, of")[2]


@pytest.mark.parametrize("command", ["evaluate", "predict", "everything"])
def test_help_names_every_runtime_that_there_is_to_choose(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = next(setting.line for setting in command_settings(command) if setting.key == "runtime")
    for runtime in {runtime for several in READS.values() if len(several) > 1 for runtime in several}:
        assert re.search(rf"\b{runtime}\b", line), runtime


def test_the_protocol_of_runs_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    said = "box_point@1 box, single mask, and one point, best of three; when evaluation.protocols is empty"
    assert said in words(printed(capsys, "evaluate", "--help"))


def test_nothing_typed_shows_the_overview(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    output = capsys.readouterr()
    assert output.out == help_text() + "\n"
    assert output.err == "error: nothing is given; begin with method=slimsam ratio=0.77, or COMMAND --help\n"


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_help_has_every_setting_of_its_class(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, f"method={name}", "--help")
    assert text == printed(capsys, "run", "--help", f"method={name}")
    settings = method_settings(CONF / "method" / f"{name}.yaml")
    fields = {part.name for part in dataclasses.fields(target_class(_target(name)))}
    assert {setting.key.split(".")[1] for setting in settings} == fields
    for setting in settings:
        assert setting.line, f"{name}: {setting.key} has no line in its class"
        assert f"  {setting.key}=" in text and words(setting.line) in words(text), setting.key
    assert ("method.optimisation.ema=float" in text) == ("optimisation" in fields), "what the file leaves out"


def test_the_file_of_a_method_says_its_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    text = words(printed(capsys, "method=slimsam", "--help"))
    assert "method.noise=float standard deviation of the disturbance of the embedding (default 0.01)" in text
    assert "(default <teacher.recipe.steps>)" in text, "the setting that a default is taken from"
    assert "data.difficulty=float" in text and "(default 0.5)" in text, "a constant by its value"


@pytest.mark.parametrize("group", CHOICES)
def test_every_setting_of_data_sets_and_loggers_has_a_line(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "run", "--help")
    for name in choices(group):
        for setting in choice_settings(group, name):
            assert setting.line and f"  {setting.key}=" in text, f"{group}={name}: {setting.key}"


def test_run_help_without_a_method_lists_the_methods(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "run", "--help")
    assert all(f"method={name} --help" in text for name in METHODS) and "method.importance" not in text


def test_a_method_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("# Mine\n_target_: help_of_mine.Mine\nstrength: 3\n")
    (tmp_path / "help_of_mine.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Mine:\n"
        '    """Mine.\n\n    Attributes:\n        strength: how much.\n    """\n    strength: float = 1.0\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    line = ("--config-dir", str(tmp_path), "method=mine", "--help")
    assert main(line) == 2 and "give packages=help_of_mine" in capsys.readouterr().err
    assert "method.strength=float how much (default 3)" in words(printed(capsys, "packages=help_of_mine", *line))


def test_what_is_unset_is_called_null(capsys: pytest.CaptureFixture[str]) -> None:
    pages = [*([command] for command in COMMANDS), *([f"method={name}"] for name in METHODS)]
    text = "".join(printed(capsys, *page, "--help") for page in pages)
    assert not re.findall(r".*\bNone\b.*", text)
    assert "null: the teacher itself" in words(text) and "null is a quarter of points_per_side" in words(text)


def test_lines_fit(capsys: pytest.CaptureFixture[str]) -> None:
    # Usage lines and examples are to be copied as they stand.
    def long(text: str) -> list[str]:
        return [line for line in text.splitlines() if len(line) > WIDTH and "python -m experiments" not in line]

    assert not long(help_text())
    for command in COMMANDS:
        assert not long(printed(capsys, command, "--help")), command


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("evalute", "--help"), "evalute is no command; did you mean evaluate?"),
        (("method=slimsm", "--help"), "method=slimsm does not exist; did you mean slimsam?"),
        (("--config-dir", "nowhere", "method=mine", "--help"), "--config-dir nowhere: no such folder"),
    ],
)
def test_help_for_nothing_is_refused(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert not output.out and output.err.startswith(f"error: {said}") and output.err.count("\n") == 1


def test_every_command_has_a_guide() -> None:
    assert list(COMMANDS) == list(GUIDES)


def test_docstrings_are_read_by_name() -> None:
    said = "Attributes:\n    a, b: of ``both``,\n        and more: this.\n    c: :class:`x.Y`."
    text = f"One.\n\n{said}\n\nRaises:\n    d: no."
    assert read_attributes(text) == {"a": "of both, and more: this", "b": "of both, and more: this", "c": "x.Y"}


def test_what_a_file_says_of_itself_and_sets(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("# @package _global_\n# About\ndefaults:\n  - base\na: 1 # one\n")
    assert first_comment(path) == "About" and read_settings(path) == {"defaults": ["base"], "a": 1}


def test_a_prepared_experiment_is_for_a_command_that_takes_one() -> None:
    assert owner_of("everything_pocket") == "everything" and owner_of("smoke") == "run"
    assert owner_of("leaderboard_pocket") == "run", "named after a command that takes none"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["method=tinysam", "--help"]])
def test_help_imports_neither_torch_nor_hydra(arguments: list[str]) -> None:
    code = (
        "import sys; from experiments.__main__ import command; sys.argv = ['x', *sys.argv[1:]]; status = command(); "
        "heavy = {'torch', 'hydra', 'omegaconf', 'numpy', 'rich'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and not done.stderr and done.stdout.startswith("usage: "), done.stderr


def test_the_console_script_is_the_same_program() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["scripts"]["sampress"].partition(":")
    code = f"import sys; from {module} import {name}; sys.argv = ['sampress', 'table', '--help']; sys.exit({name}())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("usage: python -m experiments table")


def _target(name: str) -> str:
    return str(read_settings(CONF / "method" / f"{name}.yaml")["_target_"])
