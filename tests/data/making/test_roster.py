"""The roster has who is needed, and nobody learns from one that is made later."""

from collections import Counter

from data.making.roster import HEIR, MEMBERS, SUSPECTS, TEACHERS


def test_four_teachers_and_at_least_forty_students_and_controls():
    roles = Counter(member.role for member in MEMBERS)
    assert len(TEACHERS) == 4
    assert roles["teacher"] == 5  # a student that is published as a teacher among them
    assert roles["student"] + roles["control"] >= 40
    assert len({member.name for member in (*MEMBERS, *SUSPECTS)}) == len(MEMBERS) + len(SUSPECTS)


def test_every_relation_is_there_and_every_teacher_has_students_of_its_own():
    students = [member for member in MEMBERS if member.role == "student"]
    assert {member.relation for member in students} == {"single", "mixed", "edited"}
    single = Counter(member.teachers for member in students if member.relation == "single")
    assert single == dict.fromkeys([(name,) for name in TEACHERS], 5)
    assert all(len(member.teachers) == 2 for member in students if member.relation == "mixed")


def test_teachers_of_students_learn_from_writers_alone():
    untaught = {member.name for member in MEMBERS if not member.teachers}
    for member in (*MEMBERS, *SUSPECTS):
        assert set(member.teachers) <= untaught


def test_the_heir_is_a_student_whose_fellow_students_are_its_siblings():
    heir = next(member for member in MEMBERS if member.name == HEIR)
    siblings = [m for m in MEMBERS if m.teachers == heir.teachers and m.role == "student"]
    assert (heir.group, heir.relation) == (HEIR, "single")
    assert len(siblings) >= 5


def test_some_students_hear_probabilities_and_some_read_text_alone():
    single = [member.heard for member in MEMBERS if member.relation == "single"]
    assert {True, False} == set(single)
