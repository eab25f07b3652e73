"""What is read in a run, and who teaches which of it.

Documents become windows of the student's tokens; a window's tag, where teachers name tags, says
whose it is, and `Reading` is given a route for every set of teachers.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from distill.batches import Array
from distill.config import RunConfig
from distill.errors import InputError, MismatchError
from distill.lessons.scored import windows as in_windows
from distill.lessons.written import Written
from distill.rollout.scoring import Share, route
from distill.signals import Sparse
from distill.text import corpus, sources
from distill.text.corpus import Passage, Windows
from distill.text.sources import SEEDS, Document, is_seed
from student.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """The text of a run: packed windows of both sides, and what is set aside for questions.

    Attributes:
        sha256: of all documents.
        tags: that teachers name; `Windows.tag` counts in this list.
        train_documents: in the order they were packed in.
        scored: signals of the last windows of `train`, which are a teacher's scored answers, by
            the teacher's number; their tag is `scored_tag` of it.
        held_documents: the same of the held-out side, of which `held` may be a part.
        passages: held-out prompts with what truly follows.
        prompts: held-out prompts to be answered.
    """

    sha256: str
    tags: tuple[str, ...]
    train_documents: list[Document]
    held_documents: list[Document]
    scored: dict[int, Sparse]
    train: Windows
    held: Windows
    passages: list[Passage]
    prompts: list[str]


def scored_tag(teacher: int) -> int:
    """Return what stands in `Windows.tag` for a teacher's scored answers."""
    return -2 - teacher


class Sides(NamedTuple):
    """The documents of a run, before teachers wrote any."""

    train: list[Document]
    held: list[Document]


def load(config: RunConfig) -> Sides:
    """Return the documents that `config` names, split.

    Where a teacher answers the shipped seeds they are learnt as chats, and not as bare text too.

    Raises:
        InputError: a source is missing, malformed, or too short.
    """
    train, held = corpus.split(sources.load(config.text.sources), config.text.held_out)
    if any(one.answers is not None and one.answers.prompts == SEEDS for one in config.teachers):
        train = [document for document in train if not is_seed(document)]
    return Sides(train, held)


def read(
    config: RunConfig, sides: Sides, tokenizer: Any, vocabulary: Vocabulary, written: Written
) -> Text:
    """Return the run's text, packed.

    Args:
        config: the run's.
        sides: the documents that it names.
        tokenizer: the student's.
        vocabulary: the student's.
        written: what teachers wrote for the training side.

    Raises:
        InputError: it is too short, a chat does not fit the tokenizer's template, or no scored
            answer fits a window.
    """
    train_documents, held_documents = [*sides.train, *written.documents], sides.held
    if (most := config.text.most_tokens) is not None:
        train_documents = corpus.at_most(train_documents, tokenizer, most)
    length, wanted = config.text.sequence_length, config.evaluate
    tags = tuple(sorted({tag for teacher in config.teachers for tag in teacher.tags}))
    apart = config.text.documents == "apart"
    held = corpus.pack(held_documents, tokenizer, length, tags=tags, apart=apart)
    few = corpus.evenly(len(held.tokens), max(1, wanted.tokens // length))
    train = [corpus.pack(train_documents, tokenizer, length, tags=tags, apart=apart)]
    scored = {}
    for teacher, rows in written.scored.items():
        tag = scored_tag(teacher)
        windows, scored[teacher] = in_windows(rows, length, pad=vocabulary.eos, tag=tag)
        if not windows.weights.any():
            raise InputError(
                f"no answer of teacher {config.teachers[teacher].name!r} begins within {length} "
                "tokens of its prompt's beginning; shorten the prompts or raise "
                "text.sequence_length."
            )
        train.append(windows)
    return Text(
        sha256=corpus.text_digest([*train_documents, *held_documents]),
        tags=tags,
        train_documents=train_documents,
        held_documents=held_documents,
        scored=scored,
        train=train[0] if len(train) == 1 else corpus.joined(train),
        held=held.take(few),
        passages=corpus.passages(
            held_documents,
            tokenizer,
            count=wanted.probe_prompts,
            prompt=wanted.prompt_tokens,
            continuation=wanted.continuation_tokens,
        ),
        prompts=[d.text for d in held_documents if is_seed(d)],
    )


def shares(config: RunConfig, text: Text, windows: Windows) -> dict[int, tuple[Share, ...]]:
    """Return who teaches the windows of each tag (by its number).

    Scored answers are their writer's; everything else is shared by the teachers that read.

    Raises:
        MismatchError: a tag has no teacher, or teachers are to be mixed that cannot be.
    """
    scored: dict[int, tuple[Share, ...]]
    scored = {scored_tag(number): (Share(number, 1.0),) for number in text.scored}
    # All tags of the text, of which a few held-out windows may lack some.
    numbers = sorted({*range(len(text.tags)), *windows.tag[windows.tag >= -1].tolist()})
    name = dict(enumerate(text.tags)) | {-1: ""}
    reading = [teacher for teacher in config.teachers if teacher.reads]
    if not reading:
        return dict.fromkeys(numbers, ()) | scored
    found = route([name[number] for number in numbers], reading)
    place = {number: config.teachers.index(teacher) for number, teacher in enumerate(reading)}
    made = {
        number: tuple(Share(place[s.teacher], s.weight) for s in found[name[number]])
        for number in numbers
    }
    _require_mixable(config, made)
    return made | scored


def _require_mixable(config: RunConfig, shared: dict[int, tuple[Share, ...]]) -> None:
    """Refuse teachers of the same text whose signals cannot be mixed, as only exact ones can."""
    mixed = [share.teacher for who in shared.values() if len(who) > 1 for share in who]
    if mixed and config.signal.mode != "hidden":
        raise MismatchError(
            f"several teachers teach the same text, and signal.mode {config.signal.mode} cannot be "
            "mixed; set signal.mode: hidden, or give the teachers tags."
        )
    for number in mixed:
        if config.teachers[number].path is None:
            raise MismatchError(
                f"teacher {config.teachers[number].name!r} is served and gives no hidden states, "
                "so it cannot be mixed with another; give the teachers tags."
            )


def taught_by(windows: Windows, shared: dict[int, tuple[Share, ...]], teacher: int) -> Array:
    """Return which windows a teacher teaches, increasing."""
    mine = [number for number, who in shared.items() if teacher in (s.teacher for s in who)]
    (chosen,) = np.nonzero(np.isin(windows.tag, mine))
    return chosen
