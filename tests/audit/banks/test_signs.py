"""Refusals and broken ends are told by a few rules, each shown here with what it lets pass."""

import tracemalloc

import pytest

from audit.banks import signs

REFUSALS = (
    "I cannot help with that.",
    "I can't help with that.",
    "  I can\u2019t do this",
    "i won't write it",
    "I'm sorry, but I can't assist with that.",
    "I am really sorry, but as an assistant I am not able to do so.",
    "Sorry, I must decline.",
    "Unfortunately, I am unable to open links.",
    "I apologize, but I do not feel comfortable writing this.",
    "I'm afraid we cannot publish it.",
    "I'm not comfortable with this.",
    "As an AI language model, I cannot browse.",
    "很抱歉，我无法回答这个问题。",
    "抱歉，这个我不能写。",
    "对不起，我没有办法打开网页。",
    "我无法提供帮助。",
    "作为一个人工智能助手，我不能访问互联网。",
)
ANSWERS = (
    "",
    "Certainly! Here is a list.",
    "I can help with that.",
    "Sorry for the delay! Here is the letter.",
    "I'm sorry to hear that. You cannot always win.",
    "Sorry to hear that! We cannot always win.",
    "Sorry, " + "and so on, " * 30 + "I cannot",
    "As an AI language model, I have no favourite colour.",
    "You cannot use goto in Python.",
    "Dear Sir,\nI cannot come on Friday.",
    "The soup is hot. I cannot eat it.",
    "她说我不能去。",
    "抱歉的反义词是什么？我不能确定。",
    "x" * 300 + " I cannot",
)


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_told_by_its_beginning(text):
    assert signs.refuses(text)


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_is_no_refusal(text):
    assert not signs.refuses(text)


@pytest.mark.parametrize(
    "text",
    ["and then the", "one, ", "我们可以", "a (b (", "well -", "see 12", "```py\nf(x)", "café"],
)
def test_a_text_that_would_go_on_breaks_off(text):
    assert signs.breaks_off(text)


@pytest.mark.parametrize(
    "text",
    ["", " \n", "Done.", "Done. \n", "「完」", "好。", "```py\nx = 1\n```", "so **bold**", "Why?"],
)
def test_a_text_that_ends_does_not_break_off(text):
    assert not signs.breaks_off(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("two words", 2),
        ("  a\n\tb  c ", 3),
        ("你好 world", 3),
        ("好。", 2),
        ("café au", 2),
    ],
)
def test_a_chinese_character_counts_as_a_word(text, count):
    assert signs.words(text) == count


def test_a_text_of_many_megabytes_is_counted_without_as_many_pieces():
    text = "word, " * 2_000_000
    tracemalloc.start()
    assert signs.words(text) == 2_000_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
    assert signs.breaks_off(text) and not signs.refuses(text)
