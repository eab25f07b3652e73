"""A served teacher is seen before it is relied on, and what it does not give is refused at once."""

import json
from dataclasses import replace

import pytest
import torch

from audit.attest import file_digest
from audit.errors import EndpointError
from distill.errors import TeacherError
from distill.prices import Asked
from distill.teachers import served as module
from distill.teachers.served import RESPONSES, asked_of, log_sha256, served
from tests.fakes.dialects import Behaviour
from tests.fakes.endpoints import Server, TinyModel, speaking_teacher
from tests.fakes.sessions import Said, answers, served_teacher, session, small_config
from tests.fakes.teachers import tiny_teacher

TOKENS = torch.randint(3, 320, (4, 40), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    made = tmp_path_factory.mktemp("served")
    speaking_teacher(made / "teacher", steps=60)
    return made


@pytest.fixture(scope="module")
def model(place):
    return TinyModel(place / "teacher")


@pytest.fixture
def opened(place, tmp_path, model):
    """Return a function that opens a teacher in `tmp_path` and gives what `use` makes of it."""

    def open_it(teacher, use=lambda teacher: None, *, token_BS=None, say=None):
        config = small_config(place, teachers=(teacher,))
        asking = session(config, tmp_path, say)
        with served(asking, teacher, model.tokenizer, tmp_path / "far", token_BS) as it:
            return use(it)

    return open_it


def writer(server, **changes):
    how = answers("prompts.jsonl", temperature=changes.pop("temperature", 0.0))
    return served_teacher(server, **{"api": "chat", "answers": how} | changes)


def reader(server, **changes):
    return served_teacher(server, says="prompt_logprobs", **changes)


def preflight(tmp_path):
    return json.loads((tmp_path / "far" / "preflight.json").read_text())


# The preflight.


def test_a_server_is_looked_at_once(opened, model, tmp_path):
    heard = Said()
    with Server(model) as server:
        far = writer(server)
        opened(far, say=heard)
        posts = server.posts
        opened(far, say=heard)
        assert server.posts == posts > 20
    assert len(heard.sentences) == 1 and heard.sentences[0].startswith("far: some 25 small quest")
    seen = preflight(tmp_path)
    assert seen["spent"]["requests"] > 20
    assert {"answer", "temperature", "top_logprobs"} <= {row["name"] for row in seen["checks"]}


def test_it_is_looked_at_anew_when_something_else_is_asked_of_it(opened, model):
    with Server(model) as server:
        opened(writer(server))
        posts = server.posts
        opened(writer(server, says="top_logprobs", top=5))
        assert server.posts > posts + 20  # an old answer stands for nothing


@pytest.mark.parametrize(
    ("dialect", "changes", "why"),
    [
        ("transformers", {"says": "top_logprobs", "top": 5}, "for top_logprobs: top_logprobs unsu"),
        ("transformers", {"temperature": 0.9}, "for sampling: temperature failed"),
        ("sglang", {"says": "top_logprobs", "top": 5}, "for raw_logprobs: logprobs without tempe"),
    ],
)
def test_what_a_server_does_not_give_is_one_sentence_and_nothing_else_is_asked(
    opened, model, tmp_path, dialect, changes, why
):
    def never(teacher):
        raise AssertionError("was relied on")

    with Server(model, dialect) as server:
        far = writer(server, **changes)
        with pytest.raises(EndpointError, match=f"cannot be used {why}") as refused:
            opened(far, never)
        posts = server.posts
        with pytest.raises(EndpointError, match=f"cannot be used {why}"):
            opened(far, never)
        assert server.posts == 2 * posts  # a server that has changed since is seen to have
    assert str(refused.value).count(". ") == 0 and "\n" not in str(refused.value)
    assert preflight(tmp_path)["checks"]  # to be read
    assert not (tmp_path / "far" / RESPONSES).exists()


def test_text_at_temperature_0_is_all_that_transformers_serve_has_to_give(opened, model):
    with Server(model, "transformers") as server:
        assert opened(writer(server), lambda teacher: teacher.name) == "far"


def test_scores_one_position_late_are_refused(opened, model):
    with Server(model, behaviour=(Behaviour.SHIFTED,)) as server:
        with pytest.raises(EndpointError, match="prompt_logprobs agree failed"):
            opened(reader(server), token_BS=TOKENS)


def test_openai_scores_no_prompts(opened, model):
    with Server(model, "openai") as server:
        with pytest.raises(EndpointError, match="for prompt_logprobs"):
            opened(reader(server), token_BS=TOKENS)


# The agreement.


def test_a_server_of_the_model_on_disk_agrees_with_it(opened, model, place, tmp_path):
    heard = Said()
    with Server(model) as server:
        far = reader(server, agrees_with=str(place / "teacher"))
        opened(far, token_BS=TOKENS, say=heard)
        asked = [body["prompt"] for body in server.bodies if "prompt_logprobs" in body][-2:]
        posts = server.posts
        opened(far, token_BS=TOKENS)
        assert server.posts == posts  # the passages are in the log
    assert sorted(asked) == sorted(TOKENS[:2, :33].tolist())
    found = json.loads((tmp_path / "far" / "agreement.json").read_text())
    assert found["positions"] == 32 and found["kl"] < 1e-3 and found["same_best"] == 1
    assert "far: agrees with" in heard.sentences[-1]


def test_a_server_of_another_model_is_refused_by_how_far_it_is_off(opened, model, tmp_path):
    other = tiny_teacher(tmp_path / "other", seed=9)
    with Server(model) as server:
        far = reader(server, agrees_with=str(other))
        with pytest.raises(TeacherError, match=r"'far': what is served disagrees .* check its mod"):
            opened(far, token_BS=TOKENS)
        assert json.loads((tmp_path / "far" / "agreement.json").read_text())["kl"] > 0.5
        opened(replace(far, agreement=100.0), token_BS=TOKENS)


def test_what_a_preflight_overlooks_the_agreement_finds(opened, model, place, monkeypatch):
    monkeypatch.setattr(module, "_look", lambda *_: None)
    with Server(model, behaviour=(Behaviour.SHIFTED,)) as server:
        far = reader(server, agrees_with=str(place / "teacher"))
        with pytest.raises(TeacherError, match="its scores are one position off"):
            opened(far, token_BS=TOKENS)


def test_without_a_model_to_agree_with_nothing_is_compared(opened, model, tmp_path):
    with Server(model) as server:
        opened(reader(server), token_BS=TOKENS)
        assert not (tmp_path / "far" / "agreement.json").exists()
        assert not (tmp_path / "far" / RESPONSES).read_text()


# What it cost, and what it said.


def test_all_that_was_asked_is_counted_the_preflight_too(opened, model, tmp_path):
    with Server(model) as server:
        far = writer(server)
        priced = replace(far, endpoint=replace(far.endpoint, price_input=2.0, price_output=3.0))

        def ask(teacher):
            before = asked_of(priced, teacher, tmp_path / "far")
            teacher.answer(["the miller"], max_tokens=5, temperature=0.0)
            return before, asked_of(priced, teacher, tmp_path / "far")

        before, after = opened(priced, ask)
        again = opened(priced, lambda teacher: asked_of(priced, teacher, tmp_path / "far"))
    spent = preflight(tmp_path)["spent"]
    assert before == Asked(
        teacher="far",
        read=spent["input_tokens"],
        written=spent["output_tokens"],
        input_tokens=2.0,
        output_tokens=3.0,
    )
    entry = json.loads((tmp_path / "far" / RESPONSES).read_text())
    assert after.read - before.read == entry["usage"]["prompt_tokens"] > 0
    assert after.written - before.written == entry["usage"]["completion_tokens"] > 0
    assert again == after


def test_the_log_stands_for_the_teacher(opened, model, tmp_path):
    none = log_sha256(tmp_path / "far")
    with Server(model) as server:
        opened(writer(server), lambda t: t.answer(["a key"], max_tokens=5, temperature=0.0))
    assert log_sha256(tmp_path / "far") == file_digest(tmp_path / "far" / RESPONSES) != none
