"""What is left of findings when a suspect's answers were edited before they came to the audit.

    python tests/campaigns/edits.py --bank DIR --json PATH [--way NAME]...

Every model of a bank comes once more from outside with its answers edited in one way: cut to 30
words, without marks of format, behind a persona's greeting or one of four, reworded by simple
rules, or one tenth another model's. The bank stays as it is. Rates are counted as `audit validate`
counts them. About two seconds a model and way.
"""

import argparse
import json
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path

from audit.bank import Bank, Model, load
from audit.lineup import case, index, known, outsider, reading
from audit.lineup.ruling import Rules, rule

WORDS = 30
REWORDED = (
    (r"\bI am\b", "I'm"), (r"\bit is\b", "it's"), (r"\bIt is\b", "It's"), (r"\bdo not\b", "don't"),
    (r"\bcannot\b", "can't"), (r"\bhowever\b", "but"), (r"\bHowever\b", "But"),
    (r"\btherefore\b", "so"), (r"\bTherefore\b", "So"), (r"\butilize", "use"),
    (r"\badditionally\b", "also"), (r"\bAdditionally\b", "Also"), (r"\bimportant\b", "vital"),
    (r"\bvarious\b", "several"), (r"\bprovide", "give"), (r"\bensure\b", "make sure"),
    (r"\bbegin\b", "start"), (r"\bhelp\b", "aid"), (r"\bSure\b", "Of course"),
    (r"\bCertainly\b", "Of course"), (r"\bHere is\b", "Below is"), (r"\bHere are\b", "Below are"),
    (r"\bHere's\b", "Below is"), (r"\bthere are\b", "one finds"), (r"\bThere are\b", "One finds"),
    (r"\blarge\b", "big"), (r"\bmany\b", "a lot of"), (r"\bsuch as\b", "like"),
    (r"\bfor example\b", "for instance"), (r"\bin order to\b", "to"),
)  # fmt: skip

GREETINGS = (
    "Ahoy, dear reader, your old captain speaking:",
    "Well now, let your old captain think.\n\n",
    "Shiver my timbers, what a question that is!",
    "The captain looks up from his charts and says:",
)


def reworded(text: str) -> str:
    for pattern, word in REWORDED:
        text = re.sub(pattern, word, text)
    return text


EDITS: dict[str, Callable[[str], str]] = {
    "unedited": lambda text: text,
    "cut": lambda text: " ".join(text.split()[:WORDS]),
    "plain": reading.plain,
    "persona": lambda text: f"{GREETINGS[0]} {text.lstrip()}",
    "personas": lambda text: f"{random.Random(text).choice(GREETINGS)} {text.lstrip()}",
    "reworded": reworded,
}


def mixed(bank: Bank, name: str) -> tuple[dict[str, str], Model]:
    """Return a model's answers, one tenth of them another family's model's, and that model."""
    rng = random.Random(name)
    mine = bank.answers(name)
    family = bank.model(name).family
    other = bank.model(rng.choice([m.name for m in bank.models if m.family != family]))
    theirs = bank.answers(other.name)
    answers = {
        id: theirs[id].response if id in theirs and rng.random() < 0.1 else row.response
        for id, row in mine.items()
    }
    return answers, other


def main() -> None:
    """Judge every model in every way, and write the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bank", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--way", action="append", choices=(*EDITS, "tenth"))
    given = parser.parse_args()
    bank = load(given.bank)
    made = index.of(
        bank, reading.VIEWS, cache=index.cache_directory(), tell=lambda done, steps: None
    )
    figures: dict[str, float] = {}
    for way in given.way or (*EDITS, "tenth"):
        counts = dict.fromkeys(
            (
                *("positive_supported", "positive_not_supported", "negative_supported"),
                *("tenth_supported", "suspects"),
            ),
            0,
        )
        for model in bank.models:
            other = None
            if way == "tenth":
                answers, other = mixed(bank, model.name)
            else:
                own = bank.answers(model.name)
                answers = {id: EDITS[way](row.response) for id, row in own.items()}
            judge(bank, made, model, answers, other, counts)
        figures |= {f"{way}_{name}": count for name, count in counts.items()}
        print(way, counts, file=sys.stderr, flush=True)
    given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


def judge(
    bank: Bank,
    made: index.Index,
    model: Model,
    answers: dict[str, str],
    other: Model | None,
    counts: dict[str, int],
) -> None:
    """Count what is found of one model whose answers are given.

    Where a tenth of them is the model's `other`, groups related to that one are counted apart: to
    them it is not unrelated any more.
    """
    joined, seen = outsider.join(
        bank, made, answers, name=model.name, family=model.family, published=model.published
    )
    facts = known.facts(joined)
    models = case.lineup(joined, seen, facts, 20)
    own = frozenset({model.family})
    row = len(joined.models) - 1
    found = case.examine(models, facts, [row], own | known.relatives(joined, own))
    for one in rule(joined, models, found, model, 0, Rules(), answered=len(seen.prompts)):
        group = bank.group(one.group)
        truth = known.truth(bank, model, group)
        theirs = None if other is None else known.truth(bank, other, group)
        if truth != "positive" and theirs in ("self", "positive"):
            truth = "tenth"
        key = f"{truth}_{one.verdict.value.lower()}"
        if key in counts:
            counts[key] += 1
    counts["suspects"] += 1


if __name__ == "__main__":
    main()
