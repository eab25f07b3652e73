"""What is in a bank, counted: answers, gaps, twins, prompts in common, pairs of known truth.

An answer counts as cut off where its file gives `finish_reason` "length"; where it gives none, if
it leaves a code block open, or is longer than the model's median and ends in a word or a comma.
(Of 400 answers each of 135 real models it counts 5 for the median model and 90 at most. A rule on
the longest answers alone counts next to none: a limit of tokens is none of words.)
"""

import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from audit.bank import Bank, Model, answer_files, listed
from audit.banks import rows, signs
from audit.responses import Response

SCHEMA = "spiritsafe.bank/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCounts:
    """What one model's file holds.

    Attributes:
        repeated: answers that are letter for letter the answer to an earlier prompt.
        refused: answers that begin like a refusal, by a few rules in English and Chinese.
        cut_off: answers that seem to stop before their end.
        mean_words: over the answers that are not empty; None if there are none.
    """

    model: str
    family: str
    role: str
    group: str | None
    answers: int
    empty: int
    repeated: int
    refused: int
    cut_off: int
    mean_words: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PairCounts:
    """How many (suspect, group) pairs have this truth on this basis."""

    truth: str
    basis: str
    pairs: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Twins:
    """Two models that say the same, letter for letter, at more than half of the prompts they share.

    Attributes:
        same: prompts with the same answer.
        prompts: prompts that both answer; an empty answer is none.
    """

    model: str
    other: str
    same: int
    prompts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """The card of a bank.

    Attributes:
        prompts: prompts that any model was asked.
        common_prompts: prompts that every model was asked.
        notes: what a user should look into, a sentence each.
    """

    path: str
    sha256: str
    families: int
    groups: int
    prompts: int
    common_prompts: int
    models: tuple[ModelCounts, ...]
    pairs: tuple[PairCounts, ...]
    twins: tuple[Twins, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Gathered:
    """What is kept of every model's file: ids, and hashes of texts in place of the texts."""

    asked: dict[str, set[str]] = field(default_factory=dict)  # ids by model
    said: dict[str, dict[str, int]] = field(default_factory=dict)  # by model and id, if not empty
    worded: dict[str, set[int]] = field(default_factory=dict)  # the prompts under one id

    def add(self, model: str, answers: Collection[Response]) -> None:
        self.asked[model] = {row.id for row in answers}
        self.said[model] = {row.id: hash(row.response) for row in answers if row.response.strip()}
        for row in answers:
            if row.prompt:
                self.worded.setdefault(row.id, set()).add(hash(row.prompt))


def describe(bank: Bank) -> Description:
    """Count what a bank holds, with one model's answers in memory at a time.

    Raises:
        InputError: an answers file cannot be used.
    """
    gathered = _Gathered()
    counts = []
    for model in bank.models:
        answers = bank.answers(model.name)
        counts.append(_counts(model, answers, _finish_reasons(bank, model.name)))
        gathered.add(model.name, answers.values())
    return Description(
        path=str(bank.path),
        sha256=bank.sha256(),
        families=len({model.family for model in bank.models}),
        groups=len(bank.groups),
        prompts=len(set.union(*gathered.asked.values())),
        common_prompts=len(set.intersection(*gathered.asked.values())),
        models=tuple(counts),
        pairs=_pairs(bank),
        twins=tuple(_twins(gathered.said)),
        notes=tuple(_notes(bank, gathered)),
    )


def to_json(description: Description) -> dict[str, Any]:
    """Return a description as the object that `--json` prints."""
    return {"schema": SCHEMA, **asdict(description)}


def _counts(
    model: Model, answers: Mapping[str, Response], reasons: Mapping[str, str]
) -> ModelCounts:
    texts = {row.id: row.response for row in answers.values() if row.response.strip()}
    lengths = {name: signs.words(text) for name, text in texts.items()}
    return ModelCounts(
        model=model.name,
        family=model.family,
        role=model.role,
        group=model.group,
        answers=len(answers),
        empty=len(answers) - len(texts),
        repeated=_repeated(answers.values()),
        refused=sum(map(signs.refuses, texts.values())),
        cut_off=_cut_off(texts, lengths, reasons),
        mean_words=statistics.fmean(lengths.values()) if lengths else None,
    )


def _repeated(answers: Collection[Response]) -> int:
    """Return how many answers were given before, to another prompt."""
    prompts: dict[str, set[str]] = defaultdict(set)
    for row in answers:
        if row.response.strip():
            prompts[row.response].add(row.prompt or row.id)
    return sum(len(found) - 1 for found in prompts.values())


def _cut_off(
    texts: Mapping[str, str], lengths: Mapping[str, int], reasons: Mapping[str, str]
) -> int:
    median = statistics.median(lengths.values()) if lengths else 0
    return sum(
        reasons[name] == "length"
        if name in reasons
        else signs.code_left_open(text) or (lengths[name] > median and signs.breaks_off(text))
        for name, text in texts.items()
    )


def _finish_reasons(bank: Bank, model: str) -> dict[str, str]:
    """Return why each answer ended, where the file says it."""
    found = {}
    for item in rows.items(bank.files[model], having=b'"finish_reason"'):
        if isinstance(item.row.get("finish_reason"), str):
            found[str(item.row["id"])] = item.row["finish_reason"]
    return found


def _pairs(bank: Bank) -> tuple[PairCounts, ...]:
    counted = Counter((truth.truth, truth.basis) for truth in bank.truths.values())
    return tuple(
        PairCounts(truth=truth, basis=basis, pairs=pairs)
        for (truth, basis), pairs in sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    )


def _twins(said: Mapping[str, Mapping[str, int]]) -> Iterator[Twins]:
    """Yield the pairs of models with the same answer to most prompts, in the order of the bank."""
    speakers: dict[tuple[str, int], list[str]] = defaultdict(list)
    for model, answers in said.items():
        for place in answers.items():
            speakers[place].append(model)
    same = Counter(
        pair for models in speakers.values() for pair in itertools.combinations(models, 2)
    )
    order = {model: place for place, model in enumerate(said)}
    for (model, other), count in sorted(same.items(), key=lambda e: [order[m] for m in e[0]]):
        prompts = len(said[model].keys() & said[other].keys())
        if 2 * count > prompts:
            yield Twins(model=model, other=other, same=count, prompts=prompts)


def _notes(bank: Bank, gathered: _Gathered) -> Iterator[str]:
    silent = [model for model, asked in gathered.asked.items() if not asked]
    if silent:
        yield f"{listed(silent)}: the answers file has no row, so no prompt is common to all."
    unlisted = [name for name in answer_files(bank.path) if name not in bank.files]
    if unlisted:
        yield f"{listed(unlisted)}: answers without a line in models.csv; they are not used."
    reworded = [name for name, prompts in gathered.worded.items() if len(prompts) > 1]
    if reworded:
        yield (
            f"{len(reworded):,} ids ({listed(reworded)}) stand for another prompt in another "
            "file; answers are matched by id, so these compare answers to different questions."
        )
    known = {group.name for group in bank.groups}
    unknown = {teacher: None for m in bank.models for teacher in m.teachers if teacher not in known}
    if unknown:
        yield (
            f"{listed(list(unknown))}: documented as teachers and no groups of this bank, so "
            "nothing can be found about them."
        )
