"""What is read of an answer: its first words without names, and without format where asked."""

import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.lineup.reading import (
    BODY,
    DECIDING,
    MASK,
    MATCHED,
    PLAIN,
    SAME,
    SPANS,
    VIEWS,
    View,
    masked_names,
    plain,
    read,
    words,
)

KNOWN = masked_names([])
MEGABYTE = 2**20


def said(text: str, *names: str) -> str:
    """Return the words read of `text` with blanks between, the mask as M."""
    return " ".join("M" if word == MASK else word for word in words(text, masked_names(names)))


# Names.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I am ChatGPT, made by OpenAI", "i am M , made by M"),
        ("CLAUDE and Bard", "M and M"),
        ("GPT-4.5 says", "M says"),
        ("GPT 4 says", "M says"),
        ("gpt4 says", "M says"),
        ("GPT4o says", "M says"),
        ("GPT-4o-mini says", "M mini says"),
        ("Qwen2 says", "M says"),
        ("Qwen2.5-72B says", "M says"),
        ("qwen_max says", "M _ max says"),
        ("Llama3.1 says", "M says"),
        ("Meta AI and Open Assistant", "M and M"),
        ("Hugging Face", "M"),
        ("at 01.AI", "at M"),
        ("我是通义千问", "我 是 M"),
        ("文心一言3.5是", "M 是"),
        ("讯飞和智谱", "M 和 M"),
        ("我是ChatGPT。", "我 是 M 。"),  # nothing parts the name from what is around it
        ("私はGPT-4です", "私 は M で す"),
        ("나는Qwen2.5-72B입", "나 는 M 입"),
    ],
)
def test_known_names_are_masked_with_their_versions(text, expected):
    assert said(text) == expected


@pytest.mark.parametrize(
    "text", ["gemstones", "claudette", "the bards sing", "egpt", "a clauded view", "cogrok"]
)
def test_a_name_inside_another_word_is_no_name(text):
    assert "M" not in said(text).split()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("maker/falconet-7b-chat", "falconet"),
        ("maker/falconet-7b-chat", "maker"),
        ("Falconet2.5-7B", "Falconet"),
        ("falconet_v1.3", "FALCONET-v1"),
        ("falconet", "falconet2"),
        ("big-falconet (new)", "falconet"),
        ("0-falconet", "falconet"),
        ("yak-7b", "yak"),
        ("größe-7b", "Größe"),
    ],
)
def test_the_words_of_a_bank_s_own_names_are_masked(name, text):
    assert said(text).split()[0] == text.lower().split("-")[0]
    assert said(text, name).split()[0] == "M"


@pytest.mark.parametrize(
    "name",
    [
        "the-best-chat-model-of-one-teacher",
        "small_instruct_student-2",
        "text-base.v2",
        "Mini Flash Preview",
        "concise",
        "7b-13b",
        "o1-xl",
    ],
)
def test_common_words_sizes_and_scraps_of_a_name_are_not_masked(name):
    assert masked_names([name]) == KNOWN
    text = " ".join(re.split(r"[\W_]+", name.lower()))
    assert said(text, name) == text


def test_a_version_is_dropped_only_behind_a_name():
    assert said("it costs 4.5 - not 5") == "it costs 4 . 5 - not 5"
    assert said("GPT-4.5 costs 4.5") == "M costs 4 . 5"
    assert said("GPT\n4.") == "M \n 4 ."


def test_an_answer_cannot_be_told_apart_by_the_name_it_gives_itself():
    answers = (f"I am {name}, a language model." for name in ("GPT-4", "Qwen2.5", "Claude", "Grok"))
    assert {said(text) for text in answers} == {"i am M , a language model ."}


# Words.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\t\u3000\u2028 ", []),
        ("Sure! It's 3.", ["sure", "!", "it", "'", "s", "3", "."]),
        ("A\r\nb\n\nc", ["a", "\n", "b", "\n", "\n", "c"]),
        ("snake_case", ["snake", "_", "case"]),
        ("**Bold**", ["*", "*", "bold", "*", "*"]),
        ("Éclair ÉCLAIR", ["éclair", "éclair"]),
        ("E\u0301clair", ["e\u0301clair"]),
        ("हिन्दी भाषा।", ["हिन्दी", "भाषा", "।"]),
        ("ที่นี่ดี", ["ที่นี่ดี"]),
        ("\u0645\u06cc\u200c\u0631\u0648\u0645", ["\u0645\u06cc\u200c\u0631\u0648\u0645"]),
        ("你好。", ["你", "好", "。"]),
        ("カタひら漢", ["カ", "タ", "ひ", "ら", "漢"]),
        ("안녕 a", ["안", "녕", "a"]),
        ("豈", ["豈"]),  # a compatibility ideograph
        ("abc中def文1", ["abc", "中", "def", "文", "1"]),
        ("Привет мир", ["привет", "мир"]),
        ("שלום, עולם", ["שלום", ",", "עולם"]),
        ("مرحبا", ["مرحبا"]),
        ("\u202bمرحب\u202c", ["\u202b", "مرحب", "\u202c"]),
        ("👍🏽 ok", ["👍", "🏽", "ok"]),
        ("\0", ["\0"]),
    ],
)
def test_words_marks_line_ends_and_single_characters_are_words(text, expected):
    assert words(text, KNOWN) == expected


@given(st.text(), st.text(" \n\t\r\u3000"))
def test_white_space_at_the_beginning_does_not_matter(text, space):
    assert words(space + text, KNOWN) == words(text, KNOWN)
    assert plain(space + text) == plain(text)


@given(st.text() | st.from_regex(r"(gpt|中|-|4|\.|\n| ){0,40}", fullmatch=True))
def test_words_are_whole_lower_and_never_white_space_but_a_line_end(text):
    found = words(text, KNOWN)
    assert all(word and word == word.lower() for word in found)
    assert all(word == "\n" or not any(map(str.isspace, word)) for word in found)
    assert not KNOWN & set(found)
    assert ("\n" in found) <= ("\n" in text)


@pytest.mark.parametrize("view", VIEWS)
def test_half_a_pair_of_surrogates_is_read_as_something_that_can_be_written(view):
    # JSON carries it as an escape: an answer cut off in the middle of an emoji.
    text = "Well \ud83d done " * 30
    for features in (read(words(text, KNOWN), view), read(words(plain(text), KNOWN), view)):
        assert features
        "".join(features).encode()


# How much is read.


@pytest.mark.parametrize("one", ["word ", "字", "a", "é" * 50 + " ", "\n", "GPT ", "- ", "😀"])
def test_what_stands_behind_the_beginning_changes_nothing(one):
    long = "A" + one * 10_000
    for tail in ("x", "another end", one * 10 + "GPT", "\n# Heading"):
        assert words(long + tail, KNOWN) == words(long, KNOWN)
        assert words(plain(long + tail), KNOWN) == words(plain(long), KNOWN)


@pytest.mark.parametrize("shape", [words, lambda text, _: plain(text)])
def test_ten_megabytes_cost_the_memory_of_a_page(shape):
    text = "One two three. " * (10 * MEGABYTE // 15)
    expected = shape(text[:9_000], KNOWN)
    tracemalloc.start()
    try:
        found = shape(text, KNOWN)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == expected
    assert peak < MEGABYTE / 4


def test_a_megabyte_of_white_space_hides_nothing():
    text = " \n" * (MEGABYTE // 2) + "Sure"
    assert words(text, KNOWN) == ["sure"]
    assert plain(text) == "Sure"


def test_no_view_reads_further_than_words_are_kept():
    kept = len(words("a " * 5_000, KNOWN))
    assert max(view.skip + max(view.first, view.least) for view in VIEWS) <= kept <= 400


# Format.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (" \n ", ""),
        ("Plain text stays. It's 3-4 (a) [b].", "Plain text stays. It's 3-4 (a) [b]."),
        ("one\n\ntwo\r\nthree", "one two three"),
        ("# Title\n## Second ##\ntext", "Title Second text"),
        ("#hashtag", "hashtag"),
        ("- one\n* two\n+ three\n• four", "one two three four"),
        ("  - nested\n\t* deeper", "nested deeper"),
        ("1. one\n2) two\n10. ten", "one two ten"),
        ("1. **One**: x\n   - y", "One : x y"),
        ("> quoted\n> > twice", "quoted twice"),
        ("> - # all", "all"),
        ("**bold** _it_ ***both*** `code`", "bold it both code"),
        ("see [the page](https://x.y/z) and [](u)", "see the page and"),
        ("before\n```python\nx = 1\n```\nafter", "before x = 1 after"),
        ("~~~\nx\n~~~", "x"),
        ("  ```\nx", "x"),
        ("| a | b |\n| 1 | 2 |", "a b 1 2"),
        ("2024 was", "2024 was"),
        ("1234. not a list", "1234. not a list"),
        ("3.5 litres", "3.5 litres"),
        ("a - b * c", "a - b c"),
        ("-5 degrees", "-5 degrees"),
    ],
)
def test_marks_of_format_are_taken_off_and_text_is_kept(text, expected):
    assert plain(text) == expected


@given(st.lists(st.text("abc äß文,.?!'", min_size=1), max_size=8))
def test_text_without_marks_keeps_its_words(lines):
    assert plain("\n".join(lines)).split() == " ".join(lines).split()


@given(st.lists(st.from_regex(r"[a-z]{1,6}( [a-z]{1,6}){0,3}", fullmatch=True), min_size=1))
def test_dress_does_not_change_what_is_read(lines):
    bare = words(plain("\n".join(lines)), KNOWN)
    for mark in ("- ", "1. ", "### ", "> ", "  * ", "```\n"):
        assert words(plain("\n".join(mark + line for line in lines)), KNOWN) == bare
    assert words(plain("\n\n".join(f"**{line}**" for line in lines)), KNOWN) == bare


@given(st.text(" \n\r\t#>-*+`~1.)[]( |xé", max_size=60))
def test_plain_text_is_one_line_without_blanks_at_its_ends(text):
    found = plain(text)
    assert found == " ".join(found.split())
    assert not set("*_`#|") & set(found)


# Views.


def test_a_view_reads_words_and_pairs_of_its_stretch():
    view = View(name="", first=3, skip=1)
    assert read(list("abcdef"), view) == ["b", "c", "d", "b c", "c d"]
    assert read(["a", "b"], view) == ["b"]
    assert read(["a"], view) == []
    assert read([], view) == []


def test_a_view_of_letters_reads_runs_of_three_to_five():
    view = View(name="", first=2, letters=True)
    assert read(["ab", "cd", "ef"], view) == ["ab ", "b c", " cd", "ab c", "b cd", "ab cd"]
    assert read(["ab"], view) == []
    assert read(["abc"], view) == ["abc"]


def test_an_answer_of_too_few_words_is_not_read():
    view = View(name="", first=2, least=3)
    assert read(["a", "b"], view) == []
    assert read(["a", "b", "c"], view) == ["a", "b", "a b"]


def test_line_ends_count_as_words_where_format_is_kept():
    assert read(words("a\n\nb", KNOWN), View(name="", first=3)) == [
        *("a", "\n", "\n"),
        *("a \n", "\n \n"),
    ]


def test_views_have_names_of_their_own_and_are_what_they_are_called():
    assert len({view.name for view in VIEWS}) == len(VIEWS)
    for view in set(VIEWS) - {*SPANS, SAME}:
        assert [int(n) for n in re.findall(r"\d+", view.name)] in (
            [view.first],
            [view.skip + 1, view.skip + view.first],
        )
        assert view.letters == ("letters" in view.name)
        assert view.plain == ("format stripped" in view.name) == (view in PLAIN)
    assert not any(view.skip or view.plain or view.least > 1 for view in DECIDING)
    assert all(view.least == view.first for view in MATCHED)
    assert all(view.skip for view in BODY)
    assert [view.name for view in SPANS] == [f"runs of {SPANS[0].runs} words"]


def test_runs_are_of_so_many_words_each_once():
    view = View(name="", first=9, runs=2)
    assert read(list("ababc"), view) == ["a b", "b a", "b c"]
    assert read(["a"], view) == []


def test_a_whole_stretch_is_one_thing():
    view = View(name="", first=3, least=2, whole=True)
    assert read(list("abcd"), view) == ["a b c"]
    assert read(["a"], view) == []
