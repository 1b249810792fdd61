"""Tables for notebooks: plain, light, and safe whatever the names are."""

from __future__ import annotations

from svc_dist.notebook import table


def test_names_and_values_are_text_and_never_markup() -> None:
    shown = table.block(
        "<i>", table.paragraph("a < b"), table.fields([("<b>", "<script>")]), table.grid(("<u>",), [("<a href=x>",)])
    )
    assert not [tag for tag in ("<i>", "<b>", "<u>", "<script>", "<a ", "a < b") if tag in shown]


def test_nothing_decides_about_colours() -> None:
    shown = table.block("t", table.fields([("a", "b")]), table.grid(("n",), [(1,)]))
    assert not [word for word in ("color", "background", "<style", "class=") if word in shown]


def test_numbers_are_for_people_and_empty_parts_are_left_out() -> None:
    shown = table.grid(("count", "share"), [(12345, 0.12345)])
    assert "12,345" in shown
    assert "0.123<" in shown
    assert table.grid(("count",), []) == table.paragraph("") == ""
    assert "nothing" not in table.fields([("nothing", "")])


def test_of_many_rows_only_the_first_are_shown() -> None:
    shown = table.grid(("n",), [(f"row {number}",) for number in range(1000)])
    assert shown.count("<tr>") == 21
    assert "and 980 more" in shown
