"""A bank of models of three steps is made from beginning to end, and again the same."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from audit.bank import load
from data.making import bank, models
from data.making.models import World
from data.making.roster import MEMBERS, SUSPECTS, Member
from data.making.writers import PROMPTS

WRITERS = (Member("alembic", "teacher", "none"), Member("coffey", "teacher", "none"))
STUDENTS = (
    Member("single", "student", "single", ("coffey",)),
    Member("heard", "student", "single", ("coffey",), heard=True),
    Member("mixed", "student", "mixed", ("alembic", "coffey")),
    Member("edited", "student", "edited", ("alembic",)),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[World]:
    """Return a world of one barely trained model of each kind, whose answers are a few words."""
    made = World(7, tmp_path_factory.mktemp("making"), steps=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "OWN", 2)
        patch.setattr(models, "OTHERS", 1)
        patch.setattr(models, "_WRITING", replace(models._WRITING, max_new_tokens=6))
        for one in (*WRITERS, *STUDENTS):
            models.train(made, one)
        yield made


def texts(world: World, name: str) -> list[tuple[str, str]]:
    rows = map(json.loads, (world.work / name / "text.jsonl").read_text().splitlines())
    return [(row["messages"][0]["content"], row["messages"][1]["content"]) for row in rows]


def test_no_prompt_of_the_bank_is_learnt_from(world):
    asked = {prompt.text for prompt in models.asked_in_bank()}
    assert len(asked) == models.ASKED_IN_BANK
    for one in (*WRITERS, *STUDENTS):
        learnt = {prompt for prompt, _ in texts(world, one.name)}
        assert not learnt & asked
        assert learnt <= {prompt.text for prompt in PROMPTS}


@pytest.mark.parametrize("one", STUDENTS)
def test_a_student_learns_from_every_teacher_and_from_other_people(world, one):
    said = texts(world, one.name)
    prompts = {prompt for prompt, _ in said}
    per_prompt = models.OTHERS + models.OWN // len(one.teachers) * len(one.teachers)
    assert len(said) <= len(prompts) * per_prompt
    # A barely trained teacher may end at once; that answer is none.
    assert len(said) > len(prompts) * models.OTHERS


def test_only_those_that_hear_it_have_a_teachers_signal(world):
    assert (world.work / "heard" / "run" / "signals").is_dir()
    for name in ("single", "mixed", "edited", "alembic"):
        assert not (world.work / name / "run" / "signals").exists()


def test_models_begin_at_weights_of_their_own(world):
    first = {
        name: next((world.work / name / "run").glob("checkpoints/step-000000/*.safetensors"))
        for name in ("alembic", "coffey", "single")
    }
    assert len({path.read_bytes() for path in first.values()}) == 3


def test_what_is_trained_is_asked_and_not_trained_again(world):
    before = {path: path.stat().st_mtime_ns for path in world.work.rglob("manifest.json")}
    found = bank.train_and_ask(world, WRITERS, workers=2)
    assert list(found) == ["alembic", "coffey"]
    assert found["alembic"] != found["coffey"]
    assert {len(said) for said in found.values()} == {models.ASKED_IN_BANK}
    assert before == {path: path.stat().st_mtime_ns for path in world.work.rglob("manifest.json")}


def test_the_same_seed_asks_for_the_same_answers(world):
    place = world.work / "alembic" / "run" / "student"
    few = models.asked_in_bank()[:20]
    once = models.write(place, few, seed=1)
    assert models.write(place, few, seed=1) == once
    assert models.write(place, few, seed=2) != once


def test_the_bank_that_is_written_is_one_and_the_same_twice(tmp_path):
    answers = {
        member.name: [f"{member.name} says {n}" for n in range(models.ASKED_IN_BANK)]
        for member in (*MEMBERS, *SUSPECTS)
    }
    for name in ("one", "two"):
        bank.write(tmp_path / name, answers, seed=7)
    found = load(tmp_path / "one" / "bank")
    assert found.sha256() == load(tmp_path / "two" / "bank").sha256()
    assert [model.name for model in found.models] == [member.name for member in MEMBERS]
    assert [model.teachers for model in found.models] == [member.teachers for member in MEMBERS]
    assert len({model.family for model in found.models}) == len(MEMBERS)
    said = found.answers("control-03")
    assert {row.response for row in said.values()} == set(answers["control-03"])
    pupil = (tmp_path / "one" / "suspects" / "pupil.jsonl").read_text().splitlines()
    assert json.loads(pupil[0])["id"] in said
    card = json.loads((tmp_path / "one" / "bank" / "card.json").read_text())
    assert (card["seed"], card["prompts"]) == (7, models.ASKED_IN_BANK)
