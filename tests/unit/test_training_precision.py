"""What a row was trained in: of all stages and runs, of files from before rows said it, and above tables."""

import json
from pathlib import Path
from typing import Any, cast

import pytest

from compressors.distill.engine import Engine
from compressors.distill.state import Progress
from compressors.method import Compressed
from core.checkpoint import write_text
from core.errors import InputError
from core.result import ResultRow
from experiments.config.schema import RunConfig
from experiments.reporting.columns import computed_on
from experiments.result_file import read_rows
from experiments.runs import rows
from students.files import read_model_metadata, save_model
from teachers.sam import Sam
from tests.unit.test_engine import stage
from tests.unit.tiny import tiny_sam


def compressed(*stages: tuple[int, str | None]) -> Compressed:
    return Compressed(cast(Sam, None), tuple(Progress(images=images, precision=name) for images, name in stages))


def test_only_what_trained_has_a_precision() -> None:
    assert compressed((8, "float32"), (8, "float32")).precisions == ("float32",)
    assert compressed((8, "float32"), (8, "bfloat16")).precisions == ("bfloat16", "float32")
    assert compressed((0, "bfloat16"), (8, None)).precisions == () == compressed().precisions


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_stage_says_what_it_was_trained_in_also_once_it_is_finished(tmp_path: Path, precision: str) -> None:
    for _ in range(2):
        assert Engine(tmp_path, precision=precision).fit(stage()).precision == precision


@pytest.mark.parametrize(
    ("before", "stages", "said"),
    [
        (None, [(8, "float32")], "float32"),
        ("float32", [], "float32"),
        ("bfloat16", [(8, "float32")], "bfloat16 and float32"),
        ("bfloat16 and float32", [(8, "float32")], "bfloat16 and float32"),
        (None, [], None),
    ],
)
def test_a_chain_has_the_precisions_of_all_its_runs(
    monkeypatch: pytest.MonkeyPatch, before: str | None, stages: list[tuple[int, str]], said: str | None
) -> None:
    monkeypatch.setattr(rows, "parent_metadata", lambda _: {"training_precision": before, "images_seen": 3})
    found = rows.of_chain(cast(RunConfig, None), compressed(*stages))
    assert found["training_precision"] == said and found["images_seen"] == 3 + 8 * len(stages)


def result_file(path: Path, **changes: Any) -> Path:
    row = ResultRow(method="slimsam", student="a student", images_seen=8, status="finished").to_dict()
    del row["training_precision"]
    content = {"rows": [row | {"schema_version": 8} | changes], "training_precision": "bfloat16"}
    write_text(path, json.dumps(content))
    return path


def test_earlier_files_say_it_beside_their_rows(tmp_path: Path) -> None:
    (row,) = read_rows(result_file(tmp_path / "a.json"))
    assert row.training_precision == "bfloat16"
    for changes in ({"images_seen": 0}, {"images_seen": None}, {"weight_bits": 4, "activation_bits": 4}):
        (row,) = read_rows(result_file(tmp_path / "b.json", **changes))
        assert row.training_precision is None, "nothing was trained, or grids learned, which they do in float32"


@pytest.mark.parametrize("fact", [{"training_precision": 4}, {"images_seen": "many"}, {"importance_images": [3]}])
def test_facts_of_training_of_another_type_are_refused(tmp_path: Path, fact: dict[str, Any]) -> None:
    save_model(tmp_path / "a.safetensors", tiny_sam(), fact)
    with pytest.raises(InputError, match=f"a.safetensors: says of its {next(iter(fact))} .*expected (int|str)"):
        read_model_metadata(tmp_path / "a.safetensors")


def test_a_table_says_what_its_rows_were_trained_and_scored_in() -> None:
    assert computed_on(["B", "A", "B", None], ["float32", None], "float32") == "A and B, float32"
    assert computed_on(["A"], [], "bfloat16") == "A, bfloat16"
    assert computed_on(["A"], ["bfloat16"], "float32") == "A, trained in bfloat16, scored in float32"
    mixed = computed_on(["A"], ["float32", "bfloat16 and float32"], "float32")
    assert mixed == "A, trained in bfloat16 and float32, scored in float32"
    assert computed_on(["A"], ["float32"], None) == "A"
