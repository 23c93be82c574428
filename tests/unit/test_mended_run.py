"""Which run goes on with the states of one that an image stopped: the same one but for that image, and no other."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core.errors import InputError
from experiments.runs.folder import LOCK
from experiments.runs.mended_run import NAME, refusals_noted, take_over


def images(*contents: str, refused: tuple[int, ...] = ()) -> Any:
    """Images whose ids are ten times their places."""
    data = SimpleNamespace(refused=set(refused), image_id=lambda index: 10 * index)
    return SimpleNamespace(data=data, indices=range(len(contents)), images=list(contents))


def stopped(folder: Path, key: str, *contents: str, refused: tuple[int, ...], state: str = "state") -> None:
    """A run that images stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stage.state").write_text(state)
    with pytest.raises(InputError), refusals_noted(folder, key, "apart", images(*contents, refused=refused)):
        raise InputError("an image is damaged")


def key_in(folder: Path, own: str) -> str:
    with refusals_noted(folder, own, "apart", images("a")) as key:
        return key


@pytest.mark.parametrize(
    ("contents", "apart", "is_taken"),
    [
        (("a", "mended", "c"), "apart", True),
        (("a", "damaged", "c"), "apart", True),
        (("changed", "mended", "c"), "apart", False),
        (("a", "mended"), "apart", False),
        (("a", "mended", "c", "d"), "apart", False),
        (("a", "mended", "c"), "other settings", False),
    ],
)
def test_only_images_that_were_refused_may_differ(
    contents: tuple[str, ...], apart: str, is_taken: bool, tmp_path: Path
) -> None:
    stopped(tmp_path / "old", "key of old", "a", "damaged", "c", refused=(10,))
    take_over(tmp_path / "new", apart, images(*contents))
    assert (tmp_path / "new").exists() == is_taken and (tmp_path / "old").exists() != is_taken
    if is_taken:
        # Also when it is stopped before anything else happens, and afterwards for good.
        assert [key_in(tmp_path / "new", "key of new") for _ in range(2)] == ["key of old"] * 2
        assert (tmp_path / "new" / "stage.state").read_text() == "state"


def test_once_an_image_may_have_been_trained_on_nobody_takes_the_run_over(tmp_path: Path) -> None:
    stopped(tmp_path / "old", "old", "a", "damaged", refused=(10,))
    # It could be read after all.
    assert key_in(tmp_path / "old", "old") == "old" and not (tmp_path / "old" / NAME).exists()
    take_over(tmp_path / "new", "apart", images("a", "mended"))
    assert not (tmp_path / "new").exists()
    stopped(tmp_path / "old", "old", "a", "damaged", refused=(10,))
    take_over(tmp_path / "new", "apart", images("a", "mended"))
    assert key_in(tmp_path / "new", "new") == "old"
    take_over(tmp_path / "third", "apart", images("a", "changed again"))
    assert not (tmp_path / "third").exists()
    # A second damaged image: the states are still those that the first run began.
    stopped(tmp_path / "new", "new", "damaged too", "mended", refused=(0,))
    take_over(tmp_path / "third", "apart", images("mended too", "mended"))
    assert key_in(tmp_path / "third", "third") == "old"


def test_what_is_there_already_or_empty_or_damaged_is_left_alone(tmp_path: Path) -> None:
    stopped(tmp_path / "empty", "e", "a", "damaged", refused=(10,), state="")
    assert not (tmp_path / "empty" / NAME).exists()
    stopped(tmp_path / "others", "o", "a", "b", refused=())
    assert not (tmp_path / "others" / NAME).exists()
    for number, content in enumerate(
        ("", "[]", "{", '{"run": "apart"}', '{"run": "apart", "images": 3, "damaged": 4}')
    ):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / NAME).write_text(content)
    take_over(tmp_path / "new", "apart", images("a", "mended"))
    assert not (tmp_path / "new").exists()
    stopped(tmp_path / "old", "old", "a", "damaged", refused=(10,))
    assert json.loads((tmp_path / "old" / NAME).read_text())["damaged"] == [1]
    (tmp_path / "there").mkdir()
    take_over(tmp_path / "there", "apart", images("a", "mended"))
    assert not [path.name for path in (tmp_path / "there").iterdir()] and (tmp_path / "old").is_dir()
    take_over(tmp_path / "new", "apart", images("a", "mended"))
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [LOCK, "stage.state", NAME]
