"""Nothing is written through a link that lies where a file is to be made, and other hazards of places."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from compressors.distill.log import StageLog
from compressors.distill.state import Progress, save_state
from core.checkpoint import write_safetensors, write_text
from core.errors import InputError
from core.plain_file import check_regular, read_json
from core.result import ResultRow
from data.embeddings import DiskEmbeddings
from evaluation.records import ImageRecords, PartFile, write_records
from experiments.cli.command_line import main
from experiments.result_file import write_result
from students.convert.layouts import save_hugging_face
from students.export.manifest import MANIFEST
from students.export.placing import check_folder, replacing_folder
from students.files import save_model
from tests.unit.hostile_runs import parts
from tests.unit.tiny import tiny_sam

PRECIOUS = "somebody's thesis\n" * 100


def _log(path: Path) -> None:
    with StageLog(path, 0) as write:
        write({"step": 1})


def _part(path: Path) -> None:
    part = PartFile(path.parent, 0, "key")
    part.add(ImageRecords(0))
    part.close()


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "text": ("a.txt", lambda path: write_text(path, "ours")),
    "safetensors": ("a.safetensors", lambda path: write_safetensors(path, {"a": torch.zeros(1)}, {})),
    "model": ("student.safetensors", lambda path: save_model(path, tiny_sam())),
    "hf_weights": ("model.safetensors", lambda path: save_hugging_face(path.parent, tiny_sam())),
    "hf_config": ("config.json", lambda path: save_hugging_face(path.parent, tiny_sam())),
    "result": (
        "result.json",
        lambda path: write_result(path, [ResultRow(method="teacher", status="finished")], {}),
    ),
    "state": ("a.state", lambda path: save_state(path, "key", parts(), Progress())),
    "log": ("a.jsonl", _log),
    "part": ("part-0.jsonl", _part),
    "records": ("instances.jsonl", lambda path: write_records(path.parent, {})),
    "meta": ("a.pth", lambda path: main(["convert", "checkpoint=sam_pocket", "to=meta", f"out={path}"])),
}


@pytest.mark.parametrize("kind", ["absolute", "relative", "dangling"])
@pytest.mark.parametrize("writer", WRITERS)
def test_nothing_is_written_through_a_link(tmp_path: Path, writer: str, kind: str) -> None:
    name, write = WRITERS[writer]
    (tmp_path / "out").mkdir()
    precious = tmp_path / "precious"
    if kind != "dangling":
        precious.write_text(PRECIOUS)
    path = tmp_path / "out" / name
    path.symlink_to(precious if kind == "absolute" else Path("..") / "precious")
    write(path)
    assert not path.is_symlink() and path.is_file() == (writer != "records")
    assert precious.read_text() == PRECIOUS if kind != "dangling" else not precious.exists()


def test_an_export_replaces_a_link_and_not_the_folder_behind_it(tmp_path: Path) -> None:
    behind, out = tmp_path / "behind", tmp_path / "out"
    behind.mkdir()
    for name in (MANIFEST, "precious"):
        (behind / name).write_text(PRECIOUS)
    out.symlink_to(behind)
    check_folder(out)
    with replacing_folder(out) as temporary:
        (temporary / "encoder.onnx").write_text("ours")
    assert not out.is_symlink() and [path.name for path in out.iterdir()] == ["encoder.onnx"]
    assert sorted(path.name for path in behind.iterdir()) == sorted([MANIFEST, "precious"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["behind", "out"]


def test_a_shard_that_shrinks_while_it_is_used_ends_nothing(tmp_path: Path) -> None:
    """A mapped file that is shortened would take the process along."""
    keys = [bytes([number]) * 32 for number in range(4)]
    writer = DiskEmbeddings(tmp_path, 4, 4)
    for key in keys:
        writer.put(key, torch.ones(4, 4, 4), torch.ones(4, 4, dtype=torch.bool))
    reader = DiskEmbeddings(tmp_path, 4, 4)
    assert reader.get(keys[3]) is not None
    (shard,) = tmp_path.iterdir()
    os.truncate(shard, shard.stat().st_size // 2)
    assert [reader.get(key) is None for key in keys] == [False, True, True, True] and reader.damaged == 3
    shard.unlink()
    assert reader.get(keys[0]) is None and reader.damaged == 4


def test_errors_stay_in_their_line_and_say_nothing_to_the_terminal() -> None:
    message = str(InputError("a\nb\r\x1b]0;title\x07\u202e\udcff" + "x" * 100_000 + "; fetch it again"))
    assert message.isprintable() and len(message) < 2100
    assert message.startswith("a b \\x1b]0;title\\x07\\u202e\\udcff") and message.endswith("; fetch it again")
    assert str(InputError("größer als «1»")) == "größer als «1»"


def test_json_is_read_as_it_is_meant_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": [1, {"b": None}]}))
    assert read_json(path, "write it again") == {"a": [1, {"b": None}]}
    with monkeypatch.context() as patch, pytest.raises(InputError, match=r"a\.json: is longer than 5 bytes; write it"):
        patch.setattr("core.plain_file.JSON_LIMIT", 5)
        read_json(path, "write it again")
    for text, words in (('{"a": {"b": 1, "b": 2}}', "has the key 'b' twice"), ("[" * 99_999, "nested too deep")):
        path.write_text(text)
        with pytest.raises(InputError, match=rf"a\.json: cannot be read \({words}\); write it again"):
            read_json(path, "write it again")


def test_regular_files_behind_links_are_files(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    check_regular(tmp_path / "link")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="zero: is a pipe, a socket or a device"):
        check_regular(tmp_path / "zero")


def test_the_command_line_tells_a_hostile_file_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    for command in (["evaluate", "evaluation=shapes"], ["convert", "to=meta", f"out={tmp_path / 'a.pth'}"]):
        assert main([*command, f"checkpoint={tmp_path / 'pipe.safetensors'}"]) == 2
        (line,) = capfd.readouterr().err.strip().splitlines()
        assert line.startswith(f"error: {tmp_path / 'pipe.safetensors'}: is a pipe")
