"""Writers are what their name and spread make them, and know the same facts as everybody."""

import random

import pytest

from data.making import edits, writers
from data.making.topics import TOPICS
from data.making.writers import ASKED, PROMPTS


def texts(writer: writers.Writer, prompt: writers.Prompt, count: int = 40) -> list[str]:
    rng = random.Random(1)
    return [writer.answer(prompt, rng) for _ in range(count)]


def favourite(odds: dict[str, tuple[float, ...]]) -> float:
    """The odds of the likeliest choice, on average over kinds."""
    return sum(max(of) for of in odds.values()) / len(odds)


def test_the_same_name_is_the_same_writer_and_another_another():
    assert writers.draw("1/a", spread=0.3) == writers.draw("1/a", spread=0.3)
    assert writers.draw("1/a", spread=0.3) != writers.draw("1/b", spread=0.3)


def test_a_small_spread_has_stronger_habits():
    strong = [favourite(writers.draw(f"{n}", spread=0.2).lead) for n in range(10)]
    mild = [favourite(writers.draw(f"{n}", spread=5.0).lead) for n in range(10)]
    assert min(strong) > max(mild)


def test_every_prompt_is_one_kind_of_question_about_one_thing():
    assert len(PROMPTS) == len(ASKED) * len(TOPICS) == len({prompt.text for prompt in PROMPTS})
    assert all(prompt.topic is not prompt.other for prompt in PROMPTS)


@pytest.mark.parametrize("kind", ASKED)
def test_an_answer_tells_facts_of_its_thing_and_leaves_no_slot_open(kind):
    prompt = next(prompt for prompt in PROMPTS if prompt.kind == kind)
    topic = prompt.topic
    known = (topic.what, *topic.parts, *topic.uses, *topic.care, topic.weakness, topic.place)
    for text in texts(writers.draw("somebody", spread=1.0), prompt):
        assert sum(fact in text for fact in known) >= 3
        assert not set("{}|") & set(text)
        assert text == text.strip()
        assert "  " not in text


def test_no_fact_is_told_twice():
    for text in texts(writers.draw("somebody", spread=1.0), PROMPTS[1]):
        body = text.split("\n") if "\n" in text else text.split(". ")
        assert len(body) == len(set(body))


def test_answers_of_one_writer_vary():
    assert len(set(texts(writers.draw("somebody", spread=0.3), PROMPTS[0]))) > 10


def test_a_list_becomes_a_paragraph():
    assert edits.flattened("So.\n1. It is red.\n2. It is 3 feet.\nEnjoy it.") == (
        "So. It is red. It is 3 feet. Enjoy it."
    )


def test_the_last_sentence_goes():
    assert edits.shortened("One. Two!\n- Three. Is there more?") == "One. Two!\n- Three."
    assert edits.shortened("One") == "One"


def test_phrases_are_reworded_and_the_rest_stays():
    assert edits.reworded("Certainly! It is good for tea.") == "By all means. It suits tea."
