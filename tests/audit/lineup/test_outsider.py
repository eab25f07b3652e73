"""A suspect from outside stands where it would stand if it were in the bank."""

from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from audit.bank import load
from audit.errors import InputError
from audit.lineup import case, index, known, outsider, prompts, reading
from tests.fakes import lineups

PEOPLE = [*lineups.teachers(3), *lineups.unrelated(8)]
SUSPECT = lineups.student("pupil", 1)
VIEWS = [view.name for view in reading.DECIDING]


def indexed(path, people, **settings):
    bank = load(lineups.write(path, people, **settings))
    return bank, index.of(bank, reading.VIEWS, cache=None, tell=lambda done, steps: None)


def says(prompt_ids):
    return {f"q{n}": lineups.answer(SUSPECT, n, 0) for n in prompt_ids}


def joined(path, answers, *, people=PEOPLE, family=None, **settings):
    bank, made = indexed(path, people, **settings)
    return outsider.join(bank, made, answers, name="pupil", family=family, published=None)


def standing_of(bank, made):
    facts = known.facts(bank)
    models = case.lineup(bank, made, facts, 5)
    row = len(bank.models) - 1
    return case.examine(models, facts, [row], frozenset({bank.models[row].family}))


def test_a_suspect_from_outside_is_judged_as_one_of_the_bank(tmp_path):
    inside = standing_of(*indexed(tmp_path / "in", [*PEOPLE, SUSPECT], prompts=30))
    outside = standing_of(*joined(tmp_path / "out", says(range(30)), prompts=30))
    np.testing.assert_allclose(outside.main.score_SK, inside.main.score_SK, atol=1e-4)
    np.testing.assert_allclose(outside.p_SK, inside.p_SK)
    for name, found in inside.checks.items():
        np.testing.assert_allclose(outside.checks[name].score_SK, found.score_SK, atol=1e-4)


def test_everyone_is_compared_at_the_prompts_that_the_suspect_answers(tmp_path):
    few = standing_of(*joined(tmp_path / "few", says(range(0, 30, 2)), prompts=30))
    only = [*PEOPLE, SUSPECT]
    bank, made = indexed(tmp_path / "only", only, prompts=30)
    rows = np.arange(0, 30, 2)
    cut = {
        name: replace(
            known,
            teacher_PNT=known.teacher_PNT[rows],
            family_PNF=known.family_PNF[rows],
            there_PN=known.there_PN[rows],
        )
        for name, known in made.products.items()
    }
    same = standing_of(bank, replace(made, products=cut, prompts=made.prompts[::2]))
    np.testing.assert_allclose(few.main.score_SK, same.main.score_SK, atol=1e-4)


def test_blank_answers_and_unknown_prompts_do_not_count(tmp_path):
    answers = says(range(10)) | {"q3": "  \n", "elsewhere": "Something."}
    _, made = joined(tmp_path / "bank", answers, prompts=30)
    assert set(made.prompts) == {f"q{n}" for n in range(10)} - {"q3"}


def test_a_suspect_of_a_family_of_the_bank_is_of_that_family(tmp_path):
    bank, made = joined(tmp_path / "bank", says(range(30)), family="vendor2", prompts=30)
    assert bank.models[-1].family == "vendor2"
    found = standing_of(bank, made)
    assert np.isnan(found.main.reference_NK[[m.name == "vendor2" for m in bank.models]]).all()


def test_a_family_that_the_bank_does_not_have_is_refused_with_those_it_has(tmp_path):
    with pytest.raises(InputError, match=r"no such family; it has v0, v1, v2, vendor0"):
        joined(tmp_path / "bank", says(range(30)), family="vendor99", prompts=30)


def test_a_name_that_is_taken_is_told_apart(tmp_path):
    bank, made = indexed(tmp_path / "bank", PEOPLE, prompts=30)
    answers = says(range(30))
    again, _ = outsider.join(
        bank, made, answers, name="vendor0", family=None, published=date(2024, 5, 1)
    )
    assert (again.models[-1].name, again.models[-1].family) == ("vendor0'", "vendor0'")
    assert again.models[-1].published == date(2024, 5, 1)
    assert len({model.name for model in again.models}) == len(PEOPLE) + 1


def test_prompts_shares_make_up_the_score(tmp_path):
    bank, made = joined(tmp_path / "bank", says(range(30)), prompts=30)
    facts = known.facts(bank)
    models = case.lineup(bank, made, facts, 5)
    row = len(bank.models) - 1
    out = frozenset({bank.models[row].family})
    found = case.examine(models, facts, [row], out)
    likeness_VPT = prompts.likeness(models, VIEWS, row, out)
    share_PK, member_K = prompts.contributions(likeness_VPT, models.groups, found.main.scale)
    assert share_PK.shape == (30, 3)
    np.testing.assert_allclose(share_PK.mean(0), found.main.score_SK[0], atol=1e-3)
    assert [made.teachers[column].split("-")[0] for column in member_K] == ["t0", "t1", "t2"]
    assert share_PK[:, 1].std() > 0
