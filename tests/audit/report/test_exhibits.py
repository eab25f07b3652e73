"""Exhibits are shown in pairs, cut to fit, with shared words marked and nothing obeyed."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from audit.evidence import Exhibit
from audit.report.exhibits import left_out, marked, rows
from audit.report.reveal import reveal
from tests.fakes import reports
from tests.fakes.pages import HOSTILE


def exhibit(side: str, name: str, teacher: str = "t", suspect: str = "s") -> Exhibit:
    answers = {"teacher": teacher, "suspect": suspect, "control": teacher}
    return Exhibit(id=name, prompt="p", answers=answers, note="n", side=side)


def shown(*exhibits: Exhibit, most: int = 9, length: int = 500, needs: str = "text"):
    probe = dataclasses.replace(reports.probe(), exhibits=exhibits, needs=needs)
    return rows(probe, most, length), left_out(probe, most)


def test_each_row_sets_one_for_beside_one_against():
    found, left = shown(
        exhibit("for", "a"), exhibit("for", "b"), exhibit("against", "c"), exhibit("against", "d")
    )
    assert [[one.id for one in row] for row in found] == [["a", "c"], ["b", "d"]]
    assert left == 0


def test_as_many_are_left_out_of_one_side_as_of_the_other():
    sides = [exhibit(side, f"{side}{n}") for n in range(3) for side in ("for", "against")]
    found, left = shown(*sides, most=1)
    assert [[one.id for one in row] for row in found] == [["for0", "against0"]]
    assert left == 4


def test_unsorted_exhibits_stand_alone():
    found, _ = shown(exhibit("unsorted", "x"), exhibit("unsorted", "y"))
    assert [len(row) for row in found] == [1, 1]


def test_three_words_in_a_row_of_both_answers_are_marked_in_both_and_no_third():
    found, _ = shown(
        exhibit("for", "a", "Well: one two, three four!", "say ONE two three four five one two")
    )
    teacher, suspect, control = found[0][0].answers
    assert teacher.shown == "Well: <mark>one two, three four</mark>!"
    assert suspect.shown == "say <mark>ONE two three four</mark> five one two"
    assert control.shown == "Well: one two, three four!"


def test_continuations_are_not_compared_where_weights_were():
    found, _ = shown(exhibit("for", "a", "one two three", "one two three"), needs="weights")
    assert all("<mark>" not in one.shown for one in found[0][0].answers)


def test_a_long_text_says_how_much_is_left_out():
    found, _ = shown(exhibit("for", "a", "x" * 700), length=100)
    teacher = found[0][0].answers[0]
    assert (teacher.shown, teacher.left) == ("x" * 100, 600)


@given(st.text(max_size=80), st.text(max_size=20))
def test_marks_add_nothing_but_tags(text, other):
    said = f"{text} one two three {other}"
    found = marked(said, {("one", "two", "three")})
    plain = found.replace("<mark>", "").replace("</mark>", "").unescape()
    assert "<mark>one two three" in found or "<mark>" in found
    assert plain == reveal(said)


def test_hostile_answers_are_escaped_in_and_out_of_marks():
    runs = {("alert", "1", "script"), ("script", "alert", "1"), ("img", "src", "x")}
    found = marked(f"{HOSTILE} alert {HOSTILE}", runs)
    assert "<mark>" in found
    assert "<script" not in found and "<img" not in found and "\u202e" not in found
    assert "⟨U+202E⟩" in found
