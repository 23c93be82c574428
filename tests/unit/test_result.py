"""Rows keep the columns of the first day, and refuse what is not a row."""

import json
from pathlib import Path

import pytest

from core import provenance
from core.errors import InputError
from core.result import COLUMNS, ResultRow
from experiments.result_file import read_rows, write_result

FIRST_DAY = [
    "run_id",
    "method",
    "ratio",
    "teacher",
    "student",
    "data",
    "protocol",
    "miou",
    "miou_small",
    "miou_medium",
    "miou_large",
    "miou_point",
    "parameters",
    "encoder_parameters",
    "macs_full",
    "macs_modules",
    "encoder_macs_full",
    "encoder_macs_modules",
    "size_bytes",
    "encoder_latency_ms",
    "decoder_latency_ms",
    "peak_memory_bytes",
    "device",
    "precision",
    "seed",
    "images_seen",
    "train_seconds",
    "status",
    "git_sha",
]

ROW = ResultRow(
    run_id="slimsam-r0.5-s0-00000000", method="slimsam", ratio=0.5, miou=0.1 + 0.2, parameters=27961776,
    status="finished", skipped={"crowd": 3},
)  # fmt: skip


def test_columns_keep_their_names_and_order() -> None:
    assert list(COLUMNS[: len(FIRST_DAY)]) == FIRST_DAY
    assert COLUMNS[len(FIRST_DAY) :] == (
        "instances", "images", "miou_low", "miou_high", "skipped", "reason", "variant", "train_images_per_s",
        "train_peak_memory_bytes", "device_hours",
        "weight_bits", "activation_bits", "bit_operations", "float_macs",
        "miou_images", "miou_categories", "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large",
        "ap_rare", "ap_common", "ap_frequent", "average_recall", "detections", "axes", "threads",
        "latency_reference", "encoder_latency_ratio", "encoder_latency_ratio_low", "encoder_latency_ratio_high",
        "decoder_latency_ratio", "decoder_latency_ratio_low", "decoder_latency_ratio_high",
        "importance_images", "simulated", "training_precision", "schema_version",
    )  # fmt: skip
    assert tuple(ROW.to_dict()) == COLUMNS


def test_a_row_of_the_first_version_lacks_what_came_later() -> None:
    raw = ROW.to_dict() | {"schema_version": 1}
    for name in ("variant", "train_images_per_s", "train_peak_memory_bytes", "device_hours"):
        del raw[name]
    assert ResultRow.from_dict(raw, "x.json") == ROW


def test_a_row_survives_json() -> None:
    assert ResultRow.from_dict(json.loads(json.dumps(ROW.to_dict())), "x.json") == ROW


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mio": 1}, "unknown mio"),
        ({"miou": None, "seed": "0"}, "seed is '0', not int"),
        ({"miou": 1.2}, "miou is 1.2, not within 0 to 1"),
        ({"miou": float("nan")}, "miou is nan, not a finite number"),
        ({"encoder_latency_ms": 10**400}, "encoder_latency_ms is 1000"),
        ({"parameters": 1.5}, "parameters is 1.5, not int"),
        ({"parameters": True}, "parameters is True, not int"),
        ({"method": None}, "method is null"),
        ({"status": "done"}, "status is 'done', not one of finished"),
        ({"skipped": {"crowd": "3"}}, "skipped does not map names to counts"),
        ({"parameters": 10**400}, f"parameters is 1{'0' * 59}, beyond 2**63 - 1"),
        ({"seed": -(2**63)}, "seed is -9223372036854775808, beyond 2**63 - 1"),
        ({"skipped": {"crowd": 2**63}}, "skipped is 9223372036854775808, beyond 2**63 - 1"),
        ({"variant": "\ud800x"}, r"variant is '\ud800x', which is not UTF-8"),
        ({"method": "\udfff" * 100}, r"method is '\udfff\udfff"),
        ({"skipped": {"\ud800": 3}}, r"skipped is '\ud800', which is not UTF-8"),
        ({"axes": {"boxes": "\ud800"}}, r"axes is '\ud800', which is not UTF-8"),
        ({"schema_version": 99}, "schema version 99, this version reads 9"),
    ],
)
def test_what_is_no_row_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=r"x\.json: ") as caught:
        ResultRow.from_dict({**ROW.to_dict(), **change}, "x.json")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_the_largest_number_and_any_whole_text_are_taken() -> None:
    raw = {**ROW.to_dict(), "parameters": 2**63 - 1, "seed": 1 - 2**63, "variant": "größer 😀", "axes": {"é": "😀"}}
    assert ResultRow.from_dict(raw, "x.json").to_dict() == raw


def test_a_missing_column_is_named() -> None:
    raw = ROW.to_dict()
    del raw["miou_point"]
    with pytest.raises(InputError, match="missing miou_point"):
        ResultRow.from_dict(raw, "x.json")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"rows": []}', '{"rows": 3}', '{"rows": [3]}'])
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"result\.json") as caught:
        read_rows(path)
    assert "force=true" in str(caught.value)


def test_a_written_file_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_result(path, [ROW, ROW], {"config": {"a": 1}})
    assert read_rows(path) == [ROW, ROW]
    assert json.loads(path.read_text())["config"] == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_provenance_names_code_machine_and_command_but_no_person() -> None:
    home = str(Path.home())
    found = provenance.capture(
        "a processor", ["method=slimsam", f"data.root={home}/photos", f"{provenance.ROOT}/x.pth"]
    )
    assert found["argv"][0] == "method=slimsam" and found["argv"][2] == "x.pth"
    assert home not in found["argv"][1] or len(home) <= 1
    assert found["device"] == "a processor" and found["versions"]["torch"] and found["versions"]["python"]
    assert found["utc"].endswith("+00:00") and found["threads"] >= 1
    sha = found["git_sha"]
    assert sha == "unknown" or (len(sha) == 40 and set(sha) <= set("0123456789abcdef"))
    json.dumps(found)


def test_the_commit_is_that_of_the_code_not_of_the_folder_one_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = provenance.git_sha()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    assert provenance.git_sha() == here
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.git_sha() == "unknown"
    assert provenance.capture("x")["git_dirty"] is None
