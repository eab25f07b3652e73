"""Facts about the probe prompts and their card.

Any prefix is put to models whose answers are then compared, so the ids must follow from the text,
no prompt may repeat another, and every prefix must be balanced over kinds and languages.
"""

import hashlib
import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from audit.resources import shipped

KINDS = ("explain", "advise", "list", "compare", "imagine", "rewrite", "code", "opinion")
PER_KIND = {"en": 35, "zh": 10}
ROWS = 360
HAN = re.compile(r"[\u3400-\u9fff]")
FIVE_GRAM_LIMIT = 0.5
OPENING_LIMIT = 0.12
# Questions about the model itself belong to the probe of self-identification.
ITSELF = re.compile(
    r"\bAI\b|\b(?:chat ?bot|assistant|language model|who are you|your name|trained you)\b"
    r"|模型|人工智能|机器人|助手|你是谁|你叫什么",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    """The prompts, one dictionary a line of the file."""
    return read(shipped("data/probe_prompts.jsonl"))


@pytest.fixture(scope="module")
def card() -> dict:
    """The card that describes the prompts."""
    return json.loads(shipped("data/probe_prompts.card.json").read_text(encoding="utf-8"))


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def of(rows: list[dict], language: str) -> list[dict]:
    return [row for row in rows if row["language"] == language]


def five_grams(prompt: str) -> set[str]:
    """Every five characters in a row, in lower case and with single spaces."""
    text = " ".join(prompt.casefold().split())
    return {text[start : start + 5] for start in range(len(text) - 4)}


def overlap(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


def test_every_row_has_exactly_the_fields_of_the_card(rows: list[dict], card: dict) -> None:
    assert [row for row in rows if set(row) != set(card["fields"])] == []


def test_tags_are_a_known_kind_and_a_topic_of_the_card(rows: list[dict], card: dict) -> None:
    wrong = [
        row["tags"]
        for row in rows
        if len(row["tags"]) != 2
        or row["tags"][0] not in KINDS
        or row["tags"][1] not in card["topics"]
    ]
    assert wrong == []


def test_ids_are_the_first_twelve_digits_of_the_prompt_digest(rows: list[dict]) -> None:
    expected = [hashlib.sha256(row["prompt"].encode("utf-8")).hexdigest()[:12] for row in rows]
    assert [row["id"] for row in rows] == expected


def test_ids_are_unique(rows: list[dict]) -> None:
    assert len({row["id"] for row in rows}) == len(rows) == ROWS


def test_prompts_carry_no_stray_whitespace(rows: list[dict]) -> None:
    wrong = [row["prompt"] for row in rows if row["prompt"] != " ".join(row["prompt"].split())]
    assert wrong == []


def test_every_kind_has_its_share_in_both_languages(rows: list[dict]) -> None:
    counts = Counter((row["language"], row["tags"][0]) for row in rows)
    assert counts == {(lang, kind): PER_KIND[lang] for lang in PER_KIND for kind in KINDS}


def test_chinese_rows_are_written_in_han_characters_and_english_rows_hold_none(
    rows: list[dict],
) -> None:
    counts = {
        lang: [len(HAN.findall(row["prompt"])) for row in of(rows, lang)] for lang in PER_KIND
    }
    assert min(counts["zh"]) >= 8
    assert max(counts["zh"]) <= 120
    assert set(counts["en"]) == {0}


def test_english_prompts_are_5_to_60_words_or_90_with_a_text_to_rewrite(rows: list[dict]) -> None:
    limit = {kind: 60 for kind in KINDS} | {"rewrite": 90}
    wrong = [
        row["prompt"]
        for row in of(rows, "en")
        if not 5 <= len(row["prompt"].split()) <= limit[row["tags"][0]]
    ]
    assert wrong == []


def test_every_prompt_to_rewrite_brings_a_text_in_quotation_marks(rows: list[dict]) -> None:
    rewrites = [row["prompt"] for row in rows if row["tags"][0] == "rewrite"]
    assert [text for text in rewrites if not re.search(r'".{20,}"|“.{8,}”', text)] == []


def test_no_two_prompts_share_half_of_their_five_grams(rows: list[dict]) -> None:
    grams = [(row["id"], five_grams(row["prompt"])) for row in rows]
    pairs = combinations(grams, 2)
    near = [(a_id, b_id) for (a_id, a), (b_id, b) in pairs if overlap(a, b) >= FIVE_GRAM_LIMIT]
    assert near == []


def test_no_prompt_comes_near_to_a_seed_prompt(rows: list[dict]) -> None:
    seeds = read(Path(__file__).resolve().parents[2] / "seeds" / "prompts.jsonl")
    known = [(seed["id"], five_grams(seed["prompt"])) for seed in seeds]
    mine = [(row["id"], five_grams(row["prompt"])) for row in rows]
    near = [(a_id, b_id) for a_id, a in mine for b_id, b in known if overlap(a, b) >= 0.5]
    assert near == []


def test_few_english_prompts_start_with_the_same_two_words(rows: list[dict]) -> None:
    english = [re.findall(r"[\w'-]+", row["prompt"].casefold()) for row in of(rows, "en")]
    openings = Counter(tuple(words[:2]) for words in english)
    assert {o: n for o, n in openings.items() if n > OPENING_LIMIT * len(english)} == {}


def test_no_prompt_asks_a_model_about_itself(rows: list[dict]) -> None:
    assert [row["prompt"] for row in rows if ITSELF.search(row["prompt"])] == []


def test_every_prefix_is_balanced_over_kinds_and_languages(rows: list[dict]) -> None:
    kinds: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    for n, row in enumerate(rows, 1):
        kinds[row["tags"][0]] += 1
        languages[row["language"]] += 1
        assert max(abs(kinds[kind] - n / 8) for kind in KINDS) < 1, n
        assert abs(languages["zh"] - 2 * n / 9) < 2, n


def test_every_prefix_spreads_each_language_over_the_kinds(rows: list[dict]) -> None:
    cells: Counter[tuple[str, str]] = Counter()
    for n, row in enumerate(rows, 1):
        cells[row["language"], row["tags"][0]] += 1
        for (language, kind), count in cells.items():
            share = PER_KIND[language] * n / ROWS
            assert abs(count - share) < 2, (n, language, kind)


def test_the_order_is_as_the_card_says(rows: list[dict]) -> None:
    for start in range(0, ROWS, 8):
        assert {row["tags"][0] for row in rows[start : start + 8]} == set(KINDS)
    for start in range(0, ROWS, 9):
        assert len(of(rows[start : start + 9], "zh")) == 2
    for start in range(0, ROWS, 36):
        chinese = [row["tags"][0] for row in of(rows[start : start + 36], "zh")]
        assert sorted(chinese) == sorted(KINDS)


def test_the_first_fifty_touch_most_topics(rows: list[dict], card: dict) -> None:
    assert len({row["tags"][1] for row in rows[:50]}) >= len(card["topics"]) - 4


def test_card_digest_is_the_digest_of_the_file(card: dict) -> None:
    raw = shipped("data/probe_prompts.jsonl").read_bytes()
    assert card["sha256"] == hashlib.sha256(raw).hexdigest()


def test_card_counts_the_rows_by_language_kind_and_topic(rows: list[dict], card: dict) -> None:
    counts = {
        language: dict(Counter(row["tags"][0] for row in of(rows, language)))
        for language in card["languages"]
    }
    assert card["counts"] == counts
    assert card["topics"] == dict(Counter(row["tags"][1] for row in rows))
    assert card["rows"] == len(rows)


def test_card_states_source_licence_and_languages(card: dict) -> None:
    stated = {key: card[key] for key in ("source", "licence", "languages")}
    assert stated == {
        "source": "written for spiritsafe",
        "licence": "Apache-2.0",
        "languages": ["en", "zh"],
    }
