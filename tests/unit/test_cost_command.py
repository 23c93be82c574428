"""``cost``: with a method, with a teacher, and alone."""

import json
from collections.abc import Callable

import pytest

from core.provenance import ROOT
from core.result import ResultRow
from experiments.commands.cost import cells


@pytest.mark.slow
def test_alone_it_gives_the_readmes_table(command: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = command("cost", "format=json")
    assert status == 0 and not err
    rows = [ResultRow.from_dict(raw, "cost") for raw in json.loads(out)["rows"]]
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("<!-- table:cost -->")[2].partition("<!--")[0]
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.strip().splitlines()[2:]]
    assert [cells(row) for row in rows] == lines and len(rows) == 12


def test_a_teacher_alone_and_what_is_still_required(command: Callable[..., tuple[int, str, str]]) -> None:
    status, out, _ = command("cost", "teacher=sam_pocket", "format=json")
    (row,) = json.loads(out)["rows"]
    assert status == 0 and (row["method"], row["teacher"], row["parameters"]) == ("teacher", "sam_pocket", 2_864_416)
    for words, said in {
        ("method=slimsam",): "ratio is missing: SlimSam needs the share of channels to cut",
        ("~method", "ratio=0.5"): "ratio=0.5: there is no method that could take it; give method=slimsam too",
        ("ratio=2",): "ratio=2",
        ("method=tinysam", "method.init=x"): "tinysam: the shape is that of method.init, so its costs are counted once",
        ("method=mobilesam", "method.decoder_of=x"): "the shape of the decoder is that of method.decoder_of, so its",
        ("method=slimsam", "ratio=0.5", "method.scope=global"): "global pruning chooses widths by the weights, so its",
    }.items():
        status, out, err = command("cost", *words)
        assert status == 2 and not out and said in err and err.count("\n") == 1, words
