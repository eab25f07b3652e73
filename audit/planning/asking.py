"""Prompts to ask, and what the answers cost at stated prices and a stated length.

Prompts are taken from the first on, so a small budget buys the beginning of what a large one does.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audit import resources
from audit.bank import Bank
from audit.errors import InputError
from audit.files import write_text
from audit.lineup.index import Index

SHIPPED = "data/probe_prompts.jsonl"
_WIDE = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_LETTERS = 4  # of a script with spaces that make a token, about
_MILLION = 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A prompt to ask; `language` is empty where its file does not say."""

    id: str
    prompt: str
    language: str = ""

    @property
    def tokens(self) -> int:
        """About how many tokens it has: one a wide character, one in four other letters."""
        wide = len(_WIDE.findall(self.prompt))
        return wide + math.ceil((len(self.prompt) - wide) / _LETTERS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """What asking costs.

    Attributes:
        input_price: money for a million tokens in.
        output_price: the same of tokens out.
        answer_tokens: of an answer, on average.
        models: that are asked every prompt.
    """

    input_price: float
    output_price: float
    answer_tokens: int
    models: int = 1

    def of(self, prompts: Sequence[Prompt]) -> float:
        """Return what the answers to all of `prompts` cost."""
        read = sum(prompt.tokens for prompt in prompts)
        written = self.answer_tokens * len(prompts)
        return self.models * (read * self.input_price + written * self.output_price) / _MILLION

    def bought(self, prompts: Sequence[Prompt], budget: float) -> int:
        """Return how many of `prompts`, from the first on, cost no more than `budget`."""
        cost = 0.0
        for number, prompt in enumerate(prompts):
            cost += self.of([prompt])
            if cost > budget * (1 + 1e-12):
                return number
        return len(prompts)


def shipped_prompts(language: str | None = None) -> list[Prompt]:
    """Return the shipped probe prompts in their order, of one language or of all."""
    rows = resources.shipped(SHIPPED).read_text(encoding="utf-8").splitlines()
    found = [json.loads(row) for row in rows]
    return [
        Prompt(id=row["id"], prompt=row["prompt"], language=row["language"])
        for row in found
        if language in (None, row["language"])
    ]


def bank_prompts(bank: Bank, index: Index, *, seed: int) -> list[Prompt]:
    """Return a bank's prompts in the order in which `power` takes them.

    Raises:
        InputError: the bank's files hold ids without the prompts' texts.
    """
    text: dict[str, str] = {}
    for name in index.teachers:
        for row in bank.answers(name).values():
            if row.prompt.strip():
                text.setdefault(row.id, row.prompt)
    ordered = [index.prompts[place] for place in order(index, seed)]
    missing = [id for id in ordered if id not in text]
    if missing:
        raise InputError(
            f"{bank.path}: {len(missing):,} prompts have an id alone, {missing[0]!r} for one; put "
            "their text under 'prompt' in a teacher's answers."
        )
    return [Prompt(id=id, prompt=text[id]) for id in ordered]


def order(index: Index, seed: int) -> list[int]:
    """Return the prompts' places in a random order, of which each count takes the first."""
    return [int(p) for p in np.random.default_rng(seed).permutation(len(index.prompts))]


def write(path: Path, prompts: Sequence[Prompt]) -> None:
    """Write prompts to ask, one JSON object a line; an answers file adds "response" to each.

    Raises:
        AuditError: the place cannot be written.
    """
    lines = [json.dumps({"id": p.id, "prompt": p.prompt}, ensure_ascii=False) for p in prompts]
    write_text(path, "".join(line + "\n" for line in lines))
