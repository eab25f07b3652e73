"""A line's amount is its formula's; what is not known stays unknown, also in a sum."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.papers.ledger import Line, counted, evaluate, total, worked_out


def line(key: str, value: float | None, unknown: str = "") -> Line:
    return Line(
        key=key, group="time", name=key.title(), value=value, unit="s", unknown=unknown
    )  # fmt: skip


@given(st.floats(-1e9, 1e9), st.floats(0.1, 1e9), st.integers(-1000, 1000))
def test_a_formula_is_ordinary_arithmetic(a, b, c):
    text = "a * (b + 2.5) - c / b"
    assert evaluate(text, {"a": a, "b": b, "c": c}) == a * (b + 2.5) - c / b


@pytest.mark.parametrize(
    "text", ["a.b", "f(a)", "a ** 2", "[a]", "'a'", "c", "a if a else a", "a // a", "-a", "1j"]
)
def test_anything_else_is_refused(text):
    with pytest.raises((ValueError, SyntaxError)):
        evaluate(text, {"a": 2.0})


def test_a_line_is_worked_out_from_its_formula_and_keeps_it():
    made = worked_out(
        "x", "energy", "X", "kWh", "a / b", {"a": 6.0, "b": 4.0}, source="stated", unknown="state b"
    )
    assert (made.value, made.formula, made.inputs) == (1.5, "a / b", {"a": 6.0, "b": 4.0})
    assert made.unknown == ""


def test_an_input_nobody_knows_leaves_the_line_unknown_and_says_what_to_state():
    made = worked_out(
        "x", "energy", "X", "kWh", "a / b", {"a": 6.0, "b": None}, source="", unknown="state b"
    )
    assert made.value is None
    assert made.unknown == "state b"
    assert made.inputs == {"a": 6.0}


def test_a_price_of_nothing_is_known():
    made = worked_out("x", "money", "X", "EUR", "a * b", {"a": 6.0, "b": 0.0}, source="")
    assert made.value == 0 and made.unknown == ""


def test_a_sum_names_its_parts_by_their_keys():
    made = total("all", "time", "All", "s", [line("one", 1.5), line("two", 2.0)])
    assert made.value == 3.5
    assert made.formula == "one + two" and made.inputs == {"one": 1.5, "two": 2.0}
    assert made.without == () and made.unknown == ""


def test_a_sum_says_which_parts_it_is_missing_and_each_reason_once():
    parts = [line("one", 1.0), line("two", None, "state b"), line("three", None, "state b")]
    made = total("all", "time", "All", "s", parts)
    assert made.value == 1
    assert made.without == ("Two", "Three")
    assert made.unknown == "state b"


def test_a_sum_of_unknown_parts_is_unknown_and_a_sum_of_none_is_nothing():
    assert total("all", "time", "All", "s", [line("one", None)]).value is None
    assert total("all", "time", "All", "s", []).value == 0


def test_what_was_counted_has_no_formula_but_says_where():
    made = counted("x", "tokens", "X", 7, "tokens", source="counted by the run")
    assert (made.value, made.formula, made.source) == (7, "", "counted by the run")
