"""Prose quotes figures of tables, and fails where the rows no longer say what it does."""

import pytest

from core.errors import InputError
from experiments.reporting.quoted_cells import quoted, verdict, with_quotes

TABLE = """Of the box, in points.

| | model | mIoU |
|---|---|---|
| one | `a` | 0.9 |
| two | `a` | **0.8** |
| three | `a` | 0.7, **+0.1 [+0.0, +0.2]**† |

| ordering | of | point | box |
|---|:-:|---|---|
| a > b | one | **+1.5 [+0.5, +2.5]†** | -0.2 [-0.9, +0.4] |
| a > b | two | -3.0 [-4.0, -2.0] | +0.1 [+0.0, +0.3] |
"""


def page(mark: str) -> str:
    return f"A is ahead (<!-- cell:{mark} -->old\nwords<!-- /cell -->) here."


@pytest.mark.parametrize(
    ("mark", "figure"),
    [
        ("t; a > b; one; point; above", "+1.5 [+0.5, +2.5]†"),
        ("t; a > b; one; box; undecided", "-0.2 [-0.9, +0.4]"),
        ("t; a > b; two; point; below", "-3.0 [-4.0, -2.0]"),
        ("t; two; a; mIoU; value", "0.8"),
        ("t; three; a; mIoU; above", "0.7, +0.1 [+0.0, +0.2]†"),
    ],
)
def test_a_figure_is_that_of_its_line_and_column(mark: str, figure: str) -> None:
    new = page(mark).replace("old\nwords", figure)
    assert with_quotes(page(mark), {"t": TABLE}.__getitem__) == new
    assert with_quotes(new, {"t": TABLE}.__getitem__) == new


@pytest.mark.parametrize("says", ["below", "undecided"])
def test_a_sentence_that_the_rows_no_longer_bear_is_an_error(says: str) -> None:
    with pytest.raises(InputError, match=r"the rows say \+1.5 \[\+0.5, \+2.5\]†, which is above; change the sentence"):
        with_quotes(page(f"t; a > b; one; point; {says}"), {"t": TABLE}.__getitem__)


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("t; a > b; point; above", "2 lines have the keys a > b and the column point"),
        ("t; a > c; point; above", "no lines have the keys a > c and the column point"),
        ("t; a > b; one; mIoU; value", "no lines have the keys a > b; one and the column mIoU"),
        ("t; one; mIoU; above", "'0.9' has no interval; quote it as a value"),
        ("t; a > b; one; point", "ends with one of above, below, undecided, value; it ends with 'point'"),
    ],
)
def test_a_mark_that_names_no_figure_is_an_error(mark: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        with_quotes(page(mark), {"t": TABLE}.__getitem__)
    assert message in str(caught.value)


def test_a_bound_that_rounds_to_zero_lies_on_one_side_of_it() -> None:
    assert verdict("+0.1 [+0.0, +0.3]") == "above" and verdict("-0.1 [-0.3, -0.0]†") == "below"
    assert verdict("+0.1 [-0.0, +0.3]") == verdict("-0.1 [-0.3, +0.0]") == verdict("+0.0 [+0.0, +0.0]") == "undecided"
    assert quoted(TABLE, ["one", "a"], "mIoU", "") == "0.9"
