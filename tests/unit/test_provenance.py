"""What is written of a command holds nothing of the person who typed it."""

from pathlib import Path

import pytest

from core.provenance import ROOT, capture, redact_paths

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Somebody's home, a working directory below it, and keys in the environment."""
    home = tmp_path / "home" / "somebody"
    (home / "project").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("SHORT_TOKEN", "box")
    monkeypatch.chdir(home / "project")
    return home


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ("checkpoint=HOME/weights/a.pt", "checkpoint=~/weights/a.pt"),
        ("HOME", "~"),
        ("HOME/project/runs/a", "runs/a"),
        ("out=HOME/project", "out=."),
        ("out=HOME/project/", "out=./"),
        ("HOME/project2/a", "~/project2/a"),
        ("HOMEbody/a", "HOMEbody/a"),
        ("[HOME/a,HOME/b]", "[~/a,~/b]"),
        ("file://HOME/a", "file://~/a"),
        ("ROOT/conf/base.yaml", "conf/base.yaml"),
        ("data.root=/ho" + "me/another/coco", "data.root=~someone/coco"),
        ("data.root=/Us" + "ers/another/coco", "data.root=~someone/coco"),
        ("C:\\Us" + "ers\\another\\coco", "~someone\\coco"),
        ("data.root=/srv/coco", "data.root=/srv/coco"),
        ("https://example.org/ho" + "me/page", "https://example.org/ho" + "me/page"),
        ("https://name:word@example.org/a", "https://example.org/a"),
        (f"key={KEY}.", "key=<WANDB_API_KEY>."),
        ("prompt=box", "prompt=box"),
    ],
)
def test_a_string(typed: str, written: str, person: Path) -> None:
    here = str(person)
    assert redact_paths(typed.replace("HOME", here).replace("ROOT", str(ROOT))) == written.replace("HOME", here)


def test_every_string_of_a_tree(person: Path) -> None:
    tree = {"a": [f"{person}/a", {"b": f"{person}/b"}], "c": (1, None, f"{person}/c"), "d": 0.5}
    assert redact_paths(tree) == {"a": ["~/a", {"b": "~/b"}], "c": [1, None, "~/c"], "d": 0.5}


def test_a_home_behind_a_link(person: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = person.parent / "link"
    link.symlink_to(person)
    monkeypatch.setenv("HOME", str(link))
    assert redact_paths([f"{link}/a", f"{person}/a"]) == ["~/a", "~/a"]


def test_a_home_that_is_the_root_folder_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/")
    monkeypatch.chdir("/")
    assert redact_paths("data.root=/srv/coco") == "data.root=/srv/coco"


def test_a_command_is_kept_without_them(person: Path) -> None:
    found = capture("a processor", ["evaluate", f"checkpoint={person}/a.pt", f"x={KEY}"])
    assert found["argv"] == ["evaluate", "checkpoint=~/a.pt", "x=<WANDB_API_KEY>"]
    assert str(person) not in str(found) and KEY not in str(found)
    assert "sampress" in found["versions"]
