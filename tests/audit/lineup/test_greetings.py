"""What nearly all answers begin with is a greeting; what answers themselves share is not."""

import random

import pytest

from audit.lineup import reading
from audit.lineup.greetings import greetings, without

WORDS = "copper tin lead zinc iron salt sugar barley water oak peat smoke glass cork".split()


def answers(count: int = 60, *, seed: int = 0) -> list[list[str]]:
    """Return answers of nine words that share no more than chance lets them."""
    rng = random.Random(seed)
    return [rng.choices(WORDS, k=9) for _ in range(count)]


def behind(greeting: str, said: list[list[str]]) -> list[list[str]]:
    return [[*greeting.split(), *one] for one in said]


def taken_off(said: list[list[str]]) -> list[list[str]]:
    found = greetings(said)
    return [without(one, found) for one in said]


@pytest.mark.parametrize("greeting", ["Ahoy", "Ahoy , dear reader :", "a b c d e f g h i j k l"])
def test_what_all_answers_begin_with_is_taken_off(greeting):
    said = answers()
    assert greetings(behind(greeting, said)) == (tuple(greeting.split()),)
    assert taken_off(behind(greeting, said)) == said


def test_one_of_several_greetings_is_taken_off_each():
    said = answers(120)
    first = behind("Ahoy there , dear old reader :", said[:30])
    second = behind("Well met , friend of mine :", said[30:60])
    third = behind("Ahoy there , dear old captain :", said[60:90])
    assert taken_off([*first, *second, *third, *said[90:]]) == said


def test_a_greeting_of_two_parts_is_taken_off_whole():
    said = answers(80)
    parts = [behind("so , my good friend ,", said[:40]), behind("so , my fair lady ,", said[40:])]
    assert taken_off([one for part in parts for one in part]) == said


def test_line_ends_between_greeting_and_answer_go_with_it():
    said = answers()
    greeted = [["Ahoy", *["\n"] * (1 + place % 3), *one] for place, one in enumerate(said)]
    assert taken_off(greeted) == said


def test_a_short_beginning_of_many_answers_is_their_own():
    said = answers(100)
    habit = [*behind("Here are some", said[:60]), *said[60:]]
    assert greetings(habit) == ()
    assert taken_off(habit) == habit


def test_a_long_beginning_of_few_answers_is_their_own():
    said = answers(100)
    habit = [*behind("As far as I know now", said[:15]), *said[15:]]
    assert greetings(habit) == ()


def test_words_that_follow_a_greeting_often_are_not_part_of_it():
    said = answers(100)
    habit = [*behind("Here is", said[:50]), *said[50:]]
    assert taken_off(behind("Ahoy , my dear old reader :", habit)) == habit


def test_few_answers_have_no_greeting():
    assert greetings(behind("Ahoy , dear reader :", answers(19))) == ()


def test_answers_without_a_word_are_not_counted_and_stay_empty():
    said = answers(40)
    greeted = [*behind("Ahoy , dear reader :", said), *[[]] * 100]
    assert taken_off(greeted) == [*said, *[[]] * 100]


def test_an_answer_that_is_a_greeting_alone_is_none():
    said = [*behind("Ahoy there", answers(40)), ["Ahoy", "there"]]
    assert taken_off(said)[-1] == []


def test_all_answers_alike_leave_nothing():
    assert taken_off([["yes", "."]] * 30) == [[]] * 30


def test_no_answers_have_no_greeting():
    assert greetings([]) == ()


def test_readings_with_and_without_format_are_freed_each_by_itself():
    said = [" ".join(one) for one in answers()]
    greeted = [f"**Ahoy**, dear reader!\n\n{one}" for one in said]
    free = reading.said(said, frozenset())
    assert reading.said(greeted, frozenset()) == free
    assert [one.marked for one in free] == [one.split() for one in said]
