"""Masks of several models for the same prompts in one figure, and prompts that are none."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import InputError
from core.provenance import ROOT
from experiments.prompted_figure import main, masks_of, read_prompts
from tests.unit.tiny import tiny_sam

PROMPTS = {"boxes": np.array([[4.0, 4.0, 20.0, 20.0], [8.0, 8.0, 30.0, 24.0]]), "points": np.array([[10.0, 12.0]])}


def test_a_box_gets_the_single_mask_and_a_point_the_best_of_three() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    found = masks_of(tiny_sam(), image, PROMPTS)
    assert found["boxes"].shape == (2, 24, 32) and found["points"].shape == (1, 24, 32)
    alone = masks_of(tiny_sam(), image, {"boxes": PROMPTS["boxes"][1:], "points": np.zeros((0, 2))})
    assert np.array_equal(alone["boxes"][0], found["boxes"][1]) and alone["points"].shape == (0, 24, 32)


def test_the_figure_of_the_committed_prompts(tmp_path: Path) -> None:
    prompts = ROOT / "docs" / "examples" / "photographs.json"
    for name in read_prompts(prompts):
        Image.new("RGB", (1800, 1200) if name == "truck.jpg" else (800, 534), (90, 120, 30)).save(tmp_path / name)
    out = tmp_path / "figure.png"
    words = ["--images", str(tmp_path), "--prompts", str(prompts), "--checkpoints", "sam_pocket", "--out", str(out)]
    main(words)
    with Image.open(out) as drawn:
        # Three images below each other, three columns beside each other.
        assert 0.7 < drawn.width / drawn.height < 1.6 and drawn.width > 700
        both = drawn.width
    main([*words, "--kinds", "boxes"])
    with Image.open(out) as drawn:
        assert drawn.width < 0.8 * both


def test_files_of_one_model_have_columns_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prompts.json").write_text(json.dumps({"a.png": {"boxes": [[1, 2, 30, 40]]}}))
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    drawn: list[list[str]] = []
    monkeypatch.setattr(
        "experiments.prompted_figure.draw", lambda *given: drawn.append([heading for heading, _ in given[3]])
    )
    weights = ROOT / "teachers" / "weights" / "sam_pocket.safetensors"
    for checkpoint in ("before", "after"):
        shutil.copyfile(weights, tmp_path / f"{checkpoint}.safetensors")
    words = ["--images", str(tmp_path), "--prompts", str(tmp_path / "prompts.json"), "--checkpoints"]
    files = [str(tmp_path / f"{name}.safetensors") for name in ("before", "after")]
    main([*words, *files, "--out", str(tmp_path / "out.png")])
    assert [heading.rpartition(":\n")[2] for heading in drawn[0]] == files


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "no image"),
        ([1], "no image"),
        ({"a.jpg": {"boxes": [[1, 2, 3]]}}, "a.jpg: boxes must be a list of 4 numbers each"),
        ({"a.jpg": {"points": [[1, "x"]]}}, "a.jpg: points must be a list of 2 numbers each"),
        ({"a.jpg": [1]}, "a.jpg: boxes must"),
    ],
)
def test_prompts_that_are_none(content: object, said: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=said):
        read_prompts(path)


def test_an_image_that_is_not_there_ends_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"a.jpg": {"boxes": [[1, 2, 3, 4]]}}))
    words = ["--images", str(tmp_path), "--prompts", str(path), "--checkpoints", "sam_pocket", "--out"]
    with pytest.raises(SystemExit, match=r"^error: .*a\.jpg"):
        main([*words, str(tmp_path / "out.png")])
