"""Facts about the seed prompts and their card.

The prompts in seeds/ are what a teacher is asked at the start of a run, so their ids must follow
from their text, their card must describe the file that ships, and no prompt may repeat another.
"""

import hashlib
import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

SEEDS = Path(__file__).resolve().parents[1] / "seeds"
KINDS = frozenset(
    "explain advise list compare imagine rewrite code opinion plan define summarise "
    "troubleshoot".split()
)
TOPICS = frozenset(
    "everyday language science python mathematics history work nature craft computing".split()
)
ROWS = 240
PER_KIND = 20
WORDS = range(6, 46)
JACCARD_LIMIT = 0.6


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    """The prompts, one dictionary a line of the file."""
    lines = (SEEDS / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def card() -> dict:
    """The card that describes the prompts."""
    return json.loads((SEEDS / "prompts.card.json").read_text(encoding="utf-8"))


def folded(prompt: str) -> str:
    """The prompt in lower case, with every run of whitespace as one space."""
    return " ".join(prompt.casefold().split())


def jaccard(a: set[str], b: set[str]) -> float:
    """Shared words as a fraction of all words of both sets, in [0, 1]."""
    return len(a & b) / len(a | b)


def test_every_row_has_exactly_the_fields_of_the_card(rows: list[dict], card: dict) -> None:
    wrong = [row for row in rows if set(row) != set(card["fields"])]
    assert wrong == []


def test_ids_are_the_first_twelve_digits_of_the_prompt_digest(rows: list[dict]) -> None:
    expected = [hashlib.sha256(row["prompt"].encode("utf-8")).hexdigest()[:12] for row in rows]
    assert [row["id"] for row in rows] == expected


def test_ids_are_unique(rows: list[dict]) -> None:
    assert len({row["id"] for row in rows}) == ROWS


def test_there_are_240_different_prompts_after_folding(rows: list[dict]) -> None:
    counts = Counter(folded(row["prompt"]) for row in rows)
    assert [prompt for prompt, count in counts.items() if count > 1] == []
    assert len(counts) == ROWS


def test_prompts_carry_no_stray_whitespace(rows: list[dict]) -> None:
    wrong = [row["prompt"] for row in rows if row["prompt"] != " ".join(row["prompt"].split())]
    assert wrong == []


def test_tags_are_a_known_kind_and_a_known_topic(rows: list[dict]) -> None:
    wrong = [
        row["tags"]
        for row in rows
        if len(row["tags"]) != 2 or row["tags"][0] not in KINDS or row["tags"][1] not in TOPICS
    ]
    assert wrong == []


def test_every_kind_has_twenty_prompts(rows: list[dict]) -> None:
    counts = Counter(row["tags"][0] for row in rows)
    assert counts == dict.fromkeys(KINDS, PER_KIND)


def test_every_topic_occurs_under_at_least_half_of_the_kinds(rows: list[dict]) -> None:
    kinds_of = {topic: {r["tags"][0] for r in rows if r["tags"][1] == topic} for topic in TOPICS}
    assert {topic: len(kinds) for topic, kinds in kinds_of.items() if len(kinds) < 6} == {}


def test_prompts_are_6_to_45_words_long(rows: list[dict]) -> None:
    wrong = [row["prompt"] for row in rows if len(row["prompt"].split()) not in WORDS]
    assert wrong == []


def test_no_three_word_opening_is_used_more_than_three_times(rows: list[dict]) -> None:
    openings = Counter(" ".join(folded(row["prompt"]).split()[:3]) for row in rows)
    assert {opening: n for opening, n in openings.items() if n > 3} == {}


def test_no_two_prompts_share_three_fifths_of_their_words(rows: list[dict]) -> None:
    words = [(row["id"], set(re.findall(r"\w+", row["prompt"].casefold()))) for row in rows]
    near = [
        (a_id, b_id)
        for (a_id, a), (b_id, b) in combinations(words, 2)
        if jaccard(a, b) >= JACCARD_LIMIT
    ]
    assert near == []


def test_card_digest_is_the_digest_of_the_file(card: dict) -> None:
    assert card["sha256"] == hashlib.sha256((SEEDS / "prompts.jsonl").read_bytes()).hexdigest()


def test_card_counts_the_rows_of_the_file(rows: list[dict], card: dict) -> None:
    assert card["rows"] == len(rows) == ROWS


def test_card_states_source_licence_and_language(card: dict) -> None:
    stated = {key: card[key] for key in ("source", "licence", "language")}
    assert stated == {
        "source": "written for spiritsafe",
        "licence": "Apache-2.0",
        "language": "en",
    }
