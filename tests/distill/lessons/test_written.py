"""What teachers write becomes text of the run; it is asked for once, and only what passes stays."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from audit.attest import file_digest
from audit.errors import EndpointError
from distill.config import AnswersConfig, TeacherConfig
from distill.errors import InputError
from distill.heads import logits
from distill.lessons import written
from distill.lessons.tally import Tally, line, of_run, wrote
from distill.lessons.written import LocalWriter, Written, gather, questions
from distill.loss.objective import CrossEntropy
from distill.rollout.config import Anything, RejectionConfig, Same
from distill.signals import Sparse
from distill.teachers import served as served_module
from distill.teachers.endpoint import Answer, EndpointTeacher
from distill.teachers.local import LocalTeacher, write
from distill.teachers.served import turn
from distill.text import chat, sources
from distill.text.sources import Document
from tests.fakes import askers
from tests.fakes.dialects import Behaviour
from tests.fakes.endpoints import Fault, Server, TinyModel, speaking_teacher
from tests.fakes.processes import processes
from tests.fakes.sessions import (
    CPU,
    Said,
    answers,
    prompts_file,
    rows_file,
    served_teacher,
    session,
    small_config,
)

COUNT = 6


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a directory with a teacher that writes words, and prompts for it."""
    made = tmp_path_factory.mktemp("written")
    speaking_teacher(made / "teacher", steps=60)
    prompts_file(made / "prompts.jsonl", COUNT)
    return made


@pytest.fixture(scope="module")
def local(place):
    return LocalTeacher("tiny", place / "teacher", device=CPU, dtype=torch.float32)


@pytest.fixture(scope="module")
def model(place):
    return TinyModel(place / "teacher")


@pytest.fixture
def gathered(place, tmp_path, model):
    """Return a function that gathers what teachers write into `tmp_path`."""

    def gather_all(*teachers: TeacherConfig, seed: int = 0, say: Said | None = None) -> Written:
        config = small_config(place, teachers=teachers, seed=seed)
        paths = [None if one.endpoint else place / "teacher" for one in teachers]
        return gather(session(config, tmp_path / "run", say), model.tokenizer, paths, held=())

    return gather_all


def on_disk(place, **changes) -> TeacherConfig:
    how = answers(place / "prompts.jsonl", **changes)
    return TeacherConfig(name="tiny", path=str(place / "teacher"), owned=True, answers=how)


def said(document: Document) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in document.messages]


# The prompts.


def test_a_reference_is_needed_where_answers_are_checked_and_nowhere_else(place):
    asked = questions(answers(place / "prompts.jsonl"))
    assert [one.id for one in asked] == [str(n) for n in range(1, COUNT + 1)]
    checked = RejectionConfig(checkers=(Anything(), Same(kind="exact")))
    with pytest.raises(InputError, match="needs a text under 'prompt' and one under 'answer'"):
        questions(answers(place / "prompts.jsonl", select=checked))


def test_the_shipped_seeds_can_be_asked_but_for_those_that_are_held_out():
    seeds = sources.load(["prompts"])
    asked = questions(answers("prompts"), seeds[:5])
    assert [one.prompt for one in asked] == [document.text for document in seeds[5:]]
    with pytest.raises(InputError, match="every prompt is held out"):
        questions(answers("prompts"), seeds)
    few = questions(answers("prompts", most_prompts=3))
    assert [one.prompt for one in few] == [seeds[place].text for place in (0, 120, 239)]


# A teacher on disk.


def test_a_teacher_on_disk_answers_in_its_template_and_the_answers_are_chats(
    place, gathered, local
):
    found = gathered(on_disk(place))
    asked = questions(answers(place / "prompts.jsonl"))
    begun = [chat.begin(local.tokenizer, ({"role": "user", "content": q.prompt},)) for q in asked]
    wanted = write(local, begun, 6, 0.0, seed=0)
    assert [said(document) for document in found.documents] == [
        [("user", question.prompt), ("assistant", text)]
        for question, text in zip(asked, wanted, strict=True)
    ]
    assert all(text.strip() for text in wanted)
    assert {document.tag for document in found.documents} == {"prompts"}
    assert found.scored == {}


def test_in_form_text_prompt_and_answer_are_one_text(place, gathered, local):
    found = gathered(on_disk(place, form="text"))
    asked = [one.prompt for one in questions(answers(place / "prompts.jsonl"))]
    wanted = write(local, asked, 6, 0.0, seed=0)
    assert [d.text for d in found.documents] == [
        prompt + text for prompt, text in zip(asked, wanted, strict=True)
    ]
    assert not any(document.messages for document in found.documents)


def test_what_was_written_is_not_written_again_not_even_for_another_seed(
    place, gathered, monkeypatch
):
    warm = on_disk(place, temperature=1.0)
    first = gathered(warm)

    def refuse(*arguments, **named):
        raise AssertionError("was asked again")

    monkeypatch.setattr(written, "write", refuse)
    assert gathered(warm) == first
    assert gathered(warm, seed=5) == first  # as signals are, it is shared between runs


def test_answers_at_another_temperature_are_others(place, gathered, tmp_path):
    gathered(on_disk(place))
    with pytest.raises(written.rejection.MismatchError, match="a different teacher_sha256"):
        gathered(on_disk(place, temperature=0.5))


def test_only_what_a_checker_accepts_stays(place, gathered, tmp_path, local):
    asked = [one.prompt for one in questions(answers(place / "prompts.jsonl"))]
    right = write(local, asked, 6, 0.0, seed=0)
    known = [text if number % 2 else "nothing like it" for number, text in enumerate(right)]
    rows = [{"prompt": p, "answer": a} for p, a in zip(asked, known, strict=True)]
    prompts = rows_file(tmp_path / "checked.jsonl", rows)
    how = answers(prompts, form="text", select=RejectionConfig(checkers=(Same(kind="exact"),)))
    heard = Said()
    found = gathered(replace(on_disk(place), answers=how), say=heard)
    assert [d.text for d in found.documents] == [asked[n] + right[n] for n in (1, 3, 5)]
    assert heard.sentences == [
        "tiny: 6 answers: 3 kept, 3 rejected, 6 cut short; 3 of 6 prompts without one",
    ]


def test_no_accepted_answer_is_one_sentence(place, gathered, tmp_path):
    prompts = prompts_file(tmp_path / "hard.jsonl", 3, answer="what nobody says")
    how = answers(prompts, select=RejectionConfig(checkers=(Same(kind="exact"),)))
    with pytest.raises(InputError, match=r"hard.jsonl: none of the 3 answers of 'tiny' was acce"):
        gathered(replace(on_disk(place), answers=how))


def told(place, tmp_path, teacher: TeacherConfig) -> Tally:
    return of_run(session(small_config(place, teachers=(teacher,)), tmp_path / "run"), teacher)


def test_what_a_teacher_on_disk_read_and_wrote_is_counted_over_all_answers(
    place, gathered, tmp_path
):
    select = RejectionConfig(samples=2, keep=1, batch_size=4)
    teacher = on_disk(place, select=select, temperature=1.0)
    gathered(teacher)
    found = told(place, tmp_path, teacher)
    assert (found.asked, found.kept, found.spare, found.rejected) == (12, 6, 6, 0)
    assert found.cut == 12 and found.written == 12 * 6
    run = session(small_config(place), tmp_path / "run")
    assert wrote(run, teacher) == (found.read, found.written)


@pytest.mark.parametrize("form", ["chat", "text"])
def test_tokens_are_counted_as_the_teacher_reads_and_writes_them(place, tmp_path, local, form):
    select = RejectionConfig(samples=2)
    how = answers(place / "prompts.jsonl", form=form, max_new_tokens=5, select=select)
    asked = questions(how)[:2]
    texts = ["a key", "the barley by the river", "", "at market"]
    rows = [{"id": asked[n % 2].id, "sample": n // 2, "response": r} for n, r in enumerate(texts)]
    rows_file(tmp_path / "answers.jsonl", [{"schema": "", "key": {}}, *rows, rows[0]])  # one more
    found = LocalWriter(local, how).effort(asked, tmp_path)

    def length(text: str) -> int:
        return len(local.tokenizer(text, add_special_tokens=False)["input_ids"])

    turns = [({"role": "user", "content": question.prompt},) for question in asked]
    if form == "chat":  # the template begins with the begin token, which is not read twice
        read = sum(length(chat.begin(local.tokenizer, turn)) for turn in turns)
    else:
        read = sum(length(question.prompt) + 1 for question in asked)
    lengths = [length(text) for text in texts]
    assert sorted(lengths)[0] == 0 < sorted(lengths)[1] < 5 < sorted(lengths)[-1]
    assert found.read == 2 * read
    assert found.written == sum(min(count + 1, 5) for count in lengths)  # an end token is written
    assert found.cut == sum(count >= 5 for count in lengths)


def test_who_writes_nothing_has_no_count_and_a_served_one_counts_itself(place, tmp_path):
    run = session(small_config(place), tmp_path)
    alone = TeacherConfig(name="tiny", path="p", owned=True)
    assert of_run(run, alone) is wrote(run, alone) is line(run, alone) is None


@pytest.mark.parametrize(("behaviour", "cut"), [((), COUNT), ((Behaviour.STOPS,), 0)])
def test_a_served_answer_is_cut_where_its_server_says_so(
    place, gathered, model, tmp_path, monkeypatch, behaviour, cut
):
    monkeypatch.setattr(served_module, "_look", lambda *_: None)  # which would see through it
    with Server(model, behaviour=behaviour) as server:
        far = served_teacher(server, api="chat", answers=answers(place / "prompts.jsonl"))
        heard = Said()
        gathered(far, say=heard)
    found = told(place, tmp_path, far)
    assert (found.asked, found.kept, found.cut) == (COUNT, COUNT, cut)
    assert (found.read, found.written) == (0, 0)
    short = ", 6 cut short" if cut else ""
    assert heard.sentences == [f"far: 6 answers: 6 kept{short}; 0 of 6 prompts without one"]
    run = session(small_config(place), tmp_path / "run")
    assert wrote(run, far) is None
    assert line(run, far) == {
        "name": "answers, far",
        "kind": "answers a teacher wrote",
        "sha256": file_digest(tmp_path / "run/signals/far/answers/accepted.jsonl"),
        "note": f"6 answers: 6 kept{short}",
    }


def test_a_scored_answer_without_room_or_cut_by_a_window_is_counted(
    place, model, tmp_path, monkeypatch
):
    few = Sparse(*(torch.zeros(0, 0, dtype=torch.int64),) * 3, torch.zeros(0), torch.zeros(0))

    def answer(tokens: int, cut: int = 0, finished: bool = True) -> Answer:
        return Answer(text="", tokens=(9,) * tokens, signal=few, cut=cut, finished=finished)

    prompts = prompts_file(tmp_path / "prompts.jsonl", 6)
    how = answers(prompts)
    begun = [
        len(model.tokenizer(chat.begin(model.tokenizer, ({"role": "user", "content": q.prompt},)),
            add_special_tokens=False)["input_ids"])
        for q in questions(how)
    ]  # fmt: skip
    room = [65 - length for length in begun]  # of a window of 64 positions
    wide = replace(small_config(place).text, sequence_length=64)
    said = [
        answer(0), answer(room[1]), answer(room[2] + 1), answer(2, cut=1),
        answer(2, finished=False), answer(3),
    ]  # fmt: skip
    assert min(room) > 3
    monkeypatch.setattr(EndpointTeacher, "answer_with_top", lambda *_, **__: said)
    with Server(model) as server:
        far = served_teacher(server, api="chat", says="top_logprobs", top=5, answers=how)
        heard, run = Said(), tmp_path / "run"
        config = small_config(place, teachers=(far,), text=wide)
        gather(session(config, run, heard), model.tokenizer, [None], held=())
        found = told(place, tmp_path, far)
        assert (found.asked, found.kept, found.rejected, found.dropped) == (6, 5, 1, 0)
        assert found.cut == 3 and found.spare == found.read == found.written == 0
        assert heard.sentences[-1] == "far: 6 answers: 5 kept, 1 rejected, 3 cut short"
        narrow = replace(config, text=replace(wide, sequence_length=min(begun) - 1))
        gather(session(narrow, run, heard), model.tokenizer, [None], held=())
    found = told(place, tmp_path, far)
    assert (found.asked, found.kept, found.rejected, found.dropped, found.cut) == (6, 0, 1, 5, 5)
    assert "0 kept, 1 rejected, 5 without room in a window, 5 cut short" in heard.sentences[-1]


# Several workers.


def test_two_workers_ask_each_prompt_once_and_both_have_the_answers(place, model, tmp_path):
    how = answers(place / "prompts.jsonl", select=RejectionConfig(batch_size=2))
    shared = replace(small_config(place).signal, path=str(tmp_path / "signals"))
    text = replace(small_config(place).text, tokenizer=str(place / "teacher"))
    with Server(model) as server:
        server.plan = {number: Fault.SLOW for number in range(24, 60)}
        server.pause = 0.05
        far = served_teacher(server, api="chat", answers=how)
        scored = replace(served_teacher(server, api="chat", answers=how), says="top_logprobs")
        scored = replace(scored, name="scored", top=5)
        teachers = (replace(on_disk(place), answers=how), far, scored)
        config = small_config(place, teachers=teachers, signal=shared, text=text)
        outs = [tmp_path / str(rank) for rank in range(2)]
        done = processes(askers.gathers, [(config, out, n, 2) for n, out in enumerate(outs)])
        bodies = server.bodies
    assert done == [0, 0]
    one, other = (json.loads((out / "found.json").read_text()) for out in outs)
    assert len(one["texts"]) == 2 * COUNT and len(one["scored"]["2"]) == COUNT
    assert (other["texts"], other["scored"]) == (one["texts"], one["scored"])
    log = (tmp_path / "signals" / "tiny" / "answers" / "answers.jsonl").read_text()
    assert len(log.splitlines()) == 1 + COUNT
    prompts = [question.prompt for question in questions(how)]
    asked = [body["messages"][-1]["content"] for body in bodies if "messages" in body]
    assert [asked.count(prompt) for prompt in prompts] == [2] * COUNT  # by each of two teachers
    looked = [row for said in (one, other) for row in said["said"] if "small questions" in row]
    assert len(looked) == 2  # likewise


def test_a_teacher_on_disk_waits_while_another_worker_has_it_write(place, gathered, tmp_path):
    heard, kept = Said(), tmp_path / "run" / "signals" / "tiny"
    with ThreadPoolExecutor(1) as pool:
        with turn(kept, "tiny", heard):
            later = pool.submit(gathered, on_disk(place), say=heard)
            while not heard.sentences and not later.done():
                time.sleep(0.01)
            assert not (kept / "answers").exists()
        assert len(later.result().documents) == COUNT
    assert heard.sentences[0] == "tiny: another process is asking; waiting for it"


def test_workers_that_are_past_the_answers_do_not_disturb_those_that_are_not(
    place, model, tmp_path
):
    shared = replace(small_config(place).signal, path=str(tmp_path / "signals"))
    text = replace(small_config(place).text, tokenizer=str(place / "teacher"))
    with Server(model) as server:
        far = served_teacher(server, api="chat", answers=answers(place / "prompts.jsonl"))
        changes = {"signal": shared, "text": text, "loss": (CrossEntropy(),)}
        config = small_config(place, teachers=(far,), **changes)
        asked = [(config, tmp_path / str(rank), rank, 3) for rank in range(3)]
        assert processes(askers.captures, asked) == [0, 0, 0]


# A served teacher.


def test_a_served_teacher_is_asked_each_prompt_and_a_resumed_call_asks_nothing(
    place, gathered, model
):
    with Server(model) as server:
        far = served_teacher(server, api="chat", answers=answers(place / "prompts.jsonl"))
        first = gathered(far)
        posts, asked = server.posts, [body["messages"] for body in server.bodies[-COUNT:]]
        assert gathered(far) == first
        assert gathered(far, seed=9) == first
        assert server.posts == posts
    prompts = [one.prompt for one in questions(answers(place / "prompts.jsonl"))]
    assert sorted(turns[-1]["content"] for turns in asked) == sorted(prompts)
    assert [said(document)[0] for document in first.documents] == [("user", p) for p in prompts]


def test_a_server_killed_in_the_midst_is_asked_on_where_it_stopped(
    place, gathered, model, monkeypatch
):
    real = EndpointTeacher.answer

    def answer(self, *arguments, **named):
        server.die_at = server.die_at or server.posts + 3  # the preflight is over
        return real(self, *arguments, **named)

    monkeypatch.setattr(EndpointTeacher, "answer", answer)
    batches = RejectionConfig(batch_size=2)
    with Server(model) as server:
        how = answers(place / "prompts.jsonl", select=batches)
        far = served_teacher(server, api="chat", answers=how)
        far = replace(far, endpoint=replace(far.endpoint, concurrency=1))
        with pytest.raises(EndpointError, match="run the same command again when it is back"):
            gathered(far)
        first = server.bodies
    with Server(model, port=server.port) as back:
        assert len(gathered(far).documents) == COUNT
        second = back.bodies
    prompts = [one.prompt for one in questions(how)]
    chats = [body["messages"] for body in (*first, *second) if "messages" in body]
    said = [messages[-1]["content"] for messages in chats]
    assert [said.count(prompt) for prompt in prompts] == [1, 1, 1, 2, 1, 1]  # the last got nothing


def test_a_server_is_given_seeds_of_31_bits_and_the_temperature(place, gathered, model):
    select = RejectionConfig(samples=2, batch_size=4)
    warm = answers(place / "prompts.jsonl", temperature=0.9, select=select)
    with Server(model) as server:
        found = gathered(served_teacher(server, api="chat", answers=warm))
        asked = server.bodies[-2 * COUNT :]
    assert found.documents
    assert {body["temperature"] for body in asked} == {0.9}
    assert all(0 <= body["seed"] < 2**31 for body in asked)
    assert len({body["seed"] for body in asked}) == 4  # two rounds of two batches


def test_a_server_with_likely_tokens_gives_answers_with_their_signal(place, gathered, model, local):
    how = answers(place / "prompts.jsonl")
    with Server(model) as server:
        far = served_teacher(server, api="chat", says="top_logprobs", top=5, answers=how)
        found = gathered(on_disk(place), far)
        posts = server.posts
        assert gathered(on_disk(place), far, seed=3).scored.keys() == {1}
        assert server.posts == posts
    assert len(found.documents) == COUNT  # those of the other teacher
    known = model.tokenizer
    asked = [one.prompt for one in questions(how)]
    assert len(found.scored[1]) == COUNT
    for prompt, row in zip(asked, found.scored[1], strict=True):
        begun = chat.begin(known, ({"role": "user", "content": prompt},))
        assert list(row.tokens[: row.first]) == known(begun, add_special_tokens=False)["input_ids"]
        assert len(row.signal.head_ids_NH) == len(row.tokens) - row.first
        token_BS = torch.tensor([row.tokens[:-1]])
        logp_NV = logits(local.hidden(token_BS)[0], local.head).log_softmax(-1)
        p_NH = logp_NV[row.first - 1 :].exp().gather(1, row.signal.head_ids_NH)
        assert torch.allclose(row.signal.head_p_NH, p_NH, atol=1e-5)


def test_a_plain_prompt_gets_the_begin_token(place, gathered, model):
    how = answers(place / "prompts.jsonl", form="text")
    with Server(model) as server:
        far = served_teacher(server, says="top_logprobs", top=5, answers=how)
        (rows,) = gathered(far).scored.values()
    known = model.tokenizer
    for question, row in zip(questions(how), rows, strict=True):
        ids = known(question.prompt, add_special_tokens=False)["input_ids"]
        assert list(row.tokens[: row.first]) == [known.bos_token_id, *ids]


def test_a_server_that_answers_nothing_is_one_sentence(place, gathered, model, monkeypatch):
    none = torch.zeros(0, 0, dtype=torch.int64)
    empty = Sparse(none, none.float(), none, torch.zeros(0), torch.zeros(0))
    silent = Answer(text="", tokens=(), signal=empty, cut=0, finished=True)
    monkeypatch.setattr(EndpointTeacher, "answer_with_top", lambda *_, **__: [silent] * COUNT)
    how: AnswersConfig = answers(place / "prompts.jsonl")
    with Server(model) as server:
        far = served_teacher(server, api="chat", says="top_logprobs", top=5, answers=how)
        with pytest.raises(InputError, match="'far' answered nothing to any prompt"):
            gathered(far)
