"""A server's answers are the student's rows: asked once a writing, in its tokens, ended as said."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from audit.attest import file_digest
from audit.errors import BudgetError, EndpointError
from audit.question import EndpointConfig, Reply
from distill.errors import InputError
from distill.rollout import served as module
from distill.rollout.config import WRITER, RolloutConfig
from distill.rollout.rollouts import Prompt
from distill.rollout.served import ServedWriter, asked_of, line, writer
from student.vocabulary import Vocabulary
from tests.fakes.dialects import Behaviour
from tests.fakes.endpoints import TINY, Server, TinyModel, speaking_teacher
from tests.fakes.sessions import Said, session, small_config

MOST = 6
SEED = 2**62 + 5


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    made = tmp_path_factory.mktemp("served")
    speaking_teacher(made / "teacher", steps=60)
    return made


@pytest.fixture(scope="module")
def model(place):
    return TinyModel(place / "teacher")


@pytest.fixture(scope="module")
def known(model):
    return model.tokenizer


def vocabulary(known) -> Vocabulary:
    return Vocabulary(size=320, bos=known.bos_token_id, eos=known.eos_token_id)


def texts(known, *said: str) -> list[Prompt]:
    rows = [known(text, add_special_tokens=False)["input_ids"] for text in said]
    return [Prompt(tokens=(known.bos_token_id, *row), tag="") for row in rows]


PROMPTS = "the miller fills", "a cooper weighs", "my neighbour sells"


def at(server: Server, *, api: Any = "completions", **changes) -> EndpointConfig:
    return EndpointConfig(url=server.url, model=TINY, api=api, retries=0, **changes)


def rollout(asked: EndpointConfig | None, **changes) -> RolloutConfig:
    how = {"max_new_tokens": MOST, "temperature": 0.0, "endpoint": asked}
    return RolloutConfig(fraction=0.5, **how | changes)


@pytest.fixture
def made(tmp_path, known):
    """Return a function that makes a writer whose files are in `tmp_path`."""

    def make(asked: EndpointConfig, **changes) -> ServedWriter:
        (tmp_path / "served").mkdir(exist_ok=True)
        config = rollout(asked, **changes)
        return ServedWriter(asked, tmp_path / "served", known, vocabulary(known), config)

    return make


# The rows.


def test_a_row_is_what_the_model_goes_on_with_in_the_students_tokens(made, model, known):
    prompts = texts(known, *PROMPTS)
    with Server(model) as server:
        rows = made(at(server)).write(prompts, SEED)
        asked = sorted(body["prompt"] for body in server.bodies)
        greedy = {"temperature": 0.0, "max_tokens": MOST}
        # What was sent begins anew at the server, without the student's begin token.
        drawn = [server.write(list(p.tokens[1:]), greedy, 0) for p in prompts]
    assert asked == sorted(PROMPTS)
    said = [known.decode([token for token, _ in one]) for one in drawn]
    assert rows == [known(text, add_special_tokens=False)["input_ids"][:MOST] for text in said]
    assert all(rows)


@pytest.mark.parametrize(("behaviour", "ended"), [((), False), ((Behaviour.STOPS,), True)])
def test_an_answer_that_stopped_ends_with_the_end_token_and_a_cut_one_does_not(
    made, model, known, behaviour, ended
):
    with Server(model, behaviour=behaviour) as server:
        rows = made(at(server)).write(texts(known, *PROMPTS), SEED)
    assert [row[-1] == known.eos_token_id for row in rows] == [ended] * 3
    assert all(known.eos_token_id not in row[:-1] for row in rows)


def replies(*said: tuple[str | None, str | None]) -> list[Reply]:
    made = [{"text": text, "finish_reason": reason} for text, reason in said]
    return [Reply(body={"choices": [one]}, line=1, entry=None) for one in made]


@pytest.mark.parametrize(
    ("text", "reason", "tokens", "ended"),
    [
        (" by the river", "stop", None, True),
        (" by the river", "length", None, False),
        (" by the river", "content_filter", None, False),
        (" by the river in the yard before dawn", "stop", MOST, False),  # other tokens, and more
        ("", "stop", 0, True),
        (None, "length", 0, True),  # all of it was spent on what is not shown
    ],
)
def test_only_a_whole_answer_ends(made, known, monkeypatch, text, reason, tokens, ended):
    monkeypatch.setattr(module.Endpoint, "ask", lambda *_: replies((text, reason)))
    asked = EndpointConfig(url="http://127.0.0.1:9/v1", model="m")
    ((*row,),) = made(asked).write(texts(known, "a key"), SEED)
    ids = known(text or "", add_special_tokens=False)["input_ids"]
    assert row == ids[:tokens] + [known.eos_token_id] * ended
    assert len(row) <= MOST + ended


# The questions.


def test_a_chat_is_asked_as_messages(made, model, known):
    turns = ({"role": "user", "content": "what does the miller do"},)
    with Server(model) as server:
        far = made(at(server, api="chat", system="Be brief."))
        (row,) = far.write([Prompt(tokens=(0, 5), tag="", messages=turns)], SEED)
        (body,) = server.bodies
    system = {"role": "system", "content": "Be brief."}
    assert body["messages"] == [system, *turns] and "prompt" not in body and row


def test_no_two_questions_of_a_run_share_a_seed_and_settings_are_sent(made, model, known):
    twice = texts(known, PROMPTS[0], PROMPTS[0], PROMPTS[1])
    with Server(model) as server:
        warm = made(at(server), temperature=4.0, top_p=0.9)
        first, second = warm.write(twice, SEED), warm.write(twice, SEED + 1)
        bodies = list(server.bodies)
    assert len(bodies) == 6 and len({body["seed"] for body in bodies}) == 6
    assert all(0 <= body["seed"] < 2**31 for body in bodies)
    assert {(body["temperature"], body["top_p"]) for body in bodies} == {(4.0, 0.9)}
    assert {body["max_tokens"] for body in bodies} == {MOST}
    assert first[0] != first[1] and first != second
    with Server(model) as server:
        fixed = made(at(server, extra={"seed": 7}))
        fixed.write(twice, SEED)
        fixed.write(twice, SEED + 1)
        assert len(server.bodies) == 6 and {body["seed"] for body in server.bodies} == {7}
    with Server(model) as server:
        made(at(server), temperature=1.0).write(twice, SEED)
        assert all("top_p" not in body for body in server.bodies)


def test_what_was_answered_is_not_asked_again_but_another_writing_is(made, model, known):
    prompts = texts(known, *PROMPTS)
    with Server(model) as server:
        first = made(at(server)).write(prompts, SEED)
        assert made(at(server)).write(prompts, SEED) == first
        assert server.posts == 3
        made(at(server)).write(prompts, SEED + 1)  # though the likeliest text may be the same
        assert server.posts == 6


def test_what_a_killed_server_answered_is_kept(made, model, known):
    prompts = texts(known, *PROMPTS)
    with Server(model) as server:
        one = at(server, concurrency=1)
        server.die_at = 2
        with pytest.raises(
            EndpointError, match=r"2 answers are kept .* run the same command again"
        ):
            made(one).write(prompts, SEED)
    with Server(model, port=server.port) as back:
        rows = made(one).write(prompts, SEED)
        assert [body["prompt"] for body in back.bodies] == [PROMPTS[2]]
    assert len(rows) == 3


def test_a_budget_is_of_all_writings(made, model, known):
    prompts = texts(known, *PROMPTS)
    with Server(model) as server:
        few = at(server, max_requests=4, concurrency=1)
        first = made(few).write(prompts, SEED)
        with pytest.raises(BudgetError, match="max_requests: 4"):
            made(few).write(prompts, SEED + 1)
        assert made(few).write(prompts, SEED) == first
        made(replace(few, max_requests=6)).write(prompts, SEED + 1)
        assert server.posts == 6


# Before the first step, and after the last.


@pytest.fixture
def opened(place, tmp_path, known):
    """Return a function that opens the writer of a run in `tmp_path`."""

    def open_it(config: RolloutConfig, prompts: Sequence[Prompt], say=None) -> ServedWriter:
        run = session(small_config(place, rollout=config), tmp_path, say)
        return writer(run, prompts, known, vocabulary(known))

    return open_it


def test_a_server_is_looked_at_once_before_it_is_asked(opened, model, known):
    heard, prompts = Said(), texts(known, *PROMPTS)
    with Server(model) as server:
        config = rollout(at(server), temperature=1.0)
        far = opened(config, prompts, heard)
        posts = server.posts
        opened(config, prompts, heard).write(prompts, SEED)
        assert server.posts == posts + 3 and posts > 20
    assert heard.sentences == [
        "the writer of rollouts: some 25 small questions, to see what its server gives"
    ]
    assert far.config == config


def test_a_server_that_draws_nothing_is_refused_only_where_it_has_to(opened, model, known):
    with Server(model, behaviour=(Behaviour.GREEDY,)) as server:
        cold = rollout(at(server))
        opened(cold, texts(known, *PROMPTS))
        with pytest.raises(EndpointError, match="cannot be used for sampling: temperature failed"):
            opened(replace(cold, temperature=1.0), texts(known, *PROMPTS))


def test_a_server_that_overruns_its_limit_is_refused(opened, model, known):
    with Server(model, behaviour=(Behaviour.ENDLESS,)) as server:
        with pytest.raises(EndpointError, match="cannot be used for text: max_tokens failed"):
            opened(rollout(at(server)), texts(known, *PROMPTS))


def test_plain_text_is_no_chat_and_nothing_is_asked(opened, model, known):
    chats = [Prompt(tokens=(0, 5), tag="", messages=({"role": "user", "content": "a"},))]
    with Server(model) as server:
        asked = rollout(at(server, api="chat"))
        with pytest.raises(InputError, match="but 3 of 4 prompts are plain text, which a chat"):
            opened(asked, [*texts(known, *PROMPTS), *chats])
        assert server.posts == 0
        opened(asked, chats)
        opened(rollout(at(server)), [*texts(known, *PROMPTS), *chats])


def test_the_record_and_the_bill_have_all_that_was_asked(opened, place, tmp_path, model, known):
    prompts = texts(known, *PROMPTS)
    with Server(model) as server:
        config = rollout(at(server, price_input=2.0))
        run = session(small_config(place, rollout=config), tmp_path)
        assert asked_of(run) is None and line(run) is None
        far = opened(config, prompts)
        looked = asked_of(run)
        assert line(run) is None or line(run)["note"].startswith("0 answers")
        far.write(prompts, SEED)
        spent, row = asked_of(run), line(run)
    log = tmp_path / "rollouts" / "served" / "responses.jsonl"
    assert looked.read > 0 and spent.written - looked.written == 3 * MOST
    assert spent.read - looked.read == sum(len(prompt.tokens) - 1 for prompt in prompts)
    assert (spent.teacher, spent.input_tokens, spent.output_tokens) == (WRITER, 2.0, None)
    assert row == {
        "name": f"{TINY} at {server.url}",
        "kind": "answers on the way",
        "sha256": file_digest(log),
        "note": "3 answers in the student's place; which weights is as the user states",
    }
    alone = session(small_config(place), tmp_path)
    assert asked_of(alone) is None and line(alone) is None
