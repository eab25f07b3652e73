"""Models of a bank in the suspect's place: who is a reference, and who answers enough."""

from dataclasses import replace

import pytest

from audit.bank import load
from audit.evidence import Verdict
from audit.lineup import case, index, known, reading
from audit.lineup.judging import judge
from audit.lineup.ruling import Rules
from tests.fakes import lineups

STRANGERS = 12


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    people = [
        *lineups.teachers(3),
        *lineups.unrelated(STRANGERS),
        lineups.student("first", 0, family="two"),
        lineups.student("second", 1, family="two"),
    ]
    bank = load(lineups.write(tmp_path_factory.mktemp("judging") / "bank", people, prompts=30))
    made = index.of(bank, reading.VIEWS, cache=None, tell=lambda done, steps: None)
    facts = known.facts(bank)
    return bank, case.lineup(bank, made, facts, 20), facts


def rows_of(bank, *names: str) -> list[int]:
    return [row for row, model in enumerate(bank.models) if model.name in names]


def test_every_model_of_the_family_is_asked_about_every_group_in_order(world):
    bank, models, facts = world
    found = judge(bank, models, facts, rows_of(bank, "first", "second"), Rules())
    assert [(one.suspect, one.group) for one in found] == [
        (name, group.name) for name in ("first", "second") for group in bank.groups
    ]
    best = {
        name: max(found, key=lambda one: (one.suspect == name, one.score))
        for name in ("first", "second")
    }
    assert {name: one.group for name, one in best.items()} == {"first": "g0", "second": "g1"}


def test_neither_the_family_nor_families_left_out_are_references(world):
    bank, models, facts = world
    rows = rows_of(bank, "vendor0")
    whole = judge(bank, models, facts, rows, Rules())
    fewer = judge(bank, models, facts, rows, Rules(), left_out=frozenset({"vendor1", "two"}))
    unrelated = models.negative_NK
    for group, (one, less) in enumerate(zip(whole, fewer, strict=True)):
        out = unrelated[rows_of(bank, "vendor1", "first", "second"), group].sum()
        assert one.rank_of == unrelated[:, group].sum()  # the suspect is one of these
        assert less.rank_of == one.rank_of - out


def test_one_that_answers_too_little_is_insufficient_and_its_fellow_is_judged(world):
    bank, models, facts = world
    rows = rows_of(bank, "first", "second")
    silent = {}
    for name, known_ones in models.products.items():
        there_PN = known_ones.there_PN.copy()
        there_PN[19:, rows[1]] = False
        silent[name] = replace(known_ones, there_PN=there_PN)
    found = judge(bank, replace(models, products=silent), facts, rows, Rules())
    said = {one.suspect: one for one in found}
    assert said["second"].verdict is Verdict.INSUFFICIENT
    assert said["second"].reason == "it answers 19 of the bank's prompts, and 20 are needed"
    assert said["first"].verdict is not Verdict.INSUFFICIENT
