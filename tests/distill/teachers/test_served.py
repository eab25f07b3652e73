"""A served teacher is seen before it is relied on, and what it does not give is refused at once."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from audit.attest import file_digest
from audit.errors import EndpointError
from distill.errors import MismatchError, TeacherError
from distill.prepare import prepare
from distill.prices import Asked
from distill.store import shard
from distill.store.store import Store
from distill.teachers import served as module
from distill.teachers.served import RESPONSES, asked_of, asked_so_far, log_sha256, served, turn
from tests.fakes import askers
from tests.fakes.dialects import Behaviour
from tests.fakes.endpoints import Fault, Server, TinyModel, speaking_teacher
from tests.fakes.processes import processes
from tests.fakes.sessions import Said, answers, rows_file, served_teacher, session, small_config
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


def test_a_server_found_fit_for_the_likeliest_text_is_looked_at_anew_to_draw(opened, model):
    with Server(model, behaviour=(Behaviour.GREEDY,)) as server:
        opened(writer(server))
        with pytest.raises(EndpointError, match="for sampling: temperature failed"):
            opened(writer(server, temperature=0.9))


def test_a_server_that_scores_and_writes_has_to_do_both(opened, model):
    with Server(model, behaviour=(Behaviour.GREEDY,)) as server:
        opened(reader(server), token_BS=TOKENS)
        how = answers("prompts.jsonl", form="text", temperature=0.9)
        with pytest.raises(EndpointError, match="cannot be used for sampling: temperature failed"):
            opened(reader(server, answers=how), token_BS=TOKENS)


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


@pytest.mark.parametrize("mode", ["head_tail", "topk"])
def test_a_store_of_the_same_model_agrees_and_one_of_another_does_not(
    opened, model, place, tmp_path, mode
):
    tiny_teacher(tmp_path / "other", seed=9)
    stores = {}
    for name, path in (("same", place / "teacher"), ("other", tmp_path / "other")):
        small = small_config(place)
        (teacher,) = small.teachers
        made = replace(
            small,
            teachers=(replace(teacher, path=str(path)),),
            text=replace(small.text, tokenizer=str(place / "teacher"), sequence_length=40),
            signal=replace(small.signal, mode=mode, head=12),
        )
        (lesson,) = prepare(session(made, tmp_path / name)).lessons
        (stores[name],) = lesson.train.stores
    with Server(model) as server:
        opened(reader(server, agrees_with=str(stores["same"].path)), token_BS=TOKENS)
        asked = [body["prompt"] for body in server.bodies if "prompt_logprobs" in body][-2:]
        rows = shard.decode_text(stores["same"].key, stores["same"].load(0)).split()[:2]
        assert sorted(asked) == sorted(row[:33].tolist() for row in rows)
        found = json.loads((tmp_path / "far" / "agreement.json").read_text())
        assert found["kl"] < 1e-2 and found["positions"] == 32
        with pytest.raises(TeacherError, match="what is served disagrees with the reference"):
            opened(reader(server, agrees_with=str(stores["other"].path)), token_BS=TOKENS)


@pytest.mark.parametrize(
    ("mode", "length", "documents", "said"),
    [
        ("hidden", 40, "joined", "holds no likeliest tokens"),
        ("topk", 16, "joined", "no sequence whose first 33 tokens"),
        ("topk", 40, "apart", "no sequence whose first 33 tokens"),
    ],
)
def test_a_store_that_cannot_be_compared_with_is_refused(
    opened, model, place, tmp_path, mode, length, documents, said
):
    words = rows_file(tmp_path / "short.jsonl", [{"text": f"word {n}"} for n in range(60)])
    small = small_config(place)
    text = replace(small.text, sequence_length=length, documents=documents)
    text = replace(text, sources=(str(words),)) if documents == "apart" else text
    made = replace(small, text=text, signal=replace(small.signal, mode=mode))
    (lesson,) = prepare(session(made, tmp_path / "run")).lessons
    with Server(model) as server:
        far = reader(server, agrees_with=str(lesson.train.stores[0].path))
        with pytest.raises(MismatchError, match=said):
            opened(far, token_BS=TOKENS)


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


# Several workers.


def test_two_workers_score_a_text_together_and_no_passage_is_asked_twice(place, model, tmp_path):
    small = small_config(place)
    shared = replace(small.signal, path=str(tmp_path / "signals"), shard_tokens=64)
    text = replace(small.text, tokenizer=str(place / "teacher"))
    with Server(model) as server:
        server.plan = {number: Fault.SLOW for number in range(20, 60)}
        server.pause = 0.02
        config = small_config(place, teachers=(reader(server, top=5),), signal=shared, text=text)
        outs = [tmp_path / str(rank) for rank in range(2)]
        done = processes(askers.captures, [(config, out, n, 2) for n, out in enumerate(outs)])
        asked = [tuple(body["prompt"]) for body in server.bodies if len(body["prompt"]) == 33]
        posts = server.posts
        alone = replace(shared, path=None)
        prepare(session(replace(config, signal=alone), tmp_path / "alone"))
        assert server.posts > posts
    assert done == [0, 0]
    stores = [
        Store.open(at / "far/train") for at in (shared_at(shared), tmp_path / "alone/signals")
    ]
    assert stores[0].sha256() == stores[1].sha256() and len(stores[0].shards) > 4
    assert len(set(asked)) == len(asked) == stores[0].tokens // 32 + 1  # the preflight's
    said = [json.loads((out / "found.json").read_text())["said"] for out in outs]
    assert sum("small questions" in row for rows in said for row in rows) == 1
    waited = "far: another process is asking; waiting for it"
    assert sum(waited in rows for rows in said) == 1


def shared_at(signal):
    return Path(signal.path)


def test_a_turn_is_given_back_also_after_an_error(tmp_path):
    heard = Said()
    with pytest.raises(KeyError):
        with turn(tmp_path / "far", "far", heard):
            raise KeyError
    with turn(tmp_path / "far", "far", heard):
        pass
    assert heard.sentences == []


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
    assert asked_so_far("far", priced.endpoint, tmp_path / "far", Said()) == again
    assert asked_so_far("far", priced.endpoint, tmp_path / "far", Said()) == again
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
