"""The shipped bank is what its card says, and the audit keeps its promises on it."""

import json

import pytest

from audit.attest import file_digest
from audit.bank import load
from audit.lineup.ruling import Rules
from audit.resources import shipped
from audit.validate import validate
from data.making.roster import HEIR, MEMBERS, SUSPECTS

PATH = shipped("data/bank/models.csv").parent


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return validate(
        PATH,
        tmp_path_factory.mktemp("shipped"),
        rules=Rules(),
        least_prompts=20,
        cache=None,
        say=lambda said: None,
        progress=lambda *told: None,
    )


def test_every_file_is_the_one_that_the_card_names():
    card = json.loads((PATH / "card.json").read_text(encoding="utf-8"))
    files = {p.relative_to(PATH).as_posix(): p for p in PATH.rglob("*") if p.is_file()}
    files.pop("card.json")
    assert card["sha256"] == {name: file_digest(path) for name, path in files.items()}


def test_its_models_are_those_of_the_roster():
    bank = load(PATH)
    assert [model.name for model in bank.models] == [member.name for member in MEMBERS]
    assert [model.teachers for model in bank.models] == [member.teachers for member in MEMBERS]


def test_at_least_four_in_five_single_students_are_attributed_and_half_are_supported(found):
    single = found.metrics["by_relation"]["single"]
    assert single["suspects"] >= 20
    assert single["top_1"] >= 0.8
    assert single["supported"] >= single["suspects"] / 2


def test_no_control_teacher_or_sibling_is_supported(found):
    assert set(found.metrics["false_supported"].values()) == {0}
    of_heir = [one for one in found.judged if one.ruling.group == HEIR]
    siblings = {m.name for m in MEMBERS if m.teachers == ("alembic",) and m.name != HEIR}
    assert {one.ruling.suspect for one in of_heir} >= siblings
    assert not [one for one in of_heir if one.ruling.verdict == "SUPPORTED"]


def test_p_values_of_unrelated_pairs_are_not_too_small(found):
    (row,) = [r for r in found.calibration if r.name == "all" and r.alpha == 0.05]
    assert row.votes > 150
    assert not row.fails


@pytest.mark.parametrize("suspect", SUSPECTS)
def test_a_suspect_from_outside_answers_the_banks_prompts(suspect):
    rows = [
        json.loads(line)
        for line in shipped(f"data/suspects/{suspect.name}.jsonl").read_text().splitlines()
    ]
    bank = load(PATH)
    assert {row["id"] for row in rows} == set(bank.answers(MEMBERS[0].name))
    assert suspect.name not in {model.name for model in bank.models}
