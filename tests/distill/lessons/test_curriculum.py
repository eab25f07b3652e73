"""Documents become windows by tag, and every tag has the teachers the run gives it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from distill.config import (
    AnswersConfig,
    EvaluateConfig,
    RunConfig,
    SignalConfig,
    TeacherConfig,
    TextConfig,
)
from distill.errors import InputError, MismatchError
from distill.lessons import curriculum
from distill.lessons.curriculum import Text, scored_tag, shares, taught_by
from distill.lessons.scored import Scored
from distill.lessons.written import Written
from distill.rollout.scoring import Share
from distill.signals import Sparse
from distill.text import corpus
from distill.text.sources import Document
from student.vocabulary import Vocabulary
from tests.fakes.teachers import sentences, tiny_tokenizer

LENGTH, TAGS = 32, ("law", "med")
TOKENIZER = tiny_tokenizer()
VOCABULARY = Vocabulary(size=320, bos=0, eos=1, pad=2)
NOTHING = Written(documents=[], scored={})
EVALUATE = EvaluateConfig(tokens=128, probe_prompts=4, prompt_tokens=8, continuation_tokens=8)


def teacher(name: str, *tags: str, weight: float = 1.0) -> TeacherConfig:
    return TeacherConfig(name=name, path=f"/{name}", tags=tags, weight=weight)


def served(name: str, *tags: str, says="text", answers=True) -> TeacherConfig:
    return TeacherConfig(
        name=name,
        endpoint={"url": "http://host/v1", "model": "m"},
        says=says,
        tags=tags,
        answers=AnswersConfig(prompts="p") if answers else None,
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> tuple[str, ...]:
    """Three files of twenty documents each, of two tags and of neither."""
    folder = tmp_path_factory.mktemp("sources")
    for place, name in enumerate((*TAGS, "rest")):
        rows = [{"text": sentences(4, 100 * place + n)} for n in range(20)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tuple(str(folder / f"{name}.jsonl") for name in (*TAGS, "rest"))


def config(sources, *teachers: TeacherConfig, **changes) -> RunConfig:
    return RunConfig(
        teachers=teachers or (teacher("one"),),
        text=TextConfig(sources=sources, held_out=0.25, sequence_length=LENGTH),
        evaluate=EVALUATE,
        **changes,
    )


def read(run: RunConfig, written: Written = NOTHING) -> Text:
    return curriculum.read(run, curriculum.load(run), TOKENIZER, VOCABULARY, written)


def tagged(*numbers: int, tags: tuple[str, ...] = TAGS, scored=()) -> Text:
    """Return a text of one window of each of these tags."""
    count = len(numbers)
    windows = corpus.Windows(
        tokens=np.zeros((count, LENGTH + 1), dtype=np.int32),
        weights=np.ones((count, LENGTH), dtype=np.float32),
        sizes=np.ones((count, LENGTH)),
    )
    windows = replace(windows, tag=np.array(numbers, dtype=np.int32))
    return Text(
        sha256="",
        tags=tags,
        train_documents=[],
        held_documents=[],
        scored=dict.fromkeys(scored),
        train=windows,
        held=windows,
        passages=[],
        prompts=[],
    )


# What is read.


def test_each_source_is_split_and_both_sides_are_packed(sources):
    run = config(sources)
    sides = curriculum.load(run)
    assert (len(sides.train), len(sides.held)) == (45, 15)
    text = read(run)
    assert (text.train_documents, text.held_documents) == (sides.train, sides.held)
    assert text.train.sha256() == corpus.pack(sides.train, TOKENIZER, LENGTH).sha256()
    assert text.tags == ()
    assert set(text.train.tag) == set(text.held.tag) == {-1}
    assert text.prompts == []


def test_of_each_source_no_more_is_trained_on_than_is_wanted(sources):
    run = config(sources)
    little = replace(run, text=replace(run.text, most_tokens=1))
    text = read(little)
    assert [one.id.partition("/")[0] for one in text.train_documents] == [
        "law.jsonl", "med.jsonl", "rest.jsonl",
    ]  # fmt: skip
    assert text.held_documents == read(run).held_documents


def test_seeds_that_a_teacher_answers_are_no_bare_text_but_still_held_out(sources):
    answers = AnswersConfig(prompts="prompts")
    writes = replace(teacher("one"), answers=answers)
    both = (*sources, "prompts")
    plain, asked = (curriculum.load(config(both, one)) for one in (teacher("one"), writes))
    assert asked.held == plain.held
    assert asked.train == [one for one in plain.train if not one.id.startswith("prompts/")]
    assert len(asked.train) < len(plain.train)


def test_of_the_held_out_windows_as_many_are_kept_as_are_measured(sources):
    run = config(sources)
    held = corpus.pack(curriculum.load(run).held, TOKENIZER, LENGTH)
    few = read(run).held
    assert len(held.tokens) > len(few.tokens) == 128 // LENGTH
    places = [held.tokens.tolist().index(row) for row in few.tokens.tolist()]
    assert places == corpus.evenly(len(held.tokens), 4).tolist()
    least = replace(run, evaluate=replace(EVALUATE, tokens=1))
    assert len(read(least).held.tokens) == 1


def test_documents_of_different_tags_share_no_window(sources):
    text = read(config(sources, teacher("a", "med"), teacher("b", "law"), teacher("c")))
    assert text.tags == TAGS
    for windows, documents in (
        (text.train, text.train_documents),
        (text.held, text.held_documents),
    ):
        assert set(windows.tag) == {0, 1, -1}
        for row, tag in zip(windows.document, windows.tag, strict=True):
            of = {documents[number].tag for number in row}
            assert of == {"rest" if tag < 0 else TAGS[tag]}


def test_tags_that_no_teacher_names_are_not_kept_apart(sources):
    text = read(config(sources, teacher("a", "med"), teacher("c")))
    assert text.tags == ("med",)
    assert set(text.train.tag) == {0, -1}


@pytest.mark.parametrize("documents", ["joined", "apart"])
def test_documents_are_kept_apart_where_that_is_asked_for(sources, documents):
    run = config(sources)
    text = read(replace(run, text=replace(run.text, documents=documents)))
    for windows in (text.train, text.held):
        begins = windows.tokens[:, :-1] == TOKENIZER.bos_token_id
        first = np.arange(LENGTH) == 0
        assert begins[:, 1:].any()
        expected = first | begins if documents == "apart" else first & np.ones_like(begins)
        assert np.array_equal(windows.starts, expected)


def test_passages_are_of_held_out_documents_alone(sources):
    text = read(config(sources))
    names = {document.id for document in text.held_documents}
    assert len(text.passages) == 4
    assert {passage.document for passage in text.passages} <= names


def test_held_out_seed_prompts_are_put_to_the_models(sources):
    text = read(config((*sources, "prompts")))
    held = [d.text for d in text.held_documents if d.id.startswith("prompts/")]
    assert text.prompts == held
    assert held


def test_what_teachers_wrote_is_trained_on_and_never_measured_on(sources):
    run = config(sources)
    own = [Document(id=f"written/{n}", text=sentences(4, 900 + n)) for n in range(3)]
    without, text = read(run), read(run, Written(documents=own, scored={}))
    assert text.train_documents == [*without.train_documents, *own]
    assert len(text.train.tokens) > len(without.train.tokens)
    assert text.held.sha256() == without.held.sha256()
    assert text.passages == without.passages
    assert text.sha256 != without.sha256


def test_scored_answers_are_windows_of_their_teacher_behind_all_others(sources):
    run = config(sources, teacher("a"), served("b", says="top_logprobs"))
    signal = Sparse(
        torch.arange(12).reshape(4, 3),
        torch.full((4, 3), 0.25),
        torch.zeros(4, 0, dtype=torch.int64),
        torch.full((4,), 0.25),
        torch.full((4,), torch.nan),
    )
    rows = [Scored(tokens=(0, 9, 8, 7, 6, 5, 1), first=3, signal=signal)]
    without, text = read(run), read(run, Written(documents=[], scored={1: rows}))
    count = len(without.train.tokens)
    assert text.train.tag.tolist() == [-1] * count + [scored_tag(1)]
    assert text.train.take(np.arange(count)).sha256() == without.train.sha256()
    assert text.train.tokens[-1].tolist()[:8] == [0, 9, 8, 7, 6, 5, 1, VOCABULARY.eos]
    assert np.flatnonzero(text.train.weights[-1]).tolist() == [2, 3, 4, 5]
    assert torch.equal(text.scored[1].head_ids_NH[2:6], signal.head_ids_NH)
    assert text.held.sha256() == without.held.sha256()


def test_a_tag_without_text_is_refused(sources):
    with pytest.raises(InputError, match="of tag 'chemistry' hold 0 tokens"):
        read(config(sources, teacher("a", "chemistry"), teacher("b")))


# Who teaches what.

ONE, TWO = (Share(0, 1.0),), (Share(1, 1.0),)


def shared(text: Text, *teachers: TeacherConfig, mode="head_tail") -> dict:
    run = RunConfig(teachers=teachers, signal=SignalConfig(mode=mode))
    return shares(run, text, text.train)


def test_one_teacher_without_tags_has_everything():
    assert shared(tagged(-1, -1, tags=()), teacher("a")) == {-1: ONE}


def test_a_tag_is_its_teachers_and_the_rest_is_for_those_without_tags():
    found = shared(tagged(0, 1, -1), teacher("a", "law"), teacher("b"), teacher("c", "med"))
    assert found == {0: ONE, 1: (Share(2, 1.0),), -1: TWO}


def test_teachers_of_one_tag_share_it_by_their_weights():
    law = teacher("a", "law", weight=3.0), teacher("b", "law", "med", weight=1.0), teacher("c")
    found = shared(tagged(0, 1, -1), *law, mode="hidden")
    assert found == {0: (Share(0, 0.75), Share(1, 0.25)), 1: TWO, -1: (Share(2, 1.0),)}


def test_a_teacher_that_only_writes_teaches_nothing_by_signals():
    writes = served("w")
    assert shared(tagged(-1, tags=()), writes) == {-1: ()}
    assert shared(tagged(-1, tags=()), writes, teacher("a")) == {-1: TWO}
    reads = served("r", says="prompt_logprobs", answers=False)
    assert shared(tagged(-1, tags=()), writes, reads) == {-1: TWO}


def test_scored_answers_are_taught_by_their_writer_alone():
    writes = served("w", says="top_logprobs")
    text = tagged(-1, -1, scored_tag(1), tags=(), scored=[1])
    assert shared(text, teacher("a"), writes) == {-1: ONE, scored_tag(1): TWO}
    alone = shared(tagged(-1, scored_tag(0), tags=(), scored=[0]), writes)
    assert alone == {-1: (), scored_tag(0): ONE}


def test_the_tag_of_scored_answers_is_no_others():
    found = {scored_tag(number) for number in range(5)}
    assert len(found) == 5
    assert max(found) < -1


def test_held_out_windows_that_lack_a_tag_are_shared_as_all_are():
    few = tagged(1)
    found = shared(few, teacher("a", "law"), teacher("b", "med"))
    assert found == {0: ONE, 1: TWO}


def test_text_that_no_teacher_is_for_is_refused():
    with pytest.raises(MismatchError, match="text whose tag no teacher names has no teacher"):
        shared(tagged(0, 1, -1), teacher("a", "law"), teacher("b", "med"))


@pytest.mark.parametrize("mode", ["head_tail", "topk", "sampled"])
def test_teachers_of_one_text_are_mixed_by_exact_signals_alone(mode):
    both = teacher("a"), teacher("b")
    assert shared(tagged(-1, tags=()), *both, mode="hidden") == {-1: (Share(0, 0.5), Share(1, 0.5))}
    with pytest.raises(MismatchError, match=f"signal.mode {mode} cannot be mixed; set signal"):
        shared(tagged(-1, tags=()), *both, mode=mode)


def test_a_served_teacher_is_mixed_with_no_other():
    both = teacher("a"), served("far", says="prompt_logprobs", answers=False)
    with pytest.raises(MismatchError, match="teacher 'far' is served and gives no hidden states"):
        shared(tagged(-1, tags=()), *both, mode="hidden")


def test_a_teacher_is_asked_about_the_windows_it_teaches():
    windows = tagged(0, 1, -1, 1, 0, scored_tag(2)).train
    shared = {0: (Share(0, 0.5), Share(1, 0.5)), 1: TWO, -1: ONE, scored_tag(2): (Share(2, 1.0),)}
    found = [taught_by(windows, shared, number).tolist() for number in range(4)]
    assert found == [[0, 2, 4], [0, 1, 3, 4], [5], []]
