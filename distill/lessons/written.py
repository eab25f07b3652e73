"""What teachers write for the student to learn from: answers to the run's prompts.

Text alone is read like any other text. A server that gives its likeliest tokens beside the text is
heard twice: its answers are the text, and what it held likely at each place is the signal. Workers
that share the signals ask in turn, so each finds what the first of them was answered.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from audit.attest import digest, file_digest
from distill.config import AnswersConfig, TeacherConfig
from distill.errors import InputError
from distill.lessons import tally
from distill.lessons.scored import Scored, learnt
from distill.lessons.tally import Taken, Tally
from distill.resources import shipped
from distill.rollout import rejection
from distill.rollout.config import Anything
from distill.rollout.rejection import Question
from distill.session import Session
from distill.teachers.endpoint import EndpointTeacher
from distill.teachers.local import LocalTeacher, write
from distill.teachers.served import cut_short, log_sha256, served, turn
from distill.text import chat, sources
from distill.text.corpus import evenly
from distill.text.sources import Document

_ACCEPTED = "accepted.jsonl"
# Not the run's: runs that share signal.path share what teachers wrote, as they share signals.
_SEED = 0


def questions(config: AnswersConfig, held: Sequence[Document] = ()) -> list[Question]:
    """Return the prompts a teacher is asked, with references where answers are checked.

    Args:
        config: names the prompts.
        held: documents that are held out; a prompt that is one of them is not asked.

    Raises:
        InputError: the file cannot be read, a row lacks what is needed, or all are held out.
    """
    checked = not all(isinstance(one, Anything) for one in config.select.checkers)
    seeds = config.prompts == sources.SEEDS
    path = shipped(sources.SEEDS_FILE) if seeds else Path(config.prompts)
    found = rejection.read_questions(path, answered=checked)
    held_texts = {document.text for document in held}
    asked = [question for question in found if question.prompt not in held_texts]
    if found and not asked:
        raise InputError(f"{config.prompts}: every prompt is held out; lower text.held_out.")
    most = len(asked) if config.most_prompts is None else config.most_prompts
    return [asked[place] for place in evenly(len(asked), most)]


@dataclass(frozen=True, slots=True)
class LocalWriter:
    """A teacher on disk that answers."""

    teacher: LocalTeacher
    config: AnswersConfig

    def write(self, prompts: Sequence[str], seed: int) -> list[str]:
        """Return an answer to each prompt; the same ones for the same prompts and seed."""
        begun = [_begun(self.teacher.tokenizer, prompt, self.config) for prompt in prompts]
        config = self.config
        return write(self.teacher, begun, config.max_new_tokens, config.temperature, seed=seed)

    def effort(self, asked: Sequence[Question], out: Path) -> Taken:
        """Return what the answers in `out` took, by the teacher's tokenizer.

        It cuts a text anew, maybe into fewer tokens than were drawn; an end token counts as one.
        """
        tokenizer, most = self.teacher.tokenizer, self.config.max_new_tokens
        bos = tokenizer.bos_token_id  # which `write` puts before what does not begin with it
        begun = [_begun(tokenizer, one.prompt, self.config) for one in asked]
        prompts = dict(zip((q.id for q in asked), _lengths(tokenizer, begun, bos), strict=True))
        answers = rejection.answered(out)[: self.config.select.samples * len(asked)]
        lengths = _lengths(tokenizer, [answer.response for answer in answers])
        return Taken(
            cut=sum(length >= most for length in lengths),
            read=sum(prompts[answer.id] for answer in answers),
            written=sum(min(length + 1, most) for length in lengths),
        )


def _lengths(tokenizer: Any, texts: list[str], bos: int | None = None) -> list[int]:
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [len(row) + (bos is not None and row[:1] != [bos]) for row in rows]


@dataclass(frozen=True, slots=True)
class ServedWriter:
    """A served teacher that answers; the server puts prompts into its own template."""

    teacher: EndpointTeacher
    config: AnswersConfig

    def write(self, prompts: Sequence[str], seed: int) -> list[str]:
        """Return an answer to each prompt; those in the log come from there."""
        config = self.config
        # Servers take seeds of 32 bits; one that honours none still gives what its log has.
        return self.teacher.answer(
            prompts,
            max_tokens=config.max_new_tokens,
            temperature=config.temperature,
            seed=seed % 2**31,
        )

    def effort(self, asked: Sequence[Question], out: Path) -> Taken:
        """Return what the log says; of tokens the server keeps count itself."""
        return Taken(cut=cut_short(self.teacher.endpoint))


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What all teachers wrote.

    Attributes:
        documents: of the training side.
        scored: by the number of the teacher.
    """

    documents: list[Document]
    scored: dict[int, list[Scored]]


def gather(
    session: Session,
    tokenizer: Any,
    paths: Sequence[Path | None],
    held: Sequence[Document],
) -> Written:
    """Return what the teachers that write have written, asking for what is not on disk.

    Args:
        session: of the run; what another run with its signal.path was told is not asked again.
        tokenizer: the student's.
        paths: of the teachers on disk, None for the served.
        held: documents that are held out, and so no prompts.

    Raises:
        InputError: a prompt file cannot be used, or no answer was accepted.
        TeacherError, EndpointError, BudgetError: a teacher cannot be asked.
    """
    found, scored = [], {}
    for number, (config, path) in enumerate(zip(session.config.teachers, paths, strict=True)):
        place = session.place(config.name)
        if config.answers is None:
            continue
        asked = questions(config.answers, held)
        if path is not None:
            teacher = LocalTeacher(config.name, path, device=session.device, dtype=torch.float32)
            writer = LocalWriter(teacher, config.answers)
            sha256 = teacher.sha256
            with turn(place, config.name, session.say):
                found += documents(session, config, asked, writer, place, teacher_sha256=sha256)
            continue
        assert config.endpoint is not None
        with served(session, config, tokenizer, place) as server:
            if config.says == "top_logprobs":
                scored[number] = _with_top(session, config, asked, server, tokenizer)
                continue
            sha256 = digest([config.endpoint.base, config.endpoint.model, config.endpoint.system])
            answering = ServedWriter(server, config.answers)
            found += documents(session, config, asked, answering, place, teacher_sha256=sha256)
    return Written(documents=found, scored=scored)


def _with_top(
    session: Session,
    config: TeacherConfig,
    asked: Sequence[Question],
    teacher: EndpointTeacher,
    tokenizer: Any,
) -> list[Scored]:
    """Return one answer to each prompt with the teacher's likeliest tokens."""
    assert config.answers is not None
    answers = config.answers
    found = teacher.answer_with_top(
        [question.prompt for question in asked],
        max_tokens=answers.max_new_tokens,
        temperature=answers.temperature,
        seed=_SEED,
        tell=lambda done, total: session.progress("answers", done, total, config.name),
    )
    rows, kept, cut = [], 0, 0
    length = session.config.text.sequence_length
    for question, answer in zip(asked, found, strict=True):
        ids = tokenizer(_begun(tokenizer, question.prompt, answers), add_special_tokens=False)
        prompt = ids["input_ids"]
        if prompt[:1] != [tokenizer.bos_token_id]:
            prompt = [tokenizer.bos_token_id, *prompt]
        if not answer.tokens:
            continue
        row = Scored(tokens=(*prompt, *answer.tokens), first=len(prompt), signal=answer.signal)
        rows.append(row)
        room = learnt(row, length)
        kept += room > 0
        cut += room < len(answer.tokens) or answer.cut > 0 or not answer.finished
    if not rows:
        raise InputError(f"{answers.prompts}: {config.name!r} answered nothing to any prompt.")
    counted = Tally(
        sha256=log_sha256(session.place(config.name)),
        asked=len(asked),
        kept=kept,
        rejected=len(asked) - len(rows),
        dropped=len(rows) - kept,
        cut=cut,
    )
    tally.keep(session, config, counted)
    return rows


def _begun(tokenizer: Any, prompt: str, config: AnswersConfig) -> str:
    if config.form == "text":
        return prompt
    return chat.begin(tokenizer, ({"role": "user", "content": prompt},))


def documents(
    session: Session,
    config: TeacherConfig,
    asked: Sequence[Question],
    writer: LocalWriter | ServedWriter,
    place: Path,
    *,
    teacher_sha256: str,
) -> list[Document]:
    """Return what is kept of a teacher's answers, asking for those that are not on disk.

    Args:
        session: of the run.
        config: the teacher's; has answers.
        asked: the prompts.
        writer: who answers.
        place: of the teacher's files.
        teacher_sha256: of the teacher.

    Raises:
        InputError: no answer was accepted.
        MismatchError: answers on disk are of another teacher, prompts or settings.
        StorageError: the disk refused.
    """
    assert config.answers is not None
    answers = config.answers
    out = place / "answers"
    summary = rejection.sample(
        asked,
        writer,
        answers.select,
        out,
        teacher_sha256=digest(
            [teacher_sha256, answers.form, answers.max_new_tokens, answers.temperature]
        ),
        seed=_SEED,
        progress=lambda done, total: session.progress("answers", done, total, config.name),
    )
    if not summary.kept:
        raise InputError(
            f"{answers.prompts}: none of the {summary.answers} answers of {config.name!r} was "
            f"accepted; look at {out / 'answers.jsonl'} and the checkers."
        )
    taken = writer.effort(asked, out)
    counted = tally.of_samples(summary, taken, file_digest(out / _ACCEPTED))
    without = f"; {summary.prompts_without:,} of {summary.prompts:,} prompts without one"
    tally.keep(session, config, counted, without)
    found = sources.load([str(out / _ACCEPTED)])
    return found if answers.form == "chat" else [_plain(document) for document in found]


def _plain(document: Document) -> Document:
    """Return a question and its answer as one text."""
    text = "".join(str(message["content"]) for message in document.messages)
    return replace(document, text=text, messages=())
