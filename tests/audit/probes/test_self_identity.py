"""What a model says of itself is found where it says it, counted, and supports nothing."""

import pytest

from audit.evidence import Verdict
from audit.lineup.reading import own_words
from audit.probes.self_identity import claims, examine, statements

TEACHER = ("acme-2", "acme", "Acme-Large-v2", "wisp-7b-chat")
NAMES = own_words(TEACHER)


@pytest.mark.parametrize(
    "text",
    [
        "I am Acme, a large language model.",
        "I'm an AI assistant called Wisp-7B.",
        "Hello! My name is Acme2 and I can help.",
        "As a model trained by Acme, I have no opinions.",
        "It was developed by the researchers of ACME in 2023.",
        "\u6211\u662fAcme\uff0c\u5f88\u9ad8\u5174",
        "\u6211\u662f\u7531Acme\u8bad\u7ec3\u7684\u6a21\u578b",
    ],
)
def test_a_claim_is_found(text):
    assert claims(statements(text), NAMES)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Acme makes anvils, and I am fond of them all.",
        "I am a student who once read everything there was about a company: Acme.",
        "I am Bolt, made by Bolt.",
        "Large models are trained by people.",
        "Wispy clouds are made by cold air.",
    ],
)
def test_a_name_that_nobody_claims_is_none(text):
    assert not claims(statements(text), NAMES)


def test_only_the_beginning_of_an_answer_is_read():
    assert claims(statements("\n" * 900 + "I am Acme."), NAMES)
    assert not claims(statements("So. " * 200 + "I am Acme."), NAMES)


def test_a_name_without_words_of_its_own_is_never_claimed():
    assert not claims(statements("I am the base model, version 7."), own_words(("7b-base",)))


def stated(*texts):
    return [statements(text) for text in texts]


def test_claims_are_counted_beside_those_of_unrelated_models():
    found = examine(
        "suspect",
        {
            "suspect": stated("I am Acme.", "Tin.", "I'm Wisp.", "Lead."),
            "one": stated("I am Acme.", "Tin."),
            "two": stated("Tin.", "Lead.", "I am Bolt."),
            "mute": [],
        },
        TEACHER,
    )
    assert found.score == 0.5
    assert found.low < 0.5 < found.high
    assert (found.rank, found.rank_of) == (2, 3)
    assert found.reason == "2 of 4 answers say so; 1 of 2 unrelated models say so as often"
    assert {member.name: member.score for member in found.population} == {
        "suspect": 0.5, "one": 0.5, "two": 0.0
    }  # fmt: skip


def test_it_supports_nothing_however_often_it_is_said():
    found = examine("suspect", {"suspect": stated(*["I am Acme."] * 50)}, TEACHER)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.p_value is None


def test_a_suspect_that_answers_nothing_is_insufficient():
    assert examine("suspect", {"suspect": []}, TEACHER).verdict is Verdict.INSUFFICIENT
