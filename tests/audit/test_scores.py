"""Scores of all servers' forms are read alike, and what cannot be true is refused."""

import math
from typing import Any

import pytest

from audit import scores
from audit.errors import EndpointError
from audit.question import Reply
from audit.response_log import Entry


def reply(choice: dict[str, Any], usage: dict[str, int] | None = None) -> Reply:
    entry = Entry(
        key="k",
        url="http://host/v1",
        asked={},
        model="m",
        fingerprint=None,
        request_id=None,
        usage=usage,
        date=None,
        received="2026-11-22T09:00:00Z",
        seconds=0.1,
        attempts=1,
        body="",
    )
    return Reply(body={"choices": [choice]}, line=7, entry=entry)


def lists(tokens: list[str], values: list[Any], tops: Any = None, text: str = "") -> Reply:
    logprobs = {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops}
    return reply({"text": text or "".join(tokens), "logprobs": logprobs})


def test_lists_and_entries_say_the_same():
    tops = [{" b": -2.0, "a": -1.0}]
    (listed,) = scores.generated(lists(["a"], [-1.0], tops)) or []
    chat = [{"token": "a", "logprob": -1.0}, {"token": " b", "logprob": -2.0}]
    content = {"content": [{**chat[0], "top_logprobs": chat}]}
    message = {"message": {"content": "a"}, "logprobs": content}
    assert scores.generated(reply(message)) == [listed]
    assert scores.generated(reply({"text": "a", "logprobs": content})) == [listed]  # llama.cpp
    assert [one.text for one in listed.top] == ["a", " b"]


@pytest.mark.parametrize("logprobs", [None, {}, {"content": None}, {"tokens": None}])
def test_no_scores_are_none(logprobs):
    assert scores.generated(reply({"text": "a", "logprobs": logprobs})) is None
    assert scores.generated(reply({"text": "a"})) is None


def test_tokens_without_alternatives_are_scores_too():
    (position,) = scores.generated(lists(["a"], [-1.0])) or []
    assert position.top == ()
    assert position.chosen.spelt == b"a"


@pytest.mark.parametrize(
    ("token", "listed", "number", "spelt"),
    [
        ("é", None, None, "é".encode()),
        ("é", [195, 169], None, "é".encode()),
        ("\ufffd", [195], None, b"\xc3"),
        ("\ufffd", list("\ufffd".encode()), None, None),
        ("\ufffd", None, None, None),
        ("", None, None, None),
        ("token_id:17", None, 17, None),
        ("token_id:x", None, None, b"token_id:x"),
    ],
)
def test_a_tokens_bytes_are_known_only_where_they_are_certain(token, listed, number, spelt):
    entry = {"token": token, "logprob": -1.0, "bytes": listed}
    choice = {"text": token, "logprobs": {"content": [entry]}}
    (position,) = scores.generated(reply(choice)) or []
    assert (position.chosen.spelt, position.chosen.id) == (spelt, number)


def test_what_a_server_calls_never_is_minus_infinity():
    (position,) = scores.generated(lists(["a"], [-9999.0], [{"a": -9999.0, "b": 0.0}])) or []
    assert position.chosen.logp == -math.inf
    assert position.top[0].logp == 0.0


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lists(["a", "b"], [-1.0]), "holds 2 tokens, 1 scores, 2 alternatives"),
        (lists(["a"], [-1.0], [{}, {}]), "holds 1 tokens, 1 scores, 2 alternatives"),
        (lists(["a"], ["x"]), "holds 'x' where a log-probability should stand"),
        (lists(["a"], [math.inf]), "holds a log-probability above 0, inf"),
        (lists(["a"], [-1.0], [{"a": -0.1, "b": -0.1}]), "add up to 1.81 at token 1"),
    ],
)
def test_scores_that_cannot_be_true_name_their_line(answer, said):
    with pytest.raises(EndpointError, match=said) as caught:
        scores.generated(answer)
    assert "on line 7 of its log" in str(caught.value)


def spelt(text: str, *tokens: str, finish: str = "length") -> int:
    answer = lists(list(tokens), [-1.0] * len(tokens), text=text)
    answer.choices[0]["finish_reason"] = finish
    return scores.spell(scores.generated(answer) or [], answer)


@pytest.mark.parametrize(
    ("text", "tokens", "finish", "inside"),
    [
        ("ab c", ["ab", " c"], "length", 2),
        ("ab", [" ", " ab"], "length", 2),
        ("ab", ["ab", " \n"], "length", 1),
        ("ab", ["ab \n"], "length", 1),
        ("ab", ["ab", "</s>"], "stop", 1),
        ("a", ["ab"], "stop", 1),
        ("aéb", ["a", "\ufffd", "\ufffd", "b"], "length", 4),
        ("a\U0001f600", ["a", "\ufffd", "\ufffd"], "length", 3),
    ],
)
def test_tokens_that_spell_the_text_are_counted(text, tokens, finish, inside):
    assert spelt(text, *tokens, finish=finish) == inside


@pytest.mark.parametrize(
    ("text", "tokens", "finish"),
    [
        ("ab", ["a"], "stop"),
        ("ab", ["a", "c"], "stop"),
        ("ab", ["b", "a"], "stop"),
        ("ab", ["ab", "c"], "length"),
        ("a", ["ab"], "length"),
        ("a long tail", ["a", "\ufffd"], "length"),
        ("a12345b", ["a", "\ufffd", "b"], "length"),
    ],
)
def test_tokens_that_spell_another_text_are_refused(text, tokens, finish):
    with pytest.raises(EndpointError, match="scores"):
        spelt(text, *tokens, finish=finish)


def prompt(rows: Any, count: int | None = None) -> Reply:
    usage = None if count is None else {"prompt_tokens": count}
    return reply({"text": "x", "prompt_logprobs": rows}, usage)


ONE = {"7": {"logprob": -1.0, "rank": 3}, "9": {"logprob": -0.6, "rank": 1}}


def test_scores_of_a_prompt_are_by_token_from_its_second_on():
    assert scores.of_prompt(prompt([None, ONE]), [5, 7]) == [{7: -1.0, 9: -0.6}]
    assert scores.of_prompt(prompt([None, ONE], 2), None) == [{7: -1.0, 9: -0.6}]
    assert scores.of_prompt(reply({"text": "x"}), [5, 7]) is None


@pytest.mark.parametrize(
    ("rows", "tokens", "said"),
    [
        ([None, ONE], [5, 7, 9], "scores 2 tokens of a prompt of 3"),
        ([ONE, ONE], [5, 7], "scores the first token of a prompt"),
        ([], [], "scores the first token of a prompt"),
        ([None, ONE], [5, 8], "has no score for token 1 of the prompt, 8"),
        ([None, None], [5, 7], "has no scores for token 1 of the prompt"),
        ([None, {"x": {"logprob": -1.0}}], [5, 7], "has no scores for token 1 of the prompt"),
        ([None, {"7": {"logprob": None}}], [5, 7], "holds None where a log-probability"),
        ([None, {"7": {"logprob": 0.0}, "8": {"logprob": 0.0}}], [5, 7], "add up to 2 at token 1"),
    ],
)
def test_a_prompts_scores_that_cannot_be_true_are_refused(rows, tokens, said):
    with pytest.raises(EndpointError, match=said):
        scores.of_prompt(prompt(rows), tokens)


def test_a_prompt_of_text_is_held_to_the_stated_usage():
    with pytest.raises(EndpointError, match="scores 2 tokens of a prompt of 3"):
        scores.of_prompt(prompt([None, ONE], 3), None)
