"""Commands that write into one folder at once: each ends well or is refused in one line, and the folder is whole."""

import json
import multiprocessing
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

from students.export.manifest import MANIFEST
from students.export.placing import replacing_folder

FORK = multiprocessing.get_context("fork")


def at_once(count: int, work: Callable[[int, Barrier], None]) -> list[int | None]:
    """Let so many processes begin together; their exit statuses."""
    barrier = FORK.Barrier(count, timeout=120)
    children = [FORK.Process(target=work, args=(number, barrier)) for number in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join(240)
    return [child.exitcode for child in children]


def test_exports_into_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def export(number: int, barrier: Barrier) -> None:
        barrier.wait()
        for turn in range(30):
            with replacing_folder(out) as temporary:
                for name in ("encoder.onnx", "decoder.onnx", MANIFEST):
                    (temporary / name).write_text(json.dumps([number, turn]))

    assert at_once(3, export) == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing is left"
    assert len({path.read_text() for path in out.iterdir()}) == 1 and len(list(out.iterdir())) == 3
