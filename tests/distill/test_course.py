"""The course of a run: whose signal is learnt at which position, and who reads the student."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from audit.errors import EndpointError
from audit.question import EndpointConfig
from distill.batches import Reading
from distill.course import course
from distill.errors import InputError, MismatchError
from distill.heads import logits
from distill.loss import objective
from distill.prepare import Ready, prepare
from distill.rollout.config import RolloutConfig
from distill.rollout.on_policy import OnPolicy
from distill.signals import Hidden, Sparse
from student.model import Student
from tests.fakes.endpoints import TINY, Server, TinyModel, speaking_teacher
from tests.fakes.sessions import (
    CPU,
    answers,
    prompts_file,
    rows_file,
    served_teacher,
    session,
    small_config,
    spoken,
    tagged_file,
)
from tests.fakes.teachers import sentences, tiny_teacher

WRITES = RolloutConfig(fraction=0.5, max_new_tokens=6, prompt_tokens=5)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    made = tmp_path_factory.mktemp("course")
    speaking_teacher(made / "teacher", steps=60)
    tiny_teacher(made / "second", seed=1)
    prompts_file(made / "prompts.jsonl")
    tagged_file(made / "tagged.jsonl", "ab", each=10)
    return made


def student(config, ready: Ready) -> Student:
    return Student.build(config.student, ready.vocabulary, seed=0, device=CPU)


def begun(config, out):
    """Return what is known of a run, and its course."""
    run = session(config, out)
    ready = prepare(run)
    model = student(config, ready)
    return ready, course(run, ready.text, ready.lessons, model, ready.tokenizer)


def tagged_teachers(place):
    stated = small_config(place).teachers[0]
    return (
        replace(stated, name="a", tags=("a",)),
        replace(stated, name="b", tags=("b",), path=str(place / "second")),
    )


def test_without_answers_of_its_own_a_student_reads_its_text_alone(place, tmp_path):
    config = small_config(place, seed=3)
    ready, made = begun(config, tmp_path)
    assert isinstance(made, Reading)
    batch = made.batch(2)
    chosen = np.random.default_rng((3, 0)).permutation(len(ready.text.train.tokens))[4:8]
    tokens = ready.text.train.tokens[chosen]
    assert torch.equal(batch.token_N, torch.from_numpy(tokens[:, :-1].astype(np.int64)).flatten())
    assert torch.equal(batch.label_N, torch.from_numpy(tokens[:, 1:].astype(np.int64)).flatten())


def test_every_position_is_taught_by_the_teacher_of_its_tag(place, tmp_path):
    text = replace(small_config(place).text, sources=(str(place / "tagged.jsonl"),))
    ready, made = begun(small_config(place, teachers=tagged_teachers(place), text=text), tmp_path)
    windows = ready.text.train
    batch = made.of(np.arange(len(windows.tokens)))
    logp = [spoken(place / name, windows) for name in ("teacher", "second")]
    tag_N = torch.from_numpy(windows.tag).repeat_interleave(windows.weights.shape[1])
    assert sum(len(part.at_M) for part in batch.parts) == int((windows.weights > 0).sum())
    for part in batch.parts:
        said = part.signal(CPU)
        (tag,) = set(tag_N[part.at_M].tolist())
        p_MV = logp[tag][part.at_M].exp()
        assert torch.allclose(said.head_p_NH, p_MV.gather(1, said.head_ids_NH), atol=2e-3)


def test_scored_answers_are_learnt_from_what_their_writer_held_likely(place, tmp_path):
    how = answers(place / "prompts.jsonl")
    with Server(TinyModel(place / "teacher")) as server:
        far = served_teacher(server, api="chat", says="top_logprobs", top=5, answers=how)
        for teachers in ((far,), (small_config(place).teachers[0], far)):
            wide = replace(
                small_config(place).text, sequence_length=64, tokenizer=str(place / "teacher")
            )
            short = replace(small_config(place).signal, shard_tokens=64)
            config = small_config(place, teachers=teachers, text=wide, signal=short)
            ready, made = begun(config, tmp_path / str(len(teachers)))
            text, number = ready.text, len(teachers) - 1
            (mine,) = np.nonzero(text.train.tag == -2 - number)
            assert len(ready.lessons[number].train.stores[0].shards) > 1
            (part,) = made.of(mine).parts
            said, known = part.signal(CPU), text.scored[number].take(part.at_M)
            assert isinstance(said, Sparse)
            assert torch.equal(said.head_ids_NH, known.head_ids_NH)
            assert torch.allclose(said.head_p_NH, known.head_p_NH, atol=2e-3)
            assert len(part.at_M) == int((text.train.weights[mine] > 0).sum()) > 0
            # The text itself has a teacher only where one reads it.
            (read,) = np.nonzero(text.train.tag == -1)
            others = made.of(read).parts
            assert [bool(part.voices) for part in others] == [number == 1]


def test_a_share_of_each_steps_rows_is_the_students_and_its_teacher_reads_it(place, tmp_path):
    config = small_config(place, rollout=WRITES)
    ready, made = begun(config, tmp_path)
    assert isinstance(made, OnPolicy)
    batch = made.batch(1)
    text, own = batch.parts
    assert not text.own and own.own
    assert batch.facts["own_rows"] == 2 and batch.facts["own_tokens"] == len(own.at_M)
    assert len(batch.lengths) == 2 + 2
    # What is written is read by the teacher as it stands, row by row.
    said = own.signal(CPU)
    assert isinstance(said, Hidden)
    teacher = ready.lessons[0].live
    rows = batch.token_N.split(list(batch.lengths))
    states_NT = torch.cat([teacher.hidden(row[None])[0] for row in rows])
    made_MV, wanted_MV = logits(said.states_NT, said.head), logits(states_NT, teacher.head)
    assert torch.allclose(made_MV, wanted_MV[own.at_M], atol=1e-4)
    known = {tuple(ids[:4]) for ids in _prompts(ready)}
    assert {tuple(row[1:5].tolist()) for row in rows[2:]} <= known


def _prompts(ready: Ready) -> list[list[int]]:
    texts = [document.text for document in ready.text.train_documents]
    return [ready.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def test_what_the_student_writes_is_read_by_the_teacher_of_its_prompts_tag(place, tmp_path):
    text = replace(small_config(place).text, sources=(str(place / "tagged.jsonl"),))
    config = small_config(
        place, teachers=tagged_teachers(place), text=text, rollout=replace(WRITES, fraction=1.0)
    )
    ready, made = begun(config, tmp_path)
    batch = made.batch(1)
    tags = made.rollouts.at(1).tags
    assert set(tags) == {"a", "b"}
    row_N = torch.arange(4).repeat_interleave(torch.tensor(batch.lengths))
    for part in batch.parts:
        (tag,) = {tags[row] for row in row_N[part.at_M].tolist()}
        said, teacher = part.signal(CPU), ready.lessons["ab".index(tag)].live
        assert torch.equal(said.head.weight_VT, teacher.head.weight_VT)


def test_a_server_answers_in_the_students_place_and_is_looked_at_first(place, tmp_path):
    with Server(TinyModel(place / "teacher")) as server:
        asked = EndpointConfig(url=server.url, model=TINY, api="completions", retries=0)
        config = small_config(
            place, rollout=replace(WRITES, temperature=0.0, endpoint=asked, owned=True)
        )
        ready, made = begun(config, tmp_path)
        looked = server.posts
        batch = made.batch(1)
        assert looked > 20 and server.posts == looked + 2
        said = {body["prompt"]: body for body in server.bodies[looked:]}
    rows = batch.token_N.split(list(batch.lengths))[2:]
    known = ready.tokenizer
    assert {known.decode(row[1:5]) for row in rows} == set(said)
    teacher = ready.lessons[0].live
    for row in rows:
        # The server has the teacher's weights, so what it wrote is the teacher's likeliest text.
        best = logits(teacher.hidden(row[None, 1:5])[0], teacher.head)[-1].argmax()
        assert known.decode(row[5:]).startswith(known.decode(best))
    writings = made.rollouts.writings
    assert writings.key.settings["writer"] == TINY


def test_a_budget_may_be_raised_and_what_was_written_is_read_again(place, tmp_path):
    with Server(TinyModel(place / "teacher")) as server:
        asked = EndpointConfig(
            url=server.url, model=TINY, api="completions", retries=0, max_requests=40
        )
        config = small_config(place, rollout=replace(WRITES, endpoint=asked, owned=True))
        first = begun(config, tmp_path)[1].batch(1)
        more = replace(config.rollout, endpoint=replace(asked, max_requests=50))
        posts = server.posts
        again = begun(replace(config, rollout=more), tmp_path)[1].batch(1)
        assert server.posts == posts
        assert torch.equal(first.token_N, again.token_N)
        other = replace(config.rollout, endpoint=replace(asked, system=None, extra={"top_k": 3}))
        with pytest.raises(MismatchError, match="a different teacher_sha256"):
            begun(replace(config, rollout=other), tmp_path)


def test_a_server_that_is_gone_is_refused_before_the_first_step(place, tmp_path):
    with Server(TinyModel(place / "teacher")) as server:
        asked = EndpointConfig(url=server.url, model=TINY, api="completions", retries=0)
    with pytest.raises(EndpointError, match="gave no answer in 1 attempts"):
        begun(small_config(place, rollout=replace(WRITES, endpoint=asked, owned=True)), tmp_path)


def test_answers_of_another_run_are_refused(place, tmp_path):
    config = small_config(place, rollout=WRITES)
    begun(config, tmp_path)[1].batch(1)
    assert len(begun(config, tmp_path)[1].rollouts.writings) == 1  # its own are taken up
    with pytest.raises(MismatchError, match="a different teacher_sha256"):
        begun(replace(config, seed=1), tmp_path)


def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused_before_the_first_step(
    place, tmp_path
):
    turns = [
        {"role": "user", "content": sentences(14, 1)},
        {"role": "assistant", "content": sentences(6, 2)},
    ]
    chats = rows_file(tmp_path / "chats.jsonl", [{"messages": turns, "id": n} for n in range(12)])
    text = replace(small_config(place).text, sources=(str(chats),))
    config = small_config(place, text=text, rollout=WRITES)
    with pytest.raises(InputError, match=r"chats\.jsonl/\d+: what it asks is \d+ tokens long, and"):
        begun(config, tmp_path / "run")


def test_prompts_of_a_tag_that_no_reader_on_disk_teaches_are_refused(place, tmp_path):
    first, _ = tagged_teachers(place)
    text = replace(small_config(place).text, sources=(str(place / "tagged.jsonl"),))
    with Server(TinyModel(place / "teacher")) as server:
        far = served_teacher(server, says="prompt_logprobs", tags=("b",))
        config = small_config(place, teachers=(first, far), text=text, rollout=WRITES)
        with pytest.raises(MismatchError, match="text tagged 'b' has no teacher"):
            begun(config, tmp_path)


def test_a_control_has_a_course_without_teachers(place, tmp_path):
    _, made = begun(small_config(place, loss=(objective.CrossEntropy(),)), tmp_path)
    assert [part.voices for part in made.batch(1).parts] == [()]
