"""Packages and settings of one's own: named by the user, or refused."""

from pathlib import Path

import pytest

from core.errors import InputError
from experiments.cli.command_line import main
from experiments.config.files import own_settings
from experiments.config.targets import allow, target_class


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that can be imported, with one class."""
    (tmp_path / "own_methods").mkdir()
    (tmp_path / "own_methods" / "__init__.py").write_text("class Mine:\n    pass\n\nnumber = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("experiments.config.targets._allowed", [])
    return "own_methods"


def test_a_package_is_built_from_only_after_it_was_named(package: str) -> None:
    with pytest.raises(InputError, match=r"^_target_=own_methods\.Mine: only classes of .* packages=own_methods$"):
        target_class("own_methods.Mine")
    allow([package])
    assert target_class("own_methods.Mine").__name__ == "Mine"
    with pytest.raises(InputError, match="is not a class"):
        target_class("own_methods.number")
    with pytest.raises(InputError, match="own_methods has no Other"):
        target_class("own_methods.Other")
    allow([])
    with pytest.raises(InputError, match="only classes of"):
        target_class("own_methods.Mine")


@pytest.mark.parametrize(
    "target", ["os.system", "subprocess.Popen", "builtins.exec", "experiments.runs.run.Parts", "Mine", ""]
)
def test_nothing_else_is_built(target: str) -> None:
    with pytest.raises(InputError, match="only classes of"):
        target_class(target)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("subprocess", "packages=subprocess: that is Python's own"),
        ("builtins", "packages=builtins: that is Python's own"),
        ("no_such_package", "packages=no_such_package: there is no such package; .*PYTHONPATH"),
        ("a.b", r"packages=a\.b: not the name of a package"),
        ("../x", "not the name of a package"),
    ],
)
def test_what_cannot_be_allowed_is_refused_in_a_line(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        allow([name])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("words", [["packages=[a,b]"], ["packages=a,b"], ["+packages=['a', 'b']"]])
def test_packages_as_they_are_typed(words: list[str]) -> None:
    assert own_settings(["method=x", *words]) == (None, ("a", "b"))


def test_the_folder_of_settings(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no settings; put yours into"):
        own_settings(["--config-dir", str(tmp_path)])
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("_target_: a.B\n")
    for words in (["--config-dir", str(tmp_path)], [f"--config-dir={tmp_path}"], ["-cd", str(tmp_path), "packages=[]"]):
        assert own_settings(words) == (tmp_path.resolve(), ())
    with pytest.raises(InputError, match="--config-dir nowhere: no such folder"):
        own_settings(["--config-dir", "nowhere"])
    assert own_settings([]) == (None, ())


@pytest.mark.parametrize(
    "words",
    [
        ["method=slimsam"],
        ["evaluate", "checkpoint=sam_pocket"],
        ["predict", "checkpoint=sam_pocket", "image=photo.jpg"],
        ["everything", "checkpoint=sam_pocket"],
        ["compare", "a", "b"],
        ["latency", "checkpoint=sam_pocket"],
        ["doctor"],
    ],
)
def test_settings_of_the_machine_are_every_such_command_s(
    words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "default.yaml").write_text("engine:\n  threads: 3\n")
    for typed, threads in ([], 3), (["engine.threads=2"], 2):
        capfd.readouterr()
        assert main([*words, *typed, "--config-dir", str(tmp_path), "--cfg", "job"]) == 0
        assert f"threads: {threads}\n" in capfd.readouterr().out
