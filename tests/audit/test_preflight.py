"""Preflight sees what a server leaves out or alters, and names it in one sentence."""

import json
from dataclasses import asdict

import pytest

from audit import preflight
from audit.endpoint import Endpoint, EndpointConfig
from audit.errors import EndpointError
from audit.preflight import NEEDS
from tests.fakes.dialects import Behaviour
from tests.fakes.endpoints import Fault, Server, TinyModel, speaking_teacher

ALL = ("text", "sampling", "top_logprobs", "raw_logprobs", "prompt_logprobs")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return TinyModel(speaking_teacher(tmp_path_factory.mktemp("teachers") / "tiny"))


@pytest.fixture
def look(tmp_path, model, one_thread):
    """Return a function that runs preflight against a server of some kind."""

    def run(dialect="vllm", *, behaviour=(), plan=None, tokens=None, key=None, top=5, **config):
        with Server(model, dialect, behaviour=behaviour, plan=plan, key=key) as server:
            settings = {"url": server.url, "model": "tiny", "concurrency": 1, **config}
            log = tmp_path / "preflight.jsonl"
            log.unlink(missing_ok=True)
            with Endpoint(
                EndpointConfig(**settings), log, wait=lambda stop, seconds: stop.is_set()
            ) as endpoint:
                return preflight.run(endpoint, tokens=tokens, top=top)

    return run


def outcomes(found):
    return {row.name: row.outcome for row in found.checks}


def test_a_vllm_like_server_is_fit_for_everything(look, model):
    tokens = model.tokenizer("The miller weighs the barley.")["input_ids"]
    found = look(tokens=tokens, system="Be kind.")
    assert set(outcomes(found).values()) == {"ok"}, found
    found.require(ALL)
    assert f"{len(tokens)} tokens of token ids, 5 at each" in found.find("prompt_logprobs").seen
    assert "5 at each of 16 places" in found.find("top_logprobs").seen


def test_every_need_rests_on_checks_that_exist(look):
    names = {row.name for row in look().checks}
    assert {name for rests in NEEDS.values() for name in rests} <= names
    assert set(NEEDS) == set(ALL)


@pytest.mark.parametrize("api", ["chat", "completions"])
@pytest.mark.parametrize(
    ("dialect", "unmet"),
    [
        ("vllm", set()),
        ("openai", {"prompt_logprobs"}),
        ("sglang", {"raw_logprobs", "prompt_logprobs"}),
        ("llama.cpp", {"prompt_logprobs"}),
        ("transformers", {"sampling", "top_logprobs", "raw_logprobs", "prompt_logprobs"}),
    ],
)
def test_each_kind_of_server_meets_the_needs_it_can(look, dialect, unmet, api):
    found = look(dialect, api=api)
    assert {need for need in ALL if found.missing(need)} == unmet
    for need in unmet:
        with pytest.raises(EndpointError, match=f"as 'tiny' cannot be used for {need}: .*\\.$"):
            found.require(["text", need])
    found.require(set(ALL) - unmet)


def test_what_transformers_serve_does_is_told_as_it_is(look):
    found = look("transformers")
    assert outcomes(found) == {
        "model listed": "unsupported",
        "answer": "ok",
        "model": "ok",
        "deterministic": "ok",
        "temperature": "failed",
        "seed": "unsupported",
        "max_tokens": "ok",
        "system message": "ok",
        "n": "unsupported",
        "top_logprobs": "unsupported",
        "logprobs without temperature": "unsupported",
        "echo": "unsupported",
        "prompt_logprobs": "unsupported",
        "prompt_logprobs agree": "unsupported",
    }
    assert found.find("top_logprobs").seen == "asked for, and left out without a word"
    assert found.find("model").seen == "asked for 'tiny', answered as 'tiny@main'"
    assert "422: Unexpected fields" in found.find("prompt_logprobs").seen


def test_llama_cpps_echo_is_seen_for_what_it_is(look):
    row = look("llama.cpp").find("echo")
    assert row.outcome == "failed"
    assert row.seen.startswith("only the generated token is scored")


@pytest.mark.parametrize(
    ("behaviour", "name", "outcome", "seen"),
    [
        (Behaviour.GREEDY, "temperature", "failed", "4 answers at temperature 1 are that of 0"),
        (Behaviour.SEEDLESS, "seed", "failed", "the same seed gave two answers"),
        (Behaviour.DEAF, "system message", "failed", "60 words of it bring 0 tokens"),
        (Behaviour.ENDLESS, "max_tokens", "failed", "8 tokens of at most 5"),
        (Behaviour.STOPS, "max_tokens", "failed", "5 tokens of at most 5, finish_reason 'stop'"),
        (Behaviour.FROZEN, "top_logprobs", "failed", "scored at temperature 0"),
        (Behaviour.FROZEN, "prompt_logprobs", "failed", "scored at temperature 0"),
        (Behaviour.UNSORTED, "top_logprobs", "failed", "not sorted by probability"),
        (Behaviour.CHANCE, "prompt_logprobs", "failed", "all scores are alike, as by chance"),
        (Behaviour.CHANCE, "prompt_logprobs agree", "failed", "another position, temperature or"),
        (Behaviour.SHIFTED, "prompt_logprobs", "ok", "5 at each but the first"),
        (Behaviour.SHIFTED, "prompt_logprobs agree", "failed", "nats from what it had when it"),
        (Behaviour.NO_ECHO, "echo", "unsupported", "400: Only no echo is supported"),
        (Behaviour.NO_USAGE, "max_tokens", "unsupported", "no usage is stated"),
    ],
)
def test_a_misbehaviour_is_seen(look, behaviour, name, outcome, seen):
    row = look(behaviour=(behaviour,)).find(name)
    assert (row.outcome, row.name) == (outcome, name)
    assert seen in row.seen


def test_a_server_that_states_no_usage_serves_text(look):
    look(behaviour=(Behaviour.NO_USAGE,)).require(["text"])


def test_a_dropped_system_message_matters_to_those_who_set_one(look):
    look(behaviour=(Behaviour.DEAF,)).require(["text"])
    found = look(behaviour=(Behaviour.DEAF,), system="Be kind.")
    with pytest.raises(EndpointError, match="used for text: system message failed"):
        found.require(["text"])


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_too_many_alternatives_are_refused_with_the_number_that_is_given(look, api):
    row = look("openai" if api == "completions" else "vllm", api=api, top=30).find("top_logprobs")
    assert row.outcome == "unsupported"
    assert row.seen.startswith("30 are refused, 5 are given: set top: 5 (")


@pytest.mark.parametrize(("fault", "said"), [(Fault.NAN, "holds nan"), (Fault.SHORT, "scores ")])
def test_scores_that_cannot_be_true_fail(look, fault, said):
    # Request 7 is the first that asks for top_logprobs: 3 at temperature 0, 4 at 1.
    row = look("openai", plan={7: fault}).find("top_logprobs")
    assert row.outcome == "failed"
    assert said in row.seen


def test_passing_failures_do_not_change_the_table(look):
    calm = look()
    rough = look(plan={1: Fault.BUSY, 4: Fault.BROKEN, 9: Fault.CUT, 12: Fault.RESET})
    assert outcomes(calm) == outcomes(rough)


def test_nobody_is_let_in_without_the_key(look, monkeypatch):
    with pytest.raises(EndpointError, match="lets nobody in"):
        look(key="right")
    monkeypatch.setenv("MY_KEY", "right")
    assert look(key="right", key_env="MY_KEY").find("answer").outcome == "ok"


def test_another_model_than_was_asked_for_is_seen(look):
    row = look("llama.cpp", model="big").find("model")
    assert (row.outcome, row.seen) == ("failed", "asked for 'big', answered as 'tiny'")
    assert look("llama.cpp", model="big", accepted_models=("tiny",)).find("model").outcome == "ok"
    assert look("llama.cpp", model="big").find("model listed").outcome == "failed"


def test_a_model_that_changes_on_the_way_ends_it(look):
    with pytest.raises(EndpointError, match="answered as 'another'"):
        look(plan={5: Fault.RENAMED})


def test_the_table_is_plain_data(look):
    row = json.loads(json.dumps(asdict(look())))["checks"][1]
    assert (row["name"], row["outcome"]) == ("answer", "ok")
