"""Before the first step everything that can be refused is, and nothing is asked in vain."""

import json
from dataclasses import replace

import pytest

from audit import strict_yaml
from distill.config import SignalConfig, TeacherConfig
from distill.errors import InputError
from distill.lessons.curriculum import scored_tag
from distill.loss import objective
from distill.prepare import prepare
from distill.terms import TermsError
from tests.fakes.endpoints import Server, TinyModel, speaking_teacher
from tests.fakes.sessions import (
    TERMS,
    answers,
    prompts_file,
    rows_file,
    served_teacher,
    session,
    small_config,
)

ALONE = (objective.CrossEntropy(),)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    made = tmp_path_factory.mktemp("prepare")
    speaking_teacher(made / "teacher", steps=60)
    prompts_file(made / "prompts.jsonl")
    return made


@pytest.fixture
def server(place):
    with Server(TinyModel(place / "teacher")) as made:
        yield made


def writer(place, **changes) -> TeacherConfig:
    stated = small_config(place).teachers[0]
    return replace(stated, answers=answers(place / "prompts.jsonl"), **changes)


@pytest.mark.parametrize("loss", [objective.DEFAULT, ALONE])
@pytest.mark.parametrize("terms", [None, replace(TERMS, permits_training=False)])
def test_terms_are_refused_before_anything_is_asked_or_written(
    place, tmp_path, server, loss, terms
):
    far = served_teacher(server, api="chat", answers=answers(place / "prompts.jsonl"))
    unnamed = writer(place, owned=False, terms=terms, name="third", path=str(tmp_path / "none"))
    made = small_config(place, teachers=(writer(place), far, unnamed), loss=loss)
    with pytest.raises(TermsError, match="teacher 'third'"):
        prepare(session(made, tmp_path / "run"))
    assert server.posts == 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("section", "changes", "why"),
    [
        ("text", {"sources": ("gone.txt",)}, r"gone\.txt does not exist"),
        ("evaluate", {"tasks": ("gone.jsonl",)}, r"gone\.jsonl does not exist"),
        ("evaluate", {"beside": ("gone",), "every_steps": 2}, "gone has no held-out curve"),
        ("text", {"tokenizer": "gone"}, "gone holds no tokenizer"),
    ],
)
def test_inputs_that_are_not_there_are_refused_before_a_teacher_writes(
    place, tmp_path, server, section, changes, why
):
    far = served_teacher(server, api="chat", answers=answers(place / "prompts.jsonl"))
    made = small_config(place, teachers=(writer(place), far))
    made = replace(made, **{section: replace(getattr(made, section), **changes)})
    with pytest.raises(InputError, match=why):
        prepare(session(made, tmp_path / "run"))
    assert server.posts == 0
    assert not (tmp_path / "run").exists()


def test_a_run_whose_inputs_are_bad_does_not_take_the_directory(place, tmp_path):
    made = small_config(place, text=replace(small_config(place).text, sequence_length=128))
    short = rows_file(tmp_path / "short.jsonl", [{"text": "a key"}, {"text": "a cask"}] * 3)
    made = replace(made, text=replace(made.text, sources=(str(short),)))
    with pytest.raises(InputError, match="less than one window"):
        prepare(session(made, tmp_path / "run"))
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_what_is_known_is_written_down(place, tmp_path):
    made = small_config(place)
    ready = prepare(session(made, tmp_path))
    assert (tmp_path / "config.yaml").read_text() == strict_yaml.dump(made)
    lines = (tmp_path / "heldout.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    assert [row["prompt"] for row in kept] == [one.prompt for one in ready.text.passages]
    assert len(kept) == made.evaluate.probe_prompts
    assert ready.paths == [place / "teacher"]
    assert ready.vocabulary.size == len(ready.tokenizer) == 320
    held = {document.text for document in ready.text.held_documents}
    assert held and not held & {document.text for document in ready.text.train_documents}


def test_what_teachers_write_is_text_of_the_training_side(place, tmp_path, server):
    far = served_teacher(
        server, api="chat", says="top_logprobs", top=5, answers=answers(place / "prompts.jsonl")
    )
    wide = replace(small_config(place).text, sequence_length=64)
    plain = prepare(session(small_config(place, text=wide), tmp_path / "plain"))
    made = small_config(place, teachers=(far, writer(place)), text=wide)
    ready = prepare(session(made, tmp_path / "run"))
    ids = [document.id for document in ready.text.train_documents]
    assert ids[-6:] == [f"accepted.jsonl/{number}" for number in range(1, 7)]
    assert ready.text.train_documents[:-6] == plain.text.train_documents
    assert ready.text.held_documents == plain.text.held_documents
    assert ready.text.sha256 != plain.text.sha256
    tags = ready.text.train.tag.tolist()
    assert tags == sorted(tags, reverse=True) and set(tags) == {-1, scored_tag(0)}
    assert list(ready.text.scored) == [0]
    scored, (source, _) = ready.lessons[0], ready.lessons[0].train.voices[0]
    assert scored.tokens == ready.text.train.weights[ready.text.train.tag < -1].size
    assert source.store is scored.train.stores[0]


def test_answers_that_no_window_reaches_are_refused(place, tmp_path, server):
    how = answers(place / "prompts.jsonl")
    far = served_teacher(server, api="chat", says="top_logprobs", top=5, answers=how)
    narrow = replace(small_config(place).text, sequence_length=16)
    made = small_config(place, teachers=(writer(place), far), text=narrow)
    with pytest.raises(InputError, match="no answer of teacher 'far' begins within 16 tokens"):
        prepare(session(made, tmp_path / "run"))


@pytest.mark.parametrize("tail", [0, 256])
def test_so_many_draws_as_no_store_can_count_are_refused_at_once(tail):
    with pytest.raises(ValueError, match="mode sampled needs a tail of 1 to 255 draws"):
        SignalConfig(mode="sampled", tail=tail)
    assert SignalConfig(mode="topk", tail=tail).tail == tail
