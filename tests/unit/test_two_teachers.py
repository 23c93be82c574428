"""Tables in which students of several teachers stand."""

from dataclasses import replace

from tests.unit.test_table import TEACHER, only, row, student, table_rows


def test_students_of_two_teachers_side_by_side_are_distinguished() -> None:
    of_other = row("scratch", miou=0.375, teacher="sam_photo", axes={"data_sha256": "a" * 64})
    other = replace(TEACHER, teacher="sam_photo", axes=of_other.axes)
    filled = [row("filled_box", None, miou=0.25, teacher=None, axes=axes) for axes in (None, of_other.axes)]
    lines = table_rows([student(0, 0.5), TEACHER, of_other, other, *filled])
    assert [line.model for line in lines if line.method in ("slimsam", "scratch")] == [
        "slimsam 0.5 of sam_pocket",
        "scratch of sam_photo",
    ]
    assert (only(lines, "slimsam").to_teacher, only(lines, "scratch").to_teacher) == (-25, -37.5)
    assert only(lines, "filled_box").to_teacher is None, "one line, beside neither teacher"
