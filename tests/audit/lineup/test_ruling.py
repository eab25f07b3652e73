"""Each thing a SUPPORTED finding needs, taken away one at a time."""

from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from audit.bank import load
from audit.evidence import Verdict
from audit.lineup import case, index, known, reading, ruling
from audit.lineup.ratio import Ratio
from audit.lineup.ruling import Rules, rule
from tests.fakes import lineups

STUDENT = "pupil"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return a bank with a clear student of g0, its line-up and the student's case."""
    people = [
        *lineups.teachers(4),
        *lineups.unrelated(12),
        *lineups.unrelated(3, "control"),
        *[lineups.student(f"s{n}", n % 4) for n in range(1, 7)],
        lineups.student(STUDENT, 0, 0.7),
    ]
    bank = load(lineups.write(tmp_path_factory.mktemp("bank"), people))
    made = index.of(bank, reading.VIEWS, cache=None, tell=lambda done, steps: None)
    facts = known.facts(bank)
    models = case.lineup(bank, made, facts, 20)
    row = models.family.index(STUDENT)
    return bank, models, case.examine(models, facts, [row], frozenset({STUDENT}))


def judge(world, *, bank=None, found=None, suspect=None, rules=None, answered=60):
    """Return the finding on the student and g0, with something exchanged."""
    own, models, case_ = world
    own = bank or own
    suspect = suspect or own.model(STUDENT)
    found = found or case_
    return rule(own, models, found, suspect, 0, rules or Rules(), answered=answered)


def with_group(bank, number, **changes):
    groups = list(bank.groups)
    groups[number] = replace(groups[number], **changes)
    return replace(bank, groups=tuple(groups))


def scored(found, scores):
    """Return the case with other scores of the student, by group."""
    score_SK = found.main.score_SK.copy()
    for group, score in scores.items():
        score_SK[0, group] = score
    return replace(found, main=replace(found.main, score_SK=score_SK))


def test_a_clear_student_is_supported_and_nothing_else_is(world):
    first, *others = judge(world)
    assert (first.group, first.verdict) == ("g0", Verdict.SUPPORTED)
    assert first.relation in (ruling.TRAINED, ruling.NOT_SEPARATED)
    assert first.rank == 1
    assert first.p_value < first.p_adjusted <= 0.05
    assert first.p_own == pytest.approx(first.p_own_floor)
    assert first.log10_lr > 0
    assert set(first.checks) == set(case.CHECKS)
    assert {other.verdict for other in others} <= {Verdict.NOT_SUPPORTED, Verdict.INCONCLUSIVE}


def test_adjusted_p_values_are_holms_over_the_groups_asked_about(world):
    rows = judge(world)
    p = sorted(row.p_value for row in rows)
    assert rows[0].p_adjusted == pytest.approx(p[0] * len(rows))


def test_groups_that_dates_or_makers_decide_cost_the_others_nothing(world):
    bank = with_group(with_group(world[0], 1, launch=date(2024, 1, 1)), 2, vendor="mine")
    suspect = replace(world[0].model(STUDENT), published=date(2023, 1, 1), family="mine")
    first, late, sibling, other = judge(world, bank=bank, suspect=suspect)
    p = sorted([first.p_value, other.p_value])
    assert first.p_adjusted == pytest.approx(2 * p[0])
    assert (late.p_adjusted, sibling.p_adjusted) == (late.p_value, sibling.p_value)
    assert late.verdict is Verdict.NOT_SUPPORTED
    assert sibling.verdict is not Verdict.SUPPORTED


def test_a_suspect_that_answers_too_little_is_insufficient(world):
    for row in judge(world, answered=19):
        assert row.verdict is Verdict.INSUFFICIENT
        assert row.reason == "it answers 19 of the bank's prompts, and 20 are needed"
        assert (row.score, row.p_value, row.log10_lr) == (None, None, None)


def test_a_group_with_few_unrelated_families_is_insufficient(world):
    _, _, found = world
    votes_K = found.main.votes_K.copy()
    votes_K[0] = 2.0
    rows = judge(world, found=replace(found, main=replace(found.main, votes_K=votes_K)))
    assert rows[0].verdict is Verdict.INSUFFICIENT
    assert "2 unrelated families" in rows[0].reason
    assert rows[1].verdict is not Verdict.INSUFFICIENT


def test_too_few_pairs_for_any_small_p_value_are_insufficient(world):
    _, _, found = world
    few = replace(found.main, votes_K=np.full(4, 4.0))
    assert {row.verdict for row in judge(world, found=replace(found, main=few))} == {
        Verdict.INSUFFICIENT
    }


def test_a_group_without_a_score_is_insufficient(world):
    rows = judge(world, found=scored(world[2], {0: np.nan}))
    assert rows[0].verdict is Verdict.INSUFFICIENT
    assert rows[1].verdict is not Verdict.INSUFFICIENT


def test_answers_from_before_the_launch_rule_a_group_out(world):
    bank = with_group(world[0], 0, launch=date(2024, 1, 1))
    early = replace(world[0].model(STUDENT), published=date(2023, 12, 31))
    row = judge(world, bank=bank, suspect=early)[0]
    assert row.verdict is Verdict.NOT_SUPPORTED
    assert "2023-12-31" in row.reason and "2024-01-01" in row.reason
    same_day = replace(early, published=date(2024, 1, 1))
    assert judge(world, bank=bank, suspect=same_day)[0].verdict is Verdict.SUPPORTED


def test_siblings_of_one_maker_are_never_students(world):
    of_maker = replace(world[0].model(STUDENT), family="v0")
    row = judge(world, suspect=of_maker)[0]
    assert (row.verdict, row.relation) == (Verdict.INCONCLUSIVE, ruling.SIBLING)


def test_a_member_of_another_group_of_the_maker_is_a_sibling(world):
    bank = with_group(world[0], 3, vendor="v0")
    member = replace(world[0].model(STUDENT), group="g3")
    rows = judge(world, bank=bank, suspect=member)
    assert [row.group for row in rows] == ["g0", "g1", "g2"]
    assert (rows[0].verdict, rows[0].relation) == (Verdict.INCONCLUSIVE, ruling.SIBLING)


def test_an_older_group_has_not_learnt_from_a_newer_one(world):
    bank = with_group(with_group(world[0], 0, launch=date(2024, 1, 1)), 3, launch=date(2023, 1, 1))
    member = replace(world[0].model(STUDENT), group="g3")
    row = judge(world, bank=bank, suspect=member)[0]
    assert row.verdict is Verdict.INCONCLUSIVE
    assert "no direction" in row.reason


def test_two_makers_that_are_about_as_close_are_both_left_open(world):
    found = scored(world[2], {1: world[2].main.score_SK[0, 0] - 0.9})
    row = judge(world, found=found)[0]
    assert row.verdict is Verdict.INCONCLUSIVE
    assert "g1 of another maker" in row.reason
    further = scored(world[2], {1: world[2].main.score_SK[0, 0] - 1.1})
    assert judge(world, found=further)[0].verdict is Verdict.SUPPORTED


def test_its_own_group_is_a_rival_too(world):
    found = scored(world[2], {3: world[2].main.score_SK[0, 0] + 1})
    member = replace(world[0].model(STUDENT), group="g3")
    row = judge(world, found=found, suspect=member)[0]
    assert row.verdict is Verdict.INCONCLUSIVE
    assert "g3 of another maker" in row.reason


def test_of_one_makers_groups_only_the_closest_is_supported(world):
    bank = with_group(world[0], 1, vendor="v0")
    closer = scored(world[2], {1: world[2].main.score_SK[0, 0] + 0.1})
    row = judge(world, bank=bank, found=closer)[0]
    assert row.verdict is Verdict.INCONCLUSIVE
    assert "g1 of the same maker more" in row.reason
    near = scored(world[2], {1: world[2].main.score_SK[0, 0] - 0.1})
    assert judge(world, bank=bank, found=near)[0].verdict is Verdict.SUPPORTED


@pytest.mark.parametrize("check", ["format stripped", "length matched"])
@pytest.mark.parametrize("p_value", [0.06, np.nan])
def test_a_likeness_that_vanishes_without_format_or_length_is_named_so(world, check, p_value):
    _, _, found = world
    p_SK = found.check_SK[check].copy()
    p_SK[0, 0] = p_value
    row = judge(world, found=replace(found, check_SK={**found.check_SK, check: p_SK}))[0]
    assert row.verdict is Verdict.INCONCLUSIVE
    assert check in row.reason


def first_words_alone(found, log10_lr, p_value=0.06):
    """Return the case with such a p-value after the first words, and such a likelihood ratio."""
    p_SK = found.check_SK["after the first words"].copy()
    p_SK[0, 0] = p_value
    ratio = None if log10_lr is None else Ratio(slope=0.0, offset=log10_lr, low=-9.0, high=9.0)
    return replace(found, check_SK={**found.check_SK, "after the first words": p_SK}, ratio=ratio)


def test_a_likeness_beyond_the_first_words_needs_no_ratio_and_is_named_so(world):
    for log10_lr in (None, 0.5, 3.0):
        row = judge(world, found=first_words_alone(world[2], log10_lr, p_value=0.04))[0]
        assert row.verdict is Verdict.SUPPORTED
        assert "beyond the first words" in row.reason


def test_a_likeness_of_the_first_words_alone_needs_a_ratio_of_one_over_alpha(world):
    enough = np.log10(20)
    row = judge(world, found=first_words_alone(world[2], enough))[0]
    assert row.verdict is Verdict.SUPPORTED
    assert row.reason.startswith("it begins its answers as the group does; further on")
    for log10_lr, said in ((enough - 0.05, "and it is 18"), (None, "and no ratio is known")):
        row = judge(world, found=first_words_alone(world[2], log10_lr))[0]
        assert row.verdict is Verdict.INCONCLUSIVE
        assert f"need a likelihood ratio of 20, {said}" in row.reason


def test_answers_too_short_to_be_read_further_are_first_words_alone(world):
    row = judge(world, found=first_words_alone(world[2], None, p_value=np.nan))[0]
    assert row.verdict is Verdict.INCONCLUSIVE


def test_a_teacher_is_no_student_of_the_group_it_taught(world):
    bank, _, _ = world
    models = tuple(
        replace(one, teachers=("g9",)) if one.group == "g0" else one for one in bank.models
    )
    elder = replace(bank.model(STUDENT), group="g9")
    taught = replace(bank, models=models)
    row = judge(world, bank=taught, suspect=elder)[0]
    assert row.verdict is Verdict.INCONCLUSIVE
    assert "documented to have taught the group, and likeness has no direction" in row.reason
    # It cannot be SUPPORTED, so it costs the other groups no power.
    others = [r.p_adjusted for r in judge(world, bank=taught, suspect=elder)[1:]]
    assert min(others) <= min(r.p_adjusted for r in judge(world)[1:])
    assert judge(world, bank=bank, suspect=elder)[0].verdict is Verdict.SUPPORTED


def test_what_is_not_calibrated_is_not_supported(world):
    _, _, found = world
    failing = tuple(
        replace(one, low=0.5) if one.name == "human-data controls" and one.corrected else one
        for one in found.strata
    )
    row = judge(world, found=replace(found, strata=failing))[0]
    assert row.verdict is Verdict.INCONCLUSIVE
    assert "human-data controls" in row.reason


def test_what_fails_before_the_correction_only_is_no_reason(world):
    _, _, found = world
    failing = tuple(replace(one, low=one.low if one.corrected else 0.5) for one in found.strata)
    assert judge(world, found=replace(found, strata=failing))[0].verdict is Verdict.SUPPORTED


@pytest.mark.parametrize(
    ("p_value", "verdict"),
    [(0.21, Verdict.NOT_SUPPORTED), (0.2, Verdict.INCONCLUSIVE), (0.04, Verdict.INCONCLUSIVE)],
)
def test_in_between_nothing_is_decided(world, p_value, verdict):
    _, _, found = world
    p_SK = found.p_SK.copy()
    p_SK[0, 0] = p_value
    row = judge(world, found=replace(found, p_SK=p_SK))[0]
    assert row.verdict is verdict


def test_the_same_answers_are_the_same_model_unless_strangers_have_them_too(world):
    _, _, found = world
    same_SK = found.same_SK.copy()
    same_SK[0, 0] = 0.5
    served = replace(found, same_SK=same_SK, same_elsewhere=0.2)
    assert judge(world, found=served)[0].relation == ruling.SERVED
    assert judge(world, found=served)[0].same_answers == 0.5
    common = replace(served, same_elsewhere=0.5)
    assert judge(world, found=common)[0].relation != ruling.SERVED
    same_SK[0, 0] = 0.49
    assert judge(world, found=served)[0].relation != ruling.SERVED


def test_where_no_p_value_could_hold_the_reason_says_so(world):
    _, _, found = world
    p_SK = found.p_SK.copy()
    p_SK[0] = [0.04, 0.5, 0.5, 0.5]
    few = replace(found.main, votes_K=np.full(4, 10.0))  # a floor of 1/41, four times
    row = judge(world, found=replace(found, p_SK=p_SK, main=few))[0]
    assert (row.verdict, row.p_adjusted) == (Verdict.INCONCLUSIVE, 0.16)
    assert "none can hold after correction for 4 groups" in row.reason
    row = judge(world, found=replace(found, p_SK=p_SK))[0]
    assert row.reason == "its p-value of 0.0400 does not hold after correction for 4 groups"


def test_relations_are_named_where_the_evidence_separates_them(world):
    _, _, found = world
    for offset, relation in (
        (0.9, ruling.SAME_WEIGHTS),
        (-0.9, ruling.TRAINED),
        (0.3, ruling.NOT_SEPARATED),
    ):
        ratio = Ratio(slope=0.0, offset=offset, low=-2, high=2)
        assert judge(world, found=replace(found, weights=ratio))[0].relation == relation
    assert judge(world, found=replace(found, weights=None))[0].relation == ruling.NOT_SEPARATED
